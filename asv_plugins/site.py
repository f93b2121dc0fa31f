"""The published site: asv-tachyon's pages over asv's data. asv's own page shows only an error without the internet.

asv calls every ``OutputPublisher`` before it writes ``index.json``, so this is the place to mark benchmarks as
lower-is-better. asv-tachyon assumes the opposite for every ``track_`` benchmark.

The published copy of its scripts is patched, so that no page shows a figure that is in no result file:

- An axis had 64 pixels and cut off the left of a longer label: 0.000001700 nats became 1700 nats. Now small and large
  figures have an exponent, and an axis is as wide as its labels.
- Several pages showed the arithmetic mean over all cells of a benchmark, models and dtypes together. They are gone.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from importlib.metadata import version
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

from asv.publishing import OutputPublisher
from asv.util import UserError

from tlbench.arithmetic import SHARED_MACHINE

UI_PACKAGE, UI_FOLDER = "asv_tachyon", "static"
NO_BETTER_DIRECTION = "track_error_correlation"
# A benchmark here has hundreds of cells. Without this, their list pushes the chart off the screen.
STYLE = "<style>.param-chips { max-height: 14rem; overflow-y: auto; }</style>"
SCRIPTS = "assets/*.js"
PATCHES = {
    # Four digits, with an exponent where the zeros would be more.
    'a.toPrecision(4)+(r&&r!=="unit"?` ${r}`:"")': (
        "(a&&(Math.abs(a)<1e-3||Math.abs(a)>=1e5)?(+a.toPrecision(4)).toExponential():String(+a.toPrecision(4)))"
        '+(r&&r!=="unit"?` ${r}`:"")'
    ),
    # uPlot asks for the width of an axis with its labels: 11 pixels of a monospaced font are less than 7 wide.
    "size:64,values:": "size:(_,labels)=>Math.max(64,24+7*Math.max(0,...(labels||[]).map(label=>label.length))),values:",
    # A benchmark with parameters has no figure of its own.
    "return c.length?c.reduce((r,u)=>r+u,0)/c.length:null": "return a.length===1&&c.length?c[0]:null",
    'const Hv=["overview","explore","compare","inventory","regressions","heatmap","grid","multiples"]': (
        'const Hv=["explore","inventory","regressions","grid"]'
    ),
    '{id:"overview",label:"Overview"},': "",
    '{id:"heatmap",label:"Heatmap"},': "",
    '{id:"multiples",label:"Multiples"},': "",
    '{id:"compare",label:"Compare"},': "",
    '[y,b]=te.useState("overview")': '[y,b]=te.useState("explore")',
    # The machine to begin with is the one that has the errors of every release.
    "const u=a.graph_param_list[0],": (
        f'const own=p=>p.machine==="{SHARED_MACHINE}",alike=p=>String(p.machine).startsWith("{SHARED_MACHINE}"),'
        "all=a.graph_param_list,u=all.find(own)||all.find(alike)||all[0],"
    ),
}
"""What is replaced in asv-tachyon's scripts, once each."""


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
    patch_scripts(html)
    # Only the replaced page uses asv's own scripts and styles.
    for leftover in (*html.glob("*.js"), *html.glob("*.css")):
        leftover.unlink()
    shutil.rmtree(html / "vendor", ignore_errors=True)


def patch_scripts(html: Path) -> None:
    """Apply :data:`PATCHES`. Raises UserError if the scripts are not as expected."""
    scripts = {path: path.read_text() for path in html.glob(SCRIPTS)}
    for old, new in PATCHES.items():
        if sum(text.count(old) for text in scripts.values()) != 1:
            raise UserError(
                f"asv-tachyon {version(UI_PACKAGE)} is not the version that this repository patches, and would show figures "
                f"that nobody measured: install the one in requirements.lock (not found once: {old})"
            )
        scripts = {path: text.replace(old, new) for path, text in scripts.items()}
    for path, text in scripts.items():
        path.write_text(text)
