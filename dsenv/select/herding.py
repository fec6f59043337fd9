"""Herding: samples whose running mean of features stays closest to the class mean."""

import math

import torch
from torch import Tensor

from dsenv.errors import check_share
from dsenv.outputs import ModelOutputs
from dsenv.select.ranking import StaticSelector, need


def herding(features: Tensor, picks: int) -> Tensor:
    """Order (n,) of all samples: greedily herded ones first, the rest by their last marginal score.

    With S the sum of the k chosen features, the next is argmin_x |mean - (S + x) / (k + 1)|, which
    is the largest <x, t> - |x|^2 / 2 for the target t = (k + 1) mean - S.

    Args:
        features: (n, D).
        picks: how many to choose greedily, 0..n.
    """
    centre, half_square = features.mean(0), features.square().sum(1) / 2  # (D,), (n,)
    taken = torch.zeros_like(half_square)  # -inf where chosen
    order = torch.empty(len(features), dtype=torch.int64, device=features.device)
    target = centre.clone()

    for k in range(picks):
        best = (features @ target - half_square + taken).argmax(0, keepdim=True)  # (1,), stays on the device
        order[k : k + 1] = best
        taken[best] = -torch.inf
        target += centre - features[best].squeeze(0)

    rest = (features @ target - half_square + taken).argsort(descending=True)
    order[picks:] = rest[: len(rest) - picks]
    return order


def herding_score(features: Tensor, labels: Tensor, budget: float) -> Tensor:
    """Score (N,) float64 by which each class is used in its herding order, in proportion to its size.

    Args:
        features: (N, D).
        labels: (N,) int64, classes to herd apart.
        budget: share of each class to herd greedily, in [0, 1].
    """
    score = torch.empty(len(labels), dtype=torch.float64, device=features.device)
    for label in torch.unique(labels):
        members = (labels == label).nonzero().squeeze(1)
        order = herding(features[members].float(), math.ceil(budget * len(members)))
        place = torch.arange(len(members), dtype=torch.float64, device=features.device)
        score[members[order]] = -(place + 0.5) / len(members)

    return score


class Herding(StaticSelector):
    """Keeps samples whose mean feature tracks the mean of their class as it grows.

    Each class is herded by itself; the ranking interleaves the classes in proportion to their sizes.
    Signals are not used, so unseen samples are treated like all others.

    Helps: small ratios, where typical samples serve best. Does not help: high ratios, where the
    boundary samples it leaves for last matter.

    Cost: about sum over classes of n_c^2 D * budget; memory: one class's features at a time. State:
    16 bytes a sample. Needs features.
    Source: Welling, 2009; Chen et al., 2010, arXiv 1203.3472.
    Differs from DeepCore's code, which takes the farthest sample (argmax) where herding needs the
    nearest (argmin); samples past the greedy `budget` follow by their marginal score.

    Args:
        budget: share of each class to choose greedily, in [0, 1]; at least the largest ratio in use.
    """

    needs_features = True
    needs_classes = True
    score_dtype = torch.float64

    def __init__(self, budget: float = 1.0) -> None:
        self.budget = check_share("budget", budget, zero=True)
        super().__init__()

    def score_pass(self, train: ModelOutputs, validation: ModelOutputs | None) -> Tensor:
        """Minus the place in the ranking (N,)."""
        del validation
        return herding_score(need(train, "features", self), train.labels, self.budget)
