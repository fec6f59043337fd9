"""The benchmark of the guard runs, goes on where it stopped, and says what it found."""

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"


def test_a_small_run_is_gone_on_with(tmp_path: Any, monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))
    module: Any = importlib.import_module("guard")
    monkeypatch.setattr(module, "RATES", (0.4,))
    monkeypatch.setattr(module, "RECIPES", ("sgd",))
    figures = tmp_path / "guard.jsonl"

    def run(*arms: str) -> list[dict[str, Any]]:
        words = ["guard.py", "--first-seed", "100", "--seeds", "1", "--tables", "digits"]
        monkeypatch.setattr(sys, "argv", [*words, "--json", str(figures), "--arms", *arms])
        module.main()
        return [json.loads(line) for line in figures.read_text("utf-8").splitlines()]

    assert [row["arm"] for row in run("random")] == ["random"]
    capsys.readouterr()
    rows = run("random", "bad trim")
    assert [row["arm"] for row in rows] == ["random", "bad trim"]
    said = capsys.readouterr().out
    assert said.count("| bad trim |") == 2 and "| random | +0.00" in said
    assert rows[1]["share"][:2] == [0.25, 0.75] and len(rows[1]["wrong"]) == 12
    assert rows[1]["compute"] == pytest.approx(rows[0]["compute"])
    for name in ("guard", "trim", "common"):
        sys.modules.pop(name, None)
