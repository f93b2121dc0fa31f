"""What is measured: one module per question. How it is measured is up to tlbench.

asv imports this package in the environment of the TransformerLens under test, where tlbench is imported from the
repository. Nothing here contacts the hub. This process imports neither torch nor TransformerLens: it reads figures, and a
fork server measures them (tlbench/execution/server.py).
"""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
