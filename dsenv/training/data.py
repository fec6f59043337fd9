"""Samples on the training device, gathered and normalised in batches."""

import torch
from torch import Tensor

from dsenv.tasks.dataset import Dataset, Split


def rows_of(values: Tensor, index: Tensor) -> Tensor:
    """Rows (..., *shape) of values (N, *shape) at the positions `index` (...); N is padding, any row."""
    rows = index.flatten().clamp(max=len(values) - 1)
    return values.index_select(0, rows).view(*index.shape, *values.shape[1:])


class ResidentSplit:
    """One split on the device, as uint8 where the data set is; row N is a zero sample for padding.

    Args:
        split: the samples.
        dataset: gives the normalisation.
        device: where they live.
    """

    def __init__(self, split: Split, dataset: Dataset, device: torch.device) -> None:
        self.size = len(split)
        self.images = torch.cat([split.images, torch.zeros_like(split.images[:1])]).to(device)
        self.labels = split.labels.to(device)
        """(N,) classes, or targets (N, ...) of other kinds of task."""
        self.is_bytes = split.images.dtype == torch.uint8

        shape = (-1, *[1] * (split.images.ndim - 2))
        self._scale = (1 / (255 * torch.tensor(dataset.std, device=device))).view(shape)
        self._shift = (
            -torch.tensor(dataset.mean, device=device) / torch.tensor(dataset.std, device=device)
        ).view(shape)

    def raw(self, index: Tensor) -> Tensor:
        """Samples (..., *sample_shape) at the positions `index` (...), as they are stored."""
        return self.images.index_select(0, index.flatten()).view(*index.shape, *self.images.shape[1:])

    def gather(self, index: Tensor) -> Tensor:
        """Normalised float32 samples (..., *sample_shape) at the positions `index` (...)."""
        return self.normalise(self.raw(index))

    def normalise(self, samples: Tensor) -> Tensor:
        """Samples (..., *sample_shape) as inputs of the model; floats are left as they are."""
        return torch.addcmul(self._shift, samples, self._scale) if self.is_bytes else samples
