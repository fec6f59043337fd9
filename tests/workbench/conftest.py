"""A finished run that the tests of this folder share, and tables of few agents."""

import shutil

import pytest

from dsenv.evaluation import storage
from dsenv.workbench import main

TRAIN = [
    "--env", "dsenv/Tiny-Curriculum-v0", "--num-envs", "4", "--seeds", "2", "--steps", "96",
    "--agent-set", "hyperparameters.n_steps=8", "--agent-set", "hyperparameters.batch_size=32",
    "--device", "cpu",
]  # fmt: skip


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """Folder of a run with seed 3 and the table of every rule that fits; for reading alone."""
    out = tmp_path_factory.mktemp("runs")
    assert main([*TRAIN, "--out", str(out), "--seed", "3"]) == 0
    (run,) = out.iterdir()
    return run


@pytest.fixture
def run(finished, tmp_path):
    """A copy of that run, to go on with."""
    return shutil.copytree(finished, tmp_path / "runs" / finished.name)


@pytest.fixture
def no_figures(monkeypatch):
    """Few looks at the validation reward, and evaluations that draw nothing, which would take the longest."""

    def save(evaluation, folder, step, prefix="", about=None, followed=None):
        storage.save(evaluation, folder / f"{prefix}evaluation.json", {"step": step, "trained": step})

    monkeypatch.setattr("dsenv.workbench.train.write_report", save)
    monkeypatch.setattr("dsenv.workbench.train.EVALUATIONS", 3)


@pytest.fixture
def few_rules(monkeypatch, no_figures):
    """Three rules join a table, in place of all that fit; no figures."""
    names = ["all_data", "random", "small_loss"]
    monkeypatch.setattr("dsenv.workbench.train.rule_names", lambda *_: names)
    return names
