"""Has a private part that this repository leans on changed? Run the canaries of ``tests/canaries``.

- ``python -m tools.canaries`` checks asv, torch, transformers and CPython in this environment.
- ``python -m tools.canaries --tl 4.3.0`` checks that release of TransformerLens, in an environment of its own.
- ``python -m tools.canaries --latest`` checks the newest releases of all of them, in temporary environments.

It prints the versions it checked and one line per failing canary: what changed, and which file to look at. Exit status 1
means that a canary failed, 2 that none failed but an environment could not be made.

``$TLBENCH_TORCH_BACKEND`` names the build of torch to install, in uv's words. If ``$UV_FIND_LINKS`` or ``$PIP_FIND_LINKS``
holds a wheel of torch, the newest one there is installed instead: PyPI's is a CUDA build of several gigabytes.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from packaging.requirements import Requirement
from packaging.tags import sys_tags
from packaging.utils import InvalidWheelFilename, parse_wheel_filename
from packaging.version import Version

from tlbench import catalogue
from tlbench.checkpoints import ensure
from tlbench.environments import installer, lens_environment
from tlbench.exceptions import TlbenchError

ROOT = Path(__file__).resolve().parents[1]
LIBRARIES = ("asv", "asv-runner", "torch", "transformers")
TEST_PACKAGES = ("pytest",)
PRINT_VERSIONS = """
import json, platform, sys
from importlib.metadata import PackageNotFoundError, version
versions = {"Python": platform.python_version()}
for name in sys.argv[1:]:
    try:
        versions[name] = version(name)
    except PackageNotFoundError:
        versions[name] = "absent"
print(json.dumps(versions))
"""


@dataclass(frozen=True)
class Report:
    """The canaries of one environment.

    Attributes:
        versions: of the packages they checked, by name.
        count: how many canaries ran.
        failures: a line for each that failed.
    """

    versions: Mapping[str, str]
    count: int
    failures: Sequence[str]

    def show(self) -> None:
        """Print it."""
        versions = ", ".join(f"{name} {version}" for name, version in self.versions.items())
        print(f"{versions}: {len(self.failures)} of {self.count} canaries failed", flush=True)
        for failure in self.failures:
            print(f"  {failure}", flush=True)


def main(arguments: Sequence[str]) -> int:
    """Run the canaries and print their reports."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--latest", action="store_true", help="check the newest releases of everything")
    parser.add_argument("--tl", action="append", metavar="RELEASE", help="check this release of TransformerLens")
    options = parser.parse_args(arguments)
    has_failures = lacks_environment = False
    for report in _reports(options.latest, options.tl or []):
        if isinstance(report, Report):
            report.show()
            has_failures |= bool(report.failures)
        else:
            print(f"tlbench: {report}", file=sys.stderr)
            lacks_environment = True
    return 1 if has_failures else 2 if lacks_environment else 0


def _reports(latest: bool, releases: Sequence[str]) -> Iterator[Report | Exception]:
    """The report on each environment, or the reason why the environment could not be made."""
    if not latest and not releases:
        yield check_libraries(Path(sys.executable))
    for release in releases:
        try:
            yield check_transformer_lens(lens_environment(release).python)
        except TlbenchError as error:
            yield error
    if latest:
        for make, check in ((newest_libraries, check_libraries), (newest_transformer_lens, check_transformer_lens)):
            with tempfile.TemporaryDirectory(prefix="tlbench-canaries-") as folder:
                try:
                    yield check(make(Path(folder)))
                except installer.InstallError as error:
                    yield error


# Running canaries ----------------------------------------------------------------------------------------------------


def check_libraries(python: Path) -> Report:
    """Run the canaries of asv, torch, transformers and CPython with one interpreter."""
    _make_zoo()
    with tempfile.TemporaryDirectory() as folder:
        xml = Path(folder) / "canaries.xml"
        # Without the shared conftest.py: it imports torch and tlbench, and if that failed no canary would run.
        options = ("--noconftest", "-m", "not slow", "-p", "no:cacheprovider", "--quiet", f"--junitxml={xml}")
        done = _run(python, "pytest", "tests/canaries", "--ignore=tests/canaries/test_sentences.py", *options)
        if not xml.exists():
            return Report(_versions(python), 0, [f"pytest did not run: {_last_line(done)}"])
        cases = list(ElementTree.parse(xml).iter("testcase"))
    failures = [
        f"{case.get('name')}: {_sentence(node)}" for case in cases for node in case if node.tag in ("failure", "error")
    ]
    return Report(_versions(python), len(cases), failures)


