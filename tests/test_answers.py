"""One cell is measured once; an outcome is never lost and never mistaken for another."""

import json
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from asv_plugins import reader
from tlbench import Cell, catalogue
from tlbench.checkpoints import ensure
from tlbench.costs import registry as costs
from tlbench.exceptions import (
    BadInput,
    CellFailed,
    CheckpointUnavailable,
    NoGolden,
    NonFiniteLogits,
    NotApplicable,
    NotMeasured,
    WrongLibrary,
    WrongTransformerLens,
)
from tlbench.grid import Option
from tlbench.metrics.figures import ErrorStatistics, Shift, Truth
from tlbench.paths import RUN_VARIABLE
from tlbench.questions import answers, registry
from tlbench.questions.answers import attempt, shared
from tlbench.questions.question import find
from tlbench.questions.registry import ACCURACY, DEPTH, NOISE_FLOOR
from tlbench.records import endings
from tlbench.records.depth_profile import DepthProfile, SiteError
from tlbench.records.measurement import Accuracy, Measurement
from tlbench.records.outcome import Kind, Outcome
from tlbench.records.serial import plain, restored

CELL = Cell("zoo-gpt2", "float32", "fold_ln", "TransformerBridge")
FIGURES = Measurement(
    cell=CELL,
    changed_weights=3,
    nonfinite=0,
    reference_nonfinite=0,
    vocabulary=(512, 512),
    accuracy=Accuracy(
        origin=ErrorStatistics(0.1, 0.2, 0.3, 0.4),
        probability=ErrorStatistics(1e-9, 1.0000000000000002e-300, 0.0, 0.1 + 0.2),
        logit=ErrorStatistics(1.0, 2.0, 3.0, 4.0),
        shift=Shift(17.25, 18.5),
    ),
    truth=Truth(
        **dict.fromkeys(("identical", "has_experts"), False),
        **dict.fromkeys(("error_rms", "reference_rms", "golden_rms", "total_rms", "weights_rms"), 1e-6),
        **dict.fromkeys(
            ("error_ratio", "error_correlation", "typical_rms", "typical_ratio", "tail_ratio", "settled_share"), 1.0
        ),
        **dict.fromkeys(("bits_lost", "kl_nats", "kl_max_nats", "shift_spread", "difference_rms", "difference_p99"), 0.1),
        **dict.fromkeys(("top1_flips", "top1_ties", "top1_unexplained"), 0),
        golden_precision="float64",
        settled_ratio=None,
    ),
)


class Measurer:
    """Counts how often it is asked, and answers or raises as told."""

    def __init__(self, answer):
        self.answer, self.calls = answer, 0

    def __call__(self, *_):
        self.calls += 1
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@dataclass(frozen=True)
class Here:
    """A server that runs everything in this process."""

    folder: Path

    def stream(self, function, *arguments, before=None):
        yield from function(*json.loads(json.dumps(arguments)))


def attempted(cell):
    return attempt(ACCURACY, cell, answers._Subject(cell, [ACCURACY]).measure)


@pytest.fixture
def measured(monkeypatch, tmp_path):
    """Put a counting measurer in place of the real one, and keep figures in a folder of this test's own."""

    def put(answer):
        measurer = Measurer(answer)
        monkeypatch.setattr("tlbench.questions.accuracy.measure", measurer)
        monkeypatch.setattr("tlbench.questions.loading.load_cell", lambda *_: None)
        return measurer

    monkeypatch.setattr(answers, "kept_path", lambda question, cell: tmp_path / "kept" / answers.file_name(question, cell))
    return put


def test_json_keeps_every_bit_of_a_measurement():
    assert restored(Measurement, json.loads(json.dumps(plain(FIGURES)))) == FIGURES
    outcome = Outcome(Kind.MEASURED, FIGURES)
    assert restored(Outcome[Measurement], json.loads(json.dumps(plain(outcome)))) == outcome


def test_many_readers_of_one_run_measure_once(measured, tmp_path):
    measurer = measured(FIGURES)
    (tmp_path / "run").mkdir()
    for _ in range(12):
        assert shared(ACCURACY, CELL, Here(tmp_path / "run")) == FIGURES
    assert measurer.calls == 1


