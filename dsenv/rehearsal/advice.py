"""Advice in plain sentences, from the rows of a rehearsal."""

from collections.abc import Sequence

from dsenv.rehearsal.candidates import ALL_DATA
from dsenv.rehearsal.evidence import LabelNoise, Row


def _points(value: float) -> str:
    return f"{100 * abs(value):.1f} points"


def advice(
    best: Row,
    within: Row,
    reference: Row,
    rows: Sequence[Row],
    noise: LabelNoise | None,
    why_little: str,
    cut: Sequence[str],
) -> list[str]:
    """What to do, how sure that is, and what was left out.

    Args:
        best: the row to take.
        within: the row to take where all data is no choice.
        reference: random selection.
        rows: all rows, the most accurate first.
        noise: what the labels look like; None where nothing was trained.
        why_little: why there is too little data; "" where there is enough.
        cut: what was left out to keep the time.
    """
    says = [_choice(best, reference, rows, why_little)]
    if best.name == ALL_DATA and within is not best:
        says.append(_within(within, reference))
    if noise is not None:
        says += _labels(noise)
    if cut:
        says.append(f"Not all was rehearsed on: {'; '.join(cut)}.")
    return says


def _choice(best: Row, reference: Row, rows: Sequence[Row], why_little: str) -> str:
    """The choice and its evidence."""
    if why_little:
        return (
            f"Too little data to tell: {why_little}. Take random selection at ratio {reference.ratio:g}, or "
            "train on everything."
        )
    if best is not reference:
        gain = best.over_random
        what = f"Take {best.name} at ratio {best.ratio:g}"
        what = "Train on everything" if best.name == ALL_DATA else what
        return (
            f"{what}: {_points(gain.mean)} more accurate than a random share of {reference.ratio:g} on the "
            f"held-out labels (95 % interval {100 * gain.low:+.1f} to {100 * gain.high:+.1f})."
        )

    others = [row for row in rows if row is not reference]
    if not others:
        return f"Nothing but random selection was tried: take it, at ratio {reference.ratio:g}."
    nearest, error = others[0].over_random, min(row.over_random.error for row in others)
    return (
        f"Take random selection at ratio {reference.ratio:g}: nothing was clearly ahead of it; the nearest, "
        f"{others[0].name}, by {100 * nearest.mean:+.1f} points (95 % interval {100 * nearest.low:+.1f} to "
        f"{100 * nearest.high:+.1f}). These data tell differences of about {_points(2 * error)} and more."
    )


def _within(within: Row, reference: Row) -> str:
    """The choice at the cost of a share of the data."""
    if within is reference:
        return f"At a share of {reference.ratio:g} of the cost, nothing was ahead of random selection."
    gain = 100 * within.over_random.mean
    return f"At a share of {within.ratio:g} of the cost, take {within.name}: {gain:+.1f} points over random."


def _labels(noise: LabelNoise) -> list[str]:
    """How many labels look wrong, and whether accuracy on them ranks choices as on right ones."""
    found = ["The models are confident of too few samples to tell how many labels are wrong."]
    if noise.rate is not None:
        found = [f"About {100 * noise.rate:.0f} % of the labels look wrong."]
    worst = noise.one_way()
    if worst is not None:
        own, other, rate, right = worst
        found.append(
            f"Labels of class {own} seem to go to class {other} one way: of the samples that models take for "
            f"{own}, {100 * rate:.0f} % are labelled {other}, {100 * right:.0f} % {own}. Models learn such "
            "labels, so they are not among those that look wrong, and accuracy on them need not rank choices "
            "as accuracy on right labels does: look through some of them (DataPlan.suspects), or compare the "
            "first choices on samples whose labels you trust."
        )
    return found
