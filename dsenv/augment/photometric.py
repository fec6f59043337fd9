"""Ops that change pixel values in place.

Each takes pixels (B, C, H, W) float32 in [0, top], where top is 255 for uint8 images and 1 for floating ones,
and a per-sample factor or strength (B, 1, 1, 1). Results for uint8 images are truncated to whole numbers, as
torchvision does; the arithmetic follows torchvision's order of operations, so that pixels agree.
"""

import torch
from torch import Tensor

LUMA = (0.2989, 0.587, 0.114)  # ITU-R 601 weights of red, green and blue
LEVELS = 256


def brightness(pixels: Tensor, factor: Tensor, top: float) -> Tensor:
    """Multiply all values."""
    return (pixels * factor).clamp_(0, top)


def color(pixels: Tensor, factor: Tensor, top: float) -> Tensor:
    """Move away from (factor > 1) or towards the grey image; one-channel images stay as they are."""
    return pixels if pixels.shape[1] == 1 else _mix(pixels, _grey(pixels, top), factor, top)


def contrast(pixels: Tensor, factor: Tensor, top: float) -> Tensor:
    """Move away from (factor > 1) or towards the mean of the grey image."""
    return _mix(pixels, _grey(pixels, top).mean((1, 2, 3), keepdim=True), factor, top)


def sharpness(pixels: Tensor, factor: Tensor, top: float) -> Tensor:
    """Move away from (factor > 1) or towards the blurred image; the outermost pixels stay as they are."""
    height, width = pixels.shape[-2:]
    if min(height, width) <= 2:
        return pixels

    inner = pixels[..., 1:-1, 1:-1]
    rows = pixels[..., :-2, :] + pixels[..., 1:-1, :] + pixels[..., 2:, :]
    box = rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:]
    blurred = (box + 4 * inner) / 13  # 3 x 3 kernel of ones with a 5 in the middle
    if top > 1:
        blurred = blurred.round_()

    result = pixels.clone()
    result[..., 1:-1, 1:-1] = torch.addcmul(inner, blurred - inner, 1 - factor)
    return result.clamp_(0, top)


def posterize(pixels: Tensor, bits_removed: Tensor, top: float) -> Tensor:
    """Keep the high bits of each value; `bits_removed` (B, 1, 1, 1) is a whole number in 0..7."""
    shift = bits_removed.int()
    step = (torch.ones_like(shift) << shift).float()
    if top > 1:
        return (pixels / step).floor_() * step
    levels = LEVELS / step
    coarse = torch.minimum((pixels * levels).floor_(), levels - 1) / levels
    return torch.where(shift == 0, pixels, coarse)


def solarize(pixels: Tensor, strength: Tensor, top: float) -> Tensor:
    """Invert the values of at least 256 (1 - strength) of 255."""
    threshold = (1 - strength) * LEVELS * (top / 255)
    return torch.where(pixels >= threshold, top - pixels, pixels)


def autocontrast(pixels: Tensor, strength: Tensor, top: float) -> Tensor:
    """Blend with the image stretched to the full range in each channel."""
    low, high = pixels.amin((2, 3), keepdim=True), pixels.amax((2, 3), keepdim=True)
    flat = high == low
    scale = torch.where(flat, 1.0, (high - low) * (1 / top))
    stretched = ((pixels - torch.where(flat, 0.0, low)) / scale).clamp_(0, top)
    return _blend(pixels, stretched.trunc() if top > 1 else stretched, strength, top)


def equalize(pixels: Tensor, strength: Tensor, top: float) -> Tensor:
    """Blend with the image whose histogram is flattened in each channel, by Pillow's rule."""
    values = (pixels if top > 1 else pixels * (LEVELS - 1e-3)).long().clamp_(0, 255).flatten(2)  # (B, C, H*W)
    histogram = torch.zeros(*values.shape[:2], LEVELS, dtype=torch.int64, device=values.device)
    histogram.scatter_add_(2, values, torch.ones_like(values))

    # Pillow's table: the new value of each level of each channel
    below = histogram.cumsum(2) - histogram  # pixels darker than each level
    brightest = values.amax(2, keepdim=True)
    step = below.gather(2, brightest).div(255, rounding_mode="floor")
    table = ((below + step // 2).div(step.clamp(min=1), rounding_mode="floor")).clamp_(0, 255)
    table[..., 0] = 0

    flattened = table.gather(2, values).view_as(pixels).float() * (top / 255)
    return _blend(pixels, torch.where(step[..., None] > 0, flattened, pixels), strength, top)


def cutout(pixels: Tensor, side: Tensor, row: Tensor, column: Tensor) -> Tensor:
    """Blacken a square (arXiv 1708.04552) around a pixel; it may reach over the border.

    Args:
        pixels: (B, C, H, W).
        side: (B,) whole number of pixels.
        row: (B,) centre, in [0, 1).
        column: (B,) centre, in [0, 1).
    """
    height, width = pixels.shape[-2:]
    hit_rows = _interval(height, row, side)  # (B, H)
    hit_columns = _interval(width, column, side)
    return pixels.masked_fill((hit_rows[:, :, None] & hit_columns[:, None, :])[:, None], 0)


def _interval(length: int, centre: Tensor, side: Tensor) -> Tensor:
    """Which of `length` positions lie in the interval of `side` positions around the centre; (B, length)."""
    start = (centre * length).floor() - (side / 2).floor()
    offset = torch.arange(length, device=centre.device) - start[:, None]
    return (offset >= 0) & (offset < side[:, None])


def _grey(pixels: Tensor, top: float) -> Tensor:
    """Luma (B, 1, H, W), a whole number for uint8 images."""
    if pixels.shape[1] == 1:
        return pixels
    red, green, blue = pixels.unbind(1)
    luma = red.mul(LUMA[0]).add_(green, alpha=LUMA[1]).add_(blue, alpha=LUMA[2])[:, None]
    return luma.floor_() if top > 1 else luma


def _mix(pixels: Tensor, other: Tensor, factor: Tensor, top: float) -> Tensor:
    """Return factor * pixels + (1 - factor) * other; addcmul rounds like torchvision's add with alpha."""
    return torch.addcmul(pixels * factor, other, 1 - factor).clamp_(0, top)


def _blend(pixels: Tensor, other: Tensor, strength: Tensor, top: float) -> Tensor:
    """Go from the pixels (strength 0) to the other image (strength 1)."""
    mixed = torch.lerp(pixels, other, strength.expand_as(pixels))
    return mixed.round_() if top > 1 else mixed
