"""Positions that travel with their samples through any collate function."""

import random
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import default_collate

from dsenv.errors import check_flag, check_function
from dsenv.plan.tags import Leaf, Tags, compare, leaves, replaced

CollateFunction = Callable[[list[Any]], Any]

WAY_OUT = (
    "let it take and give positions itself, collate_fn=f with indexed=True: f is given a list of (position, "
    "sample) and returns (positions, batch)"
)


class IndexedCollate:
    """Collates samples as the user wants, and gives their positions in the order of the rows that result.

    A collate function may sort, shuffle, leave out, pad and nest. To follow it, it is called again on copies
    of the samples in which one value (a label, say) is replaced by a mark of the sample, with the same state
    of the global random streams; what it gives must be equal but for the marks. So it runs two or three
    times a batch, once more where samples are left out; with `indexed` it runs once.

    Args:
        collate: makes a batch of a list of samples; None for torch's default, which keeps the order.
        indexed: `collate` is given a list of (position, sample) and returns (positions, batch).
    """

    def __init__(self, collate: Callable[[list[Any]], Any] | None = None, *, indexed: bool = False) -> None:
        self.collate = check_function("collate_fn", collate) or default_collate
        self.indexed = check_flag("indexed", indexed)
        if self.indexed and collate is None:
            raise ValueError(
                "indexed=True needs a collate_fn, which is given (position, sample) pairs; leave indexed out"
            )
        self._usual: Leaf | None = None  # the value that could be marked in the last batch

    def __call__(self, items: Sequence[tuple[int, Any]]) -> tuple[Tensor, Any]:
        """Positions (B,) int64, and the batch.

        Raises:
            ValueError: the order cannot be followed, or the function repeats samples or leaves out all.
        """
        if self.indexed:
            return self._given(list(items))

        indices, samples = zip(*items, strict=True)
        positions = torch.tensor([int(index) for index in indices])
        if self.collate is default_collate:
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

        positions = torch.as_tensor(found[0])
        known = {int(index) for index, _ in items}
        given = positions.tolist() if positions.dim() == 1 and not positions.is_floating_point() else None
        if not given or len(set(given)) < len(given) or not set(given) <= known:
            raise ValueError(
                "a collate function with indexed=True returns the positions of its rows, each one that it "
                f"was given and at most once, got {positions.tolist()}"
            )
        return positions.long(), found[1]

    def _followed(self, samples: list[Any]) -> tuple[Any, list[int]]:
        """The batch, and which of the samples each of its rows is."""
        before = _random_state()
        batch = self.collate(list(samples))
        after = _random_state()

        # Mark one value after the other, until one of them shows the order
        try:
            for leaf in self._candidates(samples):
                order = self._order_by(leaf, samples, batch, before)
                if order is not None:
                    self._usual = leaf
                    return batch, order
        finally:
            _set_random_state(after)

        name = getattr(self.collate, "__qualname__", type(self.collate).__name__)
        raise ValueError(
            f"the collate function {name} could not be followed: nothing in its batch tells which sample "
            f"each row is; {WAY_OUT}"
        )

    def _candidates(self, samples: list[Any]) -> list[Leaf]:
        """Values that can be marked, the one that was right before first."""
        whole = next((sample for sample in samples if sample is not None), None)
        found = leaves(whole)
        return sorted(found, key=lambda leaf: leaf != self._usual)

    def _order_by(self, leaf: Leaf, samples: list[Any], batch: Any, state: Any) -> list[int] | None:
        """The order that a marked value shows; None for none, or where it changes what the function does."""
        tags = Tags.fitting(leaf, len(samples))
        if tags is None:
            return None

        found = self._marked(leaf, samples, tags.values, state)
        order, is_confirmed = compare(batch, found, tags)
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

    def _marked(self, leaf: Leaf, samples: list[Any], values: Sequence[float | None], state: Any) -> Any:
        """What the function gives for marked copies of the samples; None where it fails on them."""
        _set_random_state(state)
        marked = [
            sample if value is None else replaced(sample, leaf, value)
            for sample, value in zip(samples, values, strict=True)
        ]
        try:
            return self.collate(marked)
        except Exception:  # noqa: BLE001  # the marks are not what the user's function was written for
            return None


def _random_state() -> Any:
    return random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002  # the user's


def _set_random_state(state: Any) -> None:
    random.setstate(state[0])
    np.random.set_state(state[1])  # noqa: NPY002
    torch.set_rng_state(state[2])
