"""Real handwriting for other kinds of task: several digits in one image, and digits that are turned.

Nothing is downloaded: scikit-learn ships its 1,797 digits. They are cut into three disjoint parts first, and
each split is made of the digits of one part: no piece of handwriting is in two splits. Targets are exact.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dsenv.errors import check_count, check_number, check_seed
from dsenv.task_kinds.multilabel import MultiLabel
from dsenv.task_kinds.regression import Regression
from dsenv.tasks.dataset import Dataset, Split
from dsenv.tasks.generated import split_sizes
from dsenv.tasks.tensors import channel_statistics

Images = NDArray[np.float64]
Labels = NDArray[np.int64]

SIDE = 8  # pixels of one of scikit-learn's digits
QUARTERS = 4
MARGIN = 2  # blank pixels around a turned digit
SHARES = (0.6, 0.15)  # of the handwriting, for training and for validation; the rest is for the test
MOST_DEGREES = 180.0


@dataclass(frozen=True)
class _Part:
    """Digits from which one split is made."""

    images: Images  # (M, 8, 8) in 0..1
    labels: Labels  # (M,)


def several_digits(
    train: int = 1000, validation: int = 300, test: int = 500, most: int = 3, seed: int = 0
) -> Dataset:
    """Make images of several digits; the labels of an image are the digits that are in it.

    An image has 16 x 16 pixels. One to `most` digits fill quarters of their own, drawn at random; the others
    are blank. A digit that occurs twice counts once, so an image has one to `most` of ten labels.

    Use::

        from dsenv.tasks.composed_digits import several_digits

        data = several_digits(train=200, validation=50, test=50)
        print(data.kind.name, data.sample_shape, data.train.labels.shape)  # multilabel (1, 16, 16) (200, 10)

    Args:
        train: training images.
        validation: trusted validation images.
        test: test images.
        most: digits in an image at most, 1 to 4.
        seed: decides which handwriting falls into which split, and the images.

    Raises:
        ValueError: a value is out of range.
    """
    sizes = split_sizes("several_digits", train, validation, test)
    most = check_count("several_digits: most", most, 1, QUARTERS)
    rng = np.random.default_rng(check_seed("several_digits: seed", seed))

    splits = []
    for name, part, size in zip(("train", "validation", "test"), _parts(rng), sizes, strict=True):
        images, labels = _composed(rng, part, size, most)
        splits.append(_split(f"several_digits {name}, seed {seed}", images, torch.from_numpy(labels)))
    mean, std = channel_statistics(splits[0].images)
    return Dataset("several_digits", splits[0], splits[1], splits[2], mean=mean, std=std, kind=MultiLabel(10))


def digit_angles(
    train: int = 1500, validation: int = 300, test: int = 500, degrees: float = 60.0, seed: int = 0
) -> Dataset:
    """Make images of turned digits; the target of an image is the angle by which its digit was turned.

    An image has 12 x 12 pixels. Angles are drawn uniformly, counter-clockwise positive; a target is the angle
    over the deviation of that distribution, `degrees` / sqrt(3).

    Use::

        from dsenv.tasks.composed_digits import digit_angles

        data = digit_angles(train=200, validation=50, test=50)
        print(data.kind.name, data.sample_shape, data.train.labels.shape)  # regression (1, 12, 12) (200, 1)

    Args:
        train: training images.
        validation: trusted validation images.
        test: test images.
        degrees: largest angle, (0, 180].
        seed: decides which handwriting falls into which split, the angles and the images.

    Raises:
        ValueError: a value is out of range.
    """
    sizes = split_sizes("digit_angles", train, validation, test)
    largest = check_number("digit_angles: degrees", degrees, 0, MOST_DEGREES, open_low=True)
    rng = np.random.default_rng(check_seed("digit_angles: seed", seed))

    splits = []
    for name, part, size in zip(("train", "validation", "test"), _parts(rng), sizes, strict=True):
        chosen = rng.integers(len(part.images), size=size)
        angles = rng.uniform(-largest, largest, size)
        images = _turned(part.images[chosen], angles)
        targets = torch.from_numpy(angles * (math.sqrt(3) / largest)).float()[:, None]
        splits.append(_split(f"digit_angles {name}, seed {seed}", images, targets))
    mean, std = channel_statistics(splits[0].images)
    kind = Regression(scale=1.0, numbers=1)
    return Dataset("digit_angles", splits[0], splits[1], splits[2], mean=mean, std=std, kind=kind)


def _split(name: str, images: Images, targets: Tensor) -> Split:
    """A split of images (N, H, W) in 0..1 that have been made for it."""
    pixels = torch.from_numpy((images * 255).round().astype(np.uint8))[:, None]
    return Split(pixels, targets, (name, torch.arange(len(targets))))


def _parts(rng: np.random.Generator) -> tuple[_Part, _Part, _Part]:
    """The handwriting of training, validation and test."""
    from sklearn.datasets import load_digits

    source = load_digits()
    order = rng.permutation(len(source.target))
    first, second = round(SHARES[0] * len(order)), round(sum(SHARES) * len(order))
    train, validation, test = (
        _Part(source.images[rows] / 16, source.target[rows].astype(np.int64))
        for rows in np.split(order, (first, second))
    )
    return train, validation, test


def _composed(
    rng: np.random.Generator, part: _Part, size: int, most: int
) -> tuple[Images, NDArray[np.float32]]:
    """Images (N, 16, 16) and which digits are in them, (N, 10)."""
    chosen = rng.integers(len(part.images), size=(size, QUARTERS))
    counts = rng.integers(1, most + 1, (size, 1))
    present = rng.random((size, QUARTERS)).argsort(1) < counts

    # (N, 2, 2, 8, 8): row and column of a quarter, then of a pixel in it
    quarters = (part.images[chosen] * present[..., None, None]).reshape(size, 2, 2, SIDE, SIDE)
    images = quarters.transpose(0, 1, 3, 2, 4).reshape(size, 2 * SIDE, 2 * SIDE)

    labels = np.zeros((size, 10), np.float32)
    labels[np.nonzero(present)[0], part.labels[chosen][present]] = 1
    return images, labels


def _turned(digits: Images, angles: NDArray[np.float64]) -> Images:
    """Digits (N, 8, 8) turned by degrees (N,), in images (N, 12, 12), with linear interpolation."""
    from scipy.ndimage import map_coordinates

    side = SIDE + 2 * MARGIN
    centre = (side - 1) / 2
    down, across = np.meshgrid(np.arange(side) - centre, np.arange(side) - centre, indexing="ij")
    sine, cosine = np.sin(np.deg2rad(angles))[:, None, None], np.cos(np.deg2rad(angles))[:, None, None]

    # Where each pixel came from; rows count downwards
    row = cosine * down + sine * across + (SIDE - 1) / 2
    column = -sine * down + cosine * across + (SIDE - 1) / 2
    sample = np.broadcast_to(np.arange(len(digits))[:, None, None], row.shape)
    found: Images = map_coordinates(digits, (sample, row, column), order=1, mode="grid-constant")
    return found
