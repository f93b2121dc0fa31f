"""A folder with asv's configuration, a history of three commits and stored results, in which nothing was measured."""

import itertools
import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from tests.e2e.conftest import asv_configuration
from tlbench.grid import words_of
from tlbench.history import SourceCommit, SourceFile, build_from_trees

BIN = Path(sys.executable).parent
ROOT = Path(__file__).resolve().parents[1]
MACHINE = "shared-x86-64"
MEAN, MAX = "accuracy.Logit.track_mean", "accuracy.Logit.track_max"
PAIR, WRAPPERS = "model and wrapper", ("HookedTransformer", "TransformerBridge")
PARAMS = {
    PAIR: [f"{model} {wrapper}" for model in ("zoo-gpt2", "zoo-llama") for wrapper in WRAPPERS],
    "dtype": ["float32", "float16"],
    "option": ["unprocessed"],
}
GPT2, GPT2_16, LLAMA = (
    (*words, "unprocessed", "HookedTransformer")
    for words in (("zoo-gpt2", "float32"), ("zoo-gpt2", "float16"), ("zoo-llama", "float32"))
)


def described(name, params=None):
    """What benchmarks.json says of a benchmark."""
    values = params or PARAMS
    return {
        "name": name,
        "params": [[f"'{value}'" for value in values[key]] for key in PARAMS],
        "param_names": list(PARAMS),
        "version": "1",
        "type": "track",
        "unit": "nats",
    }


@dataclass(frozen=True)
class Stored:
    """The folder, and its commits v1, v2 and v3."""

    folder: Path
    commits: dict[str, str] = field(default_factory=dict)

    @classmethod
    def make(cls, folder):
        start = datetime(2026, 1, 1, tzinfo=UTC)
        sources = [
            SourceCommit(f"v{i}", start + timedelta(days=i), f"v{i}", {"a": SourceFile(bytes([i]))}) for i in (1, 2, 3)
        ]
        commits = build_from_trees(folder / "history.git", sources)
        (folder / "asv.conf.json").write_text(asv_configuration(folder / "history.git"))
        (folder / "results").mkdir()
        benchmarks = {name: described(name) for name in (MEAN, MAX)}
        (folder / "results" / "benchmarks.json").write_text(json.dumps({**benchmarks, "version": 2}))
        return cls(folder, dict(commits))

    def store(self, tag, figures, name=MEAN, machine=MACHINE):
        """Store a benchmark's figures by cell. None is a failure; what is left out is NaN."""
        from asv.machine import Machine
        from asv.results import Results
        from asv.runner import BenchmarkResult

        commit = self.commits[tag]
        result = Results({"machine": machine}, {}, commit, 1000 + int(tag[1:]), "3.11", "virtualenv-py3.11", {})
        result.load_data(str(self.folder / "results"))
        values = [figures.get(words_of(*point), float("nan")) for point in itertools.product(*PARAMS.values())]
        nothing = [None] * len(values)
        result.add_result(described(name), BenchmarkResult(values, nothing, nothing, 0, "", None))
        getattr(Results.save, "__wrapped__", Results.save)(result, str(self.folder / "results"))
        described_machine = Machine()
        described_machine.__dict__.update(machine=machine, os="Linux", arch="x86_64", cpu="", num_cpu="", ram="")
        described_machine.save(str(self.folder / "results"))

    def asv(self, *words, status=0, **environment):
        """What asv prints."""
        return self._run(BIN / "asv", *words, status=status, **environment)

    def python(self, code):
        """What Python prints that runs some code."""
        return self._run(sys.executable, "-c", code)

    def _run(self, *words, status=0, **environment):
        done = subprocess.run(
            words,
            cwd=self.folder,
            env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == status, done.stdout + done.stderr
        return done.stdout
