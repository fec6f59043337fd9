"""The benchmark of losses of batches: a short run, which goes on, and its tables."""

import importlib
import json
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    before = set(sys.modules)
    yield importlib.import_module("batch_loss")
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(FOLDER)):
            del sys.modules[name]


def test_a_short_run_goes_on_and_its_tables_come_from_json_alone(bench, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(bench, "SETTINGS", {"digits": bench.Setting(3, 256, 16)})
    monkeypatch.setattr(bench, "SHOWN", (1, 2))
    path = tmp_path / "figures.jsonl"
    command = ["--data", "digits", "--json", str(path), "--seeds"]
    assert bench.main([*command, "1"]) == 0
    first = path.read_text()
    assert bench.main([*command, "2"]) == 0 and path.read_text().startswith(first)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [row["seed"] for row in rows] == [0, 1]

    agents = rows[0]["agents"]
    assert set(agents) == set(bench.AGENTS) and agents["all data"]["share"] == 1
    assert agents["random"]["share"] == pytest.approx(agents["own losses"]["share"], abs=0.01)
    own, other = (agents[name]["correlation"][1] for name in ("own losses", "batch losses, 0.9"))
    assert own > other + 0.2

    capsys.readouterr()
    assert bench.main(["--summary", str(path)]) == 0
    shown = capsys.readouterr().out
    assert "| digits | 2 |" in shown and "| digits, batch losses, 0.7 |" in shown
