"""Fuzz cases for agents: rules, trained policies, and those that Stable-Baselines3 trains."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from fuzz_cases import Case, drawn, one_of, pick, whole
from fuzz_parts import Table, kept
from gymnasium import spaces

from dsenv.agents.learned import LearnedAgent
from dsenv.agents.rules import EasyFirstRule, FixedRule, LossRankRule, NeutralRule
from dsenv.agents.sb3 import SB3Agent
from dsenv.control.registry import make_control

Rng = np.random.Generator

ENV = (
    lambda rng: pick(rng, [None, {}, {"ratio": 0.3}]),
    lambda rng: pick(rng, [5, "x", [1], 1.5, True, (1, 2)]),
)
HYPERPARAMETERS = (
    lambda rng: pick(rng, [None, {}, {"gamma": 0.9}, {"learning_rate": "lin_1e-3"}]),
    lambda rng: pick(
        rng, [5, "x", [1], {"gama": 0.9}, {"learning_rate": "lin_x"}, {"learning_rate": "fast"}, {5: 1}, True]
    ),
)
AGENT_TABLES: Mapping[str, tuple[Callable[..., Any], Table]] = {
    "SB3Agent": (
        SB3Agent,
        {
            "algorithm": one_of("PPO", "A2C", "SAC", "TD3", "DDPG", "DQN"),
            "policy": one_of("MlpPolicy"),
            "steps": whole(1, 10**6),
            "num_envs": whole(1, 128),
            "hyperparameters": HYPERPARAMETERS,
            "env": ENV,
        },
    ),
    "NeutralRule": (NeutralRule, {"env": ENV}),
    "EasyFirstRule": (EasyFirstRule, {"env": ENV}),
    "LossRankRule": (LossRankRule, {"keep": one_of("small", "large"), "env": ENV}),
    "FixedRule": (
        FixedRule,
        {
            "answers": (
                lambda rng: pick(
                    rng, [None, {"log_weight": 0.5}, {}, {"log_weight": [0.0, 1.0, -1.0, 0.0, 0.0]}]
                ),
                lambda rng: pick(
                    rng,
                    [
                        *(5, "x", [1], b"1", {"log_weigth": 1}, {"log_weight": "x"}, {"log_weight": None}),
                        *({"log_weight": float("nan")}, {"log_weight": [1.0]}, {"log_weight": 100.0}),
                        *({"log_weight": [[1.0]]}, {"log_weight": float("inf")}, {"log_weight": {}}),
                    ],
                ),
            ),
            "env": ENV,
        },
    ),
    "LearnedAgent": (
        LearnedAgent,
        {
            "policy": (
                lambda rng: pick(rng, ["curriculum"]),
                lambda rng: pick(rng, ["curiculum", 5, None, "none.safetensors", "/", "", b"x", [], {}]),
            ),
            "env": ENV,
        },
    ),
}
NEEDED = {"SB3Agent": "algorithm", "LossRankRule": "keep", "FixedRule": "answers", "LearnedAgent": "policy"}


def agents(rng: Rng, folder: Path) -> Case:
    """Agents are built, checked and, where they need no training, act within [-1, 1]."""
    del folder
    name = pick(rng, sorted(AGENT_TABLES))
    make, table = AGENT_TABLES[name]
    settings, bad = drawn(rng, table)
    if (needed := NEEDED.get(name)) and needed not in settings:
        settings[needed] = table[needed][0](rng)
    control = make_control("curriculum", 5, 0.5)
    space = spaces.Box(-1, 1, (control.size,), np.float32)

    def call() -> Any:
        agent = make(**settings)
        agent.check()
        if agent.learns:
            return agent, None
        bound = agent.bind(control, space)
        size = 60 if name != "LearnedAgent" else agent.policy.card.observation["entries"]
        return agent, bound.predict(np.zeros((2, size), np.float32))[0]

    def oracle(found: tuple[Any, Any]) -> str:
        agent, actions = found
        if not agent.env.items() >= (settings.get("env") or {}).items():
            return f"env {settings['env']} is kept as {agent.env}"
        if actions is None:
            numbers = {key: settings[key] for key in ("steps", "num_envs", "policy") if key in settings}
            return kept(agent, numbers)
        is_right = actions.shape == (2, control.size) and bool((np.abs(actions) <= 1 + 1e-6).all())
        return "" if is_right else f"actions {actions}"

    return Case(f"{name} {bad} {settings}", call, oracle, bad is None)


AGENTS: Mapping[str, Callable[[Rng, Path], Case]] = {"agents": agents}
"""Name -> draws a case."""
