"""Sweeps: which jobs are planned, what they are said to cost, and who may take in whose figures."""

import fcntl
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from tests.command import run
from tests.stored import Stored
from tlbench.arithmetic import SHARED_PROBES
from tlbench.exceptions import BadInput, CheckpointUnavailable
from tlbench.files import sha256_of, write_json
from tlbench.grid import Device, Dtype, Option, Wrapper
from tlbench.records.serial import plain
from tlbench.sweep import engine, merging
from tlbench.sweep.costs import UnitCosts
from tlbench.sweep.engine import Engine, profile_folder, require_plugin
from tlbench.sweep.merging import merge_cache
from tlbench.sweep.planning import LARGE_BYTES, estimate, grouped, make_plan
from tlbench.sweep.tasks import Cost, Grid, Keys, Receipt, Task, cell_path, read_receipt, receipt_path
from tlbench.sweep.working import work

GRID = Grid((Dtype.FLOAT32,), (Option.UNPROCESSED, Option.ALL_OPTIONS), (Wrapper.TRANSFORMER_BRIDGE,))
MODELS = ("zoo-gpt2", "zoo-llama", "zoo-opt")
THREADS = dict.fromkeys(MODELS, 1)
COMMIT, OTHER = "a" * 40, "b" * 40
PROVED = {"lane": "shared", "probe": next(iter(SHARED_PROBES.values()))}


@pytest.fixture(scope="module")
def stored_clone(tmp_path_factory):
    """asv's configuration of a history of three commits, v1 to v3."""
    return Stored.make(tmp_path_factory.mktemp("sweep")).folder / "asv.conf.json"


def measured(model, seconds, cells=2, start_s=0.0, commit=COMMIT, **values):
    return Receipt(Task(model, commit), GRID, costs=(Cost(Dtype.FLOAT32, cells, seconds),), start_s=start_s, **values)


def prepared(model, seconds=30.0, weights_bytes=2**20):
    return Receipt(Task(model), GRID, seconds=seconds, kept_bytes=2**21, weights_bytes=weights_bytes)


def keep(task, figures, probe=PROVED, host="here"):
    """Leave a receipt and its figures, by their names' first letter, in the cache in use."""
    digests = {}
    for letter, text in figures.items():
        name = letter * 64
        write_json(cell_path(name), text)
        digests[name] = sha256_of(cell_path(name))
    path = receipt_path(Keys(GRID).of(task))
    write_json(path, plain(Receipt(task, GRID, kept=digests, arithmetic=probe, host=host)))
    return path


def planned(commits=(COMMIT,), costs=None, models=MODELS, at_once=1):
    return make_plan(Path("clone"), commits, models, GRID, THREADS, costs or UnitCosts(), at_once)


# What is planned


def test_every_model_is_prepared_once_and_measured_at_each_commit(own_cache):
    jobs = planned([COMMIT, OTHER]).jobs
    tasks = [task for job in jobs for task in job.tasks]
    assert sorted(map(str, tasks)) == sorted(str(Task(model, commit)) for model in MODELS for commit in ("", COMMIT, OTHER))
    assert len(set(tasks)) == 9
    assert all(len({task.commit for task in job.tasks}) == 1 for job in jobs)


def test_a_measurement_waits_for_the_models_that_it_needs_and_for_no_other(own_cache):
    keep(Task("zoo-opt"), {})
    jobs = planned().jobs
    names = {task.model: job.name for job in jobs for task in job.tasks if not task.commit}
    assert names.keys() == {"zoo-gpt2", "zoo-llama"}
    for job in jobs:
        assert set(job.needs) == {names[task.model] for task in job.tasks if task.commit and task.model in names}


def test_what_has_a_receipt_and_its_figures_is_not_done_again(own_cache):
    keep(Task("zoo-gpt2", COMMIT), {"1": 1, "2": 2})
    plan = planned()
    assert plan.done == 1
    assert Task("zoo-gpt2", COMMIT) not in [task for job in plan.jobs for task in job.tasks]


