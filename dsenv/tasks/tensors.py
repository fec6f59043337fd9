"""Any pair of tensors as a data set."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from dsenv.errors import check_count, check_seed
from dsenv.task_kinds.base import TaskKind
from dsenv.task_kinds.registry import KindChoice, make_kind
from dsenv.tasks.dataset import Dataset, Split, draw_positions, split_pools, subset

MOST_CLASSES = 1_000_000


def from_tensors(
    images: Tensor,
    labels: Tensor,
    *,
    name: str = "tensors",
    classes: int | None = None,
    train: int | None = None,
    validation: int = 300,
    test: int | None = 300,
    validation_images: Tensor | None = None,
    validation_labels: Tensor | None = None,
    test_images: Tensor | None = None,
    test_labels: Tensor | None = None,
    split_seed: int = 0,
    kind: KindChoice | None = None,
) -> Dataset:
    """Make a data set of samples and labels.

    Use::

        import torch
        from dsenv.tasks import from_tensors

        images, labels = torch.rand(500, 1, 8, 8), torch.randint(0, 3, (500,))  # some labels may be wrong
        trusted_images, trusted_labels = torch.rand(60, 1, 8, 8), torch.randint(0, 3, (60,))
        data = from_tensors(
            images, labels, test=100, validation_images=trusted_images, validation_labels=trusted_labels
        )
        print(len(data.train), len(data.validation), len(data.test))

    Args:
        images: (N, ...) uint8 in 0..255, normalised by the training split's mean and deviation, or
            float32 that is used as it is. Images are (N, C, H, W).
        labels: (N,) whole numbers from 0; for other kinds of task (N, ...) as the kind wants its targets.
        name: names the data set in messages.
        classes: number of classes, or of labels; None for the largest label plus one.
        train: training samples; None for all that are left.
        validation: trusted validation samples that are drawn from `images`; not read where
            `validation_images` are given.
        test: test samples; None for all that are left.
        validation_images: trusted validation samples of their own, all of which are used.
        validation_labels: their labels.
        test_images: test samples of their own; drawn from `images` where None.
        test_labels: their labels.
        split_seed: decides which sample falls into which split.
        kind: of the task, see `dsenv.task_kinds`: a name, a table or a `TaskKind`; None for classification.
            Its scale is that of the training split. Floating labels (N,) become (N, 1), and so must be the
            outputs of a model.

    Raises:
        ValueError: a tensor or number is of another kind or out of range; see `Dataset` too.
    """
    own = None if kind in (None, "classification") else make_kind(kind, _classes_for(classes))
    if own is not None and classes is not None and own.outputs not in (None, classes):
        raise ValueError(f"{name}: classes={classes} was given, and kind is {own!r}: give one of them")
    classes = own.classes if own is not None and own.classes is not None else classes
    other = None if own is None or own.classes is not None else own
    check = _checked_pair if other is None else partial(_checked_targets, other)
    pool = check(name, "images", images, "labels", labels)
    own_validation = _own_pair(check, "validation", validation_images, validation_labels, name)
    own_test = _own_pair(check, "test", test_images, test_labels, name)
    sizes = (
        None if train is None else check_count("train", train, 0),
        0 if own_validation is not None else check_count("validation", validation, 0),
        None if test is None else check_count("test", test, 0),
    )
    splits = _cut(name, pool, own_validation, own_test, sizes, check_seed("split_seed", split_seed))

    if other is not None:
        mean, std = ((0.0,), (1.0,)) if images.dtype != torch.uint8 else channel_statistics(splits[0].images)
        return Dataset(name, *splits, kind=other, mean=mean, std=std)

    largest = int(pool[1].max()) + 1
    what, wanted = ("the largest label plus one", largest) if classes is None else ("classes", classes)
    count = check_count(what, wanted, 2, MOST_CLASSES)
    if images.dtype != torch.uint8:
        return Dataset(name, *splits, classes=count)
    mean, std = channel_statistics(splits[0].images)
    return Dataset(name, *splits, classes=count, mean=mean, std=std)


def _classes_for(classes: int | None) -> dict[str, Any]:
    return {} if classes is None else {"classes": classes, "labels": classes}


def _checked_pair(
    name: str, images_name: str, images: Any, labels_name: str, labels: Any
) -> tuple[Tensor, Tensor]:
    """Samples, and their labels as int64."""
    for what, values in ((images_name, images), (labels_name, labels)):
        if not isinstance(values, Tensor):
            raise ValueError(
                f"{name}: {what} must be a tensor, got {type(values).__name__}; use torch.as_tensor"
            )
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool or labels.ndim != 1:
        raise ValueError(
            f"{name}: {labels_name} must be whole numbers, got {labels.dtype} {tuple(labels.shape)}; use "
            "labels.long(), with one label for each sample: (N,)"
        )
    if images.ndim < 2:
        raise ValueError(f"{name}: {images_name} must have the shape (N, ...), got {tuple(images.shape)}")
    if len(images) != len(labels):
        raise ValueError(f"{name} has {len(images)} samples and {len(labels)} labels in {images_name}")
    return images, labels.long()


def _checked_targets(
    kind: TaskKind, name: str, images_name: str, images: Any, labels_name: str, labels: Any
) -> tuple[Tensor, Tensor]:
    """Samples, and their targets as the kind of task wants them; one number a sample becomes (N, 1)."""
    for what, values in ((images_name, images), (labels_name, labels)):
        if not isinstance(values, Tensor):
            raise ValueError(
                f"{name}: {what} must be a tensor, got {type(values).__name__}; use torch.as_tensor"
            )
    kind.check_targets(f"{name}: {labels_name}", labels, len(images))
    return images, labels[:, None] if labels.ndim == 1 and labels.is_floating_point() else labels


def _own_pair(
    check: Callable[..., tuple[Tensor, Tensor]], split: str, images: Any, labels: Any, name: str
) -> tuple[Tensor, Tensor] | None:
    """Samples and labels of a split of their own; None where they are to be drawn from the others."""
    if (images is None) != (labels is None):
        raise ValueError(f"give {split}_images and {split}_labels together, or neither")
    if images is None:
        return None
    return check(name, f"{split}_images", images, f"{split}_labels", labels)


def _cut(
    name: str,
    pool: tuple[Tensor, Tensor],
    validation: tuple[Tensor, Tensor] | None,
    test: tuple[Tensor, Tensor] | None,
    sizes: tuple[int | None, int, int | None],
    seed: int,
) -> tuple[Split, Split, Split]:
    """The three splits; a validation split of its own is taken whole."""
    if validation is None:
        return split_pools(name, pool, test, sizes, seed)

    train_size, _, test_size = sizes
    rest = () if train_size is None else (len(pool[1]) - train_size,)
    wanted = [train_size, test_size] if test is None else [train_size, *(size for size in rest if size > 0)]
    parts = draw_positions(len(pool[1]), wanted, seed, name)
    source = name if test is None else f"{name}-train"
    test_part = parts[1] if test is None else draw_positions(len(test[1]), (test_size,), seed, name)[0]

    return (
        subset(*pool, parts[0], source),
        subset(*validation, torch.arange(len(validation[1])), f"{name}-validation"),
        subset(*pool, test_part, name) if test is None else subset(*test, test_part, f"{name}-test"),
    )


def channel_statistics(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel of uint8 images, on the scale 0..1."""
    pixels = images.float() / 255
    pixels = pixels.transpose(0, 1).flatten(1)  # (C, everything else)
    return tuple(pixels.mean(1).tolist()), tuple(pixels.std(1).clamp(min=1e-3).tolist())
