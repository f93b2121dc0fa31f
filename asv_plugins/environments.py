"""A page of the site that says in what every commit was measured: ``environments.html``, linked from the first page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from asv.console import log
from asv.publishing import OutputPublisher

from tlbench.environments.metadata import SUFFIX, Facts, differences, read
from tlbench.exceptions import BadInput

PAGE = "environments.html"
LINK = f'<nav style="padding: .3rem 1rem; font: 14px sans-serif"><a href="{PAGE}">What results were measured in</a></nav>'
STYLE = """body { font: 14px sans-serif; margin: 1rem; color: #222; background: #fff }
div { overflow-x: auto } table { border-collapse: collapse } h2 { font-size: 1.1rem }
th, td { text-align: left; vertical-align: top; padding: .2rem .6rem; border-bottom: 1px solid #ddd; max-width: 22rem }
td { overflow-wrap: anywhere; min-width: 9rem } .other { background: #fff3bf }"""

Measured = Sequence[tuple[str, Facts]]
"""Commits by name, oldest first, each with what it was measured in last."""


class EnvironmentsPage(OutputPublisher):  # type: ignore[misc]  # asv has no types
    """Writes the page, after the pages that need no internet are there."""

    name = "environments"
    button_label = "Environments"
    description = "What results were measured in"
    order = 101

    @classmethod
    def publish(cls, conf: Any, repo: Any, benchmarks: Any, graphs: Any, revisions: Any) -> None:
        """Called by ``asv publish``; see :class:`asv.publishing.OutputPublisher`."""
        html = Path(conf.html_dir)
        tags = {commit: tag for tag, commit in repo.get_tags().items()}
        names = {commit[:8]: tags.get(commit, commit[:8]) for commit in sorted(revisions, key=revisions.__getitem__)}
        (html / PAGE).write_text(page(environments(Path(conf.results_dir), names)))
        index = html / "index.html"
        index.write_text(index.read_text().replace("<body>", f"<body>{LINK}"))


def environments(results: Path, names: Mapping[str, str]) -> dict[str, Measured]:
    """By machine, what each commit was measured in last. A damaged file is told of and left out.

    Args:
        results: asv's folder of results.
        names: commits by the eight characters that name their files, oldest first, and how they are called.
    """
    found: dict[str, Measured] = {}
    for machine in sorted(path for path in results.iterdir() if path.is_dir()):
        last: dict[str, Facts] = {}
        for path in sorted(machine.glob(f"*{SUFFIX}")):
            try:
                last |= {path.name[:8]: facts for facts in read(path)}
            except BadInput as error:
                log.warning(str(error))
        if measured := [(name, last[commit]) for commit, name in names.items() if commit in last]:
            found[machine.name] = measured
    return found


def page(machines: Mapping[str, Measured]) -> str:
    """The page. What differs from the commit before it is marked."""
    tables = [f"<h2>{escape(machine)}</h2><div>{_table(measured)}</div>" for machine, measured in machines.items()]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>What results were measured in</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{STYLE}</style></head><body><h1>What results were measured in</h1>"
        '<p><a href="index.html">Back to the results</a>. Marked is what differs from the commit before it; '
        "<code>tlbench env A B</code> compares any two.</p>"
        f"{''.join(tables) or '<p>Nothing was kept.</p>'}</body></html>\n"
    )


def _table(measured: Measured) -> str:
    facts = dict.fromkeys(name for _, found in measured for name in found)
    head = "".join(f"<th>{escape(name)}</th>" for name, _ in measured)
    before = [measured[0][1], *(found for _, found in measured[:-1])]
    changed = [differences(earlier, found) for earlier, (_, found) in zip(before, measured, strict=True)]
    rows = []
    for fact in facts:
        cells = (
            f"<td{' class=other' if fact in other else ''}>{escape(found.get(fact, ''))}</td>"
            for other, (_, found) in zip(changed, measured, strict=True)
        )
        rows.append(f"<tr><th>{escape(fact)}</th>{''.join(cells)}</tr>")
    return f"<table><tr><th></th>{head}</tr>{''.join(rows)}</table>"
