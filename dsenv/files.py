"""Every file that dsenv writes: whole or not at all, and never through a symbolic link.

`write` puts content into a temporary file in the same folder, waits until the disk has it, and renames it:
a process that is killed, or a disk that is full, leaves the old file as it was. `save_state` and
`load_state` keep nested plain data as one safetensors file with a checksum; reading it executes nothing.
"""

import contextlib
import hashlib
import json
import os
import re
import uuid
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from dsenv.plain import TAG, decoded, encoded

VERSION = 2  # of the form that save_state writes
SIGNED = {torch.uint16: torch.int16, torch.uint32: torch.int32, torch.uint64: torch.int64}
"""Types that old versions of safetensors do not know, and those of equal width that they are stored as."""
STATE, DIGEST = "dsenv.state", "dsenv.sha256"  # keys of the file's metadata
BLANK = "0" * 64
PARTIAL = ".partial"


class DamagedFileError(ValueError):
    """A file that is not as it was written: cut, changed, or never finished."""


# Writing


def write(path: Path, content: bytes) -> Path:
    """Write a file, whole or not at all.

    Args:
        path: the file; what was there before is replaced.
        content: all of it.

    Returns:
        The path.

    Raises:
        OSError: it cannot be written; the message names the file, and what was there before is whole. Also
            where the path is a symbolic link, which might lead anywhere.
    """
    with writing(path) as file:
        file.write(content)
    return path


@contextlib.contextmanager
def writing(path: Path) -> Iterator[BinaryIO]:
    """A file to write piece by piece, for content that does not fit into memory; see `write`.

    It takes the place of the path when the block ends, and nothing is left of it where the block raises.
    """
    refuse_link(path)
    partial = path.with_name(f".{path.name[:100]}.{uuid.uuid4().hex}{PARTIAL}")

    try:
        try:
            with open(partial, "xb") as file:  # "x": a file or link of that name is not followed
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, path)
        finally:
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)
        sync_folder(path.parent)
    except OSError as error:
        _explain(error, path)


def _explain(error: OSError, path: Path) -> NoReturn:
    kept = "the file of before is as it was" if path.exists() else "nothing was left behind"
    words = f"cannot write {path}: {error.strerror or error}; {kept}"
    raise OSError(error.errno or 0, words) from error


@contextlib.contextmanager
def naming(what: str) -> Iterator[None]:
    """Name what another library could not write, which leaves that out.

    Raises:
        OSError: as inside, with the name.
    """
    try:
        yield
    except OSError as error:
        raise OSError(error.errno or 0, f"cannot write {what}: {error.strerror or error}") from error


def write_text(path: Path, text: str) -> Path:
    """Write a text file in UTF-8; see `write`."""
    return write(path, text.encode())


def refuse_link(path: Path) -> None:
    """Refuse to write through a symbolic link.

    Raises:
        OSError: the path is one.
    """
    if path.is_symlink():
        raise OSError(
            f"{path} is a symbolic link to {os.readlink(path)}: dsenv does not write through links, which "
            "may lead outside of the folder; remove the link"
        )


