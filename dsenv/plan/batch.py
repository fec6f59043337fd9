"""What a training loop gets: batches that carry the position and the weight of every sample."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset, default_collate

LABEL_KEYS = ("labels", "label", "target")  # of samples that are mappings


class Batch(NamedTuple):
    """One training batch."""

    inputs: Any
    """(B, ...) what the model gets."""
    labels: Any
    """(B,) int64 classes, or whatever the data set gives as target; None where it gives none."""
    index: Tensor  # type: ignore[assignment]  # hides tuple.index, which nobody needs here
    """(B,) int64 positions in the training set, each at most once an epoch."""
    weight: Tensor
    """(B,) float32 factor on the loss of each sample."""


class ViewBatch(NamedTuple):
    """One training batch with two more views of its samples, for controllers that compare losses."""

    inputs: Tensor
    """(B, ...) what the model trains on."""
    labels: Any
    """As in `Batch`."""
    index: Tensor  # type: ignore[assignment]
    """As in `Batch`."""
    weight: Tensor
    """As in `Batch`."""
    plain: Tensor
    """(B, ...) the samples without augmentation."""
    full: Tensor
    """(B, ...) the samples at full strength."""


class IndexedDataset(Dataset[tuple[int, Any]]):
    """A map-style data set that gives (position, sample) in place of the sample.

    Args:
        dataset: has `__len__` and `__getitem__`; its own `__getitems__` is used where it has one.
    """

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[int, Any]:
        return index, self.dataset[index]

    def __getitems__(self, indices: list[int]) -> list[tuple[int, Any]]:
        fetch = getattr(self.dataset, "__getitems__", None)
        samples = fetch(indices) if fetch else [self.dataset[index] for index in indices]
        return list(zip(indices, samples, strict=True))


class IndexedCollate:
    """Collates the samples as the user wants, and their positions into a tensor beside them.

    Args:
        collate: makes a batch of a list of samples; None for torch's default.
    """

    def __init__(self, collate: Callable[[list[Any]], Any] | None = None) -> None:
        self.collate = collate or default_collate

    def __call__(self, items: Sequence[tuple[int, Any]]) -> tuple[Tensor, Any]:
        indices, samples = zip(*items, strict=True)
        return default_collate(list(indices)), self.collate(list(samples))


def split_sample(sample: Any) -> tuple[Any, Any]:
    """Inputs and labels of a collated batch.

    A pair is (inputs, labels); a mapping stays whole and its labels are found by key; anything else is
    inputs alone.
    """
    if isinstance(sample, Mapping):
        return sample, next((sample[key] for key in LABEL_KEYS if key in sample), None)
    if isinstance(sample, list | tuple) and len(sample) == 2:
        return sample[0], sample[1]
    return sample, None


def to_device(value: Any, device: Any) -> Any:
    """Move the tensors in a batch; containers keep their type where it is a dict, list or tuple."""
    if isinstance(value, Tensor):
        # Not towards the CPU: there the values could be read before they have arrived.
        return value.to(device, non_blocking=torch.device(device).type != "cpu")
    if isinstance(value, Mapping):
        return {key: to_device(item, device) for key, item in value.items()}
    if isinstance(value, list | tuple) and not hasattr(value, "_fields"):
        return type(value)(to_device(item, device) for item in value)
    return value
