"""How much the training runs of an environment may train on: budgets, and the samples of each interval."""

import numpy as np

from dsenv.control.base import Control
from dsenv.env.config import EnvConfig
from dsenv.env.stacked_selector import StackedSelector
from dsenv.training.trainer import Trainer
from dsenv.volume.base import counts
from dsenv.volume.budget import Budget, Counts


def extra_forward_share(
    config: EnvConfig, control: Control, stacked_selector: StackedSelector, trainer: Trainer
) -> float:
    """Samples of forward passes without training, over the samples that all intervals could hold."""
    if control.rescores:
        return 1.0
    return stacked_selector.passes(trainer) / (config.intervals * config.interval)


def make_budget(config: EnvConfig, control: Control, ratio: float, members: Counts) -> Budget:
    """Budgets of training runs on pools of `members` (K,) samples.

    Args:
        config: length and number of the intervals.
        control: smallest ratio of an interval, and its candidates.
        ratio: share of the samples of all intervals that is trained on.
        members: (K,) samples that exist.
    """
    if control.candidates:
        capacity = np.minimum(members, control.candidates)
    else:
        capacity = np.maximum(1, np.rint(members * config.interval)).astype(np.int64)
    minimum = ratio if control.minimum is None else min(control.minimum, ratio)
    return Budget(capacity, config.intervals, ratio, minimum, spend_all=config.spend_all)


class Volumes:
    """How much each episode of a session may train on, by the target ratio of its context.

    Args:
        config: the environment's ratio, its intervals and its volume schedule.
        control: smallest ratio of an interval, and its candidates.
        extra: samples of forward passes without training, see `extra_forward_share`.

    Raises:
        ValueError: a ratio that a context may have does not pay for the extra forwards, or has no schedule.
    """

    def __init__(self, config: EnvConfig, control: Control, extra: float) -> None:
        self._config, self._control, self._extra = config, control, extra
        self.ratio = config.ratio_after(extra)
        """Share that is left for training of the environment's own ratio."""
        self.schedule = config.make_schedule(self.ratio)
        """Of the episodes with that ratio."""
        for ratio in config.bounds("ratio") or ():  # a mistake must show before an episode has that ratio
            config.make_schedule(config.ratio_after(extra, ratio))

    def blank(self, replicas: int, size: int) -> Budget:
        """Budgets of K episodes on all of N samples, for the shapes."""
        return make_budget(self._config, self._control, self.ratio, np.full(replicas, size))

    def plan(self, ratio: float | None, members: int) -> tuple[Budget, Counts]:
        """The budget of one episode, and the samples (T,) of each of its intervals by the volume schedule.

        Args:
            ratio: target ratio by the context, (0, 1]; None for that of the environment.
            members: samples that exist.
        """
        left, schedule = self.ratio, self.schedule
        if ratio is not None:
            left = self._config.ratio_after(self._extra, ratio)
            schedule = self._config.make_schedule(left)
        budget = make_budget(self._config, self._control, left, np.array([members]))
        return budget, np.array(counts(schedule, int(budget.capacity[0]), self._config.intervals))
