"""A history of TransformerLens in which every kind of step is planted: thirty commits made from the 2.18.0 source release.

Each fault is in one architecture, so that no fault hides another. One heals again, one came with a merge, and one lies
behind a commit that does not build.
"""

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.e2e.conftest import RELEASE, RETURN, source_of

PACKAGE = "transformer_lens"
CONVERSIONS = f"{PACKAGE}/pretrained/weight_conversions"
ATTENTION = f"{PACKAGE}/components/abstract_attention.py"
SOFTMAX = "        pattern = F.softmax(attn_scores, dim=-1)\n"
IN_HALF = """        if self.cfg.positional_embedding_type == "alibi":
            pattern = pattern.half().to(attn_scores.dtype)
"""
MODELS = (
    "zoo-gpt2",
    "zoo-bloom",
    "zoo-opt",
    "zoo-gemma2",
    "zoo-qwen2",
    "zoo-gpt-neox",
    "zoo-phi",
    "zoo-llama",
    "zoo-mistral",
)
OF_RMS = {"zoo-gemma2", "zoo-qwen2", "zoo-llama", "zoo-mistral"}
STEPS = {
    "Ten times the epsilon (#101)": ("alarm", {"zoo-gpt2"}),
    "Softmax in float16": ("alarm", {"zoo-bloom"}),
    "Drop a bias (#102)": ("alarm", {"zoo-opt"}),
    "Scale the queries": ("alarm", {"zoo-gemma2"}),
    "Builds, and is wrong": ("alarm", {"zoo-gpt-neox"}),
    "On a branch": ("alarm", {"zoo-phi"}),
    "Multiply by the reciprocal": ("other rounding", OF_RMS),
    "Raise": ("newly failing", {"zoo-mistral"}),
}
"""What each commit did, and to which models."""
HEALED = {"Scale the keys": ("alarm", {"zoo-qwen2"}), "Take it back": ("mended", {"zoo-qwen2"})}
UNBUILT = "Does not build"


@dataclass(frozen=True)
class PlantedHistory:
    """The repository, and each commit's hash by its subject."""

    repository: Path
    commits: dict[str, str]


class Writer:
    """Writes commits into a repository, a day apart. ``commits`` has the hash of each by its subject."""

    def __init__(self, folder):
        self.folder, self.days, self.commits = folder, 0, {}
        self.git("init", "--quiet", "--initial-branch=main")

    def git(self, *words):
        who = {"NAME": "A. Author", "EMAIL": "author@localhost"}
        names = {f"GIT_{role}_{key}": value for role in ("AUTHOR", "COMMITTER") for key, value in who.items()}
        stamp = f"{1735689600 + 86400 * self.days} +0000"
        names |= {"GIT_AUTHOR_DATE": stamp, "GIT_COMMITTER_DATE": stamp, "GIT_CONFIG_GLOBAL": os.devnull}
        command = ["git", "-C", self.folder, *words]
        return subprocess.run(
            command, check=True, capture_output=True, text=True, env={**os.environ, **names}
        ).stdout.strip()

    def commit(self, subject):
        self.days += 1
        self.git("add", "--all")
        self.git("commit", "--quiet", f"--message={subject}")
        self.commits[subject] = self.git("rev-parse", "HEAD")

    def replace(self, name, old, new):
        path = self.folder / name
        text = path.read_text()
        assert text.count(old) == 1, (name, old)
        path.write_text(text.replace(old, new))

    def convert(self, name, statement):
        """Add a statement where the weights of an architecture are converted."""
        self.replace(f"{CONVERSIONS}/{name}.py", RETURN.decode(), f"    {statement}\n{RETURN.decode()}")

    def silent(self):
        """A commit that moves no bit: words, a comment or a docstring, in turn."""
        number = len(self.commits)
        name, line = [
            ("CHANGES", f"{number}\n"),
            (f"{PACKAGE}/utils.py", f"# {number}\n"),
            (f"{PACKAGE}/utils.py", f'\n\ndef unused_{number}():\n    """Do nothing."""\n'),
        ][number % 3]
        with (self.folder / name).open("a") as file:
            file.write(line)
        self.commit(f"Silent {number}")


def planted_release(folder):
    """A repository of one commit, the release, in an empty folder."""
    history = folder / "TransformerLens"
    history.mkdir()
    for name, file in source_of(RELEASE, folder).items():
        path = history / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(file.content)
    write = Writer(history)
    write.commit("Release")
    write.git("tag", "v0.1.0")
    return write


def scaled(weight, factor):
    return f'state_dict["{weight}"] = state_dict["{weight}"] * {factor}'


def planted_history(folder):
    """Write the history into an empty folder."""
    write = planted_release(folder)
    history = write.folder
    epsilon = "self.eps = self.cfg.eps"
    of_gpt2 = 'self.eps = self.cfg.eps * (10 if self.cfg.original_architecture == "GPT2LMHeadModel" else 1)'
    write.replace(f"{PACKAGE}/components/layer_norm.py", epsilon, of_gpt2)
    write.commit("Ten times the epsilon (#101)")
    write.silent()
    write.silent()
    write.replace(ATTENTION, SOFTMAX, SOFTMAX + IN_HALF)
    write.commit("Softmax in float16")
    write.silent()
    write.convert("opt", scaled("blocks.1.mlp.b_out", 0))
    write.commit("Drop a bias (#102)")
    write.silent()
    write.silent()
    write.convert("gemma", scaled("blocks.0.attn.W_Q", 1.01))
    write.commit("Scale the queries")
    keys = scaled("blocks.1.attn._W_K", 1.01)
    write.convert("qwen2", keys)
    write.commit("Scale the keys")
    write.silent()
    write.replace(f"{CONVERSIONS}/qwen2.py", f"    {keys}\n", "")
    write.commit("Take it back")
    write.silent()
    build = (history / "pyproject.toml").read_text()
    (history / "pyproject.toml").write_text("[build-system]\n")
    write.commit(UNBUILT)
    (history / "pyproject.toml").write_text(build)
    write.convert("neox", scaled("blocks.0.mlp.W_in", 1.01))
    write.commit("Builds, and is wrong")
    write.silent()
    _merged_branch(write)
    write.silent()
    write.replace(f"{PACKAGE}/components/rms_norm.py", "x / scale", "x * (1 / scale)")
    write.commit("Multiply by the reciprocal")
    write.silent()
    write.convert("mistral", 'raise RuntimeError("planted")')
    write.commit("Raise")
    write.silent()
    write.silent()
    assert len(write.commits) == 30
    return PlantedHistory(history, write.commits)


def _merged_branch(write):
    """A branch of three commits, of which the second is wrong, while main goes on."""
    write.git("switch", "--quiet", "--create", "branch")
    write.silent()
    write.convert("phi", scaled("blocks.0.mlp.W_in", 1.01))
    write.commit("On a branch")
    write.silent()
    write.git("switch", "--quiet", "main")
    (write.folder / "README.md").write_text("Meanwhile on main\n")
    write.commit("Meanwhile on main")
    write.days += 1
    write.git("merge", "--quiet", "--no-ff", "--message=Merge pull request #103 from somebody/branch", "branch")
    write.commits["Merge"] = write.git("rev-parse", "HEAD")
    for _ in range(2):
        write.silent()
