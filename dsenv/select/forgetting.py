"""Forgetting: samples that changed most often from right to wrong."""

from typing import Any

import torch
from torch import Tensor

from dsenv.describe import describe
from dsenv.errors import shown
from dsenv.select.base import Selection, Selector
from dsenv.select.ranking import check_choice, equally_weighted, top_by
from dsenv.signals import SampleSignals


def forgetting_score(events: Tensor, correct: Tensor) -> Tensor:
    """Forgetting events (N,), +inf for samples that were never right.

    A sample that was ever right is right now or has a forgetting event, so the two are enough.

    Args:
        events: (N,) int, changes from right to wrong so far.
        correct: (N,) 1 where the last prediction was right, else 0.
    """
    never_right = (events == 0) & (correct == 0)
    return events.float().masked_fill(never_right, torch.inf)


class Forgetting(Selector):
    """Keeps the samples that are forgotten most often, and first those never learned.

    Ties, which are many, are broken at random. Unseen samples count as never learned.

    Helps: long runs on clean data, where many samples are never forgotten and can be left out. Does not
    help: wrong labels, which are seldom learned; the first epochs, where there are few events.

    Cost: one top-k a call, 10 bytes a sample while it chooses half. State: none.
    Source: Toneva et al., 2019, arXiv 1812.05159.
    Differs from DeepCore's code: a sample that was never learned counts as +inf, as in the paper, not
    as 0. By default the counts are those of this training run; the paper counts over one full run
    before the selection: give the signals of that run as `recorded`.

    Args:
        recorded: signals of an earlier full training run on the same samples, or None for this run.
    """

    def __init__(self, recorded: SampleSignals | None = None) -> None:
        if recorded is not None and (
            not isinstance(recorded, SampleSignals) or recorded.replicas is not None
        ):
            raise ValueError(
                f"recorded must be the SampleSignals (N,) of one training run or None, got {shown(recorded)}"
            )
        self.recorded = recorded
        self.needs_logits = recorded is None  # `correct` comes from them
        self.reads = ("correct",)

    def settings(self) -> dict[str, Any]:
        """The recorded events, by digest."""
        source = self.recorded
        return {"recorded": source and describe([source.forgetting_events, source.correct])}

    def select(self, signals: SampleSignals, count: int, generator: torch.Generator) -> Selection:
        """Take the `count` samples with most forgetting events, each with weight 1.

        Raises:
            ValueError: the recorded signals are of another number of samples.
        """
        count = check_choice(count, signals.size)
        source = signals if self.recorded is None else self.recorded
        if source.size != signals.size:
            raise ValueError(
                f"recorded signals hold {source.size} samples, the running ones {signals.size}; "
                "give those of a training run on the same training set"
            )

        score = forgetting_score(source.forgetting_events, source.correct).to(signals.device)
        return equally_weighted(top_by(score, count, generator))
