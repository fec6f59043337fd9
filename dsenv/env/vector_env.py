"""TrainingVectorEnv: K environments as one tensor program."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from dsenv.env.config import EnvConfig
from dsenv.env.episodes import Episodes, as_array
from dsenv.env.interface import (
    METADATA,
    Described,
    check_options,
    check_render_mode,
    choose_device,
    make_spaces,
)
from dsenv.env.render import draw, summarise
from dsenv.env.results import Flags, Floats, Info
from dsenv.env.snapshot import Forkable
from dsenv.errors import check_count, check_seed, pick, shown
from dsenv.training.trainer import MOST_REPLICAS

Step = tuple[Floats, NDArray[np.float64], Flags, Flags, dict[str, Any]]


class TrainingVectorEnv(Described, Forkable, VectorEnv[Floats, Any, Any]):
    """K `TrainingEnv`s in one tensor program; episode k equals that of a single environment.

    With `datasets`, environment k works on the k-th of them, in turn; a single one draws it at each reset.
    Follows Gymnasium's VectorEnv contract. `info` is a dict of arrays with `_key` masks.

    Args:
        num_envs: K.
        autoreset_mode: "NextStep" (the step after an episode's end resets it and ignores the action),
            "SameStep" (reset at once; `info["final_obs"]` and `info["final_info"]` hold the end) or
            "Disabled" (`reset(options={"reset_mask": mask})`; finished episodes stand still).
        render_mode: "rgb_array" or "ansi"; `render` returns one result for each environment.
        device: "auto", "cpu", "cuda" or "cuda:1".
        first_env: number of the first environment, where these are K of more that run elsewhere: with
            `datasets` it decides which of them each one works on.
        settings: see `EnvConfig`.
    """

    _random = ("_rngs", "_rng_seeds", "_begun")
    _kind = "TrainingVectorEnv"

    def __init__(
        self,
        *,
        num_envs: int = 1,
        autoreset_mode: str | AutoresetMode = AutoresetMode.NEXT_STEP,
        render_mode: str | None = None,
        device: str = "auto",
        first_env: int = 0,
        **settings: Any,
    ) -> None:
        name = autoreset_mode.value if isinstance(autoreset_mode, AutoresetMode) else autoreset_mode
        self._mode = AutoresetMode(pick("autoreset mode", name, [mode.value for mode in AutoresetMode]))
        self.metadata = {**METADATA, "autoreset_mode": self._mode}
        num_envs = check_count("num_envs", num_envs, most=MOST_REPLICAS)
        self.num_envs, self.render_mode = num_envs, check_render_mode(render_mode)
        self.config = EnvConfig.of(settings)
        first = check_count("first_env", first_env, 0)
        self.episodes = Episodes(self.config, num_envs, choose_device(device), first=first)
        self.single_observation_space, self.single_action_space = make_spaces(self.episodes)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._rngs: list[np.random.Generator] = []
        self._rng_seeds: list[int] = []
        for _ in range(num_envs):
            rng, seed = seeding.np_random(None)
            self._rngs.append(rng)
            self._rng_seeds.append(seed)
        self._begun = False

    @property  # type: ignore[misc]
    def np_random(self) -> tuple[np.random.Generator, ...]:  # type: ignore[override]  # as Gymnasium's
        """The generator of each environment, which its episodes are drawn from."""
        return tuple(self._rngs)

    @property
    def np_random_seed(self) -> tuple[int, ...]:  # type: ignore[override]  # as Gymnasium's
        """The seed of each environment's generator: 42, 43, ... after `reset(seed=42)`."""
        return tuple(self._rng_seeds)

    def _header(self) -> dict[str, Any]:
        mode = {"autoreset_mode": self._mode.value}
        return {"kind": self._kind, "settings": self.episodes.settings() | mode}

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Floats, dict[str, Any]]:
        """Begin new training runs.

        Args:
            seed: one number (environment k gets seed + k), one for each environment, or None to go on.
            options: {"context": a mapping for all, or one for each environment} sets context values;
                {"reset_mask": (K,) bool} names the environments to reset.

        Raises:
            ValueError: an option or context name is unknown, or a value of the wrong size or out of range.
        """
        given = check_options(options, ("context", "reset_mask"))
        mask, seeds = self._mask(given.get("reset_mask")), self._seeds(seed)
        contexts = self._contexts(mask, given.get("context"))

        for k, value in enumerate(seeds):
            if value is not None and mask[k]:
                self._rngs[k], self._rng_seeds[k] = seeding.np_random(value)
        self._restart(mask, contexts)
        self._begun = True
        return self.episodes.observe(), self._info(self.episodes.info(), mask)

    def _mask(self, given: Any) -> Flags:
        if given is None:
            return np.ones(self.num_envs, np.bool_)
        mask = as_array("reset_mask", given)
        if mask.dtype != np.bool_ or mask.shape != (self.num_envs,) or not mask.any():
            raise ValueError(
                f"reset_mask must be ({self.num_envs},) bool with at least one True, got {shown(given)}"
            )
        return mask

    def _seeds(self, seed: Any) -> Sequence[int | None]:
        if seed is None:
            return [None] * self.num_envs
        if isinstance(seed, str | bytes) or not isinstance(seed, Sequence | np.ndarray) or np.ndim(seed) == 0:
            first = check_seed("seed", seed)
            return [first + k for k in range(self.num_envs)]
        if len(seed) != self.num_envs:
            raise ValueError(f"{len(seed)} seeds were given for {self.num_envs} environments")
        return [None if value is None else check_seed(f"seed[{k}]", value) for k, value in enumerate(seed)]

    def _contexts(self, mask: Flags, context: Any) -> list[Mapping[str, Any] | None]:
        """The context of each environment that is reset."""
        rows = np.flatnonzero(mask).tolist()
        if context is None or isinstance(context, Mapping):
            return [context] * len(rows)
        if (
            isinstance(context, str | bytes)
            or not isinstance(context, Sequence)
            or len(context) != self.num_envs
        ):
            raise ValueError(
                f"context must be a mapping, or a list of {self.num_envs}, one for each environment; "
                f"got {shown(context)}"
            )
        return [context[k] for k in rows]

    def _restart(self, mask: Flags, contexts: Sequence[Mapping[str, Any] | None] | None = None) -> None:
        rows = np.flatnonzero(mask).tolist()
        given = [None] * len(rows) if contexts is None else contexts
        self.episodes.reset(rows, [self._rngs[k] for k in rows], given)

    def step(self, actions: NDArray[Any]) -> Step:
        """Train every environment for one interval.

        Raises:
            RuntimeError: `reset` was never called.
        """
        if not self._begun:
            raise RuntimeError("no episode was begun: call reset() before step()")
        stale = self.episodes.finished.copy()
        if self._mode is AutoresetMode.NEXT_STEP and stale.all():
            return self._restart_all()
        result = self.episodes.step(actions)
        observation, terminated = result.observation, result.terminated
        info = self._info(result.info, ~stale)
        if self._mode is AutoresetMode.NEXT_STEP and stale.any():
            self._restart(stale)
            observation, terminated = self.episodes.observe(), terminated & ~stale
            info |= self._info(self.episodes.info(), np.ones_like(stale))
        if self._mode is AutoresetMode.SAME_STEP and terminated.any():
            observation = self._finish(terminated, observation, info)
        return observation, result.reward, terminated, np.zeros_like(terminated), info

    def _restart_all(self) -> Step:
        everyone = np.ones(self.num_envs, np.bool_)
        self._restart(everyone)
        nothing = np.zeros(self.num_envs)
        info = self._info(self.episodes.info(), everyone)
        return self.episodes.observe(), nothing, ~everyone, ~everyone, info

    def _finish(self, done: Flags, observation: Floats, info: dict[str, Any]) -> Floats:
        """Reset finished environments at once and put their end into `info`."""
        final = np.full(self.num_envs, None, dtype=object)
        for k in np.flatnonzero(done):
            final[k] = observation[k].copy()
        final_info = {name: value for name, value in info.items() if not name.startswith("_")}
        info |= {"final_obs": final, "_final_obs": done.copy()}
        info |= {"final_info": self._info(final_info, done), "_final_info": done.copy()}
        for name in final_info:
            info[f"_{name}"] &= ~done  # of the new episode only what reset says is known
        self._restart(done)
        info |= self._info(self.episodes.info(), np.ones_like(done))
        return self.episodes.observe()

    @staticmethod
    def _info(values: Info, mask: Flags) -> dict[str, Any]:
        """Fresh arrays with Gymnasium's `_key` masks."""
        named: dict[str, Any] = {name: value.copy() for name, value in values.items()}
        return named | {f"_{name}": mask.copy() for name in values}

    def render(self) -> Any:
        """A figure or a line of each environment's training run so far; None without a render mode."""
        if self.render_mode is None:
            return None
        show = draw if self.render_mode == "rgb_array" else summarise
        return tuple(show(*self.episodes.part_of(k)) for k in range(self.num_envs))
