"""An environment holds what the commit needs and can prove it."""

import json
import os
import re
import sys
import zipfile
from pathlib import Path

import pytest

from tlbench.environments import installer, provenance, reference_python
from tlbench.exceptions import WrongLibrary, WrongTransformerLens

ROOT = Path(__file__).resolve().parents[1]


def wheel(folder, requirements=(), files=()):
    path = folder / "transformer_lens-0.0.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        lines = ["Metadata-Version: 2.1", "Name: transformer-lens", "Version: 0.0.0"]
        lines += [f"Requires-Dist: {requirement}" for requirement in requirements]
        archive.writestr("transformer_lens-0.0.0.dist-info/METADATA", "\n".join(lines) + "\n")
        for name, text in files:
            archive.writestr(name, text)
    return path


@pytest.mark.parametrize(
    ("requirements", "era"),
    [
        (["transformers (>=4.25.1)"], "era4"),
        (["transformers (<4.51) ; python_version < '3.9'", "transformers (>=4.57) ; python_version >= '3.9'"], "era4"),
        (["transformers>=4.56"], "era4"),
        (["transformers>=5.4.0"], "era5a"),
        (["transformers>=5.9.0", "transformers-stream-generator>=0.0.5"], "era5"),
        (["transformers>=5.9.0; extra == 'dev'", "transformers>=4.40"], "era4"),
        ([], "era4"),
    ],
)
def test_the_era_follows_the_lower_bound_on_transformers(tmp_path, requirements, era):
    assert installer.era_of(wheel(tmp_path, requirements)) == era


def test_every_era_pins_transformers_and_torch_once():
    common = (installer.ERAS / "common.txt").read_text()
    assert "torch==" in common
    for era in ("era4", "era5a", "era5"):
        assert (installer.ERAS / f"{era}.txt").read_text().count("\ntransformers==") == 1


PINNED = re.compile(r"^([A-Za-z0-9_.-]+)==\S+$", re.MULTILINE)


@pytest.mark.parametrize("era", ["era4", "era5a", "era5"])
def test_a_lock_pins_each_package_once_and_none_that_the_era_pins_by_hand(era):
    locked = PINNED.findall(installer.lock_of(era).read_text())
    by_hand = {name for path in installer.pins_of(era) for name in PINNED.findall(path.read_text())}
    assert len(locked) == len(set(locked)) > 50
    assert not by_hand & set(locked)
    assert {"huggingface-hub", "tokenizers", "requests"} <= {*locked, *by_hand}


@pytest.fixture
def asked(monkeypatch):
    """What uv is asked for: whether each installation is offline. What it has kept is complete."""
    found, frozen = [], ["torch==2.13.0+cpu", "transformers==4.57.6", "tqdm==4.70.1", "nvidia-nccl-cu12==2.32.3"]

    def run_uv(*words, doing):
        if "freeze" in words:
            return "\n".join(frozen)
        found.append("--offline" in words)
        if "--offline" in words and not frozen:
            raise installer.InstallError("not in the cache")
        return ""

    monkeypatch.setattr(installer, "run_uv", run_uv)
    monkeypatch.setattr(installer, "_record", lambda *_: None)
    for name in [*os.environ]:
        if name.startswith("UV_"):
            monkeypatch.delenv(name)
    return found, frozen


def test_what_uv_has_kept_is_installed_without_asking_the_index(tmp_path, asked):
    installer.install(wheel(tmp_path), "c" * 40)
    assert asked[0] == [True]


def test_the_index_is_asked_for_what_uv_has_not_kept(tmp_path, asked):
    asked[1].clear()
    installer.install(wheel(tmp_path), "c" * 40)
    assert asked[0] == [True, False]


def test_the_index_is_asked_where_something_installed_is_pinned_nowhere(tmp_path, asked):
    asked[1].append("brand-new==1.0")
    installer.install(wheel(tmp_path), "c" * 40)
    assert asked[0] == [True, False]


