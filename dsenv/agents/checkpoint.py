"""A model of Stable-Baselines3 as plain tensors and numbers, so that training goes on bit for bit.

What SB3's zip leaves out is here too: the observation that comes next, the replay buffer, the memory of a
recurrent policy, noise, counters, and the random streams that SB3 draws from. Nothing is pickled.
"""

import contextlib
import random
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from operator import attrgetter
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor

from dsenv.agents.vec_env import aligned

if TYPE_CHECKING:
    from stable_baselines3.common.base_class import BaseAlgorithm
    from stable_baselines3.common.logger import Logger

State = dict[str, Any]
"""Nested plain data, as `dsenv.files.save_state` takes it."""

OF_A_CALL = {"seed", "verbose", "n_envs", "start_time", "_total_timesteps", "_num_timesteps_at_start"}
"""Numbers of a model that belong to the call of `learn`, or to how it was built."""
OF_EPISODES = ("_last_obs", "_last_episode_starts", "_last_original_obs")
MISFITS = (KeyError, TypeError, ValueError, RuntimeError, AttributeError, IndexError)
"""What comes of a state that is not the model's."""


# The model


def model_state(model: "BaseAlgorithm") -> State:
    """All that a model will need, at a point where a rollout begins or training is over."""
    lstm = getattr(model, "_last_lstm_states", None)
    buffer = getattr(model, "replay_buffer", None)

    return {
        "parameters": parameters(model),
        "numbers": numbers_of(model),
        "num_envs": int(model.n_envs),
        "episodes": {name: getattr(model, name) for name in OF_EPISODES},
        "lstm": None if lstm is None else tuple(tuple(part) for part in lstm),
        "returns": [dict(episode) for episode in model.ep_info_buffer or ()],
        "successes": list(model.ep_success_buffer or ()),
        "noise": [noise.noise_prev for noise in _noises(model)],
        "gsde": [[dist.exploration_mat, dist.exploration_matrices] for dist in _gsde(model)],
        "replay": None if buffer is None else _replay_state(buffer),
    }


def load_model_state(model: "BaseAlgorithm", state: Mapping[str, Any]) -> None:
    """Bring a model, built with the same settings, to a saved state.

    With another number of environments, what belongs to the episodes in flight is left out: they begin anew.

    Raises:
        ValueError: the state is not one of such a model.
    """
    try:
        fill(model, state["parameters"], state["numbers"])
        window = model._stats_window_size
        model.ep_info_buffer = deque(state["returns"], maxlen=window)
        model.ep_success_buffer = deque(state["successes"], maxlen=window)

        if getattr(model, "replay_buffer", None) is not None:
            _load_replay(model.replay_buffer, state["replay"])  # type: ignore[attr-defined]
        if state["num_envs"] == model.n_envs:
            _load_episodes(model, state)
    except MISFITS as error:
        raise ValueError(f"the saved state is not one of this {type(model).__name__}: {error}") from error


def parameters(model: "BaseAlgorithm") -> State:
    """Copies of weights, optimiser states and tensors outside of modules (SAC's entropy coefficient)."""
    _, names = model._get_torch_save_params()
    found = {name: attrgetter(name)(model) for name in names}
    return {
        "modules": copied(model.get_parameters()),
        "tensors": {name: copied(value) for name, value in found.items() if value is not None},
    }


def load_parameters(model: "BaseAlgorithm", state: Mapping[str, Any]) -> None:
    """The inverse of `parameters`."""
    model.set_parameters(state["modules"], exact_match=True, device=model.device)
    for name, value in state["tensors"].items():
        own = attrgetter(name)(model)
        with torch.no_grad():
            own.copy_(value)  # in place: an optimiser may hold it


def fill(model: "BaseAlgorithm", saved: Mapping[str, Any], numbers: Mapping[str, Any]) -> None:
    """Fill a model with saved `parameters` and `numbers_of` it.

    Raises:
        ValueError: they are not those of such a model.
    """
    try:
        load_parameters(model, saved)
        _load_numbers(model, numbers)
    except MISFITS as error:
        raise ValueError(f"the saved state is not one of this {type(model).__name__}: {error}") from error


