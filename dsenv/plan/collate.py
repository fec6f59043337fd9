"""Positions that travel with their samples through any collate function."""

import copy
import inspect
import itertools
import random
import types
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import default_collate

from dsenv.describe import describe
from dsenv.errors import check_flag, check_function, shown
from dsenv.plan.tags import FIRST, Leaf, Tags, compare, keeps_order, leaves, replaced

CollateFunction = Callable[[list[Any]], Any]

WAY_OUT = (
    "let it take and give positions itself, collate_fn=f with indexed=True: f is given a list of (position, "
    "sample) and returns (positions, batch); or, where its rows are the samples in their order, set an "
    "attribute keeps_order = True on it"
)


class Pick(int):
    """A position that says of which epoch it is, wherever a loader carries it, to worker processes too."""

    epoch: int
    """Number of the epoch that it was chosen for."""

    @classmethod
    def of(cls, position: int, epoch: int) -> "Pick":
        """The position as a pick of that epoch."""
        found = cls(position)
        found.epoch = epoch
        return found


class RawSamples(list[Any]):
    """A batch that is the list of its samples: of two they are no pair of inputs and labels."""


class NothingLeft:
    """In place of a batch: the collate function gave None, since all its samples are broken."""


class IndexedCollate:
    """Collates samples as the user wants, and gives their positions in the order of the rows that result.

    A collate function may sort, shuffle, leave out, pad and nest. To follow it, it is called again with the
    same state of the random streams: with the first sample once more at the end, which shows whether
    it keeps the order; and where it does not, on copies in which one value (a label, say) is replaced by a
    mark of the sample, where what it gives must be equal but for the marks. So it runs at least twice a
    batch; with `indexed` it runs once, and so does one with an attribute `keeps_order` that is true.

    Args:
        collate: makes a batch of a list of samples; None for torch's default, which keeps the order.
        indexed: `collate` is given a list of (position, sample) and returns (positions, batch).
        keeps_order: the rows of a batch are its samples in their order; None for its attribute of that name.
    """

    def __init__(
        self,
        collate: Callable[[list[Any]], Any] | None = None,
        *,
        indexed: bool = False,
        keeps_order: bool | None = None,
    ) -> None:
        self.collate = check_function("collate_fn", collate) or default_collate
        if keeps_order is None:
            keeps_order = getattr(self.collate, "keeps_order", False)
        self.keeps_order = bool(keeps_order)
        self.indexed = check_flag("indexed", indexed)
        if self.indexed and collate is None:
            raise ValueError(
                "indexed=True needs a collate_fn, which is given (position, sample) pairs; leave indexed out"
            )
        self._usual: Leaf | None = None  # the value that could be marked in the last batch

    def __call__(self, items: Sequence[tuple[int, Any]]) -> tuple[Tensor, Any]:
        """Positions (B,) int64, and the batch; where the function gives None, all of them and `NothingLeft`.

        Of picks the positions are (B, 2), each with the number of its epoch.

        Raises:
            ValueError: the order cannot be followed, or the function repeats or mixes samples.
        """
        positions, batch = self._collated(items)
        if isinstance(items[0][0], Pick):
            epochs = {int(index): index.epoch for index, _ in items}  # type: ignore[attr-defined]
            positions = torch.tensor([[position, epochs[position]] for position in positions.tolist()])
        return positions, batch

    def _collated(self, items: Sequence[tuple[int, Any]]) -> tuple[Tensor, Any]:
        if self.indexed:
            return self._given(list(items))

        indices, samples = zip(*items, strict=True)
        positions = torch.tensor([int(index) for index in indices])
        if self.collate is default_collate or self.keeps_order:
            return positions, self.collate(list(samples))

        batch, order = self._followed(list(samples))
        return positions[torch.tensor(order)], batch

    def _given(self, items: list[tuple[int, Any]]) -> tuple[Tensor, Any]:
        """What an indexed function gives."""
        found = self.collate(items)
        if not (isinstance(found, tuple | list) and len(found) == 2):
            raise ValueError(
                f"a collate function with indexed=True returns (positions, batch), got {type(found).__name__}"
            )

        known = {int(index) for index, _ in items}
        try:
            positions = torch.as_tensor(found[0])
        except (TypeError, ValueError, RuntimeError):
            positions = torch.tensor(-1)
        is_list = positions.dim() == 1 and not positions.is_floating_point() and not positions.is_complex()
        given = positions.tolist() if is_list else None
        if not given or len(set(given)) < len(given) or not set(given) <= known:
            raise ValueError(
                "a collate function with indexed=True returns the positions of its rows, each one that it "
                f"was given and at most once, got {shown(found[0])}"
            )
        return positions.long(), found[1]

    def _followed(self, samples: list[Any]) -> tuple[Any, list[int]]:
        """The batch, and which of the samples each of its rows is."""
        before = CallState(self.collate)
        batch = self.collate(_copies(samples))
        after = CallState(self.collate)
        if batch is None:
            return NothingLeft(), list(range(len(samples)))

        try:
            order = self._order(samples, batch, before, draws=not before.is_same(after))
        finally:
            after.restore()
        is_raw = isinstance(batch, list | tuple) and len(batch) == len(order) and _are_samples(batch, samples)
        return RawSamples(batch) if is_raw else batch, order

    def _order(self, samples: list[Any], batch: Any, state: "CallState", *, draws: bool) -> list[int]:
        """Which of the samples each row of the batch is; `draws`: the function took random numbers.

        Then it may shuffle, and a shuffle of one sample more can look like an order that is kept.
        """
        longer = None if draws else self._again([*samples, samples[0]], state)
        if longer is not None and keeps_order(batch, longer, len(samples)):
            return list(range(len(samples)))

        # Mark one value after the other, until one of them shows the order
        whole = next((sample for sample in samples if sample is not None), None)
        found = sorted(leaves(whole), key=lambda leaf: leaf != self._usual)
        for first, leaf in itertools.product(FIRST, found):
            order = self._order_by(leaf, first, samples, batch, state)
            if order is not None:
                self._usual = leaf
                return order
        raise ValueError(
            f"the collate function {self._name} could not be followed: it is not clear which sample each row "
            f"of its batch is, or a row is made of several samples; {WAY_OUT}"
        )

    def _order_by(
        self, leaf: Leaf, first: int, samples: list[Any], batch: Any, state: "CallState"
    ) -> list[int] | None:
        """The order that a marked value shows; None for none, or where it changes what the function does."""
        tags = Tags.fitting(leaf, first, len(samples))
        if tags is None:
            return None

        order, is_confirmed = compare(batch, self._marked(leaf, samples, tags.values, state), tags)
        if order is None:
            return None

        # Marks the other way round give the same order, unless it depends on the marked value
        if leaf != self._usual or not is_confirmed:
            other = self._marked(leaf, samples, tags.values[::-1], state)
            reverse, _ = compare(batch, other, tags)
            if reverse is None or [len(samples) - 1 - number for number in reverse] != order:
                return None

        # What was left out is in no row: without its mark the batch says the same, where a mean does not
        if len(order) < len(samples):
            kept = [value if number in order else None for number, value in enumerate(tags.values)]
            again, _ = compare(batch, self._marked(leaf, samples, kept, state), tags)
            return order if again == order else None
        return order

    def _marked(
        self, leaf: Leaf, samples: list[Any], values: Sequence[float | None], state: "CallState"
    ) -> Any:
        """What the function gives for marked copies of the samples; None where it fails on them."""
        marked = [
            sample if value is None else replaced(sample, leaf, value)
            for sample, value in zip(samples, values, strict=True)
        ]
        return self._again(marked, state)

    def _again(self, samples: list[Any], state: "CallState") -> Any:
        """What the function gives for other samples from the same random state; None where it fails."""
        state.restore()
        try:
            return self.collate(_copies(samples))
        except Exception:  # noqa: BLE001  # marks are not what the user's function was written for
            return None

    @property
    def _name(self) -> str:
        return str(getattr(self.collate, "__qualname__", type(self.collate).__name__))


