"""Any pair of tensors as a data set."""

import torch
from torch import Tensor

from dsenv.tasks.dataset import Dataset, split_pools


def from_tensors(
    images: Tensor,
    labels: Tensor,
    *,
    name: str = "tensors",
    classes: int | None = None,
    train: int | None = None,
    validation: int = 300,
    test: int | None = 300,
    test_images: Tensor | None = None,
    test_labels: Tensor | None = None,
    split_seed: int = 0,
) -> Dataset:
    """Make a data set of samples and labels.

    Args:
        images: (N, ...) uint8 in 0..255, normalised by the training split's mean and deviation, or
            float32 that is used as it is. Images are (N, C, H, W).
        labels: (N,) whole numbers from 0.
        name: names the data set in messages.
        classes: number of classes; None for the largest label plus one.
        train: training samples; None for all that are left.
        validation: trusted validation samples.
        test: test samples; None for all that are left.
        test_images: test samples of their own; drawn from `images` where None.
        test_labels: their labels.
        split_seed: decides which sample falls into which split.

    Raises:
        ValueError: see `Dataset`.
    """
    _check_pair(name, images, labels)
    own_test = _own_test(test_images, test_labels)
    splits = split_pools(name, (images, labels.long()), own_test, (train, validation, test), split_seed)

    count = int(labels.max()) + 1 if classes is None else classes
    if images.dtype != torch.uint8:
        return Dataset(name, *splits, classes=count)
    mean, std = _statistics(splits[0].images)
    return Dataset(name, *splits, classes=count, mean=mean, std=std)


def _check_pair(name: str, images: Tensor, labels: Tensor) -> None:
    for what, values in (("images", images), ("labels", labels)):
        if not isinstance(values, Tensor):
            raise ValueError(
                f"{name}: {what} must be a tensor, got {type(values).__name__}; use torch.as_tensor"
            )
    if labels.is_floating_point():
        raise ValueError(f"{name}: labels must be whole numbers, got {labels.dtype}; use labels.long()")
    if len(images) != len(labels):
        raise ValueError(f"{name} has {len(images)} samples and {len(labels)} labels")


def _own_test(images: Tensor | None, labels: Tensor | None) -> tuple[Tensor, Tensor] | None:
    """Test samples of their own; None where they are to be drawn from the others."""
    if (images is None) != (labels is None):
        raise ValueError("give test_images and test_labels together, or neither")
    return None if images is None or labels is None else (images, labels.long())


def _statistics(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel of uint8 images, on the scale 0..1."""
    pixels = images.float() / 255
    pixels = pixels.transpose(0, 1).flatten(1)  # (C, everything else)
    return tuple(pixels.mean(1).tolist()), tuple(pixels.std(1).clamp(min=1e-3).tolist())
