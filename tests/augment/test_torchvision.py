"""Batched ops equal torchvision's, pixel by pixel; it takes seconds to import, so each test does it."""

import pytest
import torch
from torch import Tensor

from dsenv.augment import MODERATE, OPS, WIDE, apply_ops, op_codes
from dsenv.augment.draw import draw_parameters

# Odd and even sides, square and not, one and three channels; each magnitude with each kind of side.
CASES = [(MODERATE, (3, 33, 47)), (MODERATE, (1, 28, 28)), (WIDE, (1, 19, 8)), (WIDE, (3, 20, 20))]
LEVELS = torch.arange(31) / 30  # many of them put pixels exactly between two others
BLENDED = ("autocontrast", "equalize")  # torchvision has them at full strength only


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def codes(name: str, count: int) -> Tensor:
    return op_codes([name]).expand(count).clone()


@pytest.mark.parametrize(
    ("magnitudes", "shape"), CASES, ids=["moderate-odd", "moderate-even", "wide-unequal", "wide-even"]
)
@pytest.mark.parametrize("name", [name for name in OPS if name != "cutout"])
def test_pixels_equal_torchvision(make_images, magnitudes, shape, name) -> None:
    from tests.augment.torchvision_ops import assert_pixels_agree, between_pixels, torchvision_op

    images = make_images(31, *shape)
    strength = torch.ones(31) if name in BLENDED else LEVELS
    draw = draw_parameters(codes(name, 31), strength, rng(1))
    result = apply_ops(images, codes(name, 31), strength, rng(1), magnitudes)
    numbers = zip(images, strength.tolist(), draw.sign.tolist(), draw.chance.tolist(), strict=True)
    expected = torch.stack(
        [torchvision_op(i, name, s, sign, chance, magnitudes) for i, s, sign, chance in numbers]
    )
    assert_pixels_agree(result, expected, name, between_pixels(draw, magnitudes, *images.shape[-2:]))


@pytest.mark.parametrize("name", [name for name in OPS if name != "cutout"])
def test_float_pixels_equal_torchvision(make_images, name) -> None:
    from tests.augment.torchvision_ops import between_pixels, torchvision_op

    images = make_images(31, 3, 16, 16).float() / 255
    strength = torch.ones(31) if name in BLENDED else LEVELS
    draw = draw_parameters(codes(name, 31), strength, rng(1))
    result = apply_ops(images, codes(name, 31), strength, rng(1))
    numbers = zip(images, strength.tolist(), draw.sign.tolist(), draw.chance.tolist(), strict=True)
    expected = torch.stack(
        [torchvision_op(i, name, s, sign, chance, MODERATE) for i, s, sign, chance in numbers]
    )
    between = between_pixels(draw, MODERATE, *images.shape[-2:])
    torch.testing.assert_close(
        result.masked_fill(between, 0), expected.masked_fill(between, 0), atol=1e-5, rtol=0
    )


def test_every_op_of_torchvisions_policies_is_here() -> None:
    """AutoAugment's Invert is solarize at strength 1; the others have one op each."""
    from torchvision.transforms import v2

    theirs = {
        name for policy in (v2.RandAugment, v2.TrivialAugmentWide) for name in policy._AUGMENTATION_SPACE
    }
    named = {"".join(part.capitalize() for part in name.split("_")): name for name in OPS}
    named["AutoContrast"] = named.pop("Autocontrast")
    assert theirs <= set(named)
    assert set(v2.AutoAugment._AUGMENTATION_SPACE) - set(named) == {"Invert"}


def test_solarize_at_full_strength_inverts(make_images) -> None:
    images = make_images(8, 3, 16, 16)
    assert torch.equal(apply_ops(images, codes("solarize", 8), torch.ones(8), rng()), 255 - images)
