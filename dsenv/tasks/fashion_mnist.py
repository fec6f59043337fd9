"""Fashion-MNIST: 70,000 grey images of 28 x 28 pixels in ten classes, from gzipped idx files."""

import os
from pathlib import Path

from torch import Tensor

from dsenv.errors import check_flag
from dsenv.tasks.dataset import Dataset, split_pools
from dsenv.tasks.idx import read_idx
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
        ValueError: a file is damaged, or two do not belong together; the message names it.
    """
    folder = _find(root, download)
    pool, test_pool = (_read_pair(*(folder / name for name in FILES[part])) for part in ("train", "test"))
    splits = split_pools("fashion_mnist", pool, test_pool, (train, validation, test), split_seed)

    return Dataset("fashion_mnist", *splits, classes=10, mean=(0.2860,), std=(0.3530,))


def _read_pair(images_path: Path, labels_path: Path) -> tuple[Tensor, Tensor]:
    """Images (N, 1, 28, 28) and labels (N,) of two files that belong together."""
    images, labels = read_idx(images_path), read_idx(labels_path)
    if images.dim() != 3 or tuple(images.shape[1:]) != (28, 28):
        raise ValueError(f"{images_path} has values of shape {tuple(images.shape)}, expected (N, 28, 28)")
    if labels.dim() != 1:
        raise ValueError(f"{labels_path} has values of shape {tuple(labels.shape)}, expected labels (N,)")
    if len(images) != len(labels):
        raise ValueError(f"{images_path} has {len(images)} images, {labels_path} {len(labels)} labels")
    if len(labels) and int(labels.max()) > 9:
        raise ValueError(f"{labels_path} has the label {int(labels.max())}, expected 0 to 9")
    return images[:, None], labels.long()


def _find(root: str | None, download: bool) -> Path:
    own, download = data_root(root), check_flag("dataset.download", download)
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

    try:
        FashionMNIST(os.fspath(own), train=True, download=True)
    except (OSError, RuntimeError) as error:
        raise RuntimeError(f"Fashion-MNIST could not be fetched to {own}: {error}") from error
    return own / "FashionMNIST" / "raw"
