"""One safetensors file for weights and card: numbers and text, nothing that could be executed."""

import hashlib
import json
import struct
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors.torch import load, save
from torch import Tensor

from dsenv import files

LARGEST = 1 << 30  # bytes
CARD, DIGEST = "dsenv.card", "dsenv.sha256"  # keys of the file's metadata


def digest(tensors: Mapping[str, Tensor], card: str) -> str:
    """SHA-256 over a card and float32 tensors, with their names and shapes."""
    total = hashlib.sha256()
    for part in (card.encode(), *(_described(name, tensors[name]) for name in sorted(tensors))):
        total.update(len(part).to_bytes(8, "little"))
        total.update(part)
    return total.hexdigest()


def _described(name: str, tensor: Tensor) -> bytes:
    return f"{name} {tuple(tensor.shape)}\n".encode() + tensor.contiguous().numpy().astype("<f4").tobytes()


def write(path: Path, tensors: Mapping[str, Tensor], card: str) -> None:
    """Write a file, of equal bytes for equal content; a broken write leaves the old one.

    Raises:
        ValueError: the name does not end in .safetensors.
        OSError: the file cannot be written, or is a symbolic link.
    """
    if path.suffix != ".safetensors":
        raise ValueError(f"a policy's file is called NAME.safetensors, got {path}")

    metadata = {CARD: card, DIGEST: digest(tensors, card)}
    content = _ordered(save({name: value.contiguous() for name, value in tensors.items()}, metadata))

    files.write(path, content)


def _ordered(content: bytes) -> bytes:
    """The same safetensors file with its metadata sorted, which are else in another order each time."""
    (length,) = struct.unpack_from("<Q", content)
    header = json.loads(content[8 : 8 + length])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + content[8 + length :]


def read(path: Path, check: Callable[[str], object]) -> tuple[dict[str, Tensor], str]:
    """Weights and card of a file that is as it was written.

    Args:
        path: the file.
        check: checks the card before its digest is compared, since another format may have another digest.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is a folder, not safetensors, has no card, or was changed.
    """
    if path.is_dir():
        raise ValueError("it is a folder; a run's policy is the file policy.safetensors in it")
    if not path.is_file():
        raise FileNotFoundError(f"no policy at {path} (looked from {Path.cwd()})")
    tensors, metadata = _content(path)
    if CARD not in metadata or DIGEST not in metadata:
        raise ValueError(
            f"it has no dsenv card: its metadata hold {', '.join(sorted(metadata)) or 'nothing'}, and a "
            f"policy's hold {CARD} and {DIGEST}; these are weights of something else"
        )
    check(metadata[CARD])

    wrong = [name for name, value in tensors.items() if value.dtype != torch.float32]
    if wrong:
        raise ValueError(f"tensor {wrong[0]!r} is {tensors[wrong[0]].dtype}, expected torch.float32")
    found = digest(tensors, metadata[CARD])
    if found != metadata[DIGEST]:
        raise ValueError(
            f"it was changed after it was written: its SHA-256 is {found[:12]}..., its card says "
            f"{metadata[DIGEST][:12]}...; fetch it again"
        )
    return tensors, metadata[CARD]


def _content(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file.

    Raises:
        ValueError: it is something else, or not whole.
    """
    size = path.stat().st_size
    if size > LARGEST:
        raise ValueError(f"it has {size:,} bytes, a policy has at most {LARGEST:,}")
    try:
        content = path.read_bytes()  # once: the file may be replaced meanwhile
        tensors = load(content)
        (length,) = struct.unpack_from("<Q", content)
        return tensors, json.loads(content[8 : 8 + length]).get("__metadata__") or {}
    except Exception as error:  # of the file, its header, or a type of numbers that torch lacks
        raise ValueError(
            f"it is not a whole safetensors file ({error}); a policy is saved by dsenv.Policy.save, and "
            "pickled ones (.zip, .pt, .pkl) are never opened: load the model with Stable-Baselines3 "
            "and export it by dsenv.export(model, env)"
        ) from error
