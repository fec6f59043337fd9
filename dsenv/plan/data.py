"""The batches that a training loop gets, and arrays that are read from disk batch by batch."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from dsenv.errors import shown
from dsenv.plan.collate import RawSamples

IGNORED = -100  # label that torch's losses leave out
LABEL_KEYS = ("labels", "label", "target")  # of samples that are mappings


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
    """Its number in the epoch, from 0: of the steps as they were planned."""
    views: tuple[Any, ...] = ()
    """(B, ...) each: further views of the same samples, for controllers that compare them (`extra_views`)."""
    view_labels: tuple[Any, ...] = ()
    """Targets of each further view, where they lie on the images and moved with them; () elsewhere."""


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


def split_sample(sample: Any) -> tuple[Any, Any]:
    """Inputs and labels of a collated batch.

    A pair is (inputs, labels); a mapping stays whole and its labels are found by key; anything else is
    only inputs.
    """
    if isinstance(sample, Mapping):
        return sample, next((sample[key] for key in LABEL_KEYS if key in sample), None)
    if isinstance(sample, list | tuple) and len(sample) == 2 and not isinstance(sample, RawSamples):
        return sample[0], sample[1]
    return sample, None


def row_lengths(sample: Any) -> Tensor | None:
    """Lengths (B,) of samples that lie in one row without padding; None where each has a row."""
    found = sample.get("lengths") if isinstance(sample, Mapping) else None
    return found if isinstance(found, Tensor) and found.dim() == 1 else None


def are_whole(labels: Tensor) -> bool:
    """Whether labels are whole numbers, of any size; flags are none."""
    return not labels.is_floating_point() and not labels.is_complex() and labels.dtype != torch.bool


def no_class(label: int, position: int, classes: int | None) -> str:
    """What is wrong with a label that is no class, and what to do."""
    allowed = "at least 0" if classes is None else f"0 to {classes - 1}"
    advice = "leave such samples out of the data" if label == IGNORED else "set DataPlan(classes=...) right"
    return f"labels must be classes, {allowed}; got {label} at position {position}: {advice}"


def check_index(index: Any, device: torch.device) -> None:
    """Check that positions are int64 (B,), on the CPU or on the plan's device.

    Raises:
        ValueError: they are not.
    """
    hint = "plan.dataset gives them beside each sample"
    if not isinstance(index, Tensor):
        raise ValueError(f"a batch needs int64 positions (B,) as a tensor, got {shown(index)}; {hint}")
    is_right = index.dtype == torch.int64 and index.dim() == 1 and index.layout == torch.strided
    if not is_right or not len(index):
        raise ValueError(
            f"a batch needs int64 positions of shape (B,), got {index.dtype} of shape {tuple(index.shape)} "
            f"({index.layout}); {hint}"
        )
    if index.device.type not in ("cpu", device.type):
        raise ValueError(f"the positions are on {index.device}, and the plan is on {device}; {hint}")


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
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"the inputs are {self.inputs.dtype}, which torch cannot hold; store them as uint8 or "
                "float32, in the byte order of this machine (array.astype(array.dtype.newbyteorder('=')))"
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
    """A copy as a tensor; whole numbers as int64.

    Raises:
        ValueError: they are no array of numbers.
    """
    if isinstance(labels, np.ma.MaskedArray):
        raise ValueError("labels are a masked array: leave the masked samples out of the data")
    try:
        found = np.asarray(labels)
        found = found.astype(found.dtype.newbyteorder("="), copy=False)
        is_whole = np.issubdtype(found.dtype, np.integer)
        return torch.from_numpy(np.array(found, np.int64 if is_whole else None))
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"labels must be an array of numbers, got {shown(labels)}: number classes 0..C-1, pad ragged ones"
        ) from error


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
