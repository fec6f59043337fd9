"""Three cheap rows of the tables, run again, fall into the interval that their file gives them."""

import importlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from dsenv.catalogue import definition
from dsenv.evaluation import Entry, evaluate

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"


def stored(name):
    return json.loads((FOLDER / "results" / name).read_text())


@pytest.fixture
def bench(monkeypatch):
    """Imports a module of the benchmarks' folder."""
    monkeypatch.syspath_prepend(str(FOLDER))
    before = set(sys.modules)
    yield importlib.import_module
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(FOLDER)):
            del sys.modules[name]


def test_trim_on_digits_with_40_percent_wrong_labels(bench):
    """Gain over a random half, three seeds again: within three standard errors of the file's six runs."""
    script = bench("trim")
    own = [row for row in stored("trim.json")["rows"] if row["rate"] == 0.4 and row["table"] == "digits"]
    known = np.array([row["accuracy"]["trim"] - row["accuracy"]["random"] for row in own])
    seeds = sorted({row["seed"] for row in own})
    accuracies = {
        name: [script.accuracy("digits", "adamw", 0.4, seed, name) for seed in seeds]
        for name in ("random", "trim")
    }
    gain = np.mean(accuracies["trim"]) - np.mean(accuracies["random"])
    assert len(known) == 6 and len(seeds) == 3
    assert abs(gain - known.mean()) < 3 * known.std(ddof=1) / np.sqrt(len(seeds))


def again(env, agent, context, seeds):
    """Final accuracy or metric of an agent in one context of an environment, (S,)."""
    asked = definition("envs", env).with_overrides({"evaluation_contexts": [context]})
    entry = Entry(agent, definition("agents", agent).build())
    found = evaluate(asked, [entry], agent, seeds=seeds, device="cpu", curves=False, progress=False)
    (trace,) = found.traces[agent]
    return np.array(trace.accuracy)


def test_the_rule_trim_in_the_default_environment():
    """16 of 64 seeds: within the file's mean by three of their own standard errors."""
    rows = stored("default_run.json")[1]["rows"]
    (row,) = [row for row in rows if row["agent"] == "trim" and row["context"]["label_noise"] == 0.4]
    values = again("Digits-Curriculum-v0", "trim", {"label_noise": 0.4}, seeds=16)
    error = values.std(ddof=1) / 4 + (row["accuracy_high"] - row["accuracy_low"]) / 4
    assert abs(values.mean() - row["accuracy_mean"]) < 3 * error < 0.03


def test_small_losses_of_a_regression_with_exchanged_targets():
    """The 16 seeds of the file again: within two standard errors of their mean."""
    rows = stored("kinds_env.json")["rows"]
    (row,) = [row for row in rows if (row["env"], row["agent"]) == ("Regression-Curriculum-v0", "small_loss")]
    known = np.array(row["metric"][row["noise"].index(0.4)])
    values = again("Regression-Curriculum-v0", "small_loss", {"label_noise": 0.4}, seeds=len(known))
    assert abs(values.mean() - known.mean()) < 2 * known.std(ddof=1) / np.sqrt(len(known))
