"""CIFAR-10, CIFAR-100 and SVHN, through torchvision."""

import os
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dsenv.errors import check_flag
from dsenv.tasks.dataset import Dataset, split_pools
from dsenv.tasks.roots import data_root

Sizes = tuple[int | None, int, int | None]


def cifar10(
    train: int | None = None,
    validation: int = 5000,
    test: int | None = None,
    split_seed: int = 0,
    root: str | None = None,
    download: bool = False,
) -> Dataset:
    """Load CIFAR-10: 60,000 colour images of 32 x 32 pixels in ten classes.

    Args:
        train: training samples; None for all that are left.
        validation: trusted validation samples, drawn from the official training set.
        test: test samples, drawn from the official test set; None for all.
        split_seed: decides which sample falls into which split.
        root: folder with torchvision's files; None for dsenv's data folder.
        download: fetch the files where they are missing.

    Raises:
        FileNotFoundError: the files are not there.
        ValueError: a file is damaged.
    """
    statistics = ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))
    return _cifar("CIFAR10", 10, statistics, (train, validation, test), split_seed, root, download)


def cifar100(
    train: int | None = None,
    validation: int = 5000,
    test: int | None = None,
    split_seed: int = 0,
    root: str | None = None,
    download: bool = False,
) -> Dataset:
    """Load CIFAR-100: 60,000 colour images of 32 x 32 pixels in a hundred classes.

    Arguments and errors are those of `cifar10`.
    """
    statistics = ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762))
    return _cifar("CIFAR100", 100, statistics, (train, validation, test), split_seed, root, download)


def svhn(
    train: int | None = None,
    validation: int = 5000,
    test: int | None = None,
    split_seed: int = 0,
    root: str | None = None,
    download: bool = False,
) -> Dataset:
    """Load SVHN: 99,289 colour images of house numbers, 32 x 32 pixels, ten classes.

    Arguments and errors are those of `cifar10`.
    """
    parts = []
    for split in ("train", "test"):
        source = _open("SVHN", root, download, split=split)
        parts.append((torch.from_numpy(source.data), torch.from_numpy(source.labels).long()))
    splits = split_pools("svhn", parts[0], parts[1], (train, validation, test), split_seed)
    return Dataset("svhn", *splits, classes=10, mean=(0.4377, 0.4438, 0.4728), std=(0.1980, 0.2010, 0.1970))


def _cifar(
    name: str,
    classes: int,
    statistics: tuple[tuple[float, ...], tuple[float, ...]],
    sizes: Sizes,
    split_seed: int,
    root: str | None,
    download: bool,
) -> Dataset:
    parts: list[tuple[Tensor, Tensor]] = []
    for is_train in (True, False):
        source = _open(name, root, download, train=is_train)
        if len(source.data) != len(source.targets):
            raise ValueError(
                f"{name} in {data_root(root)} has {len(source.data)} images and {len(source.targets)} "
                "labels; remove its files and set dataset.download = true"
            )
        images = torch.from_numpy(np.ascontiguousarray(source.data.transpose(0, 3, 1, 2)))  # (N, 3, 32, 32)
        parts.append((images, torch.tensor(source.targets, dtype=torch.int64)))
    splits = split_pools(name.lower(), parts[0], parts[1], sizes, split_seed)
    return Dataset(name.lower(), *splits, classes=classes, mean=statistics[0], std=statistics[1])


def _open(name: str, root: str | None, download: bool, **part: Any) -> Any:
    """The data set as torchvision reads it.

    Raises:
        FileNotFoundError: its files are not there, or not those that torchvision knows.
        RuntimeError: they could not be fetched.
        ValueError: a file is damaged.
    """
    import torchvision.datasets

    folder, download = os.fspath(data_root(root)), check_flag("dataset.download", download)
    constructor: Callable[..., Any] = getattr(torchvision.datasets, name)
    try:
        return constructor(folder, download=download, **part)
    except Exception as error:
        if isinstance(error, RuntimeError) and "not found" in str(error).lower():
            raise FileNotFoundError(
                f"{name} is not in {folder} ({error}). Set dataset.download = true to fetch it, or "
                "dataset.root to the folder that holds torchvision's files."
            ) from error
        if download and isinstance(error, OSError | RuntimeError):
            raise RuntimeError(f"{name} could not be fetched to {folder}: {error}") from error
        raise ValueError(
            f"{name}'s files in {folder} are damaged ({type(error).__name__}: {error}); remove them and set "
            "dataset.download = true"
        ) from error
