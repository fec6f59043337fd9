"""Images, and the masks and boxes on them, under ops that were drawn before."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from dsenv.augment.base import AugmentationController
from dsenv.augment.draw import Draw
from dsenv.augment.magnitudes import Magnitudes
from dsenv.augment.ops import OPS, apply_drawn
from dsenv.augment.targets import IGNORED, is_moved, move_boxes, move_masks
from dsenv.plan.places import Images, Look, Table, sizes_of, table_of
from dsenv.signals import SampleSignals
from dsenv.vision.boxes import as_like, corners, from_corners

OF_IMAGE = ("image_id", "id", "idx", "index", "size", "orig_size", "image_size", "canvas_size")
IDENTITY = OPS.index("identity")
SMALLEST = 1.0  # pixels: a moved box that is narrower or lower is dropped


def augmented(images: Images, draws: Sequence[Draw], magnitudes: Magnitudes) -> Images:
    """Images under their ops; those of a list in groups of one size.

    Args:
        images: (B, C, H, W), or B of (C, H, W).
        draws: of the B images, for each op in turn.
        magnitudes: what strength 1 means.
    """
    if isinstance(images, Tensor):
        for draw in draws:
            images = apply_drawn(images, draw, magnitudes)
        return images

    found: list[Tensor] = list(images)
    for rows in _groups([(image.shape, image.dtype) for image in images]):
        stacked = torch.stack([found[row].as_subclass(Tensor) for row in rows])
        place = torch.tensor(rows, device=stacked.device)
        for draw in draws:
            stacked = apply_drawn(stacked, draw.take(place), magnitudes)
        for row, image in zip(rows, stacked.unbind(), strict=True):
            found[row] = as_like(image, images[row])
    return tuple(found) if isinstance(images, tuple) else found


def moved_views(
    controller: AugmentationController,
    known: tuple[SampleSignals, Tensor, torch.Generator],
    images: Images,
    labels: Any,
    kind: Any,
) -> tuple[tuple[Images, ...], list[Any]]:
    """The views of a batch, and the targets of each, moved along.

    Where the ops of a sample would move all pixels that count out of its mask, they are left out.

    Args:
        controller: says what it draws for each view.
        known: signals, positions (B,) and generator, see `AugmentationController.view_draws`.
        images: (B, C, H, W), or B of (C, H, W).
        labels: targets of the batch.
        kind: of task, see `Mover`.
    """
    mover = Mover(sizes_of(images), controller.magnitudes, kind)
    views: list[Images] = []
    targets = []
    for draws in controller.view_draws(*known):
        found = mover.moved(labels, draws)
        emptied = mover.emptied(labels, found)
        if emptied is not None and (emptied.device.type != "cpu" or bool(emptied.any())):
            draws = [draw._replace(op=draw.op.masked_fill(emptied, IDENTITY)) for draw in draws]
            found = mover.moved(labels, draws)
        views.append(augmented(images, draws, controller.magnitudes))
        targets.append(found)
    return tuple(views), targets


def _groups(keys: Sequence[Any]) -> list[list[int]]:
    """Positions with the same key, together."""
    groups: dict[Any, list[int]] = {}
    for row, key in enumerate(keys):
        groups.setdefault(key, []).append(row)
    return list(groups.values())


class Mover:
    """Moves what lies on the images of a batch, as their ops moved them.

    Pixels from outside of an image get the class `ignored` in masks of classes. They get 0 in masks that hold
    no classes: several planes (n, H, W), those under the key `masks` of an image's table, and masks of bool
    or float. Boxes of a table that are left with less than a pixel in height or width are dropped, with all
    its entries of the same length but for those of the image (`OF_IMAGE`).

    Args:
        sizes: (H, W) of each image.
        magnitudes: what strength 1 means.
        kind: of task, see `check_geometry`; its `ignore_index` is the class of pixels from outside.
    """

    def __init__(self, sizes: Sequence[tuple[int, int]], magnitudes: Magnitudes, kind: Any = None) -> None:
        self.sizes = sizes
        self.magnitudes = magnitudes
        self.ignored: int = getattr(kind, "ignore_index", IGNORED)
        self._role = Look(sizes, None, kind).role

    def moved(self, labels: Any, draws: Sequence[Draw]) -> Any:
        """Targets under the ops of a batch, one after the other; what was given is left as it was."""
        for draw in draws:
            if isinstance(labels, Mapping):
                labels = {key: self._of_batch(key, value, draw) for key, value in labels.items()}
            elif isinstance(labels, list | tuple):
                labels = self._of_samples(labels, draw)
            else:
                labels = self._of_batch(None, labels, draw)
        return labels

    def emptied(self, before: Any, after: Any) -> Tensor | None:
        """Which samples have lost all pixels of a mask of classes that count, (B,) bool; None without such.

        Args:
            before: targets of the batch.
            after: the same, moved.
        """
        if not isinstance(before, list | tuple):
            lost = self._lost(table_of(before), table_of(after), is_batch=True)
            return torch.stack(lost).any(0) if lost else None

        rows = [
            self._lost(table_of(one), table_of(other), is_batch=False)
            for one, other in zip(before, after, strict=True)
        ]
        device = next((lost[0].device for lost in rows if lost), None)
        none = [torch.zeros((), dtype=torch.bool, device=device)]
        return None if device is None else torch.stack([torch.stack(lost or none).any(0) for lost in rows])

    def _lost(self, before: Table, after: Table, *, is_batch: bool) -> list[Tensor]:
        """For each mask of classes of a table, whether its last pixel that counts is gone, () or (B,)."""
        found = []
        for key, value in before.items():
            if self._role(key, value) != "masks" or not self._are_classes(key, value, is_batch=is_batch):
                continue
            was, now = (
                (mask.as_subclass(Tensor) != self.ignored).flatten(-value.dim() + is_batch).any(-1)
                for mask in (value, after[key])
            )
            found.append(was & ~now)
        return found

    def _are_classes(self, key: Any, masks: Tensor, *, is_batch: bool) -> bool:
        """Whether masks hold the class of each pixel, see the class."""
        planes = masks.shape[int(is_batch) : -2].numel()
        is_of_objects = planes != 1 or (key == "masks" and not is_batch)
        return not (is_of_objects or masks.is_floating_point() or masks.dtype == torch.bool)

    def _of_batch(self, key: Any, value: Any, draw: Draw) -> Any:
        """A value for the whole batch: masks (B, ..., H, W), boxes (B, 4), or anything else."""
        role = self._role(key, value)
        if role == "masks":
            fill = self.ignored if self._are_classes(key, value, is_batch=True) else 0
            return as_like(move_masks(value.as_subclass(Tensor), draw, self.magnitudes, fill), value)
        if role == "boxes":
            row = torch.arange(len(value), device=value.device)
            return _in_place(self._hulls(corners(value), row, draw, value), value, is_moved(draw)[:, None])
        return value

    def _of_samples(self, targets: Sequence[Any], draw: Draw) -> Sequence[Any]:
        """Targets of the images, one after the other."""
        tables = [table_of(target) for target in targets]
        self._move_masks(tables, draw)
        self._move_boxes(tables, draw)
        found = [
            table if isinstance(target, Mapping) else table[None]
            for target, table in zip(targets, tables, strict=True)
        ]
        return tuple(found) if isinstance(targets, tuple) else found

    def _move_masks(self, tables: list[Table], draw: Draw) -> None:
        """Move the masks of each table; images of one size and masks of one shape go in one call."""
        entries = list(self._entries(tables, "masks"))
        for group in _groups([(value.shape, value.dtype, key) for _, key, value in entries]):
            rows, keys, values = zip(*(entries[place] for place in group), strict=True)
            like = values[0]
            fill = self.ignored if self._are_classes(keys[0], like, is_batch=False) else 0
            stacked = torch.stack([value.as_subclass(Tensor) for value in values])
            part = draw.take(torch.tensor(rows, device=draw.op.device))
            for row, key, value in zip(
                rows, keys, move_masks(stacked, part, self.magnitudes, fill).unbind(), strict=True
            ):
                tables[row][key] = as_like(value, like)

    def _move_boxes(self, tables: list[Table], draw: Draw) -> None:
        """Move all boxes of a batch in one call, and drop those of which too little is left."""
        entries = [entry for entry in self._entries(tables, "boxes") if len(entry[2])]
        if not entries:
            return
        numbers = [len(value) for _, _, value in entries]
        device = draw.op.device
        row = torch.repeat_interleave(
            torch.tensor([row for row, _, _ in entries], device=device),
            torch.tensor(numbers, device=device),
            output_size=sum(numbers),
        )
        moved = self._hulls(torch.cat([corners(value) for *_, value in entries]), row, draw, entries[0][2])

        # Boxes of samples that were not moved stay, however small; one copy to the host for the whole batch
        was_moved = is_moved(draw)
        side = moved[:, 2:] - moved[:, :2]
        is_left = ((side >= SMALLEST).all(1) | ~was_moved[row]).tolist()
        first = 0
        for (place, key, value), found in zip(entries, torch.split(moved, numbers), strict=True):
            left = is_left[first : first + len(value)]
            first += len(value)
            tables[place][key] = _in_place(found, value, was_moved[place])
            if not all(left):
                tables[place] = _of_boxes(tables[place], left)

    def _entries(self, tables: Sequence[Table], role: str) -> Iterator[tuple[int, Any, Tensor]]:
        """Row, key and value of what is to be moved."""
        for row, table in enumerate(tables):
            for key, value in list(table.items()):
                if self._role(key, value) == role:
                    yield row, key, value

    def _hulls(self, boxes: Tensor, row: Tensor, draw: Draw, like: Tensor) -> Tensor:
        """Corners (M, 4) of the boxes of some rows, moved."""
        sides = torch.tensor(self.sizes, device=boxes.device)  # (B, 2)
        size = sides[:, 0], sides[:, 1]
        clamp = getattr(like, "clamping_mode", "soft") is not None
        return move_boxes(boxes, row, draw, size, self.magnitudes, clamp=clamp)


def _in_place(found: Tensor, boxes: Tensor, was_moved: Tensor) -> Tensor:
    """Boxes of any format with the corners (n, 4) of those that were moved; the others bit for bit."""
    moved = from_corners(found, boxes)
    return as_like(torch.where(was_moved, moved.as_subclass(Tensor), boxes.as_subclass(Tensor)), boxes)


def _of_boxes(table: Table, left: Sequence[bool]) -> Table:
    """A table of an image with some of its boxes (n,), and what else has one entry for each."""
    rows = [row for row, is_left in enumerate(left) if is_left]
    found = {}
    for key, value in table.items():
        is_each = (
            key not in OF_IMAGE and isinstance(value, Tensor | list | tuple) and _length(value) == len(left)
        )
        if not is_each:
            found[key] = value
        elif isinstance(value, Tensor):
            index = torch.tensor(rows, dtype=torch.int64, device=value.device)
            found[key] = as_like(value.as_subclass(Tensor)[index], value)
        else:
            found[key] = type(value)(value[row] for row in rows)
    return found


def _length(value: Any) -> int:
    """Entries of a value; -1 for what has none."""
    if isinstance(value, Tensor):
        return len(value) if value.dim() else -1
    return len(value) if isinstance(value, list | tuple) else -1
