"""ModelOutputs: the outputs of a model for some samples."""

from collections.abc import Mapping
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
    """(B,) int64 given labels; -1 where the targets are no classes."""
    loss: Tensor
    """(B,) unweighted loss of each sample, in nats."""
    logits: Tensor | None = None
    """(B, C) outputs."""
    features: Tensor | None = None
    """(B, D) inputs of the last linear layer."""
    readings: Mapping[str, Tensor] | None = None
    """(B,) each, by name: what the kind of task reads of outputs that are no logits of classes."""
    is_finite: bool = field(default=False, kw_only=True)
    """Every value that somebody needs was looked at, and is finite."""

    def at(self, positions: Tensor) -> "ModelOutputs":
        """The outputs for the samples at `positions` (M,), which become samples 0..M-1."""
        index = torch.arange(len(positions), device=positions.device)
        return self.rows(positions, index)

    def of_replica(self, replica: int, size: int) -> "ModelOutputs":
        """The first `size` samples of one of K replicas."""
        where = (replica, slice(size))
        return self.rows(where)

    def rows(self, where: Tensor | tuple[int, slice], index: Tensor | None = None) -> "ModelOutputs":
        """The outputs of the samples at `where`; they get the positions `index` (M,), or keep their own."""
        readings = None
        if self.readings is not None:
            readings = {name: value[where] for name, value in self.readings.items()}
        return ModelOutputs(
            self.index[where] if index is None else index,
            self.labels[where],
            self.loss[where],
            None if self.logits is None else self.logits[where],
            None if self.features is None else self.features[where],
            readings,
        )


def of_classes(targets: Tensor, index: Tensor, logits: Tensor | None) -> Tensor:
    """Labels for `ModelOutputs` of samples at `index` (...): the targets where logits are of classes."""
    return torch.full_like(index, -1) if logits is None else targets
