"""Boxes and masks, of `torchvision.tv_tensors` or plain: their format, and whether they lie on an image."""

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from dsenv.errors import shown

OUTSIDE = 1.0  # pixels that a box may lie beyond the border of its image, for rounding


def tv_kind(value: Any) -> str:
    """Name of the class of `torchvision.tv_tensors` that a value is of; "" for none."""
    module = sys.modules.get("torchvision.tv_tensors")  # whoever has one has imported it
    if module is None or not isinstance(value, module.TVTensor):
        return ""
    return next(kind.__name__ for kind in type(value).__mro__ if kind.__module__.startswith(module.__name__))


def check_masks(masks: Tensor, size: tuple[int, int], where: str) -> None:
    """Check that the masks of an image are as large as it is.

    Raises:
        ValueError: they are not.
    """
    if masks.dim() < 2 or tuple(masks.shape[-2:]) != size:
        raise ValueError(
            f"{where} is {size[0]} x {size[1]} and its mask has shape {tuple(masks.shape)}; give masks of "
            "the size of the image: resize both (torchvision.transforms.v2.Resize), or neither"
        )


def check_classes(targets: Any) -> None:
    """Check that targets are the classes of pixels, of any shape.

    Raises:
        ValueError: they are no tensor, or of another type.
    """
    if not isinstance(targets, Tensor):
        raise ValueError(
            f"targets of a segmentation must be one tensor (B, H, W), got {type(targets).__name__}; stack "
            "the masks, or take the loss of each image by itself where their sizes differ"
        )
    if targets.dtype != torch.int64:
        raise ValueError(
            "targets of a segmentation must be int64 classes of pixels, one number each, got "
            f"{targets.dtype} {tuple(targets.shape)}; use masks.long()"
        )


def check_boxes(boxes: Tensor, size: tuple[int, int], where: str) -> None:
    """Check that the boxes of an image lie on it; values only on a CPU, where no device waits for it.

    Raises:
        ValueError: shape, format, canvas or a place is not as it has to be.
    """
    if boxes.dim() != 2 or boxes.shape[1] != 4:
        raise ValueError(f"{where} has boxes of shape {tuple(boxes.shape)}; give (n, 4), (0, 4) for no box")
    if boxes.is_complex() or boxes.dtype == torch.bool:
        raise ValueError(f"{where} has boxes of {boxes.dtype}; give float32, in pixels")
    canvas = tuple(getattr(boxes, "canvas_size", size))
    if canvas != size:
        raise ValueError(
            f"{where} is {size[0]} x {size[1]} and its boxes say canvas_size {canvas}; give boxes of the "
            "size of the image: resize both (torchvision.transforms.v2.Resize), or neither"
        )

    if boxes.device.type != "cpu" or not len(boxes):
        return
    left, upper, right, lower = corners(boxes).unbind(1)
    height, width = size
    is_inside = (left >= -OUTSIDE) & (upper >= -OUTSIDE)
    is_inside &= (right <= width + OUTSIDE) & (lower <= height + OUTSIDE)
    is_inside &= (right > left) & (lower > upper)
    if not is_inside.all():
        number = int((~is_inside).nonzero()[0])
        values = [round(float(value), 2) for value in boxes.as_subclass(Tensor)[number]]
        raise ValueError(
            f"box {number} of {where} is {values} ({box_format(boxes)}), and the image is {height} x {width} "
            "pixels (height x width): give corners in pixels, x1 < x2 and y1 < y2, within the image; boxes "
            "of another format as torchvision.tv_tensors.BoundingBoxes(boxes, format='XYWH', canvas_size=...)"
        )


def box_format(boxes: Tensor) -> str:
    """Name of the format of boxes; plain ones are corners.

    Raises:
        ValueError: they are turned boxes.
    """
    found = getattr(boxes, "format", None)
    name = "XYXY" if found is None else str(found.value)
    if name not in ("XYXY", "XYWH", "CXCYWH"):
        raise ValueError(f"boxes of format {name} cannot be moved; there are: XYXY, XYWH, CXCYWH")
    return name


