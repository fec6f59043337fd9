"""Any folder of images: one sub-folder for each class."""

import os
import re
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from dsenv.errors import check_count
from dsenv.tasks.dataset import Dataset, split_pools
from dsenv.tasks.images import read_image
from dsenv.tasks.roots import as_path

SPLIT = re.compile(
    r"(train|training|val|valid|validation|dev|test|testing|eval)([-_. ]?(set|data|images|imgs|split|\d+))?"
)
"""Names of folders that hold a split, not a class."""
SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
"""Names of files that are read as images, those of torchvision."""
LARGEST = 4096  # pixels
MOST_BYTES = 1 << 35  # of all images together, in memory


def image_folder(
    root: str | os.PathLike[str],
    size: int = 32,
    channels: int = 3,
    train: int | None = None,
    validation: int = 1000,
    test: int | None = None,
    split_seed: int = 0,
) -> Dataset:
    """Read `root/<class>/<image>` (torchvision's ImageFolder layout), resized and kept as uint8.

    Classes are numbered in the order of their folders' names. Hidden files and folders are left out, and so,
    with a warning, are files that are no images by their names. Images may differ in size: each is resized by
    its shorter side and cropped at the centre. 16-bit images are scaled to 8 bits, floats from 0..1;
    transparency is dropped. Mean and standard deviation are those of the training split.

    Args:
        root: folder of the class folders.
        size: height and width in pixels, up to 4,096; images are resized and cropped at the centre.
        channels: 3 for colour, 1 for grey.
        train: training samples; None for all that are left.
        validation: trusted validation samples.
        test: test samples; None for all that are left (one of train and test must be a number).
        split_seed: decides which sample falls into which split.

    Raises:
        FileNotFoundError: there is no such folder, or no image in one of its class folders.
        ValueError: the folders are splits instead of classes, or fewer than two; an image cannot be read or
            has no known scale (the message names it); a setting is out of range.
    """
    size, channels = check_count("size", size, 1, LARGEST), check_count("channels", channels, 1, 3)
    if channels == 2:
        raise ValueError("channels must be 1 or 3, got 2")
    if train is None and test is None:
        raise ValueError(
            "image_folder: give a number of samples for train or for test; one of them takes the rest"
        )

    path = _existing(root)
    classes = _class_folders(path)
    files = [(file, label) for label, folder in enumerate(classes) for file in _images_in(folder)]
    if len(files) * channels * size * size > MOST_BYTES:
        raise ValueError(
            f"{path}: {len(files)} images of {size} x {size} pixels take more than {MOST_BYTES >> 30} GiB; "
            "choose a smaller size"
        )

    _say_left_out(path, classes)
    images = _read(path, files, size, channels)
    labels = torch.tensor([label for _, label in files])
    splits = split_pools(path.name, (images, labels), None, (train, validation, test), split_seed)

    pixels = splits[0].images.float() / 255
    mean, std = pixels.mean((0, 2, 3)).tolist(), pixels.std((0, 2, 3)).clamp(min=1e-3).tolist()
    return Dataset(path.name, *splits, classes=len(classes), mean=tuple(mean), std=tuple(std))


def _existing(root: str | os.PathLike[str]) -> Path:
    path = as_path("dataset.root", root)
    if not path.is_dir():
        what = "a file is" if path.exists() else "no folder of images"
        raise FileNotFoundError(f"{what} at {path}; dataset.root must hold one sub-folder a class")
    return path.resolve()


def _is_shown(name: str) -> bool:
    """Whether a file or folder is part of the data: not hidden, and not what a packer left."""
    return not name.startswith(".") and name not in ("__MACOSX", "__pycache__", "Thumbs.db", "desktop.ini")


def _class_folders(path: Path) -> list[Path]:
    """The folders of the classes, by name.

    Raises:
        ValueError: they are splits, or fewer than two.
    """
    folders = sorted(entry for entry in path.iterdir() if entry.is_dir() and _is_shown(entry.name))
    if not folders:
        raise FileNotFoundError(f"{path} has no folder in it; dataset.root must hold one sub-folder a class")

    splits = [folder for folder in folders if SPLIT.fullmatch(folder.name.casefold())]
    nested = [folder for folder in splits if any(inner.is_dir() for inner in folder.iterdir())]
    if len(splits) > 1 or len(splits) == len(folders) or nested:
        training = next((folder for folder in splits if "train" in folder.name.casefold()), splits[0])
        raise ValueError(
            f"{path} holds the splits {', '.join(folder.name for folder in splits)}, not classes; pass the "
            f"one to draw from: dataset.root = {str(training)!r}"
        )
    if len(folders) < 2:
        raise ValueError(f"{path} has one class, {folders[0].name!r}; a data set needs two, a folder each")
    return folders


def _images_in(folder: Path) -> list[Path]:
    """The images of a class, those of inner folders too, by name.

    Raises:
        FileNotFoundError: there is none.
    """
    shown = list(_walk(folder, set()))
    images = sorted(file for file in shown if file.suffix.casefold() in SUFFIXES)
    if not images:
        raise FileNotFoundError(
            f"the class folder {folder} has no image ({', '.join(SUFFIXES)}); remove it, or put some into it"
        )
    return images


def _walk(folder: Path, seen: set[str]) -> Iterator[Path]:
    """Files of a folder and the folders in it; links are followed, each folder is entered once."""
    real = os.path.realpath(folder)
    if real in seen:
        return
    seen.add(real)
    for entry in sorted(folder.iterdir()):
        if not _is_shown(entry.name):
            continue
        if entry.is_dir():
            yield from _walk(entry, seen)
        else:
            yield entry


def _say_left_out(path: Path, folders: list[Path]) -> None:
    """Warn of images that belong to no class, and of files in class folders that are no images by name."""
    inside = [file for folder in folders for file in _walk(folder, set())]
    loose = [file for file in path.iterdir() if file.suffix.casefold() in SUFFIXES and not file.is_dir()]
    other = [file for file in inside if file.suffix.casefold() not in SUFFIXES]
    for found, what in ((loose, "lie in no class's folder"), (other, f"are none of {', '.join(SUFFIXES)}")):
        shown = sorted(file for file in found if _is_shown(file.name))
        if shown:
            warnings.warn(
                f"{path}: {len(shown)} files {what} and are left out, the first is {shown[0]}", stacklevel=4
            )


def _read(path: Path, files: list[tuple[Path, int]], size: int, channels: int) -> Tensor:
    """(N, C, size, size) uint8."""
    from torchvision.transforms import v2
    from tqdm.auto import tqdm

    transform = v2.Compose(
        [
            v2.PILToTensor(),
            v2.Grayscale() if channels == 1 else v2.RGB(),
            v2.Resize(size, antialias=True),
            v2.CenterCrop(size),
        ]
    )

    images = torch.empty(len(files), channels, size, size, dtype=torch.uint8)
    steps = tqdm(files, desc=f"reading {path.name}", disable=len(files) < 2000)
    for number, (file, _) in enumerate(steps):
        images[number] = transform(read_image(file))
    return images
