"""The benchmarks of other kinds of task: a file is gone on with, and tables compare seed by seed."""

import importlib
import json
from pathlib import Path

import numpy as np

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


def test_agents_are_run_once_and_compared_on_the_same_seeds(monkeypatch, tmp_path, capsys):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    bench = importlib.import_module("kinds_env")
    path = tmp_path / "kinds.json"
    ask = ["--env", "Tiny-Regression-v0", "--seeds", "2", "--json", str(path), "--rules", "random"]
    bench.main(ask)
    first = json.loads(path.read_text())["rows"]
    bench.main([*ask, "trim"])
    rows = json.loads(path.read_text())["rows"]
    assert rows[0] == first[0] and [row["agent"] for row in rows] == ["random", "trim"]
    values = np.array(rows[1]["metric"])
    assert values.shape == (3, 2) and (values >= 0).all() and (values <= 1).all()

    table = capsys.readouterr().out.splitlines()
    assert table[-1].startswith(f"| trim | {values[0].mean():.3f} | ")
    apart = (values - np.array(rows[0]["metric"])).mean(1)
    assert f"{apart[2]:+.3f} [" in table[-1]


def test_half_of_the_data_is_half_of_the_samples_on_every_kind(monkeypatch, tmp_path, capsys):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    bench = importlib.import_module("kinds")
    monkeypatch.setattr(bench, "RECIPE", (2, 32, 5e-3))
    path = tmp_path / "kinds.jsonl"
    ask = ["--seeds", "1", "--json", str(path), "--tasks", "multilabel", "regression", "--arms", "all data"]
    bench.main(ask)
    bench.main([*ask, "random", "data_agent", "all data, half the epochs"])
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    found = [(row["task"], row["arm"], row["samples"]) for row in rows]
    every = [("multilabel", "all data", 2000), ("regression", "all data", 3000)]
    half = ["all data, half the epochs", "random", "data_agent"]
    assert found == every + [("multilabel", arm, 1000) for arm in half] + [
        ("regression", arm, 1500) for arm in half[:2]
    ]
    assert all(0 <= row["metric"] <= 1 for row in rows)
    assert capsys.readouterr().out.splitlines()[-1].startswith("| regression, 2 epochs | random | ")
