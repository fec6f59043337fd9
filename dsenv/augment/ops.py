"""Batched augmentation: one op and one strength for each sample, on the device of the images.

PyTorch's and torchvision's transforms draw one magnitude for a whole batch; here every sample has its own.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import partial

import torch
from torch import Tensor

from dsenv.augment import photometric
from dsenv.augment.draw import Draw, draw_parameters
from dsenv.augment.geometric import GEOMETRIC_OPS, resample
from dsenv.augment.magnitudes import MODERATE, Magnitudes
from dsenv.errors import pick, shown

PHOTOMETRIC_OPS = (
    "brightness",
    "color",
    "contrast",
    "sharpness",
    "posterize",
    "solarize",
    "autocontrast",
    "equalize",
    "cutout",
)
OPS = ("identity", *GEOMETRIC_OPS, *PHOTOMETRIC_OPS)
"""Names of all ops; the code of an op is its position."""
STANDARD_OPS = tuple(name for name in OPS if name not in ("flip_x", "flip_y", "cutout"))
"""The 14 ops of RandAugment, TrivialAugment, EntAugment and AdaAugment."""
ENHANCEMENTS = ("brightness", "color", "contrast", "sharpness")
DTYPES = (torch.uint8, torch.float32, torch.float16, torch.bfloat16)

CHUNK_VALUES = 1 << 17  # values one call works on on a CPU: small enough for its cache

Kernel = Callable[[Tensor, Draw], Tensor]


def op_codes(names: Sequence[str]) -> Tensor:
    """Codes (len(names),) int64 of ops.

    Raises:
        ValueError: there is no op of that name, or no name at all.
    """
    if isinstance(names, str) or not isinstance(names, Iterable):
        raise ValueError(f"ops must be a list of names, got {shown(names)}; there are: {', '.join(OPS)}")
    names = list(names)
    if not names:
        raise ValueError(f"at least one op is needed; there are: {', '.join(OPS)}")
    return torch.tensor([OPS.index(pick("op", name, OPS)) for name in names])


def apply_ops(
    images: Tensor,
    op: Tensor,
    strength: Tensor,
    generator: torch.Generator,
    magnitudes: Magnitudes = MODERATE,
) -> Tensor:
    """Apply to each image its own op at its own strength.

    Strength 0 returns the image unchanged, and for given random numbers the distance from it grows with the
    strength. Directions (left or right, brighter or darker) and cutout positions are drawn; flips happen with
    probability `strength`; autocontrast and equalize are blended in by it. Resampling takes the nearest
    pixel. On one-channel images, color is the identity.

    On a CPU each op works on the samples that drew it. On other devices it works on all of them and the
    right ones are kept, because finding out how many there are would stop the device.

    Args:
        images: (B, C, H, W), C 1 or 3; uint8, or floating with values in [0, 1].
        op: (B,) int64 codes, positions in `OPS`.
        strength: (B,) in [0, 1].
        generator: the only source of randomness; the batch draws 3 B numbers.
        magnitudes: what strength 1 means.

    Returns:
        (B, C, H, W) of the images' dtype; the input is left as it was.

    Raises:
        ValueError: shape, dtype or (on a CPU, where the check is cheap) a value is not as said above.
    """
    return apply_drawn(images, draw_parameters(op, strength, generator), magnitudes)


def apply_drawn(images: Tensor, draw: Draw, magnitudes: Magnitudes = MODERATE) -> Tensor:
    """`apply_ops` where all random numbers are drawn already; batches of several streams go in one call.

    Args:
        images: (B, C, H, W), as for `apply_ops`.
        draw: op, strength and random numbers of each image.
        magnitudes: what strength 1 means.
    """
    _check(images, draw.op, draw.strength)
    return (_apply_in_order if images.device.type == "cpu" else _apply_to_all)(images, draw, magnitudes)


def _apply_to_all(images: Tensor, draw: Draw, magnitudes: Magnitudes) -> Tensor:
    """Apply every op to all samples and keep the right results: nothing waits for the device."""
    result = images.clone()
    for first, last, kernel in _kernels(magnitudes):
        mask = (draw.op >= first) & (draw.op <= last)
        result = torch.where(mask[:, None, None, None], kernel(images, draw).to(images.dtype), result)
    return result


def _apply_in_order(images: Tensor, draw: Draw, magnitudes: Magnitudes) -> Tensor:
    """Apply each op to the samples that drew it; sorted by op, they are next to each other."""
    order = draw.op.argsort()
    ends = [0, *draw.op.bincount(minlength=len(OPS)).cumsum(0).tolist()]
    result, draw = images.index_select(0, order), draw.take(order)
    chunk = max(1, CHUNK_VALUES // max(1, images.shape[1:].numel()))

    for first, last, kernel in _kernels(magnitudes):
        for start in range(ends[first], ends[last + 1], chunk):
            rows = slice(start, min(start + chunk, ends[last + 1]))
            result[rows] = kernel(result[rows], draw.take(rows))

    return result.index_select(0, order.argsort())


def draw_ops(codes: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Draw `count` of the given op codes (R,), each with the same chance; (count,) int64 on their device."""
    choice = torch.randint(len(codes), (count,), generator=generator, device=generator.device)
    return codes[choice.to(codes.device)]