@pytest.mark.parametrize("damage", ["figure", "receipt", "failure"])
def test_what_lost_its_figure_or_its_receipt_or_could_not_be_measured_is_done_again(own_cache, damage):
    path = keep(Task("zoo-gpt2", COMMIT), {"1": 1})
    if damage == "figure":
        cell_path("1" * 64).unlink()
    elif damage == "receipt":
        path.write_text(path.read_text()[:-20])
    else:
        write_json(path, json.loads(path.read_text()) | {"reason": "it does not build"})
    assert planned().done == 0


def test_receipts_are_of_one_commit_model_grid_and_code(own_cache, monkeypatch):
    keys = {Keys(grid).of(task) for grid in (GRID, Grid()) for task in (Task("zoo-gpt2", COMMIT), Task("zoo-opt", COMMIT))}
    keys |= {Keys(GRID).of(Task("zoo-gpt2", OTHER)), Keys(GRID).of(Task("zoo-gpt2"))}
    monkeypatch.setattr("tlbench.sweep.tasks.code_digest", lambda *_: "other code")
    assert len(keys | {Keys(GRID).of(Task("zoo-gpt2", COMMIT))}) == 7


def test_models_whose_times_are_known_share_a_job_up_to_its_length(own_cache):
    costs = UnitCosts.of([measured(model, 80.0) for model in MODELS])
    tasks = [Task(model, COMMIT) for model in MODELS]
    assert [len(group) for group in grouped(tasks, GRID, costs, 170.0)] == [2, 1]
    assert [len(group) for group in grouped(tasks, GRID, costs, 300.0)] == [3]


def test_a_large_model_has_a_job_for_itself(own_cache):
    costs = UnitCosts.of([prepared("zoo-llama", weights_bytes=LARGE_BYTES)])
    groups = grouped([Task(model, COMMIT) for model in MODELS], GRID, costs, 900.0)
    assert [[task.model for task in group] for group in groups] == [["zoo-gpt2"], ["zoo-llama"], ["zoo-opt"]]


def test_models_that_tlbench_draws_are_prepared_in_one_job_and_one_of_unknown_size_in_its_own(own_cache):
    jobs = make_plan(
        Path("clone"), [COMMIT], [*MODELS, "smollm2-135m"], GRID, THREADS | {"smollm2-135m": 1}, UnitCosts()
    ).jobs
    assert [[task.model for task in job.tasks] for job in jobs if not job.tasks[0].commit] == [[*MODELS], ["smollm2-135m"]]


def test_preparations_are_spread_over_all_who_work(own_cache):
    assert len([job for job in planned(at_once=3).jobs if not job.tasks[0].commit]) == 3


def test_a_model_that_is_not_to_be_had_does_not_keep_the_next_ones_from_being_prepared(own_cache, monkeypatch):
    def ensure(model, *_):
        if model.name == "zoo-llama":
            raise CheckpointUnavailable("it is gone")
        return SimpleNamespace(folder=own_cache)

    monkeypatch.setattr("tlbench.sweep.working.checkpoints.ensure", ensure)
    monkeypatch.setattr("tlbench.sweep.working.reference_server", lambda _: SimpleNamespace(call=lambda *_, **__: None))
    plan = planned()
    work(plan, plan.jobs[0].name, lambda _: None)
    receipts = [read_receipt(receipt_path(Keys(GRID).of(Task(model)))) for model in MODELS]
    assert [one.reason for one in receipts] == ["", "it is gone", ""]


def test_a_gpu_s_jobs_have_their_own_kind_and_keys(own_cache):
    on_gpu = Grid(GRID.dtypes, GRID.options, GRID.wrappers, device=Device.CUDA)
    plan = make_plan(Path("clone"), [COMMIT], MODELS, on_gpu, THREADS, UnitCosts())
    assert {job.name.split("-")[0] for job in plan.jobs if job.tasks[0].commit} == {"gpu"}
    assert Keys(on_gpu).of(Task("zoo-gpt2", COMMIT)) != Keys(GRID).of(Task("zoo-gpt2", COMMIT))


