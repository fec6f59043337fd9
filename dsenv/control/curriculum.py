"""WHAT: weights over loss-rank bins."""

import numpy as np
import torch
from torch import Tensor

from dsenv.control.base import Actions, Control, Decision, spread
from dsenv.control.state import TrainingState
from dsenv.errors import check_number

MOST_SHARP = 10_000


class CurriculumControl(Control):
    """WHAT: weights over loss-rank bins; how many is left to the volume schedule.

    Component b is the log weight of bin b (bin 0 has the smallest losses), scaled by `sharpness`: with
    the default, the ends of the scale are e^10 apart, so an agent can all but exclude a bin.

    Args:
        bins: B, number of bins.
        target: target ratio of the environment.
        sharpness: log weight that an action of 1 stands for, (0, 10,000].
    """

    decides_what = True
    answer = "log_weight"

    def __init__(self, bins: int, target: float, sharpness: float = 5.0) -> None:
        del target
        self.size = bins
        self.sharpness = check_number("control.sharpness", sharpness, 0, MOST_SHARP, open_low=True)
        self.names = tuple(f"log weight of loss bin {b} / {sharpness:g}" for b in range(bins))

    def decode(self, actions: Actions) -> dict[str, Actions]:
        return {self.answer: actions * self.sharpness}

    def encode(self, log_weight: float | Actions = 0.0) -> Actions:  # type: ignore[override]
        limit = self.sharpness
        return spread(self.answer, log_weight, self.size, -limit, limit) / limit

    def decide(self, actions: Actions, state: TrainingState) -> Decision:
        logits = torch.from_numpy(self.decode(actions)[self.answer]).to(state.bins.device)
        return Decision(log_weight=bin_log_weights(logits, state.bins, state.pool))

    def choices(self) -> Actions:
        """Every run of neighbouring bins: bins first..last at 1, the others at -1."""
        number = np.arange(self.size)
        runs = [(first, last) for first in number for last in number if first <= last]
        inside = [(number >= first) & (number <= last) for first, last in runs]
        return np.where(inside, 1.0, -1.0).astype(np.float32)


def bin_log_weights(bin_logits: Tensor, bins: Tensor, pool: Tensor) -> Tensor:
    """Give each sample the log weight of its bin; -inf outside the pool.

    Args:
        bin_logits: (K, B) log weight of each bin.
        bins: (K, N) int64 bin of each sample.
        pool: (K, N) bool, the samples that exist for the replica.
    """
    return bin_logits.gather(1, bins).masked_fill_(~pool, -torch.inf)
