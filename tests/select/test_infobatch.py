"""InfoBatch: the published rule, the exact count, and no bias."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dsenv.select.infobatch import (
    InfoBatch,
    exchanged,
    infobatch,
    infobatch_count,
    low_samples,
    pruning_is_on,
)
from dsenv.signals import SampleSignals


def literal(score: list[float], keep: float) -> tuple[set[int], set[int], int]:
    """The published rule by the book: low samples, high samples, how many low ones stay."""
    mean = sum(score) / len(score)
    low = {i for i, s in enumerate(score) if s < mean}
    return low, set(range(len(score))) - low, int(keep * len(low))


def random_losses(size: int, seed: int) -> Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(seed)).exp()


@pytest.mark.fast
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("keep", [0.25, 0.5, 0.8])
def test_at_its_own_count_it_is_the_published_rule(seed: int, keep: float) -> None:
    score, seen = random_losses(200, seed), torch.ones(200, dtype=torch.bool)
    low, high, kept = literal(score.tolist(), keep)
    count = infobatch_count(score, seen, keep)
    assert count == len(high) + kept
    index, weight = infobatch(score, seen, count, 0.9, torch.Generator().manual_seed(seed))
    chosen = set(index.tolist())
    assert high <= chosen and len(chosen & low) == kept
    by_sample = dict(zip(index.tolist(), weight.tolist(), strict=True))
    assert all(by_sample[i] == 1 for i in high)
    for i in chosen & low:
        assert by_sample[i] == pytest.approx(len(low) / kept)
        assert by_sample[i] == pytest.approx(1 / keep, rel=1.5 / kept)  # the same but for rounding


@pytest.mark.parametrize("count", [80, 30, 8])  # below the mean, a raised threshold, uniform
def test_the_expected_gradient_is_the_full_one(count: int) -> None:
    """Also where the threshold is raised and where losses are tied at it."""
    size, draws = 100, 1500
    generator = torch.Generator().manual_seed(1)
    score = (random_losses(size, 2) * 4).round() / 4  # many ties
    seen = torch.rand(size, generator=generator) < 0.8
    gradient = torch.randn(size, 5, generator=generator) * score[:, None]
    sums = []
    for _ in range(draws):
        index, weight = infobatch(score, seen, count, 0.9, generator)
        sums.append((weight[:, None] * gradient[index]).sum(0))
    found = torch.stack(sums)
    error = found.std(0) / math.sqrt(draws)
    assert bool(((found.mean(0) - gradient.sum(0)).abs() < 4.5 * error + 1e-4).all())


@pytest.mark.fast
def test_low_losses_are_the_ones_to_go() -> None:
    score, seen = torch.arange(10.0), torch.ones(10, dtype=torch.bool)
    assert low_samples(score, seen).tolist() == [True] * 5 + [False] * 5
    for seed in range(20):
        index, _ = infobatch(score, seen, 7, 0.9, torch.Generator().manual_seed(seed))
        assert set(range(5, 10)) <= set(index.tolist())


@pytest.mark.fast
def test_the_threshold_rises_when_too_many_would_go() -> None:
    score, seen = torch.arange(100.0), torch.ones(100, dtype=torch.bool)
    index, weight = infobatch(score, seen, 40, 0.9, torch.Generator().manual_seed(0))
    low = math.ceil(60 / 0.9)  # 67 lowest, of which 60 go; the mean alone would have 50
    assert set(range(low, 100)) <= set(index.tolist())
    assert sorted(set(weight.tolist())) == [1.0, pytest.approx(low / (low - 60))]
    index, weight = infobatch(score, seen, 5, 0.9, torch.Generator().manual_seed(0))
    assert weight.tolist() == [20.0] * 5  # even the quantile does not do: uniform


@pytest.mark.fast
def test_unseen_samples_stay_and_nothing_is_pruned_at_the_start() -> None:
    score = torch.cat([torch.arange(50.0), torch.zeros(50)])
    seen = torch.arange(100) < 50
    index, _ = infobatch(score, seen, 80, 0.9, torch.Generator().manual_seed(0))
    assert set(range(50, 100)) <= set(index.tolist())
    assert low_samples(score, seen).tolist() == [True] * 25 + [False] * 75  # the mean is of the seen alone
    assert InfoBatch().own_count(SampleSignals(30, 10)) == 30
    assert infobatch_count(torch.tensor([1.0, 2.0]), torch.tensor([True, True]), 0.25) == 2  # one low stays


@pytest.mark.fast
@settings(max_examples=60, deadline=None)
@given(
    losses=st.lists(st.floats(0, 10), min_size=1, max_size=40),
    max_prune=st.floats(0.05, 0.95),
    data=st.data(),
)
def test_weights_sum_to_the_number_of_samples(
    losses: list[float], max_prune: float, data: st.DataObject
) -> None:
    score = torch.tensor(losses)
    count = data.draw(st.integers(1, len(losses)))
    seen = torch.tensor(data.draw(st.lists(st.booleans(), min_size=len(losses), max_size=len(losses))))
    index, weight = infobatch(score, seen, count, max_prune, torch.Generator().manual_seed(0))
    assert len(index.unique()) == count
    assert float(weight.sum()) == pytest.approx(len(losses), rel=1e-4)


@pytest.mark.fast
def test_pruning_stops_in_the_last_part() -> None:
    assert [pruning_is_on(epoch, 30, 0.875) for epoch in (0, 25, 26, 29)] == [True, True, False, False]
    assert sum(pruning_is_on(epoch, 200, 0.875) for epoch in range(200)) == 175
    assert [pruning_is_on(epoch, 5, 0.875) for epoch in range(5)] == [True, True, True, True, False]


class PublishedSampler:
    """Which epochs the published sampler prunes: it counts how often it was reset, once before training."""

    def __init__(self, epochs: int, delta: float) -> None:
        self.stop_prune = epochs * delta
        self.iterations = 0
        self.reset()

    def reset(self) -> bool:
        prunes = not self.iterations > self.stop_prune
        self.iterations += 1
        return prunes


@pytest.mark.fast
def test_pruned_epochs_are_those_of_the_published_sampler() -> None:
    for delta in (0.0, 0.07, 0.1, 0.29, 1 / 3, 0.5, 0.57, 0.7, 0.8, 0.85, 0.875, 0.9, 0.95, 0.999, 1.0):
        for epochs in (*range(1, 41), 90, 100, 200, 300):
            sampler = PublishedSampler(epochs, delta)
            published = [sampler.reset() for _ in range(epochs)]
            assert [pruning_is_on(epoch, epochs, delta) for epoch in range(epochs)] == published
            assert delta == 1 or not published[-1]


@pytest.mark.fast
def test_a_tail_of_next_to_nothing_is_still_one_epoch() -> None:
    almost = 1 - 2**-53
    for epochs in (1, 3, 10, 1000):
        assert not pruning_is_on(epochs - 1, epochs, almost)
        assert pruning_is_on(epochs - 1, epochs, 1)


@pytest.mark.fast
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((-1, 5, 0.5), "epoch must be a whole number of at least 0, got -1"),
        ((0, 0, 0.5), "epochs must be a whole number of at least 1, got 0"),
        ((0, 5, 1.5), r"delta must be in \[0, 1\], got 1.5"),
        ((0, 5, float("nan")), "delta must be in"),
    ],
)
def test_an_impossible_tail_is_an_error(arguments: tuple[int, int, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pruning_is_on(*arguments)


@pytest.mark.fast
@pytest.mark.parametrize("settings", [{"keep": 0.0}, {"keep": 1.5}, {"max_prune": 0.0}, {"max_prune": 1.0}])
def test_settings_out_of_range_are_errors(settings: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"must be in .* got"):
        InfoBatch(**settings)


@pytest.mark.fast
def test_random_scores_are_the_losses_seen_in_random_places() -> None:
    score, seen = random_losses(300, 4), torch.arange(300) % 3 > 0
    one = exchanged(score, seen, torch.Generator().manual_seed(0))
    other = exchanged(score, seen, torch.Generator().manual_seed(1))
    assert torch.equal(one[~seen], score[~seen]) and not torch.equal(one, other)
    assert torch.equal(one[seen].sort().values, score[seen].sort().values)
    moved = (one[seen] != score[seen]).sum()
    assert moved > 190  # of 200


@pytest.mark.fast
def test_with_random_scores_counts_and_weights_stay_and_who_is_low_is_chance() -> None:
    signals = SampleSignals(400, 3)
    losses, index = random_losses(400, 5), torch.arange(400)
    signals.update(index, losses, torch.zeros(400, 3), torch.zeros_like(index), 0)
    own, chance = InfoBatch(), InfoBatch(scores="random")
    count = own.own_count(signals)
    assert chance.own_count(signals) == count

    generator = torch.Generator().manual_seed(0)
    low = losses < losses.mean()
    kept, weights = torch.zeros(400), []
    for _ in range(200):
        found = chance.select(signals, count, generator)
        kept[found.index] += 1 / 200
        weights.append(found.weight.sort().values)
    assert torch.equal(weights[0], own.select(signals, count, generator).weight.sort().values)
    assert all(torch.equal(weights[0], each) for each in weights)
    share, error = count / 400, (0.25 / 200 / 100) ** 0.5  # at least 100 of each kind, 200 draws
    assert abs(kept[low].mean() - share) < 5 * error and abs(kept[~low].mean() - share) < 5 * error


@pytest.mark.fast
def test_scores_of_another_name_are_refused() -> None:
    with pytest.raises(ValueError, match=r"no scores of InfoBatch called 'losss'\. Did you mean 'loss'"):
        InfoBatch(scores="losss")