# What it costs


def test_costs_are_the_mean_of_cells_and_the_median_of_starts():
    found = [measured("zoo-gpt2", 10.0, 2, 30.0), measured("zoo-gpt2", 4.0, 5, 20.0), measured("zoo-gpt2", 0.0, 0, 90.0)]
    costs = UnitCosts.of(found)
    assert costs.cell_s["zoo-gpt2", "float32", "cpu"] == pytest.approx(14 / 7)
    assert costs.start_s["cpu"] == 30.0


def test_an_estimate_adds_starts_and_cells_and_runs_jobs_side_by_side(own_cache):
    known = [prepared(model) for model in MODELS]
    known += [measured(model, seconds, 2, 20.0) for model, seconds in zip(MODELS, (700.0, 600.0, 100.0), strict=True)]
    costs = UnitCosts.of(known)
    plan = planned(costs=costs, at_once=2)
    found = estimate(plan, costs, 2)
    measuring = [job for job in plan.jobs if job.tasks[0].commit]
    assert found.job_s == pytest.approx(3 * 30 + 1400 + 20 * len(measuring))
    assert found.wall_s == pytest.approx(60 + 620 + 120)  # two of three preparations in turn, then 600 and 100 beside 700
    assert found.unknown == ()


def test_what_was_never_measured_is_unknown_and_not_free(own_cache):
    costs = UnitCosts.of([prepared("zoo-gpt2"), measured("zoo-gpt2", 10.0, 2, 20.0)])
    found = estimate(planned(costs=costs), costs, 1)
    assert {task.model for task in found.unknown} == {"zoo-llama", "zoo-opt"}


def test_a_dry_run_shows_jobs_hours_and_gibibytes_and_starts_nothing(own_cache, stored_clone):
    done = run("sweep", "v2..v3", "--models", "zoo-gpt2", "--dry-run", "--config", stored_clone)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Jobs: 2, for 36 cells of 1 of 1 commits. Done already: 0 of 2 tasks.")
    assert "Of unknown cost: 2 of 2 tasks, of zoo-gpt2" in done.stdout
    assert not (own_cache / "sweeps").exists()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("v3..v2",), "no commit is in v3..v2"),
        (("v9",), "no commit 'v9'"),
        (("v3", "--models", "zoo-gpt"), "unknown model 'zoo-gpt'"),
        (("v3", "--question", "speed"), "no question 'speed'"),
        (("v3", "--device", "cuda"), "does not go with --machine shared-x86-64"),
        (("v3", "--profile", "pbs"), "no profile 'pbs': name a folder with a config.yaml, or one of"),
    ],
)
def test_bad_input_is_one_sentence(own_cache, stored_clone, words, sentence):
    done = run("sweep", *words, "--config", stored_clone)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert sentence in done.stderr


# The engine


def test_every_profile_of_ours_names_a_known_rule_and_an_executor():
    snakefile = engine.snakefile().read_text()
    profiles = sorted(engine.snakefile().parent.glob("profiles/*/config.yaml"))
    assert profiles
    for path in profiles:
        profile = yaml.safe_load(path.read_text())
        assert profile["executor"] in ("slurm", "kubernetes", "googlebatch", "aws-batch")
        for setting in profile.get("set-resources", {}):
            assert f"rule {setting}:" in snakefile


def test_the_snakefile_imports_nothing_heavy():
    lines = [line for line in engine.snakefile().read_text().splitlines() if line.startswith(("import ", "from "))]
    assert lines == ["import json", "import shlex", "import sys", "from pathlib import Path"]


def test_a_profile_of_an_engine_that_is_not_there_is_refused(tmp_path):
    (tmp_path / "config.yaml").write_text("executor: htcondor\n")
    with pytest.raises(BadInput, match="snakemake-executor-plugin-htcondor, which is not installed"):
        require_plugin(profile_folder(str(tmp_path)))


