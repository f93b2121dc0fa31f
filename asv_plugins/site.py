"""The published site: asv-tachyon's pages over asv's data, so that it opens without internet.

asv's own page loads its libraries from three content-delivery networks and shows only an error without them.
asv calls every ``OutputPublisher`` before it writes ``index.json``, which is when a benchmark can still be told that less of
it is better; asv-tachyon takes every ``track_`` benchmark for the opposite.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

from asv.publishing import OutputPublisher

UI_PACKAGE = "asv_tachyon"
UI_FOLDER = "static"
NO_BETTER_DIRECTION = "track_error_correlation"
# A benchmark here has hundreds of cells; without this their list pushes the chart out of sight.
STYLE = "<style>.param-chips { max-height: 14rem; overflow-y: auto; }</style>"


class OfflineSite(OutputPublisher):  # type: ignore[misc]  # asv has no types
    """Replaces asv's page by asv-tachyon's, and marks errors as lower-is-better."""

    name = "offline"
    button_label = "Offline pages"
    description = "Pages that need no internet"
    order = 100

    @classmethod
    def publish(cls, conf: Any, repo: Any, benchmarks: Any, graphs: Any, revisions: Any) -> None:
        """Called by ``asv publish``; see :class:`asv.publishing.OutputPublisher`."""
        for benchmark in benchmarks.values():
            if benchmark["type"] == "track":
                benchmark["less_is_better"] = not benchmark["name"].endswith(NO_BETTER_DIRECTION)
        html = Path(conf.html_dir)
        measured = {graph.benchmark_name for _, graph in graphs}
        for name in [name for name in benchmarks if name not in measured]:
            del benchmarks[name]  # asv writes no graph of it, and the pages would ask for one
        write_missing_graphs(html, benchmarks)
        install_pages(html)
        write_sidecars(html)


def write_missing_graphs(html: Path, benchmarks: Iterable[str]) -> None:
    """Where one machine has not measured what another has, an empty graph: the pages ask for every one."""
    graphs = html / "graphs"
    folders = {path.parent for path in graphs.rglob("*.json")} - {graphs / "summary"}
    for path in (folder / f"{name}.json" for folder in folders for name in benchmarks):
        if not path.exists():
            path.write_text("[]")


def write_sidecars(html: Path) -> None:
    """Write the optional files that asv-tachyon asks for, empty: without them a browser reports failed requests."""
    (html / "commits.json").write_text("{}")
    (html / "profiles.json").write_text('{"paths": {}}')
    (html / "regressions-ignore.json").write_text("[]")
    for graph in (html / "graphs").rglob("*.json"):
        samples = html / "samples" / graph.relative_to(html / "graphs")
        samples.parent.mkdir(parents=True, exist_ok=True)
        samples.write_text("{}")


def install_pages(html: Path) -> None:
    """Put asv-tachyon's pages in place of asv's, leaving the data."""
    with as_file(files(UI_PACKAGE) / UI_FOLDER) as pages:
        for entry in pages.iterdir():
            target = html / entry.name
            if entry.is_dir():
                shutil.rmtree(target, ignore_errors=True)
                shutil.copytree(entry, target)
            else:
                shutil.copy2(entry, target)
    index = html / "index.html"
    index.write_text(index.read_text().replace("</head>", f"{STYLE}</head>"))
    # asv's own scripts and styles serve only the page that was replaced.
    for leftover in (*html.glob("*.js"), *html.glob("*.css")):
        leftover.unlink()
    shutil.rmtree(html / "vendor", ignore_errors=True)
