"""Reads gzipped idx files, LeCun's format, in which MNIST and its like come."""

import gzip
import struct
import zlib
from math import prod
from pathlib import Path
from typing import BinaryIO, NoReturn

import numpy as np
import torch
from torch import Tensor

from dsenv.errors import check_file

LARGEST = 1 << 30  # bytes; the largest file of EMNIST holds 0.55 of them
MOST_DIMENSIONS = 4
PIECE = 1 << 20  # bytes unpacked at a time: a header may promise anything, so memory follows what is there


def read_idx(path: Path) -> Tensor:
    """Read a gzipped idx file of unsigned bytes as a uint8 tensor of the shape in its header.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is empty, cut short, not gzipped, damaged, of another type, or too large; the
            message names it.
    """
    check_file(path, "idx file")
    try:
        with path.open("rb") as file:
            start = file.read(2)
            if start != b"\x1f\x8b":
                _refuse_plain(path, start)
            file.seek(0)
            with gzip.GzipFile(fileobj=file) as unpacked:
                return _read(path, unpacked)
    except (EOFError, OSError, zlib.error) as error:
        raise ValueError(f"{path} is damaged or cut short ({error}); fetch it again") from error


def _refuse_plain(path: Path, start: bytes) -> NoReturn:
    if not start:
        raise ValueError(f"{path} is empty; fetch it again")
    if start == b"\0\0":
        raise ValueError(f"{path} is an idx file that is not gzipped; pack it: gzip --keep NAME")
    raise ValueError(f"{path} is not gzipped (it begins with {start.hex()}); fetch it again")


def _read(path: Path, file: BinaryIO | gzip.GzipFile) -> Tensor:
    """The values of an unpacked idx file."""
    head = file.read(4)
    if len(head) < 4 or head[:3] != b"\x00\x00\x08":
        raise ValueError(f"{path} is not an idx file of unsigned bytes (magic number {head.hex() or 'none'})")
    if not 1 <= head[3] <= MOST_DIMENSIONS:
        raise ValueError(f"{path} has {head[3]} dimensions, expected 1 to {MOST_DIMENSIONS}")

    sizes = file.read(4 * head[3])
    if len(sizes) < 4 * head[3]:
        raise ValueError(f"{path} ends within its header; fetch it again")
    shape = struct.unpack(f">{head[3]}I", sizes)
    promised = prod(shape)

    # One byte more than promised shows a file that is too long
    content = bytearray()
    while piece := file.read(min(PIECE, min(promised, LARGEST) + 1 - len(content))):
        content += piece
    if promised > LARGEST:
        raise ValueError(
            f"{path}: its header promises {promised:,} values, more than the {LARGEST:,} allowed"
        )
    if len(content) != promised:
        held = f"more than {promised}" if len(content) > promised else str(len(content))
        raise ValueError(f"{path} holds {held} values, its header promises {promised}; fetch it again")

    return torch.from_numpy(np.frombuffer(bytes(content), np.uint8).reshape(shape).copy())
