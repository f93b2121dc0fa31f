"""What asv's plugins leave behind."""

import json

from asv_plugins import machine


def test_a_machine_has_no_kernel_release_so_that_its_history_goes_on_after_an_update(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert machine.main(["mine"]) == 0
    stored = json.loads((tmp_path / ".asv-machine.json").read_text())["mine"]
    assert stored["machine"] == "mine"
    assert stored["os"].isalpha()
    assert stored["ram"].isdigit()
