"""Several labels: each of L labels is there or not."""

import math
from typing import Any, Self

import torch
from torch import Tensor
from torch.nn import functional

from dsenv.errors import check_count
from dsenv.task_kinds.base import READINGS, TaskKind, binary_entropy, check_tensor, found


class MultiLabel(TaskKind):
    """Several labels a sample; outputs are logits (B, L), targets 0 or 1 (B, L), floating, integer or bool.

    The loss is the mean binary cross-entropy over the L labels, so that its scale does not depend on L.
    Confidence is exp(-loss), the geometric mean of the probabilities of what is labelled; entropy the mean of
    the L binary entropies over log 2; margin the probability of the labelled set of labels less that of the
    likeliest other set, labels taken as independent; correct that all L are right; error the length of
    sigmoid minus target over the root of L. These are our reading, by label or by set, of the definitions for
    one class. The metric is micro F1: over all labels of all samples, 2 TP / (2 TP + FP + FN).

    A mean over labels would not do as margin: a sample with the labels of another still has most of the
    absent ones right, so nothing would ever be far below 0.

    Args:
        labels: L, at least 1; None to read it off the targets.
    """

    name = "multilabel"
    gives = READINGS
    metric_name = "micro F1"
    guess_loss = math.log(2)

    def __init__(self, labels: int | None = None) -> None:
        self.labels = self.outputs = None if labels is None else check_count("labels", labels)

    def fitted(self, targets: Any) -> Self:
        return type(self)(targets.shape[1]) if self.labels is None and isinstance(targets, Tensor) else self

    def sample_loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        self.check_outputs(outputs, targets)
        if targets.device.type == "cpu":  # elsewhere it would be a wait
            self._check_values("the batch", targets)
        losses = functional.binary_cross_entropy_with_logits(
            outputs, targets.to(outputs.dtype), reduction="none"
        )
        return losses.mean(-1)

    def read(self, outputs: Tensor, targets: Tensor, loss: Tensor) -> dict[str, Tensor]:
        del loss  # of a loss function of one's own it would not be a likelihood
        probability, there = outputs.float().sigmoid(), targets.float()
        likelihood = torch.where(there > 0.5, outputs.float(), -outputs.float())  # logit of what is labelled
        return {
            "confidence": functional.logsigmoid(likelihood).mean(-1).exp(),
            "entropy": binary_entropy(probability).mean(-1),
            "margin": _margin(likelihood),
            "correct": (likelihood > 0).all(-1).float(),
            "error": (probability - there).square().mean(-1).sqrt(),
        }

    def statistics(self, outputs: Tensor, targets: Tensor, loss: Tensor) -> Tensor:
        del loss
        said, there = outputs > 0, targets > 0.5
        counts = [(said & there).sum(-1), (said & ~there).sum(-1), (~said & there).sum(-1)]
        return torch.stack(counts, -1).float()

    def metric(self, sums: Tensor) -> Tensor:
        hit, extra, missed = sums.unbind(-1)
        return 2 * hit / (2 * hit + extra + missed).clamp(min=1)

    def check_targets(self, what: str, targets: Any, size: int) -> None:
        check_tensor(what, targets, size)
        if targets.dim() != 2 or targets.is_complex():
            raise ValueError(
                f"{what} must be 0 or 1 for each sample and label (N, L), got {found(targets)}; of class "
                "numbers torch.nn.functional.one_hot makes them"
            )
        if self.labels not in (None, targets.shape[1]):
            raise ValueError(f"{what} have {targets.shape[1]} labels a sample, this task has {self.labels}")
        self._check_values(what, targets)

    def _check_values(self, what: str, targets: Tensor) -> None:
        """Check that targets (N, L) are 0 or 1."""
        wrong = (targets != 0) & (targets != 1)
        if bool(wrong.any()):
            row, label = (int(place) for place in wrong.nonzero()[0])
            raise ValueError(
                f"{what} must be 0 or 1, got {targets[row, label].item()} for sample {row}, label {label}"
            )

    def check_outputs(self, outputs: Any, targets: Any) -> None:
        super().check_outputs(outputs, targets)
        if not isinstance(targets, Tensor) or outputs.shape != targets.shape:
            raise ValueError(
                f"outputs for several labels must be logits of the shape of the targets, got outputs "
                f"{found(outputs)} and targets {found(targets)}"
            )
        if self.labels not in (None, targets.shape[-1]):
            raise ValueError(
                f"outputs and targets are {tuple(targets.shape)}, and this task has {self.labels} labels a "
                f"sample; kind={{'name': 'multilabel', 'labels': {targets.shape[-1]}}}"
            )


def _margin(likelihood: Tensor) -> Tensor:
    """Probability of the labelled set less that of the likeliest other one, (B,).

    Args:
        likelihood: (B, L) logit of what is labelled, for each label.
    """
    own = functional.logsigmoid(likelihood).sum(-1).exp()
    mode = functional.logsigmoid(likelihood.abs()).sum(-1).exp()
    second = mode * (-likelihood.abs().amin(-1)).exp()  # the least sure label the other way
    return own - torch.where((likelihood > 0).all(-1), second, mode)
