"""The role of each parameter of a transformers model, and how a parameter of that role is drawn.

A role is recognised from the parameter's module, its name, its shape and the constant that transformers initialises it to. A
parameter that no rule recognises has no role, and is never drawn as if it had one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from math import prod, sqrt
from typing import Any

from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from tlbench.arithmetic.draws import Draw, Shape
from tlbench.checkpoints.zoo import ATTENTION_SCALE, LOGIT_SCALE, OFFSET_SCALE, OUTLIER, RESIDUAL_SCALE


class Role(StrEnum):
    """What a parameter is for."""

    GAIN = "norm gain"
    GAIN_LESS_ONE = "norm gain stored less one"
    NORM_BIAS = "norm bias"
    QUERY_KEY_GAIN = "gain of a norm of queries or keys"
    QUERY_KEY_GAIN_LESS_ONE = "gain of a norm of queries or keys, stored less one"
    BIAS = "bias"
    EMBEDDING = "embedding"
    TIED_EMBEDDING = "embedding that is also the unembedding"
    TABLE = "embedding of positions or token types"
    UNEMBEDDING = "unembedding"
    QUERY_KEY = "projection to queries or keys"
    READING = "projection that reads the residual stream"
    WRITING = "projection that writes to the residual stream"
    INNER = "projection off the residual stream"
    CONVOLUTION = "convolution"
    ROUTER = "router"
    CORRECTION = "bias that corrects a router's choice"
    SINK = "attention sink"
    SCALE = "multiplier"
    DECAY = "logarithm of a decay rate"
    TIME_STEP = "bias of a time step"
    RECURRENCE = "recurrence gate"
    MIX = "mix of a token and the one before"
    STATE = "initial state"
    ACTIVATION = "parameter of an activation function"
    EXPERT_TABLE = "table of each token's experts"
    CONSTANT = "constant of the architecture, kept as it is"


@dataclass(frozen=True)
class Sizes:
    """The sizes by which parameters are told apart.

    Attributes:
        d_model: the width of the residual stream.
        d_vocab: the number of tokens.
        n_experts: the number of routed experts; 0 for none.
    """

    d_model: int
    d_vocab: int
    n_experts: int = 0


@dataclass(frozen=True)
class Parameter:
    """One parameter or persistent buffer of a model.

    Attributes:
        name: its name in the model's ``state_dict``.
        module: what holds it.
        initial: its value as transformers initialises it.
        is_unembedding: whether it belongs to the output embeddings, and ``is_tied`` whether it is an input embedding too.
    """

    name: str
    module: nn.Module
    initial: Tensor
    is_unembedding: bool = False
    is_tied: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape."""
        return tuple(self.initial.shape)

    @property
    def attribute(self) -> str:
        """Its name in its module, such as ``weight``."""
        return self.name.rpartition(".")[2]

    @property
    def path(self) -> list[str]:
        """The names of the modules around it, without numbers, the outermost first."""
        return [part for part in self.name.split(".")[:-1] if not part.isdigit()]

    @property
    def owner(self) -> str:
        """The name of its module, such as ``q_proj``; of a stack of experts its own, such as ``down_proj``."""
        is_stack = self.attribute not in ("weight", "bias") and len(self.shape) >= 2
        return self.attribute.removesuffix("_bias") if is_stack or not self.path else self.path[-1]

    def is_all(self, value: float) -> bool:
        """Whether transformers initialises every entry to this value."""
        return bool((self.initial == value).all())


# Recognising ---------------------------------------------------------------------------------------------------------

