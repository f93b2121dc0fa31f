"""Canaries of asv and asv_runner: launching benchmarks, running them, and storing and publishing results."""

import io
import json
import math
import os
import platform
import signal
import socket
import subprocess
import sys
import threading
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import pytest

from tests.canaries import canary

ROOT = Path(__file__).resolve().parents[2]
ONE_PROCESS, READER, LANE, METADATA = (f"asv_plugins/{name}.py" for name in ("one_process", "reader", "lane", "metadata"))
PARAMETERS, ROWS, FIND, SCREEN = (f"asv_plugins/{name}.py" for name in ("parameters", "rows", "find", "screen"))
STORED = "tlbench/report/stored.py"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
COMMAND = {
    "name": "some.Suite.track_value-1",
    "params_str": "{}",
    "profile_path": "None",
    "result_file_name": "result",
    "timeout": 5,
    "cwd": "folder",
}
"""The arguments that asv passes to a launcher."""


class OtherEnd:
    """Stands in for an environment and for the process that asv launches in it.

    A thread answers, through asv_plugins/reader.py's own side of the protocol.
    """

    env_vars = {}

    def __init__(self):
        self.launched, self.commands = [], []
        self.status = None
        self.stdout = io.BytesIO()
        self.pid = 0

    def run(self, words, **_):
        self.launched.append(words)
        listening = socket.socket(socket.AF_UNIX)
        listening.bind(words[-1])
        listening.listen()
        threading.Thread(target=self._answer, args=(listening,), daemon=True).start()
        return self

    def _answer(self, listening):
        from asv_plugins.reader import receive, send

        while True:
            connection, _ = listening.accept()
            with connection:
                command = receive(connection)
                self.commands.append(command)
                for _ in command.get("benchmark_ids", (0,)):
                    send(connection, "imported" if command["action"] == "preimport" else {"out": "printed", "errcode": 3})

    def poll(self):
        return self.status

    def wait(self, timeout=None):
        return self.status


@pytest.fixture
def launcher():
    """Start our launcher, which derives from asv's. It is closed after the test."""
    launchers = []

    def start():
        from asv_plugins.one_process import ReadingServer

        end = OtherEnd()
        launchers.append((ReadingServer(end, "suite"), end))
        return launchers[-1]

    yield start
    for server, end in launchers:
        end.status = 0
        server.close()


# The launcher, asv_plugins/one_process.py ----------------------------------------------------------------------------


@canary("asv changed runner.get_spawner: it ignores our runner.ForkServer", ONE_PROCESS)
def test_asv_looks_forkserver_up_when_it_starts_a_launcher(monkeypatch):
    from asv import runner

    monkeypatch.setattr(runner, "ForkServer", lambda *given: given)
    assert runner.get_spawner("environment", "suite", "forkserver") == ("environment", "suite")


@canary("asv changed runner.BENCHMARK_RUN_SCRIPT, or how ForkServer runs it", ONE_PROCESS)
def test_forkserver_runs_our_script_with_the_suite_and_a_socket(launcher):
    from asv_plugins.one_process import READER as SCRIPT

    _, end = launcher()
    ((script, action, suite, name),) = end.launched
    assert (script, action, suite) == (str(SCRIPT), "run_server", os.path.abspath("suite"))
    assert Path(name).is_socket()


@canary(
    "asv changed runner.run_benchmark, or how it runs a cell: figures are not asked for at once",
    ONE_PROCESS,
)
def test_all_selected_figures_of_a_benchmark_are_asked_for_at_once(launcher, tmp_path):
    from asv import runner

    server, end = launcher()
    benchmark = {"name": "some.Suite.track_value", "params": [["'a'", "'b'"], ["1", "2"]], "timeout": 5}
    result = runner.run_benchmark(benchmark, server, False, selected_idx=[0, 3], extra_params={}, cwd=str(tmp_path))
    (command,) = end.commands
    assert command["benchmark_ids"] == ["some.Suite.track_value-0", "some.Suite.track_value-3"]
    assert [math.isnan(value) if value is not None else value for value in result.result] == [None, True, True, None]
    assert result.errcode == 3
    assert "For parameters: 'b', 2\nprinted" in result.stderr


