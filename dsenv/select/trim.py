"""Trim: as many of the largest losses are left out as labels seem wrong; a random draw from the rest."""

import torch
from torch import Tensor

from dsenv import kernels
from dsenv.errors import check_number, check_share
from dsenv.select.base import Selection, Selector
from dsenv.select.ranking import check_choice, equally_weighted, random_order, top_by
from dsenv.signals import SampleSignals

PRIOR = 10  # confident samples that are taken to agree before any was seen
LEAST = 0.08
"""An estimated share of wrong labels below this one counts as none."""
VISITS = 1.5
"""Mean visits of a sample before any is left out."""


def estimated_noise_rate(margin: Tensor, seen: Tensor, confident: float = 0.5) -> Tensor:
    """Share of labels that look wrong, () or (K,) on the device, [0, 1).

    Of the samples on which the model is confident, for the label or for another class, the share on which it
    is so for another one. Samples that it cannot tell yet count for neither side, so that an early or weak
    model does not take its own errors for wrong labels.

    Args:
        margin: (N,) or (K, N) probability of the label less the largest other, [-1, 1], as of the last visit.
        seen: (N,) or (K, N) bool, the samples that were visited.
        confident: smallest size of a margin that counts, (0, 1).
    """
    sure = seen & (margin.abs() > confident)
    against = (sure & (margin < 0)).sum(-1)
    return against / (sure.sum(-1) + PRIOR)


def left_out(loss: Tensor, seen: Tensor, share: Tensor) -> Tensor:
    """Place of each sample among those left out, 0 for the smallest loss; -1 for samples that stay.

    Args:
        loss: (N,) or (K, N) in nats.
        seen: of the same shape, bool, the samples that have a loss; others are never left out.
        share: () or (K,) of the seen samples to leave out, >= 0.
    """
    number = (share * seen.sum(-1)).floor().clamp(max=loss.shape[-1]).long()[..., None]

    # Rank from the largest loss on, of the samples that have one
    order = kernels.argsort(torch.where(seen, loss, -torch.inf), descending=True, stable=True)
    place = torch.arange(order.shape[-1], device=order.device).expand_as(order)
    rank = torch.empty_like(order).scatter_(-1, order, place)
    return torch.where(seen & (rank < number), number - 1 - rank, -1)


def trimmed(loss: Tensor, seen: Tensor, count: int, share: Tensor, generator: torch.Generator) -> Tensor:
    """Positions (count,): a uniform draw from all but the largest losses.

    Args:
        loss: (N,) in nats.
        seen: (N,) bool, the samples that have a loss; others are never left out.
        count: how many to choose, 1..N.
        share: of the seen samples to leave out, a number on the device, [0, 1]. Where less is left than is to
            be chosen, the smallest losses of those left out come in.
        generator: draws.
    """
    place = left_out(loss, seen, share)
    drawn = 1 + random_order(len(loss), generator)
    return top_by(torch.where(place >= 0, -place, drawn).double(), count, generator)


class Trim(Selector):
    """Leaves out as many samples of large loss as labels seem wrong, and draws from the rest at random.

    The loss tells *which* labels are wrong, but a rule that keeps the smallest losses leaves out all that is
    hard, whatever is wrong. This one first asks *how many*: among the samples on which the model is
    confident (margin of the probabilities beyond 0.5), the share on which it is so against the label. Then
    the rest is drawn from uniformly, easy and hard alike. On clean data next to nothing is left out.

    Helps: wrong labels, without being told how many. On digits and four public tables, an MLP with two
    recipes, at half of the data, it gained 1.3 and 2.1 points on a random half at 20 and 40 % wrong
    labels, as much as with the true rate, and lost nothing on clean data (docs/benchmarks/rules.md, "trim",
    has the command).
    Does not help: clean data beyond a random subset; wrong labels that follow a rule which the model learns;
    a model that fits wrong labels within its first visits; human labels with recipes that end before they
    are known by heart: a random half was as good on words rated by people (-0.0 and +0.1 points, 10
    seeds), with the true rate too. Knowing which labels are wrong is worth a point there; where the model
    goes on, 4.3, and `trim` gained 2.5 (docs/benchmarks/rules.md, "Human label noise").

    Cost: one sort of N losses a call. State: none.
    Source: our own. Trimming the largest losses at a known rate is iterative trimmed loss minimisation
    (Shen and Sanghavi, ICML 2019, arXiv 1810.11874); counting confident disagreement is the idea of
    confident learning (Northcutt et al., 2021, arXiv 1911.00068).
    Differs: the rate is estimated anew in each epoch from the training forward, with one threshold for
    all classes, and the samples kept are a random subset of the asked size.

    Args:
        rate: share of wrong labels, [0, 1); None to estimate it.
        confident: margin of the probabilities from which a sample counts in the estimate, (0, 1).
        least: an estimated share below this one counts as none, [0, 1): models are confidently wrong about a
            few right labels too, and to leave these out costs accuracy on clean data.
        visits: mean visits of a sample before any is left out, >= 0.
    """

    needs_logits = True
    reads = ("margin",)

    def __init__(
        self, rate: float | None = None, confident: float = 0.5, least: float = LEAST, visits: float = VISITS
    ) -> None:
        self.rate = None if rate is None else check_number("rate", rate, 0, 1, open_high=True)
        self.confident = check_number("confident", confident, 0, 1, open_low=True, open_high=True)
        self.least = check_number("least", least, 0, 1, open_high=True)
        self.visits = check_number("visits", visits, 0)

    def select(self, signals: SampleSignals, count: int, generator: torch.Generator) -> Selection:
        """Draw `count` samples from those that are not left out, each with weight 1."""
        count, seen = check_choice(count, signals.size), signals.seen
        if self.rate is None:
            share = estimated_noise_rate(signals.margin, seen, self.confident)
            share = torch.where(share < self.least, 0.0, share)
        else:
            share = torch.tensor(self.rate, device=signals.device)

        is_young = signals.times_trained.sum() < self.visits * signals.size
        share = torch.where(is_young, 0.0, share)
        return equally_weighted(trimmed(signals.loss, seen, count, share, generator))


class TrimOracle(Trim):
    """Trim with the true share of wrong labels, which no training run of one's own knows: a reference.

    In an environment it is told the share of wrong labels of each episode's samples. It shows what an exact
    estimate would be worth to `Trim`.

    Args:
        noise_rate: share of wrong labels, [0, 1]; an environment gives it.
        visits: as for `Trim`.
    """

    def __init__(self, noise_rate: float, visits: float = 1.5) -> None:
        super().__init__(visits=visits)
        self.noise_rate = self.rate = check_share("noise_rate", noise_rate, zero=True)
