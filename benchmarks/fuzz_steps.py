"""Fuzz cases for the actions of environments."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fuzz_cases import Case, pick
from fuzz_data import ComplaintError, equal
from fuzz_envs import CONTROLS, INTERVALS, fault_of, single

from dsenv import TrainingEnv

Rng = np.random.Generator


def _good_action(rng: Rng, env: TrainingEnv, actions: str) -> Any:
    if actions == "discrete":
        choice = int(rng.integers(env.action_space.n))  # type: ignore[attr-defined]
        return pick(rng, [int, np.int64, np.int32, np.array])(choice)
    size = env.control.size
    values = rng.uniform(-1, 1, size)
    return pick(
        rng,
        [
            *(values.astype(np.float32), values, values.tolist(), torch.tensor(values), values * 5),
            *(np.zeros(size, np.int64), np.ones(size), -np.ones(size, np.float16), tuple(values)),
        ],
    )


def _bad_action(rng: Rng, env: TrainingEnv, actions: str) -> Any:
    always = [None, "x", b"1", 1j, {}, [], object(), [None], ["a"], [[1.0], [1.0, 2.0]], print, {"a": 1}]
    if actions == "discrete":
        n = int(env.action_space.n)  # type: ignore[attr-defined]
        return pick(rng, [*always, -1, n, 10**6, 1.0, True, [0], np.array([0, 1]), float("nan"), 2**70])
    size = env.control.size
    values = rng.uniform(-1, 1, size).astype(np.float32)
    broken = values.copy()
    broken[int(rng.integers(size))] = pick(rng, [float("nan"), float("inf"), -float("inf")])
    more = [broken, values[:-1], values[None], np.append(values, 0), values > 0, values.astype(str), 0.5]
    return pick(rng, [*always, *more, broken, values.astype(complex), torch.tensor(broken)])


def _fault_of_steps(env: TrainingEnv, found: list[Any]) -> str:
    """What is wrong with the steps of an episode."""
    used = [step[4]["samples_used"] for step in found]
    left = [step[4]["budget_left"] for step in found]
    totals = {one + other for one, other in zip(used, left, strict=True)}
    if sorted(used) != used or left[-1] < 0 or len(totals) > 1:
        return f"samples used {used}, budget left {left}"
    for observation, reward, _, truncated, info in found:
        if truncated or not np.isfinite(reward):
            return f"reward {reward}"
        if fault := fault_of(observation, env.observation_space, info):
            return fault
    return ""


def steps(rng: Rng, folder: Path) -> Case:
    """Episodes of a few actions: the budget is kept; a refused action changes nothing."""
    del folder
    actions = pick(rng, ["box", "box", "box", "discrete"])
    control = int(rng.integers(2)) if actions == "discrete" else int(rng.integers(len(CONTROLS)))
    env = single(control, actions).fork()
    env.reset(seed=int(rng.integers(1000)))
    count = int(rng.integers(1, 3))
    taken = [_good_action(rng, env, actions) for _ in range(count)]
    fault = pick(rng, ["action", "over"]) if rng.random() < 0.5 else None
    if fault == "action":
        taken.append(_bad_action(rng, env, actions))
    elif fault == "over":
        taken = [_good_action(rng, env, actions) for _ in range(INTERVALS + 1)]

    def call() -> list[Any]:
        found = []
        for place, action in enumerate(taken):
            before = env.state_dict() if fault and place == len(taken) - 1 else None
            try:
                found.append(env.step(action))
            except Exception as error:
                if before is None or not equal(before, env.state_dict()):
                    raise ComplaintError(f"a refused action changed the environment: {error}") from error
                raise
        return found

    return Case(
        f"{CONTROLS[control]} {actions} {fault} {taken}", call, partial(_fault_of_steps, env), fault is None
    )


STEPS: Mapping[str, Callable[[Rng, Path], Case]] = {"env.step": steps}
"""Name -> draws a case."""
