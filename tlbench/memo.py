"""One cell is measured once, however many statistics are read from it.

Within a run the first reader of a cell measures it and leaves the outcome in the run's folder, failures included; the
others read it. Between runs a figure is kept under a hash of everything that decides it (a cell is deterministic), so
that an interrupted run loses nothing; failures are not kept, since a failure may pass (memory, disk).
Set ``TLBENCH_REMEASURE=1`` to measure again.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from pathlib import Path
from typing import Any

from tlbench.cells import Cell
from tlbench.exceptions import CellFailed, CheckpointUnavailable, NotApplicable, TlbenchError
from tlbench.files import canonical_json, locked, sha256_of, tree_digest, write_json
from tlbench.paths import cache_dir, package_dir
from tlbench.record import Measurement

REMEASURE_VARIABLE = "TLBENCH_REMEASURE"


class Kind(StrEnum):
    """How a cell ended."""

    MEASURED = "measured"
    NOT_APPLICABLE = "n/a"
    FAILED = "failed"


@dataclass(frozen=True)
class Outcome:
    """A measurement, or the reason why there is none."""

    kind: Kind
    measurement: Measurement | None = None
    reason: str = ""

    def to_json(self) -> dict[str, Any]:
        """A JSON object."""
        measurement = self.measurement.to_json() if self.measurement else None
        return {"kind": self.kind.value, "measurement": measurement, "reason": self.reason}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Outcome:
        """The outcome that :meth:`to_json` wrote."""
        measurement = Measurement.from_json(data["measurement"]) if data["measurement"] else None
        return cls(Kind(data["kind"]), measurement, data["reason"])

    def require(self) -> Measurement:
        """The measurement.

        Raises:
            NotApplicable: if the cell cannot exist.
            CellFailed: if it could and raised.
        """
        if self.measurement is not None:
            return self.measurement
        if self.kind is Kind.NOT_APPLICABLE:
            raise NotApplicable(self.reason)
        raise CellFailed(self.reason)


def file_name(cell: Cell) -> str:
    """The name of a cell's outcome in a folder of outcomes."""
    return f"{cell.model}-{cell.dtype}-{cell.option}-{cell.wrapper}.json"


def shared_measurement(cell: Cell, run_folder: Path, log_folder: Path | None = None) -> Measurement:
    """The cell's measurement, made now if no other process of this run has made it.

    Args:
        cell: which cell.
        run_folder: a folder that lives as long as the run.
        log_folder: where outcomes are kept for those who ask later why a cell failed or was skipped.

    Raises:
        NotApplicable: if the cell cannot exist, or its hub model cannot be had here.
        CellFailed: if it could and raised.
    """
    path = run_folder / file_name(cell)
    if not path.exists():
        with locked(path.with_suffix(".lock")):
            if not path.exists():
                outcome = attempt(cell)
                write_json(path, outcome.to_json())
                if log_folder is not None:
                    write_json(log_folder / file_name(cell), outcome.to_json())
    return Outcome.from_json(json.loads(path.read_text())).require()


def attempt(cell: Cell, measure: Callable[[Cell], Measurement] | None = None) -> Outcome:
    """Measure a cell, or take the figure that was kept; whatever goes wrong becomes a reason."""
    if measure is None:
        from tlbench.measure import measure as measure_cell

        measure = measure_cell
    try:
        path = kept_path(cell)
        if path.exists() and not os.environ.get(REMEASURE_VARIABLE):
            return Outcome(Kind.MEASURED, Measurement.from_json(json.loads(path.read_text())))
        measurement = measure(cell)
        write_json(path, measurement.to_json())
        return Outcome(Kind.MEASURED, measurement)
    except (NotApplicable, CheckpointUnavailable) as error:
        return Outcome(Kind.NOT_APPLICABLE, reason=str(error))
    except TlbenchError as error:
        return Outcome(Kind.FAILED, reason=str(error))
    except Exception as error:
        return Outcome(Kind.FAILED, reason=f"{type(error).__name__}: {error}")


def kept_path(cell: Cell) -> Path:
    """Where a cell's figure is kept: a name made of everything that decides it.

    Raises:
        WrongTransformerLens: if the imported TransformerLens is not the commit asked for, so that no figure may be kept.
        CellFailed: if TransformerLens does not import.
    """
    key = {"cell": str(cell), **setting(), "checkpoint": _pinned(cell.model)}
    name = hashlib.sha256(canonical_json(key).encode()).hexdigest()
    return cache_dir() / "cells" / name[:2] / f"{name}.json"


@lru_cache
def setting() -> dict[str, str]:
    """What decides every cell alike: the code under test, the libraries, the machine's arithmetic, and tlbench."""
    from importlib.metadata import version

    import torch

    from tlbench.lens import import_transformer_lens
    from tlbench.provenance import prove

    import_transformer_lens()
    return {
        "transformer_lens": prove().package_digest,
        "libraries": canonical_json({name: version(name) for name in ("torch", "transformers", "numpy", "tokenizers")}),
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "tlbench": _code_digest(),
    }


def _code_digest() -> str:
    """A hash of the code that makes figures."""
    folder = package_dir()
    parts = ("lens/*.py", "reference/*.py", "errors.py", "measure.py", "record.py", "cells.py", "prompts.py")
    files = sorted(path for part in parts for path in folder.glob(part))
    return tree_digest({path.relative_to(folder).as_posix(): sha256_of(path) for path in files})


def _pinned(name: str) -> dict[str, Any]:
    from tlbench import catalogue as catalogues
    from tlbench.checkpoints.store import read_pins

    catalogue = catalogues.load()
    model = catalogue.get(name)
    return {
        "files": read_pins(catalogue).get(name),
        "hooked_name": model.hooked_name,
        "replace": dict(model.replace),
        "threads": model.threads,
    }
