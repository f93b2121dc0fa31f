"""Ask questions of cells in a server's environment. Each cell is measured once, and every benchmark reads its outcome.

The measuring process writes each outcome, failures included, into the server's folder, which lasts as long as the run.
Between runs, a record is cached under a hash of everything that determines it (cells are deterministic), so an interrupted
run loses nothing. Failures are not cached, since they may be transient (memory, disk). Set ``TLBENCH_REMEASURE=1`` to
measure again.

Importing this module loads neither torch nor TransformerLens, because asv's process imports it only to read outcomes.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from tlbench import arithmetic, checkpoints, device
from tlbench.environments import reference_python
from tlbench.environments.metadata import version_of
from tlbench.environments.provenance import installed_dependencies
from tlbench.environments.sources import code_digest, libraries
from tlbench.exceptions import BadInput, CellFailed, NotApplicable, NotMeasured, TlbenchError
from tlbench.execution.client import Server, beside, named
from tlbench.execution.server import SETTINGS
from tlbench.files import canonical_json, locked, write_json
from tlbench.grid import Cell, Import, RuntimeCell
from tlbench.paths import RUN_VARIABLE, cache_dir, outcomes_dir
from tlbench.questions.question import Question, R, S, find
from tlbench.records.outcome import Kind, Outcome
from tlbench.records.serial import plain, restored
from tlbench.reference import preload as reference
from tlbench.reference.preload import before_computing, import_architecture
from tlbench.spans import Category, span

MEASURING = "measuring"
"""The name of the measuring server."""
IMPORT_LIBRARIES, IMPORT, PRELOAD, PRELOAD_AND_RECORD = (
    f"tlbench.questions.preload:{name}"
    for name in ("import_libraries", "import_everything", "preload", "preload_and_record")
)
REMEASURE_VARIABLE = "TLBENCH_REMEASURE"
TRANSFORMER_LENS = "transformer-lens"
VERSIONS = (TRANSFORMER_LENS, "torch", "transformers", "numpy", "tokenizers")

SMALL_BYTES = 64 * 2**20

Questions = Sequence[Question[Cell, Any]]
Asked = Mapping[Cell, Questions]
"""The questions that each cell is asked."""


@dataclass(frozen=True)
class Answers:
    """The outcomes of one cell, by question name."""

    cell: Cell
    outcomes: Mapping[str, Outcome[Any]]


def shared(question: Question[S, R], cell: S, server: Server) -> R:
    """A cell's record, measured now unless this run already has it. Raises what :meth:`Outcome.require` raises."""
    path = server.folder / file_name(question, cell)
    with span(Category.ANSWER):
        if not path.exists():
            with locked(path.with_suffix(".lock")):
                if not path.exists():
                    ask(server, (question,), cell)
        return read(path, question).require()


def recording_server(folder: Path, python: Path, owner: int) -> Server:
    """The server that measures in an environment for asv, and leaves the outcomes in ``folder``.

    It is forked from the one that computes references there, and ends with the process ``owner``. This one is forked from a
    server that has imported what the commits of the run have in common.
    """
    references = replace(reference_server(folder, python, owner, {}), forked_from=_libraries_server(python, owner))
    return Server(MEASURING, folder, python, owner, PRELOAD_AND_RECORD, forked_from=references)


def _libraries_server(python: Path, owner: int) -> Server | None:
    """The server of an environment that lasts for a whole asv run. Once other packages are installed there, a new one takes
    its place. None if the packages are not known, or outside asv.
    """
    run, packages = os.environ.get(RUN_VARIABLE), installed_dependencies()
    if not run or not packages:
        return None
    folder = Path(run) / hashlib.sha256(str(python).encode()).hexdigest()[:8]
    folder.mkdir(exist_ok=True)
    server = Server(f"libraries-{packages[:8]}", folder, python, owner, IMPORT_LIBRARIES)
    for socket in folder.glob("*.socket"):
        if not socket.name.startswith(server.name):  # it ends without its socket
            socket.unlink(missing_ok=True)
    return server


def reference_server(folder: Path, python: Path, owner: int, settings: Mapping[str, str]) -> Server:
    return Server(named(reference.NAME, python), folder, python, owner, reference.PRELOAD, settings)


