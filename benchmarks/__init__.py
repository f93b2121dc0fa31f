"""What is measured: one module a question. How it is measured is tlbench's business.

asv imports this package in the environment of the TransformerLens under test, where tlbench is not installed: it is
found in the repository. No hub is ever asked from there. Neither torch nor TransformerLens is imported here: this process
reads figures, and what must be measured is measured by a server apart (tlbench/execution/server.py).
"""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
