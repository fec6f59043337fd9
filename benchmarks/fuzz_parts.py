"""Fuzz cases for the parts: selectors, volume schedules, augmentation, rewards, controls."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fuzz_cases import Case, Draw, drawn, flag, number, odd, one_of, or_none, pick, whole
from torch import Tensor

from dsenv.augment import CONTROLLERS, STANDARD_OPS, AugmentationController, Magnitudes
from dsenv.catalogue import build_part
from dsenv.control.base import Control
from dsenv.control.registry import CONTROLS, make_control
from dsenv.env.rewards.registry import make_reward
from dsenv.outputs import ModelOutputs
from dsenv.select.base import Selector
from dsenv.select.registry import SELECTORS
from dsenv.signals import SampleSignals
from dsenv.volume.base import VolumeSchedule, budget, counts
from dsenv.volume.registry import SCHEDULES

Rng = np.random.Generator
Table = Mapping[str, tuple[Draw, Draw]]

SHARE = number(0.01, 1.0, [0, 0.0, -0.1, 1.0001, 2])
ZERO_SHARE = number(0.0, 1.0, [-0.1, 1.0001, 2, -1])
ABOVE_0 = number(0.01, 5.0, [0, -1, -0.5])
KEEP = one_of("hardest", "easiest")
COUNT = whole(1, 40)
N, CLASSES, WIDTH = 24, 3, 5


def _irreducible(rng: Rng) -> Any:
    return torch.from_numpy(rng.random(N).astype(np.float32))


SELECTOR_TABLES: Mapping[str, Table] = {
    "infobatch": {
        "keep": SHARE,
        "max_prune": number(0.1, 0.9, [0, 1, 1.0, -0.1]),
        "scores": one_of("loss", "random"),
    },
    "ucb": {
        "alpha": SHARE,
        "c": number(0.0, 5.0, [-1, -0.1]),
        "size": or_none((lambda _: N, whole(1, 2)[1])),
    },
    "epsilon_greedy": {"epsilon": ZERO_SHARE, "alpha": SHARE},
    "ranked": {"by": one_of("loss", "entropy", "margin", "label_margin"), "keep": KEEP},
    "small_loss": {"by": one_of("loss", "loss_ema")},
    "trim": {
        "rate": or_none(number(0.0, 0.9, [1, 1.0, -0.1])),
        "confident": number(0.1, 0.9, [0, 1, -0.1]),
        "least": number(0.0, 0.9, [1, 1.0, -0.1]),
        "visits": number(0.0, 5.0, [-1, -0.1]),
    },
    "order_dp": {"share": SHARE},
    "rho_loss": {
        "irreducible": (
            _irreducible,
            lambda rng: pick(
                rng, [None, "x", 5, [1.0], torch.ones(2, 2), torch.full((N,), float("nan")), torch.ones(0)]
            ),
        ),
        "share": or_none(SHARE),
    },
    "data_agent": {
        "config": (  # what is wrong in the table is named, not the table
            lambda rng: pick(rng, [None, {"rollout": 2}, {"variant": "released"}, {"lr": 0.1, "hidden": 8}]),
            lambda rng: pick(
                rng, [5, "x", [], {"lr": -1}, {"rollouts": 2}, {"hidden": "8"}, {"variant": "relased"}]
            ),
        ),
        "seed": whole(0, 2**62),
    },
    "el2n": {"keep": KEEP, "visits": COUNT},
    "forgetting": {
        "recorded": (
            lambda rng: pick(rng, [None, SampleSignals(N, CLASSES)]),
            lambda rng: pick(rng, [5, "x", torch.ones(N), SampleSignals(N, CLASSES, 2), {}]),
        )
    },
    "ccs": {"beta": number(0.0, 0.9, [1, -0.1]), "strata": COUNT},
    "moderate": {"prototype": one_of("mean", "median")},
    "herding": {"budget": ZERO_SHARE},
    "k_center": {"budget": SHARE},
    "glister": {"budget": ZERO_SHARE, "group": COUNT, "eta": ABOVE_0},
    "divbs": {"batch": whole(2, 40), "together": COUNT},
    **{name: {} for name in ("random", "fixed_random", "grand")},
}
assert set(SELECTOR_TABLES) == set(SELECTORS)

UNNAMED = ("config", "ops")  # errors name what is wrong inside
WRONG_NAMES = ("Random", "infobach", "", "os:system", "a:b:c", 5, None, "dsenv:TrainingEnv", "json:loads")


def _wrong_form(rng: Rng, name: str) -> Any:
    """A choice of a part that is none."""
    return pick(
        rng,
        [
            *WRONG_NAMES,
            {"name": name, "unknown": 1},
            {"nam": name},
            {},
            [name],
            {"name": None},
            {"name": [name]},
            {"name": name.upper()},
            dict,
            object(),
            torch.nn.Linear,
        ],
    )


def _part(
    kind: str,
    known: Mapping[str, Any],
    tables: Mapping[str, Table],
    given: Mapping[str, Any],
    expected: type,
    oracle: Callable[[Any, Mapping[str, Any], Rng], str],
) -> Callable[[Rng, Path], Case]:
    """Cases of a part that is built by name, with settings of its table."""

    def draw(rng: Rng, folder: Path) -> Case:
        del folder
        name = pick(rng, sorted(tables))
        settings, bad = drawn(rng, tables[name]) if tables[name] else ({}, None)
        missing = name == "rho_loss" and "irreducible" not in settings
        choice: Any = {"name": name, **settings}
        good: bool | None = bad is None and not missing
        if (not tables[name] and not settings and rng.random() < 0.5) or (
            bad is None and not missing and rng.random() < 0.1
        ):
            choice, good = _wrong_form(rng, name), False
        seed = int(rng.integers(10**6))
        return Case(
            f"{kind} {name} {bad} {choice}",
            lambda: build_part(kind, known, choice, given, expected),
            lambda found: kept(found, settings) or oracle(found, settings, np.random.default_rng(seed)),
            good,
            [bad] if bad and bad not in UNNAMED and not missing else [],
        )

    return draw


def kept(found: Any, settings: Mapping[str, Any]) -> str:
    """Every setting is kept, numbers as plain Python ones."""
    for name, value in settings.items():
        kept = getattr(found, name, value)
        if isinstance(value, np.generic) and isinstance(kept, np.generic):
            return f"{name} = {value!r} is kept as {kept!r}"
        if isinstance(value, int | float | str | np.generic) and kept != value:
            return f"{name} = {value!r} is kept as {kept!r}"
    return ""


def _outputs(rng: Rng, size: int) -> ModelOutputs:
    def values(*shape: int) -> Tensor:
        return torch.from_numpy(rng.normal(size=shape).astype(np.float32))

    labels = torch.from_numpy(rng.permutation(np.arange(size) % CLASSES))
    return ModelOutputs(
        torch.arange(size), labels, values(size).abs(), values(size, CLASSES), values(size, WIDTH)
    )


def _selects(found: Selector, settings: Mapping[str, Any], rng: Rng) -> str:
    """It chooses as many different samples as it is asked for, with weights that are finite and above 0."""
    del settings
    signals, seen = SampleSignals(N, CLASSES), _outputs(rng, N)
    assert seen.logits is not None
    half = torch.from_numpy(rng.permutation(N)[: int(rng.integers(1, N + 1))])
    signals.update(half, seen.loss[half], seen.logits[half], seen.labels[half], 0)
    if found.needs_pass:
        found.prepare(seen, _outputs(rng, 9))
    if found.observes:
        found.observe(
            ModelOutputs(half, *(v[half] for v in (seen.labels, seen.loss, seen.logits, seen.features)))
        )
    for count in {1, int(rng.integers(1, N + 1)), N}:
        chosen = found.select(signals, count, torch.Generator().manual_seed(int(rng.integers(1000))))
        index, weight = chosen.index, chosen.weight
        if sorted(set(index.tolist())) != sorted(index.tolist()) or len(index) != count:
            return f"{count} were asked for, got {index.tolist()}"
        if int(index.min()) < 0 or int(index.max()) >= N:
            return f"positions {index.tolist()}"
        if not bool(((weight > 0) & weight.isfinite()).all()):
            return f"weights {weight.tolist()}"
    return ""


# Volume schedules

_GOOD_SWING, _BAD_NUMBER = number(0.0, 0.2, [0.9, -0.9, 5])


def _bad_swing(rng: Rng) -> Any:
    value = _BAD_NUMBER(rng)
    return 0.9 if value is None else value  # None is the default


SWING = (_GOOD_SWING, _bad_swing)
SCHEDULE_TABLES: Mapping[str, Table] = {
    "constant": {},
    "linear": {"swing": SWING},
    "cosine": {"swing": SWING},
    "step": {"swing": SWING, "stages": whole(2, 9)},
    "pods": {"warmup": whole(0, 4), "tail": number(0.0, 0.2, [-0.1, 1.1])},
}


def _adds_up(found: VolumeSchedule, settings: Mapping[str, Any], rng: Rng) -> str:
    """Every epoch has 1..N samples, and all of them the budget."""
    del settings
    size, total = int(rng.integers(4, 200)), int(rng.integers(16, 40))  # long enough for tail and warm-up
    numbers = counts(found, size, total)
    wanted = budget(found.target, size, total)
    if sum(numbers) != wanted or min(numbers) < 1 or max(numbers) > size or len(numbers) != total:
        return f"{numbers} of {size} in {total} epochs, the budget is {wanted}"
    return ""


def schedules(rng: Rng, folder: Path) -> Case:
    """Schedules around a target of a half; a bad target in some."""
    target = (0.5, True)
    if rng.random() < 0.2:
        target = (pick(rng, [0, -0.5, 1.5, "0.5", True, float("nan"), odd(rng)]), False)
    case = _part("volume", SCHEDULES, SCHEDULE_TABLES, {"target": target[0]}, VolumeSchedule, _adds_up)(
        rng, folder
    )
    if target[1]:
        return case
    return Case(f"target {target[0]!r} {case.words}", case.call, case.oracle, False)


# Augmentation

OPS = (
    lambda rng: [STANDARD_OPS[i] for i in rng.permutation(len(STANDARD_OPS))[: int(rng.integers(1, 5))]],
    lambda rng: pick(rng, [[], ["rotat"], [5], None, 5, "rotate", [None], {}]),
)
COMMON: Table = {
    "ops": OPS,
    "magnitudes": (
        lambda _: Magnitudes(),
        lambda rng: pick(rng, [None, 5, "moderate", {}, Magnitudes]),
    ),
}
CONTROLLER_TABLES: Mapping[str, Table] = {
    "none": {},
    "fixed": {"strength": ZERO_SHARE, "ramp_epochs": whole(0, 5), **COMMON},
    "given": COMMON,
    "trivial": COMMON,
    "rand_augment": {"ops_per_sample": whole(1, 3), "strength": ZERO_SHARE, **COMMON},
    "ent_augment": {"warm_up": whole(0, 5), **COMMON},
    "ada_augment": {
        "features": (lambda _: WIDTH, whole(1, 2)[1]),
        "learning_rate": ABOVE_0,
        "seed": whole(0, 2**62),
        **COMMON,
    },
    "sada": {
        "window": whole(2, 5),
        "ema": number(0.0, 0.9, [1, -0.1]),
        "clip": number(0.0, 0.4, [0.5, -0.1]),
        "reverse": flag(),
        **COMMON,
    },
}


def _augments(found: AugmentationController, settings: Mapping[str, Any], rng: Rng) -> str:
    """Strengths are in [0, 1]; images keep their shape, type and range."""
    del settings
    index = torch.from_numpy(rng.permutation(N)[:4])
    images = torch.from_numpy(rng.integers(256, size=(4, 3, 8, 8), dtype=np.uint8))
    signals, generator = SampleSignals(N, CLASSES), torch.Generator().manual_seed(int(rng.integers(1000)))
    strength = found.strengths(signals, index, generator)
    if strength.shape != index.shape or not bool(((strength >= 0) & (strength <= 1)).all()):
        return f"strengths {strength.tolist()}"
    views = found.views(images, signals, index, generator)
    shapes = {(view.shape, view.dtype) for view in views}
    return "" if shapes == {(images.shape, images.dtype)} else f"images became {shapes}"


def controllers(rng: Rng, folder: Path) -> Case:
    """Controllers of N samples."""
    given = {"size": N, "classes": CLASSES, "epochs": 4, "features": WIDTH}
    return _part("augment", CONTROLLERS, CONTROLLER_TABLES, given, AugmentationController, _augments)(
        rng, folder
    )


# Rewards and controls

REWARD_TABLES: Mapping[str, Table] = {
    "validation": {"measure": one_of("accuracy", "log_likelihood")},
    "final": {"measure": one_of("accuracy", "log_likelihood")},
    "cost_aware": {"price": ABOVE_0, "measure": one_of("accuracy", "log_likelihood")},
    "composite": {"quantile": SHARE},
}


def rewards(rng: Rng, folder: Path) -> Case:
    """Rewards with their settings, priced on made-up intervals by the pure function."""
    del folder
    name = pick(rng, sorted(REWARD_TABLES))
    settings, bad = drawn(rng, REWARD_TABLES[name])
    choice: Any = {"name": name, **settings}
    if wrong := bad is None and rng.random() < 0.15:
        choice = _wrong_form(rng, name)

    def oracle(found: Any) -> str:
        if fault := kept(found, {key: value for key, value in settings.items() if key != "measure"}):
            return fault
        measure = settings.get("measure")
        return "" if measure is None or found.by == measure else f"measures {found.by}"

    return Case(
        f"{bad} {choice}",
        lambda: make_reward(choice),
        oracle,
        bad is None and not wrong,
        [bad] if bad else [],
    )


SHARP = number(0.1, 50.0, [0, -1, 1e9])
CONTROL_TABLES: Mapping[str, Table] = {
    "curriculum": {"sharpness": SHARP, "trim": flag()},
    "mask": {
        "candidates": whole(8, 64),
        "rescore": flag(),
        "embedding": flag(),
        "minimum": SHARE,
        "trim": flag(),
    },
    "ratio": {"minimum": SHARE, "levels": whole(2, 12)},
    "strength": {"stability_bins": or_none(whole(1, 12)), "levels": whole(2, 12)},
    "joint": {
        "sharpness": SHARP,
        "minimum": SHARE,
        "stability_bins": or_none(whole(1, 12)),
        "strength": flag(),
        "trim": flag(),
    },
    "rule": {},
}
assert set(CONTROL_TABLES) == set(CONTROLS)


def controls(rng: Rng, folder: Path) -> Case:
    """Controls: the neutral action and every choice are actions, and mean the same when read back."""
    del folder
    name = pick(rng, sorted(CONTROL_TABLES))
    settings, bad = drawn(rng, CONTROL_TABLES[name]) if CONTROL_TABLES[name] else ({}, None)
    bins, binary = int(rng.integers(2, 9)), bool(rng.random() < 0.3)
    choice: Any = {"name": name, **settings}
    if wrong := bad is None and rng.random() < 0.15:
        choice = _wrong_form(rng, name)

    def oracle(found: Control) -> str:
        neutral = found.encode()
        rows = [neutral[None], np.random.default_rng(bins).uniform(-1, 1, (3, found.size)).astype(np.float32)]
        if "discrete" in found.kinds:
            rows.append(found.choices())
        for row in rows:
            if row.shape[1:] != (found.size,) or np.abs(row).max() > 1 + 1e-6:
                return f"actions {row}"
            if not all(np.isfinite(value).all() for value in found.decode(row).values()):
                return f"{row} means {found.decode(row)}"
        return "" if len(found.names) == found.size else f"{len(found.names)} names of {found.size}"

    named = [bad] if bad else []
    return Case(
        f"{bad} {choice} {bins} {binary}",
        lambda: make_control(choice, bins, 0.5, binary=binary),
        oracle,
        bad is None and not wrong,
        named,
    )


PARTS: Mapping[str, Callable[[Rng, Path], Case]] = {
    "selectors": _part(
        "selector",
        SELECTORS,
        SELECTOR_TABLES,
        {"size": N, "classes": CLASSES, "features": WIDTH},
        Selector,
        _selects,
    ),
    "schedules": schedules,
    "controllers": controllers,
    "rewards": rewards,
    "controls": controls,
}
"""Name -> draws a case."""
