"""The rule `trim` as controls use it: which labels seem wrong, in K training runs at once."""

import torch
from torch import Tensor

from dsenv.control.state import TrainingState
from dsenv.select.trim import LEAST, VISITS, estimated_noise_rate, left_out


def trim_share(state: TrainingState) -> Tensor:
    """Share (K,) of the seen samples that the rule `trim` leaves out, [0, 1)."""
    known = state.signals.seen & state.pool
    share = estimated_noise_rate(state.signals.margin, known)
    return torch.where((share < LEAST) | (mean_visits(state) < VISITS), 0.0, share)


def mean_visits(state: TrainingState) -> Tensor:
    """Visits (K,) of a sample on the mean over the pool."""
    return (state.signals.times_trained * state.pool).sum(1) / state.pool.sum(1).clamp(min=1)


def trimmed(state: TrainingState, factor: Tensor | float = 1.0) -> Tensor:
    """Place (K, N) of each sample among those left out, 0 for the smallest loss; -1 for samples that stay.

    Args:
        state: of the K training runs.
        factor: () or (K,): share of the seen samples to leave out, over `trim_share`; >= 0.
    """
    return left_out(state.signals.loss, state.signals.seen & state.pool, factor * trim_share(state))
