"""Adapter that gives Stable-Baselines3 the stacked environment as its VecEnv."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvStepReturn

from dsenv.env.episodes import as_array
from dsenv.env.interface import check_options
from dsenv.env.results import Floats
from dsenv.env.state import check_header, opened, sealed
from dsenv.env.vector_env import TrainingVectorEnv
from dsenv.errors import check_seed, shown
from dsenv.states import fitted, listed

HEADER: dict[str, Any] = {"kind": "StackedVecEnv", "settings": {}}
KEPT = ("return", "length", "seeds", "options", "actions", "reset_infos")


def aligned(array: NDArray[Any]) -> NDArray[Any]:
    """A copy in memory as torch allocates it.

    SB3 hands an array's own memory to torch, where matrix products may end in other bits at another address
    (MKL): without this, two equal runs need not be equal.
    """
    return torch.from_numpy(np.ascontiguousarray(array)).clone().numpy()


class StackedVecEnv(VecEnv):
    """Stable-Baselines3's view of a `TrainingVectorEnv`.

    A training run that reaches its budget is over: `TimeLimit.truncated` is False, so the value of the last
    observation is not bootstrapped. `infos[k]["terminal_observation"]` holds it, `infos[k]["episode"]`
    the return and length that SB3 logs.

    Use::

        from stable_baselines3 import PPO
        from dsenv import StackedVecEnv
        from dsenv.catalogue import load_vector

        env = StackedVecEnv(load_vector("Tiny-Curriculum-v0", num_envs=4, autoreset_mode="SameStep"))
        model = PPO("MlpPolicy", env, n_steps=8, batch_size=32, gamma=1.0, device="cpu")
        model.learn(32)  # steps of all environments together; train for longer

    Args:
        env: the stacked environment, with autoreset mode "SameStep".

    Raises:
        ValueError: the environment resets in another mode.
    """

    def __init__(self, env: TrainingVectorEnv) -> None:
        if env.metadata["autoreset_mode"] is not AutoresetMode.SAME_STEP:
            raise ValueError("StackedVecEnv needs an environment made with autoreset_mode='SameStep'")

        self.env = env
        self.render_mode = env.render_mode
        super().__init__(env.num_envs, env.single_observation_space, env.single_action_space)
        self._actions: NDArray[Any] | None = None
        self._return = np.zeros(env.num_envs)
        self._length = np.zeros(env.num_envs, np.int64)

    def reset(self) -> Floats:
        """Begin new training runs in all environments, with the contexts of `set_options`."""
        seeds: Any = self._seeds if any(seed is not None for seed in self._seeds) else None
        contexts = [check_options(options, ("context",)).get("context") for options in self._options]

        observation, info = self.env.reset(seed=seeds, options={"context": contexts})
        self.reset_infos = [self._row(info, k) for k in range(self.num_envs)]

        self._reset_seeds()
        self._reset_options()
        self._return[:], self._length[:] = 0, 0
        return aligned(observation)

    def set_options(self, options: list[dict[str, Any]] | dict[str, Any] | None = None) -> None:
        """Keep options for the next reset: {"context": {...}} for all environments, or a list, one for each.

        Raises:
            ValueError: they are of another form, or an option is unknown.
        """
        self._options = options_of_each(options, self.num_envs)

    def state_dict(self) -> dict[str, Any]:
        """The environment's state, with the returns and lengths of the episodes in flight; all plain data.

        See `TrainingVectorEnv.state_dict`. Between `step_async` and `step_wait` the actions are in it too.
        """
        own = {
            "return": self._return.copy(),
            "length": self._length.copy(),
            "seeds": list(self._seeds),
            "options": self._options,
            "actions": self._actions,
            "reset_infos": self.reset_infos,
        }
        return {**sealed(HEADER, {"own": own}), "env": self.env.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`; see `TrainingVectorEnv.load_state_dict`.

        Raises:
            ValueError: the state is of another environment, or damaged; then nothing is changed.
        """
        check_header(state, HEADER)
        inside = {name: value for name, value in state.items() if name != "env"}
        own = opened(inside, torch.device("cpu")).get("own")
        if not isinstance(own, Mapping) or not own.keys() >= set(KEPT) or "env" not in state:
            raise ValueError(f"{shown(state)} is no whole state of a StackedVecEnv")
        returns = fitted("return", own["return"], self._return)
        lengths = fitted("length", own["length"], self._length)
        seeds, options, infos = (
            list(listed(name, own[name], self.num_envs)) for name in ("seeds", "options", "reset_infos")
        )

        self.env.load_state_dict(state["env"])
        self._return, self._length, self._actions = returns, lengths, own["actions"]
        self._seeds, self._options, self.reset_infos = seeds, options, infos

    def seed(self, seed: int | None = None) -> Sequence[int | None]:
        """Give each environment a seed of its own at the next reset, far from those of neighbouring seeds."""
        given = None if seed is None else check_seed("seed", seed)
        state = np.random.SeedSequence(given).generate_state(self.num_envs)
        self._seeds = [int(value) for value in state]
        return self._seeds

    def step_async(self, actions: Floats) -> None:
        """Keep the actions for `step_wait`."""
        self._actions = as_array("actions", actions)

    def step_wait(self) -> VecEnvStepReturn:
        """Train every environment for one interval."""
        if self._actions is None:
            raise RuntimeError("no actions were given: call step_async(actions) before step_wait()")
        actions, self._actions = self._actions, None
        observation, reward, terminated, _, info = self.env.step(actions)
        self._return += reward
        self._length += 1

        infos = [self._row(info, k) for k in range(self.num_envs)]
        # A finished run: its totals and its last observation, as SB3 wants them
        for k in np.flatnonzero(terminated).tolist():
            end = self._row(info["final_info"], k)
            episode = {"r": float(self._return[k]), "l": int(self._length[k])}
            infos[k] = end | {"terminal_observation": info["final_obs"][k], "episode": episode}
            self._return[k], self._length[k] = 0, 0

        for row in infos:
            row["TimeLimit.truncated"] = False

        return aligned(observation), reward.astype(np.float32), terminated, infos

    @staticmethod
    def _row(info: dict[str, Any], k: int) -> dict[str, Any]:
        """One environment's values out of a dict of arrays."""
        skip = ("final_obs", "final_info")
        return {
            name: value[k] for name, value in info.items() if not name.startswith("_") and name not in skip
        }

    def close(self) -> None:
        """Close the environment."""
        self.env.close()

    def _count(self, indices: VecEnvIndices) -> int:
        return len(list(self._get_indices(indices)))

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """The attribute of the stacked environment, once for each index."""
        return [getattr(self.env, attr_name)] * self._count(indices)

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """Set an attribute of the stacked environment, which all environments share.

        Raises:
            ValueError: only some environments were named.
        """
        if self._count(indices) != self.num_envs:
            raise ValueError("stacked environments share their attributes: set them for all, without indices")
        setattr(self.env, attr_name, value)

    def env_method(
        self, method_name: str, *args: Any, indices: VecEnvIndices = None, **kwargs: Any
    ) -> list[Any]:
        """Call a method of the stacked environment once; its result stands for each index."""
        return [getattr(self.env, method_name)(*args, **kwargs)] * self._count(indices)

    def env_is_wrapped(self, wrapper_class: type, indices: VecEnvIndices = None) -> list[bool]:
        """Whether the environments carry a wrapper; episode statistics count as SB3's Monitor."""
        from stable_baselines3.common.monitor import Monitor

        return [issubclass(wrapper_class, Monitor)] * self._count(indices)

    def get_images(self) -> Sequence[Any]:
        """A figure of each training run so far, where render_mode is "rgb_array"."""
        images: Sequence[Any] = self.env.render() or [None] * self.num_envs
        return images


def options_of_each(options: Any, count: int) -> list[dict[str, Any]]:
    """Options of a reset for each of `count` environments, from one table for all, or a list of them.

    Raises:
        ValueError: they are of another form, or an option is unknown.
    """
    each = [options] * count if options is None or isinstance(options, Mapping) else options
    if not isinstance(each, list | tuple) or len(each) != count:
        raise ValueError(
            f"options must be a table, or a list of {count}, one for each environment; got {shown(options)}"
        )
    return [dict(check_options(given, ("context",))) for given in each]