BY_ATTRIBUTE: Mapping[str, Role] = {
    **dict.fromkeys(("A_log",), Role.DECAY),
    **dict.fromkeys(("dt_bias",), Role.TIME_STEP),
    **dict.fromkeys(("time_decay", "time_first"), Role.DECAY),
    **dict.fromkeys(("time_mix_key", "time_mix_value", "time_mix_receptance"), Role.MIX),
    **dict.fromkeys(("recurrent_param",), Role.RECURRENCE),
    **dict.fromkeys(("D", "layer_scalar", "per_expert_scale", "correct_output_scale", "hc_scale", "scale"), Role.SCALE),
    **dict.fromkeys(("e_score_correction_bias", "expert_bias"), Role.CORRECTION),
    **dict.fromkeys(("sinks",), Role.SINK),
    **dict.fromkeys(("z_L_init", "probe"), Role.STATE),
    **dict.fromkeys(("alpha_p", "alpha_n"), Role.ACTIVATION),
    **dict.fromkeys(("input_gate_weight", "recurrent_gate_weight", "fn", "hc_fn", "in_proj_weight"), Role.INNER),
    **dict.fromkeys(("position_embedding_table", "pos_embedding"), Role.TABLE),
    **dict.fromkeys(("input_gate_bias", "recurrent_gate_bias", "base", "hc_base", "position_bias"), Role.BIAS),
    **dict.fromkeys(("tid2eid",), Role.EXPERT_TABLE),
}
"""Names of parameters that say their role."""
CONSTANTS: Mapping[str, tuple[str, ...]] = {
    "XIELUActivation": ("beta", "eps"),
    **dict.fromkeys(("MarianSinusoidalPositionalEmbedding", "PegasusSinusoidalPositionalEmbedding"), ("weight",)),
}
"""What is stored or computed and never trained, by the class of its module."""
NORM_WORDS = ("norm", "ln_", "layernorm")
QUERY_KEY_NORMS = (
    "q_norm",
    "k_norm",
    "query_norm",
    "key_norm",
    "q_layernorm",
    "k_layernorm",
    "query_layernorm",
    "key_layernorm",
)
QUERY_KEY = ("q_proj", "k_proj", "query", "key", "q_b_proj", "wq_b", "q", "k", "query_global", "key_global")
ROUTERS = ("gate", "router", "router_proj")
WRITES = (
    *("o_proj", "out_proj", "dense", "c_proj", "wo", "down_proj", "w2", "fc2", "fc_out", "dense_4h_to_h", "output_linear"),
    *("out_lin", "o_b_proj", "linear", "linear_out", "output", "value_out", "Wo"),
)
"""Names of projections that write to the residual stream. They decide where the shape does not."""
READS = (
    *("q_proj", "k_proj", "v_proj", "g_proj", "qkv_proj", "query", "key", "value", "query_key_value", "c_attn", "Wqkv"),
    *("gate_up_proj", "up_proj", "gate_proj", "w1", "w3", "fc1", "fc_in", "c_fc", "in_proj", "input_linear", "receptance"),
    *("z_proj", "a_proj", "b_proj", "linear_x", "linear_y", "gate", "query_global", "key_global", "value_global"),
)
"""Names of projections that read it."""


def role_of(parameter: Parameter, sizes: Sizes) -> Role | None:
    """The role of a parameter, or None if no rule recognises it."""
    for rule in (_constant, _named, _of_embedding, _of_norm, _of_convolution, _bias, _matrix):
        if (role := rule(parameter, sizes)) is not None:
            return role
    return None


def _constant(parameter: Parameter, sizes: Sizes) -> Role | None:
    stored = CONSTANTS.get(type(parameter.module).__name__, ())
    return Role.CONSTANT if parameter.attribute in stored else None


def _named(parameter: Parameter, sizes: Sizes) -> Role | None:
    if parameter.owner == "dt_proj" and parameter.attribute == "bias":
        return Role.TIME_STEP
    return BY_ATTRIBUTE.get(parameter.attribute)


def _of_embedding(parameter: Parameter, sizes: Sizes) -> Role | None:
    if parameter.is_unembedding and parameter.attribute == "weight":
        return Role.TIED_EMBEDDING if parameter.is_tied else Role.UNEMBEDDING
    if not isinstance(parameter.module, nn.Embedding):
        return None
    return Role.EMBEDDING if parameter.shape[0] == sizes.d_vocab else Role.TABLE


