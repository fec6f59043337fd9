"""Every block of the page about parts of one's own runs, and does what it says."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import dsenv

PAGE = Path(__file__).resolve().parents[1] / "docs" / "extend.md"
SECTIONS = [section.partition("\n") for section in PAGE.read_text().split("\n## A")[1:]]
BLOCKS = {
    title.removeprefix("n").strip(): re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)[0]
    for title, _, text in SECTIONS
    if "```python" in text
}


@pytest.fixture
def block(request, capsys):
    names = {"__name__": "extend"}
    exec(compile(BLOCKS[request.param], f"docs/extend.md, {request.param}", "exec"), names)
    names["said"] = capsys.readouterr().out
    return names


def of(name):
    return pytest.mark.parametrize("block", [name], indirect=True)


@pytest.mark.fast
def test_there_is_a_block_for_each_part():
    parts = ["selector", "volume schedule", "augmentation controller", "reward", "control", "kind of task"]
    assert list(BLOCKS) == [*parts, "data set", "model"]
    assert max(len(text.splitlines()) for text in BLOCKS.values()) < 40


@of("selector")
def test_the_selector_goes_into_a_plan_and_an_environment(block):
    assert isinstance(block["plan"].selector, block["Unsure"])
    env = dsenv.load("envs", "Tiny-Ratio-v0", selector=block["Unsure"])
    env.reset(seed=0)
    env.step(np.zeros(1, np.float32))


@of("volume schedule")
def test_the_schedule_falls_and_keeps_the_budget(block):
    assert block["said"].strip() == "(45, 37, 30, 23, 15)" and sum([45, 37, 30, 23, 15]) == 0.5 * 5 * 60


@of("augmentation controller")
def test_the_controller_says_strengths(block):
    plan = block["plan"]
    for _ in plan.epochs_left():
        for batch in plan.batches():
            logits = 9.0 * F.one_hot(batch.labels, 3)
            plan.observe(batch, F.cross_entropy(logits, batch.labels, reduction="none"), logits=logits)
    assert plan.metrics()["chosen/augmentation strength"] > 0.9


@of("reward")
def test_the_reward_pays_for_learning(block):
    env = block["env"]
    env.reset(seed=0)
    rewards = [env.step(env.control.encode())[1] for _ in range(4)]
    assert sum(rewards) > 0


@of("control")
def test_the_control_prefers_small_losses_where_it_says_so(block):
    env = block["env"]
    env.reset(seed=0)
    env.step(env.control.encode())
    easy = env.step(env.control.encode(difficulty=-1))[-1]["selected_bins"]
    hard = env.step(env.control.encode(difficulty=1))[-1]["selected_bins"]
    assert easy[0] > hard[0] + 0.2 and hard[-1] > easy[-1] + 0.2
    assert env.action_space.shape == (1,)


@of("kind of task")
def test_the_kind_is_that_of_the_plan(block):
    plan = block["plan"]
    batch = next(iter(plan.batches()))
    outputs = torch.zeros(20, requires_grad=True)
    plan.loss(batch, plan.kind.sample_loss(outputs, batch.labels), outputs=outputs).backward()
    assert outputs.grad.abs().sum() > 0


@of("data set")
def test_the_data_set_is_read_with_its_settings(block):
    assert len(block["env"].unwrapped.episodes.sessions()[0].state.pool[0]) == 400


@of("model")
def test_the_model_is_trained(block):
    env = block["env"]
    for _ in range(4):
        *_, info = env.step(env.control.encode())
    assert info["val_accuracy"] > 0.15