def corners(boxes: Tensor) -> Tensor:
    """Boxes (n, 4) of any format as corners x1, y1, x2, y2; floating."""
    name = box_format(boxes)
    plain = boxes.as_subclass(Tensor)
    plain = plain if plain.is_floating_point() else plain.float()
    if name == "XYXY":
        return plain
    first, size = plain[:, :2], plain[:, 2:]
    first = first if name == "XYWH" else first - size / 2
    return torch.cat([first, first + size], 1)


def from_corners(found: Tensor, like: Tensor) -> Tensor:
    """Corners (n, 4) in the format, dtype and class of other boxes."""
    name = box_format(like)
    if name != "XYXY":
        size = found[:, 2:] - found[:, :2]
        first = found[:, :2] if name == "XYWH" else found[:, :2] + size / 2
        found = torch.cat([first, size], 1)
    return as_like(found.to(like.dtype), like)


def as_like(found: Tensor, like: Tensor) -> Tensor:
    """A tensor in the class of `torchvision.tv_tensors` that another one is of."""
    if not tv_kind(like):
        return found
    wrapped: Tensor = sys.modules["torchvision.tv_tensors"].wrap(found, like=like)
    return wrapped


def check_detection_targets(targets: Any, sizes: Sequence[tuple[int, int]]) -> None:
    """Check the targets of a detection model.

    Args:
        targets: for each image a table with `boxes` (n, 4), floating corners in pixels, and `labels` (n,).
        sizes: (H, W) of each image.

    Raises:
        ValueError: one is not as said above; the message names the image and what was given.
    """
    if not isinstance(targets, list | tuple) or len(targets) != len(sizes):
        found = f"{len(targets)} of them" if isinstance(targets, list | tuple) else type(targets).__name__
        raise ValueError(f"{len(sizes)} images need a list of as many targets, one table each, got {found}")

    for row, (target, size) in enumerate(zip(targets, sizes, strict=True)):
        where = f"image {row} of the batch"
        if not isinstance(target, Mapping) or not {"boxes", "labels"} <= set(target):
            found = shown(list(target)) if isinstance(target, Mapping) else type(target).__name__
            raise ValueError(f"{where} needs a target with 'boxes' (n, 4) and 'labels' (n,), got {found}")
        _check_target(target, size, where)


def _check_target(target: Mapping[str, Any], size: tuple[int, int], where: str) -> None:
    boxes, labels = target["boxes"], target["labels"]
    if not isinstance(boxes, Tensor) or not boxes.is_floating_point():
        found = str(boxes.dtype) if isinstance(boxes, Tensor) else type(boxes).__name__
        raise ValueError(f"{where} needs boxes as a floating tensor (n, 4), got {found}; give float32")
    if box_format(boxes) != "XYXY":
        raise ValueError(
            f"{where} has boxes of format {box_format(boxes)}, and torchvision's models take XYXY; "
            "torchvision.transforms.v2.ConvertBoundingBoxFormat('XYXY') makes them"
        )
    check_boxes(boxes, size, where)

    is_label = isinstance(labels, Tensor) and labels.dtype == torch.int64 and labels.shape == boxes.shape[:1]
    if not is_label:
        found = f"{labels.dtype} {tuple(labels.shape)}" if isinstance(labels, Tensor) else shown(labels)
        raise ValueError(f"{where} has {len(boxes)} boxes and needs as many int64 labels, got {found}")
    if isinstance(masks := target.get("masks"), Tensor):
        check_masks(masks, size, where)
        if masks.dim() != 3 or len(masks) != len(boxes):
            raise ValueError(f"{where} has {len(boxes)} boxes and masks of shape {tuple(masks.shape)}")


def _are_labels(labels: Any, count: int) -> bool:
    return isinstance(labels, Tensor) and labels.dtype == torch.int64 and labels.shape == (count,)
