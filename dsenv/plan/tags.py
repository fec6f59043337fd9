"""Marks by which samples are told apart in a batch that somebody else's function made of them."""

import copy
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

# First marks to try: beyond usual paddings, and small, for one may be taken for a length
FIRST = (11, 1013)
MOST = {  # largest whole number that a type holds exactly, together with all below
    torch.uint8: 255,
    torch.int8: 127,
    torch.bfloat16: 256,
    torch.float16: 2048,
    torch.int16: (1 << 15) - 1,
    torch.int32: 1 << 24,
    torch.int64: 1 << 24,
    torch.float32: 1 << 24,
    torch.float64: 1 << 24,
}


@dataclass(frozen=True)
class Leaf:
    """Where a value is in a sample, and of which type."""

    path: tuple[Any, ...]
    """Keys, positions and names of attributes on the way to it."""
    dtype: torch.dtype


@dataclass(frozen=True)
class Tags:
    """The marks of B samples: numbers that follow each other."""

    first: int
    count: int

    @classmethod
    def fitting(cls, leaf: Leaf, first: int, count: int) -> "Tags | None":
        """Marks that a value can hold; None where it cannot hold so many."""
        return cls(first, count) if first + count - 1 <= MOST[leaf.dtype] else None

    @property
    def values(self) -> list[int]:
        """The marks."""
        return list(range(self.first, self.first + self.count))

    def numbers(self, values: Tensor) -> Tensor:
        """Which sample each value is the mark of, -1 for none."""
        number = values.to(torch.float64).abs() - self.first
        is_mark = (number >= 0) & (number < self.count) & (number == number.floor())
        return torch.where(is_mark, number, -1.0).long()


# Samples


def leaves(sample: Any) -> list[Leaf]:
    """Values of a sample that can be marked: single numbers from the last on, then arrays."""
    found = list(_walk(sample, ()))
    single = [leaf for leaf, size in found if size == 1]
    return [*reversed(single), *(leaf for leaf, size in found if size != 1)]


def _walk(value: Any, path: tuple[Any, ...]) -> Iterator[tuple[Leaf, int]]:
    """Leaves below a value, with how many numbers each holds."""
    array = _as_tensor(value)
    if array is not None:
        if array.numel() and array.dtype in MOST:
            yield Leaf(path, array.dtype), array.numel()
    elif isinstance(value, Mapping):
        for key in value:
            yield from _walk(value[key], (*path, key))
    elif isinstance(value, list | tuple):
        for place, item in enumerate(value):
            yield from _walk(item, (*path, place))
    else:
        for name, item in _attributes(value):
            yield from _walk(item, (*path, name))


def _attributes(value: Any) -> list[tuple[str, Any]]:
    """Fields of a dataclass, or what a plain object holds, by name; nothing for classes and functions."""
    if isinstance(value, type) or callable(value):
        return []
    if dataclasses.is_dataclass(value):
        return [(field.name, getattr(value, field.name, None)) for field in dataclasses.fields(value)]
    slots = [name for kind in type(value).__mro__ for name in getattr(kind, "__slots__", ())]
    names = [*getattr(value, "__dict__", {}), *(name for name in slots if isinstance(name, str))]
    return [(name, getattr(value, name, None)) for name in names]


def _as_tensor(value: Any) -> Tensor | None:
    """Numbers of any kind as a tensor: tensors, arrays, single numbers, lists of numbers; None for others."""
    if isinstance(value, Tensor):
        return None if value.is_nested or value.is_sparse else value
    is_number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
    is_list = isinstance(value, list) and bool(value) and _all_numbers(value)
    if not (is_number or is_list or isinstance(value, np.ndarray)):
        return None
    try:
        return torch.from_numpy(np.array(value))
    except (TypeError, ValueError):  # text, objects, rows of different lengths
        return None


def _all_numbers(value: list[Any]) -> bool:
    if isinstance(value[0], list):
        return all(isinstance(row, list) and row and _all_numbers(row) for row in value)
    return all(isinstance(item, int | float) and not isinstance(item, bool) for item in value)


