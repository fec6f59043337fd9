"""One image through torchvision, as its TrivialAugment calls it."""

import math

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as TF

from dsenv.augment import Magnitudes


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
