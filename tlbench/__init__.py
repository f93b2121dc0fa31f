"""Measure how far TransformerLens's numbers are from HuggingFace's.

>>> from tlbench import Cell
>>> from tlbench.questions.accuracy import measure
>>> measure(Cell("zoo-gpt2", "float16", "all_options", "TransformerBridge")).require_accuracy().logit.max

The library runs in the environment of the TransformerLens under test and knows nothing of asv; the direction of
dependence is catalogue, checkpoint, model, logits, errors, record. Importing this package imports no torch. It sets the
environment variables of the shared arithmetic, where torch is not imported yet and ``$TLBENCH_ARITHMETIC`` does not say
``native``: so import it before torch.
"""

from tlbench import arithmetic
from tlbench.exceptions import BadInput, CellFailed, NotApplicable, TlbenchError
from tlbench.grid import Attention, Cell, Dtype, Option, ReferenceCell, Space, Statistic, Wrapper

arithmetic.prepare()

__all__ = [
    "Attention",
    "BadInput",
    "Cell",
    "CellFailed",
    "Dtype",
    "NotApplicable",
    "Option",
    "ReferenceCell",
    "Space",
    "Statistic",
    "TlbenchError",
    "Wrapper",
]
