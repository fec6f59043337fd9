"""One image through torchvision, as its TrivialAugment calls it; how near ours has to come to it."""

import math

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as TF

from dsenv.augment import OPS, Magnitudes
from dsenv.augment.draw import Draw
from dsenv.augment.geometric import GEOMETRIC_OPS, inverse_matrices

MIXED = ("brightness", "color", "contrast", "sharpness", "autocontrast")  # the others copy or count pixels


def affine(image: Tensor, translate: list[int], shear: list[float], center: list[float] | None) -> Tensor:
    return TF.affine(image, 0.0, translate, 1.0, shear, center=center)


def torchvision_op(
    image: Tensor, name: str, strength: float, sign: float, chance: float, m: Magnitudes
) -> Tensor:
    """One image (C, H, W) through torchvision, as its TrivialAugment calls it."""
    height, width = image.shape[-2:]
    shear = math.degrees(math.atan(sign * strength * m.shear))
    factor = float(1 + torch.tensor(sign) * torch.tensor(strength) * m.enhance)
    top = 255.0 if image.dtype == torch.uint8 else 1.0
    flips = chance < strength
    table = {
        "identity": lambda: image,
        "shear_x": lambda: affine(image, [0, 0], [shear, 0.0], [0, 0]),
        "shear_y": lambda: affine(image, [0, 0], [0.0, shear], [0, 0]),
        "translate_x": lambda: affine(
            image, [int(sign * strength * m.translate * width), 0], [0.0, 0.0], None
        ),
        "translate_y": lambda: affine(
            image, [0, int(sign * strength * m.translate * height)], [0.0, 0.0], None
        ),
        "rotate": lambda: TF.rotate(image, sign * strength * m.rotate),
        "flip_x": lambda: TF.horizontal_flip(image) if flips else image,
        "flip_y": lambda: TF.vertical_flip(image) if flips else image,
        "brightness": lambda: TF.adjust_brightness(image, factor),
        "color": lambda: TF.adjust_saturation(image, factor),
        "contrast": lambda: TF.adjust_contrast(image, factor),
        "sharpness": lambda: TF.adjust_sharpness(image, factor),
        "posterize": lambda: image if bits(strength, m) == 8 else TF.posterize(image, bits(strength, m)),
        "solarize": lambda: (
            image if strength == 0 else TF.solarize(image, min(256 * (1 - strength) / 255 * top, top))
        ),
        "autocontrast": lambda: TF.autocontrast(image),
        "equalize": lambda: TF.equalize(image),
    }
    return table[name]()


def bits(strength: float, m: Magnitudes) -> int:
    return 8 - int(torch.tensor(strength * m.posterize).round())


def between_pixels(draw: Draw, m: Magnitudes, height: int, width: int) -> Tensor:
    """Where the source is within 1/1000 of the middle between two pixels; (B, 1, H, W).

    Which of the two is nearest is then a matter of rounding: torchvision finds the source by a matrix
    product, whose order of sums depends on the CPU.
    """
    matrix = inverse_matrices(draw, m, height, width, OPS.index(GEOMETRIC_OPS[0]))
    by_x, by_y, shift = matrix[..., None, None].double().unbind(2)  # (B, 2, 1, 1) each
    x, y = torch.arange(width) - (width - 1) / 2, torch.arange(height)[:, None] - (height - 1) / 2
    corner = torch.tensor([width - 1, height - 1]).view(2, 1, 1) / 2
    source = by_x * x + by_y * y + shift + corner  # (B, 2, H, W)
    return ((source - source.floor() - 0.5).abs() < 1e-3).any(1, keepdim=True)


def assert_pixels_agree(found: Tensor, expected: Tensor, name: str, between: Tensor) -> None:
    """Equal uint8 pixels, but for those between two others; mixed ones may be rounded to the next level.

    A mixed value that is a whole number in exact arithmetic is cut off to it or to the one below, as the CPU
    rounds (with or without fused multiply-add).
    """
    difference = (found.int() - expected.int()).abs().masked_fill(between, 0)
    assert int(difference.max()) <= (name in MIXED), name
    assert float((difference > 0).float().mean()) <= 0.01, name
    assert float(between.float().mean()) < 0.25, name
