"""What asv's plugins leave behind."""

import json

from asv_plugins import machine
from asv_plugins.site import write_missing_graphs


def test_a_machine_has_no_kernel_release_so_that_its_history_goes_on_after_an_update(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert machine.main(["mine"]) == 0
    stored = json.loads((tmp_path / ".asv-machine.json").read_text())["mine"]
    assert stored["machine"] == "mine"
    assert stored["os"].isalpha()
    assert stored["ram"].isdigit()


def test_what_only_one_machine_measured_is_an_empty_graph_on_the_others(tmp_path):
    for name in ("machine-a/x.json", "machine-a/y.json", "machine-b/x.json", "summary/x.json"):
        path = tmp_path / "graphs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("[[1, 2.0]]")
    write_missing_graphs(tmp_path, ["x", "y"])
    assert (tmp_path / "graphs" / "machine-b" / "y.json").read_text() == "[]"
    assert (tmp_path / "graphs" / "machine-a" / "y.json").read_text() == "[[1, 2.0]]"
    assert not (tmp_path / "graphs" / "summary" / "y.json").exists()