def sync_folder(folder: Path) -> None:
    """Wait until the disk knows the names in a folder, where the system offers that."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    with contextlib.suppress(OSError):  # some network file systems cannot
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def check_writable(folder: Path) -> None:
    """Write and remove a small file in a folder, so that one that takes none is found out first.

    Raises:
        OSError: it cannot be written to; the message names it.
    """
    probe = folder / f".{uuid.uuid4().hex}{PARTIAL}"
    try:
        try:
            probe.write_bytes(b"\0")
        finally:
            with contextlib.suppress(OSError):
                probe.unlink(missing_ok=True)
    except OSError as error:
        raise OSError(
            error.errno or 0, f"cannot write into {folder}: {error.strerror or error}; nothing was begun"
        ) from error


def remove_partials(folder: Path) -> None:
    """Remove what writers that were killed left in a folder."""
    for path in folder.glob(f".*{PARTIAL}"):
        if path.is_file() and not path.is_symlink():
            path.unlink(missing_ok=True)


def set_aside(path: Path, reason: object) -> Path:
    """Rename a damaged file to NAME.damaged (NAME.damaged-2, ...), with a warning.

    Args:
        path: the file.
        reason: what is wrong with it.

    Returns:
        Where it lies now.
    """
    target, number = path.with_name(f"{path.name}.damaged"), 2
    while target.exists() or target.is_symlink():
        target, number = path.with_name(f"{path.name}.damaged-{number}"), number + 1

    path.rename(target)
    warnings.warn(f"{path} is damaged and was set aside as {target.name}: {reason}", stacklevel=2)
    return target


# Nested plain data


def save_state(path: Path, state: Any) -> Path:
    """Write nested plain data: dicts, lists, tuples, tensors, NumPy arrays, numbers, text and None.

    Numbers keep every bit: whole ones of any size, and floating-point ones that are not finite. Equal content
    gives an equal file.

    Args:
        path: the file, NAME.safetensors.
        state: as `dsenv.plain.encoded` takes it; tensors may lie on any device.

    Raises:
        ValueError: something in it is not plain data; the message says where.
        OSError: as `write`.
    """
    return write(path, state_bytes(state))


def state_bytes(state: Any) -> bytes:
    """The content of the file that `save_state` writes."""
    tensors: dict[str, Tensor] = {}

    def stored(tensor: Tensor) -> dict[str, str]:
        """The place of a tensor among `tensors`."""
        place = {TAG: "tensor", "name": str(len(tensors))}
        if tensor.dtype in SIGNED:
            place["dtype"] = str(tensor.dtype)
            tensor = tensor.view(SIGNED[tensor.dtype])
        tensors[place["name"]] = tensor
        return place

    text = json.dumps({"version": VERSION, "state": encoded(state)}, allow_nan=False, default=stored)
    content = _ordered(save(tensors, {STATE: text, DIGEST: BLANK}))

    # The digest is that of the whole file with zeros in its own place
    start = _digest_place(content)
    digest = hashlib.sha256(content).hexdigest().encode()
    content[start : start + len(digest)] = digest
    return bytes(content)


def load_state(path: Path) -> Any:
    """Read what `save_state` wrote; tensors are on the CPU. Nothing is executed.

    Raises:
        FileNotFoundError: there is no such file.
        DamagedFileError: it is not as it was written.
        ValueError: another version of dsenv wrote it, in another form.
    """
    content = bytearray(path.read_bytes())
    start = _digest_place(content)
    if start < 0:
        raise DamagedFileError(f"{path} is not whole: {len(content)} bytes without a checksum")
    own = bytes(content[start : start + len(BLANK)]).decode("ascii", "replace")
    content[start : start + len(BLANK)] = BLANK.encode()
    found = hashlib.sha256(content).hexdigest()
    if found != own:
        raise DamagedFileError(
            f"{path} was cut or changed after it was written: its SHA-256 is {found[:12]}..., "
            f"it says {own[:12]}..."
        )

    try:
        tensors = load(bytes(content))
        length = int.from_bytes(content[:8], "little")
        text = json.loads(content[8 : 8 + length])["__metadata__"][STATE]
        outer = json.loads(
            text, object_hook=lambda held: _placed(held, tensors) if held.get(TAG) == "tensor" else held
        )
        if outer["version"] == VERSION:
            return decoded(outer["state"], torch.device("cpu"))
    except (SafetensorError, ValueError, KeyError, TypeError, IndexError, RecursionError) as error:
        raise DamagedFileError(f"{path} is not what dsenv writes: {error!r}") from error
    raise ValueError(
        f"{path} has the form {outer['version']!r}, this version of dsenv reads {VERSION}: use the version "
        "that wrote it"
    )


def _placed(place: dict[str, str], tensors: Mapping[str, Tensor]) -> Tensor:
    """The tensor that `place` stands for."""
    tensor = tensors[place["name"]]
    unsigned = {str(dtype): dtype for dtype in SIGNED}
    return tensor.view(unsigned[place["dtype"]]) if "dtype" in place else tensor


def _ordered(content: bytes) -> bytearray:
    """The same safetensors file with its metadata sorted, which are else in another order each time."""
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return bytearray(len(text).to_bytes(8, "little") + text + content[8 + length :])


def _digest_place(content: bytes | bytearray) -> int:
    """Where the checksum stands; -1 where there is none."""
    length = int.from_bytes(content[:8], "little")
    if length > len(content) - 8:
        return -1
    # Quotes inside of other metadata are escaped: only the key itself has this form
    found = re.search(f'"{DIGEST}":"([0-9a-f]{{64}})"'.encode(), content[8 : 8 + length])
    return -1 if found is None else 8 + found.start(1)
