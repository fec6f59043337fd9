"""Sums over the batches of one interval."""

import torch
from torch import Tensor


class Totals:
    """Running sums over one interval, for each replica."""

    def __init__(self, replicas: int, device: torch.device) -> None:
        self.loss = torch.zeros(replicas, device=device)
        self.correct = torch.zeros_like(self.loss)
        self.count = torch.zeros_like(self.loss)

    def add(self, loss: Tensor, correct: Tensor, is_sample: Tensor) -> None:
        """Add (K, B) losses and hits, leaving out padding."""
        self.loss += torch.where(is_sample, loss, torch.zeros_like(loss)).sum(1)
        self.correct += (correct & is_sample).sum(1)
        self.count += is_sample.sum(1)
