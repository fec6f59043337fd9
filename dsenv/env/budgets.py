"""Budgets of the training runs of an environment."""

import numpy as np

from dsenv.control.base import Control
from dsenv.env.config import EnvConfig
from dsenv.env.stacked_selector import StackedSelector
from dsenv.training.trainer import Trainer
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