@canary("asv changed runner.ForkServer.preimport, or its protocol", ONE_PROCESS)
def test_forkserver_has_the_reader_import_the_suite(launcher):
    server, end = launcher()
    assert server.preimport() == (True, "imported")
    assert end.commands == [{"action": "preimport"}]


@canary("asv changed the attributes of runner.ForkServer (server_proc, env, benchmark_dir)", ONE_PROCESS)
def test_after_the_process_has_died_asv_s_own_forkserver_takes_over(launcher):
    server, end = launcher()
    end.status = -signal.SIGKILL
    assert server.server_proc is end
    assert server.run(**COMMAND) == ("printed", 3)
    _, (script, *_, suite, _) = end.launched
    assert suite == os.path.abspath("suite")
    assert Path(script).parent.name == "asv"
    assert [command["action"] for command in end.commands] == ["preimport", "run"]


@canary("asv changed runner.ForkServer.close: it no longer interrupts the process", READER)
def test_forkserver_ends_the_process_by_an_interrupt(launcher, monkeypatch):
    server, end = launcher()
    sent = []

    def killpg(pid, number):
        sent.append((pid, number))
        end.status = -number

    monkeypatch.setattr(os, "killpg", killpg)
    server.close()
    server.close = lambda: None  # once is enough
    assert sent == [(end.pid, signal.SIGINT)]


class Spawner:
    """A launcher that runs nothing: it writes ``stored`` into the result file and returns ``status``."""

    def __init__(self, status=0, stored="1.0"):
        self.status, self.stored, self.given = status, stored, []

    def run(self, **given):
        self.given.append(given)
        Path(given["result_file_name"]).write_text(self.stored)
        return "", self.status


def run_benchmark(spawner, **attributes):
    from asv import runner

    benchmark = {"name": "some.Suite.track_value", "params": [["'a'", "'b'"]], "timeout": 5, **attributes}
    return runner.run_benchmark(benchmark, spawner, profile=False, cwd="folder")


@canary("asv changed how it names a benchmark and its parameters to a launcher", ONE_PROCESS)
def test_a_benchmark_s_name_ends_with_the_index_of_its_parameters():
    from asv_plugins.one_process import is_track

    spawner = Spawner()
    run_benchmark(spawner)
    names = [given["name"] for given in spawner.given]
    assert names == ["some.Suite.track_value-0", "some.Suite.track_value-1"]
    assert all(map(is_track, names))
    assert spawner.given[0].keys() == COMMAND.keys()


@canary("asv changed util.TIMEOUT_RETCODE, the exit status of a benchmark that timed out", READER)
def test_asv_reports_the_exit_status_of_a_timeout_as_one():
    from asv_plugins.reader import TIMED_OUT

    assert "timed out" in run_benchmark(Spawner(TIMED_OUT)).stderr
    assert "timed out" not in run_benchmark(Spawner(1)).stderr


@canary("asv changed how it stores a failure (null) or a skip (NaN)", STORED)
def test_a_failure_is_stored_as_null_and_a_skip_as_nan():
    assert run_benchmark(Spawner(1)).result == [None, None]
    assert all(map(math.isnan, run_benchmark(Spawner(stored="NaN")).result))


# The other end, asv_plugins/reader.py --------------------------------------------------------------------------------

SUITE = {
    "__init__": "print('imported')",
    "shared": """
class Shared:
    params = [["a", "b"]]
    def setup_cache(self):
        pass
""",
    "some": """
from asv_runner.benchmarks.mark import SkipNotImplemented
from canary_suite.shared import Shared
class Suite(Shared):
    def track_value(self, name):
        print("measuring", name)
        return 0.1 + 0.2
    def track_skip(self, name):
        raise SkipNotImplemented("not here")
    def track_failure(self, name):
        raise ValueError("it broke")
class _Hidden(Shared):
    def track_hidden(self, name):
        return 1
""",
    "other": """
from canary_suite.shared import Shared
class Other(Shared):
    def track_value(self, name):
        return 2
""",
}


@pytest.fixture
def suite(tmp_path, monkeypatch):
    """A suite that asv_runner can import. Afterwards this process's imports are as they were."""
    folder = tmp_path / "canary_suite"
    folder.mkdir()
    for name, text in SUITE.items():
        (folder / f"{name}.py").write_text(text)
    (tmp_path / "cache.pickle").write_bytes(b"N.")  # what asv writes for a setup_cache that returns None
    monkeypatch.chdir(tmp_path)
    before = list(sys.meta_path)
    yield folder
    sys.meta_path[:] = before
    for name in [name for name in sys.modules if name.split(".")[0] == folder.name]:
        del sys.modules[name]