def _copies(samples: list[Any]) -> list[Any]:
    """The samples in a fresh list; tables and lists as copies, from which a function may take entries."""
    return [copy.copy(sample) if isinstance(sample, dict | list) else sample for sample in samples]


def _are_samples(batch: Sequence[Any], samples: list[Any]) -> bool:
    """Whether a batch is a list of the samples themselves, or of the copies that a function is given."""
    known = {id(sample) for sample in samples}
    if all(id(item) in known for item in batch):
        return True
    inside = {_contents(sample) for sample in samples if isinstance(sample, dict | list)}
    return all(isinstance(item, dict | list) and _contents(item) in inside for item in batch)


def _contents(sample: dict[Any, Any] | list[Any]) -> tuple[int, ...]:
    """What a sample holds, by identity."""
    return tuple(id(part) for part in (sample.values() if isinstance(sample, dict) else sample))


class CallState:
    """Where the random streams, and the function's own counters and streams, stood; to go back there.

    Args:
        function: its attributes, and the generators that it holds.
    """

    def __init__(self, function: Any) -> None:
        self._global: tuple[Any, Any, Tensor]
        self._global = random.getstate(), np.random.get_state(legacy=True), torch.get_rng_state()  # noqa: NPY002
        own = getattr(function, "__dict__", None)
        self._attributes = (
            own if isinstance(own, dict) and not isinstance(function, types.FunctionType) else None
        )
        self._values = dict(self._attributes or {})
        held = [*self._values.values(), *read_by_name(function)]
        self._streams = [(stream, _state_of(stream)) for stream in held if _state_of(stream) is not None]

    def is_same(self, other: "CallState") -> bool:
        """Whether all random streams stood at the same place then: no number was drawn between."""
        (own, own_numpy, own_torch), (their, their_numpy, their_torch) = self._global, other._global
        is_torch_same = torch.equal(own_torch, their_torch)
        is_numpy_same = own_numpy[2] == their_numpy[2] and np.array_equal(own_numpy[1], their_numpy[1])
        states = ([describe(state) for _, state in moment._streams] for moment in (self, other))
        return own == their and is_torch_same and is_numpy_same and next(states) == next(states)

    def restore(self) -> None:
        """Put all of it back."""
        random.setstate(self._global[0])
        np.random.set_state(self._global[1])  # noqa: NPY002
        torch.set_rng_state(self._global[2])
        if self._attributes is not None:
            self._attributes.clear()
            self._attributes.update(self._values)
        for stream, state in self._streams:
            _set_state(stream, state)


