"""Fuzz cases for what reads files: idx files, image folders, TOML definitions, policy files."""

import gzip
import struct
import tomllib
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w
import torch
import torchvision.transforms.v2  # noqa: F401  # not while a case is timed
from fuzz_cases import Case, pick
from PIL import Image

import dsenv
from dsenv.catalogue import definition
from dsenv.policy import Policy, storage
from dsenv.tasks.folder import image_folder
from dsenv.tasks.idx import read_idx

Rng = np.random.Generator


def damaged(rng: Rng, content: bytes) -> bytes:
    """A file with some bytes cut off, replaced, put in or left out."""
    if not content:
        return b"\0"
    where = int(rng.integers(len(content)))
    some = rng.integers(256, size=int(rng.integers(1, 9)), dtype=np.uint8).tobytes()
    return bytes(
        pick(
            rng,
            [
                content[:where],
                content[:where] + some + content[where + len(some) :],
                content[:where] + some + content[where:],
                content[:where] + content[where + len(some) :],
                content + some,
                b"",
                some,
            ],
        )
    )


# Idx files


def idx_files(rng: Rng, folder: Path) -> Case:
    """Whole ones read back equal; of a damaged one, what is read is what a plain reader finds in it."""
    shape = tuple(int(size) for size in rng.integers(0, 7, size=int(rng.integers(1, 5))))
    values = rng.integers(256, size=shape, dtype=np.uint8)
    head = struct.pack(">HBB", 0, 8, len(shape)) + struct.pack(f">{len(shape)}I", *shape)
    kind = pick(rng, ["whole"] * 5 + ["bytes", "header", "length", "plain", "huge", "type", "folder", "none"])
    path = folder / pick(rng, ["x-idx.gz", "x-idx", "x idx ü.gz"])

    if kind == "header":
        head = damaged(rng, head)
    elif kind == "length":
        head = head[:4] + struct.pack(f">{len(shape)}I", *(size + int(rng.integers(2)) for size in shape))
    elif kind == "huge":
        head = b"\0\0\x08\x02" + struct.pack(">2I", *rng.integers(2**31, 2**32, size=2))
    elif kind == "type":
        head = b"\0\0" + bytes([pick(rng, [0, 9, 11, 12, 13, 14, 255])]) + head[3:]
    content = gzip.compress(head + values.tobytes(), mtime=0)
    if kind == "bytes":
        content = damaged(rng, content)
    elif kind == "plain":
        content = head + values.tobytes()

    if kind == "folder":
        path.mkdir()
    elif kind != "none":
        path.write_bytes(content)
    good = {"whole": True, "bytes": None, "header": None, "length": None}.get(kind, False)
    return Case(
        f"{kind} {shape}", lambda: read_idx(path), lambda found: _same_idx(found, content), good, [path.name]
    )


def _same_idx(found: torch.Tensor, content: bytes) -> str:
    """Compare with a reader that trusts the file."""
    plain = gzip.decompress(content)
    shape = struct.unpack(f">{plain[3]}I", plain[4 : 4 + 4 * plain[3]])
    wanted = np.frombuffer(plain[4 + 4 * plain[3] :], np.uint8).reshape(shape)
    same = (
        found.dtype == torch.uint8 and np.array_equal(found.numpy(), wanted) and tuple(found.shape) == shape
    )
    return "" if same else f"read {tuple(found.shape)}, the file holds {shape}"


# Image folders


def _grey(value: int, mode: str) -> Image.Image:
    """An image of one grey in a mode."""
    if mode == "I;16":
        return Image.fromarray(np.full((9, 11), value * 257, np.uint16))
    if mode == "F":
        return Image.fromarray(np.full((9, 11), value / 255, np.float32))
    if mode == "P":
        image = Image.new("P", (9, 11), 1)
        image.putpalette([0, 0, 0, value, value, value])
        return image
    if mode == "CMYK":
        return Image.new("CMYK", (9, 11), (0, 0, 0, 255 - value))
    return Image.new("RGB", (9, 11), (value, value, value)).convert(mode)


