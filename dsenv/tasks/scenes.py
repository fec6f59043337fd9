"""Scenes for segmentation: cut-out pictures of eight topics on photographs, with a class for each pixel.

The pictures are the stamps of the drawing program Tux Paint, from Debian's package `tuxpaint-stamps-default`
(GPL-2): they are read where the package put them, and never copied or shipped. The photographs are those that
scikit-learn and scikit-image ship. Scenes are composed when the data set is made.

Splits share neither stamps nor pieces of photographs: each class's stamps are shared out among training,
validation and test, and each photograph is cut into three strips. So the test asks for classes, not for
pictures that were seen before.
"""

import os
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from dsenv.errors import check_count, check_flag, check_seed, pick
from dsenv.task_kinds.segmentation import Segmentation
from dsenv.tasks.dataset import Dataset, Split
from dsenv.tasks.generated import split_sizes
from dsenv.tasks.images import read_image
from dsenv.tasks.roots import data_root
from dsenv.tasks.tensors import channel_statistics

if TYPE_CHECKING:
    from PIL.Image import Image

Bytes = NDArray[np.uint8]
Labels = NDArray[np.int64]
Flags = NDArray[np.bool_]

DEBIAN_FOLDER = Path("/usr/share/tuxpaint/stamps")
TOPICS = {
    "bird": "animals/birds",
    "mammal": "animals/mammals",
    "insect": "animals/insects",
    "fruit": "food/fruit",
    "vegetable": "food/vegetables",
    "flower": "plants/flowers",
    "roadsign": "town/roadsigns",
    "vehicle": "vehicles",
}
"""The classes from 1 on, and the folder of each; 0 is the background."""

COARSE = {
    "bird": 1,
    "mammal": 1,
    "insect": 1,
    "fruit": 2,
    "vegetable": 2,
    "flower": 3,
    "roadsign": 4,
    "vehicle": 5,
}
"""Five classes in place of eight: animals, food, flowers, road signs and vehicles."""

PHOTOGRAPHS = (
    "brick.png",
    "coffee.png",
    "grass.png",
    "gravel.png",
    "hubble_deep_field.jpg",
    "ihc.png",
    "moon.png",
)
"""Photographs of scikit-image that show none of the topics."""

SPLITS = ("train", "validation", "test")
SHARES = (0.6, 0.15, 0.25)  # of the stamps of a class, and of each photograph's width
LEAST_STAMPS = 3  # of a class: one for each split
OPAQUE = 128  # least alpha, of 255, of a pixel that belongs to an object
COVER = (0.05, 0.97)  # of a stamp's rectangle; a fuller one has not been cut out
LARGEST = 160  # pixels of a stamp's longer side that are kept
MOST_OBJECTS = 16
SCALE = (0.4, 0.8)  # longer side of an object, in sides of the image
GAIN = (0.6, 1.2)  # of each colour channel of a background
LEAST_SIDE, MOST_SIDE = 16, 256  # pixels


@dataclass(frozen=True)
class _Material:
    """What the scenes of one split are made of."""

    stamps: list[list["Image"]]  # of each class, RGBA
    photographs: list["Image"]  # RGB


