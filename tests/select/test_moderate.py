"""Moderate: the middle share of the distances to the class prototypes."""

import numpy as np
import pytest
import torch

from dsenv.outputs import ModelOutputs
from dsenv.select import ranking
from dsenv.select.moderate import Moderate, middle_first, prototype_distance
from dsenv.signals import SampleSignals

pytestmark = pytest.mark.fast


@pytest.mark.parametrize(("prototype", "centre"), [("mean", np.mean), ("median", np.median)])
def test_distance_equals_its_definition(
    prototype: str, centre: np.ufunc, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranking, "CHUNK", 7)
    generator = torch.Generator().manual_seed(0)
    features, labels = torch.randn(31, 4, generator=generator), torch.arange(31) % 3 * 2  # class 1 is empty
    found = prototype_distance(features, labels, prototype)
    for i in range(31):
        own = centre(features[labels == labels[i]].numpy(), axis=0)
        assert float(found[i]) == pytest.approx(float(np.linalg.norm(features[i].numpy() - own)), rel=1e-5)


@pytest.mark.parametrize("rate", [0.2, 0.5, 0.9])
def test_the_middle_share_around_the_median_is_kept(rate: float) -> None:
    distance = torch.rand(100, generator=torch.Generator().manual_seed(0))
    low, high = round(100 * (0.5 - rate / 2)), round(100 * (0.5 + rate / 2))
    middle = set(distance.argsort()[low:high].tolist())
    assert set(middle_first(distance).topk(len(middle)).indices.tolist()) == middle


def test_neither_the_nearest_nor_the_farthest_are_kept() -> None:
    features = torch.cat([torch.linspace(0, 1, 21), -torch.linspace(0, 1, 21)])[:, None]  # mean 0
    selector = Moderate()
    index, labels = torch.arange(42), torch.zeros(42, dtype=torch.int64)
    selector.prepare(ModelOutputs(index, labels, torch.zeros(42), None, features))
    chosen = selector.select(SampleSignals(42, 2), 10, torch.Generator().manual_seed(0)).index
    assert 0.3 < float(features[chosen].abs().min()) < 0.5 < float(features[chosen].abs().max()) < 0.7


def test_an_unknown_prototype_is_an_error() -> None:
    with pytest.raises(ValueError, match="Did you mean 'median'"):
        Moderate(prototype="medain")