def test_a_failure_is_met_once_a_run_and_raised_to_every_reader(measured, tmp_path, monkeypatch):
    measurer = measured(CellFailed("it broke"))
    monkeypatch.setattr(answers, "outcomes_dir", lambda: tmp_path / "log")
    (tmp_path / "run").mkdir()
    for _ in range(3):
        with pytest.raises(CellFailed, match="it broke"):
            shared(ACCURACY, CELL, Here(tmp_path / "run"))
    assert measurer.calls == 1
    assert "it broke" in (tmp_path / "log" / answers.file_name(ACCURACY, CELL)).read_text()


def test_a_figure_outlives_an_interrupted_run_and_a_failure_does_not(measured, tmp_path):
    measurer = measured(FIGURES)
    for run in ("first", "second"):
        (tmp_path / run).mkdir()
        assert shared(ACCURACY, CELL, Here(tmp_path / run)) == FIGURES
    assert measurer.calls == 1

    other = Cell("zoo-gpt2", "float16", "fold_ln", "TransformerBridge")
    measurer = measured(CellFailed("out of memory"))
    assert attempted(other).kind is Kind.FAILED
    assert attempted(other).kind is Kind.FAILED
    assert measurer.calls == 2


@pytest.mark.parametrize("content", ["", '{"cell"', "[]", '{"cell": {"model": "zoo-gpt2"}}', "\x00" * 64])
def test_a_damaged_figure_is_measured_again_and_replaced(measured, tmp_path, content):
    measurer = measured(FIGURES)
    path = tmp_path / "kept" / answers.file_name(ACCURACY, CELL)
    path.parent.mkdir()
    path.write_text(content)
    for _ in range(2):
        assert attempted(CELL) == Outcome(Kind.MEASURED, FIGURES)
    assert measurer.calls == 1


def test_a_cache_that_cannot_be_written_loses_no_figure(measured, monkeypatch):
    def refuse(path, *_, **__):
        raise BadInput(f"no disk space left to write {path}")

    measured(FIGURES)
    monkeypatch.setattr(answers, "write_json", refuse)
    assert attempted(CELL) == Outcome(Kind.MEASURED, FIGURES)


def test_remeasure_measures_again(measured, monkeypatch):
    measurer = measured(FIGURES)
    attempted(CELL)
    monkeypatch.setenv("TLBENCH_REMEASURE", "1")
    attempted(CELL)
    assert measurer.calls == 2


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (NotApplicable("no bridge"), Kind.NOT_APPLICABLE),
        (CheckpointUnavailable("no hub"), Kind.NOT_MEASURED),
        (NoGolden("too large"), Kind.NOT_MEASURED),
        (NonFiniteLogits("3 non-finite logits"), Kind.FAILED),
        (BadInput("not made"), Kind.FAILED),
        (MemoryError("too big"), Kind.FAILED),
    ],
)
def test_not_applicable_not_measured_and_failed_are_three_things(measured, error, kind):
    measured(error)
    outcome = attempted(CELL)
    assert outcome.kind is kind
    assert str(error) in outcome.reason
    with pytest.raises({Kind.NOT_APPLICABLE: NotApplicable, Kind.NOT_MEASURED: NotMeasured}.get(kind, CellFailed)):
        outcome.require()


@pytest.mark.parametrize("kind", [CellFailed, OSError])
def test_a_failure_does_not_say_where_this_machine_s_cache_is(measured, own_cache, kind):
    measured(kind(f"no weights in {own_cache}/checkpoints/zoo-gpt2."))
    assert attempted(CELL).reason.endswith("no weights in checkpoints/zoo-gpt2.")


def test_the_name_of_a_kept_figure_follows_everything_that_decides_it(own_cache, monkeypatch):
    monkeypatch.setattr(answers, "setting", lambda: {"transformer_lens": "a"})
    first = answers.kept_path(ACCURACY, CELL)
    assert answers.kept_path(ACCURACY, CELL) == first
    assert answers.kept_path(ACCURACY, Cell("zoo-gpt2", "float16", "fold_ln", "TransformerBridge")) != first
    monkeypatch.setattr(answers, "setting", lambda: {"transformer_lens": "b"})
    assert answers.kept_path(ACCURACY, CELL) != first


