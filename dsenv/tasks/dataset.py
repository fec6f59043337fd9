"""Dataset: train, validation and test splits as tensors, fixed by a seed and disjoint."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dsenv.errors import check_count, check_number, check_positive, check_seed, shown
from dsenv.task_kinds.base import TaskKind, check_guess
from dsenv.task_kinds.classification import Classification

MOST_CLASSES = 1 << 20
MOST_SAMPLES = 1 << 40  # of a split that is asked for


@dataclass(frozen=True, eq=False)  # tensors have no single truth
class Split:
    """Samples of one split."""

    images: Tensor
    """(N, ...) uint8 in 0..255, or float32 or int64 that is used as it is; images are (N, C, H, W)."""
    labels: Tensor
    """(N,) int64 in 0..classes-1; for other kinds of task (N, ...) as the kind wants its targets."""
    source: tuple[str, Tensor]
    """Where the samples come from: a name, and their (N,) int64 positions there."""

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, eq=False)  # tensors have no single truth
class Dataset:
    """Three disjoint splits and how to normalise them.

    Only evaluation reads `test`; observations and rewards see `train` and `validation`.

    Raises:
        ValueError: a split is empty or shares a sample with another, a label is out of range, a value is not
            finite, or a setting is of another type.

    Warns:
        UserWarning: no sample has label 0, as where labels count from 1.
    """

    name: str
    train: Split
    validation: Split
    test: Split
    classes: int = 0
    """C; 0 where `kind` is another than classification."""
    mean: tuple[float, ...] = (0.0,)
    """Mean of each channel, on the scale 0..1."""
    std: tuple[float, ...] = (1.0,)
    """Standard deviation of each channel, on the scale 0..1."""
    trusted: int = 0
    """Training samples at the end of `train` whose labels stay as they are: an added validation split."""
    kind: TaskKind | None = None
    """What is asked of a sample; None for classification."""

    def __post_init__(self) -> None:
        if not isinstance(self.name, str):
            raise ValueError(f"the name of a data set must be text, got {shown(self.name)}")
        _check_kind(self.kind)
        if self.kind is None or self.kind.classes is not None:
            most = MOST_CLASSES
            object.__setattr__(self, "classes", check_count(f"{self.name}: classes", self.classes, 1, most))
        elif self.classes:
            raise ValueError(
                f"{self.name} is a task of kind {self.kind.name} and has no classes; leave them out"
            )
        for name, split in self.splits().items():
            _check_split(f"{self.name}/{name}", split, self.classes, self.kind)
            self._check_like_training(name, split)
        if self.kind is None:
            object.__setattr__(self, "kind", Classification(max(2, self.classes)))
        else:
            object.__setattr__(self, "kind", self.kind.fitted(self.train.labels))

        most = len(self.train) - 1  # at least one sample is the data set's own
        object.__setattr__(self, "trusted", check_count(f"{self.name}: trusted", self.trusted, 0, most))
        object.__setattr__(self, "mean", self._per_channel("mean", self.mean))
        object.__setattr__(self, "std", self._per_channel("std", self.std))
        self._check_disjoint()
        if self.classes:
            self._say_missing()

    def _per_channel(self, name: str, values: Sequence[float]) -> tuple[float, ...]:
        """One number for each channel, or one for all, as Python floats."""
        channels = self.sample_shape[0]
        if isinstance(values, str | bytes) or not isinstance(values, Sequence):
            raise ValueError(f"{self.name}: {name} must be a tuple of numbers, got {shown(values)}")
        if len(values) not in (1, channels):
            raise ValueError(f"{self.name}: {name} has {len(values)} values for {channels} channels")
        check = check_positive if name == "std" else check_number
        return tuple(float(check(f"{self.name}: {name}", value)) for value in values)

    def _check_disjoint(self) -> None:
        """No sample of a source may be in two splits."""
        splits = list(self.splits().items())
        for (name, split), (other, second) in combinations(splits, 2):
            if split.source[0] != second.source[0]:
                continue
            shared = split.source[1][torch.isin(split.source[1], second.source[1])]
            if len(shared):
                raise ValueError(
                    f"{self.name}: {len(shared)} samples of {split.source[0]!r} are in {name} and in "
                    f"{other}, the first at position {int(shared[0])}; splits must be disjoint"
                )

    def _say_missing(self) -> None:
        """Labels that count from 1 look like a class 0 without samples."""
        lowest = min(int(split.labels.min()) for split in self.splits().values())
        highest = max(int(split.labels.max()) for split in self.splits().values())
        if lowest > 0 and highest == self.classes - 1:
            warnings.warn(
                f"{self.name}: no sample has label 0, the labels are {lowest} to {highest}. If they count "
                f"from {lowest}, pass labels - {lowest}; else {lowest} of the classes have no sample",
                stacklevel=4,
            )

    def _check_like_training(self, name: str, split: Split) -> None:
        pairs = (("samples", split.images, self.train.images), ("targets", split.labels, self.train.labels))
        for what, values, like in pairs:
            own, wanted = ((value.dtype, tuple(value.shape[1:])) for value in (values, like))
            if own != wanted:
                raise ValueError(
                    f"{self.name}/{name} has {what} of {own[0]} {own[1]}, its training split of {wanted[0]} "
                    f"{wanted[1]}; all splits must be alike"
                )

    def splits(self) -> dict[str, Split]:
        """The three splits by name."""
        return {"train": self.train, "validation": self.validation, "test": self.test}

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """Shape of one sample, (C, H, W) for images."""
        return tuple(self.train.images.shape[1:])

    def with_validation_in_training(self) -> "Dataset":
        """The same data set with its validation split added to the training samples.

        Used by the reference that shows what the trusted labels are worth as training data: they get no
        label noise, and none is left out. The validation split stays what it was, so it no longer
        measures generalisation.
        """
        name = f"{self.train.source[0]}+{self.validation.source[0]}"
        both = (self.train, self.validation)
        joined = Split(
            images=torch.cat([split.images for split in both]),
            labels=torch.cat([split.labels for split in both]),
            source=(name, torch.cat([split.source[1] for split in both])),
        )

        return replace(self, train=joined, trusted=len(self.validation))


def _check_kind(kind: Any) -> None:
    if kind is None:
        return
    if not isinstance(kind, TaskKind):
        raise ValueError(
            f"kind of a Dataset must be a TaskKind, got {shown(kind)}: dsenv.task_kinds.make_kind makes one "
            "of a name or a table"
        )
    check_guess(kind)


def _check_split(name: str, split: Split, classes: int, kind: TaskKind | None) -> None:
    if not isinstance(split, Split):
        raise ValueError(f"{name} must be a Split, got {shown(split)}; dsenv.tasks.from_tensors makes them")
    _check_images(name, split.images)
    if kind is None or kind.classes is not None:
        check_labels(name, split.labels, classes)
    if len(split) == 0:
        raise ValueError(f"{name} is empty: every split needs at least one sample")
    if kind is not None and kind.classes is None:
        kind.check_targets(f"{name}: targets", split.labels, len(split.images))
    if len(split.images) != len(split.labels):
        raise ValueError(f"{name} has {len(split.images)} samples and {len(split.labels)} labels")
    _check_source(name, split)

    if split.images.is_floating_point() and not bool(torch.isfinite(split.images).all()):
        where = int((~torch.isfinite(split.images.flatten(1))).any(1).nonzero()[0])
        raise ValueError(f"{name}: sample {where} has a NaN or infinite value; clean the data first")


def _check_images(name: str, images: Tensor) -> None:
    if not isinstance(images, Tensor) or images.layout is not torch.strided:
        raise ValueError(f"{name}: samples must be a dense tensor (N, ...), got {type(images).__name__}")
    if images.dtype not in (torch.uint8, torch.float32, torch.int64):
        raise ValueError(f"{name}: samples must be uint8, float32 or int64 (tokens), got {images.dtype}")
    if images.dim() < 2 or (len(images) and not images[0].numel()):
        raise ValueError(
            f"{name}: samples must be (N, D) or images (N, C, H, W), got shape {tuple(images.shape)}"
        )
    if images.requires_grad:
        raise ValueError(f"{name}: samples must not require gradients; pass images.detach()")


def check_labels(name: str, labels: Tensor, classes: int) -> None:
    """Check labels: (N,) int64 in 0..classes-1.

    Raises:
        ValueError: they are something else; the message names the first wrong one and where it stands.
    """
    check_count("classes", classes, 1, MOST_CLASSES)
    if not isinstance(labels, Tensor) or labels.layout is not torch.strided:
        raise ValueError(f"{name}: labels must be a tensor (N,), got {type(labels).__name__}")
    if labels.dim() != 1:
        raise ValueError(f"{name}: labels must be (N,), one for each sample, got {tuple(labels.shape)}")
    if labels.dtype != torch.int64:
        raise ValueError(f"{name}: labels must be int64, got {labels.dtype}; {_as_int64(labels)}")
    if not len(labels):
        return

    low, high = int(labels.min()), int(labels.max())
    if low >= 0 and high < classes:
        return
    wrong = low if low < 0 else high
    where = int((labels == wrong).nonzero()[0])
    hint = "; do they count from 1?" if low == 1 and high == classes else ""
    hint = "; leave out samples without a label" if low < 0 else hint
    raise ValueError(
        f"{name} has the label {wrong}; with {classes} classes labels are 0 to {classes - 1} (first at "
        f"sample {where}){hint}"
    )


def _as_int64(labels: Tensor) -> str:
    """What to do about labels of another type."""
    if not labels.is_floating_point():
        return "use labels.long()"
    broken = (labels != labels.floor()) | labels.isinf()
    if not bool(broken.any()):
        return "use labels.long()"
    where = int(broken.nonzero()[0])
    return f"label {where} is {float(labels[where]):g}, which is no class"


def _check_source(name: str, split: Split) -> None:
    source = split.source
    if not (isinstance(source, tuple) and len(source) == 2 and isinstance(source[0], str)):
        raise ValueError(f"{name}: source must be a name and the positions there, got {shown(source)}")
    positions = source[1]
    is_tensor = isinstance(positions, Tensor) and positions.dtype == torch.int64
    if not is_tensor or positions.shape != (len(split),):
        raise ValueError(
            f"{name}: source must have an int64 position for each of {len(split)} samples, got "
            f"{shown(positions)}"
        )


def subset(images: Tensor, labels: Tensor, positions: Tensor, source: str) -> Split:
    """The samples at `positions` of one source, as a split."""
    return Split(images[positions].contiguous(), labels[positions], (source, positions))


def draw_positions(total: int, sizes: Sequence[int | None], seed: int, what: str) -> list[Tensor]:
    """Cut 0..total-1, shuffled by `seed`, into disjoint parts.

    Args:
        total: samples in the source.
        sizes: samples of each part; None, at most once, means all that are left.
        seed: decides the shuffle.
        what: names the source in errors.

    Raises:
        ValueError: the parts are empty or larger than the source, or a size is no whole number.
    """
    total = check_count(f"{what}: samples", total, 0)
    sizes = [
        size if size is None else check_count(f"{what}: size of a split", size, 0, MOST_SAMPLES)
        for size in sizes
    ]
    if sizes.count(None) > 1:
        raise ValueError(
            f"{what}: the sizes of the splits are {sizes}; only one can be None, which takes what is left"
        )
    fixed = sum(size for size in sizes if size is not None)
    if any(size is not None and size < 1 for size in sizes):
        raise ValueError(f"{what}: every split needs at least one sample, got the sizes {list(sizes)}")
    rest = total - fixed
    if rest < (1 if None in sizes else 0):
        raise ValueError(f"{what} has {total} samples, too few for splits of {list(sizes)}; ask for fewer")

    order = torch.from_numpy(np.random.default_rng(check_seed("split_seed", seed)).permutation(total))
    parts, start = [], 0
    for size in sizes:
        stop = start + (rest if size is None else size)
        parts.append(order[start:stop])
        start = stop
    return parts


def split_pools(
    name: str,
    pool: tuple[Tensor, Tensor],
    test_pool: tuple[Tensor, Tensor] | None,
    sizes: tuple[int | None, int, int | None],
    seed: int,
) -> tuple[Split, Split, Split]:
    """Cut a data set into train, validation and test.

    Args:
        name: names the source in errors and in `Split.source`.
        pool: (images, labels) to draw train and validation from, and test where `test_pool` is None.
        test_pool: (images, labels) of the data set's own test samples, if it has them.
        sizes: samples of train, validation and test; None means all that are left.
        seed: decides which sample falls where.

    Raises:
        ValueError: see `draw_positions`; or samples and labels differ in number.
    """
    for what, pair in (("samples", pool), ("test samples", test_pool)):
        if pair is not None and len(pair[0]) != len(pair[1]):
            raise ValueError(f"{name} has {len(pair[0])} {what} and {len(pair[1])} labels of them")

    train_size, validation_size, test_size = sizes
    if test_pool is None:
        parts = draw_positions(len(pool[1]), (train_size, validation_size, test_size), seed, name)
        train, validation, test = (subset(*pool, part, name) for part in parts)
        return train, validation, test

    # Test samples of its own: pool samples that no split asks for are left out
    total = check_count(f"{name}: validation", validation_size, 0, MOST_SAMPLES)
    if train_size is not None:
        total += check_count(f"{name}: train", train_size, 0, MOST_SAMPLES)
    rest = 0 if train_size is None else len(pool[1]) - total
    wanted = [train_size, validation_size, *([rest] if rest > 0 else [])]
    parts = draw_positions(len(pool[1]), wanted, seed, f"{name}'s training samples")
    test_part = draw_positions(len(test_pool[1]), (test_size,), seed, f"{name}'s test samples")[0]

    return (
        subset(*pool, parts[0], f"{name}-train"),
        subset(*pool, parts[1], f"{name}-train"),
        subset(*test_pool, test_part, f"{name}-test"),
    )