SUFFIXES = {
    "F": [".tif"],
    "CMYK": [".tif"],
    "RGB": [".png", ".bmp", ".tif", ".PNG"],
    "I;16": [".png", ".tif"],
}
GREYS = {"1": (0, 255)}


def image_folders(rng: Rng, folder: Path) -> Case:
    """Images of one grey each: what is read has these greys, each once, under its class."""
    names = pick(rng, [["a", "b"], ["cat", "dog", "emu"], ["1", "2"], ["train", "bus"]])
    kind = pick(rng, ["whole"] * 9 + list(_SPOILS))
    root, wanted = folder / "images", []
    for label, name in enumerate(sorted(names)):
        (root / name).mkdir(parents=True)
        for index in range(int(rng.integers(2, 4))):
            mode = pick(rng, ["RGB", "L", "1", "P", "RGBA", "LA", "I;16", "F", "CMYK"])
            value = int(pick(rng, GREYS.get(mode, (0, 1, 77, 128, 200, 254, 255))))
            suffix = pick(rng, SUFFIXES.get(mode, [".png"]))
            _grey(value, mode).save(
                root / name / f"{index}{suffix}", format=None if suffix != ".PNG" else "PNG"
            )
            wanted.append((label, value))

    good, spoilt = True, root
    if kind != "whole":
        good, spoilt = _SPOILS[kind](rng, root, root / sorted(names)[0])
    channels = int(pick(rng, [1, 3]))

    def call() -> Any:
        return image_folder(spoilt, size=4, channels=channels, train=1, validation=1, split_seed=len(wanted))

    def oracle(data: dsenv.tasks.Dataset) -> str:
        found = []
        for split in data.splits().values():
            for image, label in zip(split.images, split.labels.tolist(), strict=True):
                if int(image.max()) - int(image.min()) > 1:
                    return "an image of one grey has several"
                found.append((label, round(float(image.float().mean()))))
        far = [
            max(abs(a - b), 1000 * (x != y))
            for (x, a), (y, b) in zip(sorted(found), sorted(wanted), strict=True)
        ]
        return (
            "" if max(far) <= 1 and data.sample_shape == (channels, 4, 4) else f"{found} in place of {wanted}"
        )

    return Case(f"{kind} {names} {wanted}", call, oracle, good, [str(root)] if not good else [])


