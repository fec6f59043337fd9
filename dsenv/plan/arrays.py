"""Samples that stay on disk: memory-mapped NumPy arrays, read batch by batch ahead of the training."""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset


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
        indices: (B,) int64 positions of each batch.
        device: where they are wanted. For a GPU they are pinned, and copied without waiting.
    """
    is_gpu = device.type == "cuda"

    def read(index: Tensor) -> Tensor:
        found = pair.read(index.cpu())
        return found.pin_memory() if is_gpu else found

    with ThreadPoolExecutor(1, thread_name_prefix="dsenv-read") as reader:
        coming = None
        for index in indices:
            ready, coming = coming, reader.submit(read, index)
            if ready is not None:
                yield ready.result().to(device, non_blocking=is_gpu)
        if coming is not None:
            yield coming.result().to(device, non_blocking=is_gpu)
