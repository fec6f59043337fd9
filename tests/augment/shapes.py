"""Images of coloured shapes, with the mask and the boxes of what is in them."""

import torch
from torch import Tensor

COLOURS = torch.tensor([[0, 0, 0], [255, 0, 0], [0, 0, 255]], dtype=torch.uint8)  # of classes 0, 1, 2


def shapes(count: int, height: int, width: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """A red rectangle and a blue ellipse on black, which do not touch.

    Returns:
        Images (B, 3, H, W) uint8, masks (B, H, W) int64, and boxes (B, 2, 4) float of both, by corners.
    """
    generator = torch.Generator().manual_seed(seed)
    middle = width // 2
    low, high = torch.rand(2, count, 2, 2, generator=generator).sort(0).values  # (B, shape, x or y)
    size = torch.tensor([middle - 8.0, height - 8.0])
    first = (low * size).floor()
    last = torch.maximum((high * size).floor(), first + 5)
    last[:, 1] += torch.tensor([float(middle), 0.0])
    first[:, 1] += torch.tensor([float(middle), 0.0])
    boxes = torch.cat([first, last], -1)  # (B, 2, 4)

    x, y = torch.arange(width) + 0.5, torch.arange(height)[:, None] + 0.5
    left, upper, right, lower = (part[..., None, None] for part in boxes.unbind(-1))
    rectangle = ((x > left) & (x < right) & (y > upper) & (y < lower))[:, 0]
    across, down = (2 * x - left - right) / (right - left), (2 * y - upper - lower) / (lower - upper)
    ellipse = (across**2 + down**2 < 1)[:, 1]
    masks = rectangle.long() + 2 * ellipse.long()
    return COLOURS[masks].permute(0, 3, 1, 2).contiguous(), masks, boxes


def classes_of(images: Tensor) -> Tensor:
    """Class of each pixel by its colour, (B, H, W)."""
    red, green, blue = images.unbind(1)
    found = (red > 127).long() + 2 * (blue > 127).long()
    assert not bool(green.any()) and bool((found < 3).all())
    return found


def extents(where: Tensor) -> Tensor:
    """The box (B, 4) around the pixels (B, H, W) of each image at which something is; NaN for none."""
    height, width = where.shape[-2:]
    x, y = torch.arange(width).float(), torch.arange(height)[:, None].float()
    none, low, high = ~where.flatten(1).any(1), torch.inf, -torch.inf
    sides = [
        torch.where(where, x, low).flatten(1).amin(1),
        torch.where(where, y, low).flatten(1).amin(1),
        torch.where(where, x, high).flatten(1).amax(1) + 1,
        torch.where(where, y, high).flatten(1).amax(1) + 1,
    ]
    return torch.stack(sides, 1).masked_fill(none[:, None], torch.nan)
