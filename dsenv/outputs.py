"""ModelOutputs: the outputs of a model for some samples."""

from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True)
class ModelOutputs:
    """Outputs of a model for B samples: a training batch, or a pass over a whole split.

    With K replicas every tensor has a leading axis K, and the values of padding have no meaning;
    `of_replica` gives the plain form of one of them.
    """

    index: Tensor
    """(B,) int64 positions in the split."""
    labels: Tensor
    """(B,) int64 given labels."""
    loss: Tensor
    """(B,) unweighted loss of each sample, in nats."""
    logits: Tensor | None = None
    """(B, C) outputs."""
    features: Tensor | None = None
    """(B, D) inputs of the last linear layer."""
    is_finite: bool = field(default=False, kw_only=True)
    """Every value that somebody needs was looked at, and is finite."""

    def at(self, positions: Tensor) -> "ModelOutputs":
        """The outputs for the samples at `positions` (M,), which become samples 0..M-1."""
        rest = (None if tensor is None else tensor[positions] for tensor in (self.logits, self.features))
        index = torch.arange(len(positions), device=positions.device)
        return ModelOutputs(index, self.labels[positions], self.loss[positions], *rest)

    def of_replica(self, replica: int, size: int) -> "ModelOutputs":
        """The first `size` samples of one of K replicas."""
        tensors = (self.index, self.labels, self.loss, self.logits, self.features)
        return ModelOutputs(*(tensor if tensor is None else tensor[replica, :size] for tensor in tensors))  # type: ignore[arg-type]
