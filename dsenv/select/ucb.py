"""UCB: samples with a high mean loss, or one that varies much."""

from collections.abc import Mapping

import torch
from torch import Tensor

from dsenv.errors import check_number, check_share
from dsenv.outputs import ModelOutputs
from dsenv.select.base import Selection
from dsenv.select.history import HistorySelector
from dsenv.select.ranking import check_choice, equally_weighted, top_by, unseen_first
from dsenv.signals import SampleSignals


def update_moments(
    mean: Tensor, variance: Tensor, first: Tensor, loss: Tensor, alpha: float
) -> tuple[Tensor, Tensor]:
    """Exponential mean and variance after one more loss.

    m <- (1 - alpha) m + alpha l and v <- (1 - alpha) v + alpha (l - m)^2 with m before its update;
    the first loss gives m = l, v = 0.

    Args:
        mean: (B,) means so far, in nats.
        variance: (B,) variances so far, in nats squared.
        first: (B,) bool, where there was no loss before.
        loss: (B,) the new losses, in nats.
        alpha: weight of the new loss, in (0, 1].
    """
    spread = torch.lerp(variance, (loss - mean).square(), alpha)
    centre = torch.lerp(mean, loss, alpha)
    return torch.where(first, loss, centre), spread.masked_fill(first, 0.0)


def ucb_score(mean: Tensor, variance: Tensor, seen: Tensor, c: float) -> Tensor:
    """Upper confidence bound (N,) of each sample's loss, m + c sqrt(v); +inf for unseen samples."""
    return unseen_first(mean + c * variance.sqrt(), seen)


class UCB(HistorySelector):
    """Trains on the samples with the largest upper confidence bound of their loss.

    Each sample is an arm of a bandit: its score is the running mean of its loss plus `c` standard
    deviations. Ties are broken at random. Unseen samples come first, in random order, so that the
    first 1 / ratio epochs sweep the data.

    Helps: clean data; CIFAR-100 with ResNet-18 at 30 / 50 / 70 %: 74.0 / 75.3 / 77.3, at 50 % equal
    to a fresh random subset. Does not help: wrong labels, which have the highest losses; a sample
    that is not chosen keeps its old score, so easy ones are rarely trained on.

    Cost: one top-k a call, 11 bytes a sample while it chooses half. State: 12 bytes a sample.
    Source: Raju et al., 2021, arXiv 2111.12621. Its formulas were not available to us: score and
    constants follow public re-implementations. No published code to differ from.

    Args:
        alpha: weight of the newest loss in mean and variance, in (0, 1].
        c: standard deviations added to the mean, >= 0.
        size: N; None to learn it at the first `select`.
    """

    fields = ("mean", "variance")

    def __init__(self, alpha: float = 0.8, c: float = 1.0, size: int | None = None) -> None:
        self.alpha = check_share("alpha", alpha)
        self.c = check_number("c", c, 0)
        super().__init__(size)

    def updated(self, old: Mapping[str, Tensor], visits: Tensor, batch: ModelOutputs) -> dict[str, Tensor]:
        """Mean and variance (B,) after the losses of the batch."""
        mean, variance = update_moments(
            old["mean"], old["variance"], visits == 0, batch.loss.detach().float(), self.alpha
        )
        return {"mean": mean, "variance": variance}

    def select(self, signals: SampleSignals, count: int, generator: torch.Generator) -> Selection:
        """Take the `count` samples with the largest bounds, each with weight 1."""
        count = check_choice(count, signals.size)
        kept, seen = self.history(signals)
        score = ucb_score(kept["mean"], kept["variance"], seen, self.c)
        return equally_weighted(top_by(score, count, generator))
