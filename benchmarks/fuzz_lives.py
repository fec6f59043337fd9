"""Fuzz cases for the life of a plan: loops that skip, shuffle, split and resume."""

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
from torch.utils.data import DataLoader

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


LIVES: Mapping[str, Callable[[Rng, Path], Case]] = {"plan lives": lives}
"""Name -> draws a case."""
