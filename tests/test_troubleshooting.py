"""Every message on the troubleshooting page is one that dsenv gives today."""

import importlib.util
import re
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import dsenv

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "troubleshooting.md").read_text()
MESSAGES = [" ".join(text.split()) for text in re.findall(r"```text\n(.*?)```", PAGE, flags=re.DOTALL)]
DATA = torch.rand(100, 4), torch.arange(100) % 3
MODEL = nn.Linear(4, 3)


def plan(**settings):
    return dsenv.DataPlan(DATA, epochs=4, batch_size=20, **settings)


def losses(batch):
    return F.cross_entropy(MODEL(batch.inputs), batch.labels, reduction="none")


def first(own):
    return next(iter(own.batches()))


def reasoning():
    if importlib.util.find_spec("reasoning_gym"):
        pytest.skip("reasoning-gym is installed")
    dsenv.load("envs", "Language-Curriculum-v0").reset(seed=0)


def scalar():
    own = plan()
    own.loss(batch := first(own), losses(batch).mean())


def without_logits():
    own = plan(selector="el2n", ratio=0.5)
    own.loss(batch := first(own), losses(batch))


def twice():
    own = plan()
    batch = first(own)
    for _ in range(2):
        own.loss(batch, losses(batch))


def left_early():
    own = plan()
    for epoch in own.epochs_left():
        own.loss(batch := first(own), losses(batch))
        if epoch == 1:
            return


def other_sampler():
    own = plan(ratio=0.5)
    next(own.epochs_left())
    own.batch(torch.arange(20), (DATA[0][:20], DATA[1][:20]))


def scheduler():
    optimizer = torch.optim.SGD(MODEL.parameters(), lr=0.1)
    made = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=20)
    plan(ratio=0.5).check_scheduler(made)


def not_finite():
    own = plan()
    for epoch in own.epochs_left():
        for batch in own.batches():
            own.loss(batch, torch.cat([losses(batch)[1:], torch.tensor([torch.nan])]))
        if epoch == 1:
            return


def normalised():
    images = torch.linspace(-1, 1, 20 * 16).reshape(20, 1, 4, 4)
    first(dsenv.DataPlan((images, torch.arange(20) % 3), epochs=2, batch_size=5, augment="trivial"))


def without_validation():
    from tests.policy.policies import new_policy

    own = plan(policy=new_policy("curriculum", validation_shown=1.0), ratio=0.5)
    for _ in own.epochs_left():
        for batch in own.batches():
            own.loss(batch, losses(batch), logits=MODEL(batch.inputs))


def over():
    dsenv.load("envs", "Tiny-Ratio-v0").step(np.zeros(1, np.float32))


def cifar(folder):
    data = {"name": "cifar10", "root": str(folder)}
    dsenv.load("envs", "CIFAR10-Curriculum-v0", task={"dataset": data}).reset(seed=0)


def not_a_number():
    env = dsenv.load("envs", "Tiny-Ratio-v0")
    env.reset(seed=0)
    env.step(np.full(1, np.nan, np.float32))


CASES = [
    reasoning,
    scalar,
    without_logits,
    lambda: first(plan(selector="moderate", ratio=0.5)),
    twice,
    left_early,
    other_sampler,
    scheduler,
    not_finite,
    lambda: dsenv.DataPlan((DATA[0], DATA[1] - 100), epochs=2, batch_size=10),
    normalised,
    lambda: plan(ratio=0.6).load_state_dict(plan(ratio=0.5).state_dict()),
    without_validation,
    over,
    lambda: dsenv.load("envs", "Tiny-Ratio-v0", ratoi=0.3),
    lambda: dsenv.load("envs", "Tiny-Curriculum-v0", task={"model": nn.Linear(64, 10)}),
    cifar,
    not_a_number,
]


@pytest.mark.fast
def test_every_message_has_a_case():
    assert len(MESSAGES) == len(CASES)


@pytest.mark.parametrize("number", range(len(CASES)))
def test_a_message_is_given(number, tmp_path):
    case = CASES[number]
    said = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            case(*[tmp_path] if case is cifar else [])
        except (ValueError, RuntimeError, FileNotFoundError) as error:
            said.append(str(error))
    said += [str(warning.message) for warning in caught]
    pattern = ".*".join(re.escape(part) for part in MESSAGES[number].split("..."))
    assert any(re.fullmatch(pattern, " ".join(text.split())) for text in said), (MESSAGES[number], said)
