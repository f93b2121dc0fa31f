"""Hub models come through huggingface_hub, which obeys HF_ENDPOINT and proxies. A local server stands in for the Hub."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tlbench import BadInput, catalogue
from tlbench.checkpoints import ensure
from tlbench.exceptions import CheckpointUnavailable

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[1]
REPO = "organisation/model"
ENTRY = f'[[model]]\nname = "far"\nsource = "hub"\nrepo = "{REPO}"\n'


class Hub:
    """A Hub with one repository, whose files are in a folder.

    Attributes:
        commit: what its branch ``main`` points to.
        asked: the path of each request, and whether it came as to a proxy.
    """

    def __init__(self, folder):
        self.folder, self.commit, self.asked = folder, "a" * 40, []
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def do_GET(self):
                url = urlsplit(self.path)
                hub.asked.append((url.path, bool(url.netloc)))
                status, headers, body = hub.answer(url.path)
                self.send_response(status)
                for name, value in {"Content-Length": len(body), "X-Repo-Commit": hub.commit, **headers}.items():
                    self.send_header(name, str(value))
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(body)

            do_HEAD = do_GET

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def files(self):
        return {path.relative_to(self.folder).as_posix(): path for path in self.folder.rglob("*") if path.is_file()}

    def answer(self, path):
        api, download = f"/api/models/{REPO}", f"/{REPO}/resolve/{self.commit}/"
        missing = 404, {"X-Error-Code": "RepoNotFound"}, b""
        if path in (f"{api}/revision/main", f"{api}/revision/{self.commit}"):
            siblings = [{"rfilename": name} for name in self.files()]
            return 200, {}, json.dumps({"id": REPO, "sha": self.commit, "siblings": siblings}).encode()
        if path.startswith(f"{api}/revision/"):
            return 404, {"X-Error-Code": "RevisionNotFound"}, b""
        if path.startswith(f"{api}/tree/"):
            files = self.files().items()
            entries = [{"type": "file", "path": name, "size": file.stat().st_size, "oid": "0" * 40} for name, file in files]
            return 200, {}, json.dumps(entries).encode()
        file = self.files().get(path.removeprefix(download))
        if file is None:
            return missing
        body = file.read_bytes()
        return 200, {"ETag": f'"{hashlib.sha256(body).hexdigest()}"'}, body


@pytest.fixture
def hub(tmp_path):
    models = catalogue.load()
    folder = shutil.copytree(ensure(models.get("zoo-gpt2"), models).folder, tmp_path / "repository")
    (folder / "prompts.json").unlink()
    standing_in = Hub(folder)
    yield standing_in
    standing_in.server.shutdown()


@pytest.fixture
def run(tmp_path):
    """Run ``tlbench checkpoints far`` in a process of its own, because huggingface_hub reads the variables when imported."""
    (tmp_path / "models.toml").write_text(ENTRY)

    def run(*words, **variables):
        kept = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
        kept |= {"HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path / "hf"), "TLBENCH_CACHE": str(tmp_path / "cache")}
        kept |= {"TLBENCH_CATALOGUE": str(tmp_path / "models.toml"), "PYTHONPATH": str(ROOT), **variables}
        command = [sys.executable, "-m", "tlbench.cli", "checkpoints", *(words or ("far",))]
        return subprocess.run(command, cwd=tmp_path, env=kept, capture_output=True, text=True, check=False)

    run.pins = lambda: json.loads((tmp_path / "models.lock.json").read_text())["far"]
    return run


@pytest.mark.slow
def test_a_model_is_downloaded_from_the_hub_that_hf_endpoint_names(hub, run):
    done = run(HF_ENDPOINT=hub.url)
    assert done.returncode == 0, done.stderr
    assert {"commit on the Hub", "config.json", "model.safetensors", "prompts.json"} <= set(run.pins())


@pytest.mark.slow
def test_a_model_is_downloaded_through_a_proxy(hub, run):
    done = run(HF_ENDPOINT="http://hub.invalid", HTTP_PROXY=hub.url)
    assert done.returncode == 0, done.stderr
    assert hub.asked
    assert all(through_proxy for _, through_proxy in hub.asked)


@pytest.mark.slow
@pytest.mark.parametrize(("endpoint", "reason"), [("http://127.0.0.1:1", "Connect"), ("hub.internal", "protocol")])
def test_a_hub_that_cannot_be_reached_is_told_with_its_address_and_the_reason(run, endpoint, reason):
    done = run(HF_ENDPOINT=endpoint)
    assert done.returncode == 2
    assert f"the Hub cannot be reached at {endpoint} (" in done.stderr
    assert reason in done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture
def reached(hub, monkeypatch, tmp_path, own_cache):
    """The stand-in, as this process's own Hub."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hf"))
    return hub


