"""What the held-out labels say: rows of a table, the choice among them, and how many labels look wrong."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from scipy.stats import t as student
from torch import Tensor

from dsenv.rehearsal.candidates import Candidate
from dsenv.rehearsal.runs import Floats, Outcome
from dsenv.select.trim import estimated_noise_rate

Outcomes = Mapping[Candidate, Sequence[Outcome]]
"""Of each candidate, one outcome a round."""

AHEAD = 1.0  # standard errors that are taken off a gain over random
LEAST_OF_CLASS = 10  # mean samples of a class that a training run needs to learn from
CONFIDENT = 0.5  # margin of the probabilities from which a sample counts
SURE_SHARE = 0.1  # of the samples, that models have to be confident of, to speak of wrong labels
LEAST_SURE = 20  # and so many
LEAST_OF_ROW = 20  # samples taken for a class, to speak of where its labels go
ONE_WAY = 0.5  # labels of one other class, as a share of those of its own, from which they go one way


@dataclass(frozen=True)
class Difference:
    """A paired difference of accuracies, with what is known of its error."""

    mean: float
    error: float
    """Standard error: of the training runs, or of the samples, whichever is larger."""
    low: float
    """Lower end of the 95 % interval."""
    high: float

    @classmethod
    def of(cls, own: Sequence[Outcome], other: Sequence[Outcome]) -> "Difference":
        """Accuracy of one candidate less that of another, on the rounds that both have."""
        pairs = list(zip(own, other, strict=False))
        by_run: Floats = np.concatenate([a.accuracy - b.accuracy for a, b in pairs])
        tries = sum((a.tries for a, _ in pairs), np.zeros(1))
        hits = sum((a.hits - b.hits for a, b in pairs), np.zeros(1))
        by_sample: Floats = hits[tries > 0] / tries[tries > 0]

        mean = float(by_run.mean())
        errors = [_error(by_run), _error(by_sample)]
        error = max(errors)
        half = float(student.ppf(0.975, max(len(by_run) - 1, 1))) * error
        return cls(mean, error, mean - half, mean + half)


def _error(values: Floats) -> float:
    return float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else math.inf


@dataclass(frozen=True)
class Row:
    """One candidate: a line of the table. Accuracies are shares of the held-out labels, in [0, 1]."""

    name: str
    ratio: float
    """Share of the data that was asked for."""
    accuracy: float
    over_random: Difference
    """Less random selection at the first ratio, pair by pair."""
    over_all: Difference
    """Less training on all data."""
    cost: float
    """Samples seen, as a share of all data in every epoch; a scoring pass counts as a third."""
    seconds: float
    """Of all its training runs."""
    runs: int
    """Training runs."""
    diverged: int
    settings: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments of `DataPlan`; none for all data."""


def make_rows(found: Outcomes, reference: Candidate) -> dict[Candidate, Row]:
    """A row for each candidate that was run.

    Args:
        found: all outcomes, those of the reference among them.
        reference: random selection.
    """
    all_data = next((candidate for candidate in found if candidate.is_all_data), reference)
    rows = {}
    for candidate, rounds in found.items():
        runs = np.concatenate([one.accuracy for one in rounds])
        rows[candidate] = Row(
            name=candidate.name,
            ratio=candidate.ratio,
            accuracy=float(runs.mean()),
            over_random=Difference.of(rounds, found[reference]),
            over_all=Difference.of(rounds, found[all_data]),
            cost=float(np.mean([one.cost for one in rounds])),
            seconds=sum(one.seconds for one in rounds),
            runs=len(runs),
            diverged=sum(one.diverged for one in rounds),
            settings=candidate.plan_settings,
        )
    return rows


def is_worth_it(candidate: Candidate, found: Outcomes, ahead: float = AHEAD) -> bool:
    """Whether a candidate is ahead of its simpler form, if it has one, by more than a standard error."""
    if candidate.simpler is None:
        return True
    over = Difference.of(found[candidate], found[candidate.simpler])
    return over.mean > ahead * over.error


