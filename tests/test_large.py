"""Large models: one in memory at a time, mapped from its files, and no second copy of its weights on this side."""

import re
import sys
import weakref
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors import safe_open

from tlbench import Cell, catalogue, lens
from tlbench.catalogue import Model, Source
from tlbench.checkpoints import Checkpoint, ensure
from tlbench.exceptions import BadInput, CellFailed, NoGolden, NotApplicable
from tlbench.grid import Attention, Dtype
from tlbench.lens import weights
from tlbench.metrics.figures import ErrorStatistics, Shift
from tlbench.questions import answers, loading
from tlbench.questions.answers import Answers
from tlbench.questions.registry import ACCURACY, NOISE_FLOOR, QUESTIONS
from tlbench.records.measurement import Accuracy, Measurement
from tlbench.records.outcome import Kind, Outcome
from tlbench.reference import golden, huggingface, soundness
from tlbench.report import verdicts, verify
from tools.perf import mistral

CELL = Cell("large", "float16", "unprocessed", "TransformerBridge")
TINY = mistral.Shape("tiny", n_layers=2, d_model=32, d_mlp=64, n_heads=4, n_kv_heads=2, d_vocab=300)


# One at a time -------------------------------------------------------------------------------------------------------


def raising(error):
    raise error


@pytest.fixture
def events(monkeypatch):
    """What is loaded and computed, in order, for a model of the source that the test names."""
    happened = []

    def of(source):
        checkpoint = SimpleNamespace(model=Model("large", source), folder=Path("nowhere"))
        monkeypatch.setattr(loading.checkpoints, "named", lambda name: checkpoint)
        monkeypatch.setattr(huggingface, "reference_logits", lambda checkpoint, dtype, kind: happened.append(kind))
        monkeypatch.setattr(lens, "load", lambda cell, checkpoint: happened.append("model"))
        monkeypatch.setattr(soundness, "reference_fault", lambda checkpoint: happened.append("is it right?") or "")
        monkeypatch.setattr(soundness, "other_function", lambda checkpoint: happened.append("is it one?") or "")
        monkeypatch.setattr(huggingface, "reference_variants", lambda checkpoint, dtype: happened.append("variants"))
        monkeypatch.setattr(golden, "golden", lambda checkpoint, weights: happened.append("golden"))
        return happened

    return of


def test_what_another_process_loads_the_model_for_is_done_before_it_is_loaded_here(events):
    happened = events(Source.LOCAL)
    both = answers._Subject(CELL, [ACCURACY, NOISE_FLOOR])
    assert both.loaded
    assert happened == [*Attention, "is it one?", "is it right?", "golden", "model"]


def test_without_a_golden_what_it_is_judged_by_instead_is_computed_before_the_model_is_loaded(events, monkeypatch):
    happened = events(Source.LOCAL)
    monkeypatch.setattr(golden, "golden", lambda *_: raising(NoGolden("too large")))
    loading.load_cell(CELL, [Attention.EAGER])
    assert happened == [Attention.EAGER, "is it one?", "is it right?", "variants", "model"]


def test_the_zoo_s_small_models_are_loaded_at_once_since_their_cells_may_not_exist(events):
    happened = events(Source.ZOO)
    loading.load_cell(CELL, list(Attention))
    assert happened == ["model"]


def test_a_reference_that_cannot_be_computed_does_not_hide_that_the_cell_cannot_exist(events, monkeypatch):
    events(Source.LOCAL)
    monkeypatch.setattr(huggingface, "reference_logits", lambda *_: raising(CellFailed("HuggingFace cannot")))
    monkeypatch.setattr(lens, "load", lambda *_: raising(NotApplicable("no such wrapper")))
    with pytest.raises(NotApplicable, match="no such wrapper"):
        loading.load_cell(CELL, [Attention.EAGER])


def test_every_question_that_reads_huggingface_s_logits_says_so():
    """Else they are computed beside the loaded model."""
    readers = {
        name
        for name, question in QUESTIONS.items()
        if question.cell is Cell and "reference_logits(" in Path(sys.modules[imported(question)].__file__).read_text()
    }
    assert readers == {name for name, question in QUESTIONS.items() if question.references}


def imported(question):
    question.measurer_function()
    return question.measurer.split(":")[0]


# No copies -----------------------------------------------------------------------------------------------------------


def test_taking_fingerprints_holds_a_copy_of_one_tensor_at_a_time(monkeypatch):
    copies, alive, take = [], [], weights._fingerprint

    def fingerprint(tensor):
        copies.append(weakref.ref(tensor))
        alive.append(sum(copy() is not None for copy in copies))
        return take(tensor)

    monkeypatch.setattr(weights, "_fingerprint", fingerprint)
    found = weights.fingerprints({str(i): torch.full((4,), float(i)) for i in range(5)}, torch.float16)
    assert len(set(found.values())) == 5
    assert alive == [1] * 5


