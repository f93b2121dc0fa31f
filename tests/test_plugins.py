"""What asv's plugins leave behind."""

import json

import pytest
from asv import util

from asv_plugins import machine, whole_files
from asv_plugins.environments import environments, page
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


def kept(results, machine, commit, *environments):
    folder = results / machine
    folder.mkdir(exist_ok=True)
    lines = "".join(json.dumps(facts) + "\n" for facts in environments)
    (folder / f"{commit}-virtualenv-py3.11.environments.jsonl").write_text(lines)


def test_the_page_of_environments_marks_what_differs_from_the_commit_before(tmp_path):
    kept(tmp_path, "mine", "aaaaaaaa", {"cpu": "old"}, {"cpu": "<new>", "torch": "2"})
    kept(tmp_path, "mine", "bbbbbbbb", {"cpu": "<new>", "torch": "3"})
    kept(tmp_path, "other", "bbbbbbbb", {"cpu": "another"})
    kept(tmp_path, "other", "aaaaaaaa")
    (tmp_path / "other" / "aaaaaaaa-virtualenv-py3.11.environments.jsonl").write_text("half a li")
    found = environments(tmp_path, {"aaaaaaaa": "v1", "bbbbbbbb": "v2"})
    assert found == {
        "mine": [("v1", {"cpu": "<new>", "torch": "2"}), ("v2", {"cpu": "<new>", "torch": "3"})],
        "other": [("v2", {"cpu": "another"})],
    }
    text = page(found)
    assert "<tr><th>cpu</th><td>&lt;new&gt;</td><td>&lt;new&gt;</td></tr>" in text
    assert "<tr><th>torch</th><td>2</td><td class=other>3</td></tr>" in text


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
