"""Which commits of TransformerLens can be measured? A table of all: each builds, installs and imports, or why it does not.

``python -m tools.commits REPOSITORY > table.md`` takes every commit from ``--since`` (v1.3.0) to ``--until`` (main); with
``--commit HASH``, any number of times, only those. It prints Markdown; exit status 1 if a commit fails. Commits that can be
measured are kept in ``--kept``, so an interrupted run continues where it stopped; those that failed are tried again.

Commits share work: those with the same build files one build, those with the same requirements one installation (by the
installer that asv and ``--tl`` use, in one environment per era), and those with the same package in the same environment one
import, in a fork of a process that has imported torch and transformers (``tools/import_server.py``).
"""

import argparse
import hashlib
import json
import re
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path

from rich.console import Console

from tlbench.cli.common import progress_bar
from tlbench.environments import installer
from tlbench.environments.provenance import PACKAGE
from tlbench.exceptions import BadInput, TlbenchError
from tlbench.files import canonical_json, locked
from tlbench.paths import cache_dir
from tlbench.report import render
from tlbench.report.render import Column, Format

SERVER = Path(__file__).with_name("import_server.py")
CLASSES = ((PACKAGE, "HookedTransformer"), (f"{PACKAGE}.model_bridge", "TransformerBridge"))
BUILD_FILE = re.compile(r"(pyproject\.toml|setup\.(py|cfg)|.*build.*\.py)$")
"""Files that decide how a wheel is built. Of the others, such as README.md, only their presence counts."""
LEFT_OUT = re.compile(r".*\.(ipynb|lock)$")
REASON_LENGTH = 200
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


class Failed(Exception):
    """A step failed, for the reason in the message."""


def main(arguments):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("repository", type=Path)
    parser.add_argument("--since", default="v1.3.0")
    parser.add_argument("--until", default="main")
    parser.add_argument("--commit", action="append", help="only this commit")
    parser.add_argument("--without", action="append", default=[], metavar="PATTERN", help="leave these files out")
    parser.add_argument("--kept", type=Path, help="default: a file in tlbench's cache, for these pins")
    options = parser.parse_args(arguments)
    pins = "".join(path.read_text() for path in sorted(installer.ERAS.glob("*.txt")))
    kept = options.kept or cache_dir() / "commits" / f"{hashlib.sha256(pins.encode()).hexdigest()[:8]}.jsonl"
    kept.parent.mkdir(parents=True, exist_ok=True)
    history = History(options.repository, options.without)
    try:
        commits = history.commits(options.commit or history.walk(options.since, options.until))
        results = list(examined(history, commits, kept))
    except (Failed, TlbenchError) as error:
        print(f"tlbench: {error}", file=sys.stderr)
        return 2
    failed = [result for result in results if result.reason]
    title = f"{len(results) - len(failed)} of {len(results)} commits can be measured"
    render.show(Console(), Format.MARKDOWN, title, COLUMNS, [result.row() for result in results])
    return 1 if failed else 0


def examined(history, commits, kept):
    """The result of each commit, in order. Each is kept as soon as it is known."""
    known = {result.commit: result for result in read(kept) if not result.reason}
    with progress_bar(Console(stderr=True)) as progress, Workshop(history) as workshop:
        task = progress.add_task("", total=len(commits))
        for commit, date, subject in commits:
            progress.update(task, description=f"{date} {commit[:8]}")
            if commit not in known:
                known[commit] = workshop.examine(Result(commit, date, subject))
                with locked(kept.with_name(f"{kept.name}.lock")), kept.open("a") as file:
                    file.write(json.dumps(asdict(known[commit])) + "\n")
            yield known[commit]
            progress.advance(task)


def read(kept):
    """The results of earlier runs. A last line that was not written whole is none."""
    lines = kept.read_text().splitlines() if kept.exists() else []
    try:
        return [Result(**json.loads(line)) for line in lines]
    except (TypeError, ValueError) as error:
        raise BadInput(f"{kept} is damaged ({error}): delete its last line") from error


class History:
    """The commits of a git repository. Files that match a pattern of ``without`` are never read."""

    def __init__(self, repository, without=()):
        self.repository, self.without = repository, [f":(exclude){pattern}" for pattern in without]

    def git(self, *words):
        done = subprocess.run(["git", "-C", self.repository, *words], capture_output=True, check=False)
        if done.returncode:
            raise Failed(f"git {words[0]} in {self.repository}: {last_line(done.stderr.decode(errors='replace'))}")
        return done.stdout

    def walk(self, since, until):
        """First parents, the oldest first, both ends included."""
        newer = self.git("rev-list", "--first-parent", "--reverse", f"{since}..{until}").decode().split()
        return [since, *newer]

    def commits(self, names):
        """The hash, date and subject of each."""
        lines = (self.git("log", "-1", "--format=%H%x09%cs%x09%s", name).decode().strip() for name in names)
        return [line.split("\t", 2) for line in lines]

    def top(self, commit, kind):
        """The hash of each file (``blob``) or folder (``tree``) at the top of a commit, by name."""
        entries = (line.split(maxsplit=3) for line in self.git("ls-tree", "-z", commit).decode().split("\0") if line)
        return {name: digest for _, one_kind, digest, name in entries if one_kind == kind}

    def extract(self, commit, names, folder):
        with zipfile.ZipFile(BytesIO(self.git("archive", "--format=zip", commit, "--", *names, *self.without))) as files:
            files.extractall(folder)