def mapped_addresses(folder):
    """The ranges of this process's memory that are files of a folder."""
    lines = [line.split() for line in Path("/proc/self/maps").read_text().splitlines() if str(folder.resolve()) in line]
    return [tuple(int(end, 16) for end in words[0].split("-")) for words in lines]


@pytest.mark.parametrize(("dtype", "mapped"), [("float32", True), ("float16", False)])
def test_weights_at_the_file_s_own_dtype_are_the_file_and_others_are_copies(dtype, mapped):
    models = catalogue.load()
    folder = ensure(models.get("zoo-mistral"), models).folder
    model = huggingface.load_model(folder, Dtype(dtype))
    ranges = mapped_addresses(folder)
    inside = [any(low <= p.data_ptr() < high for low, high in ranges) for p in model.parameters()]
    assert all(inside) if mapped else not any(inside)


# What is told --------------------------------------------------------------------------------------------------------


def test_a_model_too_large_for_an_exact_answer_is_told_with_its_error_against_huggingface():
    error = ErrorStatistics(max=0.125, mean=0.0, median=0.0, std=0.0)
    accuracy = Accuracy(origin=error, probability=error, logit=error, shift=Shift(0.0, 0.0))
    measured = Measurement(CELL, 0, 0, 0, (300, 300), accuracy=accuracy, no_truth="a golden needs 67 GiB")
    found = Answers(CELL, {ACCURACY.name: Outcome(Kind.MEASURED, measured)})
    missing = Answers(CELL, {ACCURACY.name: Outcome(Kind.NOT_APPLICABLE, reason="it was removed in 4.0")})
    line = verify.conclusion([verify.judgement(missing), verify.judgement(found)])
    assert line.startswith("Nothing is known to be wrong, but 1 of 1 could not be judged: a golden")
    assert verdicts.exit_status([verify.judgement(missing).verdict, verify.judgement(found).verdict]) == 3
    assert "0.125 nats" in line
    assert verify.conclusion([verify.judgement(missing)]) == "Nothing could be measured."


# The checkpoint ------------------------------------------------------------------------------------------------------


@pytest.fixture
def tiny(own_cache):
    with mistral.checkpoint_of(TINY) as folder:
        yield folder
    assert not folder.exists()


def test_mistral_7b_s_shape_has_its_7_24_billion_parameters_of_which_no_shard_holds_a_thirtieth():
    assert mistral.MISTRAL_7B.parameters() == 7_241_732_096
    assert max(sum(map(torch.Size.numel, map(torch.Size, shard.values()))) for shard in mistral.MISTRAL_7B.shards()) < 242e6


def test_huggingface_finds_every_parameter_in_the_shards_and_its_logits_are_finite(tiny):
    from transformers import AutoModelForCausalLM

    model, report = AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float16, output_loading_info=True)
    assert not any(report[what] for what in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert sum(p.numel() for p in model.parameters()) == TINY.parameters() == Checkpoint(None, tiny, "", None).parameters
    assert (model.config.sliding_window, model.config.num_key_value_heads) == (TINY.window, TINY.n_kv_heads)
    logits = model(torch.arange(64)[None]).logits
    assert torch.isfinite(logits).all()
    assert logits.std() > 0.1


def test_the_checkpoint_is_the_same_each_time(tiny, tmp_path):
    mistral.write_checkpoint(TINY, tmp_path / "again")
    for path in tiny.glob("*.safetensors"):
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes()
    with (
        safe_open(tiny / "model-00002-of-00004.safetensors", "pt") as one,
        safe_open(tiny / "model-00003-of-00004.safetensors", "pt") as other,
    ):
        first = one.get_tensor("model.layers.0.mlp.up_proj.weight")
        assert not torch.equal(first, other.get_tensor("model.layers.1.mlp.up_proj.weight"))


def test_a_disk_that_is_too_small_is_told_before_anything_is_written(own_cache, monkeypatch):
    monkeypatch.setattr(mistral.shutil, "disk_usage", lambda path: SimpleNamespace(free=10 * 2**30))
    with pytest.raises(BadInput, match=re.escape("needs 15.5 GiB")), mistral.checkpoint_of(mistral.MISTRAL_7B):
        pass
    assert not list(own_cache.rglob("*.safetensors"))


ALLOCATING = """
import mmap, time
owned = bytearray(b"x" * 100_000_000)
with open({path!r}, "rb") as file:
    mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
read = sum(mapped[i] for i in range(0, len(mapped), 4096))
time.sleep(0.5)
"""


def test_memory_of_one_s_own_and_of_files_are_told_apart(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"y" * 60_000_000)
    _, _, watch = mistral.watched([sys.executable, "-c", ALLOCATING.format(path=str(path))])
    peak = watch.peaks["one model alone"]
    assert 100e6 < peak.anonymous < 215e6
    assert 60e6 < peak.file_backed < 90e6
    assert watch.together >= peak.anonymous