@pytest.mark.parametrize(("name", "value"), [("UV_EXTRA_INDEX_URL", "https://a"), ("UV_FIND_LINKS", "https://a/wheels")])
def test_the_index_is_asked_where_a_machine_has_one_of_its_own(tmp_path, asked, monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    installer.install(wheel(tmp_path), "c" * 40)
    assert asked[0] == [False]


def test_bad_use_is_one_sentence(capsys):
    assert installer.main(["install"]) == 1
    assert "usage" in capsys.readouterr().err


def test_a_checkout_that_does_not_build_is_told(tmp_path, capsys, monkeypatch):
    (tmp_path / "pyproject.toml").write_text("[build-system]\nrequires = []\nbuild-backend = 'none.here'\n")
    assert installer.main(["build", str(tmp_path), str(tmp_path / "wheels")]) == 1
    assert f"building {tmp_path} failed" in capsys.readouterr().err


FILES = [("transformer_lens/__init__.py", "x = 1\n"), ("transformer_lens/data/a.json", "{}"), ("other/b.py", "")]


LIBRARIES = {"torch": "2.13.0+cpu", "transformers": "5.23.0"}


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """A package of two files that is imported, and a record of the wheel that it came from."""
    for name, text in FILES[:2]:
        path = tmp_path / "site" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    monkeypatch.setitem(sys.modules, "transformer_lens", type(sys)("transformer_lens"))
    sys.modules["transformer_lens"].__path__ = [str(tmp_path / "site" / "transformer_lens")]
    for name, version in LIBRARIES.items():
        library = type(sys)(name)
        library.__file__, library.__version__ = str(tmp_path / "site" / name / "__init__.py"), version
        monkeypatch.setitem(sys.modules, name, library)
    record = {
        "commit": "c" * 40,
        "package_digest": provenance.wheel_digest({n: t.encode() for n, t in FILES}),
        "packages": [f"{name}=={version}" for name, version in LIBRARIES.items()],
    }
    (tmp_path / provenance.RECORD_NAME).write_text(json.dumps(record))
    provenance.prove.cache_clear()
    yield tmp_path
    provenance.prove.cache_clear()


def test_the_wheel_that_was_asked_for_is_proved(installed, monkeypatch):
    monkeypatch.setenv("ASV_COMMIT", "c" * 40)
    assert provenance.prove().commit == "c" * 40


def test_compiled_files_do_not_disturb_the_proof(installed):
    cache = installed / "site" / "transformer_lens" / "__pycache__"
    cache.mkdir()
    (cache / "a.pyc").touch()
    assert provenance.prove().commit == "c" * 40


@pytest.mark.parametrize("name", ["__init__.py", "data/a.json"])
def test_a_package_that_differs_from_its_wheel_is_refused(installed, name):
    (installed / "site" / "transformer_lens" / name).write_text("x = 2\n")
    with pytest.raises(WrongTransformerLens, match="differ from the wheel built from cccccccc"):
        provenance.prove()


@pytest.mark.parametrize("name", LIBRARIES)
def test_a_library_from_outside_the_environment_is_refused(installed, monkeypatch, name):
    monkeypatch.setattr(sys.modules[name], "__file__", "/elsewhere/site-packages/library/__init__.py")
    with pytest.raises(WrongLibrary, match=f"imported {name} from /elsewhere/site-packages/library, not from the environ"):
        provenance.prove()


@pytest.mark.parametrize("name", LIBRARIES)
def test_a_library_that_was_replaced_after_the_installation_is_refused(installed, monkeypatch, name):
    monkeypatch.setattr(sys.modules[name], "__version__", "1.0")
    with pytest.raises(
        WrongLibrary, match=rf"imported {name}==1.0 in .*, but {name}=={re.escape(LIBRARIES[name])} was inst"
    ):
        provenance.prove()


def test_another_commit_than_the_one_asked_for_is_refused(installed, monkeypatch):
    monkeypatch.setenv("ASV_COMMIT", "d" * 40)
    with pytest.raises(WrongTransformerLens, match="expected commit dddddddd, but cccccccc is installed"):
        provenance.prove()


def test_a_commit_asked_for_without_a_record_is_refused(installed, monkeypatch):
    (installed / provenance.RECORD_NAME).unlink()
    assert provenance.prove().commit == ""
    provenance.prove.cache_clear()
    monkeypatch.setenv("ASV_COMMIT", "d" * 40)
    with pytest.raises(WrongTransformerLens, match="cannot verify that commit dddddddd is installed"):
        provenance.prove()


@pytest.mark.parametrize(
    ("versions", "is_used"), [({}, True), ({"torch": "2.12.0"}, False), ({"transformers": None}, False)]
)
def test_goldens_are_computed_where_measuring_is_if_the_versions_are_the_pinned_ones(tmp_path, versions, is_used):
    python = tmp_path / "bin" / "python"
    pins = dict(line.split("==") for line in (ROOT / "requirements.lock").read_text().splitlines())
    for name in ("torch", "transformers"):
        if version := versions.get(name, f"{pins[name]}+cpu"):
            folder = tmp_path / "lib" / "python3.11" / "site-packages" / f"{name}-{version}.dist-info"
            folder.mkdir(parents=True)
            (folder / "METADATA").write_text(f"Name: {name}\nVersion: {version}\n")
    assert (reference_python(python) == python) is is_used


PINS_OF_ANOTHER_TORCH = [
    "torch (>=1.10)",
    'nvidia-cublas-cu12 (==12.1.3.1) ; platform_system == "Linux" and platform_machine == "x86_64"',
    'triton (==2.1.0) ; platform_system == "Linux" and platform_machine == "x86_64"',
    "torchvision (<0.23,>=0.22)",
    "transformers (>=4.25.1)",
]


def test_packages_that_come_with_torch_are_left_to_torch(tmp_path):
    original = wheel(tmp_path, PINS_OF_ANOTHER_TORCH, FILES)
    copy = installer.with_torchs_own(original, tmp_path / "copy")
    assert [requirement.name for requirement in installer.requirements_of(copy)] == ["torch", "transformers"]
    assert copy.name == original.name
    with zipfile.ZipFile(original) as one, zipfile.ZipFile(copy) as other:
        assert one.namelist() == other.namelist()
        assert all(one.read(name) == other.read(name) for name, _ in FILES)


def test_a_wheel_that_requires_none_of_torch_s_packages_is_installed_as_it_is(tmp_path):
    original = wheel(tmp_path, PINS_OF_ANOTHER_TORCH[:1])
    assert installer.with_torchs_own(original, tmp_path / "copy") == original
    assert not (tmp_path / "copy").exists()


def test_the_wheel_that_is_installed_pins_nothing_of_another_torch(tmp_path, monkeypatch):
    required = []

    def run_uv(*words, doing):
        if "--reinstall-package" in words:
            (installed,) = (Path(word) for word in words if word.endswith(".whl"))
            required.extend(requirement.name for requirement in installer.requirements_of(installed))
        return ""

    monkeypatch.setattr(installer, "run_uv", run_uv)
    monkeypatch.setattr(installer, "_record", lambda *_: None)
    installer.install(wheel(tmp_path, PINS_OF_ANOTHER_TORCH), "c" * 40)
    assert required == ["torch", "transformers"]


@pytest.mark.parametrize("refusal", ["No space left on device (os error 28)", "Read-only file system (os error 30)"])
def test_a_disk_that_refuses_an_installation_is_told_with_what_to_do(monkeypatch, refusal):
    command = [sys.executable, "-c", f"import sys; sys.exit('error: {refusal}')"]
    with pytest.raises(installer.InstallError, match=r"installing failed .*set TLBENCH_CACHE and UV_CACHE_DIR"):
        installer._run(command, doing="installing")


def test_an_installation_that_hangs_ends(monkeypatch):
    monkeypatch.setattr(installer, "TIME_LIMIT_S", 0.1)
    with pytest.raises(installer.InstallError, match=r"installing took longer than 0 s: check the network"):
        installer._run([sys.executable, "-c", "import time; time.sleep(60)"], doing="installing")
