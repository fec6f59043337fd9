"""Fuzz cases for collate functions of the user's own, by `plan.loader`."""

import random
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fuzz_cases import Case, pick
from fuzz_data import (
    CLASSES,
)
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset

from dsenv import DataPlan
from dsenv.plan import Batch
from dsenv.plan.tags import FIRST

Rng = np.random.Generator


class Ragged(Dataset[Any]):
    """Sample i is (a row of 1 + i % 5 numbers, each of them i, and a label)."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Any:
        return torch.full((1 + index % 5,), float(index)), index % CLASSES


def _order(name: str, samples: list[Any]) -> list[Any]:
    if name == "sort":
        return sorted(samples, key=lambda sample: -len(sample[0]))
    if name == "shuffle":
        return random.sample(samples, len(samples))
    if name == "drop":
        kept = [sample for sample in samples if len(sample[0]) != 3]
        return kept or samples[:1]
    return samples[::-1] if name == "reverse" else samples


NEST: Mapping[str, Callable[[Tensor, Tensor, list[Any]], Any]] = {
    "pair": lambda x, y, s: (x, y),
    "list": lambda x, y, s: [x, y],
    "mapping": lambda x, y, s: {"x": x, "label": y, "length": torch.tensor([len(a) for a, _ in s])},
    "packed": lambda x, y, s: ({"x": x, "mask": x > 0}, y),
    "nothing left": lambda x, y, s: None,  # all samples of the batch are broken
    "time first": lambda x, y, s: ({"t": x.T.contiguous(), "x": x}, y),
}
SPOILT: Mapping[str, Callable[[Tensor, Tensor, list[Any]], Any]] = {
    "repeat": lambda x, y, s: (torch.cat([x, x]), torch.cat([y, y])),
    "mean": lambda x, y, s: (x.mean(0, keepdim=True), y.float().mean()[None]),
    "nothing": lambda x, y, s: (torch.zeros(2), torch.zeros(2)),
    "empty": lambda x, y, s: (x[:0], y[:0]),
    "text": lambda x, y, s: "batch",
}


Make = Callable[[Tensor, Tensor, list[Any]], Any]


def _arranged(orders: list[str], make: Make, samples: list[Any]) -> Any:
    """What a collate function makes of samples."""
    for name in orders:
        samples = _order(name, samples)
    x = pad_sequence([a for a, _ in samples], batch_first=True, padding_value=-1.0)
    return make(x, torch.tensor([b for _, b in samples]), samples)


def _with_positions(orders: list[str], make: Make, items: list[Any]) -> Any:
    """The same with the positions of the rows, for `indexed`."""
    where = {id(sample): position for position, sample in items}
    kept = [sample for _, sample in items]
    for name in orders:
        kept = _order(name, kept)
    return [where[id(sample)] for sample in kept], _arranged([], make, kept)


def _fault_of_all(plan: DataPlan, is_whole: bool, found: list[Batch]) -> str:
    """What is wrong with the batches of an epoch."""
    seen = [position for batch in found for position in batch.index.tolist()]
    if len(set(seen)) < len(seen):
        return f"a sample is twice in {seen}"
    for batch in found:
        inputs = batch.inputs["x"] if isinstance(batch.inputs, Mapping) else batch.inputs
        if inputs[:, 0].long().tolist() != batch.index.tolist():
            return f"{inputs[:, 0].tolist()} for {batch.index.tolist()}"
        if not torch.equal(batch.labels, batch.index % CLASSES):
            return f"labels {batch.labels.tolist()}"
    counts = plan.epoch_schedule.counts
    assert counts is not None
    return "" if not is_whole or len(seen) == counts[0] else f"{len(seen)} of {counts[0]} came"


def collates(rng: Rng, folder: Path) -> Case:
    """Collate functions that sort, shuffle, drop, pad and nest: content = index all the same."""
    del folder
    size, batch_size = int(rng.integers(8, 30)), int(rng.integers(2, 8))
    orders = [
        pick(rng, ["sort", "shuffle", "drop", "reverse", "keep"]) for _ in range(int(rng.integers(1, 4)))
    ]
    spoilt = rng.random() < 0.45
    table = SPOILT if spoilt else NEST
    nest, indexed = pick(rng, list(table)), bool(rng.random() < 0.2) and not spoilt
    indexed = indexed and nest != "nothing left"
    plan = DataPlan(
        Ragged(size), epochs=2, batch_size=batch_size, ratio=float(pick(rng, [0.5, 1.0])), classes=CLASSES
    )

    def call() -> list[Batch]:
        random.seed(size)
        function = partial(_with_positions if indexed else _arranged, orders, table[nest])
        found = list(plan.loader(collate_fn=function, indexed=indexed))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for batch in found:
                plan.loss(batch, torch.ones(len(batch.index)))
            plan.start_epoch(1)
        return found

    is_whole = "drop" not in orders and nest != "nothing left"
    words = f"{orders} {nest} indexed {indexed} {size} {batch_size}"
    # Values that equal a mark may make it unclear which sample a row is: then it is refused
    good = False if spoilt else True if size <= FIRST[0] else None
    return Case(words, call, partial(_fault_of_all, plan, is_whole), good)


COLLATES: Mapping[str, Callable[[Rng, Path], Case]] = {"collate functions": collates}
"""Name -> draws a case."""