@pytest.fixture
def restore_runner(monkeypatch):
    """Restore, after the test, the functions that ``leave_sources_alone`` replaces."""

    def remember():
        from asv_runner.benchmarks import _base

        for name in ("get_setup_cache_key", "get_source_code"):
            monkeypatch.setattr(_base, name, getattr(_base, name))

    return remember


def discovered(suite):
    from asv_runner._aux import update_sys_path
    from asv_runner.discovery import disc_benchmarks

    update_sys_path(str(suite))
    return {benchmark.name: benchmark for benchmark in disc_benchmarks(str(suite), ignore_import_errors=True)}


def read(suite, name):
    """The output and exit status that reader.py reports for a benchmark, and the text of its result file."""
    from asv_plugins import reader

    result = Path("result")
    result.unlink(missing_ok=True)
    command = {"params_str": "{}", "timeout": 5}
    answer = reader.run(str(suite), name, {**command, "cwd": str(suite.parent)}, Path("output"), result)
    return answer["out"], answer["errcode"], answer["result"]


@canary("asv_runner changed run._run or _aux.posix_redirect_output", READER)
@pytest.mark.parametrize(
    ("name", "printed", "status", "stored"),
    [
        ("value-1", "measuring b", 0, "0.30000000000000004"),
        ("skip-0", "", 0, "NaN"),
        ("failure-0", "ValueError: it broke", 1, None),
    ],
)
def test_run_prints_and_stores_what_a_benchmark_does(suite, name, printed, status, stored):
    discovered(suite)
    out, *rest = read(suite, f"some.Suite.track_{name}")
    assert printed in out
    assert rest == [status, stored]


@canary("asv_runner changed discovery.disc_benchmarks", READER)
def test_discovery_imports_every_module_of_the_suite(suite):
    from asv_runner._aux import update_sys_path

    from asv_plugins import reader

    update_sys_path(str(suite))
    assert reader.preimport(str(suite), Path("output")) == "imported\n"
    assert "canary_suite.other" in sys.modules


@canary("asv_runner changed _aux.update_sys_path", READER)
def test_a_suite_can_be_imported_by_the_name_of_its_folder(suite, monkeypatch):
    from importlib import import_module

    from asv_runner._aux import update_sys_path

    monkeypatch.setattr(sys, "path", [path for path in sys.path if Path(path).resolve() != suite.parent])
    monkeypatch.chdir("/")
    update_sys_path(str(suite))
    assert Path(import_module("canary_suite.other").__file__).parent == suite


@canary("asv_runner changed _base.get_setup_cache_key or _base.get_source_code", READER)
def test_the_source_of_a_benchmark_is_not_read_twice(suite, restore_runner, monkeypatch):
    import inspect

    from asv_plugins import reader

    restore_runner()
    reader.leave_sources_alone()
    first = discovered(suite)["some.Suite.track_value"]
    lines, seen = inspect.getsourcelines, []
    monkeypatch.setattr(inspect, "getsourcelines", lambda item: seen.append(item) or lines(item))
    again = discovered(suite)["some.Suite.track_value"]
    assert seen == []
    assert again.setup_cache_key == first.setup_cache_key
    assert again.setup_cache_key.startswith("shared:")
    assert again.code == ""


# What benchmarks/ depends on -----------------------------------------------------------------------------------------


@canary("asv_runner changed discovery: it takes classes whose names begin with an underscore", "benchmarks/runtime.py")
def test_a_class_with_a_leading_underscore_is_no_benchmark(suite):
    assert sorted(discovered(suite)) == [
        "other.Other.track_value",
        *(f"some.Suite.track_{name}" for name in ("failure", "skip", "value")),
    ]


@canary("asv_runner changed how it writes parameters: they are no longer each one's repr", STORED)
def test_a_parameter_is_written_as_its_repr(suite):
    assert discovered(suite)["some.Suite.track_value"].params == [["'a'", "'b'"]]


