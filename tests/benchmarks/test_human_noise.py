"""Human label noise: its kinds of labels, what is told of them, and the tables from made-up figures."""

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

pytestmark = pytest.mark.fast
FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def bench(monkeypatch):
    """The benchmark on 5,000 made-up words of three features, rated by ten people."""
    monkeypatch.syspath_prepend(str(FOLDER))
    before = set(sys.modules)
    module = importlib.import_module("human_noise")
    draw = torch.Generator().manual_seed(0)
    features = torch.randn(5000, 3, generator=draw)
    raters = (features[:, :1] + 0.3 * torch.randn(5000, 10, generator=draw)).mul(2).round().clamp(-1, 1) + 1
    clean = raters.median(1).values.long()
    monkeypatch.setattr(module, "rated", lambda: (features, clean, raters))
    yield module
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(FOLDER)):
            del sys.modules[name]


def confusion(clean, given):
    return torch.bincount(3 * clean + given, minlength=9)


def test_labels_by_class_have_the_confusions_of_human_ones_on_other_words(bench):
    drawn = {kind: bench.draw(kind, 3).trial for kind in bench.LABELS}
    clean, human, by_class = drawn["right"].given, drawn["human"], drawn["by class"]
    assert not drawn["right"].wrong.any() and all(len(trial.given) == 2000 for trial in drawn.values())
    assert torch.equal(human.inputs, by_class.inputs) and torch.equal(human.inputs, drawn["symmetric"].inputs)
    assert torch.equal(confusion(clean, human.given), confusion(clean, by_class.given))
    assert human.wrong.sum() == by_class.wrong.sum() == drawn["symmetric"].wrong.sum() > 100
    assert not torch.equal(human.wrong, by_class.wrong)

    doubt = bench.draw("human", 3).doubt
    assert bench.auc(doubt.numpy(), human.wrong.numpy()) > 0.8
    assert bench.auc(doubt.numpy(), drawn["symmetric"].wrong.numpy()) == pytest.approx(0.5, abs=0.06)


def test_what_one_kind_of_labels_finds(bench, monkeypatch):
    monkeypatch.setattr(bench, "AGENTS", ("random", "right half", "all data", "all right"))
    monkeypatch.setattr(bench, "SAMPLES", 400)
    found = bench.run(0, "linear", "human")
    agents = found["agents"]
    assert agents["right half"]["wrong"] == agents["all right"]["wrong"] == 0 < agents["random"]["wrong"]
    assert agents["all data"]["wrong"] == pytest.approx(100 * found["wrong"], abs=0.01)
    reads = agents["all data"]["reads"]
    assert sorted(reads) == [1, 2, 4, 8, 12] and reads[12]["AUC of doubt"] > 0.8


def test_the_area_under_the_curve_counts_ties_half(bench):
    wrong = np.array([True, False, False, True])
    assert bench.auc(np.array([3.0, 1.0, 2.0, 4.0]), wrong) == 1
    assert bench.auc(np.array([1.0, 1.0, 2.0, 0.0]), wrong) == pytest.approx(0.125)


def test_the_tables_come_from_the_lines_of_json(bench):
    rows = [
        {
            "recipe": "linear",
            "labels": "right",
            "seed": seed,
            "agents": {
                agent: {"accuracy": 70 + seed + number, "wrong": 0.0, "doubt": 10.0}
                for number, agent in enumerate(bench.AGENTS)
                if agent not in ("right half", "all right", "trim_oracle")
            },
        }
        for seed in range(3)
    ]
    text = bench.summary(rows)
    assert "| linear, right | 3 | 71.0 | +1.00" in text and "| 0.0 / 10.0 |" in text
