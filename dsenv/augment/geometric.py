"""Ops that move pixels: one nearest-neighbour resampling for all of them."""

import torch
from torch import Tensor
from torch.nn import functional as F

from dsenv.augment.draw import Draw
from dsenv.augment.magnitudes import Magnitudes

GEOMETRIC_OPS = ("shear_x", "shear_y", "translate_x", "translate_y", "rotate", "flip_x", "flip_y")


def resample(images: Tensor, draw: Draw, magnitudes: Magnitudes, first_code: int) -> Tensor:
    """Apply each sample's geometric op; uncovered pixels turn black. Returns floats of the same values.

    Args:
        images: (B, C, H, W) uint8 or floating.
        draw: op, strength and random numbers of each sample; ops that are not geometric give the identity.
        magnitudes: what strength 1 means.
        first_code: code of the first op of `GEOMETRIC_OPS`.
    """
    height, width = images.shape[-2:]
    matrix = inverse_matrices(draw, magnitudes, height, width, first_code).float()  # (B, 2, 3)
    grid = _source_positions(matrix, height, width)  # (B, H, W, 2)
    return F.grid_sample(images.float(), grid, mode="nearest", padding_mode="zeros", align_corners=False)


def inverse_matrices(
    draw: Draw, magnitudes: Magnitudes, height: int | Tensor, width: int | Tensor, first_code: int
) -> Tensor:
    """Map of each target pixel to its source, in pixels from the image centre; (B, 2, 3).

    As in torchvision, shears leave the left or upper edge in place, rotations turn about the centre, and
    translations are whole pixels, rounded towards zero. Images of several sizes have (B,) heights and widths.
    """
    precise = torch.float32 if draw.op.device.type == "mps" else torch.float64  # MPS has no float64
    signed = draw.strength.to(precise) * draw.sign.to(precise)
    zero = torch.zeros_like(signed)

    def where(name: str, value: Tensor, otherwise: Tensor = zero) -> Tensor:
        return torch.where(draw.op == first_code + GEOMETRIC_OPS.index(name), value, otherwise)

    shear_x = where("shear_x", signed * magnitudes.shear)
    shear_y = where("shear_y", signed * magnitudes.shear)
    shift_x = where("translate_x", (signed * (magnitudes.translate * width)).trunc())
    shift_y = where("translate_y", (signed * (magnitudes.translate * height)).trunc())
    angle = torch.deg2rad(where("rotate", signed * magnitudes.rotate))
    mirror = 1 - 2 * (draw.chance < draw.strength).to(precise)
    mirror_x = where("flip_x", mirror, torch.ones_like(mirror))
    mirror_y = where("flip_y", mirror, torch.ones_like(mirror))

    # One affine matrix for whichever op was drawn; the terms of all others are those of the identity
    row_x = (angle.cos() * mirror_x, shear_x - angle.sin(), shear_x * (height / 2) - shift_x)
    row_y = (shear_y + angle.sin(), angle.cos() * mirror_y, shear_y * (width / 2) - shift_y)
    return torch.stack([torch.stack(row_x, -1), torch.stack(row_y, -1)], 1)


def _source_positions(matrix: Tensor, height: int, width: int) -> Tensor:
    """Where each target pixel comes from, for `grid_sample`; (B, H, W, 2)."""
    x = torch.arange(width, device=matrix.device) - (width - 1) / 2
    y = torch.arange(height, device=matrix.device)[:, None] - (height - 1) / 2
    # Scale x and y to -1..1. The numbers are filled in on the device: a copy to a GPU would wait for it.
    scaled = matrix / torch.stack([matrix.new_full((1,), 0.5 * side) for side in (width, height)])
    by_x, by_y, shift = scaled[..., None, None].unbind(2)  # (B, 2, 1, 1) each
    planes = (by_x * x + by_y * y).add_(shift)  # (B, 2, H, W); torchvision's order: ties round alike
    return planes.permute(0, 2, 3, 1)
