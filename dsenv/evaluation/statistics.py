"""Statistics of an evaluation: of final accuracies, over contexts, paired by seed.

Scores are (S, M): S seeds, the same for all agents, in M contexts. Definitions are those of rliable (Agarwal
et al., "Deep Reinforcement Learning at the Edge of the Statistical Precipice", NeurIPS 2021), whose tasks are
our contexts. Statistics take many such tables at once, (..., S, M), so that a bootstrap needs no loop.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import bootstrap, mannwhitneyu, trim_mean

Scores = NDArray[np.floating[Any]]

RESAMPLES = 4000
SEED = 0  # of all bootstraps: an evaluation gives the same intervals twice
ENDS = (2.5, 97.5)  # percentiles of a 95 % interval
AT_ONCE = 100  # resamples that are computed together: bounds the memory


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
    low, high = np.nanpercentile(means, ENDS, axis=0)
    return mean, low, high


def interquartile_mean(scores: Scores) -> Any:
    """Mean of the middle half of all scores of a table (..., S, M), contexts together.

    A float for one table.
    """
    return trim_mean(scores.reshape(*scores.shape[:-2], -1), 0.25, axis=-1)


def probability_of_improvement(scores: Scores, others: Scores) -> Any:
    """Chance that a run of one agent (..., S, M) beats a run of another (..., R, M) in the same context.

    Mean over contexts of the share of all pairs of runs that the first one wins; ties count half. A float for
    one table.
    """
    with np.errstate(invalid="ignore", divide="ignore"):  # of p values, which are not used
        found = mannwhitneyu(scores, others, axis=-2, method="asymptotic").statistic
    return np.mean(found / (scores.shape[-2] * others.shape[-2]), axis=-1)


def stratified_interval(
    statistic: Callable[..., Any], *scores: Scores, resamples: int = 2000
) -> tuple[float, float]:
    """95 % bootstrap interval of a statistic: seeds are drawn anew within each context, for all agents alike.

    With scores of A agents that were trained alike but for their seed, (A, S, M), agents are drawn first,
    then evaluation seeds; the interval then covers the luck of training too. Of few agents it is too short:
    with two, they are the same one in half of the draws.

    Use::

        import numpy as np
        from dsenv.evaluation.statistics import interquartile_mean, stratified_interval

        scores = np.random.default_rng(0).normal(0.9, 0.02, (64, 4))  # 64 seeds, 4 contexts
        low, high = stratified_interval(interquartile_mean, scores)

    Args:
        statistic: takes as many arrays (R, n, M) as are given, n = S or A * S, and returns R numbers.
        scores: (S, M) or (A, S, M) each; row s of all of them is of the same seed.
        resamples: how often seeds are drawn.

    Raises:
        ValueError: they have different shapes, so that seeds do not pair; or a score is not finite.
    """
    shapes = {values.shape for values in scores}
    if len(shapes) != 1 or len(next(iter(shapes))) not in (2, 3):
        raise ValueError(
            f"scores that are paired by seed have one shape, (S, M) or (A, S, M), got {sorted(shapes)}"
        )
    if not all(np.isfinite(values).all() for values in scores):
        raise ValueError("scores must be finite: a training run that diverged counts as a guess")

    *outer, seeds, contexts = shapes.pop()
    agents = outer[0] if outer else 1
    tables = [values.reshape(agents, seeds, contexts) for values in scores]
    rng, found = np.random.default_rng(SEED), []
    for start in range(0, resamples, AT_ONCE):
        size = min(AT_ONCE, resamples - start)
        drawn = (
            rng.integers(agents, size=(size, agents, 1, 1)),
            rng.integers(seeds, size=(size, 1, seeds, contexts)),
            np.arange(contexts),
        )
        found.append(statistic(*(table[drawn].reshape(size, -1, contexts) for table in tables)))

    low, high = np.percentile(np.concatenate(found), ENDS)
    return float(low), float(high)


def mean(scores: Scores) -> Any:
    """Mean of all scores of a table (..., S, M); a float for one table."""
    return scores.mean((-2, -1))


def mean_difference(scores: Scores, others: Scores) -> Any:
    """Mean of the differences of two tables (..., S, M); a float for two tables."""
    return (scores - others).mean((-2, -1))


def at_cost(curve: Scores, cost: NDArray[Any], wanted: float) -> NDArray[np.float64]:
    """Accuracy (S,) of each run at an equal cost, between two intervals on a straight line.

    Args:
        curve: (S, T) accuracy after each interval; NaN where there was none.
        cost: (S, T) or (T,) what was spent up to there: samples seen, or seconds; it never falls.
        wanted: the cost; NaN is returned for runs that had not finished an interval by then, and the last
            accuracy for those that were over.
    """
    spent = np.broadcast_to(cost, curve.shape)
    return np.array([_at(wanted, x, y) for x, y in zip(spent, curve, strict=True)], dtype=np.float64)


def _at(wanted: float, cost: NDArray[Any], curve: Scores) -> float:
    """Accuracy of one run (T,) at a cost."""
    known = np.isfinite(cost) & np.isfinite(curve)
    if not known.any():
        return np.nan
    return float(np.interp(wanted, cost[known], curve[known], left=np.nan))
