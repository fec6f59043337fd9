"""Every selector keeps its promises in the form for millions of samples too."""

import pytest
import torch

from dsenv import kernels, scan
from dsenv.select import gumbel_top_k
from dsenv.select.ccs import ccs_order
from dsenv.select.data_agent import choose_by_rank, choose_uniformly
from dsenv.select.epsilon_greedy import epsilon_greedy
from dsenv.select.infobatch import infobatch
from dsenv.select.order_dp import top_of_pool
from dsenv.select.ranked import ranked
from tests.select.batches import stream
from tests.select.test_bins_and_gumbel import streams
from tests.select.test_contract import SELECTORS, each_selector, equal, selected, trained

FREQUENCIES = 200


@pytest.fixture(autouse=True)
def large(monkeypatch):
    monkeypatch.setattr(kernels, "LARGE", 1)
    monkeypatch.setattr(scan, "BLOCK", 32)


# Nothing seen, unseen samples and then ranked ones, ranked ones alone, everything.
@each_selector
@pytest.mark.parametrize(("share", "count"), [(0.0, 1), (0.5, 45), (1.0, 23), (1.0, 60)])
def test_any_count_is_exact_unique_and_the_same_again(name, share, count):
    one, other = (selected(*trained(name, 60, share), count) for _ in range(2))
    assert len(one.index.unique()) == len(one.index) == count
    assert one.index.dtype == torch.int64 and one.weight.dtype == torch.float32
    assert equal(one, other)


@pytest.mark.parametrize(
    "name", [n for n, make in SELECTORS.items() if n != "fixed" and not make(2).needs_pass]
)
def test_unseen_samples_have_equal_chances(name):
    """Before the first batch all samples are alike; the static ones decide once and for all.

    How even the draws themselves are is measured in test_scan.py; ties not drawn at all would show here as
    shares of 0 and 1, more than 0.37 from the expected one where 0.22 is allowed.
    """
    draws = 100
    selector, signals = trained(name, 40, 0.0)
    generator, hits = stream(), torch.zeros(40)
    for _ in range(draws):
        hits[selector.select(signals, 15, generator).index] += 1
    error = (15 / 40 * 25 / 40 / draws) ** 0.5
    assert float((hits / draws - 15 / 40).abs().max()) < 4.5 * error


def shares(choose, plain, monkeypatch):
    """How often each of 40 samples is chosen, by one form."""
    monkeypatch.setattr(kernels, "LARGE", 1000 if plain else 1)
    generator, hits = stream(2), torch.zeros(40)
    for _ in range(FREQUENCIES):
        hits[choose(generator)] += 1
    return hits / FREQUENCIES


SCORE = torch.randn(40, generator=stream(1)).round(decimals=1)
SEEN = torch.rand(40, generator=stream(3)) < 0.8
CHOICES = {
    "uniform": lambda g: choose_uniformly(40, 12, g),
    "ranked": lambda g: ranked(SCORE, SEEN, 12, "easiest", g),
    "epsilon_greedy": lambda g: epsilon_greedy(SCORE, 12, 0.4, g),
    "infobatch": lambda g: infobatch(SCORE, SEEN, 33, 0.9, g)[0],
    "infobatch_raised": lambda g: infobatch(SCORE, SEEN, 12, 0.9, g)[0],
    "order_dp": lambda g: top_of_pool(SCORE, 12, 0.5, g),
    "data_agent": lambda g: choose_by_rank(SCORE, (10 * SCORE).abs(), 12, 0.2, 0.9, g),
    "ccs": lambda g: ccs_order(SCORE, 0.2, 5, g)[:12],
}


@pytest.mark.parametrize("name", CHOICES)
def test_both_forms_choose_each_sample_as_often(name, monkeypatch):
    large, plain = (shares(CHOICES[name], form, monkeypatch) for form in (False, True))
    error = (2 * 0.25 / FREQUENCIES) ** 0.5
    assert float((large - plain).abs().max()) < 4.5 * error


def test_gumbel_draws_follow_the_weights_and_are_shuffled():
    weights = torch.tensor([0.5, 0.3, 0.15, 0.05, 0.0])
    drawn = gumbel_top_k(weights.log().expand(800, 5), [2] * 800, streams(800))
    assert drawn.index.shape == (800, 2) and int((drawn.index == 4).sum()) == 0
    first = [float(w) for w in weights]
    expected = [
        p + sum(q * p / (1 - q) for j, q in enumerate(first) if j != i) for i, p in enumerate(first)
    ]  # chance to be among the first two
    found = torch.bincount(drawn.index.flatten(), minlength=5) / 800
    torch.testing.assert_close(found, torch.tensor(expected), atol=0.06, rtol=0)
    assert abs(float((drawn.index[:, 0] == 0).sum() - (drawn.index[:, 1] == 0).sum())) < 120


@pytest.mark.fast
def test_gumbel_counts_may_differ_between_rows():
    drawn = gumbel_top_k(torch.randn(3, 50), [50, 0, 17], streams(3))
    assert drawn.counts == (50, 0, 17) and (drawn.index[1] == 50).all()
    assert sorted(drawn.index[0].tolist()) == list(range(50))
    assert torch.equal(drawn.weight, (drawn.index < 50).float())
