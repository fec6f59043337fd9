"""InfoBatch: leave out a random part of the samples with low loss, weight the kept ones up."""

import math

import torch
from torch import Tensor

from dsenv import kernels
from dsenv.errors import check_count, check_number, check_share, pick
from dsenv.select.base import Selection, Selector
from dsenv.select.ranking import check_choice, random_order, top_by, unseen_first
from dsenv.signals import SampleSignals

SCORES = ("loss", "random")


def pruning_is_on(epoch: int, epochs: int, delta: float) -> bool:
    """Whether samples are left out in an epoch; where not, every sample is used.

    The published rule: an epoch is pruned while its number from 1 is at most `delta * epochs`. So the first
    floor(delta * epochs) epochs are pruned, and with `delta` below 1 at least the last one is not.

    Args:
        epoch: number of the epoch, from 0.
        epochs: of the whole training run, at least 1.
        delta: share of the training run in which samples are left out, [0, 1].

    Raises:
        ValueError: a number is out of range.
    """
    epoch, epochs = check_count("epoch", epoch, 0), check_count("epochs", epochs)
    delta = check_share("delta", delta, zero=True)
    is_tail = delta < 1 and epoch >= epochs - 1  # a product that is rounded up leaves no tail otherwise
    return epoch + 1 <= delta * epochs and not is_tail


def low_samples(score: Tensor, seen: Tensor) -> Tensor:
    """Which samples (N,) score below the mean of those seen; an unseen one never does.

    Args:
        score: (N,) last loss of each sample, in nats.
        seen: (N,) bool, the samples that have a loss.
    """
    mean = torch.where(seen, score, 0.0).sum() / seen.count_nonzero()  # NaN where nothing is seen
    return (score < mean).logical_and_(seen)


def infobatch_count(score: Tensor, seen: Tensor, keep: float) -> int:
    """How many samples InfoBatch uses by itself: all but a share 1 - `keep` of the low ones."""
    low = int(low_samples(score, seen).count_nonzero())
    return len(score) - low + (max(1, int(keep * low)) if low else 0)


def infobatch(
    score: Tensor, seen: Tensor, count: int, max_prune: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Choose exactly `count` samples so that the expected weighted sum is that over all samples.

    Of the L low samples, those below the mean, D = N - count are left out at random and the others
    weigh L / (L - D) = 1 / keep. Where more than `max_prune` of them would go, the threshold rises
    to the quantile at which exactly that share goes.

    Args:
        score: (N,) last loss of each sample, in nats.
        seen: (N,) bool, the samples that have a loss; the others are the last to become low.
        count: how many to choose, 1..N.
        max_prune: largest share of the low samples to leave out, in (0, 1).
        generator: draws which to leave out.

    Returns:
        index: (count,) int64, unshuffled; the kept low samples come first.
        weight: (count,) float32, 1 / keep for a kept low sample, else 1.
    """
    dropped = len(score) - count
    is_low = low_samples(score, seen)
    low = int(is_low.count_nonzero())

    # Too few low samples: raise the threshold
    if dropped > max_prune * low:
        low = min(math.ceil(dropped / max_prune), len(score))
        is_low.fill_(False)[top_by(-unseen_first(score, seen), low, generator)] = True

    kept = top_by(is_low.float(), low - dropped, generator)  # all of them tied
    weight = torch.ones(count, device=score.device)
    if dropped:
        weight[: len(kept)] = low / len(kept)
    return torch.cat([kept, kernels.positions(~is_low, len(score) - low)]), weight


def exchanged(score: Tensor, seen: Tensor, generator: torch.Generator) -> Tensor:
    """The scores (N,) of the samples seen, dealt out anew among these at random; the others keep theirs."""
    among = score[seen]
    return score.masked_scatter(seen, among[random_order(len(among), generator)])


class InfoBatch(Selector):
    """Leaves out a random part of the samples with low loss and weights the kept ones up.

    The expected gradient stays that of all samples: a low sample stays with probability keep and
    weighs 1 / keep. `select` honours the count it is given; `own_count(signals)` is the number that
    the published rule would use with `keep`, and selecting that many is the published method. Use
    every sample in the last part of a run, by `pruning_is_on(epoch, epochs, 0.875)`: 0.875 is the published
    share, and of 200 epochs the last 25 are full.

    Helps: clean data and long runs; published at lossless 30 to 50 % fewer samples. Does not help: wrong
    labels (they have high losses and always stay: at half of the data 23 to 25 % of what it chose among
    words with human labels was wrong, where 14 % are, and it was 0.9 points behind a random half with a
    linear model and level with it with MLPs; docs/benchmarks/rules.md, "Human label noise"), and small
    counts, where weights grow (published: worse from 60 % of the low samples left out).

    Unseen samples count as high and stay out of the mean; while nothing is seen the choice is
    uniform at random, with weights that keep the sum unbiased.

    With `scores="random"` the losses are dealt out anew among the samples before each choice: as many
    samples, of the same weights, and who is low is chance. It is the reference that says what the losses are
    worth; on digits and Fashion-MNIST (5 seeds) they were worth nothing that could be measured: +0.16 +- 0.48
    and +0.05 +- 0.11 points at 70 % of the data (docs/benchmarks/rules.md, "The loss of a batch").

    Cost: a mean and a top-k a call, two where the threshold rises; 12 bytes a sample while it chooses half,
    some 20 more with random scores. State: none.
    Source: Qin et al., 2024, arXiv 2303.04947; the exact count is our own, for volume schedules.
    Differs from the published code (at 8bbb012): exact count; weights are L / kept rather than 1 / keep,
    equal where keep * L is whole and unbiased where it is not; at least one low sample stays; unseen
    samples have no made-up score (there 3); every weight is 1 in the full-data tail, where the code keeps
    the last weights if delta * epochs is not whole; own generator instead of NumPy's global one.

    Args:
        keep: share of the low samples that `own_count` keeps, in (0, 1].
        max_prune: largest share of the low samples to leave out before the threshold rises, (0, 1).
        scores: "loss", the last one of each sample, or "random", the same numbers in random places.
    """

    def __init__(self, keep: float = 0.5, max_prune: float = 0.9, scores: str = "loss") -> None:
        self.keep = check_share("keep", keep)
        self.max_prune = check_number("max_prune", max_prune, 0, 1, open_low=True, open_high=True)
        self.scores = pick("scores of InfoBatch", scores, SCORES)

    def own_count(self, signals: SampleSignals) -> int:
        """How many samples the published rule would use now; all before anything is seen."""
        return infobatch_count(signals.loss, signals.seen, self.keep)

    def select(self, signals: SampleSignals, count: int, generator: torch.Generator) -> Selection:
        """Choose `count` samples with weights whose expected sum is that over all samples."""
        count = check_choice(count, signals.size)
        score, seen = signals.loss, signals.seen
        if self.scores == "random":
            score = exchanged(score, seen, generator)
        return Selection(*infobatch(score, seen, count, self.max_prune, generator))
