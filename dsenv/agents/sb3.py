"""Agents trained by Stable-Baselines3's algorithms."""

import inspect
from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gymnasium import spaces

from dsenv.agents.base import check_settings
from dsenv.catalogue import import_entry_point, import_kind
from dsenv.control.base import Control
from dsenv.errors import check_count, check_keywords, check_positive, pick, shown

if TYPE_CHECKING:
    from stable_baselines3.common.base_class import BaseAlgorithm
    from stable_baselines3.common.vec_env import VecEnv

ALGORITHMS = {name: f"stable_baselines3:{name}" for name in ("PPO", "A2C", "SAC", "TD3", "DDPG", "DQN")}
ALGORITHMS |= {name: f"sb3_contrib:{name}" for name in ("RecurrentPPO", "TQC")}

POLICIES = {
    "SetPolicy": "dsenv.agents.policies.set_policy:SetPolicy",
    "BetaPolicy": "dsenv.agents.policies.beta_policy:BetaPolicy",
    "SetBetaPolicy": "dsenv.agents.policies.beta_policy:SetBetaPolicy",
}
"""Short names beside SB3's own, for the algorithms whose policies are actor-critics: PPO and A2C."""

SCHEDULED = ("learning_rate", "clip_range", "clip_range_vf")  # hyperparameters that may be schedules


class LinearSchedule:
    """A value that falls linearly to a twentieth of its start over the agent's training run."""

    def __init__(self, start: float) -> None:
        self.start = start

    def __call__(self, progress_remaining: float) -> float:
        """The value when the share `progress_remaining` (1..0) of the training run is left."""
        return self.start * max(progress_remaining, 0.05)


class SB3Agent:
    """A policy learned by one of SB3's algorithms.

    Args:
        algorithm: "PPO", "A2C", "SAC", "TD3", "DDPG" or "DQN"; "RecurrentPPO" or "TQC" of sb3-contrib; or the
            "module:Class" of another one with SB3's interface.
        policy: SB3's policy name, "SetPolicy", "BetaPolicy", "SetBetaPolicy", or the "module:Class" of a
            custom policy. One that takes `candidates` (M, F) is given the environment's `candidate_shape`.
        steps: environment steps to train for.
        num_envs: K, training runs side by side.
        hyperparameters: further arguments of the algorithm. A learning rate "lin_1e-3" falls linearly.
        env: environment settings that the agent needs.
    """

    learns = True

    def __init__(
        self,
        algorithm: str,
        policy: str = "MlpPolicy",
        steps: int = 100_000,
        num_envs: int = 64,
        hyperparameters: Mapping[str, Any] | None = None,
        env: Mapping[str, Any] | None = None,
    ) -> None:
        for name, value in (("algorithm", algorithm), ("policy", policy)):
            if not isinstance(value, str):
                raise ValueError(f"{name} must be a name or 'module:Class', got {shown(value)}")
        is_custom = ":" in algorithm
        self._entry_point = algorithm if is_custom else ALGORITHMS[pick("algorithm", algorithm, ALGORITHMS)]
        self.policy = policy
        self.steps = check_count("steps", steps)
        self.num_envs = check_count("num_envs", num_envs)
        self.hyperparameters = check_settings("hyperparameters", hyperparameters)
        self.env: Mapping[str, Any] = check_settings("env", env)

    @property
    def algorithm(self) -> type["BaseAlgorithm"]:
        """The algorithm's class; imported here.

        Raises:
            ValueError: its package is not installed.
        """
        if self._entry_point.startswith("sb3_contrib:") and find_spec("sb3_contrib") is None:
            raise ValueError(
                f"{self._entry_point} needs sb3-contrib: pip install sb3-contrib, "
                'or in a checkout pip install -e ".[contrib]"'
            )
        from stable_baselines3.common.base_class import BaseAlgorithm as Expected

        algorithm: type[BaseAlgorithm] = import_kind("algorithm", self._entry_point, Expected)
        return algorithm

    def bind(self, control: Control, action_space: spaces.Space[Any]) -> Any:
        """Refuse: an SB3 agent has to be trained or loaded before it can act."""
        del control, action_space
        raise ValueError(f"{self._entry_point} must be trained first: python train_agent.py --agent NAME")

    def check(self) -> None:
        """Check the names of the hyperparameters and of the policy.

        Raises:
            ValueError: one is unknown (the message names the nearest), or the algorithm is not installed.
        """
        given = {**self.hyperparameters, "policy": self.policy, "env": None}
        check_keywords(f"hyperparameters of {self._entry_point}", self.algorithm, given)
        for name, value in self.hyperparameters.items():
            _value(name, value)
        self._policy()

    def _policy(self) -> Any:
        """The policy's class.

        Raises:
            ValueError: the algorithm has no such policy.
        """
        from stable_baselines3.common.policies import ActorCriticPolicy, BasePolicy

        if ":" in self.policy:
            return import_kind("policy", self.policy, BasePolicy)
        known: dict[str, Any] = dict(self.algorithm.policy_aliases)
        if known.get("MlpPolicy") is ActorCriticPolicy:
            known |= POLICIES
        found = known[pick(f"policy of {self._entry_point}", self.policy, known)]
        return import_entry_point(found) if isinstance(found, str) else found

    def build(self, env: "VecEnv", seed: int, device: str = "cpu") -> "BaseAlgorithm":
        """A fresh, untrained model.

        Raises:
            ValueError: as `check`, or the policy needs candidates and the environment shows none.
        """
        self.check()
        settings: dict[str, Any] = {"device": device, "seed": seed, "verbose": 0}
        settings |= {name: _value(name, value) for name, value in self.hyperparameters.items()}

        policy = self._policy()
        own = settings.get("policy_kwargs") or {}
        if "candidates" in inspect.signature(policy).parameters and "candidates" not in own:
            settings["policy_kwargs"] = {**own, "candidates": _candidates(env, self.policy)}

        return self.algorithm(policy=policy, env=env, **settings)

    def load(self, path: Path, env: "VecEnv | None" = None, device: str = "cpu") -> "BaseAlgorithm":
        """A saved model, to go on training in `env` or to act.

        Raises:
            FileNotFoundError: there is no such file.
        """
        if not path.is_file():
            raise FileNotFoundError(
                f"no saved policy at {path}; was the run interrupted before its first checkpoint?"
            )
        return self.algorithm.load(path, env=env, device=device)


def _candidates(env: "VecEnv", policy: str) -> tuple[int, int]:
    """(M, F): how many candidates the environment shows, and how many features each has.

    Raises:
        ValueError: it shows none.
    """
    try:
        shape = env.get_attr("candidate_shape")[0]
    except AttributeError:
        shape = None

    if shape is None:
        raise ValueError(
            f"{policy} acts on candidates, and this environment shows none (it has no candidate_shape): use "
            "an environment whose action is a score or mask for each candidate, or policy = 'MlpPolicy'"
        )

    number, features = shape
    return int(number), int(features)


def _value(name: str, value: Any) -> float | Callable[[float], float] | Any:
    """Turn "lin_1e-3" into a schedule; leave everything else.

    Raises:
        ValueError: text stands where a number belongs, and is no such schedule.
    """
    if not isinstance(value, str) or not (name in SCHEDULED or value.startswith("lin_")):
        return value
    with suppress(ValueError):
        return LinearSchedule(check_positive(name, float(value.removeprefix("lin_"))))
    raise ValueError(
        f"{name} must be a number, or 'lin_' and a number above 0 that it falls from, got {value!r}"
    )
