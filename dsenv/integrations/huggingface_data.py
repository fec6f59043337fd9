"""Batches of a plan for the Trainer of `transformers`: positions and epochs travel beside the inputs."""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from dsenv.errors import shown
from dsenv.plan.collate import IndexedCollate, NothingLeft, Pick
from dsenv.plan.epoch_sampler import EpochSampler

KEY = "dsenv_batch"
"""Name under which a batch carries its `Carried` to the loss."""
LABELS = ("labels", "label", "label_ids")  # columns that become `labels` in the Trainer's batches
OURS = ("transformers.", "trl.")  # modules whose collators keep the order of the samples


@dataclass(frozen=True)
class Carried:
    """Which samples a batch holds; no tensor of the batch, so that it stays on the CPU."""

    index: Tensor
    """(B, 2) int64 positions and epochs, in the order of the rows."""
    lengths: Tensor | None
    """(B,) int64 lengths of samples that lie in one row, padding counted to the last; else None."""
    is_partial: bool
    """The collator left samples out."""


class Samples(Dataset[Any]):
    """A map-style data set as a plan takes it: samples by position.

    Args:
        dataset: a `datasets.Dataset`, a torch data set or a list.
        labels: (N,) or (N, L) of all samples; None where they are not at hand.
    """

    def __init__(self, dataset: Any, labels: Tensor | None = None) -> None:
        self.dataset, self.labels = dataset, labels

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, position: int) -> Any:
        return self.dataset[int(position)]

    def __getitems__(self, positions: Sequence[int]) -> list[Any]:
        places = [int(position) for position in positions]
        fetch = getattr(self.dataset, "__getitems__", None)
        return list(fetch(places)) if fetch else [self.dataset[place] for place in places]


def labels_of(dataset: Any) -> Tensor | None:
    """Labels of all samples, (N,) or (N, L): of a column or an attribute; None where there are none."""
    names = getattr(dataset, "column_names", None)
    if isinstance(names, list):
        name = next((name for name in LABELS if name in names), None)
        found = None if name is None else dataset.with_format(None)[name][:]
    else:
        found = getattr(dataset, "labels", getattr(dataset, "targets", None))
    if isinstance(found, Tensor):
        return found
    try:
        whole = np.asarray(found)
    except (TypeError, ValueError):  # lists of several lengths: tokens
        return None
    return torch.from_numpy(whole) if whole.dtype.kind in "iuf" and whole.ndim in (1, 2) else None


def lengths_of(dataset: Any, column: str) -> list[int]:
    """Tokens of each sample: of a column of lengths, else by counting `input_ids`.

    Raises:
        ValueError: the samples have neither.
    """
    names = getattr(dataset, "column_names", None)
    if isinstance(names, list) and column in names:
        return [int(length) for length in dataset.with_format(None)[column][:]]
    if isinstance(names, list) and "input_ids" in names:
        return [len(tokens) for tokens in dataset.with_format(None)["input_ids"]]
    first = dataset[0]
    if not isinstance(first, Mapping) or "input_ids" not in first:
        raise ValueError(
            f"the lengths of the samples are not known: there is no column {column!r} "
            f"(TrainingArguments(length_column_name=...)) and no 'input_ids' in {shown(first)}; give "
            "plan=dict(lengths=...)"
        )
    return [len(dataset[position]["input_ids"]) for position in range(len(dataset))]


class Picks(Sampler[int]):
    """Positions of all ranks' samples of the current epoch, from its start on, each with its epoch.

    Accelerate deals the batches out to the ranks, and the Trainer skips those that were trained on before a
    resume.

    Args:
        epoch_sampler: of the plan.
    """

    def __init__(self, epoch_sampler: EpochSampler) -> None:
        self._epoch_sampler = epoch_sampler

    def __iter__(self) -> Iterator[int]:
        record = self._epoch_sampler.to_train()
        positions = record.left(is_whole=True, of_all=True).index.tolist()
        return (Pick.of(position, record.epoch) for position in positions)

    def __len__(self) -> int:
        """Samples of the whole current epoch."""
        return self._epoch_sampler.end


