"""What every reward is: a measurement between intervals, and a price for how it changed."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from dsenv.errors import pick
from dsenv.signals import SampleSignals
from dsenv.training.trainer import Score

MEASURES = ("accuracy", "log_likelihood")
WORST = -1.0  # log-likelihood of -2 log C: from there on a model is as bad as it gets


@dataclass(frozen=True)
class RewardInputs:
    """Where K trainings stand between two intervals, on the training device."""

    validation: Score
    """Of the labels in the validation split: clean ones, unless `trusted_validation` is false."""
    signals: SampleSignals
    """(K, N), from the training forward alone."""
    pool: Tensor
    """(K, N) bool, the samples that exist."""


@dataclass(frozen=True)
class Transition:
    """What an interval did, for each of K trainings."""

    start: Tensor
    """(K, M) what the reward measured when the training began."""
    before: Tensor
    """(K, M) before the interval."""
    after: Tensor
    """(K, M) after it."""
    samples_seen: Tensor
    """(K,) presentations of the interval over the samples that exist: 1 for each of them once."""
    is_last: Tensor
    """(K,) bool, whether it was the last interval of the training."""


class Reward(ABC):
    """A way to pay for an interval. It keeps nothing between calls.

    The environment pays `REWARD_SCALE` (10) times what `compute` says.

    Use::

        from dsenv import Reward, check_reward

        class LossReward(Reward):  # the fall of the mean training loss
            def measure(self, inputs):
                return inputs.signals.loss_ema.mean(1, keepdim=True)  # (K, 1)

            def compute(self, transition):
                return (transition.before - transition.after)[:, 0]  # (K,)

        check_reward(LossReward)
    """

    prices_samples: bool = False
    """Whether presentations cost something, so that an agent must be free to leave some out."""

    @abstractmethod
    def measure(self, inputs: RewardInputs) -> Tensor:
        """What the reward needs to know of the trainings now, (K, M) float32."""

    @abstractmethod
    def compute(self, transition: Transition) -> Tensor:
        """Payment (K,) for the interval."""


def quality(score: Score, measure: str, classes: int) -> Tensor:
    """How good models are by a measure of `MEASURES`, (K,).

    "accuracy" lies in [0, 1]. "log_likelihood" is 1 + mean log-likelihood / log C: 1 for a model that is
    certain and right, 0 for a uniform guess, cut at -1, so that a gain counts about as one in accuracy.
    """
    if measure == "accuracy":
        return score.accuracy
    shared = 1 + score.log_likelihood / math.log(classes)
    return shared.nan_to_num(nan=WORST, neginf=WORST).clamp(min=WORST)


def check_measure(measure: str) -> str:
    """Return the measure if it is known, else raise a ValueError."""
    return pick("reward.measure", measure, MEASURES)


def mean_over(values: Tensor, pool: Tensor) -> Tensor:
    """Mean (K,) of the values (K, N) over the pool."""
    return torch.where(pool, values, 0.0).sum(1) / pool.sum(1).clamp(min=1)


def variance_over(values: Tensor, pool: Tensor) -> Tensor:
    """Variance (K,) of the values (K, N) over the pool."""
    return mean_over((values - mean_over(values, pool)[:, None]) ** 2, pool)
