"""What speaks for or against a choice of samples: labels that the model contradicts, and a reserve."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

CONFIDENT = 0.5  # size of a margin of the probabilities that counts, as in `estimated_noise_rate`
MOST_TERMS = 50  # intervals that are kept
CLIP = 2.0  # nats: the log-likelihood of a label counts as no less than -CLIP


@dataclass(frozen=True)
class Contradicted:
    """How many labels of two groups of samples the model contradicts with confidence."""

    chosen: float
    """Share of the confident ones among the samples that the selector chose, [0, 1]."""
    safe: float
    """The same among the samples of the safe choice."""
    difference: float
    """Safe less chosen, compared class by class, [-1, 1]; above 0 speaks for the selector."""
    error: float
    """Standard error of the difference."""
    number: int
    """Confident samples in the smaller group."""


def contradicted(
    margin: Tensor, label: Tensor, is_chosen: Tensor, is_safe: Tensor, classes: int
) -> Contradicted:
    """Compare the labels of two groups of samples by what the model says of them.

    Classes are compared each with itself, weighted as by Mantel and Haenszel (1959), so that a choice of easy
    or rare classes counts for neither side.

    Args:
        margin: (N,) probability of the label less the largest other, [-1, 1].
        label: (N,) labels, 0..C-1, of the samples in the groups.
        is_chosen: (N,) bool, those of the selector.
        is_safe: (N,) bool, those of the safe choice.
        classes: C.
    """
    counts = []
    for group in (is_chosen, is_safe):
        sure = group & (margin.abs() > CONFIDENT)
        against = sure & (margin < 0)
        counts += [torch.bincount(label[rows].long(), minlength=classes).double() for rows in (sure, against)]
    chosen, chosen_wrong, safe, safe_wrong = counts

    both = chosen + safe
    weight = chosen * safe / both.clamp(min=1)
    gap = safe_wrong / safe.clamp(min=1) - chosen_wrong / chosen.clamp(min=1)
    pooled = (chosen_wrong + safe_wrong) / both.clamp(min=1)
    sums = (weight, weight * gap, weight * pooled, chosen, safe, chosen_wrong, safe_wrong)
    total, gap, pooled, *sizes = torch.stack([value.sum() for value in sums]).tolist()  # one wait

    number = int(min(sizes[:2]))
    if not total or not number:
        return Contradicted(0.0, 0.0, 0.0, 1.0, 0)
    rate = pooled / total
    error = math.sqrt(max(rate * (1 - rate), 0.01) * (1 / sizes[0] + 1 / sizes[1]))
    of_chosen, of_safe = (wrong / sure for wrong, sure in zip(sizes[2:], sizes[:2], strict=True))
    return Contradicted(of_chosen, of_safe, gap / total, error, number)


class Contrast:
    """Whether a reserve gains more in intervals with more of a choice than in those around them.

    Its log-likelihoods rise anyway while a model learns. So the change over an interval is compared with the
    mean of the changes over the intervals before and after it, sample by sample, and weighted by how much the
    share of the choice differed in the same way. What happens in a single interval may have another cause, a
    step of the learning rate for instance; so the sum over the intervals counts as far as it holds without
    any one of them, and without those that were compared with it.

    Args:
        size: R, samples of the reserve.
        device: where the tensors live.
        first: first interval that counts; in those before it models learn too fast to compare.
    """

    def __init__(self, size: int, device: torch.device, first: int = 3) -> None:
        self.first = first
        self.terms = torch.zeros(0, size, device=device)
        """(K, R) contrast of each sample in the last K intervals that count, in nats."""
        self.recent = torch.zeros(0, size, device=device)
        """(0..4, R) clipped log-likelihoods after the last intervals."""
        self.shares: list[float] = []
        """Shares of the choice in these intervals."""

    def add(self, score: Tensor, share: float, interval: int) -> None:
        """Take in an interval.

        Args:
            score: (R,) log-likelihood of each label after it, in nats.
            share: of the choice in it, [0, 1].
            interval: its number.
        """
        self.recent = torch.cat([self.recent, score.clamp(min=-CLIP)[None]])[-4:]
        self.shares = [*self.shares, share][-4:]
        if len(self.shares) < 4 or interval - 1 < self.first:
            return
        before, own, after = self.recent.diff(dim=0)
        differs = self.shares[2] - (self.shares[1] + self.shares[3]) / 2
        term = differs * (own - (before + after) / 2)
        self.terms = torch.cat([self.terms, term[None]])[-MOST_TERMS:]

    def forget_recent(self) -> None:
        """There is a gap: an interval after which the reserve was not looked at."""
        self.recent, self.shares = self.recent[:0], []

    def score(self) -> float:
        """Mean over its standard error, without the interval that says most; above 0 speaks for the choice.

        0 where there are fewer than 4 intervals, or where one of them alone decides the sign. A wait.
        """
        terms = self.terms.double()
        number = len(terms)
        if number < 4:
            return 0.0
        place = torch.arange(number, device=terms.device)
        is_far = ((place[:, None] - place).abs() > 1).double()
        sums = torch.cat([terms.sum(0, keepdim=True), is_far @ terms])
        deviation, mean = torch.std_mean(sums, 1)
        error = (deviation / math.sqrt(terms.shape[1])).clamp(min=1e-9)
        found: list[float] = (mean / error).tolist()
        low, high = min(found), max(found)
        return low if low > 0 else min(high, 0.0)
