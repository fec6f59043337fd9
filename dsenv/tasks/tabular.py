"""Small tables of real measurements, shipped with scikit-learn: breast cancer, wine and iris."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from dsenv.tasks.dataset import Dataset, Split, split_pools

Sizes = tuple[int | None, int, int | None]


def breast_cancer(
    train: int | None = 300, validation: int = 100, test: int | None = None, split_seed: int = 0
) -> Dataset:
    """Load breast cancer (Wisconsin): 569 samples of 30 measurements in two classes; nothing is downloaded.

    Measurements are standardised by the mean and deviation of the training split.

    Args:
        train: training samples; None for all that are left.
        validation: trusted validation samples.
        test: test samples; None for all that are left.
        split_seed: decides which sample falls into which split.
    """
    from sklearn.datasets import load_breast_cancer

    return _table("breast_cancer", load_breast_cancer, (train, validation, test), split_seed)


def wine(
    train: int | None = 90, validation: int = 40, test: int | None = None, split_seed: int = 0
) -> Dataset:
    """Load wine: 178 samples of 13 measurements in three classes; nothing is downloaded.

    Arguments and scaling are those of `breast_cancer`.
    """
    from sklearn.datasets import load_wine

    return _table("wine", load_wine, (train, validation, test), split_seed)


def iris(
    train: int | None = 75, validation: int = 35, test: int | None = None, split_seed: int = 0
) -> Dataset:
    """Load iris: 150 samples of 4 measurements in three classes; nothing is downloaded.

    Arguments and scaling are those of `breast_cancer`.
    """
    from sklearn.datasets import load_iris

    return _table("iris", load_iris, (train, validation, test), split_seed)


def _table(name: str, load: Callable[[], Any], sizes: Sizes, split_seed: int) -> Dataset:
    source = load()
    values = torch.from_numpy(source.data).double()  # (N, D)
    labels = torch.from_numpy(source.target).long()
    splits = standardised(split_pools(name, (values, labels), None, sizes, split_seed))
    return Dataset(name, *splits, classes=len(source.target_names))


def standardised(splits: tuple[Split, Split, Split]) -> tuple[Split, Split, Split]:
    """Splits of tables (N, D) with the mean and deviation of the first, the training split, taken off."""
    own = splits[0].images
    mean, deviation = own.mean(0), own.std(0).clamp(min=1e-6)
    train, validation, test = (
        replace(split, images=((split.images - mean) / deviation).float()) for split in splits
    )
    return train, validation, test
