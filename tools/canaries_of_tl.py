"""Canaries of TransformerLens: ``python -m tools.canaries_of_tl``, in an environment that has one.

``python -m tools.canaries --tl 4.3.0`` runs this module in the environment of that release. pytest is not installed there,
so the canaries are plain functions. They load small models of the zoo, which must already exist, through each wrapper that
this TransformerLens has. The output is JSON: a line with the versions, then a line per canary.
"""

from __future__ import annotations

import importlib.util
import inspect
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tests.canaries import canary

HOOKED, BRIDGE = "HookedTransformer", "TransformerBridge"
OF_HOOKED, OF_BRIDGE, OF_BOTH = ((HOOKED,), (BRIDGE,), (HOOKED, BRIDGE))
IN_HOOKED, IN_BRIDGE, IN_INTERFACE = (f"tlbench/lens/{name}.py" for name in ("hooked", "bridge", "interface"))
MODELS = ("gpt2", "llama", "mixtral")
WITH_TRANSFORMERS = "TransformerLens, or the transformers that it calls,"
VERSIONS = ("transformer-lens", "torch", "transformers")
N_TOKENS = 12
CLOSE = 1e-3
CANARIES: list[tuple[tuple[str, ...], Callable[[str], None]]] = []
"""Each canary with the wrappers that it applies to."""


@dataclass(frozen=True)
class Result:
    """The result of one canary.

    Attributes:
        name: the function's name and the wrapper.
        failure: the message if it failed, else "".
    """

    name: str
    failure: str


def of(
    wrappers: tuple[str, ...], what: str, where: str, *, by: str = "TransformerLens"
) -> Callable[[Callable[[str], None]], Callable[[str], None]]:
    """Register a function as a canary of some wrappers; it runs for those that this TransformerLens has."""

    def decorate(check: Callable[[str], None]) -> Callable[[str], None]:
        CANARIES.append((wrappers, canary(f"{by} changed {what}", where)(check)))
        return check

    return decorate


def main() -> int:
    """Run every canary. The exit status is 1 if any fails."""
    print(json.dumps({"versions": {name: _version(name) for name in VERSIONS}}))
    results = list(_results())
    for result in results:
        print(json.dumps(asdict(result)))
    return 1 if any(result.failure for result in results) else 0


def _results() -> Iterator[Result]:
    try:
        wrappers = the_wrappers()
    except AssertionError as error:
        yield Result("the_wrappers", str(error))
        return
    for applies_to, check in CANARIES:
        for wrapper in applies_to:
            if wrapper in wrappers:
                yield Result(f"{check.__name__}[{wrapper}]", _failure(check, wrapper))


def _failure(check: Callable[[str], None], wrapper: str) -> str:
    try:
        check(wrapper)
    except AssertionError as error:
        return str(error)
    return ""


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


# Models --------------------------------------------------------------------------------------------------------------


def checkpoint(model: str) -> Any:
    from tlbench import catalogue
    from tlbench.checkpoints import locate

    models = catalogue.load()
    return locate(models.get(f"zoo-{model}"), models)


def load(wrapper: str, model: str = "gpt2", option: str = "unprocessed") -> Any:
    """Load a model of the zoo in TransformerLens, behind our interface."""
    from tlbench import lens
    from tlbench.grid import Cell

    return lens.load(Cell(f"zoo-{model}", "float32", option, wrapper), checkpoint(model))


loaded = cache(load)
"""The same, loaded once: a canary must not change it."""


def tokens(model: str = "gpt2") -> Any:
    from tlbench.reference import huggingface

    return huggingface.tokens(checkpoint(model), "natural")[:, :N_TOKENS]


def without_gradients(call: Callable[[], Any]) -> Any:
    import torch

    with torch.inference_mode():
        return call()


def are_close(x: Any, y: Any) -> bool:
    import torch

    return x.shape == y.shape and bool(torch.allclose(x.float(), y.float(), atol=CLOSE))


