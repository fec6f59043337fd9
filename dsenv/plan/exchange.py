"""What the ranks of a plan tell each other: outputs of an epoch, of single batches, and of passes."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from dsenv.outputs import ModelOutputs
from dsenv.plan.forward import ForwardFunction, joined_pass
from dsenv.plan.source import Source
from dsenv.plan.values import finite_pass
from dsenv.plan.world import World, in_order, unique_rows
from dsenv.task_kinds.base import READINGS, TaskKind

EVERY = 16
"""Batches of each rank after which those who learn batch by batch see the batches of all ranks."""
COLUMNS = ("loss", "labels", "logits", "features")


class PendingBatches:
    """Batches of this rank that those who learn batch by batch have not seen yet.

    They see the batches of all ranks in the order of their numbers, after every `EVERY` batches of each rank
    and at the end of an epoch.
    """

    def __init__(self) -> None:
        self._rows: list[dict[str, Tensor]] = []

    def add(self, epoch: int, number: int, seen: ModelOutputs, views: list[ModelOutputs]) -> None:
        """Keep batch `number` of an epoch, and what the model says of its further views."""
        place = torch.full_like(seen.index, number)
        rows = {"epoch": torch.full_like(seen.index, epoch), "number": place, "index": seen.index}
        for view, found in enumerate([seen, *views]):
            rows |= {f"{name}.{view}": value.clone() for name, value in columns_of(found).items()}
        self._rows.append(rows)

    def taken(
        self, world: World, device: torch.device
    ) -> Iterator[tuple[int, int, ModelOutputs, list[ModelOutputs]]]:
        """Epoch, number, outputs and those of further views of all ranks' batches, then forgotten."""
        rows = self.gathered(world, "the batches for those who learn batch by batch", device)
        self._rows = []
        if not rows or not len(rows["index"]):
            return

        keys = torch.stack([rows["epoch"], rows["number"]], 1)
        places, sizes = torch.unique_consecutive(keys, dim=0, return_counts=True)
        start = 0
        for (epoch, number), size in zip(places.tolist(), sizes.tolist(), strict=True):
            part = {name: value[start : start + size] for name, value in rows.items()}
            start += size
            views = 1 + max(int(name.partition(".")[2] or 0) for name in part)
            found = [outputs_of(part, f".{view}") for view in range(views)]
            yield epoch, number, found[0], found[1:]

    def gathered(self, world: World, what: str, device: torch.device) -> dict[str, Tensor]:
        """The rows of all ranks by column, in the order of epochs and numbers; empty for none."""
        names = self._rows[0] if self._rows else ()
        own = {name: torch.cat([rows[name] for rows in self._rows]) for name in names}
        rows, _ = world.gather(what, own, device=device)
        if not rows:
            return {}
        return in_order(rows, "epoch", "number")

    def load(self, rows: Mapping[str, Tensor], world: World, device: torch.device) -> None:
        """Continue from what `gathered` gave on all ranks; the first rank keeps it for all."""
        is_mine = bool(rows) and world.rank == 0
        self._rows = [{name: value.to(device) for name, value in rows.items()}] if is_mine else []


def check_pending(rows: Any, size: int) -> None:
    """Check what a state holds of `PendingBatches`: columns of one length, positions below `size`.

    Raises:
        ValueError: it holds something else.
    """
    if not rows and isinstance(rows, Mapping):
        return
    if isinstance(rows, Mapping) and all(isinstance(value, Tensor) for value in rows.values()):
        lengths = {len(value) for value in rows.values() if value.dim()}
        keys = [rows.get(name) for name in ("epoch", "number", "index")]
        are_whole = all(key is not None and key.dtype == torch.int64 and key.dim() == 1 for key in keys)
        if are_whole and len(lengths) == 1 and bool(((rows["index"] >= 0) & (rows["index"] < size)).all()):
            return
    raise ValueError("this is no state of a DataPlan: 'feedback.pending' is damaged, load an older one")


def columns_of(seen: ModelOutputs) -> dict[str, Tensor]:
    """Outputs for B samples as tensors (B, ...) by name."""
    found = {name: getattr(seen, name) for name in COLUMNS} | dict(seen.readings or {})
    return {name: value for name, value in found.items() if value is not None}


def outputs_of(rows: Mapping[str, Tensor], suffix: str = "") -> ModelOutputs:
    """The outputs whose columns are named so."""
    own = {name.removesuffix(suffix): value for name, value in rows.items() if name.endswith(suffix)}
    found: dict[str, Any] = {name: own.pop(name, None) for name in COLUMNS}
    readings = {name: own[name] for name in READINGS if name in own}
    return ModelOutputs(rows["index"], **found, readings=readings or None)


def gather_epochs(
    world: World, what: str, epochs: Mapping[int, Mapping[str, Tensor]], device: torch.device
) -> tuple[dict[int, dict[str, Tensor]], int]:
    """What all ranks heard of some epochs, sorted by position, and how many rows came twice; one round.

    Args:
        world: the ranks.
        what: what it is for, in words.
        epochs: by the number of the epoch, tensors (B, ...) by name, `index` among them; empty for nothing.
        device: where the tensors are wanted.
    """
    own = [{**rows, "epoch": torch.full_like(rows["index"], epoch)} for epoch, rows in epochs.items() if rows]
    if any(set(rows) != set(own[0]) for rows in own):
        raise ValueError("some batches of this plan came with logits and some without; give them always")
    joined = {name: torch.cat([rows[name] for rows in own]) for name in own[0]} if own else {}
    rows, _ = world.gather(what, joined, device=device)
    if not rows:
        return {}, 0

    rows, twice = unique_rows(rows, "epoch", "index")
    numbers, sizes = torch.unique_consecutive(rows.pop("epoch"), return_counts=True)
    parts = {name: torch.split(value, sizes.tolist()) for name, value in rows.items()}
    found = {
        epoch: {name: split[place] for name, split in parts.items()}
        for place, epoch in enumerate(numbers.tolist())
    }
    return found, twice


def shared_pass(
    world: World,
    source: Source,
    forward: ForwardFunction,
    sample_loss: Callable[[Tensor, Tensor], Tensor] | None,
    classes: int | None,
    of: Tensor | None,
    kind: TaskKind | None,
    **how: Any,
) -> ModelOutputs:
    """A scoring pass of which every rank runs its share; arguments as for `full_pass`, equal on all ranks.

    All ranks make the same number of forward passes, since some models (FSDP) exchange parameters in each.
    """
    own = world.share(len(source.dataset))
    part = source.subset(own)
    seen = joined_pass(forward, part.batches(**how), len(own), sample_loss, classes, kind)
    rows, _ = world.gather("a scoring pass", {"index": own.to(seen.loss.device), **columns_of(seen)})
    return finite_pass(outputs_of(unique_rows(rows, "index")[0]), of)
