"""Fuzz cases for the life of a plan: loops that skip, shuffle, split and resume; collate functions; states."""

import random
import warnings
from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fuzz_cases import Case, pick
from fuzz_data import (
    CLASSES,
    FORMS,
    ComplaintError,
    content,
    equal,
    fault_of,
    forward,
    labels_of,
    make_plan,
    outputs_of,
    settings_of,
    snapshot,
    unchanged,
)
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, Dataset

from dsenv import DataPlan
from dsenv.plan import Batch

Rng = np.random.Generator


class Life:
    """A training run of a plan in a loop that does odd things, and what has to hold all along.

    Args:
        rng: decides what the loop does.
        data: of the plan.
        settings: of the plan.
        size: N.
    """

    def __init__(self, rng: Rng, data: Any, settings: Mapping[str, Any], size: int) -> None:
        self.rng, self.data, self.settings, self.size = rng, data, settings, size
        self.plan = make_plan(data, settings, rng)
        self.is_augmented = self.plan.controller is not None
        self.trained: list[int] = []
        """Samples of the current epoch that were trained on."""
        self.old: list[Batch] = []
        """Batches that were trained on."""
        self.progress = 0.0
        self.styles = {
            name: rng.random() < 0.3 for name in ("skip", "shuffle", "split", "resume", "odd values")
        }

    def run(self, ends_at: int | None = None) -> None:
        """Train to the end, or up to that epoch.

        Raises:
            ComplaintError: something does not hold.
        """
        last = self.plan.epochs if ends_at is None else min(ends_at, self.plan.epochs)
        while self.plan.epoch < last:
            epoch = self.plan.epoch
            self.trained = []
            self.epoch_of(pick(self.rng, ["batches", "loader", "sampler"]))
            self.plan.start_epoch(epoch + 1)
            self.check_progress()

        if ends_at is None and (self.plan.progress != 1.0 or self.plan.epoch != self.plan.epochs):
            raise ComplaintError(f"the end is at progress {self.plan.progress}, epoch {self.plan.epoch}")

    def epoch_of(self, way: str) -> None:
        """Train one epoch, with state round trips in the middle of it."""
        chosen = self.plan.epoch_sampler.chosen
        index, end = set(chosen.index.tolist()), self.plan.epoch_sampler.end
        if len(index) < len(chosen.index) or not index <= set(range(self.size)):
            raise ComplaintError(f"chosen are {chosen.index.tolist()}")
        counts = self.plan.epoch_schedule.counts
        if counts is not None and len(index) != counts[self.plan.epoch]:
            raise ComplaintError(f"{len(index)} chosen, planned are {counts[self.plan.epoch]}")

        for _ in range(8):
            left = self.rng.random() if self.styles["resume"] else 1.0
            is_cut = self.train(way, left)
            if not is_cut:
                break
            self.resume()
        if not set(self.trained) <= index or len(set(self.trained)) < len(self.trained):
            raise ComplaintError(f"trained on {self.trained} of {sorted(index)}")
        if not self.styles["skip"] and not is_cut and len(self.trained) != end:
            raise ComplaintError(f"trained on {len(self.trained)} of {end}")

    def train(self, way: str, share: float) -> bool:
        """Train on what is left of the epoch, or on a share of it; whether something was left on purpose."""
        if self.plan.epoch_sampler.is_done:
            return False
        offered = list(self.offered(way))
        if self.styles["shuffle"]:
            offered = [offered[i] for i in self.rng.permutation(len(offered))]
        stop = len(offered) if share == 1.0 else int(share * len(offered))
        for batch in offered[:stop]:
            if self.styles["skip"] and self.rng.random() < 0.2:
                continue
            self.step(batch)
        return stop < len(offered)

    def offered(self, way: str) -> Iterator[Batch]:
        plan = self.plan
        if way == "batches":
            return plan.batches()
        if way == "loader":
            return iter(plan.loader())
        loader = DataLoader(plan.dataset, batch_size=plan.batch_size, sampler=plan.sampler)
        return (plan.batch(index, sample) for index, sample in loader)

    def step(self, batch: Batch) -> None:
        """Train on a batch, whole or in two parts."""
        if fault := fault_of(batch, is_augmented=self.is_augmented):
            raise ComplaintError(fault)
        parts = [batch]
        if self.styles["split"] and len(batch.index) > 1 and not batch.views:
            cut = int(self.rng.integers(1, len(batch.index)))
            parts = [_part(batch, slice(None, cut)), _part(batch, slice(cut, None))]
        for part in parts:
            given = outputs_of(self.rng, part.index)
            if self.styles["odd values"]:
                given["losses"][0] = float(pick(self.rng, [float("nan"), float("inf"), -1.0, 1e30]))
            wanted = (given["losses"] * part.weight).mean()
            if self.rng.random() < 0.2 and not same(self.plan.weighted(part, given["losses"]), wanted):
                raise ComplaintError("plan.weighted is not the weighted mean")
            losses = given.pop("losses")
            if not same(self.plan.loss(part, losses, forward=forward, **given), wanted):
                raise ComplaintError("plan.loss is not the weighted mean")
            self.trained += part.index.tolist()
            self.check_progress()
        self.old.append(batch)

    def check_progress(self) -> None:
        now = self.plan.progress
        if not self.progress - 1e-9 <= now <= 1.0:
            raise ComplaintError(f"progress went from {self.progress} to {now}")
        self.progress = now

    def resume(self) -> None:
        """Go on with another plan from this one's state."""
        state = deepcopy(self.plan.state_dict())
        twin = DataPlan(self.data, **self.settings)
        twin.load_state_dict(state)
        before, after = snapshot(self.plan), snapshot(twin)
        if not equal(before, after):
            raise ComplaintError("the state changes when it is loaded and saved again")
        self.plan, self.old = twin, []