def check_transformer_lens(python: Path) -> Report:
    """Run the canaries of TransformerLens with the interpreter of an environment that has one."""
    _make_zoo()
    done = _run(python, "tools.canaries_of_tl")
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    versions: dict[str, str] = next((line["versions"] for line in lines if "versions" in line), {})
    results = [line for line in lines if "failure" in line]
    failures = [f"{result['name']}: {result['failure']}" for result in results if result["failure"]]
    if done.returncode != (1 if failures else 0) or not results:
        failures.append(f"the canaries of TransformerLens did not run to the end: {_last_line(done)}")
    return Report(versions, len(results), failures)


def _make_zoo() -> None:
    """Make the small models that canaries load, in the environment that pins how they are made."""
    models = catalogue.load()
    for model in models.models:
        if model.source == "zoo":
            ensure(model, models)


def _run(python: Path, module: str, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1"}
    environment |= {"TRANSFORMERS_VERBOSITY": "error", "TOKENIZERS_PARALLELISM": "false"}
    command = [str(python), "-m", module, *words]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def _sentence(node: Any) -> str:
    """The message of a failing canary. A module that does not import has none: the last line of its error instead."""
    if node.tag == "failure":
        return str(node.get("message", "")).removeprefix("AssertionError: ").splitlines()[0]
    lines = [line.removeprefix("E ").strip() for line in (node.text or "").splitlines() if line.startswith("E ")]
    return lines[-1] if lines else str(node.get("message", ""))


def _last_line(done: subprocess.CompletedProcess[str]) -> str:
    lines = (done.stderr.strip() or done.stdout.strip()).splitlines()
    return lines[-1] if lines else f"exit status {done.returncode} and no output"


def _versions(python: Path) -> dict[str, str]:
    done = subprocess.run([str(python), "-c", PRINT_VERSIONS, *LIBRARIES], capture_output=True, text=True, check=True)
    versions: dict[str, str] = json.loads(done.stdout)
    return versions


# Environments of the newest releases ---------------------------------------------------------------------------------


def newest_libraries(folder: Path) -> Path:
    """Make an environment with the newest release of every dependency of this repository; its interpreter.

    Raises:
        InstallError: if it cannot be made.
    """
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = [Requirement(line).name for line in project["dependencies"]]
    return _environment(folder, [*names, *TEST_PACKAGES], "the newest asv, torch and transformers")


def newest_transformer_lens(folder: Path) -> Path:
    """Make an environment with the newest TransformerLens and the newest dependencies that it accepts; its interpreter.

    Raises:
        InstallError: if it cannot be made.
    """
    names = [name for name, _ in installer.PINNED.findall((installer.ERAS / "common.txt").read_text())]
    return _environment(folder, [installer.PACKAGE, *names], "the newest TransformerLens")


def _environment(folder: Path, names: Sequence[str], what: str) -> Path:
    python = folder / "bin" / "python"
    others = [name for name in names if name != "torch"]
    installer.run_uv("venv", "--quiet", "--clear", "--python", sys.executable, str(folder), doing="making an environment")
    words = ("pip", "install", "--quiet", "--python", str(python), "--upgrade")
    installer.run_uv(*words, *_torch_words(), *others, doing=f"installing {what}")
    return python


def _torch_words() -> list[str]:
    """What to tell uv about torch: the newest version among the local wheels, else the build that is asked for."""
    if versions := local_versions("torch", _find_links()):
        return [f"torch=={max(versions)}"]
    backend = os.environ.get("TLBENCH_TORCH_BACKEND")
    return [*(("--torch-backend", backend) if backend else ()), "torch"]


def _find_links() -> list[Path]:
    """The local folders among uv's and pip's links to packages."""
    links = f"{os.environ.get('UV_FIND_LINKS', '')},{os.environ.get('PIP_FIND_LINKS', '')}"
    paths = [Path(link.removeprefix("file://")) for link in re.split(r"[\s,]+", links) if link]
    return [path for path in paths if path.is_dir()]


def local_versions(name: str, folders: Sequence[Path]) -> list[Version]:
    """The versions of a package of which a folder holds a wheel that fits this interpreter."""
    supported = set(sys_tags())
    versions = []
    for path in (path for folder in folders for path in folder.glob("*.whl")):
        try:
            package, version, _, tags = parse_wheel_filename(path.name)
        except InvalidWheelFilename:
            continue
        if package == name and tags & supported:
            versions.append(version)
    return versions


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
