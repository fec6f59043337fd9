"""Statistics over contexts: known values, rliable's own functions, pairing by seed."""

import numpy as np
import pytest

from dsenv.evaluation.statistics import (
    at_cost,
    band,
    interquartile_mean,
    interval,
    mean,
    mean_difference,
    probability_of_improvement,
    stratified_interval,
)

pytestmark = pytest.mark.fast
RNG = np.random.default_rng(3)
SCORES = RNG.normal(0.9, 0.03, (16, 4)).round(2)  # rounded: there are ties
OTHERS = RNG.normal(0.88, 0.03, (16, 4)).round(2)


def test_interquartile_mean_is_that_of_the_middle_half():
    assert interquartile_mean(np.array([[0.0, 1.0], [2.0, 3.0], [4.0, 5.0], [6.0, 100.0]])) == 3.5
    assert interquartile_mean(np.full((5, 3), 0.25)) == 0.25


def test_probability_of_improvement_counts_pairs_and_halves_ties():
    scores, others = np.array([[1.0], [3.0]]), np.array([[1.0], [2.0], [4.0]])
    assert probability_of_improvement(scores, others) == pytest.approx((0.5 + 2) / 6)
    slow = [np.mean([(a > b) + (a == b) / 2 for a in SCORES[:, m] for b in OTHERS[:, m]]) for m in range(4)]
    assert probability_of_improvement(SCORES, OTHERS) == pytest.approx(np.mean(slow))
    assert probability_of_improvement(SCORES, SCORES) == pytest.approx(0.5)
    assert probability_of_improvement(SCORES + 1, OTHERS) == 1


def test_many_tables_at_once_give_what_each_gives():
    tables, others = RNG.random((5, 7, 3)), RNG.random((5, 7, 3))
    for statistic, given in (
        (interquartile_mean, (tables,)),
        (mean, (tables,)),
        (mean_difference, (tables, others)),
        (probability_of_improvement, (tables, others)),
    ):
        each = [statistic(*(values[n] for values in given)) for n in range(5)]
        np.testing.assert_allclose(statistic(*given), each)


@pytest.mark.parametrize("shape", [(16, 4), (5, 1), (64, 3)])
def test_they_are_those_of_rliable(shape):
    metrics = pytest.importorskip("rliable.metrics")
    scores, others = (np.random.default_rng(n).normal(0.9, 0.03, shape).round(2) for n in (0, 1))
    assert interquartile_mean(scores) == pytest.approx(metrics.aggregate_iqm(scores), rel=1e-12)
    wanted = metrics.probability_of_improvement(scores, others)
    assert probability_of_improvement(scores, others) == pytest.approx(wanted, rel=1e-12)
    assert probability_of_improvement(scores, scores) == metrics.probability_of_improvement(scores, scores)


def test_a_stratified_interval_is_that_of_a_loop():
    """Seeds within each context, the same ones for both agents."""
    rng, found = np.random.default_rng(7), []
    for _ in range(3000):
        rows = [rng.integers(16, size=16) for _ in range(4)]
        one = np.stack([SCORES[r, m] for m, r in enumerate(rows)], 1)
        two = np.stack([OTHERS[r, m] for m, r in enumerate(rows)], 1)
        found.append(interquartile_mean(one - two))
    low, high = stratified_interval(lambda a, b: interquartile_mean(a - b), SCORES, OTHERS, resamples=3000)
    length = high - low
    assert (low, high) == pytest.approx(np.percentile(found, [2.5, 97.5]), abs=0.1 * length)
    assert low < interquartile_mean(SCORES - OTHERS) < high


def test_seeds_pair():
    """What all agents share by seed drops out of a difference."""
    luck = RNG.normal(0, 10, (16, 4))
    low, high = stratified_interval(mean_difference, SCORES + luck, OTHERS + luck)
    alone = stratified_interval(mean_difference, SCORES, OTHERS)
    assert (low, high) == pytest.approx(alone, abs=1e-9)
    with pytest.raises(ValueError, match=r"one shape.*\(15, 4\)"):
        stratified_interval(mean_difference, SCORES, OTHERS[:15])
    with pytest.raises(ValueError, match="finite"):
        stratified_interval(mean, np.where(SCORES > 0.9, np.nan, SCORES))


def test_one_context_gives_the_plain_interval():
    low, high = stratified_interval(mean, SCORES[:, :1], resamples=4000)
    assert (low, high) == pytest.approx(interval(SCORES[:, 0]), abs=0.003)
    assert stratified_interval(mean, np.full((4, 2), 0.5)) == (0.5, 0.5)


def test_agent_seeds_are_drawn_before_evaluation_seeds():
    """A, S and M are told apart: agents that differ widen the interval, their mean stays within it."""
    agents = np.stack([SCORES, SCORES - 0.2, SCORES - 0.1, SCORES + 0.05])
    low, high = stratified_interval(mean, agents)
    one_low, one_high = stratified_interval(mean, SCORES)
    assert low < agents.mean() < high and high - low > 5 * (one_high - one_low)
    # With agents that are all the same, evaluation seeds alone are left
    same = stratified_interval(mean, np.stack([SCORES] * 4))
    assert same == pytest.approx((one_low, one_high), abs=0.002)
    reference = np.broadcast_to(SCORES, agents.shape)
    low, high = stratified_interval(mean_difference, agents, reference)
    assert -0.2 <= low < -0.0625 < high <= 0.05


def test_a_band_is_an_interval_at_each_point():
    middle, low, high = band(SCORES)
    np.testing.assert_allclose(middle, SCORES.mean(0))
    for m in range(4):
        assert (low[m], high[m]) == pytest.approx(interval(SCORES[:, m]), abs=0.003)
    gap = SCORES.copy()
    gap[3, 1] = np.nan
    assert band(gap)[0][1] == pytest.approx(np.delete(SCORES[:, 1], 3).mean())


def test_accuracy_at_an_equal_cost():
    curve = np.array([[0.2, 0.6, 0.8], [0.1, 0.5, np.nan], [np.nan] * 3])
    samples = np.array([[100, 200, 300], [50, 150, 250], [1, 2, 3]])
    np.testing.assert_allclose(at_cost(curve, samples, 250), [0.7, 0.5, np.nan])
    np.testing.assert_allclose(at_cost(curve, samples, 75), [np.nan, 0.2, np.nan])
    np.testing.assert_allclose(at_cost(curve, samples, 1e9), [0.8, 0.5, np.nan])
    seconds = np.array([1.0, 2.0, np.nan])  # one for all seeds; no run got to the last
    np.testing.assert_allclose(at_cost(curve, seconds, 1.5), [0.4, 0.3, np.nan])
