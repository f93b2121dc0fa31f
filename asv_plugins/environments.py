"""Publish ``environments.html``: the environment each commit was measured in. The first page links to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from asv.console import log
from asv.publishing import OutputPublisher

from tlbench.environments.metadata import SUFFIX, Metadata, differences, read
from tlbench.exceptions import BadInput

PAGE = "environments.html"
LINK = f'<nav style="padding: .3rem 1rem; font: 14px sans-serif"><a href="{PAGE}">Environments</a></nav>'
STYLE = """body { font: 14px sans-serif; margin: 1rem; color: #222; background: #fff }
div { overflow-x: auto } table { border-collapse: collapse } h2 { font-size: 1.1rem }
th, td { text-align: left; vertical-align: top; padding: .2rem .6rem; border-bottom: 1px solid #ddd; max-width: 22rem }
td { overflow-wrap: anywhere; min-width: 9rem } .other { background: #fff3bf }"""

Measured = Sequence[tuple[str, Metadata]]
"""Commit names, oldest first, each with the environment of its last run."""


class EnvironmentsPage(OutputPublisher):  # type: ignore[misc]  # asv has no types
    """Writes the page, after :class:`asv_plugins.site.OfflineSite` has written its own."""

    name = "environments"
    button_label = "Environments"
    description = "Environments that results were measured in"
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
    """The environment that each commit was last measured in, by machine. A damaged file is skipped with a warning.

    ``results`` is asv's folder; ``names`` are the commits' names, oldest first, by the first eight characters of the hash.
    """
    environments_by_machine: dict[str, Measured] = {}
    for machine in sorted(path for path in results.iterdir() if path.is_dir()):
        last: dict[str, Metadata] = {}
        for path in sorted(machine.glob(f"*{SUFFIX}")):
            try:
                last |= {path.name[:8]: metadata for metadata in read(path)}
            except BadInput as error:
                log.warning(str(error))
        if measured := [(name, last[commit]) for commit, name in names.items() if commit in last]:
            environments_by_machine[machine.name] = measured
    return environments_by_machine


def page(machines: Mapping[str, Measured]) -> str:
    """The page's HTML, with changes from the previous commit highlighted."""
    tables = [f"<h2>{escape(machine)}</h2><div>{_table(measured)}</div>" for machine, measured in machines.items()]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Environments</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{STYLE}</style></head><body><h1>Environments</h1>"
        '<p><a href="index.html">Back to the results</a>. Changes from the previous commit are highlighted; '
        "<code>tlbench env A B</code> compares any two.</p>"
        f"{''.join(tables) or '<p>No environments are stored.</p>'}</body></html>\n"
    )


def _table(measured: Measured) -> str:
    names, environments = zip(*measured, strict=True)
    previous = (environments[0], *environments[:-1])
    changes = [differences(earlier, later) for earlier, later in zip(previous, environments, strict=True)]
    rows = ["<th></th>" + "".join(f"<th>{escape(name)}</th>" for name in names)]
    for field in dict.fromkeys(field for environment in environments for field in environment):
        row = f"<th>{escape(field)}</th>"
        for environment, changed in zip(environments, changes, strict=True):
            row += f"<td{' class=other' if field in changed else ''}>{escape(environment.get(field, ''))}</td>"
        rows.append(row)
    return f"<table>{''.join(f'<tr>{row}</tr>' for row in rows)}</table>"
