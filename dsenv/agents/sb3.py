"""Agents trained by Stable-Baselines3's algorithms."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gymnasium import spaces

from dsenv.catalogue import import_entry_point
from dsenv.control.base import Control
from dsenv.errors import check_keywords, pick

if TYPE_CHECKING:
    from stable_baselines3.common.base_class import BaseAlgorithm
    from stable_baselines3.common.vec_env import VecEnv

ALGORITHMS = {name: f"stable_baselines3:{name}" for name in ("PPO", "A2C", "SAC", "TD3", "DDPG", "DQN")}


class LinearSchedule:
    """A value that falls linearly to a twentieth of its start over the agent's training."""

    def __init__(self, start: float) -> None:
        self.start = start

    def __call__(self, progress_remaining: float) -> float:
        """The value when the share `progress_remaining` (1..0) of the training is left."""
        return self.start * max(progress_remaining, 0.05)


class SB3Agent:
    """A policy learned by one of SB3's algorithms.

    Args:
        algorithm: "PPO", "A2C", "SAC", "TD3", "DDPG" or "DQN", or the "module:Class" of another one with
            SB3's interface.
        policy: SB3's policy name, or the "module:Class" of a custom policy.
        steps: environment steps to train for.
        num_envs: K, trainings that run side by side.
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
        if steps < 1 or num_envs < 1:
            raise ValueError(f"an agent needs steps >= 1 and num_envs >= 1, got {steps} and {num_envs}")
        is_custom = ":" in algorithm
        self._entry_point = algorithm if is_custom else ALGORITHMS[pick("algorithm", algorithm, ALGORITHMS)]
        self.policy, self.steps, self.num_envs = policy, steps, num_envs
        self.hyperparameters = dict(hyperparameters or {})
        self.env: Mapping[str, Any] = env or {}

    @property
    def algorithm(self) -> type["BaseAlgorithm"]:
        """The algorithm's class; imported here."""
        algorithm: type[BaseAlgorithm] = import_entry_point(self._entry_point)
        return algorithm

    def bind(self, control: Control, action_space: spaces.Space[Any]) -> Any:
        """Refuse: an SB3 agent has to be trained or loaded before it can act."""
        del control, action_space
        raise ValueError(f"{self._entry_point} must be trained first: python train_agent.py --agent NAME")

    def check(self) -> None:
        """Check the names of the hyperparameters.

        Raises:
            ValueError: a hyperparameter is unknown; the message names the nearest one.
        """
        given = {**self.hyperparameters, "policy": self.policy, "env": None}
        check_keywords(f"hyperparameters of {self._entry_point}", self.algorithm, given)

    def build(self, env: "VecEnv", seed: int, device: str = "cpu") -> "BaseAlgorithm":
        """A fresh, untrained model; raises as `check` does."""
        self.check()
        settings: dict[str, Any] = {"device": device, "seed": seed, "verbose": 0}
        settings |= {name: _value(value) for name, value in self.hyperparameters.items()}
        policy: Any = import_entry_point(self.policy) if ":" in self.policy else self.policy
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


def _value(value: Any) -> float | Callable[[float], float] | Any:
    """Turn "lin_1e-3" into a schedule; leave everything else."""
    if isinstance(value, str) and value.startswith("lin_"):
        return LinearSchedule(float(value.removeprefix("lin_")))
    return value
