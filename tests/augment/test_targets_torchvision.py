"""Masks and boxes move as torchvision moves them; it takes seconds to import, so each test does it."""

import math

import pytest
import torch
from torch import Tensor

from dsenv.augment import MODERATE, WIDE, Magnitudes, move_boxes, move_masks
from dsenv.augment.draw import Draw
from dsenv.augment.geometric import GEOMETRIC_OPS
from tests.augment.shapes import shapes
from tests.augment.test_targets import drawn


def torchvision_moved(
    value: Tensor, name: str, draw: Draw, row: int, size: tuple[int, int], m: Magnitudes
) -> Tensor:
    """One mask or the boxes of one image through torchvision, as its TrivialAugment moves the image."""
    from torchvision.transforms.v2 import functional as TF

    strength, sign = float(draw.strength[row]), float(draw.sign[row])
    flips = float(draw.chance[row]) < strength
    shear = math.degrees(math.atan(sign * strength * m.shear))
    across = int(sign * strength * m.translate * size[1])
    down = int(sign * strength * m.translate * size[0])
    outside = {"fill": 255}

    def affine(translate: list[int], shears: list[float], center: list[float] | None) -> Tensor:
        return TF.affine(value, 0.0, translate, 1.0, shears, center=center, **outside)

    table = {
        "shear_x": lambda: affine([0, 0], [shear, 0.0], [0.0, 0.0]),
        "shear_y": lambda: affine([0, 0], [0.0, shear], [0.0, 0.0]),
        "translate_x": lambda: affine([across, 0], [0.0, 0.0], None),
        "translate_y": lambda: affine([0, down], [0.0, 0.0], None),
        "rotate": lambda: TF.rotate(value, sign * strength * m.rotate, **outside),
        "flip_x": lambda: TF.horizontal_flip(value) if flips else value,
        "flip_y": lambda: TF.vertical_flip(value) if flips else value,
    }
    return table[name]()


@pytest.mark.parametrize("magnitudes", [MODERATE, WIDE], ids=["moderate", "wide"])
@pytest.mark.parametrize("name", GEOMETRIC_OPS)
def test_masks_and_boxes_equal_torchvision(name: str, magnitudes: Magnitudes) -> None:
    from torchvision import tv_tensors

    from tests.augment.torchvision_ops import between_pixels

    size = (33, 46)
    _, masks, boxes = shapes(31, *size)
    draw = drawn(name, 31, torch.arange(31) / 30)
    moved = move_masks(masks, draw, magnitudes)
    hulls = move_boxes(boxes[:, 0], torch.arange(31), draw, size, magnitudes)
    between = between_pixels(draw, magnitudes, *size)[:, 0]
    for row in range(31):
        mask = tv_tensors.Mask(masks[row])
        box = tv_tensors.BoundingBoxes(boxes[row, :1], format="XYXY", canvas_size=size)
        expected = torchvision_moved(mask, name, draw, row, size, magnitudes)
        differs = (expected.as_subclass(Tensor) != moved[row]) & ~between[row]
        assert not bool(differs.any()), row
        theirs = torchvision_moved(box, name, draw, row, size, magnitudes).as_subclass(Tensor)[0]
        torch.testing.assert_close(hulls[row], theirs, atol=1e-4, rtol=0)