class Workshop:
    """Builds, installs and imports commits, and does nothing twice.

    Attributes:
        done: the result or failure of each step so far, by what decides it.
        servers: an import server for each era, with what its environment has installed.
    """

    def __init__(self, history):
        self.history, self.done, self.servers = history, {}, {}

    def __enter__(self):
        self.folder = tempfile.TemporaryDirectory(prefix="tlbench-commits-")
        return self

    def __exit__(self, *_):
        for _, server in self.servers.values():
            server.kill()
            server.wait()
        self.folder.cleanup()

    def once(self, step, key, function, *arguments):
        """The result of a step, which is done if none with the same key was. Raises ``Failed`` again as it did then."""
        key = f"{step} {canonical_json(key)}"
        if key not in self.done:
            try:
                self.done[key] = function(*arguments)
            except (Failed, installer.InstallError, TlbenchError) as error:
                self.done[key] = Failed(" ".join(str(error).split())[-REASON_LENGTH:])  # uv's last words say most
        if isinstance(self.done[key], Failed):
            raise self.done[key]
        return self.done[key]

    def examine(self, found):
        """The result of a commit, as far as it gets."""
        values = asdict(found)
        try:
            package = self.history.top(found.commit, "tree").get(PACKAGE)
            if package is None:
                raise Failed(f"no folder {PACKAGE}")
            blobs = self.history.top(found.commit, "blob")
            files = {name: digest for name, digest in blobs.items() if not LEFT_OUT.match(name)}
            how = {name: digest if BUILD_FILE.match(name) else "" for name, digest in files.items()}
            wheel = self.once("build", how, self.build, found.commit, files)
            values |= {"builds": True, "era": installer.era_of(wheel)}
            needs = [values["era"], *sorted(map(str, installer.requirements_of(wheel)))]
            self.once("install", needs, self.install, wheel, needs)
            values["installs"] = True
            values["imports"] = self.once("import", [needs, package], self.imports, found.commit, wheel, needs)
        except Failed as error:
            values["reason"] = str(error)
        return Result(**values)

    def new_folder(self):
        return Path(tempfile.mkdtemp(dir=self.folder.name))

    def build(self, commit, files):
        folder = self.new_folder()
        self.history.extract(commit, [*files, PACKAGE], folder / "source")
        installer.build(folder / "source", folder / "wheels")
        (wheel,) = (folder / "wheels").glob("*.whl")
        return wheel

    def install(self, wheel, needs):
        """Bring an era's environment to what a wheel needs, as asv does at each commit, and start its import server."""
        era = needs[0]
        if era in self.servers:
            self.servers.pop(era)[1].kill()
        environment = cache_dir() / "envs" / f"commits-{era}"
        python = environment / "bin" / "python"
        with locked(environment.with_name(f"{environment.name}.lock")):
            if not python.exists():
                installer.run_uv(
                    "venv", "--quiet", "--clear", "--python", sys.executable, str(environment), doing="creating"
                )
            installer.install(wheel, "", str(python))
        command = [python, "-P", SERVER]
        self.servers[era] = needs, subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def imports(self, commit, wheel, needs):
        """Import a commit's own files, beside its wheel's metadata, which TransformerLens reads its version from."""
        if self.servers.get(needs[0], ("", None))[0] != needs:
            self.install(wheel, needs)
        _, server = self.servers[needs[0]]
        folder = self.new_folder()
        self.history.extract(commit, [PACKAGE], folder)
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder, [name for name in archive.namelist() if ".dist-info/" in name])
        server.stdin.write(json.dumps({"folder": str(folder), "modules": CLASSES}) + "\n")
        server.stdin.flush()
        if not (line := server.stdout.readline()):
            raise Failed("the import server died")
        answer = json.loads(line)
        if answer["reason"]:
            raise Failed(" ".join(answer["reason"].split()))
        return " ".join(answer["found"])


def last_line(text):
    lines = [line.strip() for line in text.strip().splitlines() if line.strip()]
    return lines[-1] if lines else "no message"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