@canary("asv_runner changed setup_cache_key: classes no longer share an inherited setup_cache", "benchmarks/cell.py")
def test_benchmarks_that_inherit_setup_cache_share_it(suite):
    benchmarks = discovered(suite)
    keys = {benchmarks[name].setup_cache_key for name in ("other.Other.track_value", "some.Suite.track_value")}
    assert len(keys) == 1
    assert None not in keys


@canary(
    "asv changed runner.run_benchmarks: benchmarks that share setup_cache no longer share a folder", "benchmarks/cell.py"
)
def test_benchmarks_that_share_setup_cache_run_in_one_folder(tmp_path, monkeypatch):
    from asv import runner
    from asv.benchmarks import Benchmarks
    from asv.results import Results

    class Sharing(Spawner):
        def preimport(self):
            return True, ""

        def create_setup_cache(self, *_):
            folders.append(tmp_path / f"cache-{len(folders)}")
            folders[-1].mkdir()
            return str(folders[-1]), None

        def run(self, **given):
            assert Path(given["cwd"]).is_dir()
            return super().run(**given)

        def close(self):
            pass

    folders, spawner = [], Sharing()
    monkeypatch.setattr(runner, "get_spawner", lambda *_, **__: spawner)
    described = {"params": [], "version": "1", "timeout": 5, "type": "track", "setup_cache_key": "shared:1", "unit": "x"}
    names = [f"{module}.Suite.track_{letter}" for module in "ab" for letter in "xy"]
    benchmarks = Benchmarks(SimpleNamespace(benchmark_dir="suite"), [{**described, "name": name} for name in names])
    environment = SimpleNamespace(name="environment", _default_benchmark_timeout=60)
    runner.run_benchmarks(benchmarks, environment, results=Results.unnamed())
    assert len(spawner.given) == len(names)
    assert {given["cwd"] for given in spawner.given} == {str(folder) for folder in folders} == {str(tmp_path / "cache-0")}


@canary("asv changed the environment variables ASV_COMMIT or ASV_CONF_DIR", "tlbench/paths.py")
def test_a_benchmark_s_environment_names_the_commit_and_the_configuration_s_folder(tmp_path, monkeypatch):
    from asv import util
    from asv.plugins.virtualenv import Virtualenv

    from tlbench.paths import COMMIT_VARIABLE, CONFIGURATION_VARIABLE

    monkeypatch.chdir(tmp_path)
    python = "{}.{}".format(*sys.version_info)
    environment = Virtualenv(configuration(tmp_path), python, {}, {})
    environment._set_commit_hash(COMMIT)
    variables = {}
    monkeypatch.setattr(environment, "find_executable", lambda name: name)
    monkeypatch.setattr(util, "check_output", lambda words, env, **_: variables.update(env))
    environment.run(["benchmark.py"], env={})
    assert variables[COMMIT_VARIABLE] == COMMIT
    assert variables[CONFIGURATION_VARIABLE] == str(tmp_path)


# The machine, asv_plugins/lane.py and machine.py ---------------------------------------------------------------------


class Stop(Exception):
    """Ends a command whose rest need not run."""


@canary("asv changed how `asv run` calls Machine.load", LANE)
def test_asv_run_loads_its_machine_first_and_by_name(monkeypatch):
    from asv.commands.run import Run
    from asv.machine import Machine

    names = []

    def load(*given, machine_name=None, **named):
        names.append(machine_name)
        raise Stop

    monkeypatch.setattr(Machine, "load", load)
    before = dict(os.environ)
    with pytest.raises(Stop):
        Run.run(SimpleNamespace(), machine="mine")
    assert names == ["mine"]
    assert dict(os.environ) == before


@canary("asv changed machine.Machine: its fields, or how it saves them", LANE)
def test_the_shared_arithmetic_s_machine_is_saved_with_the_fields_of_any_other(tmp_path, monkeypatch):
    from asv.machine import Machine
    from asv.util import load_json

    from asv_plugins import lane

    monkeypatch.setattr(lane, "prove", lambda: None)
    with patch.dict(os.environ):
        os.environ.pop("TLBENCH_ARITHMETIC", None)
        machine = lane.load(interactive=True, machine_name="shared-x86-64-canary")
    machine.save(str(tmp_path))
    saved = load_json(str(tmp_path / "shared-x86-64-canary" / "machine.json"), Machine.api_version)
    assert saved == {**lane.DESCRIPTION, "machine": "shared-x86-64-canary"}
    assert saved.keys() == {name for name, _ in Machine.fields} == Machine.get_defaults().keys()