def scenes(
    train: int = 600,
    validation: int = 150,
    test: int = 300,
    side: int = 64,
    objects: int = 2,
    coarse: bool = False,
    photographs: str = "all",
    seed: int = 0,
    root: str | None = None,
) -> Dataset:
    """Compose colour scenes of a few objects of eight classes, on photographs.

    An object is a stamp of a topic, as it is or mirrored, wholly within the image, its longer side 0.4 to
    0.8 of the image's; a later one lies over an earlier one. A pixel is all object or all background: there
    are no soft edges. Backgrounds are random squares of the photographs, each colour channel brighter or
    darker by chance.

    Args:
        train: training scenes.
        validation: trusted validation scenes.
        test: test scenes.
        side: height and width in pixels, 16 to 256.
        objects: most objects of a scene, 1 to 16; their number is drawn uniformly from 1 on.
        coarse: five classes, see `COARSE`, in place of the eight of `TOPICS`.
        photographs: "all", those of scikit-image (`pip install "dsenv-rl[scenes]"`) and one of scikit-learn;
            or "scikit-learn", that one alone.
        seed: decides which stamps and parts of photographs belong to which split, and the scenes.
        root: folder of the stamps, as in the package; None for `tuxpaint/stamps` in dsenv's data folder, else
            where Debian's package puts them.

    Raises:
        FileNotFoundError: the stamps are in none of the folders.
        ImportError: scikit-image is asked for and not installed.
        ValueError: a value is out of range, or a class has fewer than three stamps.
    """
    sizes = split_sizes("scenes", train, validation, test)
    side = check_count("scenes: side", side, LEAST_SIDE, MOST_SIDE)
    seed = check_seed("scenes: seed", seed)
    objects = check_count("scenes: objects", objects, 1, MOST_OBJECTS)
    coarse = check_flag("scenes: coarse", coarse)
    pick("scenes: photographs", photographs, ("all", "scikit-learn"))

    numbers = torch.tensor([0, *(COARSE[topic] if coarse else row + 1 for row, topic in enumerate(TOPICS))])
    rng = np.random.default_rng(seed)
    parts = _materials(rng, _find(root), _photographs(photographs == "all"))
    splits = []
    for name, part, size in zip(SPLITS, parts, sizes, strict=True):
        made = [_scene(rng, part, side, objects) for _ in range(size)]
        images = torch.from_numpy(np.stack([image for image, _ in made])).permute(0, 3, 1, 2).contiguous()
        labels = numbers[torch.from_numpy(np.stack([label for _, label in made]))]
        splits.append(Split(images, labels, (f"scenes {name}, seed {seed}", torch.arange(size))))

    mean, std = channel_statistics(splits[0].images)
    kind = Segmentation(int(numbers.max()) + 1)
    return Dataset("scenes", splits[0], splits[1], splits[2], mean=mean, std=std, kind=kind)


def _find(root: str | None) -> Path:
    """The folder that holds the stamps."""
    folders = [data_root(root)] if root else [data_root(None) / "tuxpaint" / "stamps", DEBIAN_FOLDER]
    for folder in folders:
        if all((folder / topic).is_dir() for topic in TOPICS.values()):
            return folder

    searched = ", ".join(os.fspath(folder) for folder in folders)
    raise FileNotFoundError(
        f"the stamps for scenes (folders {', '.join(TOPICS.values())}) are in none of: {searched}. On Debian "
        "or Ubuntu run `apt-get install tuxpaint-stamps-default`; or unpack the package without installing "
        "it (`apt-get download tuxpaint-stamps-default && dpkg -x tuxpaint-stamps-default*.deb FOLDER`) and "
        "set dataset.root to FOLDER/usr/share/tuxpaint/stamps"
    )


def _photographs(with_scikit_image: bool) -> list["Image"]:
    """The photographs, RGB, always in one order."""
    from PIL import Image
    from sklearn.datasets import load_sample_image

    found = [Image.fromarray(load_sample_image("china.jpg"))]
    if not with_scikit_image:
        return found

    spec = find_spec("skimage")
    if spec is None or spec.origin is None:
        raise ImportError(
            'scenes with photographs = "all" need scikit-image: pip install "dsenv-rl[scenes]"; or set '
            'dataset.photographs = "scikit-learn"'
        )
    folder = Path(spec.origin).parent / "data"
    return found + [read_image(folder / name) for name in PHOTOGRAPHS]


def _materials(rng: np.random.Generator, folder: Path, photographs: list["Image"]) -> list[_Material]:
    """Stamps and photographs of the three splits; nothing is in two of them."""
    stamps: list[list[list[Image]]] = [[], [], []]
    for topic, place in TOPICS.items():
        own = _stamps(topic, folder / place)
        order = rng.permutation(len(own))
        for part, rows in zip(stamps, _cuts(len(own)), strict=True):
            part.append([own[row] for row in order[rows]])

    strips: list[list[Image]] = [[], [], []]
    for photograph in photographs:
        for strip, cut in zip(strips, _cuts(photograph.width), strict=True):
            strip.append(photograph.crop((cut.start, 0, cut.stop, photograph.height)))
    return [_Material(*pair) for pair in zip(stamps, strips, strict=True)]


