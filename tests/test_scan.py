"""The forms for millions of samples against their slow definitions, at sizes of a few blocks."""

import numpy as np
import pytest
import torch

from dsenv import scan

KINDS = ("normal", "tied", "equal", "odd")


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(scan, "BLOCK", 64)


def values_of(kind, size=300, seed=0):
    rng = np.random.default_rng(seed)
    values = rng.standard_normal(size).astype(np.float32)
    if kind == "tied":
        values = np.round(values)
    if kind == "equal":
        values[:] = 2.5
    if kind == "odd":
        values[:6] = np.inf, -np.inf, 0.0, -0.0, np.float32(1e-45), np.finfo(np.float32).max
        values[100:200] = np.inf
    return values


def all_keys(values):
    return np.concatenate([keys.copy() for _, keys in scan.key_blocks(values)])


@pytest.mark.fast
def test_keys_stand_in_the_order_of_the_values():
    values = np.concatenate([values_of("odd"), values_of("tied")])
    keys = all_keys(values)
    assert np.array_equal(keys[:, None] < keys, values[:, None] < values)
    assert np.array_equal(keys[:, None] == keys, values[:, None] == values)


@pytest.mark.fast
def test_nan_is_above_all_whatever_its_sign():
    nan = np.array([0x7FC00000, 0xFFC00000], np.uint32).view(np.float32)
    keys = all_keys(np.concatenate([np.array([np.inf, -np.inf], np.float32), nan]))
    assert keys[1] < keys[0] < min(keys[2:])
    values = np.concatenate([values_of("normal"), nan])
    assert {300, 301} < set(scan.largest(values, 5, None).tolist())


@pytest.mark.fast
@pytest.mark.parametrize("kind", KINDS)
def test_keys_at_ranks(kind):
    values = values_of(kind)
    ordered = np.sort(all_keys(values))
    ranks = [0, 1, 77, 150, 298, 299]
    for rank, (key, below) in zip(ranks, scan.keys_at(values, ranks), strict=True):
        assert key == ordered[rank]
        assert below == np.count_nonzero(ordered < key)


@pytest.mark.fast
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [0, 1, 64, 133, 299, 300])
def test_largest_equals_a_sort(kind, count):
    values = values_of(kind)
    for rng in (None, np.random.default_rng(0)):
        chosen = scan.largest(values, count, rng)
        assert len(set(chosen.tolist())) == len(chosen) == count
        assert np.array_equal(np.sort(values[chosen]), np.sort(values)[300 - count :])


def test_ties_are_broken_at_random_or_by_position():
    values, rng, hits = np.repeat(np.float32([1, 0, 1, 2]), 40), np.random.default_rng(0), np.zeros(160)
    for _ in range(500):
        hits[scan.largest(values, 60, rng)] += 1  # all the twos and 20 of 80 ones
    assert (hits[120:] == 500).all() and (hits[40:80] == 0).all()
    ones = np.concatenate([hits[:40], hits[80:120]]) / 500
    assert np.abs(ones - 0.25).max() < 4.5 * (0.25 * 0.75 / 500) ** 0.5
    assert set(scan.largest(values, 60, None).tolist()) == {*range(20), *range(120, 160)}


@pytest.mark.parametrize("count", [1, 20, 199])
def test_every_subset_is_as_likely(count):
    rng, draws, hits, pairs = np.random.default_rng(0), 1500, np.zeros(200), 0
    for _ in range(draws):
        chosen = scan.subset(200, count, rng)
        assert len(set(chosen.tolist())) == count
        hits[chosen] += 1
        pairs += int(3 in chosen and 150 in chosen)
    share = count / 200
    assert np.abs(hits / draws - share).max() < 4.5 * (share * (1 - share) / draws) ** 0.5 + 1e-9
    both = share * (count - 1) / 199
    assert abs(pairs / draws - both) < 4.5 * (both * (1 - both) / draws) ** 0.5 + 1e-9


@pytest.mark.fast
@pytest.mark.parametrize("kind", KINDS)
def test_an_ordering_equals_a_sort(kind):
    values = values_of(kind)
    stable = scan.ordered(scan.key_blocks(values), 300, None)
    assert np.array_equal(stable, np.argsort(values, kind="stable"))
    falling = scan.ordered(scan.key_blocks(values, mirror=True), 300, np.random.default_rng(0))
    assert np.array_equal(values[falling], np.sort(values)[::-1])
    assert sorted(falling.tolist()) == list(range(300))


def test_equal_keys_stand_in_random_order():
    """Each place and each pair of places is as likely, though the order follows from a bijection."""
    size, draws = 70, 800
    at, before = np.zeros((size, size)), np.zeros((size, size))
    for seed in range(draws):
        order = scan.ordered(scan.key_blocks(np.zeros(size, np.float32)), size, np.random.default_rng(seed))
        at[np.arange(size), order] += 1
        place = np.argsort(order)
        before += place[:, None] < place
    error = (1 / size / draws) ** 0.5
    assert np.abs(at / draws - 1 / size).max() < 5 * error
    off_diagonal = before[~np.eye(size, dtype=bool)] / draws
    assert np.abs(off_diagonal - 0.5).max() < 5 * 0.5 / draws**0.5


@pytest.mark.fast
def test_scrambling_can_be_undone():
    rng = np.random.default_rng(0)
    numbers, secret = rng.integers(1 << 32, size=(2, 1000), dtype=np.uint32)
    assert np.array_equal(scan.unscramble(scan.scramble(numbers, secret[:4]), secret[:4]), numbers)


# No edge, one at an uneven share, several, and edges among ranks past the members.
@pytest.mark.fast
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("bins", "members"), [(1, 300), (2, 299), (7, 300), (16, 61)])
def test_rank_bins_equal_a_stable_sort(kind, bins, members):
    values, found = values_of(kind), np.empty(300, np.int64)
    scan.rank_bins(values, members, bins, found)
    rank = np.empty(300, np.int64)
    rank[np.argsort(values, kind="stable")] = np.arange(300)
    assert np.array_equal(found, np.minimum(rank * bins // members, bins - 1))


@pytest.mark.fast
def test_a_large_sample_is_not_changed():
    values = torch.rand(300).numpy()
    before = values.copy()
    scan.largest(values, 10, np.random.default_rng(0))
    scan.rank_bins(values, 300, 4, np.empty(300, np.int64))
    assert np.array_equal(values, before)
