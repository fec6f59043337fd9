"""Where the samples of a plan come from, looked at once: what they are, how many, of which classes."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset

from dsenv.describe import describe
from dsenv.errors import check_count, shown
from dsenv.plan.collate import IndexedCollate
from dsenv.plan.data import (
    IGNORED,
    ArrayPair,
    IndexedDataset,
    are_whole,
    in_memory,
    no_class,
    read_ahead,
    split_sample,
    to_device,
)
from dsenv.task_kinds.base import TaskKind
from dsenv.task_kinds.classification import Classification
from dsenv.task_kinds.registry import KindChoice, make_kind

OWNED = ("sampler", "batch_sampler", "shuffle", "drop_last", "dataset", "generator")  # of a pass's loader
LABEL_ATTRIBUTES = ("targets", "labels")  # of data sets
MOST_CLASSES = 100_000  # int64 labels with larger numbers are no classes, unless samples are as many
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

    @property
    def labels(self) -> Any:
        """All labels, where they are at hand: of a data set its `targets` or `labels`; else None."""
        return self.tensors[-1] if self.tensors else _labels_of(self.dataset)

    def subset(self, index: Tensor) -> "Source":
        """The samples at the positions (M,), as a source of their own."""
        if len(self.tensors) == 2:
            tensors = tuple(tensor[index.to(tensor.device)] for tensor in self.tensors)
            return Source(TensorDataset(*tensors), tensors, self.device, self.classes)
        return Source(Subset(self.dataset, index.tolist()), (), self.device, self.classes)

    @cached_property
    def fingerprint(self) -> dict[str, Any]:
        """What tells these data from others, as plain data: how many, and a digest of their labels."""
        labels = self.labels
        if isinstance(labels, list | tuple):  # as an array they are quicker to digest
            labels = np.asarray(labels) if all(isinstance(label, int) for label in labels) else list(labels)
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


def open_source(
    data: Any, device: torch.device | str | None, classes: int | None = None, *, are_classes: bool = True
) -> Source:
    """The source behind what a user gives as data.

    Args:
        data: (inputs, labels) as tensors or NumPy arrays, a `TensorDataset` of two tensors, or a map-style
            data set.
        device: where batches are to live; None for that of the tensors, or the CPU.
        classes: C as the user said it; None to read it off the labels, or the data set's `classes`.
        are_classes: whether whole numbers as labels are classes.

    Raises:
        ValueError: it is none of these, is empty, inputs and labels differ in number, or a label is no class.
    """
    pair = data.tensors if isinstance(data, TensorDataset) else data
    is_pair = isinstance(pair, tuple | list) and len(pair) == 2
    inputs, labels = pair if is_pair else (None, None)

    # Arrays stay where they are, tensors go to the device
    if isinstance(inputs, np.ndarray | Tensor) and isinstance(
        labels, np.ndarray | Tensor | list | tuple | range
    ):
        labels = labels if isinstance(labels, Tensor) else in_memory(labels)
        _check_pair(inputs, labels)
        target = _device_of(device, inputs.device if isinstance(inputs, Tensor) else "cpu")
        labels = labels.to(target)
        known = classes_of(labels, classes) if are_classes else None
        if isinstance(inputs, np.ndarray):
            return Source(ArrayPair(inputs, labels.cpu()), (labels,), target, known)
        inputs = inputs.to(target)
        return Source(TensorDataset(inputs, labels), (inputs, labels), target, known)

    # Any map-style data set
    _check_map_style(data)
    names = getattr(data, "classes", None)
    known = len(names) if isinstance(names, list | tuple) and len(names) > 1 else None
    return Source(data, (), _device_of(device, "cpu"), known if classes is None else classes)


def open_kind(
    data: Any, device: torch.device | str | None, classes: int | None, choice: KindChoice | None
) -> tuple[Source, TaskKind]:
    """The samples of a plan, and their kind of task.

    Args:
        data: as the user gave it.
        device: where batches are to live.
        classes: C as the user said it.
        choice: kind of the task; None for classification.

    Raises:
        ValueError: the data are no samples by position, or their targets do not fit the kind.
    """
    if choice is None or choice == "classification":
        source = open_source(data, device, classes)
        return source, Classification(source.classes or 2)
    kind = make_kind(choice, {} if classes is None else {"classes": classes, "labels": classes})
    if classes is not None and kind.outputs not in (None, classes):
        raise ValueError(
            f"classes={classes} was given, and the kind of task is {kind!r}, with {kind.outputs}: give one "
            "number, in one place"
        )
    if kind.classes is not None:
        return open_source(data, device, kind.classes), kind

    # The targets are looked at once, where they are at hand
    source = replace(open_source(data, device, are_classes=False), classes=None)
    targets = source.labels
    if isinstance(targets, Tensor):
        kind.check_targets("the targets of data", targets, len(source.dataset))
    return source, kind.fitted(targets if isinstance(targets, Tensor) else None)


def _check_pair(inputs: NDArray[Any] | Tensor, labels: Tensor) -> None:
    if not inputs.ndim or not labels.ndim or len(inputs) != len(labels):
        found = f"{_number(inputs)} inputs and {_number(labels)} labels"
        raise ValueError(f"data has {found}: it needs as many labels as inputs, along the first axis")
    if not len(inputs):
        raise ValueError("data is empty: there is nothing to train on")
    for name, values in (("inputs", inputs), ("labels", labels)):
        if isinstance(values, np.ma.MaskedArray):
            raise ValueError(
                f"the {name} of data are a masked array, whose mask would be lost: fill it, or leave them out"
            )
        if isinstance(values, Tensor) and (values.layout != torch.strided or values.is_nested):
            raise ValueError(
                f"the {name} of data are {values.layout} and cannot be gathered; make them dense (to_dense)"
            )


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
    if found.type == "meta":
        raise ValueError("device 'meta' holds no values; give 'cpu', or a device that does")
    return found


def _check_map_style(data: Any) -> None:
    """Check that data are samples by position.

    Raises:
        ValueError: they are a stream, columns, a table, text, or empty.
    """
    if isinstance(data, type):
        raise ValueError(f"data is the class {data.__name__}; give an object, {data.__name__}(...)")
    name = type(data).__name__
    if hint := _not_by_position(data) or _columns(data):
        raise ValueError(
            "data must be a pair (inputs, labels) of tensors or arrays, or a map-style data set with __len__ "
            f"and __getitem__ for positions 0..N-1, got {name}: {hint}"
        )

    try:
        size = len(data)
    except (TypeError, NotImplementedError) as error:
        raise ValueError(f"{name} has no length ({error}); a plan needs to know N") from error
    if size < 1:
        raise ValueError(f"{name} is empty: there is nothing to train on")


def _not_by_position(data: Any) -> str:
    """Why data have no samples by position, or what they are instead; "" where they may have."""
    kind = type(data)
    if isinstance(data, IterableDataset) or not (hasattr(data, "__getitem__") and hasattr(data, "__len__")):
        return "a stream has no samples to choose from"
    if kind.__getitem__ is Dataset.__getitem__:
        return f"{kind.__name__} defines no __getitem__"
    if isinstance(data, tuple) and len(data) == 2:
        words = " and ".join(type(part).__name__ for part in data)
        return f"inputs and labels must be tensors or arrays, these are {words}"
    if isinstance(data, tuple | str | bytes) or kind.__module__ == "numpy":
        return "of arrays pass a pair, of samples a list or a Dataset"
    return ""


def _columns(data: Any) -> str:
    """What data by columns are to be given as; "" where they are none."""
    if isinstance(data, Mapping) or hasattr(data, "keys"):
        return f"columns by name are no samples; pass one split, or (inputs, labels); it has {_keys(data)}"
    if hasattr(data, "iloc") or (hasattr(data, "columns") and hasattr(data, "dtypes")):
        return "of a table pass a pair of arrays, (frame[columns].to_numpy(), frame[label].to_numpy())"
    if isinstance(data, list) and len(data) == 2 and _looks_like_columns(data):
        return "two lists of one length look like inputs and labels; make them arrays, or tensors"
    return ""


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
    if not are_whole(labels) or labels.dim() != 1 or not len(labels):
        return given

    low, high = int(labels.min()), int(labels.max())
    if low == IGNORED or (given is not None and (low < 0 or high >= given)):
        label = low if low < 0 else high
        position = int((labels == label).nonzero()[0])
        raise ValueError(no_class(label, position, given))
    are_classes = labels.dtype == torch.int64 and low >= 0 and high < max(MOST_CLASSES, len(labels))
    return max(2, high + 1) if given is None and are_classes else given


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
        raise ValueError(
            "a pass over the data needs samples with labels: pairs (input, label), the label a number; got "
            f"labels {shown(labels)}"
        )
    return inputs, labels
