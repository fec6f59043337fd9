"""What the episodes of a session may spend, and how far along that puts them."""

import numpy as np

from dsenv.control.base import Control
from dsenv.env.config import EnvConfig
from dsenv.env.stacked_selector import StackedSelector
from dsenv.training.trainer import Trainer
from dsenv.volume.budget import Budget, Counts


def extra_forward_share(
    config: EnvConfig, control: Control, stacked_selector: StackedSelector, trainer: Trainer
) -> float:
    """Samples looked at without training over the presentations that all intervals could hold."""
    if control.rescores:
        return 1.0
    return stacked_selector.passes(trainer) / (config.intervals * config.interval)


def make_budget(config: EnvConfig, control: Control, ratio: float, members: Counts) -> Budget:
    """Budgets of trainings on pools of `members` (K,) samples.

    Args:
        config: length and number of the intervals.
        control: smallest ratio of an interval, and its candidates.
        ratio: share of the presentations that training may take.
        members: (K,) samples that exist.
    """
    if control.candidates:
        capacity = np.minimum(members, control.candidates)
    else:
        capacity = np.maximum(1, np.rint(members * config.interval)).astype(np.int64)
    minimum = ratio if control.minimum is None else min(control.minimum, ratio)
    return Budget(capacity, config.intervals, ratio, minimum, spend_all=config.spend_all)


def progress(budget: Budget, interval: Counts, number: Counts) -> tuple[list[int], list[int]]:
    """Presentations done and in total, by which the learning rate comes down over a training.

    A budget that need not be spent says nothing about the end: there all intervals count the same.

    Args:
        budget: of the K trainings.
        interval: (K,) intervals done.
        number: (K,) presentations of the coming interval.
    """
    if budget.spend_all:
        return budget.spent.tolist(), budget.total.tolist()
    number = np.maximum(number, 1)
    return (interval * number).tolist(), (budget.intervals * number).tolist()