def same(one: Tensor, other: Tensor) -> bool:
    return torch.equal(one.nan_to_num(), other.nan_to_num())


def _part(batch: Batch, rows: slice) -> Batch:
    inputs = (
        {k: v[rows] for k, v in batch.inputs.items()}
        if isinstance(batch.inputs, dict)
        else batch.inputs[rows]
    )
    return batch._replace(
        inputs=inputs, labels=batch.labels[rows], index=batch.index[rows], weight=batch.weight[rows]
    )


# What a plan in the middle of its life refuses


def _twice(life: Life) -> Any:
    batch = next(iter(life.plan.batches()))
    life.step(batch)
    return lambda: life.plan.loss(batch, **outputs_of(life.rng, batch.index))


def _partly_twice(life: Life) -> Any:
    batch = next(iter(life.plan.batches()))
    life.step(batch if len(batch.index) < 2 else _part(batch, slice(None, 1)))
    return lambda: life.plan.observe(batch, **outputs_of(life.rng, batch.index))


def _stale(life: Life) -> Any:
    batch = next(iter(life.plan.batches()))
    life.plan.start_epoch(life.plan.epoch + 1)
    return lambda: life.plan.loss(batch, **outputs_of(life.rng, batch.index))


def _foreign(life: Life) -> Any:
    other = make_plan(life.data, life.settings, life.rng)
    batch = next(iter(other.batches()))
    return lambda: life.plan.loss(batch, **outputs_of(life.rng, batch.index))


def _unfit(life: Life) -> Any:
    batch = next(iter(life.plan.batches()))
    losses = outputs_of(life.rng, batch.index)["losses"]
    wrong = pick(life.rng, [losses.mean(), losses[:, None], losses[:-1], losses.tolist(), None])
    return lambda: life.plan.weighted(batch, wrong)


def _state_of_others(life: Life) -> Any:
    change = pick(life.rng, ["seed", "batch_size", "epochs"])
    settings = {**life.settings, change: int(life.settings[change]) + 1}
    state = DataPlan(life.data, **settings).state_dict()
    return lambda: life.plan.load_state_dict(state)


def _over(life: Life) -> Any:
    life.run()
    return pick(life.rng, [lambda: next(iter(life.plan.batches())), lambda: next(iter(life.plan.loader()))])


REFUSED: Mapping[str, Callable[[Life], Callable[[], Any]]] = {
    "a batch twice": _twice,
    "a part twice": _partly_twice,
    "a stale batch": _stale,
    "another plan's batch": _foreign,
    "losses": _unfit,
    "another plan's state": _state_of_others,
    "after the end": _over,
    "epoch": lambda life: (
        lambda: life.plan.start_epoch(pick(life.rng, [life.plan.epoch + 2, -1, "1", None, 10**9]))
    ),
    "steps": lambda life: lambda: life.plan.steps_in_epoch(pick(life.rng, [-1, 99, "0", 1.5])),
    "accuracy": lambda life: (
        lambda: life.plan.report_validation(pick(life.rng, [2.0, -1, None, "x", float("nan")]))
    ),
    "score": lambda life: (
        lambda: life.plan.score(
            pick(life.rng, [None, 5, lambda x: torch.rand(1, CLASSES), lambda x: "logits", "model"])
        )
    ),
    "validation": lambda life: (
        lambda: life.plan.score(forward, pick(life.rng, [5, (content(3),), (content(2), labels_of(3))]))
    ),
    "loader": lambda life: (
        lambda: life.plan.loader(
            **pick(
                life.rng,
                [
                    {"batch_size": 3},
                    {"shuffle": True},
                    {"num_workers": -1},
                    {"num_worker": 1},
                    {"collate_fn": 5},
                    {"indexed": 5},
                    {"num_workers": "2"},
                ],
            )
        )
    ),
}