def seen_at(lens: Any, hooks: Any, ids: Any) -> dict[str, Any]:
    """The activations at some hook points, in the order of computation."""
    seen: dict[str, Any] = {}

    def look(name: str) -> Callable[[Any], None]:
        return lambda value: seen.update({name: value.clone()})

    without_gradients(lambda: lens.run_with_hooks(ids, {name: look(name) for name in hooks}))
    return seen


def site(lens: Any, block: int, component: str) -> str:
    from tlbench.components import site as site_of
    from tlbench.questions.depth import hook_names

    return hook_names(lens)[site_of(block, component)]


@canary("TransformerLens changed where its wrappers are, or they no longer import", "tlbench/lens/__init__.py")
def _find_wrappers(wrappers: list[str]) -> None:
    from tlbench.exceptions import NotApplicable
    from tlbench.lens import require

    for wrapper in OF_BOTH:
        try:
            require(wrapper)
        except NotApplicable:
            continue
        wrappers.append(wrapper)
    assert wrappers, "it has neither HookedTransformer nor TransformerBridge"


def the_wrappers() -> list[str]:
    """Those that this TransformerLens has: at least one."""
    wrappers: list[str] = []
    _find_wrappers(wrappers)
    return wrappers


# Loading a HookedTransformer, tlbench/lens/hooked.py -----------------------------------------------------------------


@of(OF_HOOKED, "loading_from_pretrained.get_official_model_name", IN_HOOKED)
def an_unknown_name_raises_value_error(_: str) -> None:
    from transformer_lens import loading_from_pretrained as loading

    assert loading.get_official_model_name("gpt2"), "gpt2 is unknown"
    try:
        loading.get_official_model_name("no such model")
    except ValueError:
        return
    raise AssertionError("an unknown name raises nothing")


@of(OF_HOOKED, "loading_from_pretrained: it no longer calls AutoConfig or convert_hf_model_config", IN_HOOKED)
def a_model_has_the_sizes_of_our_checkpoint(wrapper: str) -> None:
    for model in ("gpt2", "llama"):
        cfg = loaded(wrapper, model).model.cfg
        sizes = (cfg.d_model, cfg.n_layers, cfg.d_vocab)
        assert sizes == (64, 4, 512), f"{model} has sizes {sizes}"


@of(OF_HOOKED, "HookedTransformer.load_and_process_state_dict", IN_HOOKED)
def loading_a_state_processes_the_weights(wrapper: str) -> None:
    changed = [loaded(wrapper, option=option).changed_weights for option in ("unprocessed", "all_options")]
    assert changed[0] == 0, f"{changed[0]} weights of an unprocessed model changed"
    assert changed[1] > 0, "no weight changed"
    taken = inspect.signature(_hooked_class().load_and_process_state_dict).parameters
    assert "fold_value_biases" in taken, "it takes no fold_value_biases"


@of(OF_HOOKED, "the arguments of HookedTransformer.from_pretrained", IN_HOOKED)
def from_pretrained_takes_a_dtype_a_model_and_every_option(_: str) -> None:
    from tlbench.grid import Option

    taken = inspect.signature(_hooked_class().from_pretrained).parameters
    needed = {"device", "hf_model", "tokenizer", *Option.ALL_OPTIONS.flags()}
    assert needed <= taken.keys(), f"it takes no {', '.join(sorted(needed - taken.keys()))}"
    assert {"dtype", "torch_dtype"} & taken.keys(), "it takes no dtype"


@of(OF_HOOKED, "HookedTransformer.process_weights_", IN_HOOKED)
def process_weights_changes_a_loaded_model(wrapper: str) -> None:
    from tlbench.grid import Option

    lens = load(wrapper)
    before = {name: value.clone() for name, value in lens.model.state_dict().items()}
    lens.process(Option.ALL_OPTIONS)
    after = lens.model.state_dict()
    assert any(name in after and not are_close(value, after[name]) for name, value in before.items()), "no weight changed"


@of(OF_HOOKED, "its growing rotary table (attn.rotary_sin, attn._extend_rotary_embeddings)", IN_INTERFACE)
def a_growing_rotary_table_has_a_length(wrapper: str) -> None:
    table = loaded(wrapper, "llama").rotary_table()
    assert isinstance(table, int), "llama has none"
    assert table > N_TOKENS, f"it has {table} positions"
    assert loaded(wrapper, "gpt2").rotary_table() is None, "gpt2 has one"


