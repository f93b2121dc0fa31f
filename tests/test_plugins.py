"""What asv's plugins leave behind."""

import json

import pytest
from asv import util

from asv_plugins import machine, whole_files


def test_a_machine_has_no_kernel_release_so_that_its_history_goes_on_after_an_update(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert machine.main(["mine"]) == 0
    stored = json.loads((tmp_path / ".asv-machine.json").read_text())["mine"]
    assert stored["machine"] == "mine"
    assert stored["os"].isalpha()
    assert stored["ram"].isdigit()


def test_a_run_that_dies_while_it_saves_leaves_what_was_stored(tmp_path):
    class Dies(dict):
        """Half of it can be written."""

        def items(self):
            yield "first", 1
            raise RuntimeError("killed")

    path = tmp_path / "results.json"
    save = whole_files.whole(lambda data: util.write_json(str(path), data, compact=True))
    save({"figures": [1.5]})
    with pytest.raises(RuntimeError, match="killed"):
        save(Dies(first=1))
    assert json.loads(path.read_text()) == {"figures": [1.5]}
    assert [one.name for one in tmp_path.iterdir()] == ["results.json"]
    assert path.stat().st_mode & 0o777 == 0o644
