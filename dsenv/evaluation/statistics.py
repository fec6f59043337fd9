"""Statistics of an evaluation: of final accuracies, over contexts, paired by seed.

Scores are (S, M): S seeds, the same for all agents, in M contexts. Definitions are those of rliable (Agarwal
et al., "Deep Reinforcement Learning at the Edge of the Statistical Precipice", NeurIPS 2021), whose tasks are
our contexts.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import bootstrap, mannwhitneyu, trim_mean

Scores = NDArray[np.floating[Any]]

RESAMPLES = 4000
SEED = 0  # of all bootstraps: an evaluation gives the same intervals twice


def interval(values: Scores) -> tuple[float, float]:
    """95 % bootstrap interval of the mean of (S,) values; of length 0 where they are all the same."""
    if len(values) < 2 or np.ptp(values) == 0:
        return float(values.mean()), float(values.mean())
    rng = np.random.default_rng(SEED)
    result = bootstrap((values,), np.mean, n_resamples=RESAMPLES, method="percentile", rng=rng)
    return float(result.confidence_interval.low), float(result.confidence_interval.high)


def band(curves: Scores) -> tuple[Scores, Scores, Scores]:
    """Mean (T,) of curves (S, T) and the ends of its 95 % bootstrap interval, whole curves drawn anew."""
    finite = np.ma.masked_invalid(np.asarray(curves, np.float64))
    mean = finite.mean(0).filled(np.nan)
    if len(curves) < 2:
        return mean, mean, mean
    drawn = np.random.default_rng(SEED).multinomial(len(curves), [1 / len(curves)] * len(curves), RESAMPLES)
    weight = drawn @ ~np.ma.getmaskarray(finite)
    means = np.divide(drawn @ finite.filled(0), weight, out=np.full(weight.shape, np.nan), where=weight > 0)
    low, high = np.nanpercentile(means, [2.5, 97.5], axis=0)
    return mean, low, high


def interquartile_mean(scores: Scores) -> float:
    """Mean of the middle half of all scores (S, M), contexts together."""
    return float(trim_mean(scores, 0.25, axis=None))


def probability_of_improvement(scores: Scores, others: Scores) -> float:
    """Chance that a run of one agent (S, M) beats one of another (R, M), over contexts; ties count half."""
    wins = mannwhitneyu(scores, others, axis=0).statistic / (len(scores) * len(others))
    return float(np.mean(wins))


def stratified_interval(
    statistic: Callable[..., float], *scores: Scores, resamples: int = 2000
) -> tuple[float, float]:
    """95 % bootstrap interval of a statistic: seeds are drawn anew within each context, for all agents alike.

    Args:
        statistic: takes as many arrays as are given.
        scores: (S, M) each; row s of all of them is of the same seed.
        resamples: how often seeds are drawn.

    Raises:
        ValueError: they have different shapes, so that seeds do not pair.
    """
    shapes = {values.shape for values in scores}
    if len(shapes) != 1:
        raise ValueError(f"scores that are paired by seed have one shape (S, M), got {sorted(shapes)}")
    seeds, contexts = shapes.pop()
    rng = np.random.default_rng(SEED)

    drawn = rng.integers(seeds, size=(resamples, seeds, contexts))
    found = [statistic(*(np.take_along_axis(values, rows, 0) for values in scores)) for rows in drawn]
    low, high = np.percentile(found, [2.5, 97.5])
    return float(low), float(high)


def at_cost(curve: Scores, cost: Scores, wanted: float) -> NDArray[np.float64]:
    """Accuracy (S,) of each run at an equal cost, between two intervals on a straight line.

    Args:
        curve: (S, T) accuracy after each interval.
        cost: (S, T) or (T,) what was spent up to there: samples seen, or seconds.
        wanted: the cost; NaN is returned for runs that had not finished an interval by then, and the last
            accuracy for those that were over.
    """
    spent = np.broadcast_to(cost, curve.shape)
    rows = [np.interp(wanted, x, y, left=np.nan) for x, y in zip(spent, curve, strict=True)]
    return np.array(rows, dtype=np.float64)