def _hooked_class() -> Any:
    from tlbench.lens.hooked import hooked_transformer_class

    return hooked_transformer_class()


# Loading a TransformerBridge, tlbench/lens/bridge.py -----------------------------------------------------------------


@of(OF_BRIDGE, "ProcessWeights.process_weights, or enable_compatibility_mode no longer calls it", IN_BRIDGE)
def compatibility_mode_processes_the_weights(wrapper: str) -> None:
    assert loaded(wrapper, option="all_options").changed_weights > 0, "no weight changed"


@of(OF_BRIDGE, "TransformerBridge.original_model, or where it keeps stacks of experts", IN_BRIDGE)
def a_mixture_keeps_its_experts_in_stacks(wrapper: str) -> None:
    from tlbench.lens.bridge import _WeightReadback

    assert _WeightReadback._expert_stacks(loaded(wrapper, "mixtral").model), "no parameter has three dimensions"


@of(OF_BRIDGE, "its error for an architecture that it lacks", IN_BRIDGE)
def an_architecture_that_it_lacks_is_not_applicable(_: str) -> None:
    from tlbench.catalogue import Source
    from tlbench.exceptions import CellFailed, NotApplicable
    from tlbench.grid import Option
    from tlbench.lens.bridge import load_bridge

    config = {"model_type": "ctrl", "architectures": ["CTRLLMHeadModel"], "n_embd": 64, "n_layer": 1, "n_head": 4}
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(config))
        point = SimpleNamespace(model=SimpleNamespace(source=Source.LOCAL, name="canary"), folder=Path(folder))
        try:
            load_bridge(point, "float32", Option.UNPROCESSED)
        except NotApplicable:
            return
        except CellFailed as error:
            raise AssertionError(f"we take it for a failure: {error}"[:160]) from error
    raise AssertionError("it loads CTRL, which it did not have: try another architecture here")


@of(OF_BRIDGE, "its error for a class that it removed", IN_INTERFACE)
def a_class_that_it_removed_is_not_applicable(_: str) -> None:
    from tlbench.exceptions import NotApplicable
    from tlbench.lens.interface import class_of

    for name in ("HookedEncoder", "NoSuchClass"):
        try:
            class_of("transformer_lens", name, "canary")
        except NotApplicable:
            continue


@of(OF_BRIDGE, "the names of its modules: a server imports too few before it forks", "tlbench/lens/modules.py")
def the_modules_that_a_server_imports_exist(_: str) -> None:
    from tlbench.lens.modules import MODULES

    # This one belonged to HookedTransformer and left with it.
    missing = [name for name in MODULES if "loading_from_pretrained" not in name and not _exists(name)]
    assert not missing, f"there is no {', '.join(missing)}"


@of(OF_BOTH, "the name of _torch_specific, which a server imports", "tlbench/questions/preload.py", by="einops")
def the_module_of_einops_that_a_server_imports_exists(_: str) -> None:
    assert _exists("einops._torch_specific"), "there is no einops._torch_specific"


