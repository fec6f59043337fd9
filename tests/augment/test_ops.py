"""Batched ops: identity at 0, growing with strength, one strength a sample."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dsenv.augment import MODERATE, OPS, STANDARD_OPS, Magnitudes, apply_ops, draw_ops, op_codes
from dsenv.augment.draw import draw_parameters
from tests.augment.images import smooth_images

STRENGTHS = torch.tensor([0.0, 0.13, 0.31, 0.5, 0.74, 0.9, 1.0, 0.05, 0.66, 0.42, 0.27, 0.83])
BLENDED = ("autocontrast", "equalize")  # torchvision has them at full strength only


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def codes(name: str, count: int) -> Tensor:
    return op_codes([name]).expand(count).clone()


def distance(a: Tensor, b: Tensor) -> Tensor:
    """Mean absolute difference of each image, (B,)."""
    return (a.float() - b.float()).abs().mean((1, 2, 3))


KINDS = {  # each dtype; odd, even and unequal sides; one and three channels; no inner pixel
    torch.uint8: [(3, 33, 47), (1, 28, 28), (1, 1, 1)],
    torch.float32: [(1, 19, 8), (3, 32, 32), (3, 2, 2)],
    torch.float16: [(3, 32, 32)],
    torch.bfloat16: [(1, 28, 28)],
}


@pytest.mark.fast
@pytest.mark.parametrize("name", OPS)
def test_strength_0_is_the_identity(name) -> None:
    for dtype, shapes in KINDS.items():
        for shape in shapes:
            images = smooth_images(6, *shape)
            images = images if dtype == torch.uint8 else (images / 255).to(dtype)
            found = apply_ops(images, codes(name, 6), torch.zeros(6), rng())
            assert torch.equal(found, images), (dtype, shape)


@settings(max_examples=60, deadline=None)
@given(
    name=st.sampled_from(OPS),
    pair=st.tuples(st.floats(0, 1, width=32), st.floats(0, 1, width=32)),
    seed=st.integers(0, 1000),
    channels=st.sampled_from([1, 3]),
    as_float=st.booleans(),
)
def test_distance_grows_with_strength(name, pair, seed, channels, as_float) -> None:
    images = smooth_images(16, channels, 24, 31, seed)
    images = images / 255 if as_float else images
    weak, strong = (
        distance(apply_ops(images, codes(name, 16), torch.full((16,), s), rng(seed)), images)
        for s in sorted(pair)
    )
    level = 1 / 255 if as_float else 1.0
    if name in ("shear_x", "shear_y", "translate_x", "translate_y", "rotate"):
        # a stronger shift may happen to match a pixel better: the mean over images grows, to half a level
        assert weak.mean() <= strong.mean() + max(0.02 * strong.mean(), 0.5 * level)
    elif name == "posterize":
        assert (weak <= strong + level).all()
    else:
        assert (weak <= strong + 0.01 * level).all()


@pytest.mark.fast
@pytest.mark.parametrize("name", [name for name in OPS if name != "identity"])
def test_full_strength_changes_the_image(name) -> None:
    images = smooth_images(8, 3, 32, 32) // 2 + 40
    assert (distance(apply_ops(images, codes(name, 8), torch.ones(8), rng()), images) > 1).all()


@pytest.mark.fast
@pytest.mark.parametrize("name", OPS)
def test_uint8_and_float_agree(make_images, name) -> None:
    images = make_images(12, 3, 32, 32)
    whole = apply_ops(images, codes(name, 12), STRENGTHS, rng(2)).float()
    fraction = apply_ops(images / 255, codes(name, 12), STRENGTHS, rng(2)) * 255
    difference = (whole - fraction).abs()
    if name == "solarize":  # a value exactly on the threshold may fall on either side
        assert (difference > 1.01).float().mean() < 0.02
    elif name in (
        "color",
        "contrast",
        "sharpness",
        *BLENDED,
    ):  # round twice
        assert difference.max() <= 2
    else:
        assert difference.max() <= 1.01


def test_each_sample_gets_its_own_op_and_strength(make_images) -> None:
    """A batch equals its samples one by one, given the same numbers."""
    from tests.augment.torchvision_ops import assert_pixels_agree, between_pixels, torchvision_op

    images = make_images(64, 3, 20, 20)
    op, strength = torch.arange(64) % len(OPS), torch.linspace(0, 1, 64)
    batch = apply_ops(images, op, strength, rng(3))
    draw = draw_parameters(op, strength, rng(3))
    between = between_pixels(draw, MODERATE, 20, 20)
    for name in OPS:
        for row in (op == OPS.index(name)).nonzero().flatten().tolist():
            alone = images[row]
            if name == "cutout":
                assert (batch[row] == alone)[alone > 0].float().mean() >= 1 - (strength[row] / 2 + 0.1) ** 2
            elif name not in BLENDED:
                numbers = (float(field[row]) for field in (strength, draw.sign, draw.chance))
                expected = torchvision_op(alone, name, *numbers, MODERATE)
                assert_pixels_agree(batch[row], expected, name, between[row])


@pytest.mark.fast
def test_strength_reaches_the_pixels() -> None:
    """Brightness on a constant image: the factor can be read off each sample."""
    images, strength = torch.full((50, 1, 4, 4), 100, dtype=torch.uint8), torch.linspace(0, 1, 50)
    draw = draw_parameters(codes("brightness", 50), strength, rng(4))
    result = apply_ops(images, codes("brightness", 50), strength, rng(4))[:, 0, 0, 0]
    expected = 100 * (1 + draw.sign * strength * 0.9)
    assert (result - expected).abs().max() <= 1.01  # cut off to a whole level


def test_blended_ops_go_linearly_to_torchvision(make_images) -> None:
    from torchvision.transforms.v2 import functional as TF

    images = make_images(8, 3, 16, 16)
    for name, full in (("autocontrast", TF.autocontrast(images)), ("equalize", TF.equalize(images))):
        half = apply_ops(images, codes(name, 8), torch.full((8,), 0.5), rng())
        off = (half.float() - (images.float() + full.float()) / 2).abs()
        # The stretched value may be cut off to the next level on another CPU: half a level more.
        assert off.max() <= 1 and (off > 0.5).float().mean() <= 0.01


@pytest.mark.fast
def test_cutout_blackens_a_square_of_the_right_side() -> None:
    images, strength = torch.full((200, 3, 32, 32), 9, dtype=torch.uint8), torch.rand(200, generator=rng())
    black = apply_ops(images, codes("cutout", 200), strength, rng(5)) == 0
    side = (strength * 16).round()
    assert torch.equal(black[:, 0], black[:, 2])
    rows, columns = black[:, 0].any(2).sum(1), black[:, 0].any(1).sum(1)
    assert (
        (rows <= side).all() and (columns <= side).all() and (rows * columns == black[:, 0].sum((1, 2))).all()
    )
    assert (rows == side).float().mean() > 0.5  # the others reach over the border


@pytest.mark.fast
def test_same_generator_same_result_and_global_stream_untouched(make_images) -> None:
    images, op = make_images(34, 3, 15, 15), torch.arange(34) % len(OPS)
    before = torch.random.get_rng_state()
    first = apply_ops(images, op, torch.full((34,), 0.7), rng(6))
    second = apply_ops(images, op, torch.full((34,), 0.7), rng(6))
    assert torch.equal(first, second)
    assert not torch.equal(first, apply_ops(images, op, torch.full((34,), 0.7), rng(7)))
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.fast
def test_random_numbers_do_not_depend_on_ops_or_strengths(make_images) -> None:
    images = make_images(10, 1, 9, 9)
    first, second = rng(), rng()
    apply_ops(images, codes("rotate", 10), torch.ones(10), first)
    apply_ops(images, codes("cutout", 10), torch.zeros(10), second)
    assert torch.equal(first.get_state(), second.get_state())


@pytest.mark.fast
def test_input_is_left_alone(make_images) -> None:
    images = make_images(17, 3, 12, 12)
    copy = images.clone()
    apply_ops(images, torch.arange(17), torch.ones(17), rng())
    assert torch.equal(images, copy)


@pytest.mark.fast
def test_dense_form_equals_grouped_form(make_images) -> None:
    """What runs on a GPU: every op on all samples, the right ones kept."""
    from dsenv.augment.ops import _apply_to_all

    images, op = make_images(34, 3, 21, 18), torch.arange(34) % len(OPS)
    strength = torch.linspace(0, 1, 34)
    dense = _apply_to_all(images, draw_parameters(op, strength, rng(8)), MODERATE)
    difference = (dense.int() - apply_ops(images, op, strength, rng(8)).int()).abs()
    # Batches of other sizes may be rounded otherwise: a level, or the other of two pixels as near. An op that
    # is left out would change a twentieth of the pixels.
    assert (difference > 0).float().mean() <= 0.01


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_device_equals_cpu(make_images) -> None:
    images, op = make_images(340, 3, 32, 32), torch.arange(340) % len(OPS)
    strength = torch.linspace(0, 1, 340)
    host = apply_ops(images, op, strength, rng(9))
    device = apply_ops(images.cuda(), op.cuda(), strength.cuda(), rng(9)).cpu()
    assert ((host.int() - device.int()).abs() > 1).float().mean() < 1e-3


@pytest.mark.fast
def test_draw_ops_is_uniform_over_the_given_ops() -> None:
    chosen = draw_ops(op_codes(STANDARD_OPS), 14_000, rng())
    counts = torch.bincount(chosen, minlength=len(OPS))
    assert set(counts.nonzero().flatten().tolist()) == set(op_codes(STANDARD_OPS).tolist())
    assert counts[counts > 0].min() > 850


def test_standard_ops_are_torchvisions_fourteen() -> None:
    from torchvision.transforms.v2 import TrivialAugmentWide

    theirs = {name.lower() for name in TrivialAugmentWide._AUGMENTATION_SPACE}
    assert {name.replace("_", "") for name in STANDARD_OPS} == theirs


@pytest.mark.fast
def test_empty_batch() -> None:
    assert (
        apply_ops(torch.zeros(0, 3, 8, 8), torch.zeros(0, dtype=torch.int64), torch.zeros(0), rng()).shape[0]
        == 0
    )


@pytest.mark.fast
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": torch.zeros(2, 4, 8, 8)}, "1 or 3 channels"),
        ({"images": torch.zeros(2, 3, 8, 8, dtype=torch.float64)}, "convert them first"),
        ({"images": torch.full((2, 3, 8, 8), -1.0)}, "augment before normalizing"),
        ({"strength": torch.tensor([0.5, 9.0])}, "got values from 0.5 to 9.0"),
        ({"strength": torch.tensor([0.5, torch.nan])}, "in \\[0, 1\\]"),
        ({"op": torch.tensor([0, 99])}, "op codes must be in 0..16"),
        ({"op": torch.tensor([0])}, "as many ops"),
    ],
)
def test_errors_name_the_value(change, message) -> None:
    good = {
        "images": torch.zeros(2, 3, 8, 8),
        "op": torch.zeros(2, dtype=torch.int64),
        "strength": torch.zeros(2),
    }
    with pytest.raises(ValueError, match=message):
        apply_ops(**(good | change), generator=rng())


@pytest.mark.fast
def test_misspelt_op_gets_a_hint() -> None:
    with pytest.raises(ValueError, match="Did you mean 'posterize'"):
        op_codes(["posterise"])


@pytest.mark.fast
@pytest.mark.parametrize(
    "wrong", [{"translate": 1.5}, {"shear": -0.1}, {"rotate": 270}, {"posterize": 8}, {"enhance": 1.9}]
)
def test_magnitudes_are_checked(wrong) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Magnitudes(**wrong)


@pytest.mark.fast
def test_magnitudes_at_their_limits_are_allowed() -> None:
    most = {"shear": 0.0, "translate": 1.0, "rotate": 180.0, "enhance": 1.0, "posterize": 7, "cutout": 1.0}
    for limits in (most, dict.fromkeys(most, 0)):
        assert vars(Magnitudes(**limits)) == limits
