"""asv's own commands over a small history with known faults."""

import itertools
import json
import math
import os
import re
import subprocess

import pytest

from tests.e2e.conftest import BIN, MACHINE, ROOT, cells
from tlbench import BadInput, Option, environments

GPT2 = ("zoo-gpt2", "float32", "HookedTransformer")
LLAMA = ("zoo-llama", "float32", "HookedTransformer")


def value(project, commit, track, where, option):
    """One cell's value at one commit."""
    stored = project.results(commit)
    columns = dict(zip(stored["result_columns"], stored["results"][f"accuracy.{track}"], strict=False))
    model, dtype, wrapper = where
    words = (f"'{model} {wrapper}'", f"'{dtype}'", f"'{option}'")
    for point, found in zip(itertools.product(*columns["params"]), columns["result"], strict=True):
        if point == words:
            return found
    raise KeyError(words)


def test_asv_check_accepts_the_suite_as_it_is_in_the_repository(project):
    assert "No problems found" in project.asv("check", "--environment", f"existing:{BIN / 'python'}")


def test_a_change_of_documentation_changes_no_bit(project):
    for option, track in itertools.product(Option, ("Logit.track_max", "Logit.track_std")):
        first = value(project, "good", track, GPT2, option)
        assert first == value(project, "documented", track, GPT2, option)
        assert 0 < first < 1e-4


def test_one_weight_scaled_by_a_thousandth_moves_the_maximum_by_more_than_ten_times(project):
    for option in Option:
        good, faulty = (value(project, c, "Logit.track_max", GPT2, option) for c in ("documented", "faulty"))
        assert faulty > 10 * good


def test_a_fault_in_gpt2_s_conversion_leaves_llama_as_it_was(project):
    for option in Option:
        good, faulty = (value(project, c, "Logit.track_max", LLAMA, option) for c in ("documented", "faulty"))
        assert good == faulty


@pytest.mark.parametrize("where", [GPT2, LLAMA])
def test_center_unembed_moves_raw_logits_by_one_constant_a_position_and_centred_ones_by_rounding(project, where):
    plain, centred = ("unprocessed", "center_unembed")
    assert value(project, "good", "Processing.track_raw_max", where, centred) > 1
    shift = value(project, "good", "Processing.track_removed_shift", where, centred)
    raw = value(project, "good", "Processing.track_raw_max", where, centred)
    error = value(project, "good", "Logit.track_max", where, centred)
    assert raw - shift == pytest.approx(0, abs=2 * error)
    assert error < 3 * value(project, "good", "Logit.track_max", where, plain) < 1e-4


def test_no_ops_are_read_back_from_the_weights(project):
    def changed(where, option):
        return value(project, "good", "Processing.track_changed_weights", where, option)

    assert changed(LLAMA, "center_writing_weights") == changed(LLAMA, "fold_value_biases") == 0
    assert changed(GPT2, "center_writing_weights") > 0
    # Of each of four blocks: the value bias, set to zero, and the output bias, which takes it over.
    assert changed(GPT2, "fold_value_biases") == 8
    assert changed(GPT2, "center_unembed") == changed(LLAMA, "center_unembed") == 1


def test_measuring_again_gives_the_same_bits(project):
    before = project.results("good")["results"]
    commit = project.commits["good"]
    project.asv("run", "--machine", MACHINE, "-b", cells("float32"), f"{commit}^!", TLBENCH_REMEASURE="1")
    after = project.results("good")["results"]
    for name in before:
        if "accuracy" in name:
            assert json.dumps(before[name][0]) == json.dumps(after[name][0])


@pytest.mark.parametrize(
    ("commit", "where"),
    [("not a number", GPT2), ("no import", GPT2), ("no import", LLAMA), ("no build", GPT2), ("no build", LLAMA)],
)
def test_a_commit_that_cannot_be_measured_has_failed_cells_and_no_figure(project, commit, where):
    found = (
        [value(project, commit, "Logit.track_max", where, option) for option in Option]
        if (commit != "no build")
        else [project.results(commit)["results"]["accuracy.Logit.track_max"][0]]
    )
    assert found == [None] * len(found)


def test_a_nan_in_one_model_leaves_the_other_measured(project):
    assert value(project, "not a number", "Logit.track_max", LLAMA, "fold_ln") == value(
        project, "good", "Logit.track_max", LLAMA, "fold_ln"
    )


