"""How fast the site is published and drawn, from generated results as many as a few years of TransformerLens."""

import functools
import gzip
import http.server
import json
import os
import random
import resource
import shutil
import statistics
import subprocess
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

from tlbench.arithmetic import SHARED_MACHINE
from tlbench.grid import Dtype, Option, Wrapper
from tlbench.history import SourceCommit, SourceFile, build_from_trees
from tlbench.metrics.verdict import SEVERITIES, Verdict
from tlbench.report.stored import CHANGED_WEIGHTS
from tlbench.site.history import TRACKS, VERDICT
from tools.perf.bench import BIN, ROOT, at_most

MOVES = 0.01
"""The share of cells that a commit moves: between neighbouring releases a fifth move, and a release is some 20 commits."""
STEPS = 0.1
"""The share of moves that are no mere rounding: 60 of 527 between the releases that are stored."""
COLUMNS = ("result", "params", "version", "started_at", "duration")


def generate(folder: Path, n_commits: int = 500, n_models: int = 84, release_every: int = 40, seed: int = 0) -> list[str]:
    """A folder with asv's configuration, a history, and results of every commit; returns the hashes, oldest first.

    There are 36 cells a model: three dtypes, six options, two wrappers.
    """
    draw, start = random.Random(seed), datetime(2024, 1, 1, tzinfo=UTC)
    sources = [
        SourceCommit(
            f"v1.{i // release_every}.0" if i % release_every == 0 else f"c{i}",
            start + timedelta(days=i),
            f"Change {i}: handle <script>alert({i})</script> & more",
            {"a": SourceFile(str(i).encode())},
        )
        for i in range(n_commits)
    ]
    commits = build_from_trees(folder / "history.git", sources)
    params = [
        [f"'model-{i:03} {wrapper}'" for i in range(n_models) for wrapper in Wrapper],
        *([f"'{word}'" for word in kind] for kind in (Dtype, Option)),
    ]
    n_cells = n_models * len(Dtype) * len(Option) * len(Wrapper)
    figures = [_figures(draw) for _ in range(n_cells)]
    machine = folder / "results" / SHARED_MACHINE
    machine.mkdir(parents=True)
    described = {"machine": SHARED_MACHINE, "os": "", "arch": "", "cpu": "", "num_cpu": "", "ram": "", "version": 1}
    (machine / "machine.json").write_text(json.dumps(described))
    names = ["model and wrapper", "dtype", "option"]
    benchmarks = {n: {"name": n, "param_names": names, "params": params, "type": "track", "unit": "nats"} for n in TRACKS}
    (folder / "results" / "benchmarks.json").write_text(json.dumps({**benchmarks, "version": 2}))
    (folder / "asv.conf.json").write_text(
        json.dumps(
            {
                "version": 1,
                "project": "generated",
                "repo": "history.git",
                "branches": ["main"],
                "dvcs": "git",
                "plugins": [".asv_plugins.site"],
            }
        )
    )
    for i, (hash_, source) in enumerate(zip(commits.values(), sources, strict=True)):
        for k in draw.sample(range(n_cells), int(n_cells * MOVES)):
            figures[k] = _figures(draw) if draw.random() < STEPS else _rounded(draw, figures[k])
        results = {
            name: [[of_cell[t] for of_cell in figures], params, "1", 1.7e12 + i, 1.0] for t, name in enumerate(TRACKS)
        }
        data = {
            "commit_hash": hash_,
            "env_name": "virtualenv-py3.11",
            "date": int(source.time.timestamp() * 1000),
            "params": {"machine": SHARED_MACHINE},
            "python": "3.11",
            "requirements": {},
            "env_vars": {},
            "result_columns": COLUMNS,
            "results": results,
            "durations": {},
            "version": 2,
        }
        stem = f"{hash_[:8]}-virtualenv-py3.11"
        (machine / f"{stem}.json").write_text(json.dumps(data))
        metadata = {"probe": "0" * 64, "torch": "2.13.0", "transformers": "5.23.0", "transformer-lens": "0.0.0"}
        (machine / f"{stem}.environments.jsonl").write_text(json.dumps(metadata) + "\n")
    return list(commits.values())


