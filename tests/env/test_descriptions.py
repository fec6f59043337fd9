"""What environments say of themselves, and how their settings are compared."""

import gymnasium
import pytest
import torch

import dsenv
from dsenv.catalogue import load_vector
from dsenv.describe import describe
from dsenv.select.epsilon_greedy import EpsilonGreedy
from dsenv.volume.linear import Linear

SETTINGS = "control 'curriculum', ratio 0.5, 4 intervals"


def test_an_environment_says_what_it_is():
    one = dsenv.load("envs", "Tiny-Curriculum-v0")
    assert repr(one) == f"<TrainingEnv: {SETTINGS}, data set digits (200 samples), model mlp>" == str(one)
    many = load_vector("Tiny-Datasets-v0", 3, ratio=0.25)
    assert repr(many).startswith("<TrainingVectorEnv of 3: control 'curriculum', ratio 0.25, 4 intervals, ")
    assert repr(many).endswith("data sets digits, breast_cancer, wine, iris, model mlp>")
    made = gymnasium.make("dsenv/Tiny-Mask-v0", task={"model": {"name": "small_cnn", "width": 8}})
    assert repr(made.unwrapped).startswith("<TrainingEnv dsenv/Tiny-Mask-v0: control 'mask', ")
    assert repr(made.unwrapped).endswith("model small_cnn>")


def twice(make):
    return describe(make()), describe(make())


@pytest.mark.parametrize(
    "make",
    [
        lambda: Linear(0.5, swing=0.2),
        lambda: {"name": "linear", "inner": Linear(0.5), "parts": [Linear, len]},
        lambda: torch.nn.Linear(2, 1).bias.detach().fill_(0.5),
    ],
)
def test_settings_are_compared_by_what_they_are(make):
    one, other = twice(make)
    assert one == other


def test_other_settings_are_told_apart():
    assert describe(Linear(0.5, swing=0.2)) != describe(Linear(0.5, swing=0.1))
    assert describe(Linear) != describe(Linear(0.5))
    assert describe(Linear) != describe(EpsilonGreedy)
    assert describe({"a": [1, 2]}) != describe({"a": [1, 3]})
    assert describe(torch.zeros(2)) != describe(torch.zeros(3))


def test_a_state_fits_an_environment_whose_parts_are_equal_objects():
    """Settings may hold objects, and two environments hold one each."""
    one, equal, unequal = (
        dsenv.load("envs", "Tiny-Curriculum-v0", volume=Linear(0.5, swing=swing)) for swing in (0.2, 0.2, 0.1)
    )
    one.reset(seed=0)
    equal.restore_state(one.save_state())
    with pytest.raises(ValueError, match=r"with volume\.swing = 0\.2, this one has 0\.1"):
        unequal.restore_state(one.save_state())