def _cut(rng: Rng, root: Path, inside: Path) -> tuple[bool, Path]:
    file = sorted(inside.iterdir())[0]
    content = file.read_bytes()
    file.write_bytes(content[: int(rng.integers(len(content) // 2))])
    return False, root


def _add(name: str, content: bytes, good: bool) -> Callable[[Rng, Path, Path], tuple[bool, Path]]:
    def spoil(rng: Rng, root: Path, inside: Path) -> tuple[bool, Path]:
        del rng
        target = inside / name if "/" not in name else root / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
        return good, root

    return spoil


def _saved(image: Image.Image, **settings: Any) -> Callable[[Rng, Path, Path], tuple[bool, Path]]:
    def spoil(rng: Rng, root: Path, inside: Path) -> tuple[bool, Path]:
        del rng
        image.save(inside / "z.tif", **settings)
        return False, root

    return spoil


def _splits(rng: Rng, root: Path, inside: Path) -> tuple[bool, Path]:
    del inside
    above = root.parent / f"{root.name}-splits"
    above.mkdir()
    root.rename(above / pick(rng, ["train", "Training", "val"]))
    for name in pick(rng, [[], ["test"], ["validation", "testing"]]):
        (above / name).mkdir()
    return False, above


def _empty(rng: Rng, root: Path, inside: Path) -> tuple[bool, Path]:
    del rng, inside
    (root / "zebra").mkdir()
    return False, root


def _is_file(rng: Rng, root: Path, inside: Path) -> tuple[bool, Path]:
    del rng, root
    return False, sorted(inside.iterdir())[0]


def _is_missing(rng: Rng, root: Path, inside: Path) -> tuple[bool, Path]:
    del rng, inside
    return False, root / "none"


_SPOILS: Mapping[str, Callable[[Rng, Path, Path], tuple[bool, Path]]] = {
    "cut": _cut,
    "text": _add("z.png", b"not an image", False),
    "nothing": _add("z.jpg", b"", False),
    "hidden": _add(".z.png", b"not an image", True),
    "hidden folder": _add(".cache/z.png", b"not an image", True),
    "note": _add("notes.txt", b"not an image", True),
    "large floats": _saved(Image.fromarray(np.full((9, 9), 200, np.float32))),
    "NaN": _saved(Image.fromarray(np.full((9, 9), np.nan, np.float32))),
    "32 bits": _saved(Image.fromarray(np.full((9, 9), 200, np.int32))),
    "frames": _saved(Image.new("L", (9, 9)), save_all=True, append_images=[Image.new("L", (9, 9))]),
    "strip": _saved(Image.new("L", (500, 2))),
    "splits": _splits,
    "empty class": _empty,
    "file": _is_file,
    "missing": _is_missing,
}


# Definitions


def definitions(rng: Rng, folder: Path) -> Case:
    """What is accepted is what a TOML parser finds, built as the class that it names."""
    kind, content = pick(rng, ["envs", "agents"]), {}
    good_ones = {
        "agents": [
            {"entry_point": "dsenv.agents.rules:NeutralRule", "kwargs": {"env": {"ratio": 0.3}}},
            {"entry_point": "dsenv.agents.rules:LossRankRule", "kwargs": {"keep": "small"}},
            {"entry_point": "dsenv.agents.sb3:SB3Agent", "kwargs": {"algorithm": "A2C", "steps": 10}},
        ],
        "envs": [
            {
                "entry_point": "dsenv.env:TrainingEnv",
                "kwargs": {"task": {"dataset": {"name": "iris"}, "model": "mlp"}},
            },
            dict(tomllib.loads(TINY)),
        ],
    }
    content = pick(rng, good_ones[kind])
    change = pick(
        rng,
        ["none"] * 7 + ["bytes", "bytes", "entry", "entry", "key", "kwargs", "setting", "encoding", "deep"],
    )
    if change == "entry":
        content = {**content, "entry_point": pick(rng, WRONG_ENTRIES)}
    elif change == "key":
        content = {**content, pick(rng, ["kwarg", "Entry_point", "x", ""]): 1}
    elif change == "kwargs":
        content = {**content, "kwargs": pick(rng, [1, "x", [1], [{"a": 1}], True])}
    elif change == "setting":
        content = {**content, "kwargs": {**content["kwargs"], pick(rng, ["rato", "tasks", "", "x y"]): 1}}
    text = tomli_w.dumps(content).encode()
    if change == "deep":
        text += b"x = " + pick(rng, [b"[", b"{a="]) * int(rng.integers(70, 6000))
    text = damaged(rng, text) if change == "bytes" else text
    text = b"# \xe9\xff\n" + text if change == "encoding" else text

    path = folder / "some-definition.toml"
    path.write_bytes(text)
    named = ["some-definition"] if change in ("encoding", "deep", "key", "kwargs", "setting") else []
    good = {"none": True, "bytes": None}.get(change, False)
    if kind == "agents" and change == "setting":
        named = ["agents/some-definition"]
    if kind == "envs" and change == "setting":
        named = []

    def call() -> Any:
        found = definition(kind, path)
        return found, found.build()

    def oracle(built: Any) -> str:
        found, part = built
        same = found.as_dict() == {"kwargs": {}, **tomllib.loads(text.decode())}
        is_right = type(part).__name__ == found.entry_point.partition(":")[2]
        return "" if same and is_right else f"read {found.as_dict()}, built {type(part).__name__}"

    return Case(f"{kind} {change} {text[:150]!r}", call, oracle, good, named)


TINY = """entry_point = "dsenv.env:TrainingEnv"
[kwargs]
control = "ratio"
intervals = 4
context = { label_noise = [0.0, 0.6] }
[kwargs.task]
dataset = { name = "iris", train = 60, validation = 30 }
model = { name = "mlp", hidden = [4] }
recipe = { lr = 0.1, batch_size = 20 }
"""
WRONG_ENTRIES = [
    *(
        "os:system",
        "subprocess:run",
        "builtins:exec",
        "builtins:print",
        "pathlib:Path",
        "os:environ",
        "",
        ":",
    ),
    *(
        "dsenv.env:Training",
        "dsenv.nothing:X",
        "nothing_of_this_name:x",
        "a.b",
        "a:b:c",
        ".a:b",
        "\0:x",
        5,
        True,
        [],
    ),
    *("dsenv.select.random:UniformRandom", "dsenv:Selector", "torch.nn:Linear", "json:loads"),
]


# Policy files


@cache
def _policy() -> Policy:
    return dsenv.pretrained(dsenv.pretrained.names()[0])


def policy_files(rng: Rng, folder: Path) -> Case:
    """A whole file acts as the policy it was made of; nothing that was changed by hand is used unseen."""
    policy, path = _policy(), folder / "some-policy.safetensors"
    card, weights = tomllib.loads(policy.card.text()), dict(policy.weights)
    kind = pick(
        rng,
        ["whole"] * 6
        + ["bytes"] * 2
        + ["card", "card", "shape", "nan", "type", "metadata", "header", "folder"],
    )
    changed: dict[str, Any] = {}

    if kind == "whole":
        changed = {"ratio": float(pick(rng, [0.1, 0.5, 1.0])), "trained": {"note": str(rng.integers(100))}}
    elif kind == "card":
        changed = {
            pick(rng, list(card)): pick(
                rng, [None, -1, "x", [], {}, True, 10**18, float("nan"), {"name": "os:system"}]
            )
        }
    name = pick(rng, sorted(weights))
    if kind == "shape":
        weights[name] = pick(rng, [weights[name].flatten()[:-1], weights[name][None], torch.zeros(0)])
    elif kind == "nan":
        weights[name] = torch.full_like(weights[name], pick(rng, [float("nan"), float("inf")]))
    elif kind == "type":
        weights[name] = weights[name].to(pick(rng, [torch.float64, torch.float16, torch.int32]))
    storage.write(
        path,
        weights,
        tomli_w.dumps({key: value for key, value in {**card, **changed}.items() if value is not None}),
    )
    _spoil_file(rng, kind, path)

    observation = rng.uniform(-1, 1, size=policy.card.observation["entries"]).astype(np.float32)

    def oracle(found: Policy) -> str:
        same = np.array_equal(found.predict(observation)[0], policy.predict(observation)[0])
        if kind == "whole" and found.card.ratio != changed["ratio"]:
            return f"ratio {found.card.ratio} in place of {changed['ratio']}"
        return "" if same else "acts otherwise"

    good = {"whole": True, "card": None, "bytes": None}.get(kind, False)
    return Case(f"{kind} {changed} {name}", lambda: Policy.load(path), oracle, good, [path.name])


def _spoil_file(rng: Rng, kind: str, path: Path) -> None:
    content = path.read_bytes()
    if kind == "bytes":
        path.write_bytes(damaged(rng, content))
    elif kind == "header":
        length = int(pick(rng, [0, 1, 2**31, 2**63, 2**64 - 1, 10**8]))
        path.write_bytes(struct.pack("<Q", length) + content[8:])
    elif kind == "metadata":
        text = pick(
            rng,
            [b"{}", b'{"__metadata__":null}', b'{"__metadata__":{"dsenv.card":"x"}}', b"[" * 5000, b"null"],
        )
        path.write_bytes(struct.pack("<Q", len(text)) + text)
    elif kind == "folder":
        path.unlink()
        path.mkdir()


READERS: Mapping[str, Callable[[Rng, Path], Case]] = {
    "idx files": idx_files,
    "image folders": image_folders,
    "definitions": definitions,
    "policy files": policy_files,
}
