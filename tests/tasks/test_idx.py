"""Idx files: what was written is read, and what is damaged is refused with the path."""

import gzip
import struct

import numpy as np
import pytest
import torch

from dsenv.tasks.fashion_mnist import fashion_mnist
from dsenv.tasks.idx import read_idx
from tests.conftest import write_fashion_mnist, write_idx

pytestmark = pytest.mark.fast


def header(*shape, kind=8, zeros=0):
    return struct.pack(">HBB", zeros, kind, len(shape)) + struct.pack(f">{len(shape)}I", *shape)


WHOLE = gzip.compress(header(3, 4) + bytes(12))
BAD = {
    "empty": (b"", "is empty"),
    "one byte": (b"\x1f", "not gzipped"),
    "gzip of nothing": (gzip.compress(b""), "magic number none"),
    "cut magic": (gzip.compress(b"\0\0\x08"), "magic number 000008"),
    "cut header": (gzip.compress(header(3, 4)[:7]), "ends within its header"),
    "no dimension": (gzip.compress(header()), "has 0 dimensions"),
    "many dimensions": (gzip.compress(b"\0\0\x08\xff" + bytes(4 * 255)), "has 255 dimensions"),
    "wrong magic": (gzip.compress(header(3, zeros=1) + bytes(3)), "not an idx file"),
    "floats": (gzip.compress(header(3, kind=13) + bytes(12)), "not an idx file of unsigned bytes"),
    "too short": (gzip.compress(header(3, 4) + bytes(11)), "holds 11 values, its header promises 12"),
    "too long": (gzip.compress(header(3, 4) + bytes(13)), "holds more than 12 values"),
    "huge": (gzip.compress(header(2**32 - 1, 2**32 - 1) + bytes(3)), "more than the 1,073,741,824 allowed"),
    "large": (gzip.compress(header(2**30) + bytes(3)), "holds 3 values"),
    "not gzipped": (header(3, 4) + bytes(12), "is an idx file that is not gzipped"),
    "text": (b"404: not found", "is not gzipped"),
    "cut": (WHOLE[:-9], "damaged or cut short"),
    "cut checksum": (WHOLE[:-2], "damaged or cut short"),
    "flipped": (WHOLE[:12] + b"\xff\xff\xff" + WHOLE[15:], "damaged|holds|magic"),
    "wrong checksum": (WHOLE[:-8] + b"abcd" + WHOLE[-4:], "damaged or cut short"),
    "trailing": (WHOLE + b"xyz", "damaged or cut short"),
}


@pytest.mark.parametrize(("content", "message"), BAD.values(), ids=BAD)
def test_a_damaged_file_is_refused_with_its_path(tmp_path, content, message):
    path = tmp_path / "some-images.gz"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"(?s)some-images.gz.*({message})"):
        read_idx(path)


def test_a_folder_and_no_file_are_named(tmp_path):
    with pytest.raises(ValueError, match="is a folder"):
        read_idx(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no idx file at .*none\.gz"):
        read_idx(tmp_path / "none.gz")


@pytest.mark.parametrize("shape", [(5,), (0,), (3, 4), (2, 28, 28), (2, 3, 4, 5)])
@pytest.mark.parametrize("name", ["x.gz", "x"])
def test_what_was_written_is_read(tmp_path, shape, name):
    values = np.random.default_rng(0).integers(256, size=shape, dtype=np.uint8)
    write_idx(tmp_path / name, values)
    assert torch.equal(read_idx(tmp_path / name), torch.from_numpy(values))


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("train-labels-idx1-ubyte.gz", np.zeros(219), "has 220 images, .*train-labels.* 219 labels"),
        ("t10k-labels-idx1-ubyte.gz", np.full(60, 10), "t10k-labels.* has the label 10"),
        ("t10k-labels-idx1-ubyte.gz", np.zeros((60, 1)), r"t10k-labels.* shape \(60, 1\), expected labels"),
        (
            "train-images-idx3-ubyte.gz",
            np.zeros((220, 8, 8)),
            r"train-images.* shape \(220, 8, 8\), expected",
        ),
        (
            "train-images-idx3-ubyte.gz",
            np.zeros(220),
            r"train-images.* shape \(220,\), expected \(N, 28, 28\)",
        ),
    ],
)
def test_files_that_do_not_belong_together_are_named(tmp_path, name, values, message):
    write_fashion_mnist(tmp_path)
    write_idx(tmp_path / name, values)
    with pytest.raises(ValueError, match=message):
        fashion_mnist(train=64, validation=32, root=str(tmp_path))
