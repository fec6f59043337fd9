"""The user's own samples for a rehearsal: read once, a stratified subset of them, cut into held-out parts."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils import data as torch_data

from dsenv.errors import check_count, shown
from dsenv.plan.source import Source, open_source
from dsenv.tasks.dataset import Dataset, Split, check_labels, subset
from dsenv.tasks.tensors import channel_statistics

Positions = NDArray[np.int64]

LEAST_SAMPLES = 20  # below this nothing can be held out and learnt from


@dataclass(frozen=True, eq=False)  # tensors have no single truth
class Samples:
    """Samples and their labels as the user gave them, in memory."""

    name: str
    inputs: Tensor
    """(N, ...) uint8 or float32, on the CPU."""
    labels: Tensor
    """(N,) int64, on the CPU; some of them may be wrong."""
    classes: int
    total: int
    """How many the user has; more than N where a subset was read."""
    mean: tuple[float, ...] | None = None
    """Of each channel, where a data set of dsenv says it; None to measure it on uint8 samples."""
    std: tuple[float, ...] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def part(self, positions: Positions) -> "Samples":
        """The samples at some positions."""
        index = torch.from_numpy(positions)
        return Samples(
            self.name,
            self.inputs[index],
            self.labels[index],
            self.classes,
            self.total,
            self.mean,
            self.std,
        )

    def dataset(self) -> Dataset:
        """All samples as the training split of a data set.

        A `Dataset` has a validation and a test split too. A rehearsal reads neither: it holds out a part of
        the training split. The first sample stands in for each of them.
        """
        whole = Split(self.inputs, self.labels, (self.name, torch.arange(len(self))))
        first = torch.zeros(1, dtype=torch.int64)
        second, third = (
            subset(self.inputs, self.labels, first, f"{self.name}, not read {n}") for n in (1, 2)
        )
        mean, std = self.mean or (0.0,), self.std or (1.0,)
        if self.mean is None and self.inputs.dtype == torch.uint8:
            mean, std = channel_statistics(self.inputs)
        return Dataset(self.name, whole, second, third, classes=self.classes, mean=mean, std=std)


def read_samples(data: Any, most: int, seed: int, classes: int | None = None) -> Samples:
    """Read at most `most` samples of what a user gives as data, each class with its share.

    Args:
        data: (inputs, labels) as tensors or arrays, a `TensorDataset` of two, a map-style data set whose
            samples are (input, label), or a `Dataset`, of which the training split is read alone.
        most: samples to read.
        seed: decides which.
        classes: C; None to read it off.

    Raises:
        ValueError: it is none of these, labels are no classes, or there are too few samples.
    """
    if isinstance(data, Dataset):
        if data.kind is not None and data.kind.classes is None:
            raise ValueError(
                f"a rehearsal measures accuracy and so needs classes, and {data.name} is a task of kind "
                f"{data.kind.name}: compare plans in a loop of your own, on a validation split"
            )
        split = data.train
        whole = Samples(data.name, split.images, split.labels, data.classes, len(split), data.mean, data.std)
        return _stratified(_checked(whole), most, seed)

    source = open_source(data, "cpu", classes)
    total = len(source.dataset)
    name = "data" if source.gathers else type(source.dataset).__name__
    if source.gathers:
        labels = _as_labels(source.tensors[-1], "the labels")
        found = spread_positions(labels, most, seed)
        inputs = torch.as_tensor(_taken(source, found))
    else:
        inputs, labels, found = _read(source, most, seed)

    own = _as_labels(labels, "the labels")[torch.from_numpy(found)] if source.gathers else labels
    known = source.classes or max(2, int(own.max()) + 1)
    return _checked(Samples(name, _as_inputs(inputs), own, known, total))


def _taken(source: Source, positions: Positions) -> Any:
    """Inputs at some positions of tensors or arrays."""
    if len(source.tensors) == 2:
        return source.tensors[0][torch.from_numpy(positions)]
    return np.ascontiguousarray(source.dataset.inputs[positions])


def _read(source: Source, most: int, seed: int) -> tuple[Tensor, Tensor, Positions]:
    """Samples of a map-style data set; drawn with an eye on the classes where its labels are at hand."""
    dataset, total = source.dataset, len(source.dataset)
    listed = getattr(dataset, "targets", getattr(dataset, "labels", None))
    if total <= most:
        found = np.arange(total)
    elif listed is not None and len(listed) == total:
        found = spread_positions(_as_labels(_listed(listed), "the labels"), most, seed)
    else:
        found = np.sort(np.random.default_rng(seed).permutation(total)[:most])

    chosen = torch_data.Subset(dataset, found.tolist())
    parts = [(x, y) for _, x, y in open_source(chosen, "cpu").batches()]
    if not all(isinstance(x, Tensor) for x, _ in parts):
        raise ValueError(
            f"samples must be (input, label) with one tensor as input, {type(dataset).__name__} gives "
            f"{type(parts[0][0]).__name__}; pass (inputs, labels)"
        )
    inputs, labels = torch.cat([x for x, _ in parts]), torch.cat([y for _, y in parts])
    return inputs, _as_labels(labels, "the labels"), found


def _listed(labels: Any) -> Tensor:
    """All labels of a data set, as it lists them.

    Raises:
        ValueError: they are no numbers.
    """
    try:
        return torch.as_tensor(labels)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"the labels must be classes, whole numbers from 0, one for each sample, got {shown(labels)}: "
            "number the classes 0..C-1"
        ) from error


def _as_labels(labels: Tensor, what: str) -> Tensor:
    """Labels as (N,) int64 on the CPU.

    Raises:
        ValueError: they are no whole numbers from 0, one for each sample.
    """
    is_whole = not (labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool)
    if not is_whole or labels.ndim != 1:
        raise ValueError(
            f"{what} must be classes, whole numbers from 0, one for each sample, got {labels.dtype} "
            f"{tuple(labels.shape)}; a rehearsal measures accuracy and so needs classes"
        )
    return labels.detach().cpu().long()


def _as_inputs(inputs: Tensor) -> Tensor:
    """Inputs as uint8 or float32 on the CPU.

    Raises:
        ValueError: they are of another type.
    """
    if inputs.dtype == torch.uint8 or inputs.dtype == torch.float32:
        return inputs.detach().cpu().contiguous()
    if inputs.is_floating_point():
        return inputs.detach().cpu().float().contiguous()
    raise ValueError(
        f"inputs must be uint8 (0..255, which are standardised) or floating (used as they are), got "
        f"{inputs.dtype}; of tokens pass the features of an encoder"
    )


def _checked(samples: Samples) -> Samples:
    check_labels(samples.name, samples.labels, samples.classes)
    if len(samples) < LEAST_SAMPLES:
        raise ValueError(
            f"{samples.name} has {len(samples)} samples; a rehearsal holds some of them out and needs at "
            f"least {LEAST_SAMPLES}: use selector='random', or train on everything"
        )
    if samples.inputs.ndim < 2:
        raise ValueError(
            f"inputs must be (N, D) or images (N, C, H, W), got {tuple(samples.inputs.shape)}; of one number "
            "a sample pass inputs[:, None]"
        )
    return samples


def _stratified(samples: Samples, most: int, seed: int) -> Samples:
    if len(samples) <= most:
        return samples
    return samples.part(spread_positions(samples.labels, most, seed))


def by_class(labels: Tensor, seed: int) -> Positions:
    """All positions, class by class, in random order within each."""
    order = np.random.default_rng(seed).permutation(len(labels))
    return np.asarray(order[np.argsort(labels.numpy()[order], kind="stable")], np.int64)


def spread_positions(labels: Tensor, most: int, seed: int) -> Positions:
    """Positions of at most `most` samples, of each class its share, sorted."""
    total = len(labels)
    if total <= most:
        return np.arange(total)
    order = by_class(labels, seed)
    steps = np.arange(total, dtype=np.int64)
    kept = (steps + 1) * most // total > steps * most // total
    return np.sort(order[kept])


def held_out_parts(labels: Tensor, folds: int, seeds: Sequence[int]) -> Tensor:
    """Which samples each training run holds out: (len(seeds) * folds, N) bool.

    For each seed the samples are cut anew into `folds` parts, of each class its share in each; every sample
    is held out by one training run of a seed.

    Args:
        labels: (N,) as the user gave them.
        folds: parts, 2..N.
        seeds: one for each cut.
    """
    folds = check_count("folds", folds, 2, len(labels), hint=f"there are {shown(len(labels))} samples")
    part = torch.arange(len(labels)) % folds
    rows = []
    for seed in seeds:
        of_sample = torch.empty_like(part)
        of_sample[torch.from_numpy(by_class(labels, seed))] = part
        rows.append(of_sample == torch.arange(folds)[:, None])
    return torch.cat(rows)