def choose(rows: Sequence[Row], reference: Row, ahead: float = AHEAD) -> Row:
    """The row with the largest gain over random less its standard error; random where none is above 0.

    Candidates that left early have fewer training runs, and so larger errors; they need no rule of their own.

    Args:
        rows: candidates; those that diverged in a training run are not chosen.
        reference: random selection.
        ahead: standard errors that are taken off the mean gain.
    """

    def surely(row: Row) -> float:
        return row.over_random.mean - ahead * row.over_random.error

    whole = [row for row in rows if not row.diverged]
    best = max(whole, key=surely, default=reference)
    return best if surely(best) > 0 else reference


@dataclass(frozen=True)
class LabelNoise:
    """What models say of labels that they were not trained on."""

    rate: float | None
    """Estimated share of wrong labels; None where the models are confident of too few samples."""
    confusion: Tensor
    """(C, C) of the samples that are taken for class j, the share labelled i, at [j, i]; NaN in rows of fewer
    than `LEAST_OF_ROW` such samples."""

    @classmethod
    def of(cls, outcomes: Sequence[Outcome], labels: Tensor) -> "LabelNoise":
        """Read off the mean probabilities of a candidate's models.

        Args:
            outcomes: of one candidate, one a round.
            labels: (N,) as the user gave them.
        """
        total = torch.stack([one.probabilities for one in outcomes]).sum(0)
        tries = torch.from_numpy(sum((one.tries for one in outcomes), np.zeros(1)))
        seen = tries > 0
        mean = total / tries.clamp(min=1)[:, None]

        own = mean.gather(1, labels[:, None])[:, 0]
        other = mean.scatter(1, labels[:, None], -1.0).amax(1)
        rate = float(estimated_noise_rate(own - other, seen, CONFIDENT))

        top, classes = mean.topk(2, 1).values, mean.shape[1]
        sure = int((seen & (top[:, 0] - top[:, 1] > CONFIDENT)).sum())
        is_known = sure >= max(LEAST_SURE, SURE_SHARE * int(seen.sum()))

        pairs = mean.argmax(1)[seen] * classes + labels[seen]
        counts = torch.bincount(pairs, minlength=classes * classes).view(classes, classes).double()
        size = counts.sum(1, keepdim=True)
        confusion = torch.where(size >= LEAST_OF_ROW, counts / size, torch.nan)
        return cls(rate if is_known else None, confusion)

    def one_way(self) -> tuple[int, int, float, float] | None:
        """The class whose labels most nearly go to one other class: (class, other, rate, own rate).

        None where no class has half as many labels of one other class as of its own, and more of it than of
        all further ones together (else the models are weak), or where the other class has half as many of it
        (then they are hard to tell apart, or wrong both ways alike).
        """
        found = self.confusion.nan_to_num(0.0)
        own = found.diagonal()[:, None]
        off = found - torch.diag(found.diagonal())
        rest = found.sum(1, keepdim=True) - own - off
        is_one_way = (own > 0) & (off >= ONE_WAY * own) & (off > rest) & (off >= 2 * off.T)
        share = torch.where(is_one_way, off / own.clamp(min=1e-9), 0.0)
        if not bool(is_one_way.any()):
            return None
        row, column = divmod(int(share.argmax()), len(own))
        return row, column, float(off[row, column]), float(own[row, 0])


def too_little(size: int, total: int, classes: int, folds: int) -> str:
    """Why a subset is too small to tell of the whole; "" where it is not, or where it is the whole.

    What helps where a class has a few samples need not help where it has many. Of the whole, however small,
    the intervals say what they tell.

    Args:
        size: samples that are rehearsed on.
        total: samples that there are.
        classes: that occur.
        folds: parts, one of which each training run does not see.
    """
    own = size * (1 - 1 / folds) / max(classes, 1)
    if size == total or own >= LEAST_OF_CLASS:
        return ""
    return (
        f"a training run sees {own:.0f} samples of a class on the mean, of {total / max(classes, 1):.0f} "
        f"that there are; at least {LEAST_OF_CLASS} are needed to speak of the whole"
    )