@canary("asv changed MachineCollection.save or Machine.get_defaults", "asv_plugins/machine.py")
def test_a_machine_is_loaded_by_the_name_it_was_saved_under(tmp_path, monkeypatch):
    from asv_plugins import lane, machine

    monkeypatch.setenv("HOME", str(tmp_path))
    assert machine.main(["mine"]) == 0
    loaded = lane._load(machine_name="mine", interactive=True)
    assert (loaded.machine, loaded.os) == ("mine", platform.system())
    assert loaded.num_cpu == str(os.cpu_count())


@canary("asv changed util.UserError: it no longer ends a command with one sentence", LANE)
def test_a_user_error_is_one_sentence_and_exit_status_1(monkeypatch, capfd):
    from asv import main
    from asv.machine import Machine
    from asv.util import UserError

    def refuse(*_, **__):
        raise UserError("leave one of the two out")

    monkeypatch.setattr(Machine, "load", refuse)
    monkeypatch.setattr(sys, "argv", ["asv", "machine", "--yes"])
    with pytest.raises(SystemExit) as ended:
        main.main()
    output = "".join(capfd.readouterr())
    assert ended.value.code == 1
    assert "leave one of the two out" in output
    assert "Traceback" not in output


# Results, asv_plugins/metadata.py and tlbench/report/stored.py ----------------------------------------------------------

DESCRIBED = {"params": [["'a'", "'b'"]], "param_names": ["model"], "version": "1", "type": "track", "unit": "x"}
STARTED = datetime(2026, 1, 1, tzinfo=UTC)


def stored_result(folder, commit=COMMIT):
    """A file of results, written by asv's own function."""
    from asv.results import Results
    from asv.runner import BenchmarkResult

    from asv_plugins import metadata

    result = Results({"machine": "mine"}, {}, commit, 1000, "3.11", "virtualenv-py3.11", {})
    measured = BenchmarkResult([0.5, None], [None, None], [None, None], 0, "", None)
    result.add_result({**DESCRIBED, "name": "some.track_measured"}, measured, started_at=STARTED, duration=2.0)
    metadata._save(result, str(folder))
    (folder / "mine" / "machine.json").write_text(json.dumps({"machine": "mine", "version": 1}))
    return result


@canary("asv changed results.Results.save, its file's name or its attributes", METADATA)
def test_results_are_saved_by_our_function_into_a_file_of_a_known_name(tmp_path, monkeypatch):
    from asv_plugins import metadata

    calls = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        metadata, "metadata", SimpleNamespace(FILE_NAME="x", keep=lambda recorded, results: calls.append(results))
    )
    monkeypatch.setattr(metadata, "endings", SimpleNamespace(keep=lambda left, results: calls.append(left)))
    stored_result(Path("results")).save("results")
    file = Path("results") / "mine" / f"{COMMIT[:8]}-virtualenv-py3.11.json"
    assert file.is_file()
    assert calls == [file, tmp_path / ".asv" / "outcomes" / "mine" / COMMIT]


@canary("asv changed util.write_json, or results and benchmarks are saved otherwise", "asv_plugins/whole_files.py")
def test_results_and_benchmarks_are_saved_by_write_json_of_util():
    import inspect

    from asv import benchmarks, results, util

    assert list(inspect.signature(util.write_json).parameters) == ["path", "data", "api_version", "compact"]
    for module, owner in ((results, results.Results), (benchmarks, benchmarks.Benchmarks)):
        assert module.util is util
        assert "util.write_json(" in inspect.getsource(inspect.unwrap(owner.save))


@canary("asv changed results.iter_results: it reads files that are no results", "tlbench/records/endings.py")
def test_asv_reads_no_other_file_beside_the_results(tmp_path):
    from asv.results import iter_results

    from tlbench.environments.metadata import SUFFIX as OF_ENVIRONMENTS
    from tlbench.records.endings import SUFFIX as OF_ENDINGS

    stored_result(tmp_path)
    (results,) = tmp_path.glob("mine/*-*.json")
    for suffix in (OF_ENVIRONMENTS, OF_ENDINGS):
        results.with_suffix(suffix).write_text(results.read_text().replace(COMMIT, COMMIT[::-1]))
    assert [results.commit_hash for results in iter_results(str(tmp_path))] == [COMMIT]