@contextmanager
def measuring(python: Path, asked: Asked, settings: Mapping[str, str] = MappingProxyType({})) -> Iterator[Server]:
    """An environment's measuring server, which runs for the duration of the block and is ready to answer these questions.

    It and the servers of references and goldens are forked from servers that only import, and live as long as this process.

    Raises:
        BadInput: if the environment cannot run tlbench.
    """

    lasting = {name: value for name, value in settings.items() if not name.startswith(SETTINGS)}  # requests bring the others

    def imported(interpreter: Path) -> Server:
        return beside("imports", python=interpreter, preload=reference.PRELOAD, variables=lasting)

    def references_of(interpreter: Path) -> Server:
        return replace(reference_server(here, interpreter, os.getpid(), settings), forked_from=imported(interpreter))

    with tempfile.TemporaryDirectory(prefix="tlbench-", ignore_cleanup_errors=True) as folder:
        here = Path(folder)
        lens = beside("lens-imports", python=python, preload=IMPORT, variables=lasting, forked_from=imported(python))
        server = Server(MEASURING, here, python, os.getpid(), PRELOAD, settings, forked_from=lens)
        references, goldens = references_of(python), references_of(reference_python(python))
        try:
            _start(server, references, goldens, asked)
        except CellFailed as error:
            raise BadInput(f"{python} cannot run tlbench: {error}") from error
        yield server


def _start(server: Server, references: Server, goldens: Server, asked: Asked) -> None:
    """Start a measuring server. While it imports TransformerLens, the two others compute what the questions will read.

    A large model's golden comes first, and its references wait for their cells, so that two are never in memory at once.
    """
    small = all(is_small(model) for model in {cell.model for cell in asked})

    def compute(elsewhere: Server, address: str, model: str, dtypes: list[str]) -> None:
        with suppress(TlbenchError):  # the cell will fail in the same way, and report it
            elsewhere.call(address, dtypes, model, before=before_computing)

    pool = ThreadPoolExecutor()
    try:
        needed = _needed(asked, lambda question: question.golden).items()
        computing = [pool.submit(compute, goldens, *key, dtypes) for key, dtypes in needed]
        if not small:
            wait(computing)
        starting = pool.submit(server.start)
        if small:
            needed = _needed(asked, lambda question: question.reference).items()
            computing += [pool.submit(compute, references, *key, dtypes) for key, dtypes in needed]
        for started in (*computing, starting):
            started.result()
    finally:  # if interrupted, nobody waits: the servers end with their folder
        pool.shutdown(wait=False, cancel_futures=True)


def _needed(asked: Asked, address: Callable[[Question[Cell, Any]], str]) -> dict[tuple[str, str], list[str]]:
    """The dtypes in which each model needs what is computed at each address."""
    needed: dict[tuple[str, str], list[str]] = {}
    for cell, questions in asked.items():
        for found in filter(None, map(address, questions)):
            dtypes = needed.setdefault((found, cell.model), [])
            if cell.dtype.value not in dtypes:
                dtypes.append(cell.dtype.value)
    return needed


def interview(
    python: Path,
    questions: Questions,
    cells: Sequence[Cell],
    settings: Mapping[str, str] = MappingProxyType({}),
    starting: Callable[[Cell], None] = lambda _: None,
) -> Iterator[Answers]:
    """Yield each cell's answers, in order. A cell's model is loaded once for all questions.

    Args:
        python: the environment's interpreter, which the server runs in.
        settings: environment variables for the server.
        starting: called before each cell.

    Raises:
        BadInput: if the environment cannot run tlbench.
    """
    with measuring(python, dict.fromkeys(cells, questions), settings) as server:
        yield from ask_each(server, [(cell, questions) for cell in cells], starting)


def ask_each(
    server: Server,
    asked: Sequence[tuple[Cell, Questions]],
    starting: Callable[[Cell], None] = lambda _: None,
    at_once: int = 1,
) -> Iterator[Answers]:
    """Yield each cell's answers, in order, while ``at_once`` cells are measured. ``starting`` is called before each cell."""

    def answers_of(one: tuple[Cell, Questions]) -> Answers:
        cell, questions = one
        starting(cell)
        return Answers(cell, ask(server, questions, cell))

    if at_once == 1:
        yield from map(answers_of, asked)
        return
    pool = ThreadPoolExecutor(at_once)
    try:
        yield from pool.map(answers_of, asked)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def is_small(model: str) -> bool:
    """Whether several processes may load a model of the catalogue at once, because it takes little memory and few cores."""
    return sum(file.stat().st_size for file in checkpoints.named(model).folder.glob("*.safetensors")) <= SMALL_BYTES


