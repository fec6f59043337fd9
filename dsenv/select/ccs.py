"""CCS: equally many samples from each stratum of difficulty, without the hardest."""

import torch
from torch import Tensor

from dsenv.errors import check_count, check_number
from dsenv.outputs import ModelOutputs
from dsenv.select.ranking import StaticSelector, need, order_by

MOST_STRATA = 1_000_000


def probability_margin(logits: Tensor, labels: Tensor) -> Tensor:
    """Probability of the label minus the largest other (B,), in [-1, 1]; logits (B, C), labels (B,)."""
    probability = logits.float().softmax(1)
    given = probability.gather(1, labels[:, None]).squeeze(1)
    return given - probability.scatter(1, labels[:, None], -1.0).amax(1)


def strata_of(score: Tensor, strata: int) -> Tensor:
    """Stratum (N,) int64 in 0..strata-1 of each score (N,), by equal widths from least to greatest."""
    low, high = score.min(), score.max()
    scaled = (score - low) / (high - low).clamp(min=torch.finfo(score.dtype).tiny)
    return (scaled * strata).long().clamp_(max=strata - 1)


def ccs_order(aum: Tensor, beta: float, strata: int, generator: torch.Generator) -> Tensor:
    """Ranking (N,) in which every prefix has equally many samples of each stratum that is not used up.

    Each round takes one random sample from every stratum that still has one, so the others share the
    budget that a small stratum cannot use. An incomplete last round takes from the largest strata, as
    published.

    Args:
        aum: (N,) area under the margin, small for hard samples.
        beta: share of hardest samples, in [0, 1); they come last, the least hard of them first.
        strata: number of equally wide strata of the others.
        generator: draws within strata and breaks ties.
    """
    rising = order_by(-aum, generator)  # hardest first
    hard = int(beta * len(aum))

    # Strata of all but the hardest
    pool = rising[hard:]  # (P,)
    stratum = strata_of(aum[pool], strata)
    sizes = stratum.bincount(minlength=strata)

    # Place of each sample: all earlier rounds first, then the largest strata of its own round
    by_stratum = order_by(-stratum.float(), generator)  # at random within each
    turn = torch.arange(len(pool), device=aum.device) - (sizes.cumsum(0) - sizes)[stratum[by_stratum]]
    largest_first = sizes.argsort(descending=True, stable=True).argsort()
    open_strata = strata - sizes.bincount(minlength=len(pool) + 1).cumsum(0)[:-1]  # of each turn
    place = (open_strata.cumsum(0) - open_strata)[turn] + largest_first[stratum[by_stratum]]
    round_robin = torch.empty_like(pool)
    round_robin[place] = pool[by_stratum]

    return torch.cat([round_robin, rising[:hard].flip(0)])


class CCS(StaticSelector):
    """Keeps equally many samples of every level of difficulty, and leaves out the very hardest.

    Difficulty is the area under the margin (AUM): the mean over passes of the probability of the
    label minus the largest other. Call `prepare` after each epoch of a full proxy training run to
    get the published score; one call gives the margin of one model. Signals are not used, so unseen
    samples are treated like all others.

    Helps: small ratios, at which ranked coresets lose to random; wrong labels, which are the hardest
    and are left out first. Does not help: much at high ratios.

    Cost: O(N C) a pass and two sorts. State: 16 bytes a sample. Needs logits.
    Source: Zheng et al., 2023, arXiv 2210.15809.
    Differs from the published code: mean instead of sum over epochs, which changes no choice; the
    dropped samples come last instead of never, so that any count is possible; the strata end exactly
    at the greatest score instead of at 1.0001 times it, which is wrong for negative ones.

    Args:
        beta: share of hardest samples to leave out, in [0, 1); 0.3 is published for a ratio of 0.1,
            tune it for others.
        strata: number of strata, at least 1.
    """

    needs_logits = True
    score_dtype = torch.float32
    averages_passes = True

    def __init__(self, beta: float = 0.3, strata: int = 50) -> None:
        self.beta = check_number("beta", beta, 0, 1, open_high=True)
        self.strata = check_count("strata", strata, most=MOST_STRATA)
        super().__init__()

    def score_pass(self, train: ModelOutputs, validation: ModelOutputs | None) -> Tensor:
        """Margin (N,) of each sample."""
        del validation
        return probability_margin(need(train, "logits", self), train.labels)

    def rank(self, score: Tensor, generator: torch.Generator) -> Tensor:
        """Ranking (N,) that goes round the strata of the scores (N,)."""
        return ccs_order(score, self.beta, self.strata, generator)