def _kernels(magnitudes: Magnitudes) -> list[tuple[int, int, Kernel]]:
    """First code, last code and function of every group of ops that runs as one call."""
    first = OPS.index(GEOMETRIC_OPS[0])
    move = partial(resample, magnitudes=magnitudes, first_code=first)
    groups: list[tuple[int, int, Kernel]] = [(first, first + len(GEOMETRIC_OPS) - 1, move)]

    for name in PHOTOMETRIC_OPS:
        code = OPS.index(name)
        groups.append((code, code, partial(_change_values, name=name, magnitudes=magnitudes)))
    return groups


def _change_values(images: Tensor, draw: Draw, *, name: str, magnitudes: Magnitudes) -> Tensor:
    """Apply one photometric op to all images; floats, to be truncated to the images' dtype."""
    if name == "cutout":
        side = (draw.strength * (magnitudes.cutout * min(images.shape[-2:]))).round()
        return photometric.cutout(images, side, draw.row, draw.column)

    if name in ENHANCEMENTS:
        amount = 1 + draw.sign * draw.strength * magnitudes.enhance
    elif name == "posterize":
        amount = (draw.strength * magnitudes.posterize).round()
    else:
        amount = draw.strength

    top = 255.0 if images.dtype == torch.uint8 else 1.0
    function: Callable[[Tensor, Tensor, float], Tensor] = getattr(photometric, name)
    return function(images.float(), amount[:, None, None, None], top)


def _check(images: Tensor, op: Tensor, strength: Tensor) -> None:
    if images.ndim != 4 or images.shape[1] not in (1, 3):
        raise ValueError(f"images must be (B, C, H, W) with 1 or 3 channels, got shape {tuple(images.shape)}")
    if images.dtype not in DTYPES:
        allowed = ", ".join(str(dtype).removeprefix("torch.") for dtype in DTYPES)
        raise ValueError(f"images must be {allowed}, got {images.dtype}; convert them first")

    if images.is_floating_point() and images.device.type == "cpu" and images.numel():
        low, high = (float(value) for value in images.aminmax())
        if not (low >= 0 and high <= 1):
            raise ValueError(
                f"floating images must be in [0, 1], got {low} to {high}; augment before normalizing"
            )

    if op.shape != images.shape[:1] or strength.shape != images.shape[:1]:
        raise ValueError(
            f"{len(images)} images need as many ops and strengths, "
            f"got shapes {tuple(op.shape)} and {tuple(strength.shape)}"
        )

    # Values are checked on a CPU only: reading them elsewhere would wait for the device
    if strength.device.type == "cpu" and not ((strength >= 0) & (strength <= 1)).all():
        low, high = float(strength.min()), float(strength.max())
        raise ValueError(
            f"strengths must be in [0, 1], got values from {low} to {high}; divide by your own maximum"
        )
    if op.device.type == "cpu" and not ((op >= 0) & (op < len(OPS))).all():
        raise ValueError(
            f"op codes must be in 0..{len(OPS) - 1}, got {op.tolist()}; `op_codes` makes them from names"
        )