def ask(server: Server, questions: Sequence[Question[S, Any]], cell: S) -> dict[str, Outcome[Any]]:
    """The outcome of each question. If the measurement dies or is stopped, the unanswered questions count as failed.

    Outcomes also go into the outcomes folder of an asv run, which later explains why a cell failed.
    """
    paths = {question: server.folder / file_name(question, cell) for question in questions}
    log = outcomes_dir()
    request = ([question.address for question in questions], plain(cell), str(server.folder), str(log or ""))
    reason = ""
    try:
        for _ in server.stream(answer, *request, before=answer_without_fork):
            pass
    except TlbenchError as error:
        reason = str(error)
    except KeyboardInterrupt:
        raise
    except BaseException:  # asv's time limit
        reason = "stopped while measuring: it exceeded asv's time limit"
        raise
    finally:
        for question, path in paths.items():
            if reason and not path.exists():
                _write(question, cell, Outcome(Kind.FAILED, reason=reason), server.folder, log)
    return {question.name: read(path, question) for question, path in paths.items()}


def read(path: Path, question: Question[Any, R]) -> Outcome[R]:
    """Read the outcome at a path."""
    outcome: Outcome[R] = restored(Outcome[question.record], json.loads(path.read_text()))  # type: ignore[name-defined]
    return outcome


def file_name(question: Question[Any, Any], cell: Any) -> str:
    """The file name of an outcome in its folder."""
    return f"{question.name}-{str(cell).replace(' ', '-')}.json"


def answer(addresses: Sequence[str], fields: dict[str, str], folder: str, log: str) -> Iterator[str]:
    """In a server's fork: answer questions about one cell, write each outcome, and yield the question's name.

    ``fields`` are the cell's. Outcomes go into ``folder``, and into ``log`` too unless it is "".
    """
    questions = [find(address) for address in addresses]
    cell = restored(questions[0].cell, fields)
    subject = _Subject(cell, questions)
    for question in questions:
        _write(question, cell, attempt(question, cell, subject.measure), Path(folder), Path(log) if log else None)
        yield question.name


def answer_without_fork(addresses: Sequence[str], fields: dict[str, str], folder: str, log: str) -> list[str] | None:
    """In a server, before forking: answer at once if this TransformerLens has no such wrapper, or if everything is kept.
    Otherwise None.

    Also hash the files that the fork will read, if they exist, so that no fork has to.
    """
    questions = [find(address) for address in addresses]
    cell = restored(questions[0].cell, fields)
    if (absent := _absent_wrapper(cell)) is not None:
        outcomes = [absent] * len(questions)
    elif not (outcomes := _kept_outcomes(questions, cell)):
        if not isinstance(cell, Import):
            _hash_what_is_read(questions, cell)
        return None
    for question, outcome in zip(questions, outcomes, strict=True):
        _write(question, cell, outcome, Path(folder), Path(log) if log else None)
    return [question.name for question in questions]


def versions() -> dict[str, str]:
    """The package versions in this environment."""
    return {name: version_of(name) for name in VERSIONS}


def attempt(question: Question[S, R], cell: S, measure: Callable[[Question[S, R]], R]) -> Outcome[R]:
    """Measure a cell or read its cached record. Any exception becomes the outcome's reason."""
    try:
        with span(Category.KEEP):
            path = kept_path(question, cell)
            if (kept := _kept(question, path)) is not None:
                return Outcome(Kind.MEASURED, kept)
            with span(Category.ARITHMETIC):  # anything else inside has its own span
                record = measure(question)
            if path and getattr(record, "is_final", True):  # another run would find the same
                with suppress(BadInput):  # a full or read-only cache makes the next run measure again, and loses no figure
                    write_json(path, plain(record), sort=False)
            return Outcome(Kind.MEASURED, record)
    except NotApplicable as error:
        return Outcome(Kind.NOT_APPLICABLE, reason=str(error))
    except NotMeasured as error:
        return Outcome(Kind.NOT_MEASURED, reason=str(error))
    except TlbenchError as error:
        return Outcome(Kind.FAILED, reason=_of_any_machine(str(error)))
    except Exception as error:
        return Outcome(Kind.FAILED, reason=_of_any_machine(f"{type(error).__name__}: {error}"))


def _of_any_machine(reason: str) -> str:
    """A reason without the place of this machine's cache: results are committed and merged."""
    return reason.replace(f"{cache_dir()}{os.sep}", "")


def _kept(question: Question[S, R], path: Path | None) -> R | None:
    """The record that an earlier run cached, if this run may use it. A damaged file counts as absent and is replaced."""
    if path is None or os.environ.get(REMEASURE_VARIABLE):
        return None
    with suppress(FileNotFoundError, ValueError):
        return restored(question.record, json.loads(path.read_text()))
    return None