@pytest.fixture
def far(write_catalogue):
    models = write_catalogue(ENTRY)
    return models.get("far"), models


def test_a_revision_that_moves_after_it_was_pinned_changes_nothing(reached, far, tmp_path, monkeypatch):
    first = ensure(*far)
    reached.commit = "b" * 40
    (reached.folder / "config.json").write_text("{}")
    (tmp_path / "hf" / "models--organisation--model" / "refs" / "main").write_text(reached.commit)
    asked = len(reached.asked)
    assert ensure(*far).sha256 == first.sha256
    assert len(reached.asked) == asked
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "another machine's"))
    with pytest.raises(CheckpointUnavailable, match=f"the Hub has no {REPO} at {'a' * 40}: correct the revision or its pin"):
        ensure(*far)


def test_a_repository_without_safetensors_is_refused_before_anything_is_downloaded(reached, far):
    (reached.folder / "model.safetensors").rename(reached.folder / "pytorch_model.bin")
    with pytest.raises(BadInput, match=r"holds only the pickle pytorch_model.bin, but tlbench reads only safetensors"):
        ensure(*far)
    assert not [path for path, _ in reached.asked if "/resolve/" in path]


def test_what_is_no_part_of_the_checkpoint_is_not_downloaded(reached, far):
    (reached.folder / "onnx").mkdir()
    for name in ("onnx/config.json", "consolidated.safetensors", "pytorch_model.bin"):
        (reached.folder / name).write_text("{}")
    (reached.folder / "added_tokens.json").write_text("{}")
    names = {path.name for path in ensure(*far).folder.iterdir()}
    assert "added_tokens.json" in names
    assert not names & {"onnx", "consolidated.safetensors", "pytorch_model.bin"}


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json"])
def test_what_an_interrupted_download_left_out_is_downloaded(reached, far, tmp_path, name):
    whole = ensure(*far)
    (whole.folder / name).unlink()
    shutil.rmtree(tmp_path / "hf" / "models--organisation--model" / "blobs")
    for path in whole.folder.iterdir():
        path.unlink()
        if path.name != name:
            shutil.copy(reached.folder / path.name, path)
    assert ensure(*far).sha256 == whole.sha256


def test_a_disk_that_refuses_a_download_is_told(reached, far, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "file"))
    with pytest.raises(BadInput, match=r"cannot write .*/file .*set HF_HOME to one that is"):
        ensure(*far)


def test_the_hub_models_of_the_packaged_catalogue_are_pinned_in_the_cache_unless_asked(reached, tmp_path, monkeypatch):
    (tmp_path / "package").mkdir()
    packaged = tmp_path / "package" / "catalogue.toml"
    packaged.write_text(ENTRY)
    monkeypatch.setattr(catalogue, "packaged_path", lambda: packaged)
    models = catalogue.load(packaged)
    model = models.get("far")
    first = ensure(model, models)
    assert not models.lock_path.exists()
    (first.folder / "config.json").unlink()
    (first.folder / "config.json").write_text("{}")
    with pytest.raises(BadInput, match="is truncated or altered"):
        ensure(model, models)
    shutil.copy(reached.folder / "config.json", first.folder / "config.json")
    ensure(model, models, in_lock=True)
    assert json.loads(models.lock_path.read_text())["far"]["commit on the Hub"] == reached.commit