def replaced(sample: Any, leaf: Leaf, mark: float) -> Any:
    """A copy of a sample whose value at `leaf` is filled with `mark`; the same where it has no such value."""
    try:
        return _replaced(sample, leaf.path, mark)
    except (KeyError, IndexError, AttributeError, TypeError, ValueError):
        return sample


def _replaced(value: Any, path: tuple[Any, ...], mark: float) -> Any:
    if not path:
        return _filled(value, mark)
    key, rest = path[0], path[1:]
    if isinstance(value, tuple):
        items = [*value]
        items[key] = _replaced(value[key], rest, mark)
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    twin = copy.copy(value)
    if isinstance(value, Mapping | list):
        twin[key] = _replaced(value[key], rest, mark)
    else:
        object.__setattr__(twin, key, _replaced(getattr(value, key), rest, mark))
    return twin


def _filled(value: Any, mark: float) -> Any:
    """The value with the mark in every place; signs, NaN and infinities stay, since a function may ask."""
    if isinstance(value, Tensor):
        marked = torch.where(value < 0, -mark, mark).to(value.dtype)
        return torch.where(value.isfinite(), marked, value) if value.is_floating_point() else marked
    if isinstance(value, np.ndarray):
        return _filled(torch.from_numpy(np.array(value)), mark).numpy()
    if isinstance(value, list):
        return [_filled(item, mark) for item in value]
    if isinstance(value, int | float | np.number) and not isinstance(value, bool):
        is_finite = bool(np.isfinite(value))
        return type(value)(int(-mark if value < 0 else mark)) if is_finite else value
    raise TypeError(type(value).__name__)


# Batches


def compare(batch: Any, marked: Any, tags: Tags) -> tuple[list[int] | None, bool]:
    """Which sample each row is, from a batch and the one of marked samples, which must be equal else.

    Args:
        batch: what a function made of the samples.
        marked: what it made of the marked ones.
        tags: their marks.

    Returns:
        The number of the sample in each row, None where that is not clear; and whether anything beside the
        marks was there to confirm it.
    """
    orders: set[tuple[int, ...]] = set()
    confirmed: list[bool] = []
    is_alike = _compare(batch, marked, tags, orders, confirmed)
    if not is_alike or len(orders) != 1:
        return None, False
    return list(orders.pop()), bool(confirmed)


def _compare(
    batch: Any, marked: Any, tags: Tags, orders: set[tuple[int, ...]], confirmed: list[bool]
) -> bool:
    """Whether two batches are alike but for marks; orders that the marks show go into `orders`."""
    if type(batch) is not type(marked):
        return False
    array, twin = _as_tensor(batch), _as_tensor(marked)
    if array is not None and twin is not None:
        return _compare_arrays(array, twin, tags, orders, confirmed)
    if isinstance(batch, str | bytes | bool | complex):
        return bool(batch == marked)

    pairs = _children(batch, marked)
    if pairs is None:
        return True  # nothing to see
    if isinstance(marked, list | tuple) and (order := _rows_of(marked, tags)) is not None:
        orders.add(order)
        return len(batch) == len(marked)
    is_alike = not isinstance(batch, list | tuple) or len(batch) == len(marked)
    return is_alike and all(_compare(one, other, tags, orders, confirmed) for one, other in pairs)


def _compare_arrays(
    array: Tensor, twin: Tensor, tags: Tags, orders: set[tuple[int, ...]], confirmed: list[bool]
) -> bool:
    if array.shape != twin.shape or array.dtype != twin.dtype:
        return False
    if _equal(array, twin):  # it confirms an order only where its rows differ
        confirmed += [True] if array.dim() and not _equal(array, array[:1].expand_as(array)) else []
        return True
    order = _rows_of_tensor(twin, tags)
    if order is None:
        return False  # the marks changed more than what was marked
    orders.add(order)
    return True


def _equal(one: Tensor, other: Tensor) -> bool:
    """Whether all values are equal, a NaN to a NaN."""
    return torch.equal(one, other) or bool(((one == other) | ((one != one) & (other != other))).all())


