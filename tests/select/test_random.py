"""Uniform and fixed random subsets."""

import pytest
import torch

from dsenv.select.random import FixedRandom, UniformRandom, random_subset
from dsenv.signals import SampleSignals


def test_every_sample_is_as_likely() -> None:
    generator, draws = torch.Generator().manual_seed(0), 4000
    hits = torch.zeros(10)
    for _ in range(draws):
        hits[random_subset(10, 3, generator)] += 1
    share, error = hits / draws, (0.3 * 0.7 / draws) ** 0.5
    assert bool(((share - 0.3).abs() < 4.5 * error).all())


@pytest.mark.fast
def test_uniform_draws_anew_and_fixed_does_not() -> None:
    signals, generator = SampleSignals(100, 2), torch.Generator().manual_seed(0)
    uniform, fixed = UniformRandom(), FixedRandom()
    first, second = (uniform.select(signals, 50, generator).index for _ in range(2))
    assert set(first.tolist()) != set(second.tolist())
    kept = [set(fixed.select(signals, count, generator).index.tolist()) for count in (50, 50, 80)]
    assert kept[0] == kept[1] < kept[2]
    with pytest.raises(ValueError, match="drew its order for 100 samples, the signals hold 99"):
        fixed.select(SampleSignals(99, 2), 50, generator)
