"""Measure how far TransformerLens's numbers are from HuggingFace's.

>>> from tlbench import Cell
>>> from tlbench.questions.accuracy import measure
>>> measure(Cell("zoo-gpt2", "float16", "all_options", "TransformerBridge")).require_accuracy().logit.max

The library runs in the environment of the TransformerLens under test and knows nothing of asv. Import it before torch: it
imports no torch, and sets the environment variables of the shared arithmetic unless ``$TLBENCH_ARITHMETIC`` is ``native``.
"""

from tlbench import arithmetic
from tlbench.exceptions import BadInput, CellFailed, NotApplicable, TlbenchError
from tlbench.grid import Attention, Cell, Dtype, Option, ReferenceCell, Space, Statistic, Wrapper

arithmetic.prepare()

__all__ = ["BadInput", "CellFailed", "NotApplicable", "TlbenchError"]
__all__ += ["Attention", "Cell", "Dtype", "Option", "ReferenceCell", "Space", "Statistic", "Wrapper"]
