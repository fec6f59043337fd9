"""The fuzz run: its own verdicts, and a short run in which nothing is wrong."""

import importlib
import json
import sys
import time
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def fuzz(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    before = set(sys.modules)
    yield importlib.import_module("fuzz")
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(FOLDER)):
            del sys.modules[name]


def test_a_short_run_finds_nothing_wrong(fuzz, tmp_path, capsys):
    path = tmp_path / "counts.json"
    code = fuzz.main(["--cases", "330", "--seconds", "60", "--seed", "7", "--json", str(path)])
    counts = json.loads(path.read_text())["entry_points"]
    assert set(counts) == set(fuzz.ENTRY_POINTS)
    assert [found["examples"] for found in counts.values() if found["wrong"]] == []
    assert all(found["accepted"] + found["refused"] for found in counts.values())
    assert "accepted" in capsys.readouterr().out and code in (0, 1)  # shares of ten cases each may be off


@pytest.mark.fast
def test_verdicts(fuzz, monkeypatch):
    from dsenv.errors import check_count

    def case(call, oracle=lambda _: "", **settings):
        return fuzz.judge(fuzz.Case("x", call, oracle, **settings))[0]

    refuse = lambda: check_count("size", -1)  # noqa: E731
    assert case(lambda: 5) == "accepted"
    assert case(lambda: 5, good=True) == "accepted"
    assert case(lambda: 5, good=False) == "wrong"
    assert case(lambda: 5, lambda found: f"{found} is not 6") == "wrong"
    assert case(refuse) == "refused"
    assert case(refuse, good=True) == "wrong"
    assert case(refuse, named=["size"]) == "refused"
    assert case(refuse, named=["length"]) == "wrong"
    assert case(lambda: int("x")) == "wrong"  # not dsenv's
    assert case(lambda: check_count(5)) == "wrong"  # not raised by dsenv

    monkeypatch.setattr(fuzz, "LIMIT", 0.05)
    before = fuzz.signal.signal(fuzz.signal.SIGALRM, fuzz._hang)
    assert case(lambda: time.sleep(5)) == "wrong"
    fuzz.signal.signal(fuzz.signal.SIGALRM, before)
