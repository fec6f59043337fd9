"""How many files of dsenv a call goes through: what a reader has to open to follow it."""

import sys
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

import dsenv
from dsenv import DataPlan
from tests.sessions import noughts

pytestmark = pytest.mark.fast

FOLDER = str(Path(dsenv.__file__).parent)


def files_entered(call):
    """Files of dsenv whose functions run during `call()`, by their paths inside the package."""
    found = set()

    def note(frame, event, _):
        name = frame.f_code.co_filename
        if event == "call" and name.startswith(FOLDER):
            found.add(name.removeprefix(FOLDER).lstrip("/\\").replace("\\", "/"))

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        call()
    finally:
        sys.setprofile(before)
    return sorted(found)


def test_an_environment_step_enters_at_most_28_files():
    env = dsenv.load("envs", "Tiny-Curriculum-v0", device="cpu")
    env.reset(seed=0)
    found = files_entered(lambda: env.step(noughts(env)))
    assert {"env/session.py", "control/state.py"} <= set(found)
    assert len(found) <= 28, found


def plan_of(**settings):
    data = torch.rand(200, 1, 8, 8), torch.arange(200) % 4
    return DataPlan(data, epochs=4, batch_size=50, **settings)


SIMPLE = {"selector": "infobatch", "volume": "pods", "ratio": 0.5}
AUGMENTED = {**SIMPLE, "augment": "sada"}


# A guard, a kind of task, lengths and the world cost a file or two each, in any plan
@pytest.mark.parametrize(("settings", "most"), [(SIMPLE, 28), (AUGMENTED, 31)])
def test_building_a_plan_enters_at_most_28_files_and_3_more_for_augmentation(settings, most):
    plan_of(**settings)  # imports what is imported at first use
    found = files_entered(lambda: plan_of(**settings))
    assert "plan/data_plan.py" in found and len(found) <= most, found


@pytest.mark.parametrize("settings", [SIMPLE, AUGMENTED])
def test_the_loss_of_a_plan_enters_at_most_14_files(settings):
    plan = plan_of(**settings)
    batch = next(plan.batches())
    logits = torch.randn(50, 4)
    losses = F.cross_entropy(logits, batch.labels, reduction="none")
    found = files_entered(lambda: plan.loss(batch, losses, logits=logits))
    assert "plan/feedback.py" in found and len(found) <= 14, found
