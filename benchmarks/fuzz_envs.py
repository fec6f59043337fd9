"""Fuzz cases for environments: settings, reset options, seeds, and what `dsenv.load` lays over."""

from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fuzz_cases import Case, drawn, flag, number, one_of, pick, whole
from fuzz_data import ComplaintError, equal

import dsenv
from dsenv import Task, TrainingEnv
from dsenv.env import TrainingVectorEnv

Rng = np.random.Generator

TASK = {
    "dataset": {"name": "iris", "train": 60, "validation": 30},
    "model": {"name": "mlp", "hidden": [4]},
    "recipe": {"lr": 0.1, "batch_size": 20},
}
INTERVALS = 3
CONTROLS = (
    "curriculum",
    "ratio",
    {"name": "joint", "strength": False},
    "rule",
    {"name": "mask", "candidates": 8},
)


@cache
def _task() -> Task:
    return Task.from_config(**TASK)


@cache
def single(control: int, actions: str) -> TrainingEnv:
    """One environment of each kind; cases fork it."""
    return TrainingEnv(task=_task(), intervals=INTERVALS, control=CONTROLS[control], actions=actions)


@cache
def _stacked(mode: str) -> TrainingVectorEnv:
    return TrainingVectorEnv(
        num_envs=3, task=_task(), intervals=INTERVALS, control="ratio", autoreset_mode=mode
    )


def fault_of(observation: Any, space: Any, info: Mapping[str, Any]) -> str:
    """What is wrong with what an environment says."""
    if not space.contains(observation):
        return f"observations out of range: {observation}"
    for name in ("samples_used", "budget_left", "ratio"):
        if name in info and (not np.isfinite(info[name]).all() or np.min(info[name]) < 0):
            return f"{name} is {info[name]}"
    return ""


# Settings

