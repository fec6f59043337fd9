"""WHAT: weights over loss-rank bins, of what is left when labels that seem wrong are trimmed."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from dsenv.control.base import Actions, Control, Decision, spread
from dsenv.control.state import TrainingState
from dsenv.control.trimming import trimmed
from dsenv.errors import check_flag, check_number

MOST_SHARP = 10_000
MOST_TRIM = 2.0
LAST = -2.0 * MOST_SHARP  # log weight of the first trimmed sample, drawn where nothing else is left
APART = 50.0  # and of the next ones, so far below each other that they come in their order


class CurriculumControl(Control):
    """WHAT: weights over loss-rank bins; how many is left to the volume schedule.

    Component b is the log weight of bin b (bin 0 has the smallest losses), scaled by `sharpness`: with
    the default, the ends of the scale are e^10 apart, so an agent can all but exclude a bin.

    The last component says how many of the largest losses are left out before that: the estimated share of
    wrong labels (see `dsenv.select.trim`) times a factor from 0, at -1, to 2, at 1. So the action of zeros is
    the rule `trim`, from which an agent begins to learn, and a policy that knows nothing does no harm. The
    answer "trim" that is not given is 0: a rule trims only where it says so.

    Args:
        bins: B, number of bins.
        target: target ratio of the environment.
        sharpness: log weight that an action of 1 stands for, (0, 10,000].
        trim: whether the action says how much is trimmed.
    """

    decides_what = True
    answer = "log_weight"

    def __init__(self, bins: int, target: float, sharpness: float = 5.0, trim: bool = True) -> None:
        del target
        self.bins = bins
        self.sharpness = check_number("control.sharpness", sharpness, 0, MOST_SHARP, open_low=True)
        self.trims = check_flag("control.trim", trim)
        self.size = bins + self.trims
        names = [f"log weight of loss bin {b} / {sharpness:g}" for b in range(bins)]
        self.names = (*names, *["trimmed over the estimated wrong labels, less 1"][: self.trims])

    @property
    def slices(self) -> Mapping[str, slice]:
        weights = {self.answer: slice(0, self.bins)}
        return weights | ({"trim": slice(self.bins, self.size)} if self.trims else {})

    def decode(self, actions: Actions) -> dict[str, Actions]:
        found = {self.answer: actions[:, : self.bins] * self.sharpness}
        return found | ({"trim": actions[:, self.bins :] + 1} if self.trims else {})

    def encode(  # type: ignore[override]
        self, log_weight: float | Actions = 0.0, trim: float | Actions | None = None
    ) -> Actions:
        limit = self.sharpness
        weights = spread(self.answer, log_weight, self.bins, -limit, limit) / limit
        if not self.trims:
            if trim is not None:
                raise ValueError("this control does not trim: build it with trim = true, or leave trim out")
            return weights
        return np.append(weights, spread("trim", 0.0 if trim is None else trim, 1, 0, MOST_TRIM) - 1)

    def decide(self, actions: Actions, state: TrainingState) -> Decision:
        answers = self.decode(actions)
        logits = torch.from_numpy(answers[self.answer]).to(state.bins.device)
        weight = bin_log_weights(logits, state.bins, state.pool)
        if self.trims:
            factor = torch.from_numpy(answers["trim"][:, 0]).to(weight.device)
            place = trimmed(state, factor)
            weight = torch.where(place < 0, weight, LAST - APART * place)
        return Decision(log_weight=weight)

    def choices(self) -> Actions:
        """Every run of neighbouring bins: bins first..last at 1, the others at -1; and the rule `trim`."""
        number = np.arange(self.bins)
        runs = [(first, last) for first in number for last in number if first <= last]
        inside = [(number >= first) & (number <= last) for first, last in runs]
        weights = np.where(inside, 1.0, -1.0).astype(np.float32)
        if not self.trims:
            return weights
        untrimmed = np.full((len(weights), 1), -1.0, np.float32)
        return np.vstack([np.hstack([weights, untrimmed]), self.encode(trim=1.0)[None]])


def bin_log_weights(bin_logits: Tensor, bins: Tensor, pool: Tensor) -> Tensor:
    """Give each sample the log weight of its bin; -inf outside the pool.

    Args:
        bin_logits: (K, B) log weight of each bin.
        bins: (K, N) int64 bin of each sample.
        pool: (K, N) bool, the samples that exist for the replica.
    """
    return bin_logits.gather(1, bins).masked_fill_(~pool, -torch.inf)
