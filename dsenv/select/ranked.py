"""Ranked: the hardest or the easiest samples by loss, entropy or margin, or by EL2N."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from dsenv.errors import check_count, pick
from dsenv.outputs import ModelOutputs
from dsenv.select.base import Selection
from dsenv.select.history import HistorySelector
from dsenv.select.ranking import check_choice, equally_weighted, need, top_by, unseen_first
from dsenv.signals import SampleSignals
from dsenv.states import check_state
from dsenv.task_kinds.classification import label_errors

HARDER = {"loss": 1, "loss_ema": 1, "entropy": 1, "margin": -1, "label_margin": -1}
"""What to rank by, and whether a large value (1) or a small one (-1) is hard."""
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


def prediction_margin(logits: Tensor) -> Tensor:
    """Largest probability minus the second largest (B,), in [0, 1], whatever the label; logits (B, C)."""
    largest, second = logits.float().softmax(1).topk(2, dim=1).values.unbind(1)
    return largest - second


class Ranked(HistorySelector):
    """Trains on the hardest samples by one number, or on the easiest.

    Hard is a large loss, a large entropy or a small margin. There are two margins. "margin" is that of the
    source, the largest probability minus the second largest: small where the model is unsure, whatever the
    label. "label_margin" is the probability of the label minus the largest other, as in AUM: smallest where
    the model is sure of another class, so that wrong labels come first. Unseen samples come first, in random
    order, so that the first 1 / ratio epochs sweep the data.

    Helps: hardest, on clean and redundant data late in training; easiest, with wrong labels.
    Does not help: hardest with wrong labels; either at small ratios, because a sample that is not
    chosen keeps its old score and a few samples are trained on over and over.

    Cost: one top-k a call, 9 to 17 bytes a sample while it chooses half; by "margin" one softmax a batch.
    State: none; by "margin" 8 bytes a sample.
    Source: for entropy and margin the uncertainty baselines of DeepCore (Guo et al., 2022, arXiv
    2204.08499); for the loss selective backprop (Jiang et al., 2019, arXiv 1910.00762).
    Differs: dynamic, with the numbers of this training run; DeepCore ranks once, with those of a proxy's
    run, and its code (at 74ec709) takes the least uncertain samples where classes are not balanced.
    Selective backprop draws samples with a probability that grows with the loss' rank, from fresh losses of
    each batch; here the last losses of all samples are ranked and nothing is drawn.

    Args:
        by: "loss", "loss_ema", "entropy", "margin" or "label_margin".
        keep: "hardest" or "easiest".
        size: N, used by "margin" alone; None to learn it at the first `select`.
    """

    fields = ("margin",)
    observes = False  # by "margin" alone

    def __init__(self, by: str = "loss", keep: str = "hardest", size: int | None = None) -> None:
        self.by = pick("signal to rank by", by, HARDER)
        self.keep = pick("end to keep", keep, KEEP)
        self.needs_logits = self.by in ("entropy", "margin", "label_margin")
        self.observes = self.by == "margin"
        self.reads = {"entropy": ("entropy",), "label_margin": ("margin",)}.get(self.by, ())
        super().__init__(size)

    def updated(self, old: Mapping[str, Tensor], visits: Tensor, batch: ModelOutputs) -> dict[str, Tensor]:
        """Last margin (B,) of the prediction."""
        del old, visits
        return {"margin": prediction_margin(need(batch, "logits", self))}

    def observe(self, batch: ModelOutputs) -> None:
        """Keep the margins of one training batch; the other numbers are signals."""
        if self.observes:
            super().observe(batch)

    def select(self, signals: SampleSignals, count: int, generator: torch.Generator) -> Selection:
        """Take the `count` samples at the kept end, each with weight 1."""
        count = check_choice(count, signals.size)
        if self.observes:
            kept, seen = self.history(signals)
            value = kept["margin"]
        else:
            value = signals.margin if self.by == "label_margin" else getattr(signals, self.by)
            seen = signals.seen

        return equally_weighted(ranked(HARDER[self.by] * value, seen, count, self.keep, generator))

    def state_dict(self) -> dict[str, Any]:
        """The margins of all samples, where it ranks by them; else nothing."""
        return super().state_dict() if self.observes else {}

    def state_like(self) -> dict[str, Any]:
        """How a state must look."""
        return super().state_like() if self.observes else {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`; errors as in the base class."""
        if self.observes:
            super().load_state_dict(state)
        else:
            check_state(type(self).__name__, state, {})


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
    reads = ("error",)

    def __init__(self, keep: str = "hardest", visits: int = 10, size: int | None = None) -> None:
        self.keep = pick("end to keep", keep, KEEP)
        self.visits = check_count("visits", visits)
        super().__init__(size)

    def updated(self, old: Mapping[str, Tensor], visits: Tensor, batch: ModelOutputs) -> dict[str, Tensor]:
        """Mean score (B,) with this batch, for samples still within their first visits."""
        if batch.readings is not None and "error" in batch.readings:
            now = batch.readings["error"]
        else:
            now = el2n(need(batch, "logits", self), batch.labels)
        mean = old["el2n"] + (now - old["el2n"]) / (visits + 1)
        return {"el2n": torch.where(visits < self.visits, mean, old["el2n"])}

    def select(self, signals: SampleSignals, count: int, generator: torch.Generator) -> Selection:
        """Take the `count` samples at the kept end, each with weight 1."""
        count = check_choice(count, signals.size)
        kept, seen = self.history(signals)
        return equally_weighted(ranked(kept["el2n"], seen, count, self.keep, generator))
