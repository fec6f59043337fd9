"""The registered environments of other kinds of task learn, and the page about kinds runs."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch

import dsenv
from dsenv.task_kinds import KINDS
from tests.sessions import only

NAMES = ["Tiny-MultiLabel-v0", "Tiny-Regression-v0", "Tiny-Segmentation-v0"]
PAGE = (Path(__file__).resolve().parents[2] / "docs" / "kinds.md").read_text()


@pytest.mark.parametrize("name", NAMES)
def test_an_environment_of_another_kind_learns(name):
    """With all data the loss falls, and the metric is in its range."""
    env = dsenv.load("envs", name, ratio=1.0, context={"label_noise": 0.0})
    env.reset(seed=0)
    losses = []
    for _ in range(4):
        observation, reward, terminated, _, info = env.step(env.control.encode())
        assert env.observation_space.contains(observation) and np.isfinite(reward)
        assert 0 <= info["val_accuracy"] <= 1 and info["wrong_labels"] == 0
        losses.append(info["train_loss"])
    assert terminated and losses[-1] < 0.9 * losses[0]


@pytest.mark.parametrize("name", NAMES)
def test_label_noise_exchanges_targets_and_the_share_is_exact(name):
    env = dsenv.load("envs", name, ratio=1.0, context={"label_noise": 0.4})
    env.reset(seed=0)
    trainer = only(env).trainer
    own, given = torch.arange(trainer.size), trainer.labels[0]
    moved = given != own
    assert int(moved.sum()) == round(0.4 * trainer.size)
    assert torch.equal(given.sort().values, own)


def test_the_page_of_kinds_runs_and_lists_all_of_them(capsys):
    for number, block in enumerate(re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)):
        names: dict[str, object] = {"__name__": "kinds"}
        exec(compile(block, f"docs/kinds.md, block {number}", "exec"), names)
    assert "a task of kind regression gives no entropy" in capsys.readouterr().out
    rows = re.findall(r"^\| `(\w+)` \|", PAGE, flags=re.MULTILINE)
    assert set(KINDS) <= set(rows)
