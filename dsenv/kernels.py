"""Tensor operations whose obvious form is slow on one of the devices; the choice is made here alone.

Measured on one CPU thread (benchmarks/kernels.py): torch's log-softmax over ten classes as the last
dimension takes ten times as long as over the first, and torch's sort of float rows takes 35 times as long
as NumPy's vectorised one, its argsort 6 times.
"""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional


def log_softmax(logits: Tensor) -> Tensor:
    """Log-softmax over the last dimension of (..., C)."""
    if logits.device.type != "cpu" or logits.ndim < 2:
        return logits.log_softmax(-1)
    rows = logits.flatten(0, -2).t().contiguous()  # (C, M)
    return rows.log_softmax(0).t().view(logits.shape)


def cross_entropy(logits: Tensor, labels: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Cross-entropy of each sample, (B,), from logits (B, C) and labels (B,)."""
    if logits.device.type != "cpu":
        return functional.cross_entropy(logits, labels, reduction="none", label_smoothing=label_smoothing)
    rows = logits.t().contiguous()[None]  # (1, C, B)
    return functional.cross_entropy(rows, labels[None], reduction="none", label_smoothing=label_smoothing)[0]


def sort(values: Tensor) -> Tensor:
    """Values (..., N), each row in ascending order."""
    if values.device.type != "cpu":
        return values.sort(-1).values
    return torch.from_numpy(np.sort(values.detach().numpy(), axis=-1))


def argsort(values: Tensor, *, descending: bool = False) -> Tensor:
    """Positions (..., N) that put each row of values in order; equal values in any order."""
    keys = -values if descending else values
    if values.device.type != "cpu":
        return keys.argsort(-1)
    return torch.from_numpy(np.argsort(keys.detach().numpy(), axis=-1))
