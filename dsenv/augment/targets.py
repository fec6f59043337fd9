"""Masks and boxes that move with their images: each sample's by its own op and strength.

Use::

    import torch
    from dsenv.augment import FixedStrength, apply_drawn, move_masks
    from dsenv.signals import SampleSignals

    images, masks = torch.rand(4, 3, 16, 16), torch.randint(0, 5, (4, 16, 16))
    generator = torch.Generator().manual_seed(0)
    for draw in FixedStrength(0.8).draws(SampleSignals(4, 5), torch.arange(4), generator):
        images, masks = apply_drawn(images, draw), move_masks(masks, draw)
"""

import torch
from torch import Tensor

from dsenv.augment.draw import Draw
from dsenv.augment.geometric import GEOMETRIC_OPS, inverse_matrices, resample
from dsenv.augment.magnitudes import MODERATE, Magnitudes
from dsenv.augment.ops import OPS
from dsenv.errors import shown

IGNORED = 255  # class of pixels that count in no loss; torchvision's segmentation sets use it
FIRST = OPS.index(GEOMETRIC_OPS[0])
CHUNK_PIXELS = 1 << 20  # pixels moved in one call on a CPU


def is_moved(draw: Draw) -> Tensor:
    """Which samples drew an op that moves pixels, (B,) bool; at strength 0 it moves them nowhere."""
    return (draw.op >= FIRST) & (draw.op < FIRST + len(GEOMETRIC_OPS))


def move_masks(masks: Tensor, draw: Draw, magnitudes: Magnitudes = MODERATE, fill: int = IGNORED) -> Tensor:
    """Move masks as `apply_drawn` moves the images: each pixel from the place that its image's pixel is from.

    Equal to torchvision's `v2.functional` on a `Mask`, but for places within rounding of the middle between
    two pixels. Samples whose op does not move pixels keep their masks.

    Args:
        masks: (B, ..., H, W) of any dtype.
        draw: what was drawn for each sample.
        magnitudes: what strength 1 means.
        fill: value of pixels that come from outside of the image.

    Returns:
        (B, ..., H, W) of the same dtype; the input is left as it was.

    Raises:
        ValueError: there are not as many masks as draws, or their dtype cannot hold `fill`.
    """
    if masks.dim() < 3 or len(masks) != len(draw.op):
        raise ValueError(f"{len(draw.op)} draws need as many masks (B, ..., H, W), got {tuple(masks.shape)}")
    check_fill(masks.dtype, fill)
    rows = is_moved(draw)
    if masks.device.type != "cpu":  # how many samples moved is not known without a wait
        found = _moved(masks, draw, magnitudes, fill)
        return torch.where(rows.view(-1, *[1] * (masks.dim() - 1)), found, masks)

    result = masks.clone()
    chunk = max(1, CHUNK_PIXELS // max(1, masks.shape[1:].numel()))
    for part in torch.split(rows.nonzero().flatten(), chunk):
        result[part] = _moved(masks[part], draw.take(part), magnitudes, fill)
    return result


def check_fill(dtype: torch.dtype, fill: int) -> None:
    """Check that masks can hold the value of pixels from outside.

    Raises:
        ValueError: they cannot.
    """
    if dtype.is_floating_point or dtype == torch.bool:
        return
    limits = torch.iinfo(dtype)
    if not limits.min <= fill <= limits.max:
        raise ValueError(
            f"masks of {dtype} cannot hold {shown(fill)}, the value of pixels from outside of the image; "
            "give them as int64, or set an ignore_index that they can hold"
        )


def _moved(masks: Tensor, draw: Draw, magnitudes: Magnitudes, fill: int) -> Tensor:
    """All masks resampled by their draws."""
    source = source_pixels(draw, magnitudes, *masks.shape[-2:])  # (B, H * W)
    planes = masks.flatten(1, -3) if masks.dim() > 3 else masks[:, None]  # (B, n, H, W)
    flat = planes.flatten(2)
    index = source[:, None].expand_as(flat)
    found = flat.gather(2, index.clamp(min=0))
    return found.masked_fill(index < 0, fill).view_as(masks)


def source_pixels(draw: Draw, magnitudes: Magnitudes, height: int, width: int) -> Tensor:
    """Which pixel each pixel of a moved image is from, as row * W + column; (B, H * W) int64, -1 for outside.

    Found by resampling rows and columns as the images are, so that ties between two pixels fall alike.
    """
    device = draw.op.device
    rows = torch.arange(1.0, height + 1, device=device)[:, None].expand(height, width)
    columns = torch.arange(1.0, width + 1, device=device).expand(height, width)
    places = torch.stack([rows, columns]).expand(len(draw.op), 2, height, width)
    row, column = resample(places, draw, magnitudes, FIRST).long().flatten(2).unbind(1)  # from 1; 0 outside
    return torch.where(row > 0, (row - 1) * width + column - 1, -1)


def move_boxes(
    boxes: Tensor,
    row: Tensor,
    draw: Draw,
    size: tuple[int, int] | tuple[Tensor, Tensor],
    magnitudes: Magnitudes = MODERATE,
    *,
    clamp: bool = True,
) -> Tensor:
    """Move boxes with their images: the upright hull of the moved corners.

    Equal to torchvision's `v2.functional` on `BoundingBoxes` but for float rounding. The hull of a turned or
    sheared object is larger than the object.

    Args:
        boxes: (M, 4) corners x1, y1, x2, y2 in pixels.
        row: (M,) int64: which sample of the batch each box is of.
        draw: what was drawn for each sample, (B,) each.
        size: (H, W) of the images; (B,) each where they differ.
        magnitudes: what strength 1 means.
        clamp: cut boxes off at the border of the image.

    Returns:
        (M, 4) of the same dtype; those of samples whose op does not move pixels are as they were.
    """
    matrix = inverse_matrices(draw, magnitudes, size[0], size[1], FIRST)[row]  # (M, 2, 3), target to source
    (a, b, x_shift), (c, d, y_shift) = (part[..., None].unbind(-2) for part in matrix.unbind(1))
    height, width = (side[row, None].to(matrix) if isinstance(side, Tensor) else side for side in size)
    left, upper, right, lower = boxes.to(matrix.dtype).unbind(-1)

    # Corners from the image centre, and back through the inverse of each sample's matrix
    x = torch.stack([left, right, right, left], -1) - width / 2 - x_shift
    y = torch.stack([upper, upper, lower, lower], -1) - height / 2 - y_shift
    moved_x = (d * x - b * y) / (a * d - b * c) + width / 2
    moved_y = (a * y - c * x) / (a * d - b * c) + height / 2

    if clamp:
        moved_x, moved_y = _within(moved_x, width), _within(moved_y, height)
    hull = torch.stack([moved_x.amin(-1), moved_y.amin(-1), moved_x.amax(-1), moved_y.amax(-1)], -1)
    return torch.where(is_moved(draw)[row][:, None], hull.to(boxes.dtype), boxes)


def _within(places: Tensor, side: int | Tensor) -> Tensor:
    """Places cut off at 0 and at the side of the image, one number or one for each box."""
    return places.clamp(min=0).minimum(side) if isinstance(side, Tensor) else places.clamp(0, side)
