"""Which commits of TransformerLens can be measured? A table of all: each builds, installs and imports, or why it does not.

``python -m tools.commits REPOSITORY > table.md`` takes every commit from ``--since`` (v1.3.0) to ``--until`` (main); with
``--commit HASH``, any number of times, only those. It prints Markdown; exit status 1 if a commit fails. Commits that can be
measured are kept in ``--kept``, so an interrupted run continues where it stopped; those that failed are tried again.

Commits share work (:mod:`tlbench.environments.workshop`): those with the same build files one build, those that need the
same packages one environment. Each is imported in a fork of a process that has imported torch and transformers.
"""

import argparse
import hashlib
import json
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console

from tlbench import lens
from tlbench.cli.common import progress_bar
from tlbench.environments import installer
from tlbench.environments.commits import Clone
from tlbench.environments.workshop import Workshop
from tlbench.exceptions import BadInput, CellFailed, NotApplicable, TlbenchError
from tlbench.files import locked
from tlbench.grid import Wrapper
from tlbench.paths import cache_dir
from tlbench.questions.stations import Station
from tlbench.report import render
from tlbench.report.render import Column, Format

COLUMNS = tuple(map(Column, ("commit", "date", "subject", "era", "builds", "installs", "imports", "reason")))


@dataclass(frozen=True)
class Result:
    """What became of one commit.

    Attributes:
        commit: the full hash.
        date: the day of the commit.
        subject: the first line of its message.
        era: "" if it does not build.
        builds: whether it does.
        installs: whether it does.
        imports: the classes that import.
        reason: why it cannot be measured, or "".
    """

    commit: str
    date: str
    subject: str
    era: str = ""
    builds: bool = False
    installs: bool = False
    imports: str = ""
    reason: str = ""

    def row(self):
        words = ["yes" if is_so else "no" for is_so in (self.builds, self.installs)]
        return [self.commit[:8], self.date, self.subject, self.era, *words, self.imports or "no", self.reason]


def main(arguments):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("repository", type=Path)
    parser.add_argument("--since", default="v1.3.0")
    parser.add_argument("--until", default="main")
    parser.add_argument("--commit", action="append", help="only this commit")
    parser.add_argument("--kept", type=Path, help="default: a file in tlbench's cache, for these pins")
    options = parser.parse_args(arguments)
    pins = "".join(path.read_text() for path in sorted(installer.ERAS.glob("*.txt")))
    kept = options.kept or cache_dir() / "commits" / f"{hashlib.sha256(pins.encode()).hexdigest()[:8]}.jsonl"
    kept.parent.mkdir(parents=True, exist_ok=True)
    clone = Clone(options.repository)
    try:
        since, until = clone.resolve(options.since), clone.resolve(options.until)
        commits = [clone.resolve(name) for name in options.commit] if options.commit else first_parents(clone, since, until)
        results = list(examined(clone, commits, kept))
    except TlbenchError as error:
        print(f"tlbench: {error}", file=sys.stderr)
        return 2
    failed = [result for result in results if result.reason]
    title = f"{len(results) - len(failed)} of {len(results)} commits can be measured"
    render.show(Console(), Format.MARKDOWN, title, COLUMNS, [result.row() for result in results])
    return 1 if failed else 0


def first_parents(clone, since, until):
    """Both ends and what lies between, the oldest first."""
    parents, path = clone.parents(until), [until]
    while path[-1] != since:
        if not parents[path[-1]]:
            raise BadInput(f"{since[:8]} is no first parent behind {until[:8]}: name another --since")
        path.append(parents[path[-1]][0])
    return path[::-1]


def examined(clone, commits, kept):
    """The result of each commit, in order. Each is kept as soon as it is known."""
    known = {result.commit: result for result in read(kept) if not result.reason}
    workshop, stations = Workshop(clone), {}
    try:
        with progress_bar(Console(stderr=True)) as progress:
            task = progress.add_task("", total=len(commits))
            for commit in commits:
                details = clone.details(commit, commit)
                progress.update(task, description=f"{details.date} {details.short}")
                if commit not in known:
                    known[commit] = examine(workshop, stations, Result(commit, details.date, details.subject))
                    with locked(kept.with_name(f"{kept.name}.lock")), kept.open("a") as file:
                        file.write(json.dumps(asdict(known[commit])) + "\n")
                yield known[commit]
                progress.advance(task)
    finally:
        for station in stations.values():
            station.close()


def examine(workshop, stations, found):
    """The result of a commit, as far as it gets."""
    values = asdict(found)
    try:
        values |= {"era": installer.era_of(workshop.wheel(found.commit)), "builds": True}
        environment = workshop.environment(found.commit)
        values["installs"] = True
        for digest in [digest for digest in stations if digest != environment.digest]:
            stations.pop(digest).close()
        station = stations.setdefault(environment.digest, Station(environment.python))
        with tempfile.TemporaryDirectory(prefix="tlbench-package-") as folder:
            workshop.write_package(found.commit, environment, Path(folder))
            with station.serving(Path(folder)) as server:
                values["imports"] = " ".join(wrapper for wrapper in Wrapper if has(server, wrapper))
        values["reason"] = "" if values["imports"] else "it has none of the classes"
    except CellFailed as error:
        values["reason"] = " ".join(str(error).split())
    return Result(**values)


def has(server, wrapper):
    """Whether a commit has a class. Raises CellFailed if that does not import."""
    try:
        server.call(lens.require, wrapper)
    except NotApplicable:
        return False
    return True


def read(kept):
    """The results of earlier runs. A last line that was not written whole is none."""
    lines = kept.read_text().splitlines() if kept.exists() else []
    try:
        return [Result(**json.loads(line)) for line in lines]
    except (TypeError, ValueError) as error:
        raise BadInput(f"{kept} is damaged ({error}): delete its last line") from error


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