def _of_norm(parameter: Parameter, sizes: Sizes) -> Role | None:
    words = f"{type(parameter.module).__name__} {' '.join(parameter.path[-2:])}".lower()
    if not any(word in words for word in NORM_WORDS) or isinstance(parameter.module, nn.Linear | Conv1D):
        return None
    if parameter.attribute == "bias":
        return Role.NORM_BIAS
    is_of_scores = any(word in parameter.path[-2:] for word in QUERY_KEY_NORMS)
    if parameter.is_all(1):
        return Role.QUERY_KEY_GAIN if is_of_scores else Role.GAIN
    if parameter.is_all(0):
        return Role.QUERY_KEY_GAIN_LESS_ONE if is_of_scores else Role.GAIN_LESS_ONE
    return None


def _of_convolution(parameter: Parameter, sizes: Sizes) -> Role | None:
    if not isinstance(parameter.module, nn.Conv1d | nn.Conv2d | nn.Conv3d):
        return None
    return Role.BIAS if parameter.attribute == "bias" else Role.CONVOLUTION


def _bias(parameter: Parameter, sizes: Sizes) -> Role | None:
    is_bias = parameter.attribute == "bias" or parameter.attribute.endswith("_bias")
    return Role.BIAS if is_bias and len(parameter.shape) <= 2 else None


def _matrix(parameter: Parameter, sizes: Sizes) -> Role | None:
    """The role of a projection ``[d_out, d_in]``, or of a stack of them."""
    if len(parameter.shape) not in (2, 3):
        return None
    d_out, d_in = _ends(parameter, sizes)
    reads, writes = d_in == sizes.d_model, d_out == sizes.d_model
    if reads and sizes.n_experts and d_out == sizes.n_experts and any(word in parameter.path for word in ROUTERS):
        return Role.ROUTER
    if reads and writes:  # the shape does not say which
        reads, writes = parameter.owner in READS, parameter.owner in WRITES
        if reads == writes:
            return None
    is_known = isinstance(parameter.module, nn.Linear | Conv1D) or parameter.owner in (*READS, *WRITES)
    is_of = {Role.QUERY_KEY: parameter.owner in QUERY_KEY, Role.READING: reads, Role.WRITING: writes, Role.INNER: is_known}
    return next((role for role, fits in is_of.items() if fits), None)


def _ends(parameter: Parameter, sizes: Sizes) -> tuple[int, int]:
    """A projection's output and input size."""
    axis = input_axis(parameter, sizes)
    ends = list(parameter.shape[-2:])
    d_in = ends.pop(axis)
    return ends[0], d_in


def input_axis(parameter: Parameter, sizes: Sizes) -> int:
    """Which of a projection's last two axes is its input: -1 as in a linear layer, -2 if it is stored transposed."""
    if isinstance(parameter.module, Conv1D):
        return -2
    if isinstance(parameter.module, nn.Linear) or parameter.attribute == "weight":
        return -1
    # A stack of experts: some are stored transposed, and only the name says which end is the residual stream.
    is_residual = [size == sizes.d_model for size in parameter.shape[-2:]]
    if sum(is_residual) != 1 or parameter.owner not in (*READS, *WRITES):
        return -1
    residual = -2 if is_residual[0] else -1
    return residual if parameter.owner in READS else -3 - residual


# Drawing -------------------------------------------------------------------------------------------------------------

INTERVALS: Mapping[Role, tuple[float, float]] = {
    Role.DECAY: (0.3, 1.2),  # rates of 0.4 to 4.5
    Role.TIME_STEP: (-2.5, 1.5),  # steps of 0.02 to 0.3, so that a state decays by 0.8 to 99 percent at each token
    Role.RECURRENCE: (-3.5, 1.5),
    Role.MIX: (0.5, 0.4),
    Role.ACTIVATION: (0.3, 0.7),
}
"""The centre and half the width of the interval from which a role is drawn."""
NORMALS: Mapping[Role, float] = {
    Role.NORM_BIAS: 0.3,
    Role.BIAS: 0.3,
    Role.TABLE: 0.3,
    Role.CORRECTION: 0.1,  # a router's scores are probabilities
    Role.SINK: 1.0,
    Role.STATE: 1.0,
}
"""The standard deviation of a role whose entries are normal."""
GAINS = {
    Role.GAIN: (Shape.GAIN, 1.0),
    Role.GAIN_LESS_ONE: (Shape.GAIN_LESS_ONE, 1.0),
    Role.QUERY_KEY_GAIN: (Shape.GAIN, ATTENTION_SCALE),
    Role.QUERY_KEY_GAIN_LESS_ONE: (Shape.GAIN_LESS_ONE, ATTENTION_SCALE),
    Role.SCALE: (Shape.GAIN, 1.0),
}
TIED_OFFSET_SCALE = 2.0
"""Instead of OFFSET_SCALE: the vector that all rows share is in the residual stream too, and raises the offset itself."""
IS_DIVIDED = 0.5
"""Models that divide their logits by the root of d_model, as T5 does, initialise a tied embedding to a standard deviation of
one. All others have at most 0.3."""
PROJECTIONS = {
    Role.QUERY_KEY: ATTENTION_SCALE,
    Role.READING: 1.3,
    Role.WRITING: RESIDUAL_SCALE,
    Role.INNER: 1.0,
    Role.ROUTER: 1.5,
}
"""The standard deviation of what a projection returns for inputs of variance 1."""


