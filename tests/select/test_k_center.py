"""k-center greedy: the farthest-first definition."""

import pytest
import torch
from torch import Tensor

from dsenv.outputs import ModelOutputs
from dsenv.select.k_center import KCenter, k_center
from dsenv.signals import SampleSignals

pytestmark = pytest.mark.fast


def slow_k_center(features: Tensor, picks: int) -> list[int]:
    """At each step take the sample whose nearest centre is farthest."""
    gaps = (features - features.mean(0)).norm(dim=1)
    centres = [int(gaps.argmin())]
    while len(centres) < picks:
        nearest = [min(float((x - features[c]).norm()) for c in centres) for x in features]
        centres.append(nearest.index(max(nearest)))
    return centres


@pytest.mark.parametrize("seed", range(4))
def test_equals_its_definition(seed: int) -> None:
    features = torch.randn(40, 3, generator=torch.Generator().manual_seed(seed))
    order = k_center(features, 15)
    assert order[:15].tolist() == slow_k_center(features, 15)
    assert sorted(order.tolist()) == list(range(40))
    rest = torch.cdist(features[order[15:]], features[order[:15]]).amin(1)
    assert rest.tolist() == sorted(rest.tolist(), reverse=True)  # the rest: farthest first


def test_one_of_each_cluster_is_taken_first() -> None:
    generator = torch.Generator().manual_seed(0)
    cluster = torch.arange(60) % 6
    features = 10 * torch.eye(6)[cluster] + torch.randn(60, 6, generator=generator) / 10
    selector = KCenter()
    selector.prepare(ModelOutputs(torch.arange(60), cluster, torch.zeros(60), None, features))
    chosen = selector.select(SampleSignals(60, 6), 6, generator).index
    assert sorted(cluster[chosen].tolist()) == list(range(6))


def test_equal_samples_are_no_trouble() -> None:
    assert sorted(k_center(torch.ones(9, 2), 9).tolist()) == list(range(9))
