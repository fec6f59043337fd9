"""Masks and boxes move as their images do."""

import pytest
import torch
from torch import Tensor

from dsenv.augment import MODERATE, apply_drawn, move_boxes, move_masks, op_codes
from dsenv.augment.draw import Draw, draw_parameters
from dsenv.augment.geometric import GEOMETRIC_OPS
from dsenv.augment.ops import OPS, PHOTOMETRIC_OPS
from dsenv.augment.targets import source_pixels
from tests.augment.shapes import classes_of, extents, shapes

pytestmark = pytest.mark.fast


def drawn(name: str, count: int, strength: Tensor | float = 1.0, seed: int = 0) -> Draw:
    generator = torch.Generator().manual_seed(seed)
    strengths = torch.as_tensor(strength).expand(count).clone()
    return draw_parameters(op_codes([name]).expand(count).clone(), strengths, generator)


@pytest.mark.parametrize("name", GEOMETRIC_OPS)
def test_after_200_augmentations_masks_and_boxes_lie_where_their_objects_lie(name: str) -> None:
    images, masks, boxes = shapes(200, 40, 56)
    draw = drawn(name, 200, torch.rand(200, generator=torch.Generator().manual_seed(1)))
    moved = classes_of(apply_drawn(images, draw))

    # Each pixel has the class of its colour; from outside of the image come black ones, which count nowhere
    found = move_masks(masks, draw)
    outside = found == 255
    assert torch.equal(found[~outside], moved[~outside]) and not bool(moved[outside].any())
    assert bool(outside.any()) != name.startswith("flip")
    assert not torch.equal(found, masks)

    # Boxes hold their objects; nearest pixels are off by up to half a one
    row = torch.arange(200)
    for number, of_class in enumerate((1, 2)):
        hull = move_boxes(boxes[:, number], row, draw, (40, 56))
        seen = extents(moved == of_class)
        there = ~seen.isnan().any(1)
        excess = torch.cat([seen[:, :2] - hull[:, :2], hull[:, 2:] - seen[:, 2:]], 1)[there]
        assert int(there.sum()) > 100 and float(excess.min()) >= -0.75
        if of_class == 1 and name.startswith(
            ("translate", "flip")
        ):  # a turned hull is larger than its object
            assert float(excess.max()) <= 0.5


@pytest.mark.parametrize("name", PHOTOMETRIC_OPS)
def test_ops_of_colour_leave_masks_and_boxes_alone(name: str) -> None:
    _, masks, boxes = shapes(8, 20, 24)
    draw = drawn(name, 8)
    assert torch.equal(move_masks(masks, draw), masks)
    assert torch.equal(move_boxes(boxes[:, 0], torch.arange(8), draw, (20, 24)), boxes[:, 0])


def test_each_sample_moves_by_its_own_op() -> None:
    images, masks, boxes = shapes(len(OPS), 32, 32)
    generator = torch.Generator().manual_seed(0)
    draw = draw_parameters(torch.arange(len(OPS)), torch.full((len(OPS),), 0.8), generator)
    together = move_masks(masks, draw), move_boxes(boxes[:, 0], torch.arange(len(OPS)), draw, (32, 32))
    for row in range(len(OPS)):
        one = draw.take(slice(row, row + 1))
        assert torch.equal(move_masks(masks[row : row + 1], one)[0], together[0][row])
        alone = move_boxes(boxes[row : row + 1, 0], torch.tensor([0]), one, (32, 32))
        torch.testing.assert_close(alone[0], together[1][row])
    assert images.shape == (len(OPS), 3, 32, 32)


def test_images_of_several_sizes_move_their_boxes_as_they_do_alone() -> None:
    sizes = torch.tensor([[20, 40], [50, 30], [64, 64]])
    draw = drawn("rotate", 3, 0.9)
    boxes, row = torch.tensor([[2.0, 3, 11, 17]]).expand(6, 4), torch.tensor([0, 0, 1, 2, 2, 2])
    together = move_boxes(boxes, row, draw, (sizes[:, 0], sizes[:, 1]))
    for place, sample in enumerate(row.tolist()):
        one = draw.take(slice(sample, sample + 1))
        size = int(sizes[sample, 0]), int(sizes[sample, 1])
        alone = move_boxes(boxes[:1], torch.tensor([0]), one, size)
        torch.testing.assert_close(alone[0], together[place])


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.bool, torch.float32, torch.float64])
def test_masks_keep_shape_dtype_and_large_numbers(dtype: torch.dtype) -> None:
    masks = torch.randint(0, 2, (4, 3, 2, 9, 11)).to(dtype)
    if dtype == torch.int64:
        masks = masks * (1 << 40) + 3  # float32 would not hold them
    draw = drawn("translate_x", 4, 0.7)
    found = move_masks(masks, draw, fill=0)
    assert found.dtype == dtype and found.shape == masks.shape
    source = source_pixels(draw, MODERATE, 9, 11)
    expected = masks.flatten(3).gather(3, source.clamp(min=0)[:, None, None].expand(4, 3, 2, 99))
    expected = expected.masked_fill(source[:, None, None] < 0, 0)
    assert torch.equal(found.flatten(3), expected) and bool((source < 0).any())


def test_masks_must_hold_the_value_from_outside() -> None:
    draw = drawn("rotate", 2)
    with pytest.raises(ValueError, match=r"masks of torch.uint8 cannot hold -100.*give them as int64"):
        move_masks(torch.zeros(2, 8, 8, dtype=torch.uint8), draw, fill=-100)
    with pytest.raises(ValueError, match=r"2 draws need as many masks"):
        move_masks(torch.zeros(3, 8, 8), draw)
