"""CCS: the published allocation over strata, and which end is dropped."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dsenv.outputs import ModelOutputs
from dsenv.select.ccs import CCS, ccs_order, probability_margin, strata_of
from dsenv.signals import SampleSignals


def slow_budgets(sizes: list[int], count: int) -> list[int]:
    """The published rule: from the smallest stratum up, each gets an equal part of what is left."""
    budgets, left = [], count
    for place, size in enumerate(sorted(sizes)):
        budgets.append(min(size, left // (len(sizes) - place)))
        left -= budgets[-1]
    return budgets


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 80), st.integers(1, 12), st.sampled_from([0.0, 0.1, 0.3, 0.7]), st.integers(0, 999))
def test_every_beginning_has_the_published_budgets(size: int, strata: int, beta: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    aum = torch.randn(size, generator=generator)
    order = ccs_order(aum, beta, strata, generator)
    hard = int(beta * size)
    assert set(order[size - hard :].tolist()) == set(aum.argsort()[:hard].tolist())
    assert order[size - hard :].tolist() == aum.argsort()[:hard].flip(0).tolist()
    pool = order[: size - hard]
    stratum = strata_of(aum[pool], strata)
    sizes = stratum.bincount(minlength=strata).tolist()
    for count in range(len(pool) + 1):
        taken = stratum[:count].bincount(minlength=strata).tolist()
        assert sorted(taken) == sorted(slow_budgets(sizes, count))


@pytest.mark.fast
def test_strata_are_equally_wide() -> None:
    score = torch.tensor([-2.0, -1.01, -0.99, 0.99, 1.01, 2.0])
    assert strata_of(score, 4).tolist() == [0, 0, 1, 2, 3, 3]
    assert strata_of(torch.full((3,), -0.5), 4).tolist() == [0, 0, 0]


def test_samples_within_a_stratum_are_drawn_at_random() -> None:
    aum, hits = torch.zeros(10), torch.zeros(10)
    generator = torch.Generator().manual_seed(0)
    for _ in range(1000):
        hits[ccs_order(aum, 0.0, 50, generator)[:5]] += 1
    assert float((hits / 1000 - 0.5).abs().max()) < 0.08


@pytest.mark.fast
def test_the_smallest_margins_are_dropped() -> None:
    margin = torch.linspace(-3, 3, 30)
    logits, labels = torch.stack([margin, torch.zeros(30)], 1), torch.zeros(30, dtype=torch.int64)
    found = probability_margin(logits, labels)
    torch.testing.assert_close(found, torch.tanh(margin / 2))  # two classes: 2 sigmoid(m) - 1
    selector = CCS(beta=0.3, strata=5)
    selector.prepare(ModelOutputs(torch.arange(30), labels, torch.zeros(30), logits))
    chosen = selector.select(SampleSignals(30, 2), 21, torch.Generator().manual_seed(0)).index
    assert set(chosen.tolist()) == set(range(9, 30))


@pytest.mark.fast
@pytest.mark.parametrize("settings", [{"beta": 1.0}, {"beta": -0.1}, {"strata": 0}])
def test_settings_out_of_range_are_errors(settings: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"must be .* got"):
        CCS(**settings)  # type: ignore[arg-type]


def test_more_strata_than_memory_holds_are_refused():
    with pytest.raises(ValueError, match="strata must be a whole number from 1 to 1000000"):
        CCS(strata=10**18)
