"""Every command that the README and the quick start print runs as printed, after `make bench` over one small model.

What is shortened is the grid and the range, never a command's form. A command that is new on a page fails until it is listed
here with how it ends.
"""

import os
import re
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import PIPE, STDOUT

import pytest

from tests.e2e.conftest import BIN, ROOT
from tlbench import catalogue
from tlbench.checkpoints import ensure
from tlbench.paths import cache_dir

PAGES = ("README.md", "docs/quick-start.md")
ELSEWHERE = {
    "git clone URL-OF-THIS-REPOSITORY tlbench": "the clone is a copy of the files as they are here",
    "make test": "this is one of its tests",
}
"""What is not run here, and why."""
GEMMA = r"accuracy.Logit.track_max\('zoo-gemma HookedTransformer', 'float32', 'unprocessed'\)"
FIND = f'asv find --machine shared-x86-64-local "v2.18.0^..v3.5.1" "{GEMMA}"'
ENDS = {
    "make bench": (0, r"Site: html/index.html"),
    "tlbench status 4.3.0": (1, r"wrong in logits, hooks and reading; failed in logits"),
    "tlbench coverage": (0, r"103 have a model: 15,131 of 15,135 models"),
    "tlbench status 4.3.0 --since 3.5.1": (3, r"nowhere worse than v3\.5\.1 where both were measured"),
    "tlbench verify path/to/model --tl 4.3.0": (1, r"^WRONG .*: logits right in all 18 configurations"),
    "tlbench where path/to/model --tl 4.3.0": (0, r"no component is wrong"),
    "tlbench advise smollm2-135m --effect 0.01nats": (0, r"TransformerBridge is safe in float32 with\s+every option"),
    "tlbench verify zoo-gpt2 --tl path/to/TransformerLens": (0, r"^RIGHT .*: logits right in all 6 configurations"),
    "tlbench find v2.18.0..v3.5.1 --model zoo-gemma": (0, r"^alarm  10b35403 .*TransformerLens 3\.0\.0"),
    "tlbench check release my-branch": (0, r"^NOT WORSE  "),
    "tlbench table --space logit --model smollm2-135m --option all_options --format markdown --commit v4.3.0": (
        0,
        r"4\.11908e-05 \| 2\.84431e-06 \| 2\.28803e-06",
    ),
    "cd tlbench": (0, ""),
    "make .venv/bin/tlbench": (0, ""),
    'export PATH="$PWD/.venv/bin:$PATH"': (0, ""),
    "tlbench history": (0, r"84 releases|\d{2,} releases, v"),
    "cd releases": (0, ""),
    "tlbench advise smollm2-135m --effect 0.01nats --commit 4.3.0": (0, r"on TransformerLens\s+v4\.3\.0"),
    "tlbench table --space logit --model smollm2-135m --commit 2.18.0 --commit 4.3.0": (0, r"v2\.18\.0[\s\S]*v4\.3\.0"),
    "tlbench checkpoints zoo-gpt2": (0, r"zoo-gpt2 "),
    "tlbench golden zoo-gpt2": (0, r"zoo-gpt2 +float64"),
    'asv run --machine shared-x86-64-local --bench "(accuracy|truth).*zoo-gpt2" "v4.3.0^!"': (
        0,
        r"zoo-gpt2 TransformerBridge +bfloat16 ",
    ),
    "tlbench verdicts --machine shared-x86-64-local --commit v4.3.0 --model zoo-gpt2": (0, r"no cell is wrong"),
    "tlbench where zoo-mixtral --tl 2.18.0 --wrapper HookedTransformer --option all_options": (
        1,
        r"the first wrong component is pattern of block 0: its error is 1, ",
    ),
    "tlbench table --space logit --model zoo-gemma --commit 2.18.0 --commit 3.5.1": (0, r"zoo-gemma"),
    "tlbench checkpoints zoo-gemma": (0, r"zoo-gemma "),
    FIND: (
        0,
        r"found: 10b35403[\s\S]*Verified: the figure is 1\.8\d*e-05 at \w+ <v2\.18\.0> and 0\.00058\d* at 10b35403",
    ),
}
"""Each command with its exit status, and what its output must have."""
ONE_CELL = r"'zoo-gpt2 TransformerBridge', 'float32', 'unprocessed'"
SMALL = {
    "BENCH_TAGS": "v4.3.0",
    "BENCH_MODELS": "zoo-gpt2",
    "BENCH": rf"(accuracy\.Logit|truth\.TransformerLens).*\({ONE_CELL}",
    "BENCH_COSTS": r"runtime\.Slowdown\.track_forward\('zoo-gpt2 HookedTransformer', 'all_options', 'float32 1x64 cpu'",
}
"""A grid of one cell for `make bench`. A cost would be timed for a minute and more, so this one 4.3.0 does not have."""
SHORTER = {
    "v2.18.0^..v3.5.1": "v2.18.0^..v3.1.0",
    "(accuracy|truth).*zoo-gpt2": f"accuracy.*{ONE_CELL.replace('float32', 'bfloat16')}",
    "--tl path/to/TransformerLens": "--tl path/to/TransformerLens --dtype float32 --question logits",
    "v3.5.1 --model zoo-gemma": "v3.1.0 --model zoo-gemma --dtype float32 --option unprocessed",
    "release my-branch": "release v4.3.0 --model zoo-gpt2 --dtype float32",
}
RESULTS = Path("releases", "results")