def lives(rng: Rng, folder: Path) -> Case:
    """A whole training run in an odd loop; in half of them the plan is asked for something that is wrong."""
    size, form = int(rng.integers(6, 24)), pick(rng, list(FORMS))
    settings = settings_of(rng, size, form)
    data = FORMS[form](size, folder)
    fault = pick(rng, list(REFUSED)) if rng.random() < 0.45 else None
    at = int(rng.integers(0, settings["epochs"]))
    seed = int(rng.integers(2**31))

    def call() -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            life = Life(np.random.default_rng(seed), data, settings, size)
            if fault is None:
                life.run()
                return life
            if fault != "after the end":
                life.run(at)
            wrong = REFUSED[fault](life)
            return unchanged(life.plan, wrong)

    # A loop that skips never has its budget met, and a selector of its own has none
    return Case(f"{form} {size} {fault} at {at} {settings}", call, lambda _: "", fault is None)


# Collate functions


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
        return random.sample(samples, len(samples))  # noqa: S311
    if name == "drop":
        kept = [sample for sample in samples if len(sample[0]) != 3]
        return kept or samples[:1]
    return samples[::-1] if name == "reverse" else samples


NEST: Mapping[str, Callable[[Tensor, Tensor, list[Any]], Any]] = {
    "pair": lambda x, y, s: (x, y),
    "list": lambda x, y, s: [x, y],
    "mapping": lambda x, y, s: {"x": x, "label": y, "length": torch.tensor([len(a) for a, _ in s])},
    "packed": lambda x, y, s: ({"x": x, "mask": x > 0}, y),
    "time first": lambda x, y, s: ({"t": x.T.contiguous(), "x": x}, y),
}
SPOILT: Mapping[str, Callable[[Tensor, Tensor, list[Any]], Any]] = {
    "repeat": lambda x, y, s: (torch.cat([x, x]), torch.cat([y, y])),
    "mean": lambda x, y, s: (x.mean(0, keepdim=True), y.float().mean()[None]),
    "nothing": lambda x, y, s: (torch.zeros(2), torch.zeros(2)),
    "none": lambda x, y, s: None,
    "empty": lambda x, y, s: (x[:0], y[:0]),
    "text": lambda x, y, s: "batch",
}


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
    plan = DataPlan(
        Ragged(size), epochs=2, batch_size=batch_size, ratio=float(pick(rng, [0.5, 1.0])), classes=CLASSES
    )

    def arranged(samples: list[Any]) -> Any:
        for name in orders:
            samples = _order(name, samples)
        x = pad_sequence([a for a, _ in samples], batch_first=True, padding_value=-1.0)
        return table[nest](x, torch.tensor([b for _, b in samples]), samples)

    def with_positions(items: list[Any]) -> Any:
        where = {id(sample): position for position, sample in items}
        kept = [sample for _, sample in items]
        for name in orders:
            kept = _order(name, kept)
        x = pad_sequence([a for a, _ in kept], batch_first=True, padding_value=-1.0)
        labels = torch.tensor([b for _, b in kept])
        return [where[id(sample)] for sample in kept], table[nest](x, labels, kept)

    def call() -> list[Batch]:
        random.seed(size)
        function = with_positions if indexed else arranged
        found = list(plan.loader(collate_fn=function, indexed=indexed))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for batch in found:
                plan.loss(batch, torch.ones(len(batch.index)))
            plan.start_epoch(1)
        return found

    def oracle(found: list[Batch]) -> str:
        seen = [position for batch in found for position in batch.index.tolist()]
        if len(set(seen)) < len(seen):
            return f"a sample is twice in {seen}"
        for batch in found:
            inputs = batch.inputs["x"] if isinstance(batch.inputs, Mapping) else batch.inputs
            if inputs[:, 0].long().tolist() != batch.index.tolist():
                return f"{inputs[:, 0].tolist()} for {batch.index.tolist()}"
            if not torch.equal(batch.labels, batch.index % CLASSES):
                return f"labels {batch.labels.tolist()}"
        lost = size * int("drop" not in orders)
        wanted = plan.epoch_schedule.counts[0] if plan.epoch_schedule.counts else size
        return "" if not lost or len(seen) == wanted else f"{len(seen)} of {wanted} came"

    return Case(f"{orders} {nest} indexed {indexed} {size} {batch_size}", call, oracle, not spoilt)


# States

