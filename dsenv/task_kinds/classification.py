"""Classification: one class a sample."""

import math
from typing import Any

import torch
from torch import Tensor

from dsenv import kernels
from dsenv.errors import check_count
from dsenv.task_kinds.base import READINGS, TaskKind, check_tensor, found

MOST_CLASSES = 1 << 20


class Classification(TaskKind):
    """One class a sample; outputs are logits (B, C), targets int64 (B,).

    Confidence is the probability of the label, entropy that of the prediction over log C, margin the
    probability of the label less the largest other (AUM, Pleiss et al., 2020), error the length of softmax
    minus one-hot (EL2N, Paul et al., 2021). The metric is the accuracy.

    Args:
        classes: C, at least 2.
        label_smoothing: share of the target spread over all classes by `sample_loss`, [0, 1).
    """

    name = "classification"
    gives = READINGS
    metric_name = "accuracy"

    def __init__(self, classes: int, label_smoothing: float = 0.0) -> None:
        self.classes = self.outputs = check_count("classes", classes, 2, MOST_CLASSES)
        self.label_smoothing = label_smoothing
        self.guess_loss = math.log(self.classes)
        self.guess_confidence = self.guess_metric = 1 / self.classes

    def sample_loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return kernels.cross_entropy(outputs, targets, self.label_smoothing)

    def read(self, outputs: Tensor, targets: Tensor, loss: Tensor) -> dict[str, Tensor]:
        del loss
        return {**read_outputs(outputs, targets), "error": label_errors(outputs, targets).norm(dim=1)}

    def statistics(self, outputs: Tensor, targets: Tensor, loss: Tensor) -> Tensor:
        del loss
        right = (outputs.argmax(-1) == targets).float()
        return torch.stack([right, torch.ones_like(right)], -1)

    def check_targets(self, what: str, targets: Any, size: int) -> None:
        check_tensor(what, targets, size)
        if targets.dim() != 1 or targets.dtype != torch.int64:
            raise ValueError(f"{what} must be int64 classes (N,), got {found(targets)}; use labels.long()")
        low, high = (int(value) for value in targets.aminmax())
        assert self.classes is not None
        if low < 0 or high >= self.classes:
            wrong = low if low < 0 else high
            row = int((targets == wrong).nonzero()[0])
            raise ValueError(
                f"{what} has the class {wrong} (first at sample {row}); allowed are 0 to {self.classes - 1}"
            )

    def check_outputs(self, outputs: Any, targets: Any) -> None:
        super().check_outputs(outputs, targets)
        if outputs.shape != (len(targets), self.classes):
            raise ValueError(
                f"outputs for classification must be logits ({len(targets)}, {self.classes}), got "
                f"{tuple(outputs.shape)}"
            )


def read_outputs(logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Signals from a model's outputs: confidence, entropy, margin and correct, as in `TaskKind`.

    Args:
        logits: (..., C).
        labels: (...) int64.
    """
    confidence, entropy, others = _probabilities(logits, labels)
    return _as_signals(confidence, entropy, others.amax(-1))


def read_outputs_and_rival(logits: Tensor, labels: Tensor) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """The same signals, and the most probable class other than the label.

    Returns:
        The signals, the class (...) int64 and its probability (...).
    """
    confidence, entropy, others = _probabilities(logits, labels)
    other, rival = others.max(-1)
    return _as_signals(confidence, entropy, other), rival, other


def label_errors(logits: Tensor, labels: Tensor) -> Tensor:
    """Gradient (B, C) of the cross-entropy by the logits (B, C): softmax minus the one-hot label."""
    error = logits.float().softmax(1)
    return error.scatter_add_(1, labels[:, None], error.new_full((len(labels), 1), -1.0))


def _probabilities(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Probability of the label (...), entropy (...), and the probabilities (..., C) with -1 at the label."""
    log_probability = kernels.log_softmax(logits.float())
    probability = log_probability.exp()
    entropy = -(probability * log_probability).sum(-1) / math.log(logits.shape[-1])
    confidence = probability.gather(-1, labels[..., None]).squeeze(-1)
    return confidence, entropy, probability.scatter_(-1, labels[..., None], -1.0)


def _as_signals(confidence: Tensor, entropy: Tensor, other: Tensor) -> dict[str, Tensor]:
    """The signals by name; `other` (...) is the largest probability of another class than the label."""
    return {
        "confidence": confidence,
        "entropy": entropy,
        "margin": confidence - other,
        "correct": (confidence > other).float(),
    }
