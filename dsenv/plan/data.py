"""Where the samples of a plan come from, and the batches that a training loop gets."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, TensorDataset, default_collate

LABEL_KEYS = ("labels", "label", "target")  # of samples that are mappings
READ = 1024  # samples read at a time by default


# Batches


class Batch(NamedTuple):
    """One training batch; it carries what tells it from any other, however many are fetched ahead."""

    inputs: Any
    """(B, ...) what the model gets."""
    labels: Any
    """(B,) int64 classes, or whatever the data set gives as target; None where it gives none."""
    index: Tensor  # type: ignore[assignment]  # hides tuple.index, which nobody needs here
    """(B,) int64 positions in the training set, each at most once an epoch."""
    weight: Tensor
    """(B,) float32 factor on the loss of each sample."""
    plan: int
    """Number of the plan that made it, unique in the process."""
    epoch: int
    """Epoch that it belongs to, from 0."""
    number: int
    """Its number in the epoch, from 0."""
    views: tuple[Any, ...] = ()
    """(B, ...) each: further views of the same samples, for controllers that compare them (`extra_views`)."""


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
    only inputs.
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


# Arrays that stay on disk, read batch by batch, ahead of the training loop


class ArrayPair(Dataset[tuple[Tensor, Tensor]]):
    """Inputs in an array and labels in memory, as a map-style data set.

    Args:
        inputs: (N, ...) array, as of `np.load(path, mmap_mode="r")`; read only where it is asked for.
        labels: (N,) array, list or tensor, held in memory; those of arrays and lists become int64 where
            they are whole numbers.

    Raises:
        ValueError: they differ in number, or torch has no such dtype.
    """

    def __init__(self, inputs: NDArray[Any], labels: NDArray[Any] | Sequence[Any] | Tensor) -> None:
        if len(inputs) != len(labels):
            raise ValueError(f"data has {len(inputs)} inputs and {len(labels)} labels")

        self.inputs = np.asarray(inputs)  # a plain view: np.memmap is slow to index
        self.labels = labels if isinstance(labels, Tensor) else in_memory(labels)
        try:
            torch.from_numpy(np.empty(0, self.inputs.dtype))
        except TypeError as error:
            raise ValueError(
                f"the inputs are {self.inputs.dtype}, which torch cannot hold; store them as uint8 or float32"
            ) from error

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return torch.from_numpy(np.array(self.inputs[index])), self.labels[index]

    def __getitems__(self, indices: list[int]) -> list[tuple[Tensor, Tensor]]:
        index = torch.tensor(indices)
        return list(zip(self.read(index), self.labels[index], strict=True))

    def read(self, index: Tensor) -> Tensor:
        """Inputs (B, ...) at the positions (B,), read in the order in which they lie on the disk."""
        ascending, order = index.sort()
        found = torch.from_numpy(self.inputs[ascending.numpy()])
        return found.index_select(0, order.argsort())


def in_memory(labels: NDArray[Any] | Sequence[Any]) -> Tensor:
    """A copy as a tensor; whole numbers as int64."""
    labels = np.asarray(labels)
    is_whole = np.issubdtype(labels.dtype, np.integer)
    return torch.from_numpy(np.array(labels, np.int64 if is_whole else None))


def read_ahead(pair: ArrayPair, indices: Iterable[Tensor], device: torch.device) -> Iterator[Tensor]:
    """Inputs of batches on the device; while one is trained on, a thread reads the next.

    Args:
        pair: where they are read from.
        indices: (B,) int64 positions of each batch, on the CPU: reading them must not wait for a GPU.
        device: where they are wanted. For a GPU they are pinned, and copied without waiting.
    """
    is_gpu = device.type == "cuda"

    def read(index: Tensor) -> Tensor:
        found = pair.read(index)
        return found.pin_memory() if is_gpu else found

    with ThreadPoolExecutor(1, thread_name_prefix="dsenv-read") as reader:
        coming = None
        for index in indices:
            ready, coming = coming, reader.submit(read, index)
            if ready is not None:
                yield ready.result().to(device, non_blocking=is_gpu)
        if coming is not None:
            yield coming.result().to(device, non_blocking=is_gpu)


# Sources


@dataclass(frozen=True)
class Source:
    """A map-style data set, and its tensors where it is made of them."""

    dataset: Any
    """Has `__len__` and `__getitem__`."""
    tensors: tuple[Tensor, ...]
    """(inputs, labels) on the device, or nothing. Of an `ArrayPair` only the labels."""
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
            whole = torch.cat(tuple(indices)).cpu()  # one wait for a GPU, not one a batch
            on_host = torch.split(whole, [len(index) for index in indices])
            inputs = read_ahead(self.dataset, on_host, self.device)
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
    """The source behind what a user gives as data.

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

    # Arrays stay where they are
    if is_pair and isinstance(pair[0], np.ndarray):
        arrays = ArrayPair(*pair)
        target = torch.device(device or "cpu")
        labels = arrays.labels.to(target)
        return Source(arrays, (labels,), target, _classes_of(labels))

    # Tensors go to the device
    if is_pair and all(isinstance(part, Tensor) for part in pair):
        if len(pair[0]) != len(pair[1]):
            raise ValueError(f"data has {len(pair[0])} inputs and {len(pair[1])} labels")
        target = torch.device(device or pair[0].device)
        tensors = tuple(part.to(target) for part in pair)
        return Source(TensorDataset(*tensors), tensors, target, _classes_of(tensors[1]))

    # Any map-style data set
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
