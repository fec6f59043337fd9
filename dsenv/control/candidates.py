"""What an agent is shown of each candidate sample: features free of scale, in [-1, 1]."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from dsenv.signals import SampleSignals

FEATURES = (
    "exists",
    "never trained on",
    "loss rank at its last visit",
    "loss-rank bin, of all samples",
    "loss, l / (l + log C)",
    "loss, standardised among the candidates, over 3",
    "mean loss over visits, l / (l + log C)",
    "loss change at its last visit, tanh(nats)",
    "confidence in the label",
    "margin of the label",
    "entropy / log C",
    "predicted as labelled",
    "times trained on, t / (t + 4)",
    "age of the last visit, share of the training",
    "forgetting events, f / (f + 2)",
    "deviation of the influence, tanh(nats)",
)


@dataclass(frozen=True)
class CandidateScores:
    """What the models say now about (K, M) candidates."""

    loss: Tensor
    """(K, M) nats."""
    outputs: dict[str, Tensor]
    """(K, M) each: confidence, entropy, margin, correct."""
    embedding: Tensor | None = None
    """(K, M, D) inputs of the last linear layer."""


@dataclass(frozen=True)
class Candidates:
    """The samples that K agents are shown."""

    index: Tensor
    """(K, M) int64; N is padding."""
    scores: CandidateScores | None = None
    """A fresh look at them; None for their values at the last visit."""


def squash(loss: Tensor, classes: int) -> Tensor:
    """Loss in nats to [0, 1): one half for a uniform guess."""
    loss = loss.clamp(0, 1e4)
    return loss / (loss + math.log(classes))


def describe(
    shown: Candidates, signals: SampleSignals, bins: Tensor, last_bin: int, interval: Tensor, intervals: int
) -> Tensor:
    """Features of the candidates, (K, M, F) in [-1, 1]; all 0 for padding. F is 16, or 16 + D.

    Args:
        shown: the candidates.
        signals: of K trainings.
        bins: (K, N) loss-rank bin of each sample.
        last_bin: number of the last bin.
        interval: (K,) intervals done.
        intervals: of the whole training.
    """
    index, classes = shown.index, signals.classes
    exists = (index < signals.size).float()
    of = {name: signals.gather(name, index) for name in signals.names}
    if shown.scores is not None:
        of |= {"loss": shown.scores.loss, **shown.scores.outputs}
    unseen = (of["times_trained"] == 0).float()
    known = exists if shown.scores is not None else exists * (1 - unseen)
    age = (interval[:, None] - 1 - of["last_step"]) / intervals
    times, forgotten = of["times_trained"].float(), of["forgetting_events"].float()
    columns = [
        exists,
        unseen,
        of["loss_rank"],
        bins.gather(1, index.clamp(max=signals.size - 1)) / last_bin,
        squash(of["loss"], classes),
        standardised(of["loss"], known) / 3,
        squash(of["loss_ema"], classes),
        of["loss_change"].tanh(),
        of["confidence"],
        of["margin"],
        of["entropy"],
        of["correct"],
        times / (times + 4),
        age * (1 - unseen),
        forgotten / (forgotten + 2),
        of["influence_variance"].sqrt().tanh(),
    ]
    features = torch.stack(columns, -1)
    if shown.scores is not None and shown.scores.embedding is not None:
        scaled = standardised(shown.scores.embedding.transpose(1, 2), exists[:, None]).transpose(1, 2)
        features = torch.cat([features, scaled / 3], -1)
    return features.nan_to_num(0.0).clamp(-1, 1) * exists[..., None]


def standardised(values: Tensor, known: Tensor) -> Tensor:
    """Values (..., M) with the mean of the known ones taken off, over their deviation; 0 for the others."""
    count = known.sum(-1, keepdim=True).clamp(min=1)
    mean = (values * known).sum(-1, keepdim=True) / count
    off = (values - mean) * known
    return off / ((off * off).sum(-1, keepdim=True) / count).sqrt().clamp(min=1e-6)
