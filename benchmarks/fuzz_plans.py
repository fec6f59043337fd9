"""Fuzz cases for what plans are made of, and schedules of the learning rate."""

import warnings
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fuzz_cases import Case, drawn, flag, number, odd, pick, whole
from fuzz_data import (
    AUGMENTS,
    CLASSES,
    FORMS,
    Rows,
    content,
    fault_of,
    labels_of,
)
from torch import Tensor
from torch.optim import SGD, lr_scheduler
from torch.utils.data import IterableDataset

import dsenv
from dsenv import DataPlan
from dsenv.select.ranked import Ranked

Rng = np.random.Generator

# The constructor


class Stream(IterableDataset[Any]):
    """A stream that claims a length."""

    def __iter__(self) -> Iterator[Any]:
        return iter(())

    def __len__(self) -> int:
        return 10


class NoLength:
    """Samples without a number."""

    def __getitem__(self, index: int) -> int:
        return index


def _with_label(size: int, value: int) -> Tensor:
    labels = labels_of(size)
    labels[size // 2] = value
    return labels


WRONG_DATA: tuple[Callable[[int], Any], ...] = (
    lambda n: None,
    lambda n: 5,
    lambda n: "text",
    lambda n: b"bytes",
    lambda n: (),
    lambda n: [],
    lambda n: (content(n),),
    lambda n: (content(n), labels_of(n + 1)),
    lambda n: (content(n), labels_of(n), labels_of(n)),
    lambda n: (content(0), labels_of(0)),
    lambda n: (content(n), torch.tensor(1)),
    lambda n: (content(n), None),
    lambda n: {"x": content(n), "label": labels_of(n)},
    lambda n: content(n).numpy(),
    lambda n: Stream(),
    lambda n: NoLength(),
    lambda n: (x for x in range(n)),
    lambda n: Rows(0, "pair"),
    lambda n: (content(n), _with_label(n, -100)),
    lambda n: (content(n), _with_label(n, 99)),
    lambda n: (content(n).numpy(), np.array(["a"] * n)),
    lambda n: (content(n).numpy().astype(object), labels_of(n).numpy()),
    lambda n: (content(n).numpy(), [[1], [1, 2]] + [[1]] * (n - 2)),
    lambda n: DataPlan,
    lambda n: torch.nn.Linear(2, 2),
    lambda n: {1, 2, 3},
    lambda n: [list(range(n)), list(range(n))],
)
WRONG_PARTS = (
    *("infobach", "", "os:system", 5, [], {}, {"name": 5}, {"name": "random", "x": 1}, dict, object()),
    *(("linear",), b"random", torch.nn.Linear, print, True, 1.5, {"nam": "random"}, "dsenv:TrainingEnv"),
)


def _unless_none(value: Callable[[Rng], Any], instead: Any) -> Callable[[Rng], Any]:
    """A bad value of a setting that may be None."""

    def draw(rng: Rng) -> Any:
        found = value(rng)
        return instead if found is None else found

    return draw


PLAN = {
    "epochs": whole(1, 5),
    "batch_size": whole(1, 50),
    "selector": (
        lambda rng: pick(
            rng,
            [
                None,
                "random",
                "ucb",
                "infobatch",
                {"name": "order_dp", "share": 0.7},
                Ranked,
                Ranked(),
                "ranked",
            ],
        ),
        lambda rng: pick(rng, WRONG_PARTS),
    ),
    "ratio": (number(0.4, 1.0, [])[0], _unless_none(number(0.4, 1.0, [0, -0.5, 1.01, 50])[1], 0.0)),
    "volume": (
        lambda rng: pick(
            rng, [None, "constant", "linear", {"name": "step", "stages": 3}, dsenv.volume.Constant(1.0)]
        ),
        lambda rng: pick(rng, WRONG_PARTS),
    ),
    "augment": (lambda rng: pick(rng, AUGMENTS), lambda rng: pick(rng, WRONG_PARTS)),
    "policy": (
        lambda _: None,
        lambda rng: pick(rng, ["curiculum", 5, [], "none.safetensors", "/", True, b"x", object(), {}]),
    ),
    "classes": (
        lambda rng: pick(rng, [None, CLASSES, np.int64(CLASSES), 7]),
        _unless_none(lambda rng: pick(rng, [1, 0, -3, 2, 2.0, "3", True, 10**30, odd(rng)]), 1),
    ),
    "transform": (
        lambda rng: pick(rng, [None, lambda x: x, torch.nn.Identity()]),
        lambda rng: pick(rng, [5, "x", [], True, {}]),
    ),
    "drop_last": flag(),
    "uniform_epochs": whole(0, 4),
    "scoring_passes": (lambda rng: pick(rng, [None, 0, np.int64(0)]), _unless_none(whole(0, 1)[1], -1)),
    "tail": number(0.0, 1.0, [-0.1, 1.1, 2]),
    "device": (
        lambda rng: pick(rng, [None, "cpu", torch.device("cpu")]),
        lambda rng: pick(rng, ["gpu", "cuda:99", "", 5.5, "meta", [], "cpu:x", object(), torch.ones(2)]),
    ),
    "seed": whole(0, 2**62),
}
UNNAMED = ("policy", "selector", "volume", "augment")


def plans(rng: Rng, folder: Path) -> Case:
    """Plans of data in all forms; their first epoch is looked at."""
    size, form = int(rng.integers(8, 30)), pick(rng, list(FORMS))
    settings, bad = drawn(rng, PLAN)
    settings = {"epochs": 2, "batch_size": 5, **settings}
    wrong_data = bad is None and rng.random() < 0.15
    settings |= {"classes": CLASSES} if wrong_data else {}
    data = pick(rng, WRONG_DATA)(size) if wrong_data else FORMS[form](size, folder)
    if (
        bad == "classes"
        and type(settings["classes"]) is int
        and settings["classes"] == 2
        and form in ("pairs", "mappings", "samples")
    ):
        bad = "batch labels"
        settings["epochs"] = "?"
    if bad is None and settings.get("volume") is not None and rng.random() < 0.9:
        settings["ratio"] = 1.0 if not isinstance(settings["volume"], str) else 0.5

    # What contradicts something else may be refused too
    is_sure = bad is None and not wrong_data and not _may_clash(settings)
    refuse = bad is not None or wrong_data

    def call() -> Any:
        plan = DataPlan(data, **settings)
        return plan, plan.epoch_sampler.record

    def oracle(found: tuple[DataPlan, Any]) -> str:
        plan, record = found
        wanted = {"epochs": settings["epochs"], "batch_size": settings["batch_size"]}
        for name, value in wanted.items():
            if type(getattr(plan, name)) is not int or getattr(plan, name) != int(value):
                return f"{name} = {value!r} is kept as {getattr(plan, name)!r}"
        index = record.chosen.index.tolist()
        if len(set(index)) < len(index) or not set(index) <= set(range(size)):
            return f"positions {index} of {size}"
        return _budget_is_met(plan, settings, size) or _content_is_right(plan, form, settings)

    is_named = bad in PLAN and bad not in UNNAMED and not _may_clash(settings)
    named = [bad] if bad and is_named else []
    words = f"{form} {size} {bad} {settings}" + (f" {data!r:.80}" if wrong_data else "")
    return Case(words, call, oracle, False if refuse else True if is_sure else None, named)


def _may_clash(settings: Mapping[str, Any]) -> bool:
    ratio, volume = settings.get("ratio"), settings.get("volume")
    is_object = volume is not None and not isinstance(volume, str | Mapping)
    return (
        (volume is not None and (ratio is None or is_object))
        or settings.get("drop_last", False) is not False
        or settings.get("augment") == "sada"
    )


def _budget_is_met(plan: DataPlan, settings: Mapping[str, Any], size: int) -> str:
    counts = plan.epoch_schedule.counts
    if counts is None:
        return "" if settings.get("ratio") is None else "the ratio was given, and there are no counts"
    wanted = round(float(settings.get("ratio", 1.0) or 1.0) * size * plan.epochs)
    return "" if sum(counts) == wanted else f"{counts} for a budget of {wanted}"


def _content_is_right(plan: DataPlan, form: str, settings: Mapping[str, Any]) -> str:
    if settings.get("augment", "none") != "none" and form != "images":
        return ""  # what is no image is refused batch by batch
    faults = (
        fault_of(batch, is_augmented=settings.get("augment", "none") != "none") for batch in plan.batches()
    )
    return next(filter(None, faults), "")


# plan.check_scheduler


def schedulers(rng: Rng, folder: Path) -> Case:
    """A schedule for as many steps as the plan has passes; any other length is warned about."""
    del folder
    size, batch, epochs = int(rng.integers(8, 40)), int(rng.integers(1, 6)), int(rng.integers(2, 5))
    plan = DataPlan((content(size), labels_of(size)), epochs=epochs, batch_size=batch)
    total, per_epoch = plan.total_steps, plan.steps_in_epoch(0)
    optimizer = SGD([torch.nn.Parameter(torch.ones(1))], 0.1)
    is_right = bool(rng.random() < 0.5)
    steps = total if is_right else total + int(rng.integers(epochs * batch + 2, 100))
    kind = pick(rng, list(SCHEDULERS))
    scheduler, wanted = SCHEDULERS[kind](optimizer, steps), is_right or kind in ("step", "plateau")
    fault = pick(rng, ["accumulate", "unknown", "object"]) if rng.random() < 0.45 else None
    settings: dict[str, Any] = {}
    if fault == "accumulate":
        settings["accumulate"] = pick(rng, [0, -1, 1.5, "2", True, None, [], 10**30])
    elif fault == "unknown":
        data = (content(size), labels_of(size))
        plan = DataPlan(data, epochs=epochs, batch_size=batch, selector="infobatch")
    elif fault == "object":
        scheduler = pick(rng, [None, 5, "x", optimizer, [], {}, lr_scheduler.StepLR, print])

    def call() -> list[str]:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            plan.check_scheduler(scheduler, **settings)
        return [str(warning.message) for warning in caught]

    def oracle(said: list[str]) -> str:
        if bool(said) == wanted or len(said) > 1:
            return f"warnings {said}"
        return "" if wanted or str(total) in said[0] else f"the plan has {total} steps: {said}"

    words = f"{kind} of {steps} for {total}, {per_epoch} an epoch, {fault} {settings}"
    return Case(words, call, oracle, fault is None, ["accumulate"] if fault == "accumulate" else [])


def _chain(optimizer: Any, steps: int) -> Any:
    parts = [
        lr_scheduler.LinearLR(optimizer, 0.1, total_iters=2),
        lr_scheduler.CosineAnnealingLR(optimizer, steps - 2),
    ]
    return lr_scheduler.SequentialLR(optimizer, parts, [2])


SCHEDULERS: Mapping[str, Callable[[Any, int], Any]] = {
    "one cycle": lambda o, n: lr_scheduler.OneCycleLR(o, 0.1, total_steps=n),
    "cosine": lambda o, n: lr_scheduler.CosineAnnealingLR(o, np.int64(n) if n % 2 else n),
    "polynomial": lambda o, n: lr_scheduler.PolynomialLR(o, n),
    "linear": lambda o, n: lr_scheduler.LinearLR(o, 1.0, 0.1, n),
    "sequence": _chain,
    "step": lambda o, n: lr_scheduler.StepLR(o, 1),
    "plateau": lambda o, n: lr_scheduler.ReduceLROnPlateau(o),
    "lambda": lambda o, n: lr_scheduler.LambdaLR(o, partial(_falling, total_steps=n)),
}
"""Kind -> a schedule of an optimizer made for that many steps."""


def _falling(step: int, total_steps: int) -> float:
    return 1 - step / total_steps


PLANS: Mapping[str, Callable[[Rng, Path], Case]] = {
    "DataPlan": plans,
    "check_scheduler": schedulers,
}
"""Name -> draws a case."""
