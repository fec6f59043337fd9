"""Fashion-MNIST: 70,000 grey images of 28 x 28 pixels in ten classes, from gzipped idx files."""

import gzip
import os
import struct
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dsenv.tasks.dataset import Dataset, split_pools
from dsenv.tasks.roots import data_root

DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")
FILES = {
    "train": ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"),
    "test": ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"),
}


def fashion_mnist(
    train: int | None = None,
    validation: int = 5000,
    test: int | None = None,
    split_seed: int = 0,
    root: str | None = None,
    download: bool = False,
) -> Dataset:
    """Load Fashion-MNIST (Xiao et al., 2017).

    The files are read from the first folder that has them: `root`, dsenv's data folder, or the folder of
    Debian's package `dataset-fashion-mnist`.

    Args:
        train: training samples; None for all that are left.
        validation: trusted validation samples, drawn from the official training set.
        test: test samples, drawn from the official test set; None for all 10,000.
        split_seed: decides which sample falls into which split.
        root: folder of the four .gz files.
        download: fetch the files through torchvision where they are missing.

    Raises:
        FileNotFoundError: the files are in none of the folders.
    """
    folder = _find(root, download)
    pools = [tuple(read_idx(folder / name) for name in FILES[part]) for part in ("train", "test")]
    (images, labels), (test_images, test_labels) = pools

    splits = split_pools(
        "fashion_mnist",
        (images[:, None], labels.long()),
        (test_images[:, None], test_labels.long()),
        (train, validation, test),
        split_seed,
    )

    return Dataset("fashion_mnist", *splits, classes=10, mean=(0.2860,), std=(0.3530,))


def _find(root: str | None, download: bool) -> Path:
    own = data_root(root)
    folders = [own, own / "FashionMNIST" / "raw", *([] if root else [DEBIAN_FOLDER])]
    needed = [name for pair in FILES.values() for name in pair]
    for folder in folders:
        if all((folder / name).is_file() for name in needed):
            return folder

    if not download:
        searched = ", ".join(os.fspath(folder) for folder in folders)
        raise FileNotFoundError(
            f"Fashion-MNIST's files ({', '.join(needed)}) are in none of: {searched}. Set dataset.download "
            "= true to fetch them, dataset.root to the folder that holds them, or on Debian run "
            "`apt-get install dataset-fashion-mnist`."
        )
    from torchvision.datasets import FashionMNIST

    FashionMNIST(os.fspath(own), train=True, download=True)
    return own / "FashionMNIST" / "raw"


def read_idx(path: Path) -> Tensor:
    """Read a gzipped idx file of unsigned bytes (LeCun's format) as a uint8 tensor.

    Raises:
        ValueError: the file is not of that format, or is cut short.
    """
    content = gzip.decompress(path.read_bytes())
    zeros, kind, dimensions = struct.unpack(">HBB", content[:4])
    if zeros != 0 or kind != 0x08:
        raise ValueError(f"{path} is not an idx file of unsigned bytes (magic number {content[:4].hex()})")

    shape = struct.unpack(f">{dimensions}I", content[4 : 4 + 4 * dimensions])
    values = np.frombuffer(content, np.uint8, offset=4 + 4 * dimensions)
    if values.size != np.prod(shape):
        raise ValueError(f"{path} holds {values.size} values, its header promises {int(np.prod(shape))}")

    return torch.from_numpy(values.reshape(shape).copy())