@pytest.mark.parametrize("without", [{"truth": None, "no_truth": "too large"}, {"golden_precision": "float32"}])
def test_what_less_memory_than_another_time_decided_is_measured_again(measured, without):
    truth = replace(FIGURES.truth, **without) if "golden_precision" in without else None
    measurer = measured(replace(FIGURES, truth=truth, no_truth=without.get("no_truth", "")))
    attempted(CELL)
    attempted(CELL)
    assert measurer.calls == 2


def test_the_key_follows_the_arithmetic_the_libraries_and_all_code_that_the_measurer_imports(own_cache, monkeypatch):
    monkeypatch.setattr(answers, "setting", lambda: {"arithmetic": "shared"})
    first = answers.kept_path(ACCURACY, CELL)
    monkeypatch.setattr(answers, "setting", lambda: {"arithmetic": "native"})
    assert answers.kept_path(ACCURACY, CELL) != first
    monkeypatch.setattr(answers, "setting", lambda: {"arithmetic": "shared"})
    monkeypatch.setattr(answers, "code_digest", lambda module: f"other {module}")
    assert answers.kept_path(ACCURACY, CELL) != first


class Dies:
    """A server whose fork answers the first question and then dies, or is stopped."""

    def __init__(self, folder, error):
        self.folder, self.error = folder, error

    def stream(self, function, addresses, *rest, before=None):
        yield from function(addresses[:1], *rest)
        raise self.error


@pytest.mark.parametrize(
    ("error", "reason"),
    [(CellFailed("ended with signal SIGKILL"), "ended with signal SIGKILL"), (BaseException(), "asv's time limit")],
)
def test_what_dies_or_is_stopped_is_a_failure_that_is_met_once(measured, tmp_path, error, reason):
    measured(FIGURES)
    server = Dies(tmp_path, error)
    with suppress(BaseException):
        answers.ask(server, (ACCURACY, NOISE_FLOOR), CELL)
    assert answers.read(tmp_path / answers.file_name(ACCURACY, CELL), ACCURACY).require() == FIGURES
    with pytest.raises(CellFailed, match=reason):
        shared(NOISE_FLOOR, CELL, server)


@dataclass(frozen=True)
class Hangs:
    """A server that never answers, and counts how often it is asked."""

    folder: Path
    calls: list[object]

    def stream(self, function, *arguments, before=None):
        self.calls.append(arguments)
        time.sleep(60)
        yield


def test_a_cell_over_asv_s_time_limit_is_measured_once_for_all_its_tracks_and_its_reason_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(answers, "outcomes_dir", lambda: tmp_path / "log")
    server = Hangs(tmp_path, [])
    ended = []
    for _ in range(25):
        try:
            with reader._time_limit(0.2):
                shared(ACCURACY, CELL, server)
        except (reader._TimedOut, CellFailed) as error:
            ended.append(error)
    assert len(server.calls) == 1
    assert [type(error) for error in ended] == [reader._TimedOut] + [CellFailed] * 24
    assert {str(error) for error in ended[1:]} == {"stopped while measuring: it exceeded asv's time limit"}
    ((_, ending),) = endings.left_by_run(tmp_path / "log")
    assert (ending.kind, ending.reason) == (Kind.FAILED, str(ended[1]))


def test_an_interrupt_leaves_no_failure_behind(measured, tmp_path):
    measured(FIGURES)
    with pytest.raises(KeyboardInterrupt):
        answers.ask(Dies(tmp_path, KeyboardInterrupt()), (ACCURACY, NOISE_FLOOR), CELL)
    assert not (tmp_path / answers.file_name(NOISE_FLOOR, CELL)).exists()


REQUEST = ([ACCURACY.address], plain(CELL))


