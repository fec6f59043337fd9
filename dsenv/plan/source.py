"""Where the samples of a plan come from, looked at once: what they are, how many, of which classes."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from dsenv.describe import describe
from dsenv.errors import check_count, shown
from dsenv.plan.collate import IndexedCollate
from dsenv.plan.data import ArrayPair, IndexedDataset, in_memory, read_ahead, split_sample, to_device

OWNED = ("sampler", "batch_sampler", "shuffle", "drop_last", "dataset", "generator")  # of a pass's loader
LABEL_ATTRIBUTES = ("targets", "labels")  # of data sets
IGNORED = -100  # label that torch's losses leave out
READ = 1024  # samples read at a time by default


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

    def facts(self) -> tuple[int, torch.device, int | None]:
        """Number of samples, device and number of classes."""
        return len(self.dataset), self.device, self.classes

    @cached_property
    def fingerprint(self) -> dict[str, Any]:
        """What tells these data from others, as plain data: how many samples, and a digest of their labels.

        The labels of a data set are those of its attribute `targets` or `labels`, where it has one.
        """
        labels = self.tensors[-1] if self.tensors else _labels_of(self.dataset)
        return {"samples": len(self.dataset), "labels": describe(labels)}

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
    ) -> Iterator[tuple[Tensor, Any, Tensor]]:
        """All samples, as (positions, inputs, labels) on the device.

        Args:
            transform: applied to each batch of inputs.
            batch_size: samples read at a time.
            loader: further arguments of the DataLoader, where there are no tensors; `indexed` as for
                `DataPlan.loader`.

        Raises:
            ValueError: the samples have no labels.
        """
        for index, inputs, labels in self._raw(check_count("batch_size", batch_size), loader):
            yield index, inputs if transform is None else transform(inputs), labels

    def _raw(self, batch_size: int, settings: Mapping[str, Any]) -> Iterator[tuple[Tensor, Any, Tensor]]:
        indices = torch.split(torch.arange(len(self.dataset), device=self.device), batch_size)
        if isinstance(self.dataset, ArrayPair):
            return ((index, *pair) for index, pair in zip(indices, self.gathered(indices), strict=True))
        if self.tensors:
            return zip(indices, *(torch.split(tensor, batch_size) for tensor in self.tensors), strict=True)

        for name in (name for name in OWNED if name in settings):
            raise ValueError(f"a pass over the data decides {name}; leave it out")
        rest = {name: value for name, value in settings.items() if name not in ("collate_fn", "indexed")}
        collate = IndexedCollate(settings.get("collate_fn"), indexed=settings.get("indexed", False))
        # A generator of its own: torch's loader would draw from the global stream.
        loader = DataLoader(
            IndexedDataset(self.dataset), batch_size, collate_fn=collate, generator=torch.Generator(), **rest
        )
        return ((index, *_labelled(to_device(sample, self.device))) for index, sample in loader)


def open_source(data: Any, device: torch.device | str | None, classes: int | None = None) -> Source:
    """The source behind what a user gives as data.

    Args:
        data: (inputs, labels) as tensors or NumPy arrays, a `TensorDataset` of two tensors, or a map-style
            data set.
        device: where batches are to live; None for that of the tensors, or the CPU.
        classes: C as the user said it; None to read it off the labels, or the data set's `classes`.

    Raises:
        ValueError: it is none of these, is empty, inputs and labels differ in number, or a label is no class.
    """
    pair = data.tensors if isinstance(data, TensorDataset) else data
    is_pair = isinstance(pair, tuple | list) and len(pair) == 2
    inputs, labels = pair if is_pair else (None, None)

    # Arrays stay where they are, tensors go to the device
    if isinstance(inputs, np.ndarray | Tensor) and isinstance(labels, np.ndarray | Tensor | list | tuple):
        labels = labels if isinstance(labels, Tensor) else in_memory(labels)
        _check_pair(inputs, labels)
        target = _device_of(device, inputs.device if isinstance(inputs, Tensor) else "cpu")
        labels = labels.to(target)
        known = classes_of(labels, classes)
        if isinstance(inputs, np.ndarray):
            return Source(ArrayPair(inputs, labels.cpu()), (labels,), target, known)
        inputs = inputs.to(target)
        return Source(TensorDataset(inputs, labels), (inputs, labels), target, known)

    # Any map-style data set
    _check_map_style(data)
    names = getattr(data, "classes", None)
    known = len(names) if isinstance(names, list | tuple) and len(names) > 1 else None
    return Source(data, (), _device_of(device, "cpu"), known if classes is None else classes)


def _check_pair(inputs: NDArray[Any] | Tensor, labels: Tensor) -> None:
    if not inputs.ndim or not labels.ndim or len(inputs) != len(labels):
        found = f"{_number(inputs)} inputs and {_number(labels)} labels"
        raise ValueError(f"data has {found}: it needs as many labels as inputs, along the first axis")
    if not len(inputs):
        raise ValueError("data is empty: there is nothing to train on")


def _number(values: NDArray[Any] | Tensor) -> str:
    return str(len(values)) if values.ndim else "a single number as"


def _device_of(device: torch.device | str | None, usual: torch.device | str) -> torch.device:
    """The device that was named, else `usual`.

    Raises:
        ValueError: there is no such device.
    """
    try:
        found = torch.device(usual if device is None else device)
        if found.type == "meta":
            raise RuntimeError("it holds no values")
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError, TypeError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(
            f"device {device!r} cannot be used ({reason}); leave it out, or give 'cpu'"
        ) from error
    return found


def _check_map_style(data: Any) -> None:
    """Check that data are samples by position.

    Raises:
        ValueError: they are a stream, columns, a table, text, or empty.
    """
    kind = type(data)
    hint = ""
    if isinstance(data, IterableDataset) or not (hasattr(data, "__getitem__") and hasattr(data, "__len__")):
        hint = "a stream has no samples to choose from"
    elif kind.__getitem__ is Dataset.__getitem__:
        hint = f"{kind.__name__} defines no __getitem__"
    elif isinstance(data, Mapping) or hasattr(data, "keys"):
        hint = f"columns by name are no samples; pass one split, or (inputs, labels); it has {_keys(data)}"
    elif hasattr(data, "iloc") or (hasattr(data, "columns") and hasattr(data, "dtypes")):
        hint = "of a table pass a pair of arrays, (frame[columns].to_numpy(), frame[label].to_numpy())"
    elif isinstance(data, tuple | str | bytes) or kind.__module__ == "numpy":
        hint = "of arrays pass a pair, of samples a list or a Dataset"
    elif isinstance(data, list) and len(data) == 2 and _looks_like_columns(data):
        hint = "two lists of one length look like inputs and labels; make them arrays, or tensors"
    if hint:
        raise ValueError(
            "data must be a pair (inputs, labels) of tensors or arrays, or a map-style data set with __len__ "
            f"and __getitem__ for positions 0..N-1, got {kind.__name__}: {hint}"
        )

    try:
        size = len(data)
    except (TypeError, NotImplementedError) as error:
        raise ValueError(f"{kind.__name__} has no length ({error}); a plan needs to know N") from error
    if size < 1:
        raise ValueError(f"{kind.__name__} is empty: there is nothing to train on")


def _looks_like_columns(pair: list[Any]) -> bool:
    are_lists = all(isinstance(column, list | tuple) for column in pair)
    return are_lists and len(pair[0]) == len(pair[1]) > 2


def _keys(data: Any) -> str:
    try:
        return shown(list(data.keys()))
    except Exception:  # noqa: BLE001  # of a class of the user's own
        return "keys"


def classes_of(labels: Tensor, given: int | None) -> int | None:
    """Number of classes, looked at once: as given, or read off labels (N,); None where they are no classes.

    Args:
        labels: int64 classes, or anything else.
        given: C; None where it was not said.

    Raises:
        ValueError: a label is not in 0..C-1; the message names it and its position.
    """
    if labels.dtype != torch.int64 or labels.dim() != 1 or not len(labels):
        return given

    low, high = (int(value) for value in labels.aminmax())
    most = high if given is None else given - 1
    if low == IGNORED or (given is not None and (low < 0 or high > most)):
        label = low if low < 0 else high
        position = int((labels == label).nonzero()[0])
        what = f"0 to {most}" if given is not None else "at least 0"
        advice = (
            "leave such samples out of the data" if label == IGNORED else "set DataPlan(classes=...) right"
        )
        raise ValueError(f"labels must be classes, {what}; got {label} at position {position}: {advice}")
    if low < 0:
        return given
    return max(2, high + 1) if given is None else given


def _labels_of(dataset: Any) -> Any:
    """All labels of a data set, where they are at hand; else None."""
    for name in LABEL_ATTRIBUTES:
        labels = getattr(dataset, name, None)
        if isinstance(labels, Tensor | np.ndarray | list | tuple) and len(labels) == len(dataset):
            return labels
    return None


def _labelled(sample: Any) -> tuple[Any, Tensor]:
    inputs, labels = split_sample(sample)
    if not isinstance(labels, Tensor):
        raise ValueError("a pass over the data needs samples with labels: pairs (input, label)")
    return inputs, labels