def kept_path(question: Question[S, R], cell: S) -> Path | None:
    """Where a cell's record is cached: the name hashes everything that determines it. None if it is not cached.

    Raises CellFailed if TransformerLens does not import, or is not the requested commit, so that nothing may be cached.
    """
    environment = setting()
    if not question.is_kept or isinstance(cell, Import):
        return None
    key = {"question": question.name, "cell": str(cell), **environment, "checkpoint": pinned(cell.model)}
    key["code"] = code_digest(question.module)
    name = hashlib.sha256(canonical_json(key).encode()).hexdigest()
    return cache_dir() / "cells" / name[:2] / f"{name}.json"


def kept_names(addresses: Sequence[str], fields: Sequence[dict[str, str]]) -> list[list[str]]:
    """In a server's fork: the names under which each cell's records are cached, question by question.

    ``fields`` are the cells'. Raises what :func:`kept_path` raises.
    """
    questions = [find(address) for address in addresses]
    cells = [restored(questions[0].cell, one) for one in fields]
    paths = [[kept_path(question, cell) for question in questions] for cell in cells]
    return [[path.stem for path in of_cell if path] for of_cell in paths]


def proved() -> dict[str, str]:
    """In a server's fork: the lane that it computes in and its probe. Raises what :func:`kept_path` raises."""
    return {name: str(value) for name, value in setting()["arithmetic"].items()}


@lru_cache
def setting() -> dict[str, Any]:
    """What determines all cells alike: the code under test, the libraries behind it, the arithmetic and the device."""
    from tlbench.environments.provenance import prove
    from tlbench.lens import import_transformer_lens

    import_transformer_lens()
    installed = libraries(TRANSFORMER_LENS, "torch", "transformers")
    return {
        "transformer_lens": prove().package_digest,
        # TransformerLens reports 0.0.0 or its release at every commit, so its files count instead of its version.
        "libraries": {name: version for name, version in installed.items() if name != TRANSFORMER_LENS},
        "arithmetic": asdict(arithmetic.establish()),
        "device": device.current(),
    }


class _Subject:
    """A cell whose model is loaded when a question first needs it, after the references that the questions read."""

    def __init__(self, cell: Any, questions: Sequence[Question[Any, Any]]) -> None:
        self.cell = cell
        self.references = list(dict.fromkeys(attention for question in questions for attention in question.references))

    @cached_property
    def loaded(self) -> Any:
        from tlbench.questions.loading import load_cell

        return load_cell(self.cell, self.references)

    def measure(self, question: Question[Any, R]) -> R:
        measurer = question.measurer_function()
        return measurer(self.cell, self.loaded) if isinstance(self.cell, Cell) else measurer(self.cell)


def _absent_wrapper(cell: Any) -> Outcome[Any] | None:
    """The not-applicable outcome if this TransformerLens has no such wrapper. Other errors are left to the fork."""
    with suppress(Exception):
        from tlbench.lens import require

        setting()  # raises if this is not the requested TransformerLens
        try:
            if isinstance(cell, Cell | RuntimeCell):
                require(cell.wrapper)
        except NotApplicable as reason:
            return Outcome(Kind.NOT_APPLICABLE, reason=str(reason))
    return None


def _kept_outcomes(questions: Sequence[Question[Any, Any]], cell: Any) -> list[Outcome[Any]]:
    """The outcome of each question if all records are kept, else []. Errors are left to the fork."""
    outcomes = []
    with suppress(Exception):
        for question in questions:
            if (record := _kept(question, kept_path(question, cell))) is None:
                return []
            outcomes.append(Outcome(Kind.MEASURED, record))
        return outcomes
    return []


def _hash_what_is_read(questions: Sequence[Question[Any, Any]], cell: Any) -> None:
    from tlbench.questions.loading import hash_kept

    import_architecture(checkpoints.named(cell.model).folder)
    for question in questions:
        if isinstance(cell, Cell) and question.references and _kept(question, kept_path(question, cell)) is None:
            hash_kept(cell, question.references)


def _write(question: Question[Any, Any], cell: Any, outcome: Outcome[Any], folder: Path, log: Path | None) -> None:
    data = {**plain(outcome), "question": question.name, "cell": str(cell)}
    for destination in (log, folder):  # readers wait for the one in ``folder``, so it comes last
        if destination is not None:
            write_json(destination / file_name(question, cell), data, sort=False)


def pinned(name: str) -> dict[str, Any]:
    """What determines a model of the catalogue: its entry, and the hashes of its files."""
    from tlbench import catalogue as catalogues
    from tlbench.checkpoints.store import read_pins

    catalogue = catalogues.load()
    entry = asdict(catalogue.get(name))
    del entry["path"]  # the pinned files say what is there
    return {**entry, "files": read_pins(catalogue).get(name)}