def test_two_processes_cannot_run_the_same_sweep(own_cache, tmp_path):
    plan = planned()
    one = Engine(plan, 1, None, ["true"], tmp_path)
    one.folder.mkdir(parents=True)
    with (one.folder / engine.OWNER).open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(BadInput, match="another process runs this sweep"):
            one.run(lambda _: None)


# Figures of other machines


@pytest.fixture
def caches(tmp_path, monkeypatch):
    """Make one's caches in turn: ``caches("other")`` is the cache in use from then on."""

    def use(name):
        monkeypatch.setenv("TLBENCH_CACHE", str(tmp_path / name))
        return tmp_path / name

    return use


def test_three_machines_with_overlaps_another_probe_and_a_corrupted_figure_are_merged(caches):
    gpt2, llama, opt = (Task(model, COMMIT) for model in MODELS)
    one, two, three, ours = map(caches, ("one", "two", "three", "ours"))
    caches("one")
    keep(gpt2, {"1": 1, "2": 2}, host="one")
    caches("two")
    keep(gpt2, {"1": 1, "2": 2}, host="two")
    keep(llama, {"3": 3, "4": 4}, host="two")
    cell = cell_path("4" * 64)
    cell.write_text(cell.read_text().replace("4", "5"))
    caches("three")
    keep(opt, {"6": 6}, probe=PROVED | {"probe": "another"}, host="three")
    caches("ours")
    keep(llama, {"3": 3}, host="ours")
    before = cell_path("3" * 64).read_bytes()
    found = [merge_cache(folder) for folder in (one, two, three)]
    assert [(merged.added, merged.same, len(merged.refused)) for merged in found] == [(2, 0, 0), (0, 3, 1), (0, 0, 1)]
    assert "is corrupted: its bytes are not those that its receipt names" in found[1].refused[0]
    assert "its probe another is not the shared arithmetic's" in found[2].refused[0]
    assert cell_path("3" * 64).read_bytes() == before
    assert json.loads(cell_path("2" * 64).read_text()) == 2
    assert not cell_path("4" * 64).exists()
    assert not cell_path("6" * 64).exists()
    assert read_receipt(receipt_path(Keys(GRID).of(gpt2))).host == "one"
    assert read_receipt(receipt_path(Keys(GRID).of(llama))).host == "ours"
    assert planned().done == 2
    assert ours.is_dir()


def test_a_conflict_keeps_what_is_here_and_is_told(caches):
    other = caches("other")
    keep(Task("zoo-gpt2", COMMIT), {"1": "theirs"})
    caches("ours")
    keep(Task("zoo-gpt2", COMMIT), {"1": "ours"})
    merged = merge_cache(other)
    assert "has other bytes here" in merged.refused[0]
    assert json.loads(cell_path("1" * 64).read_text()) == "ours"


def test_figures_of_other_code_or_without_a_receipt_are_refused(caches, monkeypatch):
    other = caches("other")
    path = keep(Task("zoo-gpt2", COMMIT), {"1": 1})
    keep(Task("zoo-opt", COMMIT), {"2": 2}).unlink()
    caches("ours")
    path.rename(path.with_name(f"{path.stem[:-1]}x.json"))
    reasons = merge_cache(other).refused
    assert len(reasons) == 2
    assert "it was made by other code, pins or checkpoints than those here" in reasons[0]
    assert "1 figures" in reasons[1]
    assert not cell_path("1" * 64).exists()


def test_the_command_tells_what_it_refused_and_a_folder_that_is_nothing(caches, tmp_path):
    other = caches("other")
    keep(Task("zoo-gpt2", COMMIT), {"1": 1}, probe={})
    caches("ours")
    done = run("merge", other)
    assert done.returncode == 1
    assert done.stdout.splitlines()[-1] == f"{other}: 0 figures added, 0 the same, 1 refusals"
    (tmp_path / "nothing").mkdir()
    done = run("merge", tmp_path / "nothing")
    assert done.returncode == 2
    assert "neither another cache of tlbench nor a folder of asv's results" in " ".join(done.stderr.split())
    assert merging.is_own(tmp_path / "ours") is (tmp_path / "ours").exists()
    shutil.rmtree(other)
