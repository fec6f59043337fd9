"""Ranked: the hardest or the easiest samples by one signal (loss, entropy, margin) or by EL2N."""

from collections.abc import Mapping

import torch
from torch import Tensor

from dsenv.errors import pick
from dsenv.outputs import ModelOutputs
from dsenv.select.base import Selection, Selector
from dsenv.select.history import HistorySelector
from dsenv.select.ranking import check_count, equally_weighted, label_errors, need, top_by, unseen_first
from dsenv.signals import SampleSignals

HARDER = {"loss": 1, "loss_ema": 1, "entropy": 1, "margin": -1}  # -1 where a small value is hard
KEEP = ("hardest", "easiest")


def ranked(hardness: Tensor, seen: Tensor, count: int, keep: str, generator: torch.Generator) -> Tensor:
    """Positions (count,) of the hardest or easiest samples; unseen ones come first either way.

    Args:
        hardness: (N,) larger is harder; ties are broken at random.
        seen: (N,) bool, the samples whose hardness is known.
        count: how many to choose, 1..N.
        keep: "hardest" or "easiest".
        generator: breaks ties.
    """
    score = hardness if keep == "hardest" else -hardness
    return top_by(unseen_first(score, seen), count, generator)


def el2n(logits: Tensor, labels: Tensor) -> Tensor:
    """EL2N score (B,) in [0, sqrt 2]: length of softmax minus one-hot; logits (B, C), labels (B,)."""
    score: Tensor = label_errors(logits, labels).norm(dim=1)
    return score


class Ranked(Selector):
    """Trains on the hardest samples by one signal, or on the easiest.

    Hard is a large loss, a large entropy or a small margin. Unseen samples come first, in random
    order, so that the first 1 / ratio epochs sweep the data.

    Helps: hardest, on clean and redundant data late in training; easiest, with wrong labels.
    Does not help: hardest with wrong labels; either at small ratios, because a sample that is not
    chosen keeps its old score and a few samples are trained on over and over.

    Cost: one top-k a call, 9 to 17 bytes a sample while it chooses half. State: none.
    Source: the uncertainty baselines of DeepCore (Guo et al., 2022, arXiv 2204.08499), for the loss
    the order of selective backprop (Jiang et al., 2019, arXiv 1910.00762).
    Differs: dynamic, with the signals of this training run; DeepCore ranks once, with those of a proxy's run.

    Args:
        by: "loss", "loss_ema", "entropy" or "margin".
        keep: "hardest" or "easiest".
    """

    def __init__(self, by: str = "loss", keep: str = "hardest") -> None:
        self.by, self.keep = pick("signal to rank by", by, HARDER), pick("end to keep", keep, KEEP)
        self.needs_logits = by in ("entropy", "margin")

    def select(self, signals: SampleSignals, count: int, generator: torch.Generator) -> Selection:
        """Take the `count` samples at the kept end, each with weight 1."""
        check_count(count, signals.size)
        signal = getattr(signals, self.by)
        hardness = signal if HARDER[self.by] > 0 else -signal
        return equally_weighted(ranked(hardness, signals.seen, count, self.keep, generator))


class EL2N(HistorySelector):
    """Trains on the samples whose prediction is farthest from the label, judged early in training.

    The score is the mean length of softmax minus one-hot over a sample's first `visits` visits and
    stays as it is after them. Unseen samples come first, in random order.

    Helps: hardest, on clean data at high ratios. Does not help: wrong labels and small ratios, where
    the hardest samples alone lose to random ones (use keep="easiest", or CCS).

    Cost: one softmax a batch; one top-k a call, 9 to 17 bytes a sample while it chooses half. State: 8 bytes
    a sample. Needs the logits in `observe`.
    Source: Paul et al., 2021, arXiv 2107.07075.
    Differs: the paper averages the score at one early epoch over ten training runs; here it is averaged
    over the first visits of this run, as the code of CCS (arXiv 2210.15809) sums it.

    Args:
        keep: "hardest" or "easiest".
        visits: visits of a sample that its score is the mean of, at least 1.
        size: N; None to learn it at the first `select`.
    """

    fields = ("el2n",)
    needs_logits = True

    def __init__(self, keep: str = "hardest", visits: int = 10, size: int | None = None) -> None:
        if visits < 1:
            raise ValueError(f"visits must be at least 1, got {visits!r}")
        self.keep, self.visits = pick("end to keep", keep, KEEP), visits
        super().__init__(size)

    def updated(self, old: Mapping[str, Tensor], visits: Tensor, batch: ModelOutputs) -> dict[str, Tensor]:
        """Mean score (B,) with this batch, for samples still within their first visits."""
        now = el2n(need(batch, "logits", self), batch.labels)
        mean = old["el2n"] + (now - old["el2n"]) / (visits + 1)
        return {"el2n": torch.where(visits < self.visits, mean, old["el2n"])}

    def select(self, signals: SampleSignals, count: int, generator: torch.Generator) -> Selection:
        """Take the `count` samples at the kept end, each with weight 1."""
        check_count(count, signals.size)
        kept, seen = self.history(signals)
        return equally_weighted(ranked(kept["el2n"], seen, count, self.keep, generator))