TASKS = (
    lambda rng: pick(rng, [TASK, _task()]),
    lambda rng: pick(
        rng,
        [
            *(
                None,
                5,
                "iris",
                [],
                {},
                {"dataset": "irs"},
                {**TASK, "model": "mpl"},
                {**TASK, "datset": "iris"},
            ),
            *(
                {**TASK, "recipe": {"lr": -1}},
                {**TASK, "recipe": {"rl": 1}},
                {**TASK, "model": {"hidden": [4]}},
            ),
            *(
                {**TASK, "model": {"name": "os:system"}},
                {**TASK, "dataset": {"name": "iris", "train": 10**6}},
            ),
            {**TASK, "recipe": 5},
        ],
    ),
)
SETTINGS: Mapping[str, Any] = {
    "task": TASKS,
    "ratio": number(0.4, 1.0, [0, -0.1, 1.01, 2]),
    "intervals": whole(2, 6),
    "interval": number(0.3, 2.0, [0, -1, 101]),
    "bins": whole(2, 9),
    "control": (
        lambda rng: pick(rng, [*CONTROLS, "curriculum", {"name": "curriculum", "trim": rng.random() < 0.5}]),
        lambda rng: pick(
            rng,
            [
                "ratios",
                5,
                None,
                [],
                {},
                {"name": "ratio", "x": 1},
                "os:system",
                {"name": "mask", "candidates": 0},
            ],
        ),
    ),
    "actions": (lambda _: "box", one_of("box", "discrete")[1]),
    "rank_by": (
        lambda rng: pick(rng, ["loss", "loss_ema", "margin"]),
        lambda rng: pick(rng, ["los", 5, None, "", []]),
    ),
    "reward": (
        lambda rng: pick(rng, ["validation", "final", "composite", {"name": "final", "measure": "accuracy"}]),
        lambda rng: pick(
            rng, ["validaton", 5, None, {}, {"name": "final", "by": 1}, "cost_aware", dict, "json:loads"]
        ),
    ),
    "context": (
        lambda rng: pick(
            rng,
            [
                {},
                {"label_noise": 0.2},
                {"label_noise": [0.0, 0.4]},
                {"lr": [0.5, 2]},
                {"width": {"choices": [0.5, 1]}},
            ],
        ),
        lambda rng: pick(
            rng,
            [
                *(5, None, "x", [], {"label_nois": 0.1}, {"label_noise": 2}, {"label_noise": "0.1"}, {5: 1}),
                *({"label_noise": [0.4, 0.1]}, {"lr": [0, 1]}, {"width": {"choices": []}}, {"noise": "x"}),
                *(
                    {"label_noise": float("nan")},
                    {"held_out": 5},
                    {"label_noise": [0.1]},
                    {"dataset": "iris"},
                ),
            ],
        ),
    ),
    "evaluation_contexts": (
        lambda rng: pick(rng, [{}, [{}], [{"label_noise": 0.1}], {"grid": {"label_noise": [0, 0.4]}}]),
        lambda rng: pick(
            rng,
            [
                5,
                None,
                "x",
                [5],
                [{"x": 1}],
                {"grid": 5},
                {"held_out": 3},
                {"grid": {"label_noise": []}},
                [None],
            ],
        ),
    ),
    "spend_all": (lambda _: True, flag()[1]),
    "trusted_validation": flag(),
    "divergence_penalty": number(0.0, 10.0, [-1, 1e9]),
    "validation_shown": number(0.0, 1.0, [-0.1, 1.1]),
    "trainer": (
        lambda rng: pick(rng, [{}, {"form": "loop"}, {"threads": 1}]),
        lambda rng: pick(
            rng, [5, None, "x", {"from": 1}, {"form": "lop"}, {"threads": 0}, {"precision": "x"}, []]
        ),
    ),
    "selector": (
        lambda rng: None,
        lambda rng: pick(rng, ["randm", 5, [], {}, {"name": "random", "x": 1}, dict, True, "os:system"]),
    ),
    "volume": (
        lambda rng: None,
        lambda rng: pick(rng, ["constan", 5, [], {}, {"name": "constant", "x": 1}, dict, True]),
    ),
    "augment": (
        lambda rng: None,
        lambda rng: pick(rng, ["trival", 5, [], {}, {"name": "trivial", "x": 1}, dict, True]),
    ),
    "datasets": (
        lambda rng: (),
        lambda rng: pick(rng, [5, None, "x", [5], [{"x": 1}], {}, [{"name": 5}], [{"dataset": "irs"}]]),
    ),
    "render_mode": (lambda rng: pick(rng, [None, "ansi"]), lambda rng: pick(rng, ["human", 5, "", [], True])),
    "device": (
        lambda rng: pick(rng, ["cpu", torch.device("cpu")]),
        lambda rng: pick(rng, ["gpu", 5, None, "meta", "cuda:99", "", []]),
    ),
}
VECTOR: Mapping[str, Any] = {
    "num_envs": whole(1, 4),
    "autoreset_mode": (
        lambda rng: pick(rng, ["NextStep", "SameStep", "Disabled"]),
        lambda rng: pick(rng, ["nextstep", 5, None, "", True]),
    ),
    **SETTINGS,
}


def _make(kind: Any, table: Mapping[str, Any]) -> Callable[[Rng, Path], Case]:
    """Cases of an environment's settings: those that are right run for a step."""

    def draw(rng: Rng, folder: Path) -> Case:
        del folder
        settings, bad = drawn(
            rng, {name: table[name] for name in table if rng.random() < 0.35} or {"ratio": table["ratio"]}
        )
        settings = {"task": _task(), "intervals": INTERVALS, "device": "cpu", **settings}
        control = settings.get("control")
        name = control.get("name") if isinstance(control, Mapping) else control
        if name == "mask" and bad is None:
            settings.pop("interval", None)

        def call() -> Any:
            env = kind(**settings)
            observation, info = env.reset(seed=3)
            return env, observation, info, env.step(env.action_space.sample())

        def oracle(found: Any) -> str:
            env, observation, info, step = found
            if fault := fault_of(observation, env.observation_space, info):
                return fault
            if fault := fault_of(step[0], env.observation_space, step[4]):
                return fault
            for name in ("ratio", "intervals", "bins", "interval"):
                kept = getattr(env.config, name)
                if name in settings and (kept != settings[name] or type(kept) not in (int, float)):
                    return f"{name} = {settings[name]!r} is kept as {kept!r}"
            return "" if np.isfinite(step[1]).all() else f"reward {step[1]}"

        shown = {key: value for key, value in settings.items() if not isinstance(value, Task)}
        return Case(f"{bad} {shown}", call, oracle, _is_good(bad, settings, name))

    return draw