def draw_of(parameter: Parameter, role: Role, sizes: Sizes) -> Draw:
    """How to draw a parameter of this role, which must not be a constant or a table."""
    name, shape = parameter.name, parameter.shape
    if role in INTERVALS:
        centre, scale = INTERVALS[role]
        return Draw(name, shape, Shape.INTERVAL, scale, centre=centre)
    if role in NORMALS:
        return Draw(name, shape, Shape.BIAS, NORMALS[role])
    if role in GAINS:
        (kind, scale), centre = GAINS[role], 0.0
        if prod(shape) == 1:  # one gain alone may be 1 by chance
            kind, scale, centre = Shape.INTERVAL, 0.2, 0.6
        on_residual = role in (Role.GAIN, Role.GAIN_LESS_ONE) and shape[-1] == sizes.d_model
        return Draw(
            name, shape, kind, scale, centre=centre, **(_outliers(len(shape) - 1, 1 / OUTLIER) if on_residual else {})
        )
    if role is Role.EMBEDDING:
        return Draw(name, shape, **(_outliers(1, OUTLIER) if shape[1] == sizes.d_model else {}))
    if role in (Role.UNEMBEDDING, Role.TIED_EMBEDDING):
        offset, outliers, size = OFFSET_SCALE, {}, sqrt(shape[1])
        if role is Role.TIED_EMBEDDING:
            offset, outliers = TIED_OFFSET_SCALE, _outliers(1, OUTLIER / 2)
            if parameter.initial.std() > IS_DIVIDED:
                size = 1.0
        return Draw(name, shape, scale=LOGIT_SCALE / size, common=offset / size, **outliers)
    return _projection(parameter, role, sizes)


def _projection(parameter: Parameter, role: Role, sizes: Sizes) -> Draw:
    name, shape = parameter.name, parameter.shape
    if role is Role.CONVOLUTION:
        return Draw(name, shape, scale=1 / sqrt(prod(shape[1:])))
    axis = input_axis(parameter, sizes)
    outliers = _outliers(len(shape) - 3 - axis, OUTLIER) if role is Role.WRITING else {}
    return Draw(name, shape, scale=PROJECTIONS[role] / sqrt(shape[axis]), **outliers)


def _outliers(axis: int, factor: float) -> dict[str, Any]:
    return {"outlier_axis": axis, "outlier_factor": factor}


# Reading a model -----------------------------------------------------------------------------------------------------


def parameters_of(model: Any) -> Iterator[Parameter]:
    """Every parameter and persistent buffer of a transformers model, each tensor once."""
    unembedding = model.get_output_embeddings()
    embeddings = [module for module in model.modules() if isinstance(module, nn.Embedding)]
    seen: set[int] = set()
    for name, tensor in model.state_dict(keep_vars=True).items():
        if id(tensor) in seen:
            continue
        seen.add(id(tensor))
        module = model.get_submodule(name.rpartition(".")[0])
        is_unembedding = unembedding is not None and getattr(unembedding, "weight", None) is tensor
        is_tied = is_unembedding and any(embedding.weight is tensor for embedding in embeddings)
        yield Parameter(name, module, tensor.detach().clone(), is_unembedding, is_tied)
