"""The script for a machine with a GPU: what it would do there. What a GPU computes is not tested."""

import argparse
import json
from contextlib import suppress
from pathlib import Path

import pytest
import torch

from tools import gpu


def wanted(device="cuda", shapes=("gpt2", "mistral")):
    return argparse.Namespace(shape=list(shapes), device=device, tiny=False, checkpoint=Path("c"), out=Path("o"))


def test_each_shape_is_made_once_and_verified_with_each_release_before_it_is_timed():
    assert [*gpu.steps(wanted(), {"4.2.0": "a", "4.3.0": "b"}, 0.0)] == [
        "machine.json",
        *("gpt2: checkpoint", "gpt2-4.2.0-cuda.json", "gpt2-4.3.0-cuda.json", "gpt2-modes.json"),
        *("gpt2-4.2.0-slowdown.json", "gpt2-4.3.0-slowdown.json", "gpt2-4.2.0-cpu.json", "gpt2-4.3.0-cpu.json"),
        *("mistral: checkpoint", "mistral-4.2.0-cuda.json", "mistral-4.3.0-cuda.json", "mistral-modes.json"),
        *("mistral-4.2.0-slowdown.json", "mistral-4.3.0-slowdown.json"),
    ]


def test_a_release_is_imported_from_its_folder(monkeypatch):
    ran = []
    monkeypatch.setattr(
        gpu.subprocess, "run", lambda words, env, **_: ran.append(env) or argparse.Namespace(returncode=0, stdout="")
    )
    gpu.steps(wanted(), {"4.2.0": "there"}, 0.0)["gpt2-4.2.0-cuda.json"]()
    assert ran[0]["TLBENCH_PACKAGE"] == "there"
    assert ran[0]["TLBENCH_ARITHMETIC"] == "native"


@pytest.mark.parametrize("lens", ["4.3.0", "4.3.0=/nowhere/at/all"])
def test_a_release_without_a_folder_is_refused(monkeypatch, capsys, tmp_path, lens):
    monkeypatch.setattr("sys.argv", ["gpu", "--lens", lens, "--out", str(tmp_path)])
    with pytest.raises(SystemExit):
        gpu.main()
    assert f"--lens {lens}: expected NAME=FOLDER" in capsys.readouterr().err


@pytest.mark.parametrize("mode", gpu.MODES)
def test_a_mode_differs_from_our_settings_and_is_undone_whatever_happens(mode):
    _, settings = gpu.MODES[mode]
    ((name, value),) = settings.items()
    before = getattr(torch.backends.cuda.matmul, name)
    assert before is not value
    with suppress(RuntimeError), gpu.matrix_products(settings):
        assert getattr(torch.backends.cuda.matmul, name) is value
        raise RuntimeError("as when memory runs out")
    assert getattr(torch.backends.cuda.matmul, name) is before


def test_the_report_has_every_figure_that_was_written(tmp_path, capsys):
    (tmp_path / "gpt2-modes.json").write_text(json.dumps([{"mode": "TF32", "dtype": "float32", "rms": 1.25e-3, "max": 0.5}]))
    row = {
        "cell": {"dtype": "float32", "shape": "1x64"},
        "ratio": 2,
        "half_width": 0.01,
        "seconds": 0.02,
        "eager_seconds": 0.01,
    }
    (tmp_path / "gpt2-4.3.0-slowdown.json").write_text(json.dumps([row]))
    cell = {
        "dtype": "float16",
        "option": "fold_ln",
        "ratio": 1.5,
        "bits_lost": None,
        "max": 2,
        "verdict": "benign",
        "reason": "",
    }
    (tmp_path / "gpt2-4.3.0-cuda.json").write_text(json.dumps({"conclusion": "RIGHT", "cells": [cell]}))
    (tmp_path / "machine.json").write_text("{}")
    gpu.report(tmp_path)
    printed = capsys.readouterr().out
    assert "| TF32 | float32 | 0.00125 | 0.5 |" in printed
    assert "| float32 | 1x64 | 2.000 ± 1.0 % | 20.00 | 10.00 |" in printed
    assert "| float16 | fold_ln | 1.5 |  | 2 | benign  |" in printed