def test_the_reasons_are_told(project):
    done = subprocess.run(
        [BIN / "tlbench", "outcomes", "--failed", "--format", "markdown"],
        cwd=project.folder,
        capture_output=True,
        text=True,
        check=True,
    )
    assert re.search(r"TransformerLens returned \d+ non-finite logits", done.stdout)
    assert "importing TransformerLens failed (ModuleNotFoundError: No module named 'nothing_like_it')" in done.stdout


def test_what_is_skipped_is_not_what_failed(project):
    bridge = ("zoo-gpt2", "float32", "TransformerBridge")
    assert math.isnan(value(project, "good", "Logit.track_max", bridge, "fold_ln"))


def test_asv_find_names_the_commit_that_planted_the_fault(project):
    cell = r"accuracy.Logit.track_max\('zoo-gpt2 HookedTransformer', 'float32', 'unprocessed'\)"
    span = f"{project.commits['good']}..{project.commits['documented again']}"
    said = project.asv("find", "--machine", MACHINE, span, cell)
    assert f"Greatest regression found: {project.commits['faulty'][:8]}" in said


def test_asv_compare_sees_the_fault(project):
    said = project.asv("compare", "--machine", MACHINE, project.commits["documented"], project.commits["faulty"])
    assert re.search(r"\+\s.*accuracy\.Logit\.track_max\('zoo-gpt2 HookedTransformer', 'float32', 'unprocessed'\)", said)


def environment(project, *words):
    return subprocess.run([BIN / "tlbench", "env", *words], cwd=project.folder, capture_output=True, text=True, check=False)


def test_what_the_results_were_measured_in_is_kept_with_them(project):
    done = environment(project, project.commits["good"], "--json")
    assert done.returncode == 0, done.stderr
    ((name,),) = {tuple(values) for values in json.loads(done.stdout).values()}
    assert name == project.commits["good"]
    kept = {fact: value for fact, values in json.loads(done.stdout).items() for value in values.values()}
    assert kept["torch"].startswith("2.13.0")
    assert kept["cpu"]
    assert kept["transformer-lens"]
    assert "Skipping results" not in project.asv("show", "--machine", MACHINE, project.commits["good"])


def test_two_results_environments_are_compared(project):
    good, faulty = project.commits["good"], project.commits["faulty"]
    same = environment(project, good, faulty)
    assert (same.returncode, same.stderr) == (0, "")
    assert "in the same environment" in same.stdout
    (stored,) = (project.folder / "results" / MACHINE).glob(f"{faulty[:8]}-*.environments.jsonl")
    before = stored.read_text()
    facts = json.loads(before.splitlines()[-1])
    try:
        stored.write_text(before + json.dumps({**facts, "torch": "9.9"}) + "\n")
        other = environment(project, good, f"{MACHINE}:{faulty}")
    finally:
        stored.write_text(before)
    assert other.returncode == 1
    assert "9.9" in other.stdout
    assert "transformers" not in other.stdout
    assert "measured in 2 environments" in other.stderr
    nothing = environment(project, project.commits["no build"])
    assert nothing.returncode == 2
    assert "no environment is stored" in nothing.stderr


def test_the_root_configuration_is_the_releases_one_but_for_where_things_lie():
    from asv.util import load_json

    upstream, releases = (load_json(str(ROOT / part / "asv.conf.json"), js_comments=True) for part in (".", "releases"))
    differing = {key for key in upstream if upstream[key] != releases[key]}
    assert differing == {"repo", "show_commit_url", "benchmark_dir", "build_command", "install_command"}


def test_a_commit_is_installed_apart_and_proved(project, monkeypatch):
    """What `tlbench verify --tl COMMIT` runs on."""
    monkeypatch.setattr(environments, "repositories", lambda: [project.folder / "history.git"])
    commit = project.commits["faulty"]
    made = environments.lens_environment(commit[:12])
    code = "import transformer_lens; from tlbench.environments.provenance import prove; print(prove().commit)"
    done = subprocess.run(
        [made.python, "-c", code], env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=True
    )
    assert done.stdout.split()[-1] == commit
    with pytest.raises(BadInput, match="no such commit in the clones of TransformerLens on this machine"):
        environments.lens_environment("0" * 40)