def _figures(draw: random.Random) -> list[float | None]:
    """One cell's figures: one in a hundred failed, one in ten is not measured."""
    chance = draw.random()
    if chance < 0.01:
        return [None] * len(TRACKS)
    if chance < 0.1:
        return [float("nan")] * len(TRACKS)
    verdict = draw.choice([Verdict.EXACT, Verdict.SAME_ROUNDING, *[Verdict.BENIGN] * 20, Verdict.WORSE])
    size = 10 ** draw.uniform(-7, -1)
    return [SEVERITIES[verdict] if name == VERDICT else size * draw.uniform(0.5, 2) for name in TRACKS]


def _rounded(draw: random.Random, figures: list[float | None]) -> list[float | None]:
    """The same figures after another rounding."""
    return [
        value if value is None or name in (VERDICT, CHANGED_WEIGHTS) else value * draw.uniform(0.85, 1.15)
        for name, value in zip(TRACKS, figures, strict=True)
    ]


def figures(folder: Path):
    """Publish 500 commits of 3,024 cells and 12 tracks, then one more; draw the first page and a cell's nine times each."""
    hashes = generate(folder, n_commits=501)
    results = folder / "results" / SHARED_MACHINE
    (last,) = results.glob(f"{hashes[-1][:8]}-*.json")
    aside = last.rename(folder / last.name)
    yield at_most("site: publishing 500 commits", _publish(folder), "s", 60)
    gibibytes = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    yield at_most("site: memory of publishing", gibibytes, "GiB", 1)
    aside.rename(last)
    yield at_most("site: publishing again after one commit", _publish(folder), "s", 10)
    html = folder / "html"
    size = sum(path.stat().st_size for path in html.rglob("*") if path.is_file())
    yield at_most("site: size", size / 1e6, "MB", 60)
    yield from drawn(html, "generated ", "history/model-000.html#float32.unprocessed")
    shutil.copytree(ROOT / "releases" / "results", folder / "releases" / "results")
    (folder / "releases" / "asv.conf.json").write_text((folder / "asv.conf.json").read_text())
    _publish(folder / "releases")
    yield from drawn(folder / "releases" / "html", "", "history/zoo-gemma.html#float32.fold_ln")


def _publish(folder: Path) -> float:
    started = time.monotonic()
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([BIN / "asv", "publish", "--no-pull"], cwd=folder, env=environment, check=True, capture_output=True)
    return time.monotonic() - started


def drawn(html: Path, what: str, cell: str):
    """How much of the first page a browser fetches, and when Chromium first paints it and a cell's page."""
    parts = ("index.html", "site.css", "site.js")
    compressed = sum(len(gzip.compress((html / name).read_bytes())) for name in parts)
    yield at_most(f"site: {what}first page, compressed", compressed / 1e3, "kB", 100)
    yield at_most(f"site: {what}first page, first paint", _paint(html, "index.html"), "s", 0.5)
    yield at_most(f"site: {what}cell's page, first paint", _paint(html, cell), "s", 1)


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


def _paint(html: Path, address: str) -> float:
    """The median of nine first contentful paints, each in a fresh context, in seconds."""
    from playwright.sync_api import sync_playwright

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Quiet, directory=str(html)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    paint = "() => performance.getEntriesByName('first-contentful-paint')[0]?.startTime"
    times = []
    with sync_playwright() as driver:
        arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=arguments)
        for _ in range(9):
            context = browser.new_context(viewport={"width": 1400, "height": 900})
            page = context.new_page()
            page.goto(f"http://127.0.0.1:{server.server_port}/{address}", wait_until="load")
            times.append(page.wait_for_function(paint).json_value() / 1e3)
            context.close()
        browser.close()
    server.shutdown()
    return statistics.median(times)
