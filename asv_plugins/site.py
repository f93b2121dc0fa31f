"""The published site: asv-tachyon's pages over asv's data. asv's own page shows only an error without the internet.

asv calls every ``OutputPublisher`` before it writes ``index.json``, so this is the place to mark benchmarks as
lower-is-better. asv-tachyon assumes the opposite for every ``track_`` benchmark.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

from asv.publishing import OutputPublisher

UI_PACKAGE, UI_FOLDER = "asv_tachyon", "static"
NO_BETTER_DIRECTION = "track_error_correlation"
# A benchmark here has hundreds of cells. Without this, their list pushes the chart off the screen.
STYLE = "<style>.param-chips { max-height: 14rem; overflow-y: auto; }</style>"


class OfflineSite(OutputPublisher):  # type: ignore[misc]  # asv has no types
    """Replaces asv's page with asv-tachyon's, and marks errors as lower-is-better."""

    name = "offline"
    button_label = "Offline pages"
    description = "Pages that work offline"
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
            del benchmarks[name]  # asv writes no graph for it, but the pages would request one
        write_missing_graphs(html, benchmarks)
        install_pages(html)
        write_sidecars(html)


def write_missing_graphs(html: Path, benchmarks: Iterable[str]) -> None:
    """Write an empty graph for each benchmark that a machine has not measured, because the pages request all of them."""
    graphs = html / "graphs"
    folders = {path.parent for path in graphs.rglob("*.json")} - {graphs / "summary"}
    for path in (folder / f"{name}.json" for folder in folders for name in benchmarks):
        if not path.exists():
            path.write_text("[]")


def write_sidecars(html: Path) -> None:
    """Write empty versions of asv-tachyon's optional files. Without them the browser reports failed requests."""
    (html / "commits.json").write_text("{}")
    (html / "profiles.json").write_text('{"paths": {}}')
    (html / "regressions-ignore.json").write_text("[]")
    for graph in (html / "graphs").rglob("*.json"):
        samples = html / "samples" / graph.relative_to(html / "graphs")
        samples.parent.mkdir(parents=True, exist_ok=True)
        samples.write_text("{}")


def install_pages(html: Path) -> None:
    """Replace asv's pages with asv-tachyon's, keeping the data."""
    with as_file(files(UI_PACKAGE) / UI_FOLDER) as pages:
        shutil.copytree(pages, html, dirs_exist_ok=True)
    index = html / "index.html"
    index.write_text(index.read_text().replace("</head>", f"{STYLE}</head>"))
    # Only the replaced page uses asv's own scripts and styles.
    for leftover in (*html.glob("*.js"), *html.glob("*.css")):
        leftover.unlink()
    shutil.rmtree(html / "vendor", ignore_errors=True)
