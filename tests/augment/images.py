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


def digit_images(count: int, channels: int, height: int, width: int) -> Tensor:
    """Upscaled digits, uint8."""
    from sklearn.datasets import load_digits

    small = torch.from_numpy(load_digits().images[:count]).float()[:, None] / 16
    large = F.interpolate(small, (height, width), mode="bilinear").clamp(0, 1)
    tint = torch.tensor([1.0, 0.8, 0.55])[:channels, None, None]
    return (large * tint * 255).round().to(torch.uint8)
