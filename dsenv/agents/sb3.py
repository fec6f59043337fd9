"""Agents trained by Stable-Baselines3's algorithms."""

import copy
import inspect
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from gymnasium import spaces

from dsenv.agents.base import check_settings
from dsenv.catalogue import import_entry_point
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


CLASSES = {
    "policy_kwargs.features_extractor_class": "stable_baselines3.common.torch_layers:BaseFeaturesExtractor",
    "policy_kwargs.optimizer_class": "torch.optim:Optimizer",
    "policy_kwargs.activation_fn": "torch.nn:Module",
    "replay_buffer_class": "stable_baselines3.common.buffers:ReplayBuffer",
}
"""Hyperparameters that take a class, and what it must be derived from."""


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
            "module:Class" of another one that is derived from SB3's BaseAlgorithm.
        policy: SB3's policy name, "SetPolicy", "BetaPolicy", "SetBetaPolicy", or the "module:Class" of a
            custom policy, derived from SB3's BasePolicy. One that takes `candidates` (M, F) is given the
            environment's `candidate_shape`.
        steps: environment steps to train for.
        num_envs: K, training runs side by side.
        hyperparameters: further arguments of the algorithm. A learning rate "lin_1e-3" falls linearly; where
            SB3 takes a class (`policy_kwargs.activation_fn`, `optimizer_class`, `features_extractor_class`;
            `replay_buffer_class`), its "module:Class" does too.
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
        self.hyperparameters = copy.deepcopy(check_settings("hyperparameters", hyperparameters))
        self.env: Mapping[str, Any] = check_settings("env", env)

    @property
    def algorithm(self) -> type["BaseAlgorithm"]:
        """The algorithm's class; imported here.

        Raises:
            ValueError: its package is not installed, or it is no algorithm.
        """
        from stable_baselines3.common.base_class import BaseAlgorithm

        if self._entry_point.startswith("sb3_contrib:") and find_spec("sb3_contrib") is None:
            raise ValueError(
                f"{self._entry_point} needs sb3-contrib: pip install sb3-contrib, "
                'or in a checkout pip install -e ".[contrib]"'
            )
        found: type[BaseAlgorithm] = class_behind("algorithm", self._entry_point, BaseAlgorithm)
        return found

    def bind(self, control: Control, action_space: spaces.Space[Any]) -> Any:
        """Refuse: an SB3 agent has to be trained or loaded before it can act."""
        del control, action_space
        raise ValueError(f"{self._entry_point} must be trained first: python train_agent.py --agent NAME")

    def check(self) -> None:
        """Check the names of the hyperparameters and of the policy.

        Raises:
            ValueError: one is unknown (the message names the nearest), a class is not of the kind that is
                needed, or the algorithm is not installed.
        """
        given = {**self.hyperparameters, "policy": self.policy, "env": None}
        check_keywords(f"hyperparameters of {self._entry_point}", self.algorithm, given)
        self._policy()
        self._settings()

    def _policy(self) -> Any:
        """The policy's class.

        Raises:
            ValueError: the algorithm has no such policy, or it is none.
        """
        from stable_baselines3.common.policies import ActorCriticPolicy, BasePolicy

        if ":" in self.policy:
            return class_behind("policy", self.policy, BasePolicy)
        known: dict[str, Any] = dict(self.algorithm.policy_aliases)
        if known.get("MlpPolicy") is ActorCriticPolicy:
            known |= POLICIES
        found = known[pick(f"policy of {self._entry_point}", self.policy, known)]
        return import_entry_point(found) if isinstance(found, str) else found

    def _settings(self) -> dict[str, Any]:
        """The hyperparameters as the algorithm takes them: SB3 writes into these copies.

        Raises:
            ValueError: a class is not of the kind that is needed.
        """
        settings = {name: _value(name, value) for name, value in copy.deepcopy(self.hyperparameters).items()}
        for path, base in CLASSES.items():
            table, _, name = path.rpartition(".")
            place = settings.get(table) if table else settings
            if isinstance(place, dict) and isinstance(place.get(name), str):
                place[name] = class_behind(path, place[name], import_entry_point(base))
        return settings

    def build(self, env: "VecEnv", seed: int | None, device: str = "cpu") -> "BaseAlgorithm":
        """A fresh, untrained model; without a seed, weights come from torch's global stream.

        Raises:
            ValueError: as `check`, or the policy needs candidates and the environment shows none.
        """
        self.check()
        settings: dict[str, Any] = {"device": device, "seed": seed, "verbose": 0}
        settings |= self._settings()

        policy = self._policy()
        own = settings.get("policy_kwargs") or {}
        if "candidates" in inspect.signature(policy).parameters and "candidates" not in own:
            settings["policy_kwargs"] = {**own, "candidates": _candidates(env, self.policy)}

        return self.algorithm(policy=policy, env=env, **settings)

    def restored(
        self,
        spaces_of: Mapping[str, Any],
        saved: Mapping[str, Any],
        numbers: Mapping[str, Any],
    ) -> "BaseAlgorithm":
        """A model to act with, built from the settings and filled with saved tensors; nothing is unpickled.

        Args:
            spaces_of: its spaces, of `checkpoint.spaces_state`.
            saved: its tensors, of `checkpoint.parameters`.
            numbers: its counters, of `checkpoint.numbers_of`.

        Raises:
            ValueError: the tensors are not those of such a model.
        """
        from dsenv.agents import checkpoint

        with checkpoint.kept_random_streams(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of batch sizes: it does not train
            model = self.build(checkpoint.SpacesOnly(spaces_of), seed=None)
        checkpoint.fill(model, saved, numbers)
        return model


def class_behind(what: str, entry_point: str, base: type) -> Any:
    """The class that "module:Class" names. It is imported and looked at, not called.

    Args:
        what: it is for, in errors.
        entry_point: its name.
        base: class that it must be derived from.

    Raises:
        ValueError: it cannot be imported, or is not derived from `base`.
    """
    found = import_entry_point(entry_point)
    if not isinstance(found, type) or not issubclass(found, base):
        raise ValueError(
            f"{what} must name a class derived from {base.__module__}.{base.__name__}, and {entry_point!r} "
            f"is {found!r}; it was not called"
        )
    return found


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
