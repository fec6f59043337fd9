"""What training and evaluation of K replicas measure."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from dsenv import kernels
from dsenv.task_kinds.base import TaskKind
from dsenv.training.base import flat


@dataclass(frozen=True)
class Interval:
    """What one interval of training measured, on the device."""

    loss: Tensor
    """(K,) mean training loss in nats; NaN for a replica that trained on nothing."""
    accuracy: Tensor
    """(K,) share of the trained samples predicted as labelled; NaN as above. Of a kind of task that does not
    say what is correct, the mean of 1 / (1 + loss / loss of a guess)."""


@dataclass(frozen=True)
class Score:
    """Accuracy and mean log-likelihood on a split, for each replica."""

    accuracy: Tensor
    """(K,) in [0, 1]; for other kinds of task than classification their metric."""
    log_likelihood: Tensor
    """(K,) mean log probability of the label, in nats, <= 0; for other kinds the mean loss, below 0."""


class Totals:
    """Running sums over the batches of one interval, for each replica."""

    def __init__(self, replicas: int, device: torch.device) -> None:
        self.loss = torch.zeros(replicas, device=device)
        self.correct = torch.zeros_like(self.loss)
        self.count = torch.zeros_like(self.loss)

    def add(self, loss: Tensor, correct: Tensor, is_sample: Tensor, size: int) -> None:
        """Add (K, B) losses and hits, leaving out padding; `size` is N.

        The sum goes over at least N places, so that it rounds alike however many the other replicas have.
        """
        own = torch.where(is_sample, loss, torch.zeros_like(loss))
        self.loss += functional.pad(own, (0, max(size - own.shape[1], 0))).sum(1)
        self.correct += torch.where(is_sample, correct.float(), 0.0).sum(1)
        self.count += is_sample.sum(1)


def task_share(kind: TaskKind, loss: Tensor) -> Tensor:
    """How much better than a guess losses are, 1 / (1 + loss / loss of a guess): one half for a guess."""
    return kind.guess_loss / (kind.guess_loss + loss)


Predictions = Iterable[tuple[Tensor, Tensor]]
"""Outputs (K, B, ...) of all replicas and targets (K, B, ...), batch by batch."""


def score_classes(predictions: Predictions, replicas: int, size: int, device: torch.device) -> Score:
    """Accuracy and mean log-likelihood of logits (K, B, C), on a split of `size` samples."""
    correct = torch.zeros(replicas, device=device)
    likelihood = torch.zeros_like(correct)
    for logits, wanted in predictions:
        correct += (logits.argmax(-1) == wanted).sum(1)
        likelihood += kernels.log_softmax(logits).gather(2, wanted[..., None]).sum((1, 2))
    return Score(correct / size, likelihood / size)


def score_kind(predictions: Predictions, kind: TaskKind, replicas: int, size: int) -> Score:
    """The kind's metric, and its mean loss below 0, on a split of `size` samples."""
    sums, likelihood = [], []
    for outputs, targets in predictions:
        of_all = flat(2, outputs, targets)
        loss = kind.sample_loss(*of_all)
        counted = kind.statistics(of_all[0], of_all[1], loss)
        sums.append(counted.view(replicas, -1, counted.shape[-1]).sum(1))
        likelihood.append(-loss.view(replicas, -1).sum(1))
    metric = kind.metric(torch.stack(sums).sum(0)).float()
    return Score(metric, torch.stack(likelihood).sum(0) / size)
