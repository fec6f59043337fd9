"""The benchmark of the environment of language modelling writes what it says."""

import importlib
import json
import sys
from pathlib import Path

import pytest

pytest.importorskip("reasoning_gym", reason="needs reasoning-gym: pip install reasoning-gym")
FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.mark.slow
def test_a_quick_run_writes_its_figures(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    path = tmp_path / "language.json"
    command = ["language_env.py", "--quick", "--repeats", "1", "--json", str(path), "--agents", "random"]
    monkeypatch.setattr(sys, "argv", command)
    importlib.import_module("language_env").main()
    found = json.loads(path.read_text())
    (row,) = found["learning"]
    assert 0 <= row["metric"] <= row["scorer"] <= 1 and len(row["levels"]) == 13
    assert 300_000 < row["parameters"] < 330_000 and found["interval_seconds"] > 0
    assert [(a["agent"], a["context"]["label_noise"]) for a in found["agents"]] == [
        ("random", 0.0),
        ("random", 0.4),
    ]
    assert all(a["over_random_mean"] == 0 for a in found["agents"])