ODD_LEAVES = (
    None,
    0,
    1,
    -1,
    True,
    2**70,
    1.5,
    float("nan"),
    "x",
    "",
    [],
    {},
    [1],
    torch.zeros(1),
    (1,),
    object(),
)


def _paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Ways to every part of a state."""
    if path:
        yield path
    items = (
        value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else ()
    )
    for key, item in items:
        yield from _paths(item, (*path, key))


def _changed(rng: Rng, state: Any) -> tuple[Any, str]:
    """A state with one part changed, and what was changed."""
    path = pick(rng, list(_paths(state)))
    parent = state
    for key in path[:-1]:
        parent = parent[key]
    value = parent[path[-1]]
    change = pick(rng, ["value", "value", "odd", "odd", "remove", "add"])
    if change == "remove" and isinstance(parent, dict):
        del parent[path[-1]]
    elif change == "add" and isinstance(parent, dict):
        parent[pick(rng, ["extra", 5, None, ""])] = 1
    elif change == "value" and isinstance(value, Tensor):
        parent[path[-1]] = _other_tensor(rng, value)
    elif change == "value" and isinstance(value, bool | int | float):
        parent[path[-1]] = pick(rng, [not value, value + 1, -value, value * 2, type(value)(0)])
    else:
        change = "odd"
        parent[path[-1]] = pick(rng, ODD_LEAVES)
    return state, f"{change} {'.'.join(map(str, path))}"


def _other_tensor(rng: Rng, value: Tensor) -> Any:
    return pick(
        rng,
        [
            *(
                value[None],
                value.flatten()[:-1],
                value.double(),
                value.long(),
                value.numpy(),
                value.to("meta"),
            ),
            *(value.tolist(), torch.zeros_like(value), torch.ones_like(value), value.to_sparse()),
            *(value.flip(0) if value.dim() else value, -value if value.dtype != torch.bool else ~value),
            value * float("nan") if value.is_floating_point() else value * 1000,
        ],
    )


def states(rng: Rng, folder: Path) -> Case:
    """Changed states: refused, and nothing changed; or loaded, and every sample that is left comes once."""
    size, form = int(rng.integers(6, 20)), pick(rng, ["tensors", "pairs", "arrays"])
    settings, data = settings_of(rng, size, form), FORMS[form](size, folder)
    settings.pop("policy", None)
    seed, kind = int(rng.integers(2**31)), pick(rng, ["whole"] * 5 + ["changed"] * 6 + ["no state"])

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        life = Life(np.random.default_rng(seed), data, settings, size)
        life.styles |= {"skip": False, "resume": False}
        life.run(int(rng.integers(0, settings["epochs"])))
        life.trained = []
        life.train("batches", float(rng.random()))
    state, words = deepcopy(life.plan.state_dict()), kind
    if kind == "changed":
        state, words = _changed(rng, state)
    elif kind == "no state":
        state = pick(rng, [None, 5, "x", [], {}, {"version": 2}, {"version": 2, "data": {}, "plan": {}}])

    def call() -> Any:
        twin = make_plan(data, settings, np.random.default_rng(seed))
        unchanged(twin, lambda: twin.load_state_dict(state))
        return twin

    def oracle(twin: DataPlan) -> str:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _goes_on(twin, life, words)

    return Case(
        f"{form} {size} {words} {settings}", call, oracle, {"whole": True, "no state": False}.get(kind)
    )


def _goes_on(twin: DataPlan, life: Life, words: str) -> str:
    """A loaded plan offers what is left, once each, and trains to its end."""
    if twin.epoch < twin.epochs:
        record = twin.epoch_sampler.record
        closed = set(record.state_dict()["trained"].nonzero().flatten().tolist()) | set(record.left_out)
        left = [position for position in record.chosen.index[: record.end].tolist() if position not in closed]
        offered = [] if record.is_done else [p for batch in twin.batches() for p in batch.index.tolist()]
        if sorted(offered) != sorted(left):
            return f"left are {left}, it offers {offered}"
        if words == "whole" and (
            sorted(set(life.trained)) != sorted(closed) or len(life.trained) != len(closed)
        ):
            return f"trained on {life.trained}, the state says {sorted(closed)}"
    life.plan, life.old, life.trained = twin, [], []
    life.progress = twin.progress
    life.styles |= {"skip": False, "resume": False}
    epoch = twin.epoch
    if epoch < twin.epochs:
        life.train("batches", 1.0)
        twin.start_epoch(epoch + 1)
        life.check_progress()
    life.run()
    return ""


LIVES: Mapping[str, Callable[[Rng, Path], Case]] = {
    "plan lives": lives,
    "collate functions": collates,
    "plan states": states,
}
"""Name -> draws a case."""
