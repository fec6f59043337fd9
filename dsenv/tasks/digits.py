"""scikit-learn's digits: 1,797 grey images of 8 x 8 pixels in ten classes, shipped with scikit-learn."""

import torch

from dsenv.tasks.dataset import Dataset, split_pools


def digits(
    train: int | None = 1000, validation: int = 300, test: int | None = None, split_seed: int = 0
) -> Dataset:
    """Load digits; nothing is downloaded.

    Args:
        train: training samples; None for all that are left.
        validation: trusted validation samples.
        test: test samples; None for all that are left.
        split_seed: decides which sample falls into which split.
    """
    from sklearn.datasets import load_digits

    source = load_digits()
    images = torch.from_numpy(source.images / 16 * 255).round().to(torch.uint8)[:, None]
    labels = torch.from_numpy(source.target).long()
    splits = split_pools("digits", (images, labels), None, (train, validation, test), split_seed)
    return Dataset("digits", *splits, classes=10, mean=(0.3053,), std=(0.3760,))
