"""The benchmark of other kinds of task: its file is gone on with, and its table compares seed by seed."""

import importlib
import json
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("kinds_env")


def test_agents_are_run_once_and_compared_on_the_same_seeds(bench, tmp_path, capsys):
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