def _cuts(total: int) -> list[slice]:
    """The three shares of 0..total-1, each with at least one of three or more."""
    validation, test = (max(1, round(share * total)) for share in SHARES[1:])
    ends = (total - validation - test, total - test)
    return [slice(0, ends[0]), slice(ends[0], ends[1]), slice(ends[1], total)]


def _stamps(topic: str, folder: Path) -> list["Image"]:
    """The stamps of a topic that are cut out, RGBA; neither cartoons nor mirrored copies.

    Raises:
        ValueError: fewer than three are left.
    """
    paths = sorted(
        path
        for path in folder.rglob("*.png")
        if "cartoon" not in path.parts and not path.stem.endswith("_mirror")
    )
    found = [stamp for path in paths if (stamp := _stamp(path)) is not None]
    if len(found) < LEAST_STAMPS:
        raise ValueError(
            f"scenes: {folder} has {len(found)} usable stamps for the class {topic!r}, expected at least "
            f"{LEAST_STAMPS}: one for each split"
        )
    return found


def _stamp(path: Path) -> "Image | None":
    """One stamp, cut to what is opaque; None where nothing has been cut out."""
    from PIL import Image

    with Image.open(path) as file:
        image = file.convert("RGBA")
    opaque: NDArray[np.bool_] = np.asarray(image)[..., 3] >= OPAQUE
    if not COVER[0] <= float(opaque.mean()) <= COVER[1]:
        return None

    rows, columns = np.flatnonzero(opaque.any(1)), np.flatnonzero(opaque.any(0))
    image = image.crop((int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1))
    image.thumbnail((LARGEST, LARGEST))
    return image


def _scene(rng: np.random.Generator, material: _Material, side: int, objects: int) -> tuple[Bytes, Labels]:
    """One scene (side, side, 3) and the class of each pixel (side, side)."""
    image = _background(rng, material.photographs, side)
    labels = np.zeros((side, side), np.int64)

    for _ in range(int(rng.integers(1, objects + 1))):
        topic = int(rng.integers(len(TOPICS)))
        colours, inside = _object(rng, material.stamps[topic], side)
        height, width = inside.shape
        top, left = int(rng.integers(side - height + 1)), int(rng.integers(side - width + 1))
        place = slice(top, top + height), slice(left, left + width)
        image[place][inside] = colours[inside]
        labels[place][inside] = topic + 1
    return image, labels


def _background(rng: np.random.Generator, photographs: list["Image"], side: int) -> Bytes:
    """A random square of a photograph (side, side, 3), as it is or mirrored, its colours changed."""
    from PIL import Image, ImageOps

    photograph = photographs[int(rng.integers(len(photographs)))]
    largest = min(photograph.size)
    edge = int(rng.integers(min(side, largest), largest + 1))
    left, top = (
        int(rng.integers(photograph.width - edge + 1)),
        int(rng.integers(photograph.height - edge + 1)),
    )
    square = photograph.resize((side, side), Image.Resampling.BILINEAR, (left, top, left + edge, top + edge))
    square = ImageOps.mirror(square) if rng.random() < 0.5 else square

    changed: Bytes = np.clip(np.asarray(square) * rng.uniform(*GAIN, 3), 0, 255).round().astype(np.uint8)
    return changed


def _object(rng: np.random.Generator, stamps: list["Image"], side: int) -> tuple[Bytes, Flags]:
    """A stamp in a size drawn at random: colours (h, w, 3), and which pixels belong to it (h, w)."""
    from PIL import Image, ImageOps

    stamp = stamps[int(rng.integers(len(stamps)))]
    factor = float(rng.uniform(*SCALE)) * side / max(stamp.size)
    size = (max(1, round(factor * stamp.width)), max(1, round(factor * stamp.height)))
    resized = stamp.resize(size, Image.Resampling.BOX if factor < 1 else Image.Resampling.BILINEAR)
    resized = ImageOps.mirror(resized) if rng.random() < 0.5 else resized

    pixels = np.asarray(resized)
    inside: Flags = pixels[..., 3] >= OPAQUE
    return pixels[..., :3], inside
