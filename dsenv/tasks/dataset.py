"""Dataset: train, validation and test splits as tensors, fixed by a seed and disjoint."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)  # tensors have no single truth
class Split:
    """Samples of one split."""

    images: Tensor
    """(N, ...) uint8 in 0..255, or float32 that is used as it is; images are (N, C, H, W)."""
    labels: Tensor
    """(N,) int64 in 0..classes-1."""
    source: tuple[str, Tensor]
    """Where the samples come from: a name, and their (N,) int64 positions there."""

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, eq=False)  # tensors have no single truth
class Dataset:
    """Three disjoint splits and how to normalise them.

    Only evaluation reads `test`; observations and rewards see `train` and `validation`.

    Raises:
        ValueError: a split is empty, a label is out of range or a value is not finite.
    """

    name: str
    train: Split
    validation: Split
    test: Split
    classes: int
    mean: tuple[float, ...] = (0.0,)
    """Mean of each channel, on the scale 0..1."""
    std: tuple[float, ...] = (1.0,)
    """Standard deviation of each channel, on the scale 0..1."""
    trusted: int = 0
    """Training samples at the end of `train` whose labels stay as they are: an added validation split."""

    def __post_init__(self) -> None:
        for name, split in self.splits().items():
            _check_split(f"{self.name}/{name}", split, self.classes)
            self._check_like_training(name, split)
        channels = self.sample_shape[0]
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) not in (1, channels):
                raise ValueError(f"{self.name}: {name} has {len(values)} values for {channels} channels")

    def _check_like_training(self, name: str, split: Split) -> None:
        own, wanted = ((s.images.dtype, tuple(s.images.shape[1:])) for s in (split, self.train))
        if own != wanted:
            raise ValueError(
                f"{self.name}/{name} has samples of {own[0]} {own[1]}, its training split of {wanted[0]} "
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


def _check_split(name: str, split: Split, classes: int) -> None:
    if len(split) == 0:
        raise ValueError(f"{name} is empty: every split needs at least one sample")
    if len(split.images) != len(split.labels):
        raise ValueError(f"{name} has {len(split.images)} samples and {len(split.labels)} labels")

    if split.images.dtype not in (torch.uint8, torch.float32):
        raise ValueError(f"{name}: samples must be uint8 or float32, got {split.images.dtype}")
    if split.labels.dtype != torch.int64:
        raise ValueError(f"{name}: labels must be int64, got {split.labels.dtype}; use labels.long()")

    low, high = int(split.labels.min()), int(split.labels.max())
    if low < 0 or high >= classes:
        wrong = low if low < 0 else high
        raise ValueError(
            f"{name} has the label {wrong}; with {classes} classes labels are 0 to {classes - 1}"
        )

    if split.images.is_floating_point() and not bool(torch.isfinite(split.images).all()):
        where = int((~torch.isfinite(split.images.flatten(1))).any(1).nonzero()[0])
        raise ValueError(f"{name}: sample {where} has a NaN or infinite value; clean the data first")


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
        ValueError: the parts are empty or larger than the source.
    """
    fixed = sum(size for size in sizes if size is not None)
    if any(size is not None and size < 1 for size in sizes):
        raise ValueError(f"{what}: every split needs at least one sample, got the sizes {list(sizes)}")
    rest = total - fixed
    if rest < (1 if None in sizes else 0):
        raise ValueError(f"{what} has {total} samples, too few for splits of {list(sizes)}; ask for fewer")

    order = torch.from_numpy(np.random.default_rng(seed).permutation(total))
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
    """
    train_size, validation_size, test_size = sizes
    if test_pool is None:
        parts = draw_positions(len(pool[1]), (train_size, validation_size, test_size), seed, name)
        train, validation, test = (subset(*pool, part, name) for part in parts)
        return train, validation, test

    # Test samples of its own: pool samples that no split asks for are left out
    rest = () if train_size is None else (len(pool[1]) - train_size - validation_size,)
    wanted = [train_size, validation_size, *(size for size in rest if size > 0)]
    parts = draw_positions(len(pool[1]), wanted, seed, f"{name}'s training samples")
    test_part = draw_positions(len(test_pool[1]), (test_size,), seed, f"{name}'s test samples")[0]

    return (
        subset(*pool, parts[0], f"{name}-train"),
        subset(*pool, parts[1], f"{name}-train"),
        subset(*test_pool, test_part, f"{name}-test"),
    )
