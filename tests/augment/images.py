"""Images to augment, for the tests of dsenv.augment."""

import torch
from torch import Tensor
from torch.nn import functional as F


def smooth_images(count: int, channels: int, height: int, width: int, seed: int = 0) -> Tensor:
    """Random smooth uint8 images over the whole range, a little noisy."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, channels, 5, 5, generator=generator)
    fine = F.interpolate(coarse, (height, width), mode="bicubic")
    noise = 0.02 * torch.randn(fine.shape, generator=generator)
    return ((fine * 1.2 - 0.1 + noise).clamp(0, 1) * 255).round().to(torch.uint8)


def stroke_images(count: int, channels: int, height: int, width: int) -> Tensor:
    """Upscaled strokes, uint8: like digits, bright on black with black margins."""
    generator = torch.Generator().manual_seed(1)
    small = torch.zeros(count, 1, 8, 8)
    small[..., 1:7, 2:6] = (1.5 * torch.rand(count, 1, 6, 4, generator=generator) - 0.5).clamp_(0, 1)
    large = F.interpolate(small, (height, width), mode="bilinear").clamp(0, 1)
    tint = torch.tensor([1.0, 0.8, 0.55])[:channels, None, None]
    return (large * tint * 255).round().to(torch.uint8)