class CollatedSamples(Dataset[Any]):
    """Gives whole batches, with what they carry, to a DataLoader whose collate function is `as_it_is`.

    Random numbers that data set and collator draw are those of the batch: they depend on seed, epoch and
    samples alone, not on workers, what was fetched ahead or where a run was resumed.

    Args:
        samples: read by position.
        collator: of the Trainer, columns that the model does not take removed before.
        inner: the user's collator behind it, which tells whether the order is kept.
        seed: of the plan.
    """

    total_dataset_length = 0  # Accelerate cuts metrics of a last batch by it, as if samples were repeated

    def __init__(self, samples: Samples, collator: Callable[[Any], Any], inner: Any, seed: int) -> None:
        self.samples, self.seed = samples, seed
        self._keeps = keeps_order(inner)
        self._collate = IndexedCollate(collator, keeps_order=self._keeps)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, position: int) -> Any:
        return self.samples[position]

    def __getitems__(self, picks: Sequence[Pick]) -> Any:
        with own_streams((self.seed, picks[0].epoch, *map(int, picks[:2]))):
            found = self.samples.__getitems__(picks)
            lengths = _lengths(found)
            index, batch = self._collate(list(zip(picks, found, strict=True)))

        _check_batch(batch, index)
        by_position = dict(zip(map(int, picks), lengths, strict=True)) if lengths else None
        flat = None if by_position is None else _flat(batch, [by_position[at] for at in index[:, 0].tolist()])
        return {**batch, KEY: Carried(index, flat, len(index) < len(picks))}


def as_it_is(batch: Any) -> Any:
    """A collate function for what is a batch already."""
    return batch


def keeps_order(collator: Any) -> bool:
    """Whether the rows of a collator's batches are its samples in their order, as far as is known."""
    if (said := getattr(collator, "keeps_order", None)) is not None:
        return bool(said)
    kind = collator if hasattr(collator, "__qualname__") else type(collator)
    return str(getattr(kind, "__module__", "")).startswith(OURS)


def _lengths(samples: Sequence[Any]) -> list[int] | None:
    """Tokens of each sample, where they are tables with `input_ids`."""
    if not all(isinstance(sample, Mapping) and "input_ids" in sample for sample in samples):
        return None
    return [len(sample["input_ids"]) for sample in samples]


def _check_batch(batch: Any, index: Tensor) -> None:
    """Check that a collator gave a table, of something.

    Raises:
        ValueError: it did not.
    """
    if isinstance(batch, NothingLeft):
        raise ValueError(
            f"the data collator left out all samples of a batch (positions {shown(index[:, 0].tolist())}): "
            "take them out of train_dataset"
        )
    if not isinstance(batch, Mapping):
        raise ValueError(
            "a data collator of the Trainer gives a table of the model's arguments, got "
            f"{type(batch).__name__}"
        )


def _flat(batch: Mapping[str, Any], lengths: list[int]) -> Tensor | None:
    """Lengths (B,) of samples that a collator put one behind the other into one row; None where it did not.

    Raises:
        ValueError: the row is not made of whole samples.
    """
    tokens = batch.get("input_ids")
    if len(lengths) < 2 or not isinstance(tokens, Tensor) or tokens.dim() != 2 or len(tokens) != 1:
        return None
    rest = tokens.shape[1] - sum(lengths)
    if rest < 0:
        raise ValueError(
            f"the data collator made one row of {tokens.shape[1]} tokens of samples that have "
            f"{sum(lengths)}: where each ends is not known; cut samples before (truncation in the tokenizer)"
        )
    lengths[-1] += rest
    return torch.tensor(lengths)


@contextmanager
def own_streams(seed: tuple[int, ...] | None = None) -> Iterator[None]:
    """Keep the global random streams of the CPU as they are around a block.

    Args:
        seed: at which they begin inside; None for where they are.
    """
    before = random.getstate(), np.random.get_state(legacy=True), torch.get_rng_state()  # noqa: NPY002
    try:
        if seed is not None:
            first, second, third = np.random.SeedSequence(seed).generate_state(3).tolist()
            random.seed(first)
            np.random.seed(second)  # noqa: NPY002
            torch.default_generator.manual_seed(third)  # not torch.manual_seed, which moves GPUs too
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])  # noqa: NPY002
        torch.set_rng_state(before[2])