@canary("asv changed results.Results: its attributes or getters", STORED)
def test_stored_results_have_a_commit_a_machine_parameters_and_values(tmp_path):
    from asv.results import iter_results

    stored_result(tmp_path)
    (results,) = iter_results(str(tmp_path))
    assert (results.commit_hash, int(results.date), results.params["machine"]) == (COMMIT, 1000, "mine")
    assert list(results.get_all_result_keys()) == ["some.track_measured"]
    params = results.get_result_params("some.track_measured")
    assert params == [["'a'", "'b'"]]
    assert results.get_result_value("some.track_measured", params) == [0.5, None]
    assert [int(start) for start in results.started_at.values()] == [int(STARTED.timestamp() * 1000)]


@canary("asv changed results.iter_results_for_machine", "tools/docs/findings.py")
def test_results_can_be_read_machine_by_machine(tmp_path):
    from asv.results import iter_results_for_machine

    stored_result(tmp_path)
    assert [results.commit_hash for results in iter_results_for_machine(str(tmp_path), "mine")] == [COMMIT]


@canary("asv changed the columns of a file of results", "tools/perf/bench.py")
def test_a_file_of_results_names_its_columns(tmp_path):
    stored_result(tmp_path)
    stored = json.loads(next(tmp_path.glob("mine/*-*.json")).read_text())
    columns = dict(zip(stored["result_columns"], stored["results"]["some.track_measured"], strict=False))
    assert columns["params"] == [["'a'", "'b'"]]
    assert columns["result"] == [0.5, None]
    assert columns["duration"] == 2.0


# Configuration and publishing ----------------------------------------------------------------------------------------

CONFIGURATION = {"version": 1, "project": "canary", "repo": "history.git", "branches": ["main"]}


def configuration(folder):
    from asv.config import Config

    (folder / "asv.conf.json").write_text(json.dumps({**CONFIGURATION, "plugins": [".canary_plugin"]}))
    return Config.load(str(folder / "asv.conf.json"))


@canary("asv changed config.Config", STORED)
def test_a_configuration_names_the_folder_of_results_and_the_repository(tmp_path):
    from asv.config import Config
    from asv.util import UserError

    conf = configuration(tmp_path)
    assert (conf.results_dir, conf.repo, conf.project) == ("results", "history.git", "canary")
    with pytest.raises(UserError):
        Config.load(str(tmp_path / "absent.json"))


@canary("asv changed util.load_json: it no longer skips comments", "tools/perf/bench.py")
def test_a_configuration_may_have_comments(tmp_path):
    from asv.util import load_json

    (tmp_path / "some.json").write_text('{\n    // why\n    "version": 1\n}')
    assert load_json(str(tmp_path / "some.json"), js_comments=True) == {"version": 1}


@canary("asv changed build_cache.BuildCache: built wheels lie elsewhere", "tools/perf/speed.py")
def test_built_wheels_lie_in_a_folder_named_by_the_commit(tmp_path):
    from asv.build_cache import BuildCache

    folder = Path(BuildCache(SimpleNamespace(build_cache_size=1), str(tmp_path / "environment")).create_cache_dir(COMMIT))
    (folder / "some.whl").touch()
    assert [path.parent.name for path in tmp_path.glob("*/asv-build-cache/*/*.whl")] == [COMMIT]


