"""``numerics.json``: what is known of each model and architecture, for a registry to stand beside its entries."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

from tlbench import catalogue
from tlbench.files import write_json
from tlbench.site.history import MAX, MEAN, RATIO, CellHistory
from tlbench.site.render import anchor

if TYPE_CHECKING:
    from tlbench.catalogue import Model
    from tlbench.site.pages import Site

NAME, SCHEMA = "numerics.json", "numerics.schema.json"
VERSION = 1


def write(site: Site) -> None:
    """Write the newest shown commit's cells, and the JSON schema that the file follows."""
    write_json(site.html / NAME, entries(site), sort=False)
    write_json(site.html / SCHEMA, schema(), sort=False)


def entries(site: Site) -> dict[str, Any]:
    """Every cell that was measured at the newest shown commit, by architecture and model."""
    commit = site.newest
    known = {model.name: model for model in catalogue.load().every}
    found = []
    for one in site.history.cells:
        run = one.at(commit.index)
        if run.state.has_run and one.cell.model in known:
            figures = run.state.figures
            found.append(
                {
                    **_ids(known[one.cell.model]),
                    "measured_model": one.cell.model,
                    "dtype": one.cell.dtype,
                    "option": one.cell.option,
                    "wrapper": one.cell.wrapper,
                    "verdict": run.state.verdict,
                    "ratio": _number(figures.get(RATIO)),
                    "mean_nats": _number(figures.get(MEAN)),
                    "max_nats": _number(figures.get(MAX)),
                    "floor_nats": _floor(site, one),
                    "link": f"history/{one.cell.model}.html#{anchor(one.cell)}",
                }
            )
    return {
        "schema": VERSION,
        "tl_version": str(commit.version) if commit.version else None,
        "tl_commit": commit.hash,
        "transformers": commit.metadata.get("transformers") or None,
        "torch": commit.metadata.get("torch") or None,
        "date": f"{commit.measured_at:%Y-%m-%d}" if commit.measured_at else None,
        "entries": sorted(found, key=lambda entry: json.dumps(entry, sort_keys=True)),
    }


def _ids(model: Model) -> dict[str, str | None]:
    """The Hub's model id, if these are its weights, and HuggingFace's name of the architecture."""
    from tlbench.checkpoints.architectures import architecture_of

    return {"model_id": model.repo or None, "architecture_id": architecture_of(model)}


def _number(value: float | None) -> float | None:
    """A figure; null if there is none, or it is not finite: JSON has no infinity."""
    return value if value is not None and math.isfinite(value) else None


def _floor(site: Site, one: CellHistory) -> float | None:
    floor = site.history.floors.get((one.cell.model, one.cell.dtype, one.cell.option, one.cell.wrapper))
    return _number(floor[2]) if floor and floor[0] == site.newest.index else None


def schema() -> dict[str, Any]:
    """The JSON schema of the file."""
    from tlbench.grid import Dtype, Option, Wrapper
    from tlbench.metrics.verdict import Verdict

    def text(about: str, **more: Any) -> dict[str, Any]:
        return {"type": ["string", "null"], "description": about, **more}

    def figure(about: str) -> dict[str, Any]:
        return {"type": ["number", "null"], "minimum": 0, "description": f"{about} null: not measured, or not finite."}

    entry: dict[str, Any] = {
        "model_id": text(
            "The model on the Hub whose weights these are. null: a small model with random weights, or a derived one."
        ),
        "architecture_id": text("HuggingFace's name of the architecture. null: not known."),
        "measured_model": {"type": "string", "description": "The model's name in tlbench's catalogue."},
        "dtype": {"enum": [*Dtype]},
        "option": {"enum": [*Option], "description": "TransformerLens's weight processing."},
        "wrapper": {"enum": [*Wrapper]},
        "verdict": {"enum": [*Verdict]},
        "ratio": figure("The error of the logits over HuggingFace's own, both against float64."),
        "mean_nats": figure("The mean error of the logits against HuggingFace."),
        "max_nats": figure("The largest error of the logits against HuggingFace."),
        "floor_nats": figure("The largest difference between two runs that should agree."),
        "link": {"type": "string", "description": "The cell's history, relative to this file."},
    }
    header: dict[str, Any] = {
        "schema": {"const": VERSION},
        "tl_version": text("TransformerLens's release. null: the commit is none."),
        "tl_commit": {"type": "string", "pattern": "^[0-9a-f]{40}$"},
        "transformers": text("The version that was measured with."),
        "torch": text("The version that was measured with."),
        "date": text("When it was measured.", pattern=r"^\d{4}-\d{2}-\d{2}$"),
        "entries": {"type": "array", "items": _object(entry)},
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "The numerical error of TransformerLens's models",
        **_object(header),
    }


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": [*properties], "additionalProperties": False}