def copied(value: Any) -> Any:
    """Nested plain data with copies of its tensors, on the CPU."""
    if isinstance(value, Tensor):
        return value.detach().cpu().clone()
    if isinstance(value, Mapping):
        return {key: copied(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)([copied(item) for item in value])
    return value


def numbers_of(model: "BaseAlgorithm") -> State:
    """Counters and rates that a model keeps beside its tensors."""
    return {
        name: value
        for name, value in vars(model).items()
        if isinstance(value, int | float | np.number) and name not in OF_A_CALL
    }


def _load_numbers(model: "BaseAlgorithm", numbers: Mapping[str, Any]) -> None:
    own = numbers_of(model)
    unknown = sorted(numbers.keys() - own.keys())
    if unknown:
        raise ValueError(f"it has no {', '.join(unknown)}")
    for name, value in numbers.items():
        setattr(model, name, value)


def _load_episodes(model: "BaseAlgorithm", state: Mapping[str, Any]) -> None:
    """What belongs to the episodes in flight."""
    for name, value in state["episodes"].items():
        if name not in OF_EPISODES:
            raise ValueError(f"it has no {name}")
        setattr(model, name, aligned(value) if isinstance(value, np.ndarray) else value)

    if state["lstm"] is not None:
        kind: Any = type(model._last_lstm_states)  # type: ignore[attr-defined]
        memory = (tuple(value.to(model.device) for value in part) for part in state["lstm"])
        model._last_lstm_states = kind(*memory)  # type: ignore[attr-defined]

    for noise, value in zip(_noises(model), state["noise"], strict=True):
        noise.noise_prev = value
    drawn = zip(_gsde(model), state["gsde"], strict=True) if state["gsde"] else ()
    for dist, (one, many) in drawn:
        dist.exploration_mat, dist.exploration_matrices = one.to(model.device), many.to(model.device)


def _noises(model: "BaseAlgorithm") -> list[Any]:
    """Action noise with a memory."""
    noise = getattr(model, "action_noise", None)
    return [each for each in getattr(noise, "noises", [noise]) if hasattr(each, "noise_prev")]


def _gsde(model: "BaseAlgorithm") -> list[Any]:
    """Distributions of state-dependent exploration, each with the noise of the present rollout."""
    owners = (model.policy, getattr(model.policy, "actor", None))
    found = (getattr(owner, "action_dist", None) for owner in owners)
    return [dist for dist in found if hasattr(dist, "exploration_mat")]


# The replay buffer of an off-policy model


def _replay_state(buffer: Any) -> State:
    """Position and filled rows of a replay buffer."""
    rows = buffer.size()
    if getattr(buffer, "optimize_memory_usage", False):
        rows = min(rows + 1, buffer.buffer_size)  # the row after the last holds its next observation
    arrays = {name: value[:rows] for name, value in vars(buffer).items() if _is_of_rows(buffer, value)}
    return {"pos": buffer.pos, "full": buffer.full, "num_envs": buffer.n_envs, "arrays": arrays}


def _is_of_rows(buffer: Any, value: Any) -> bool:
    shape = (buffer.buffer_size, buffer.n_envs)
    return isinstance(value, np.ndarray) and value.shape[:2] == shape


def _load_replay(buffer: Any, state: Mapping[str, Any]) -> None:
    """Fill an empty replay buffer."""
    arrays, pos, full = state["arrays"], state["pos"], state["full"]
    wanted = {name for name, value in vars(buffer).items() if _is_of_rows(buffer, value)}
    if set(arrays) != wanted:
        raise ValueError(f"its replay buffer holds {', '.join(sorted(wanted))}")

    if state["num_envs"] != buffer.n_envs:
        # Neighbouring rows of one environment belong together in these
        if getattr(buffer, "optimize_memory_usage", False) or hasattr(buffer, "n_steps"):
            return
        arrays = {name: _regrouped(value, pos, full, buffer) for name, value in arrays.items()}
        rows = len(next(iter(arrays.values())))
        full, pos = rows == buffer.buffer_size, rows % buffer.buffer_size

    for name, value in arrays.items():
        getattr(buffer, name)[: len(value)] = value
    buffer.pos, buffer.full = int(pos), bool(full)


def _regrouped(rows: np.ndarray, pos: int, full: bool, buffer: Any) -> np.ndarray:
    """The newest transitions, oldest first, in rows of another number of environments."""
    ordered = np.roll(rows, -pos, axis=0) if full else rows
    flat = ordered.reshape(-1, *rows.shape[2:])
    number = min(len(flat) // buffer.n_envs, buffer.buffer_size)
    newest = flat[len(flat) - number * buffer.n_envs :]
    return newest.reshape(number, buffer.n_envs, *rows.shape[2:])


# Random streams and values that wait to be logged


def random_state(model: "BaseAlgorithm") -> State:
    """The random streams that SB3 draws from: torch's, NumPy's, Python's, and the action space's."""
    version, words, gauss = random.getstate()
    has_cuda = torch.cuda.is_available() and torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if has_cuda else [],
        "numpy": np.random.get_state(legacy=False),  # noqa: NPY002  # SB3 draws from it
        "python": [version, np.array(words, np.uint32), gauss],
        "actions": model.action_space.np_random.bit_generator.state,
    }


def load_random_state(model: "BaseAlgorithm", state: Mapping[str, Any]) -> None:
    """The inverse of `random_state`.

    Raises:
        ValueError: it is none.
    """
    try:
        torch.set_rng_state(state["torch"])
        if state["cuda"] and torch.cuda.is_available():
            torch.cuda.set_rng_state_all(state["cuda"][: torch.cuda.device_count()])
        np.random.set_state(state["numpy"])  # noqa: NPY002
        version, words, gauss = state["python"]
        random.setstate((version, tuple(words.tolist()), gauss))
        model.action_space.np_random.bit_generator.state = state["actions"]
    except MISFITS as error:
        raise ValueError(f"the saved random streams cannot be set: {error}") from error


@contextlib.contextmanager
def kept_random_streams() -> Iterator[None]:
    """Put the global random streams back as they were."""
    state = torch.get_rng_state(), np.random.get_state(legacy=False), random.getstate()  # noqa: NPY002
    try:
        yield
    finally:
        torch.set_rng_state(state[0])
        np.random.set_state(state[1])  # noqa: NPY002
        random.setstate(state[2])


def logger_state(logger: "Logger") -> State:
    """Values that were recorded and not yet written."""
    return {
        "values": {name: value for name, value in logger.name_to_value.items() if _is_plain(value)},
        "counts": dict(logger.name_to_count),
        "excluded": dict(logger.name_to_excluded),
    }


def _is_plain(value: Any) -> bool:
    return isinstance(value, str | int | float | np.generic | np.ndarray | Tensor)


def load_logger_state(logger: "Logger", state: Mapping[str, Any]) -> None:
    """The inverse of `logger_state`."""
    for own, name in ((logger.name_to_value, "values"), (logger.name_to_count, "counts")):
        own.clear()
        own.update(state[name])
    logger.name_to_excluded.clear()
    logger.name_to_excluded.update(state["excluded"])


# Spaces, for a model without an environment


def spaces_state(env: VecEnv) -> State:
    """What a model has to know of its environment."""
    try:
        candidates = env.get_attr("candidate_shape")[0]
    except AttributeError:
        candidates = None
    return {
        "num_envs": env.num_envs,
        "observations": _described(env.observation_space),
        "actions": _described(env.action_space),
        "candidates": None if candidates is None else [int(size) for size in candidates],
    }


def _described(space: spaces.Space[Any]) -> State:
    if isinstance(space, spaces.Box):
        return {"kind": "box", "low": space.low, "high": space.high}
    if isinstance(space, spaces.Discrete):
        return {"kind": "discrete", "n": int(space.n), "start": int(space.start)}
    if isinstance(space, spaces.MultiBinary):
        return {"kind": "binary", "shape": list(space.shape)}
    raise ValueError(f"a checkpoint holds Box, Discrete and MultiBinary spaces, got {space}")


def _space(state: Mapping[str, Any]) -> spaces.Space[Any]:
    if state["kind"] == "box":
        return spaces.Box(state["low"], state["high"], dtype=state["low"].dtype.type)
    if state["kind"] == "discrete":
        return spaces.Discrete(state["n"], start=state["start"])
    shape = state["shape"]
    return spaces.MultiBinary(shape if len(shape) > 1 else shape[0])


class SpacesOnly(VecEnv):
    """The spaces of an environment, for a model that acts and does not train.

    Args:
        state: of `spaces_state`.
    """

    def __init__(self, state: Mapping[str, Any]) -> None:
        self.render_mode = None
        self.candidate_shape = state["candidates"]
        super().__init__(state["num_envs"], _space(state["observations"]), _space(state["actions"]))

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        del indices
        return [getattr(self, attr_name)] * self.num_envs

    def _refuse(self, *_: Any, **__: Any) -> Any:
        raise RuntimeError("a model that was loaded to act has no environment to train in")

    reset = step_async = step_wait = set_attr = env_method = _refuse

    def close(self) -> None: ...

    def env_is_wrapped(self, wrapper_class: type, indices: Any = None) -> Sequence[bool]:  # type: ignore[override]
        del wrapper_class, indices
        return [True] * self.num_envs
