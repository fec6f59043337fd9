"""k-center greedy: samples chosen so that every other one is near to one of them."""

import math

import torch
from torch import Tensor

from dsenv.errors import check_share
from dsenv.outputs import ModelOutputs
from dsenv.select.ranking import StaticSelector, need


def k_center(features: Tensor, picks: int) -> Tensor:
    """Order (N,) of all samples: centres by farthest-first, the rest by falling distance to them.

    Starts at the sample nearest to the mean; each next centre is the sample farthest from its
    nearest centre.

    Args:
        features: (N, D) float32.
        picks: how many centres to choose greedily, 1..N.
    """
    square = features.square().sum(1)  # (N,)
    nearest = torch.full_like(square, torch.inf)  # squared distance to the nearest centre; -1 for a centre
    order = torch.empty(len(features), dtype=torch.int64, device=features.device)

    centre = (square - 2 * (features @ features.mean(0))).argmin(0, keepdim=True)  # (1,), stays on the device
    for k in range(picks):
        order[k : k + 1] = centre
        point = features[centre].squeeze(0)
        distance = (square - 2 * (features @ point) + point.square().sum()).clamp_(min=0)
        nearest = torch.minimum(nearest, distance).scatter(0, centre, -1.0)
        centre = nearest.argmax(0, keepdim=True)

    order[picks:] = nearest.argsort(descending=True)[: len(features) - picks]
    return order


class KCenter(StaticSelector):
    """Keeps samples that cover the feature space: every other is near to a kept one.

    Signals are not used, so unseen samples are treated like all others.

    Helps: redundant data with near duplicates, and rare groups that a random subset misses. Does not
    help: outliers and wrong labels, which lie far from all else and are taken early.

    Cost: budget * N^2 * D; memory: 4 bytes a sample beside the features (halves are copied to float32).
    State: 16 bytes a sample. Needs features.
    Source: Sener and Savarese, 2018, arXiv 1708.00489 (its greedy form).
    Differs: starts at the sample nearest to the mean, not at a random one; samples past the greedy
    `budget` follow by falling distance to the centres.

    Args:
        budget: share of the samples to choose greedily, in (0, 1]; at least one is.
    """

    needs_features = True
    score_dtype = torch.int64

    def __init__(self, budget: float = 0.1) -> None:
        self.budget = check_share("budget", budget)
        super().__init__()

    def score_pass(self, train: ModelOutputs, validation: ModelOutputs | None) -> Tensor:
        """Minus the place in the ranking (N,) int64."""
        del validation
        features = need(train, "features", self).float()
        order = k_center(features, math.ceil(self.budget * len(features)))
        score = torch.empty_like(order)
        score[order] = -torch.arange(len(order), device=order.device)
        return score