def test_commits_of_a_run_share_imports_as_long_as_the_installed_packages_stay_the_same(tmp_path, monkeypatch):
    installed = ["a" * 64]
    monkeypatch.setattr(answers, "installed_dependencies", lambda: installed[0])
    monkeypatch.setenv(RUN_VARIABLE, str(tmp_path))

    def imports_of(folder):
        return answers.recording_server(tmp_path / folder, Path("python"), 1).forked_from.forked_from

    first = imports_of("commit")
    (first.folder / f"{first.name}-shared.socket").touch()
    assert imports_of("another commit") == first
    assert [*first.folder.glob("*.socket")]
    installed[0] = "b" * 64
    assert imports_of("a third commit").name != first.name
    assert not [*first.folder.glob("*.socket")], "the first server ends"
    installed[0] = ""
    assert imports_of("a commit of which nothing is recorded") is None
    monkeypatch.delenv(RUN_VARIABLE)
    installed[0] = "a" * 64
    assert imports_of("outside asv") is None


def test_that_there_is_no_such_wrapper_needs_no_fork(monkeypatch, tmp_path):
    def require(wrapper):
        raise NotApplicable(f"no {wrapper} here")

    monkeypatch.setattr(answers, "setting", lambda: {})
    monkeypatch.setattr("tlbench.lens.require", require)
    assert answers.answer_without_fork(*REQUEST, str(tmp_path), "") == ["accuracy"]
    outcome = answers.read(tmp_path / answers.file_name(ACCURACY, CELL), ACCURACY)
    assert (outcome.kind, outcome.reason) == (Kind.NOT_APPLICABLE, "no TransformerBridge here")


def test_what_is_kept_needs_no_fork_unless_one_question_s_record_is_missing(measured, monkeypatch, tmp_path):
    measured(FIGURES)
    attempted(CELL)
    monkeypatch.setattr(answers, "_absent_wrapper", lambda _: None)
    monkeypatch.setattr(answers, "_hash_what_is_read", lambda *_: None)
    assert answers.answer_without_fork(*REQUEST, str(tmp_path), str(tmp_path / "log")) == ["accuracy"]
    for folder in (tmp_path, tmp_path / "log"):
        assert answers.read(folder / answers.file_name(ACCURACY, CELL), ACCURACY) == Outcome(Kind.MEASURED, FIGURES)
    both = ([ACCURACY.address, DEPTH.address], *REQUEST[1:])
    assert answers.answer_without_fork(*both, str(tmp_path), "") is None


@pytest.mark.parametrize("wrong", [WrongTransformerLens("another commit"), CellFailed("does not import")])
def test_nothing_is_said_of_a_transformer_lens_that_is_not_the_one_asked_for(monkeypatch, tmp_path, wrong):
    def setting():
        raise wrong

    def require(wrapper):
        raise NotApplicable("no such wrapper")

    monkeypatch.setattr(answers, "setting", setting)
    monkeypatch.setattr("tlbench.lens.require", require)
    monkeypatch.setattr(answers, "_hash_what_is_read", lambda *_: None)
    assert answers.answer_without_fork(*REQUEST, str(tmp_path), "") is None


def test_the_kept_files_of_a_cell_are_hashed_before_the_fork(monkeypatch, tmp_path):
    models = catalogue.load()
    ensure(models.get("zoo-gpt2"), models)
    kept = {"reference": tmp_path / "reference", "golden": tmp_path / "golden"}
    for path in kept.values():
        path.write_bytes(b"logits")
    hashed = []
    monkeypatch.setattr(answers, "_absent_wrapper", lambda _: None)
    monkeypatch.setattr(answers, "import_architecture", lambda _: None)
    monkeypatch.setattr("tlbench.reference.huggingface.store_path", lambda *_: kept["reference"])
    monkeypatch.setattr("tlbench.reference.golden.store_path", lambda *_: kept["golden"])
    monkeypatch.setattr("tlbench.questions.loading.sha256_of_unchanged", hashed.append)
    monkeypatch.setattr(answers, "kept_path", lambda *_: None)
    answers.answer_without_fork(*REQUEST, str(tmp_path), "")
    assert hashed == [kept["reference"], kept["golden"], kept["golden"]]
    hashed.clear()
    kept["golden"].unlink()
    answers.answer_without_fork(*REQUEST, str(tmp_path), "")
    assert hashed == [kept["reference"]]
    (tmp_path / "record").write_text(json.dumps(plain(FIGURES)))
    monkeypatch.setattr(answers, "kept_path", lambda *_: tmp_path / "record")
    answers.answer_without_fork(*REQUEST, str(tmp_path), "")
    assert hashed == [kept["reference"]], "a record that is kept needs neither"


