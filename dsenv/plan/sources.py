"""Where the samples of a plan come from."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from dsenv.plan.arrays import ArrayPair, in_memory, read_ahead
from dsenv.plan.batch import split_sample, to_device

READ = 1024  # samples read at a time, where nobody says otherwise


@dataclass(frozen=True)
class Source:
    """A map-style data set, and its tensors where it is made of them."""

    dataset: Any
    """Has `__len__` and `__getitem__`."""
    tensors: tuple[Tensor, ...]
    """(inputs, labels) on the device, or nothing. Of an `ArrayPair` the labels alone."""
    device: torch.device
    """Where batches are to live."""
    classes: int | None
    """Number of classes, where labels or data set tell."""

    @property
    def gathers(self) -> bool:
        """Whether batches are made here, without a DataLoader."""
        return bool(self.tensors)

    def gathered(self, indices: Sequence[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """Inputs and labels of batches at the positions (B,), where the source `gathers`."""
        labels = self.tensors[-1]
        if isinstance(self.dataset, ArrayPair):
            inputs = read_ahead(self.dataset, indices, self.device)
            return ((found, labels[index]) for index, found in zip(indices, inputs, strict=True))
        return ((self.tensors[0][index], labels[index]) for index in indices)

    def batches(
        self, transform: Callable[[Any], Any] | None = None, batch_size: int = READ, **loader: Any
    ) -> Iterator[tuple[Any, Tensor]]:
        """All samples in order, as (inputs, labels) on the device.

        Args:
            transform: applied to each batch of inputs.
            batch_size: samples read at a time.
            loader: further arguments of the DataLoader, where there are no tensors.

        Raises:
            ValueError: the samples have no labels.
        """
        for inputs, labels in self._raw(batch_size, loader):
            yield (inputs if transform is None else transform(inputs)), labels

    def _raw(self, batch_size: int, settings: Mapping[str, Any]) -> Iterator[tuple[Any, Tensor]]:
        if isinstance(self.dataset, ArrayPair):
            return self.gathered(torch.split(torch.arange(len(self.dataset), device=self.device), batch_size))
        if self.tensors:
            return zip(*(torch.split(tensor, batch_size) for tensor in self.tensors), strict=True)
        # A generator of its own: torch's loader would draw from the global stream.
        loader = DataLoader(self.dataset, batch_size, generator=torch.Generator(), **settings)
        return (_labelled(to_device(sample, self.device)) for sample in loader)


def open_source(data: Any, device: torch.device | str | None) -> Source:
    """Look at what a user calls data.

    Args:
        data: (inputs, labels) as tensors or NumPy arrays, a `TensorDataset` of two tensors, or a map-style
            data set.
        device: where batches are to live; None for that of the tensors, or the CPU.

    Raises:
        ValueError: it is none of these, or inputs and labels differ in number.
    """
    pair = data.tensors if isinstance(data, TensorDataset) else data
    is_pair = isinstance(pair, tuple | list) and len(pair) == 2
    if is_pair and isinstance(pair[0], Tensor) and isinstance(pair[1], np.ndarray):
        pair = (pair[0], in_memory(pair[1]))
    if is_pair and isinstance(pair[0], np.ndarray):
        arrays = ArrayPair(*pair)
        target = torch.device(device or "cpu")
        labels = arrays.labels.to(target)
        return Source(arrays, (labels,), target, _classes_of(labels))
    if is_pair and all(isinstance(part, Tensor) for part in pair):
        if len(pair[0]) != len(pair[1]):
            raise ValueError(f"data has {len(pair[0])} inputs and {len(pair[1])} labels")
        target = torch.device(device or pair[0].device)
        tensors = tuple(part.to(target) for part in pair)
        return Source(TensorDataset(*tensors), tensors, target, _classes_of(tensors[1]))
    if not hasattr(data, "__getitem__") or not hasattr(data, "__len__") or isinstance(data, tuple):
        raise ValueError(
            "data must be a pair (inputs, labels) of tensors or arrays, or a map-style data set with __len__ "
            f"and __getitem__, got {type(data).__name__}; a stream has no samples to choose from"
        )
    names = getattr(data, "classes", None)
    classes = len(names) if isinstance(names, list | tuple) else None
    return Source(data, (), torch.device(device or "cpu"), classes)


def _classes_of(labels: Tensor) -> int | None:
    """Number of classes of int64 labels (N,), at least 2; None where they are no classes."""
    if labels.dtype != torch.int64 or labels.dim() != 1 or len(labels) == 0 or int(labels.min()) < 0:
        return None
    return max(2, int(labels.max()) + 1)


def _labelled(sample: Any) -> tuple[Any, Tensor]:
    inputs, labels = split_sample(sample)
    if not isinstance(labels, Tensor):
        raise ValueError("a pass over the data needs samples with labels: pairs (input, label)")
    return inputs, labels
