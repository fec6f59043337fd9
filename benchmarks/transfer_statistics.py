"""Statistics of the bar: paired differences over seeds, rows together, and Holm's correction over rows."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t

Differences = NDArray[np.float64]
"""Accuracy of one agent minus that of another on the same seeds, in points, of one row."""

LEVEL = 0.05
RESAMPLES = 2000


class Interval(NamedTuple):
    """A mean with its interval, NaN where there are too few seeds."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        half = (self.high - self.low) / 2
        spread = f"±{half:.2f}".replace("±0.", "±.") if math.isfinite(half) else ""
        return f"{self.mean:+.2f}{spread}"


def moments(values: Differences) -> tuple[float, float]:
    """Mean, and its standard error; NaN for a single seed."""
    values = np.asarray(values, np.float64)
    error = values.std(ddof=1) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return float(values.mean()), float(error)


def paired(values: Differences, level: float = LEVEL) -> Interval:
    """Mean and interval of Student's t over the seeds of one row."""
    mean, error = moments(values)
    half = math.nan if math.isnan(error) else float(t.ppf(1 - level / 2, len(values) - 1)) * error
    return Interval(mean, mean - half, mean + half)


def p_value(values: Differences, null: float) -> float:
    """Two-sided p of Student's t that the mean is `null`; 1 for a single seed."""
    mean, error = moments(values)
    if math.isnan(error):
        return 1.0
    if error == 0:
        return 1.0 if mean == null else 0.0
    return 2 * float(t.sf(abs(mean - null) / error, len(values) - 1))


def holm(rows: Sequence[Differences], null: float, level: float = LEVEL) -> list[Interval]:
    """An interval for each row, so that all of them together miss a true mean at most at `level`.

    Holm's step-down: rows in the order of their p against `null`; the k-th of m has an interval at
    level / (m - k), k = 0, 1, ..., until the first one that holds `null`, and all after it have that level. A
    row whose interval lies wholly on one side of `null` is one that Holm's test rejects.

    Args:
        rows: differences of each row, (S,) each.
        null: the mean that rows are tested against.
        level: probability of any false rejection.
    """
    order = sorted(range(len(rows)), key=lambda number: p_value(rows[number], null))
    found: list[Interval | None] = [None] * len(rows)
    own, stopped = level, False
    for place, number in enumerate(order):
        if not stopped:
            own = level / (len(rows) - place)
            stopped = p_value(rows[number], null) > own
        found[number] = paired(rows[number], own)
    return [interval for interval in found if interval is not None]


def together(rows: Sequence[Differences], level: float = LEVEL) -> Interval:
    """Mean over rows of their means; the interval is over seeds, the rows as they are.

    Degrees of freedom by Welch and Satterthwaite.
    """
    known = [moments(values) for values in rows]
    mean = float(np.mean([value for value, _ in known]))
    shares = np.array([error**2 for _, error in known]) / len(rows) ** 2
    if not np.isfinite(shares).all():
        return Interval(mean, math.nan, math.nan)
    if not shares.sum():
        return Interval(mean, mean, mean)
    freedom = shares.sum() ** 2 / sum(
        share**2 / (len(values) - 1) for share, values in zip(shares, rows, strict=True)
    )
    half = float(t.ppf(1 - level / 2, freedom)) * math.sqrt(shares.sum())
    return Interval(mean, mean - half, mean + half)


def share_of(own: Sequence[Differences], other: Sequence[Differences], seed: int = 0) -> Interval:
    """Mean gain of an agent over that of another one, in percent; bootstrap over the seeds of each row.

    Args:
        own: gains (S,) of the agent on each row.
        other: gains of the other, on the same rows and seeds.
        seed: of the draws.
    """
    draw = np.random.default_rng(seed)
    tops, bottoms = np.zeros(RESAMPLES), np.zeros(RESAMPLES)
    for mine, theirs in zip(own, other, strict=True):
        drawn = draw.integers(len(mine), size=(RESAMPLES, len(mine)))
        tops += np.asarray(mine)[drawn].mean(1)
        bottoms += np.asarray(theirs)[drawn].mean(1)
    ratio = sum(np.mean(values) for values in own) / sum(np.mean(values) for values in other)
    low, high = np.percentile(100 * tops / bottoms, [100 * LEVEL / 2, 100 * (1 - LEVEL / 2)])
    return Interval(100 * float(ratio), float(low), float(high))
