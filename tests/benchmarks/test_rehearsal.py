"""The benchmark of `dsenv.rehearse`: regrets, its summary, and rows that are not run again."""

import importlib
import json
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"

pytestmark = pytest.mark.fast


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    before = set(sys.modules)
    yield importlib.import_module("rehearsal")
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(FOLDER)):
            del sys.modules[name]


TRUTH = {"random": [0.7, 0.8], "trim": [0.8, 0.8], "small_loss": [0.6, 0.6], "all data": [0.85, 0.85]}


def made(best, within, says="Take"):
    setup = {"seconds": 3.0}
    return {
        "best": {"name": best},
        "best_within_ratio": {"name": within},
        "noise_rate": 0.3,
        "says": [says],
        "cut": [],
        "setup": setup,
    }


def row(data="digits", model="mlp", **picks):
    shares = {share: made(*picks.get(share, ("random", "random"))) for share in ("all", "quarter", "tenth")}
    fixed = {"data": data, "model": model, "recipe": "adamw", "rate": 0.4, "seed": 0, "wrong": 0.4}
    return {**fixed, "truth": TRUTH, "rehearsals": shares}


def test_regret_is_that_of_the_pick_against_the_best_of_the_choices(script):
    rows = [row(all=("trim", "trim")), row(all=("all data", "random"))]
    whole, half = script.regrets(rows, "all", at_half=False), script.regrets(rows, "all", at_half=True)
    assert whole["rehearsal"].tolist() == pytest.approx([5, 0])
    assert half["rehearsal"].tolist() == pytest.approx([0, 5])
    assert whole["random"].tolist() == pytest.approx([10, 10]) and half["random"].tolist() == pytest.approx(
        [5, 5]
    )
    assert whole["all data"].tolist() == pytest.approx([0, 0]) and "all data" not in half
    assert "infobatch" not in whole


def test_the_summary_keeps_rows_that_were_chosen_on_apart(script, capsys):
    script.summary([row(), row("penbased"), row("fashion", "cnn")])
    said = capsys.readouterr().out
    assert "chosen on, 1 | all | all" in said and "run once, 2 | tenth | at half" in said
    assert "estimated less true noise rate -10.0 points" in said
    table = [line for line in said.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in table}) == 1 and len(table) == 2 + 12


def test_a_row_that_was_not_rehearsed_on_a_tenth_is_left_out_there(script, capsys):
    only = row("fashion", "cnn")
    del only["rehearsals"]["tenth"]
    only["rehearsals"]["quarter"]["noise_rate"] = None
    script.summary([only])
    said = capsys.readouterr().out
    assert "| quarter |" in said and "tenth" not in said


def test_rows_that_are_there_are_not_run_again(script, tmp_path, monkeypatch, capsys):
    path = tmp_path / "rows.jsonl"
    first = {**row(), "rate": 0.0}
    path.write_text(json.dumps(first) + "\n")
    asked = []

    def work(number, setting, sizes, seed):
        asked.append(setting)
        return {**row(), **setting._asdict(), "seed": seed}

    monkeypatch.setattr(script, "work", work)
    script.main(["--only", "digits", "--json", str(path)])
    assert len(asked) == 5 and ("digits", "mlp", "adamw", 0.0) not in {tuple(one) for one in asked}
    assert len(path.read_text().splitlines()) == 6
    script.main(["--only", "digits", "--json", str(path)])
    assert len(asked) == 5


def test_the_parts_hold_other_rows(script):
    dev, final = (set(script.settings_of(part)) for part in ("dev", "final"))
    assert not dev & final and set(script.settings_of("all")) == dev | final
    assert {("fashion", "cnn", "adamw", 0.0), ("fashion", "cnn", "adamw", 0.4)} <= {
        tuple(one) for one in final
    }