def _exists(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ImportError:
        return False


# Running a model, both wrappers --------------------------------------------------------------------------------------


@of(OF_HOOKED, "its key-value cache: a step no longer gets the one before it", IN_HOOKED)
@of(OF_BRIDGE, "the cache (_capture_hf_cache, _last_hf_cache): a step no longer gets it", IN_BRIDGE, by=WITH_TRANSFORMERS)
def steps_with_the_cache_give_the_logits_of_a_forward_pass(wrapper: str) -> None:
    import torch

    lens, ids = loaded(wrapper), tokens()
    steps = without_gradients(lambda: torch.stack(list(lens.steps(ids)), 1))
    assert are_close(steps, without_gradients(lambda: lens.logits(ids))), "the logits differ"


@of(OF_HOOKED, "generate, or where it looks for the tokenizer", IN_HOOKED)
@of(OF_BRIDGE, "generate", IN_BRIDGE)
def generate_adds_the_requested_number_of_tokens(wrapper: str) -> None:
    lens, ids = loaded(wrapper), tokens()
    output = without_gradients(lambda: lens.greedy(ids, 3))
    assert list(output.shape) == [len(ids), N_TOKENS + 3], f"it returns {getattr(output, 'shape', type(output).__name__)}"
    assert (output[:, :N_TOKENS] == ids).all(), "the output does not begin with the prompt"


@of(OF_BOTH, "the names of hook points, or where they fire", "tlbench/questions/depth.py")
def every_hook_point_fires_with_the_activation_of_its_name(wrapper: str) -> None:
    from tlbench.components import ROUTING
    from tlbench.questions.depth import hook_names

    for model in MODELS:
        lens = loaded(wrapper, model)
        hooks = [hook for name, hook in hook_names(lens).items() if not name.endswith(ROUTING)]
        if model == "mixtral":
            hooks.append(site(lens, 0, ROUTING))
        seen = seen_at(lens, hooks, tokens(model))
        assert set(seen) == set(hooks), f"{model}: these do not fire: {', '.join(sorted(set(hooks) - set(seen))[:3])}"
        parts = [seen[site(lens, 1, part)] for part in ("resid_pre", "attn_out", "mlp_out", "resid_post")]
        added = parts[0] + parts[1] + parts[2].reshape(parts[0].shape)
        assert are_close(added, parts[3]), f"{model}: attention and MLP do not add up to a block's output"


@of(OF_BOTH, "what it does with the value that a hook returns", IN_INTERFACE)
def the_value_that_a_hook_returns_replaces_the_activation(wrapper: str) -> None:
    lens, ids = loaded(wrapper), tokens()
    name = site(lens, 1, "resid_pre")
    after = site(lens, 1, "attn_out")
    outputs: list[Any] = []
    hooks = {name: lambda value: 0 * value, after: lambda value: outputs.append(value.clone())}
    edited = without_gradients(lambda: lens.run_with_hooks(ids, hooks))
    assert not are_close(outputs[0], seen_at(lens, [after], ids)[after]), "the block's attention does not change"
    assert not are_close(edited, without_gradients(lambda: lens.logits(ids))), "the logits do not change"


@of(OF_BRIDGE, "how it refuses a hook on an activation that it does not compute", IN_INTERFACE)
def a_hook_on_an_activation_that_is_not_computed_is_refused(wrapper: str) -> None:
    lens = loaded(wrapper)
    assert lens.accepts_hook("hook_embed"), "it refuses a hook on hook_embed"
    assert lens.has_hook("blocks.0.attn.hook_result"), "there is no blocks.0.attn.hook_result"
    assert not lens.accepts_hook("blocks.0.attn.hook_result"), "it accepts a hook on blocks.0.attn.hook_result"


@of(OF_BOTH, "HookPoint.fwd_hooks or HookPoint.bwd_hooks", IN_INTERFACE)
def a_hook_point_lists_its_hooks(wrapper: str) -> None:
    lens = loaded(wrapper)
    before = lens.count_hooks()
    with lens.model.hooks(fwd_hooks=[("hook_embed", lambda value, hook: None)]):
        within = lens.count_hooks()
    assert within == before + 1, f"one more hook counts as {within - before}"
    assert lens.count_hooks() == before, "a hook stays behind"


@of(OF_BOTH, "a norm's hook_normalized, w or b", IN_INTERFACE)
def a_norm_s_hook_gives_its_input_normalised(wrapper: str) -> None:
    from tlbench.components import Component

    lens, ids = loaded(wrapper), tokens()
    hooks = [site(lens, 1, part) for part in (Component.RESID_PRE, Component.LN1)]
    seen = seen_at(lens, hooks, ids)
    x = seen[hooks[0]].double()
    x = x - x.mean(-1, keepdim=True)
    exact = x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    assert are_close(lens.before_gain(hooks[1])(seen[hooks[1]]), exact), "it is not the normalised input"


@of(OF_BOTH, "run_with_cache, stack_head_results or logit_attrs", IN_INTERFACE)
def the_cache_attributes_a_logit_difference_to_every_head(wrapper: str) -> None:
    import torch

    lens, ids = loaded(wrapper, option="all_options"), tokens()
    pair = torch.tensor([[1, 2]] * len(ids))
    parts = without_gradients(lambda: lens.head_attribution(ids, pair))
    assert list(parts.shape) == [len(ids), lens.n_blocks, 4], f"its shape is {list(parts.shape)}"
    logits, _ = without_gradients(lambda: lens.run_with_cache(ids))
    assert are_close(logits, without_gradients(lambda: lens.logits(ids))), "with the cache the logits differ"


@of(OF_BOTH, "unembed, ln_final or output_logits_soft_cap", IN_INTERFACE)
def the_last_residual_stream_unembeds_to_the_logits(wrapper: str) -> None:
    lens, ids = loaded(wrapper), tokens()
    name = site(lens, lens.n_blocks - 1, "resid_post")
    residual = seen_at(lens, [name], ids)[name]
    logits = without_gradients(lambda: lens.unembedded(residual))
    assert are_close(logits, without_gradients(lambda: lens.logits(ids))), "the logits differ"


@of(OF_BOTH, "unembed: its input can no longer be read or replaced", IN_INTERFACE)
def the_input_of_the_unembedding_can_be_read_and_replaced(wrapper: str) -> None:
    lens, ids = loaded(wrapper), tokens()
    with lens.reading_unembed_input() as read:
        plain = without_gradients(lambda: lens.logits(ids))
    assert len(read) == 1, f"it is called {len(read)} times"
    with lens.replacing_unembed_input(2 * read[0]):
        assert not are_close(without_gradients(lambda: lens.logits(ids)), plain), "the logits do not change"


@of(OF_BOTH, "cfg.n_ctx", IN_INTERFACE)
def the_longest_context_is_in_the_configuration(wrapper: str) -> None:
    longest = loaded(wrapper).longest_context()
    assert longest == 256, f"it is {longest} where the checkpoint's is 256"


@of(OF_BOTH, "stop_at_layer or start_at_layer", IN_INTERFACE)
def a_forward_pass_stops_and_starts_at_a_block(wrapper: str) -> None:
    lens, ids = loaded(wrapper), tokens()
    name = site(lens, 2, "resid_pre")
    half = seen_at(lens, [name], ids)[name]
    assert are_close(without_gradients(lambda: lens.stopped_at(ids, 2)), half), "the residual streams differ"
    assert are_close(without_gradients(lambda: lens.started_at(half, 2)), without_gradients(lambda: lens.logits(ids))), (
        "the logits differ"
    )


@of(OF_BOTH, "attention_mask", IN_INTERFACE)
def a_mask_of_ones_changes_nothing(wrapper: str) -> None:
    import torch

    lens, ids = loaded(wrapper), tokens()
    masked = without_gradients(lambda: lens.masked_logits(ids, torch.ones_like(ids)))
    assert are_close(masked, without_gradients(lambda: lens.logits(ids))), "the logits change"


@of(OF_BOTH, "its casts, or cfg.dtype: a widened model still rounds", IN_INTERFACE)
def a_widened_model_is_float64_all_the_way(wrapper: str) -> None:
    import torch

    from tlbench.reference.float64 import low_precision_operations, true_float64

    for model in MODELS:
        lens, ids = load(wrapper, model), tokens(model)
        lens.widen()
        with true_float64(), torch.inference_mode(), low_precision_operations() as seen:
            logits = lens.logits(ids)
        assert logits.dtype is torch.float64, f"{model}'s logits are {logits.dtype}"
        assert not seen, f"{model} rounds in {next(iter(seen), '')}"


@of(OF_BOTH, "its package: it is no longer one folder of files", "tlbench/environments/provenance.py")
def the_imported_package_is_a_folder_that_can_be_hashed(_: str) -> None:
    import transformer_lens

    from tlbench.environments.provenance import package_digest

    folder = Path(transformer_lens.__path__[0])
    assert (folder / "__init__.py").is_file(), f"{folder.name} has no __init__.py"
    assert len(package_digest(folder)) == 64, "it has no digest"


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    sys.exit(main())
