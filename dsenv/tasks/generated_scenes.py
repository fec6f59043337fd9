"""Small colour scenes made by procedure from a seed: discs, boxes and triangles on textures.

Each class has a colour; its objects have any of the three shapes and any size. Backgrounds are smooth grey
textures that change from scene to scene, and every pixel has noise. Each pixel has one class, exactly.
"""

import colorsys

import numpy as np
import torch
from numpy.typing import NDArray

from dsenv.errors import check_count, check_positive, check_seed
from dsenv.task_kinds.segmentation import Segmentation
from dsenv.tasks.dataset import Dataset, split_pools
from dsenv.tasks.generated import split_sizes
from dsenv.tasks.tensors import channel_statistics

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]
Flags = NDArray[np.bool_]

LEAST_SIDE, MOST_SIDE = 8, 128  # pixels
MOST_CLASSES = 8
OBJECTS = 3  # of a scene at most
RADIUS = (0.12, 0.28)  # of an object, in sides of the image
SHAPES = ("disc", "box", "triangle")
GRID = 4  # knots of a background's texture along a side
GREY, TEXTURE = 0.5, 0.12  # mean and deviation of a background
SHADE = 0.15  # by which an object is darker or brighter at most
NOISE = 0.12  # deviation of pixel noise at a separation of 1


def generated_scenes(
    classes: int = 4,
    separation: float = 1.0,
    train: int = 600,
    validation: int = 200,
    test: int = 400,
    seed: int = 0,
    side: int = 32,
) -> Dataset:
    """Make square colour scenes with a class for each pixel; one seed gives one data set.

    A scene has one to three objects; a later one lies over an earlier one. Class 0 is the background.

    Use::

        from dsenv.tasks.generated_scenes import generated_scenes

        data = generated_scenes(classes=3, train=100, validation=30, test=30, side=24)
        print(data.sample_shape, data.train.labels.shape)  # (3, 24, 24) torch.Size([100, 24, 24])

    Args:
        classes: classes of objects, 1 to 8; the data set has one more, the background.
        separation: colour of the objects over the noise, > 0.
        train: training scenes.
        validation: trusted validation scenes.
        test: test scenes.
        seed: decides the scenes and their splits.
        side: height and width in pixels, 8 to 128.

    Raises:
        ValueError: a value is out of range.
    """
    classes = check_count("generated_scenes: classes", classes, 1, MOST_CLASSES)
    separation = float(check_positive("generated_scenes: separation", separation))
    side = check_count("generated_scenes: side", side, LEAST_SIDE, MOST_SIDE)
    sizes = split_sizes("generated_scenes", train, validation, test)
    rng = np.random.default_rng([check_seed("generated_scenes: seed", seed), side])

    pictures, labels = _scenes(rng, sum(sizes), classes, side)
    pictures += NOISE / separation * rng.standard_normal(pictures.shape)
    images = torch.from_numpy((np.clip(pictures, 0, 1) * 255).round().astype(np.uint8))

    name = f"scenes {classes}x{side}, seed {seed}"
    splits = split_pools(name, (images, torch.from_numpy(labels)), None, sizes, seed)
    mean, std = channel_statistics(splits[0].images)
    return Dataset(name, *splits, mean=mean, std=std, kind=Segmentation(classes + 1))


def class_colours(classes: int) -> Floats:
    """Colours (C, 3) in 0..1 of the classes of objects, evenly spaced around the colour circle."""
    return np.array([colorsys.hsv_to_rgb(number / classes, 0.45, 0.75) for number in range(classes)])


def _scenes(rng: np.random.Generator, size: int, classes: int, side: int) -> tuple[Floats, Labels]:
    """Scenes without noise, (N, 3, side, side) in 0..1, and the class of each pixel, (N, side, side)."""
    pictures = np.repeat(_textures(rng, size, side)[:, None], 3, axis=1)
    labels = np.zeros((size, side, side), np.int64)
    colours = class_colours(classes)
    counts = rng.integers(1, OBJECTS + 1, size)

    for number in range(OBJECTS):
        own = rng.integers(classes, size=size)
        shade = rng.uniform(1 - SHADE, 1 + SHADE, (size, 1))
        inside = _objects(rng, size, side) & (number < counts)[:, None, None]

        labels = np.where(inside, own[:, None, None] + 1, labels)
        flat = (shade * colours[own])[:, :, None, None]
        pictures = np.where(inside[:, None], flat, pictures)
    return pictures, labels


def _textures(rng: np.random.Generator, size: int, side: int) -> Floats:
    """Smooth grey textures (N, side, side): normal knots, with linear interpolation between them."""
    knots = rng.standard_normal((size, GRID, GRID))
    place = np.linspace(0, GRID - 1, side)
    left = np.minimum(place.astype(int), GRID - 2)
    weight = np.zeros((side, GRID))
    weight[np.arange(side), left] = 1 - (place - left)
    weight[np.arange(side), left + 1] = place - left

    level = rng.uniform(-TEXTURE, TEXTURE, (size, 1, 1))
    textures: Floats = GREY + level + TEXTURE * (weight @ knots @ weight.T)
    return textures


def _objects(rng: np.random.Generator, size: int, side: int) -> Flags:
    """Which pixels one object of each scene covers, (N, side, side); its centre lies within the image."""
    kind = rng.integers(len(SHAPES), size=(size, 1, 1))
    radius = rng.uniform(*RADIUS, (size, 1, 1)) * side
    row, column = rng.uniform(0.15, 0.85, (2, size, 1, 1)) * side
    down = np.arange(side)[None, :, None] + 0.5 - row
    across = np.arange(side)[None, None, :] + 0.5 - column

    disc = down**2 + across**2 <= radius**2
    box = np.maximum(abs(down), abs(across)) <= 0.85 * radius
    triangle = (abs(across) <= (down + radius) / 2) & (down <= radius)
    inside: Flags = np.choose(kind, [disc, box, triangle]).astype(bool)
    return inside