def _is_good(bad: str | None, settings: Mapping[str, Any], control: Any) -> bool | None:
    """Whether settings fit each other; None where that is for the environment to say."""
    if bad:
        return False
    is_clear = control in (None, "curriculum", "ratio", "joint") and settings.get("reward") != "composite"
    return True if is_clear else None


# Resets

CONTEXTS = (
    lambda rng: pick(rng, [{}, {"label_noise": 0.2}, {"lr": 2.0, "subset": 0.5}, {"width": np.float64(0.5)}]),
    lambda rng: pick(
        rng,
        [
            *({"label_nois": 0.1}, {"label_noise": 2}, {"label_noise": "0.1"}, {"label_noise": None}, 5, "x"),
            *(
                {"lr": 0},
                {"lr": float("nan")},
                {5: 1},
                {"dataset": "iris"},
                {"label_noise": [0.1, 0.2]},
                [1, 2],
            ),
            *({"width": True}, {"subset": 10**400}, {"label_noise": torch.ones(2)}),
        ],
    ),
)
WRONG_OPTIONS = (5, "x", [], {"contxt": {}}, {"reset": True}, {5: 1}, {"": {}}, ("context",), True, 1.5)
WRONG_SEEDS = (-1, 1.5, "1", True, 2**64, [], b"1", float("nan"), torch.ones(2), {}, -(10**30))


def resets(rng: Rng, folder: Path) -> Case:
    """A reset with its options: the context is as it was given, the same seed gives the same start."""
    del folder
    env = single(int(rng.integers(len(CONTROLS))), "box").fork()
    fault = pick(rng, ["seed", "options", "context"]) if rng.random() < 0.5 else None
    seed = pick(rng, [0, 5, np.int64(7), 2**62])
    seed = pick(rng, WRONG_SEEDS) if fault == "seed" else seed
    context = CONTEXTS[fault == "context"](rng)
    options = pick(rng, WRONG_OPTIONS) if fault == "options" else {"context": context}

    def call() -> Any:
        before = env.state_dict()
        try:
            first = env.reset(seed=seed, options=options)
        except Exception as error:
            if not equal(before["episodes"], env.state_dict()["episodes"]):
                raise ComplaintError(f"a refused reset changed the environment: {error}") from error
            raise
        return first, env.reset(seed=seed, options=options)

    def oracle(found: Any) -> str:
        (observation, info), (again, _) = found
        if not np.array_equal(observation, again):
            return "the same seed gives another start"
        for name, value in context.items():
            if abs(info.get(name, value) - value) > 1e-6:
                return f"{name} = {info[name]} in place of {value}"
        return fault_of(observation, env.observation_space, info)

    return Case(f"{fault} {seed!r} {options}", call, oracle, fault is None)


