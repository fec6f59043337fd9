"""Herding: the greedy definition, and that it tracks the mean rather than fleeing it."""

import pytest
import torch
from torch import Tensor

from dsenv.outputs import ModelOutputs
from dsenv.select.herding import Herding, herding, herding_score
from dsenv.signals import SampleSignals

pytestmark = pytest.mark.fast


def slow_herding(features: Tensor, picks: int) -> list[int]:
    """At each step try every sample, and take the one that brings the mean nearest."""
    centre, chosen = features.mean(0), []
    for _ in range(picks):
        left = [i for i in range(len(features)) if i not in chosen]
        gaps = [float((features[[*chosen, i]].mean(0) - centre).norm()) for i in left]
        chosen.append(left[gaps.index(min(gaps))])
    return chosen


@pytest.mark.parametrize("seed", range(4))
def test_equals_its_definition(seed: int) -> None:
    features = torch.randn(25, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    order = herding(features, 12)
    assert order[:12].tolist() == slow_herding(features, 12)
    assert sorted(order.tolist()) == list(range(25))
    target = 13 * features.mean(0) - features[order[:12]].sum(0)
    gaps = (features[order[12:]] - target).norm(dim=1)  # the rest: nearest to the next target first
    assert gaps.tolist() == sorted(gaps.tolist())


def test_the_first_is_the_most_typical_and_not_the_farthest() -> None:
    features = torch.cat(
        [torch.randn(30, 4, generator=torch.Generator().manual_seed(0)) / 9, 9 * torch.eye(4)]
    )
    features = torch.cat([features, -9 * torch.eye(4)])
    order = herding(features, 10)
    assert set(order[:10].tolist()) <= set(range(30))
    gap = [float((features[order[:k]].mean(0) - features.mean(0)).norm()) for k in (1, 10)]
    assert gap[1] < gap[0]


def test_classes_are_herded_apart_and_keep_their_proportions() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.tensor([0] * 40 + [1] * 20 + [3] * 4)
    features = torch.randn(64, 5, generator=generator)
    score = herding_score(features, labels, 1.0)
    for label in (0, 1, 3):
        members = (labels == label).nonzero().squeeze(1)
        own = members[score[members].argsort(descending=True)]
        assert own[:4].tolist() == members[slow_herding(features[members], 4)].tolist()
    selector = Herding()
    selector.prepare(ModelOutputs(torch.arange(64), labels, torch.zeros(64), None, features))
    chosen = selector.select(SampleSignals(64, 4), 32, generator).index
    assert labels[chosen].bincount().tolist() == [20, 10, 0, 2]