def keeps_order(batch: Any, longer: Any, count: int) -> bool:
    """Whether a batch with its first sample once more at the end has row 0 once more at the end.

    Then row i is sample i: a function that sorts, groups, turns or shuffles would put it elsewhere.

    Args:
        batch: what a function made of the samples.
        longer: what it made of the samples and the first one again.
        count: B.
    """
    shown: list[bool] = []
    return _is_longer(batch, longer, count, shown) and bool(shown)


def _is_longer(batch: Any, longer: Any, count: int, shown: list[bool]) -> bool:
    """Whether everything in a batch got a row, a copy of the first, or has nothing to do with the samples."""
    if type(batch) is not type(longer):
        return False
    array, twin = _as_tensor(batch), _as_tensor(longer)
    if array is not None and twin is not None:
        return _is_longer_array(array, twin, count, shown)

    # A list with an item for each sample
    if isinstance(batch, list | tuple) and len(batch) == count and len(longer) == count + 1:
        pairs = zip([*batch, batch[0]], longer, strict=True)
        is_same = all(_is_longer(one, other, -1, []) for one, other in pairs)
        shown += [True] if any(not _is_longer(batch[0], item, -1, []) for item in batch[1:]) else []
        return is_same

    children = _children(batch, longer)
    if children is None:
        return _are_equal(batch, longer)
    is_alike = not isinstance(batch, list | tuple) or len(batch) == len(longer)
    return is_alike and all(_is_longer(one, other, count, shown) for one, other in children)


def _is_longer_array(array: Tensor, twin: Tensor, count: int, shown: list[bool]) -> bool:
    if array.dtype != twin.dtype or array.dim() != twin.dim():
        return False
    for axis, size in enumerate(array.shape):
        if size == count and twin.shape[axis] == count + 1:
            first = array.narrow(axis, 0, 1)
            shown += [] if _equal(array, first.expand_as(array)) else [True]
            wanted = torch.cat([array, first], axis)
            return wanted.shape == twin.shape and _equal(wanted, twin)
    return array.shape == twin.shape and _equal(array, twin)


def _are_equal(one: Any, other: Any) -> bool:
    try:
        return bool(one == other)
    except Exception:  # noqa: BLE001  # objects that cannot be compared say nothing
        return False


def _children(batch: Any, marked: Any) -> Sequence[tuple[Any, Any]] | None:
    """Pairs of what two containers hold; None where they are none, or no longer alike."""
    if isinstance(batch, Tensor) and batch.is_nested:
        return list(zip(batch.unbind(), marked.unbind(), strict=False))
    if isinstance(batch, Mapping):
        return [(batch[key], marked[key]) for key in batch if key in marked]
    if isinstance(batch, list | tuple):
        return list(zip(batch, marked, strict=False))
    inside = dict(_attributes(batch))
    other = dict(_attributes(marked))
    return [(inside[key], other[key]) for key in inside if key in other] if inside else None


def _rows_of(rows: Sequence[Any], tags: Tags) -> tuple[int, ...] | None:
    """Sample of each item of a list, where every item holds the marks of one sample, each another."""
    found = [set(_marks(row, tags)) for row in rows]
    if not found or any(len(marks) != 1 for marks in found):
        return None
    return _distinct([marks.pop() for marks in found])


def _marks(value: Any, tags: Tags) -> Iterator[int]:
    """Samples whose marks are somewhere in a value."""
    array = _as_tensor(value)
    if array is not None:
        numbers = tags.numbers(array)
        yield from torch.unique(numbers[numbers >= 0]).tolist()
        return
    for one, _ in _children(value, value) or ():
        yield from _marks(one, tags)


def _rows_of_tensor(array: Tensor, tags: Tags) -> tuple[int, ...] | None:
    """Sample of each slice along the first axis whose slices hold the marks of one sample each."""
    numbers = tags.numbers(array)
    for axis in range(array.dim()):
        if array.shape[axis] > tags.count:
            continue
        rows = numbers.movedim(axis, 0).reshape(array.shape[axis], -1)
        high = rows.amax(1)
        low = torch.where(rows < 0, tags.count, rows).amin(1)
        if bool((high == low).all()) and (order := _distinct(high.tolist())) is not None:
            return order
    return None


def _distinct(order: list[int]) -> tuple[int, ...] | None:
    return tuple(order) if len(set(order)) == len(order) and min(order) >= 0 else None