def printed(page):
    """The commands of a page, in order."""
    text = (ROOT / page).read_text()
    for block in re.finditer(r"^```\w*\n(.*?)^```|`((?:asv|make|tlbench) [^`]+)`", text, re.MULTILINE | re.DOTALL):
        lines = (block[1] or block[2]).splitlines()
        prompted = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]  # the others are output
        yield from (re.sub(r"\s{2,}#.*", "", line) for line in prompted or lines)


@dataclass
class Shell:
    """A reader's shell.

    Attributes:
        folder: where it is.
        replaced: what a reader replaces in a command.
        variables: its environment.
        have_run: the commands so far. Those of tlbench end the same when they run again, so they run once.
    """

    folder: Path
    replaced: dict[str, str]
    variables: dict[str, str] = field(default_factory=lambda: dict(os.environ))
    have_run: set[str] = field(default_factory=set)

    def run(self, command):
        """Run a printed command: its exit status and all that it prints."""
        for words, own in (SHORTER | self.replaced).items():
            command = command.replace(words, own)
        script = f'{command}\nstatus=$?; printf "%s\n" "$PWD" "$PATH" > "$STATE"; exit $status'
        done = subprocess.run(
            ["bash", "-c", script], cwd=self.folder, env=self.variables, stdout=PIPE, stderr=STDOUT, text=True, check=False
        )
        folder, self.variables["PATH"] = Path(self.variables["STATE"]).read_text().splitlines()
        self.folder = Path(folder)
        return done.returncode, done.stdout

    def check(self, command):
        """Run a printed command, and check how it ends."""
        assert command in ENDS, f"the page prints a command that this test does not know: add to ENDS how it ends: {command}"
        if command in self.have_run and command.startswith("tlbench"):
            return
        self.have_run.add(command)
        status, pattern = ENDS[command]
        ended, output = self.run(command)
        assert ended == status, f"{command}\n{output}"
        assert re.search(pattern, output, re.MULTILINE), f"{command}\n{output}"


def clone_into(folder):
    """A clone as a reader has it, with the files as they are here and the packages that are installed, but no results."""
    folder.mkdir(parents=True)
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    for name in names:
        if (ROOT / name).is_file() and not name.startswith(("results/", f"{RESULTS}/")):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    for name in ("requirements.lock", "pyproject.toml"):  # older than what was installed from them
        os.utime(folder / name, (0, 0))
    (folder / ".venv").symlink_to(BIN.parent)
    history = ROOT / "releases" / "TransformerLens.git"
    if history.is_dir():
        shutil.copytree(history, folder / "releases" / history.name)
    return folder


@pytest.fixture(scope="module")
def shell(tmp_path_factory, faulty_tree):
    """A shell in a clone in which `make bench` has run."""
    top = tmp_path_factory.mktemp("reader")
    models = catalogue.load()
    model = shutil.copytree(ensure(models.get("zoo-gpt2"), models).folder, top / "model")
    (top / "fault").write_text("")
    clone = clone_into(top / "tlbench")
    (top / "home").mkdir()
    uv_cache = subprocess.run([BIN / "uv", "cache", "dir"], capture_output=True, text=True, check=True).stdout.strip()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "TLBENCH_CACHE": cache_dir(),
            "TLBENCH_PLANTED": top / "fault",
            "UV_CACHE_DIR": uv_cache,
            "HOME": top / "home",
            "PYTHONPATH": clone,
            "COLUMNS": "80",
        }.items():
            patch.setenv(name, str(value))
        made = Shell(clone, {"path/to/model": str(model), "path/to/TransformerLens": str(faulty_tree)})
        made.variables.update(SMALL, PATH=f"{BIN}:{os.environ['PATH']}", STATE=str(top / "state"))
        made.check("make bench")  # before the results come, which would be published for half a minute
        shutil.copytree(ROOT / RESULTS, clone / RESULTS, dirs_exist_ok=True)
        yield made


@pytest.mark.parametrize("page", PAGES)
def test_every_printed_command_runs_as_printed(page, shell):
    commands = [command for command in printed(page) if command not in (*ELSEWHERE, "make bench")]
    assert len(commands) > 5
    clone = shell.folder
    shell.folder = clone / "releases" if page == "README.md" else clone.parent
    try:
        for command in commands:
            shell.check(command)
    finally:
        shell.folder = clone


def test_the_list_has_no_command_that_no_page_prints():
    on_pages = {command for page in PAGES for command in printed(page)}
    assert on_pages >= {*ENDS, *ELSEWHERE}
