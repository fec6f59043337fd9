"""What all tests share: one torch thread, and small files in the formats of the large data sets."""

import gzip
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.stamps import write_stamps

torch.set_num_threads(1)  # two threads on shared cores collapse
torch.backends.cudnn.deterministic = True  # else a GPU's convolutions differ from call to call in last bits

TINY = "dsenv/Tiny-Curriculum-v0"


def pytest_collection_modifyitems(items):
    skip = pytest.mark.skip(reason="no CUDA device")
    for item in items:
        if "gpu" in item.keywords and not torch.cuda.is_available():
            item.add_marker(skip)


def write_idx(path: Path, values: np.ndarray) -> None:
    """A gzipped idx file of unsigned bytes, as Fashion-MNIST's are."""
    header = struct.pack(">HBB", 0, 8, values.ndim) + struct.pack(f">{values.ndim}I", *values.shape)
    path.write_bytes(gzip.compress(header + values.astype(np.uint8).tobytes()))


def write_fashion_mnist(folder: Path, train: int = 220, test: int = 60) -> None:
    rng = np.random.default_rng(0)
    for part, number in (("train", train), ("t10k", test)):
        write_idx(folder / f"{part}-images-idx3-ubyte.gz", rng.integers(256, size=(number, 28, 28)))
        write_idx(folder / f"{part}-labels-idx1-ubyte.gz", np.arange(number) % 10)


def write_cifar(folder: Path, classes: int, train: int = 220, test: int = 60) -> None:
    """CIFAR's pickled batches, a few images each."""
    rng = np.random.default_rng(0)
    name, key = ("cifar-10-batches-py", b"labels") if classes == 10 else ("cifar-100-python", b"fine_labels")
    (folder / name).mkdir()
    files = {"data_batch_1": train, "test_batch": test} if classes == 10 else {"train": train, "test": test}
    for file, number in files.items():
        labels = (np.arange(number) % classes).tolist()
        batch = {
            key.decode(): labels,
            "data": rng.integers(256, size=(number, 3072), dtype=np.uint8),
        }
        (folder / name / file).write_bytes(pickle.dumps(batch))
    meta = ("batches.meta", "label_names") if classes == 10 else ("meta", "fine_label_names")
    (folder / name / meta[0]).write_bytes(pickle.dumps({meta[1]: [str(c) for c in range(classes)]}))


@pytest.fixture
def data_folder(tmp_path, monkeypatch):
    """A data folder with small Fashion-MNIST and CIFAR files and stamps; $DSENV_DATA points to it."""
    from torchvision.datasets import CIFAR10, CIFAR100

    write_fashion_mnist(tmp_path)
    write_cifar(tmp_path, 10)
    write_cifar(tmp_path, 100)
    # The small files have other checksums than the published ones; None skips the comparison.
    monkeypatch.setattr(CIFAR10, "train_list", [["data_batch_1", None]])
    monkeypatch.setattr(CIFAR10, "test_list", [["test_batch", None]])
    monkeypatch.setattr(CIFAR10, "meta", {**CIFAR10.meta, "md5": None})
    monkeypatch.setattr(CIFAR100, "train_list", [["train", None]])
    monkeypatch.setattr(CIFAR100, "test_list", [["test", None]])
    monkeypatch.setattr(CIFAR100, "meta", {**CIFAR100.meta, "md5": None})
    write_stamps(tmp_path / "tuxpaint" / "stamps")
    monkeypatch.setenv("DSENV_DATA", str(tmp_path))
    return tmp_path