@canary("asv changed commands.publish.Publish.run, or how it imports plugins", "asv_plugins/site.py")
def test_a_plugin_may_replace_the_function_of_asv_publish(tmp_path):
    from tlbench.history import SourceCommit, SourceFile, build_from_trees

    build_from_trees(tmp_path / "history.git", [SourceCommit("v1", STARTED, "v1", {"a": SourceFile(b"a")})])
    configuration(tmp_path)
    (tmp_path / "canary_plugin.py").write_text(
        "from asv.commands.publish import Publish\n"
        "def run(cls, conf, range_spec=None, pull=True):\n"
        "    print(conf.html_dir, conf.project_url, conf.show_commit_url, range_spec, pull)\n"
        "Publish.run = classmethod(run)\n"
    )
    words = [sys.executable, "-m", "asv", "publish", "v1^!", "--no-pull"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["html", "#", "#", "v1^!", "False"], done.stdout + done.stderr


@canary("asv renamed results.Results._results", "tlbench/site/history.py")
def test_results_hold_the_values_of_a_benchmark_as_stored(tmp_path):
    from asv.results import Results

    stored_result(tmp_path)
    results = Results.load(str(next(tmp_path.glob("mine/*-*.json"))))
    assert results._results["some.track_measured"] == [0.5, None]


# Parameters, tables, searches and the screen ---------------------------------------------------------------------------


@canary("asv changed benchmarks.Benchmarks: how it describes benchmarks and where it saves them", PARAMETERS)
def test_all_discovered_benchmarks_are_saved_in_one_file(tmp_path):
    from asv.benchmarks import Benchmarks
    from asv.util import load_json

    from asv_plugins import parameters

    conf = SimpleNamespace(benchmark_dir="suite", results_dir=str(tmp_path))
    benchmarks = Benchmarks(conf, [{**DESCRIBED, "name": name} for name in ("one", "other")], regex="one")
    assert list(benchmarks._all_benchmarks) == ["one", "other"]
    parameters._save(benchmarks)
    saved = load_json(Benchmarks.get_benchmark_file_path(str(tmp_path)), api_version=Benchmarks.api_version)
    assert saved["other"]["params"] == DESCRIBED["params"]


@canary(
    "asv changed results.Results: how it stores figures, or what it says of parameters that it does not have", PARAMETERS
)
def test_results_hold_figures_and_parameters_by_benchmark(tmp_path):
    from asv_plugins import parameters

    result = stored_result(tmp_path)
    name = "some.track_measured"
    assert result._results[name] == [0.5, None]
    assert result._benchmark_params[name] == DESCRIBED["params"]
    assert result._benchmark_version[name] == "1"
    assert (result._stats[name], result._samples[name]) == (None, None)
    assert parameters._get_result_value(result, name, [["'b'", "'new'"]]) == [None, None]


@canary("asv changed results.Results.load or benchmarks.Benchmarks.__init__", "asv_plugins/former_parameters.py")
def test_results_and_descriptions_are_read_by_the_functions_that_convert_them(tmp_path):
    import inspect

    from asv.benchmarks import Benchmarks
    from asv.results import Results, iter_results

    stored_result(tmp_path)
    (path,) = tmp_path.glob("mine/*-*.json")
    loaded = Results.load(str(path))
    columns = (loaded._results, loaded._stats, loaded._samples, loaded._benchmark_params)
    assert all(list(column) == ["some.track_measured"] for column in columns)
    assert list(inspect.signature(inspect.unwrap(Benchmarks.__init__)).parameters) == ["self", "conf", "benchmarks", "regex"]
    assert "Results.load(" in inspect.getsource(iter_results)
    assert "cls(conf, benchmarks" in inspect.getsource(Benchmarks.load)


@canary("asv changed `asv run`: it no longer loads a commit's stored results before it measures", METADATA)
@pytest.mark.parametrize("name", ["run", "find"])
def test_stored_results_are_loaded_before_benchmarks_run(name):
    import inspect
    from importlib import import_module

    source = inspect.getsource(import_module(f"asv.commands.{name}"))
    loads, runs, saves = (
        source.rindex(call) for call in ("result.load_data(", "run_benchmarks(\n", ".save(conf.results_dir)")
    )
    assert loads < runs < saves


@canary("asv changed results.format_benchmark_result: it formats a grid in another way", ROWS)
def test_a_grid_is_formatted_by_the_function_that_is_replaced(tmp_path, monkeypatch):
    from asv import results

    given = []
    monkeypatch.setattr(results, "_format_benchmark_result", lambda *words: given.append(words) or ["a line"])
    benchmark = {**DESCRIBED, "name": "some.track_measured"}
    assert results.format_benchmark_result(stored_result(tmp_path), benchmark)[1].startswith("a line")
    assert given == [([(0.5, None), (None, None)], benchmark)]


@canary("asv changed runner.run_benchmark: it runs a cell by another function, or names its index otherwise", SCREEN)
def test_a_cell_is_run_with_its_benchmark_and_index(monkeypatch):
    from asv import runner
    from asv.runner import BenchmarkResult

    given = []

    def run(benchmark, spawner, param_idx, **_):
        given.append((benchmark["name"], param_idx))
        return BenchmarkResult([1.0], [None], [None], 0, "", None)

    monkeypatch.setattr(runner, "_run_benchmark_single_param", run)
    run_benchmark(Spawner())
    assert given == [("some.Suite.track_value", 0), ("some.Suite.track_value", 1)]


@canary("asv changed Compare.print_table: its arguments, its rows or its marks", ROWS)
def test_a_comparison_hands_its_rows_to_tabulate(tmp_path, monkeypatch):
    from asv.commands import compare

    from asv_plugins import rows

    def resultset(*values):
        return [("some.track", [["'a'", "'b'", "'c'"]], list(values), [None] * 3, [None] * 3, "1", "mine", "env")]

    given = []
    monkeypatch.setattr(compare, "tabulate", SimpleNamespace(tabulate=lambda lines, **_: given.extend(lines) or ""))
    monkeypatch.setattr(compare.Benchmarks, "load", lambda _: {})
    before, after = resultset(1.0, None, math.nan), resultset(None, 1.0, math.nan)
    conf = SimpleNamespace(results_dir=str(tmp_path))
    named = {"factor": 1.1, "split": False, "only_changed": False, "resultset_1": before, "resultset_2": after}
    rows._print_table(compare.Compare, conf, "1" * 40, "2" * 40, **named)
    assert given == [
        ["!", "1.0", "failed", "n/a", "some.track('a')"],
        ["*", "failed", "1.0", "n/a", "some.track('b')"],
        [" ", "n/a", "n/a", "n/a", "some.track('c')"],
    ]


@canary("asv changed `asv compare`: how it names the machine", LANE)
def test_a_comparison_takes_its_machine_by_name(monkeypatch):
    from asv.commands.compare import Compare

    given = []
    monkeypatch.setattr(Compare, "run", lambda **named: given.append(named))
    words = ("factor", "split", "only_changed", "sort", "env_spec", "use_stats", "revision1", "revision2")
    Compare.run_from_conf_args("conf", SimpleNamespace(**dict.fromkeys(words), machine="mine"))
    assert given[0]["conf"] == "conf"
    assert given[0]["machine"] == "mine"


@canary("asv changed `asv find`: the function that measures a commit, or its last message", FIND)
def test_a_search_measures_by_the_function_that_is_replaced_and_names_a_commit():
    import inspect

    from asv.commands import find

    from asv_plugins.find import NAMED, _run

    source = inspect.getsource(_run)
    assert "res = run_benchmarks(" in source
    assert "repo = get_repo(conf)" in source
    assert 'f"Greatest {direction} found: {commit_name}"' in source
    assert NAMED.match("Greatest improvement found: 0123abcd <v1>")[1] == "0123abcd"
    parameters = list(inspect.signature(find.Find.run_from_conf_args).parameters)
    assert parameters[:2] == ["conf", "args"]
    assert list(inspect.signature(_run).parameters)[:5] == ["cls", "conf", "range_spec", "bench", "invert"]


@canary("asv changed `asv run`: the functions that run a commit or look up what is stored, or its message", SCREEN)
def test_a_run_s_functions_and_message_are_those_that_the_screen_uses():
    import inspect

    from asv.commands import run

    from asv_plugins.screen import COMMIT

    source = inspect.getsource(run.Run.run)
    for call in ("run_benchmarks(", "iter_results_for_machine_and_hash(", 'f"For {conf.project} commit {commit_name}'):
        assert call in source
    assert COMMIT.match("For transformer-lens commit 281d0a89 <v4.3.0>:").groups() == ("281d0a89", "4.3.0")
    assert COMMIT.match("For transformer-lens commit 281d0a89:").groups() == ("281d0a89", None)


@canary("asv changed how it matches regressions_first_commits and regressions_thresholds", "asv.conf.json")
def test_a_pattern_that_matches_nothing_but_a_place_switches_a_benchmark_off():
    from asv.plugins.regressions import _GraphDataFilter

    conf = SimpleNamespace(regressions_first_commits={"(?!one)": None}, regressions_thresholds={"one": 0.41})
    rules = _GraphDataFilter(conf, None, {"commit": 0})
    graph = SimpleNamespace(params={"branch": "main"})
    assert rules._get_start_revision(graph, {}, "other(1)") is None
    assert rules._get_start_revision(graph, {}, "one(1)") == 0
    assert rules._get_threshold(graph, {}, "one(1)") == 0.41