def vector_resets(rng: Rng, folder: Path) -> Case:
    """A reset of three: seeds count up, masks name who begins anew, contexts are each one's own."""
    del folder
    env = _stacked("Disabled").fork()
    env.reset(seed=1)
    fault = pick(rng, ["seed", "options", "mask", "contexts"]) if rng.random() < 0.5 else None
    seed: Any = pick(rng, [0, np.int64(5), [1, 2, 3], [4, None, 5], None, np.array([1, 2, 3])])
    mask: Any = pick(rng, [None, np.array([True, False, True]), np.array([False, False, True])])
    contexts: Any = pick(rng, [{"label_noise": 0.2}, [{"label_noise": 0.1}, None, {}], None])
    if fault == "seed":
        seed = pick(
            rng, [*WRONG_SEEDS[:7], [1, 2], [1, 2, -3], [1, "2", 3], np.ones(3), [True] * 3, [1.5] * 3]
        )
    elif fault == "mask":
        mask = pick(
            rng,
            [
                np.ones(3),
                [True, False],
                np.zeros(3, bool),
                "x",
                5,
                [1, 0, 1],
                np.ones((3, 1), bool),
                [None] * 3,
            ],
        )
    elif fault == "contexts":
        contexts = pick(rng, [[{}] * 2, [{"x": 1}] * 3, [5] * 3, "abc", 5, CONTEXTS[1](rng)])
        mask = None
    options: Any = {"context": contexts, "reset_mask": mask}
    options = {name: value for name, value in options.items() if value is not None or name == "context"}
    options = pick(rng, WRONG_OPTIONS) if fault == "options" else options

    def call() -> Any:
        before = env.state_dict()["episodes"]
        try:
            return env.reset(seed=seed, options=options)
        except Exception as error:
            if not equal(before, env.state_dict()["episodes"]):
                raise ComplaintError(f"a refused reset changed the environment: {error}") from error
            raise

    def oracle(found: Any) -> str:
        observation, info = found
        if isinstance(seed, int | np.integer) and mask is None:
            seeds = tuple(int(seed) + k for k in range(3))
            if env.np_random_seed != seeds:
                return f"seeds {env.np_random_seed}, expected {seeds}"
        return fault_of(observation, env.observation_space, info)

    return Case(f"{fault} {seed!r} {options}", call, oracle, fault is None)


# dsenv.load


def loads(rng: Rng, folder: Path) -> Case:
    """Settings laid over those of the catalogue; agents, which build fast, and the smallest environment."""
    del folder
    if rng.random() < 0.25:
        settings, bad = drawn(
            rng, {name: SETTINGS[name] for name in ("ratio", "intervals", "bins", "context", "trainer")}
        )
        call = lambda: dsenv.load("envs", "Tiny-Ratio-v0", **settings)  # noqa: E731

        def oracle(found: Any) -> str:
            kept = {
                name: getattr(found.config, name)
                for name in ("ratio", "intervals", "bins")
                if name in settings
            }
            return "" if all(kept[name] == settings[name] for name in kept) else f"kept {kept}"

        return Case(f"env {bad} {settings}", call, oracle, bad is None)

    name = pick(rng, AGENTS)
    kind, given = (
        pick(rng, ["agents"] * 12 + ["agent", 5]),
        pick(rng, [name] * 12 + [f"{name}x", 5, None, ""]),
    )
    overrides = pick(
        rng,
        [{}, {}, {}, {}, {"env": {"ratio": 0.3}}, {"env": {"bins": 4}}, {"env": 5}, {"envs": {}}, {"x y": 1}],
    )
    is_good = (
        kind == "agents"
        and given == name
        and overrides in ({}, {"env": {"ratio": 0.3}}, {"env": {"bins": 4}})
    )

    def built(found: Any) -> str:
        wanted = overrides.get("env", {})
        return "" if found.env.items() >= wanted.items() else f"env {found.env}"

    return Case(f"{kind} {given} {overrides}", lambda: dsenv.load(kind, given, **overrides), built, is_good)


AGENTS = ("ppo", "random", "all_data", "hard_first", "sac", "easy_first", "strength_40", "dqn")


ENVS: Mapping[str, Callable[[Rng, Path], Case]] = {
    "TrainingEnv": _make(TrainingEnv, SETTINGS),
    "TrainingVectorEnv": _make(TrainingVectorEnv, VECTOR),
    "env.reset": resets,
    "vector env.reset": vector_resets,
    "dsenv.load": loads,
}
"""Name -> draws a case."""
