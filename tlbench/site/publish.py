"""Publish the site: read the stored results, and write every page."""

from __future__ import annotations

import ast
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tlbench.exceptions import BadInput
from tlbench.files import folder_written_whole
from tlbench.paths import package_dir
from tlbench.records import news
from tlbench.report.stored import UNTAGGED, StoredResults, version_of
from tlbench.site import findings, history, searched
from tlbench.site.commits import MeasuredCommit, from_ms, subjects
from tlbench.site.history import History
from tlbench.site.pages import Site

CACHE = Path(".asv") / "site"
"""Where what was read of results files is kept, beside asv's configuration. Safe to delete."""
SHOWN = 60
"""The most commits that have a page: the newest releases, and the newest commit."""
FACTORY = "transformer_lens/factories/architecture_adapter_factory.py"
SUPPORTED = "SUPPORTED_ARCHITECTURES"
"""Where TransformerLens names the architectures that TransformerBridge supports."""


def publish(conf: Any, html: Path, only: Sequence[str] | None = None) -> list[str]:
    """Write the site of a configuration's results, whole or not at all.

    Args:
        conf: asv's configuration, as asv has read it; its paths are relative to the current folder.
        html: the folder to write; an earlier site there is replaced.
        only: the hashes to show; None for every measured commit.

    Returns:
        What could not be shown, in sentences. The site says it too.

    Raises:
        BadInput: if ``html`` holds something else than a site, or a finding is malformed.
    """
    stored = StoredResults.of(conf, Path.cwd())
    found = history.read(stored.results_folder, stored.folder / CACHE)
    sheets = [sheet for sheet in found.sheets if only is None or sheet.commit in only]
    lanes = history.lanes(sheets)
    lane = next(iter(lanes), None)
    of_lane = history.build(lane, lanes[lane] if lane else sheets, found.problems)
    commits = _commits(stored, of_lane, "" if conf.show_commit_url in ("", "#") else str(conf.show_commit_url))
    shown = [commit for commit in commits if commit.is_release or commit is commits[-1]][-SHOWN:]
    whole = [
        history.load(path)
        for commit in shown
        for path in sorted(stored.results_folder.glob(f"*/{commit.short}-*.json"))
        if any(sheet.commit == commit.hash and sheet.machine == path.parent.name for sheet in sheets)
    ]
    if html.exists() and not _is_site(html):
        raise BadInput(f"{html} holds something else than a site: move it, or publish elsewhere with --html-dir")
    with folder_written_whole(html) as folder:
        Site(
            html=folder,
            history=of_lane,
            commits=commits,
            shown=shown,
            stored=StoredResults.of(conf, Path.cwd(), whole) if whole else None,
            findings=findings.read(docs_folder() / "findings"),
            searched=searched.read(docs_folder() / "steps"),
            problems=found.problems,
            other_lanes={other: len(own) for other, own in lanes.items() if other != lane},
            supported=_supported(stored.repository, shown[-1].hash) if shown else (),
            releases=sorted(filter(None, map(version_of, stored.tags.values()))) if stored.repository else (),
            source=stored.folder.name,
            news=news.read(stored.folder / news.FOLDER),
        ).write()
        (folder / ".nojekyll").touch()
        folder.chmod(0o755)  # a temporary folder is its owner's alone
    return found.problems


def docs_folder() -> Path:
    """The docs of this checkout; without one there are no findings and no searched steps."""
    return package_dir().parent / "docs"


def _is_site(html: Path) -> bool:
    """Whether a folder is empty or was written by asv or by this module."""
    names = {path.name for path in html.iterdir()} if html.is_dir() else {""}
    return not names or "index.html" in names


def _commits(stored: StoredResults, of_lane: History, commit_url: str) -> list[MeasuredCommit]:
    said = subjects(stored.repository, of_lane.hashes)
    tags: Mapping[str, str] = stored.tags if stored.repository else _tags_by_version(of_lane)
    rows = zip(of_lane.hashes, of_lane.dates_ms, of_lane.started_ms, of_lane.machines, of_lane.metadata, strict=True)
    return [
        MeasuredCommit(
            index=i,
            hash=hash_,
            date=from_ms(date) or datetime.fromtimestamp(0, UTC),
            tag=tags.get(hash_, ""),
            subject=said.get(hash_, ""),
            url=f"{commit_url}{hash_}" if commit_url else "",
            measured_at=from_ms(started),
            machines=tuple(machines),
            metadata=metadata,
        )
        for i, (hash_, date, started, machines, metadata) in enumerate(rows)
    ]


def _tags_by_version(of_lane: History) -> dict[str, str]:
    """Without the repository, the releases that the results' metadata names."""
    versions = {h: data.get("transformer-lens", "") for h, data in zip(of_lane.hashes, of_lane.metadata, strict=True)}
    return {hash_: f"v{version}" for hash_, version in versions.items() if version not in ("", UNTAGGED)}


def _supported(repository: Path | None, commit: str) -> tuple[str, ...]:
    """The architectures that a commit's TransformerBridge supports, read from its source; none if that is not at hand."""
    if repository is None:
        return ()
    command = ["git", "-C", str(repository), "show", f"{commit}:{FACTORY}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    with suppress(SyntaxError):
        for node in ast.parse(done.stdout).body:
            if isinstance(node, ast.Assign | ast.AnnAssign):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                named = any(isinstance(target, ast.Name) and target.id == SUPPORTED for target in targets)
                if named and isinstance(node.value, ast.Dict):
                    return tuple(str(key.value) for key in node.value.keys if isinstance(key, ast.Constant))
    return ()
