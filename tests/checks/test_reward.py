"""check_reward passes the rewards of the package and good ones of one's own, and names what is wrong."""

# ruff: noqa: ARG005 -- the parts take what the contract gives them

import pytest
import torch

from dsenv import Reward, VolumeSchedule, check_reward
from dsenv.env.rewards import REWARDS
from tests.checks.parts import refused


@pytest.mark.parametrize("name", REWARDS)
def test_rewards_of_the_package_pass(name):
    assert check_reward(name) is None


class Doubled(Reward):
    """Good."""

    def measure(self, inputs):
        return inputs.validation.accuracy[:, None]

    def compute(self, transition):
        return 2 * (transition.after - transition.before)[:, 0]


def rewarding(compute=Doubled.compute, measure=Doubled.measure):
    """A reward class with those methods."""
    return type("Mine", (Reward,), {"compute": compute, "measure": measure})


class Keeping(Doubled):
    best = -1.0

    def compute(self, transition):
        self.best = max(self.best, float(transition.after.max()))
        return self.best - transition.before[:, 0]


def ranked(self, transition):
    gain = (transition.after - transition.before)[:, 0]
    return gain - gain.mean()


def zeroing(self, inputs):
    return inputs.validation.accuracy.zero_()[:, None]


def test_good_rewards_pass():
    for part in (Doubled, Doubled(), lambda: Doubled(), {"name": "cost_aware", "price": 2}):
        assert check_reward(part) is None
    assert check_reward(Doubled, classes=7, seed=3) is None


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (rewarding(lambda self, t: t.after - t.before), r"\(K,\) = \(3,\), got \(3, 1\); .*take a column"),
        (rewarding(lambda self, t: float(t.after.mean())), r"float32 tensor \(K,\), got float"),
        (rewarding(lambda self, t: t.after[:, 0].double()), "got torch.float64"),
        (rewarding(lambda self, t: t.after[:, 0] / 0), "compute gave values that are not finite, .inf"),
        (rewarding(ranked), r"training run 0 is paid .* beside others and 0.0 alone .*runs are independent"),
        (rewarding(measure=lambda self, i: i.validation.accuracy), r"\(K, M\) for K = 3 .*, got \(3,\)"),
        (rewarding(measure=lambda self, i: i.signals.loss.T), r"\(K, M\) for K = 3 .*, got \(40, 3\)"),
        (
            rewarding(measure=lambda self, i: i.signals.loss.log().sqrt()),
            "measure gave values that are not finite",
        ),
        (
            rewarding(measure=lambda self, i: i.signals.loss / i.signals.loss.max()),
            "training run . measures .* beside others",
        ),
        (rewarding(measure=zeroing), "measure changed the inputs.validation.accuracy it was given"),
        (rewarding(lambda self, t: torch.rand(len(t.after))), "global random stream of torch"),
        (Keeping, "pays otherwise when it is asked again; a reward keeps and draws nothing"),
        (rewarding(lambda self: None), r"raised TypeError.*called as compute\(transition\)"),
        (
            type("Mine", (Doubled,), {"prices_samples": "yes"}),
            "prices_samples must be True or False, got 'yes'",
        ),
        ("validaton", "Did you mean 'validation'"),
        (VolumeSchedule, "derived from dsenv.Reward, got VolumeSchedule"),
    ],
)
def test_bad_rewards_are_named(part, message):
    refused(check_reward, part, message)