def test_every_question_is_found_by_its_address_and_has_a_measurer():
    for question in (*registry.QUESTIONS.values(), *costs.QUESTIONS.values()):
        assert find(question.address) is question
        assert callable(question.measurer_function())


def test_what_a_record_has_in_order_is_read_back_in_order(measured, tmp_path):
    """The sites of a depth profile come in the order of computation, and the first wrong one is where a fault is."""
    sites = {name: SiteError(0.0, 0.0, 0.0, 0.0) for name in ("blocks.0.ln1", "blocks.0.attn_out")}
    answers._write(DEPTH, CELL, Outcome(Kind.MEASURED, DepthProfile(CELL, 1, sites, (), (), ())), tmp_path, None)
    record = answers.read(tmp_path / answers.file_name(DEPTH, CELL), DEPTH).require()
    assert list(record.sites) == list(sites)


# What is computed ahead ----------------------------------------------------------------------------------------------


@dataclass
class Noting:
    """A server that notes what it is asked, and fails if told."""

    name: str
    noted: list
    failing: bool = False

    def start(self):
        self.noted.append((self.name, "start"))

    def call(self, address, dtypes, model, before):
        self.noted.append((self.name, address.rpartition(".")[2], dtypes, model))
        if self.failing:
            raise CellFailed("too large")


@pytest.mark.parametrize("failing", [False, True])
def test_a_small_model_s_references_and_goldens_are_computed_while_transformer_lens_is_imported(monkeypatch, failing):
    noted = ahead(monkeypatch, failing, small=True)
    assert sorted(noted) == [
        ("goldens", "golden:compute_ahead", ["float32", "float16"], "zoo-gpt2"),
        ("measuring", "start"),
        ("references", "huggingface:compute_ahead", ["float32", "float16"], "zoo-gpt2"),
    ]


def test_a_large_model_s_golden_comes_first_and_its_references_wait(monkeypatch):
    noted = ahead(monkeypatch, failing=False, small=False)
    assert noted == [("goldens", "golden:compute_ahead", ["float32", "float16"], "zoo-gpt2"), ("measuring", "start")]


def ahead(monkeypatch, failing, small):
    monkeypatch.setattr(answers, "is_small", lambda _: small)
    noted = []
    cells = [replace(CELL, dtype=dtype) for dtype in ("float32", "float16", "float32")]
    servers = [Noting("measuring", noted), *(Noting(name, noted, failing) for name in ("references", "goldens"))]
    answers._start(*servers, dict.fromkeys(cells, (ACCURACY, NOISE_FLOOR)))
    return noted


@pytest.mark.parametrize("at_once", [1, 3])
def test_cells_that_are_measured_together_are_answered_in_order(measured, tmp_path, at_once):
    measured(FIGURES)
    cells = [replace(CELL, option=option) for option in Option]
    started = []
    found = [
        one.cell
        for one in answers.ask_each(Here(tmp_path), [(cell, (ACCURACY,)) for cell in cells], started.append, at_once)
    ]
    assert found == cells
    assert sorted(started) == sorted(cells)


@pytest.mark.parametrize("wrong", [WrongTransformerLens("another commit"), WrongLibrary("another torch")])
def test_another_transformer_lens_or_library_than_the_one_asked_for_says_nothing_of_it(measured, monkeypatch, wrong):
    """It is not TransformerLens that is at fault: a cell that failed would be."""

    def kept_path(*_):
        raise wrong

    measured(FIGURES)
    monkeypatch.setattr(answers, "kept_path", kept_path)
    outcome = attempted(CELL)
    assert (outcome.kind, outcome.reason) == (Kind.NOT_MEASURED, str(wrong))
