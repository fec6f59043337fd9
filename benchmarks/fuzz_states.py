"""Fuzz cases for the states of plans and environments: whole, changed in one place, and none."""

import copy
import warnings
from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fuzz_cases import Case, pick
from fuzz_data import (
    FORMS,
    ComplaintError,
    equal,
    make_plan,
    settings_of,
    unchanged,
)
from fuzz_envs import CONTROLS, INTERVALS, single
from fuzz_lives import Life
from torch import Tensor

from dsenv import DataPlan, TrainingEnv

Rng = np.random.Generator

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


def paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Ways to every part of a state."""
    if path:
        yield path
    items = (
        value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else ()
    )
    for key, item in items:
        yield from paths(item, (*path, key))


def _changed(rng: Rng, state: Any) -> tuple[Any, str]:
    """A state with one part changed, and what was changed."""
    path = pick(rng, list(paths(state)))
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


def plan_states(rng: Rng, folder: Path) -> Case:
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


# Environments


def _started(control: int, taken: int) -> TrainingEnv:
    """An environment of a kind after some steps."""
    env = single(control, "box").fork()
    env.reset(seed=control)
    for _ in range(taken):
        env.step(env.control.encode())
    return env


@cache
def _state(control: int, taken: int) -> dict[str, Any]:
    return _started(control, taken).state_dict()


def env_states(rng: Rng, folder: Path) -> Case:
    """Whole states go on as where they were saved; what was changed in any place is refused."""
    del folder
    control, taken = int(rng.integers(len(CONTROLS))), int(rng.integers(0, INTERVALS))
    state: Any = copy.deepcopy(_state(control, taken))
    kind = pick(rng, ["whole"] * 5 + ["changed"] * 3 + ["other", "no state"])
    words = kind
    if kind == "changed":
        words = _change(rng, state)
    elif kind == "other":
        state = _state((control + 1) % len(CONTROLS), taken)
    elif kind == "no state":
        state = pick(
            rng, [None, 5, "x", [], {}, {"version": 1}, {**state, "version": 2}, {**state, "digest": ""}]
        )
    env = single(control, "box").fork()
    env.reset(seed=99)

    def call() -> Any:
        before = env.state_dict()
        try:
            env.load_state_dict(state)
        except Exception as error:
            if not equal(before, env.state_dict()):
                raise ComplaintError(f"a refused state changed the environment: {error}") from error
            raise
        return env.state_dict(), env.step(env.control.encode())

    def oracle(found: Any) -> str:
        saved, step = found
        if not equal(saved, state):
            return "the state changes when it is loaded and saved again"
        other = _started(control, taken).step(env.control.encode())
        return "" if np.array_equal(step[0], other[0]) and step[1] == other[1] else "it goes another way"

    return Case(f"{CONTROLS[control]} {taken} {words}", call, oracle, kind == "whole")


def _change(rng: Rng, state: Any) -> str:
    """Put something else in a place of a state; the place."""
    path = pick(rng, list(paths(state)))
    parent = state
    for key in path[:-1]:
        parent = parent[key]
    parent[path[-1]] = _other(rng, parent[path[-1]])
    return ".".join(map(str, path))


def _other(rng: Rng, value: Any) -> Any:
    """Something that differs from a value of a state."""
    if isinstance(value, torch.Tensor) and value.numel():
        flipped = ~value if value.dtype == torch.bool else value + 1
        return pick(
            rng, [flipped, value.flatten()[:-1], value[None], value.double() * 2.5, value.tolist(), None]
        )
    options = [None, 0, -7, "x", [], {}, [1], True, 2.5, {"a": 1}, object(), torch.ones(1)]
    return pick(rng, [option for option in options if not equal(option, value)])


STATES: Mapping[str, Callable[[Rng, Path], Case]] = {"plan states": plan_states, "env states": env_states}
"""Name -> draws a case."""
