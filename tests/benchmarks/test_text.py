"""The benchmark of language models: its ways give one loss, and both tables are made."""

import importlib.util
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def text(monkeypatch):
    """The script under a name of its own: `tests.text` may be known as "text"."""
    monkeypatch.syspath_prepend(str(FOLDER))
    before = set(sys.modules)
    spec = importlib.util.spec_from_file_location("benchmark_of_text", FOLDER / "text.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(FOLDER)):
            del sys.modules[name]


@pytest.mark.fast
def test_all_ways_have_one_loss_and_the_table_compares_them(text, tmp_path, monkeypatch, capsys):
    found = {name: text.measure(name, text.QUICK) for name in text.WAYS}
    losses = [one["loss"] for one in found.values()]
    assert losses == pytest.approx([losses[0]] * 3, rel=1e-5)

    added = zip(found.values(), (300, 200, 50), strict=True)
    said = iter([json.dumps({**one, "added": more}) for one, more in added])

    def run(*_, **__):
        return SimpleNamespace(stdout=next(said))

    monkeypatch.setattr(text.subprocess, "run", run)
    figures = tmp_path / "figures.json"
    monkeypatch.setattr(sys, "argv", ["text.py", "memory", "--quick", "--json", str(figures)])
    text.main()
    shares = [row["share"] for row in json.loads(figures.read_text())["rows"]]
    assert shares == pytest.approx([1, 2 / 3, 1 / 6])
    assert "QUICK" in capsys.readouterr().out


def test_half_of_the_data_has_half_of_the_samples(text, tmp_path, monkeypatch):
    pytest.importorskip("transformers", reason="needs the extra text")
    figures = tmp_path / "figures.json"
    monkeypatch.setattr(sys, "argv", ["text.py", "half", "--quick", "--json", str(figures)])
    text.main()
    rows = {row["run"]: row for row in json.loads(figures.read_text())["rows"]}
    whole = rows["all data"]
    assert rows["random half"]["samples"] == rows["InfoBatch, half"]["samples"] == whole["samples"] // 2
    assert rows["random, half of the tokens"]["tokens"] <= whole["tokens"] / 2