def split_picks(index: Any) -> tuple[Any, int | None]:
    """Positions (B,) and the epoch of what `IndexedCollate` made of picks; None for any other positions.

    Raises:
        ValueError: they are of several epochs.
    """
    if not isinstance(index, Tensor) or index.dim() != 2 or index.shape[1] != 2 or not len(index):
        return index, None
    low, high = index[:, 1].aminmax()
    if int(low) != int(high):
        raise ValueError(
            f"the batch holds samples of epochs {int(low)} and {int(high)}: give the DataLoader of the "
            "plan's stream batch_size=plan.micro_batch_size, then each batch is of one epoch"
        )
    return index[:, 0].contiguous(), int(low)


def read_by_name(function: Any) -> list[Any]:
    """What a function of Python reads of the places around it: variables and defaults; nothing for others."""
    try:
        found = inspect.getclosurevars(function)
    except (TypeError, ValueError):  # no function, or one whose variable has no value yet
        return []
    return [*found.nonlocals.values(), *found.globals.values(), *(function.__defaults__ or ())]


def _state_of(stream: Any) -> Any:
    """State of a random generator; None for anything else."""
    if isinstance(stream, np.random.Generator):
        return stream.bit_generator.state
    if isinstance(stream, np.random.RandomState | torch.Generator):
        return stream.get_state()
    return stream.getstate() if isinstance(stream, random.Random) else None


def _set_state(stream: Any, state: Any) -> None:
    if isinstance(stream, np.random.Generator):
        stream.bit_generator.state = state
    elif isinstance(stream, random.Random):
        stream.setstate(state)
    else:
        stream.set_state(state)
