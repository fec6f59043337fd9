"""What every reward is: a measurement between intervals, and what its change is worth; and who calls it."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dsenv.errors import pick
from dsenv.signals import SampleSignals
from dsenv.training.scores import Score

MEASURES = ("accuracy", "log_likelihood", "log_error")
LEAST_ERROR = 0.01  # added to an error rate before its logarithm: no error at all is no infinite gain
WORST = -1.0  # log-likelihood of -2 log C: from there on a model is as bad as it gets


@dataclass(frozen=True)
class RewardInputs:
    """What a reward may read of K training runs between two intervals, on the training device."""

    validation: Score
    """Of the labels in the validation split: clean ones, unless `trusted_validation` is false."""
    signals: SampleSignals
    """(K, N), from the training forward alone."""
    pool: Tensor
    """(K, N) bool, the samples that exist."""


@dataclass(frozen=True)
class Transition:
    """What an interval did, for each of K training runs."""

    start: Tensor
    """(K, M) what the reward measured when the run began."""
    before: Tensor
    """(K, M) before the interval."""
    after: Tensor
    """(K, M) after it."""
    samples_seen: Tensor
    """(K,) samples seen in the interval over the samples that exist: 1 for each of them once."""
    is_last: Tensor
    """(K,) bool, whether it was the last interval of the run."""


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
    """Whether each sample seen costs something, so that an agent must be free to leave some out."""

    reads: tuple[str, ...] = ()
    """Of `dsenv.task_kinds.READINGS`, what it reads of the signals: the kind of task must give that."""

    @abstractmethod
    def measure(self, inputs: RewardInputs) -> Tensor:
        """What the reward needs to know of the runs now, (K, M) float32."""

    @abstractmethod
    def compute(self, transition: Transition) -> Tensor:
        """Payment (K,) for the interval."""


class RewardTracker:
    """Keeps what a reward measured at the start and after the last interval of K training runs.

    Args:
        reward: measures and pays.
        replicas: K.
        device: where the runs are.
    """

    def __init__(self, reward: Reward, replicas: int, device: torch.device) -> None:
        self.reward = reward
        self._start = self._last = torch.zeros(replicas, 1, device=device)

    def restart(self, inputs: RewardInputs, rows: Tensor) -> None:
        """Begin new runs in the rows (K,) bool."""
        measured = self.reward.measure(inputs)
        self._start = torch.where(rows[:, None], measured, self._start)
        self._last = torch.where(rows[:, None], measured, self._last)

    def state_dict(self) -> dict[str, Tensor]:
        """What was measured."""
        return {"start": self._start.clone(), "last": self._last.clone()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`.

        Raises:
            ValueError: it is of another number of runs.
        """
        for name in ("start", "last"):
            if not isinstance(state[name], Tensor) or len(state[name]) != len(self._start):
                raise ValueError(
                    f"{name} of the reward in the state is not of {len(self._start)} training runs"
                )
        device = self._start.device
        self._start, self._last = (state[name].to(device) for name in ("start", "last"))

    def compute(self, inputs: RewardInputs, rows: Tensor, seen: Tensor, is_last: Tensor) -> Tensor:
        """Payment (K,) for the interval that the rows (K,) bool have just done.

        Args:
            inputs: after it.
            rows: the runs that are not over.
            seen: (K,) samples seen in the interval.
            is_last: (K,) bool, whether it was the last one.
        """
        before = self._last
        self._last = torch.where(rows[:, None], self.reward.measure(inputs), before)
        samples_seen = seen / inputs.pool.sum(1)
        return self.reward.compute(Transition(self._start, before, self._last, samples_seen, is_last))


def quality(score: Score, measure: str, guess_loss: float) -> Tensor:
    """How good models are by a measure of `MEASURES`, (K,).

    "accuracy" lies in [0, 1]; for other kinds of task it is their metric. "log_likelihood" is 1 less the mean
    loss over `guess_loss` (log C): 1 for a model that is certain and right, 0 for a guess, cut at -1, so that
    a gain counts about as one in accuracy.
    "log_error" is -log(error rate + `LEAST_ERROR`) / 10, in [0, 0.46]: to halve the error pays alike wherever
    a training run stands, so that runs on clean data, whose errors are few, count as much as those on noisy
    data, and no noise rate has to be known.
    """
    if measure == "accuracy":
        return score.accuracy
    if measure == "log_error":
        return -torch.log(1 - score.accuracy + LEAST_ERROR) / 10
    shared = 1 + score.log_likelihood / guess_loss
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
