"""Snapshots: a training run in the middle of an episode, saved, restored and forked exactly."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from gymnasium import Space

from dsenv.env.episodes import Episodes
from dsenv.env.state import check_header, check_same, opened, sealed
from dsenv.errors import shown
from dsenv.plain import generator_state, make_generator


@dataclass(frozen=True)
class Snapshot:
    """State of an environment between two steps. Picklable; the data set is shared, not copied."""

    episodes: Episodes
    random: dict[str, Any]
    """Generators that later episodes are drawn from, by attribute name."""


def copy_episodes(episodes: Episodes) -> Episodes:
    """Episodes of their own in the same state; tasks, settings and resident data are shared."""
    shared: list[Any] = [episodes.config]
    for session in episodes.sessions():
        shared += [session.task, session.config, *session.trainer.splits.values()]
    return copy.deepcopy(episodes, {id(part): part for part in shared})


def _random_entry(value: Any) -> Any:
    """A generator, a list of them, or a number or flag, as plain data."""
    if isinstance(value, list):
        return [_random_entry(each) for each in value]
    if isinstance(value, np.random.Generator):
        return {"generator": generator_state(value)}
    return value


def _loaded_entry(state: Any) -> Any:
    if isinstance(state, list):
        return [_loaded_entry(each) for each in state]
    return make_generator(state["generator"]) if isinstance(state, Mapping) else state


def _check_like(name: str, value: Any, own: Any) -> None:
    """Check that an entry of a state is of the kind of the environment's own."""
    is_list = isinstance(own, list)
    if is_list != isinstance(value, list) or (is_list and len(value) != len(own)):
        raise ValueError(f"{name} of the state does not fit this environment: {shown(value)}")


class Forkable:
    """Saving, restoring and forking an environment, so that several actions can be tried from one state.

    The same actions after a restore give the same numbers, bit for bit on a CPU.
    """

    episodes: Episodes
    _random: tuple[str, ...]
    """Attributes that hold the environment's own generators and flags."""
    _kind: str
    """Name of the kind of environment, for states."""

    def state_dict(self) -> dict[str, Any]:
        """The state of all training runs as plain data, episodes in flight and generators included.

        Tables (dict with text as keys) and lists of torch tensors on the CPU, int, float, bool, text and
        None: what safetensors and JSON can hold, and `torch.load(weights_only=True)` reads. It holds a
        version, the settings and a fingerprint of the data, and shares no memory with the environment.

        Raises:
            ValueError: a part, or the model, keeps something that its own `state_dict` does not give.
        """
        return sealed(
            self._header(), {"episodes": self.episodes.state_dict(), "random": self._random_state()}
        )

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()` of an environment with the same settings and data.

        The same actions then give the same numbers as there, bit for bit on the same machine with the same
        versions and number of threads.

        Raises:
            ValueError: the state is of another environment, or damaged; then nothing is changed.
        """
        check_header(state, self._header())
        found = opened(state, self.episodes.device)
        episodes = copy_episodes(self.episodes)
        try:
            episodes.load_state_dict(found["episodes"])
            take_random = self._checked_random(found["random"])
        except (KeyError, TypeError, AttributeError, IndexError, RuntimeError, AssertionError) as error:
            raise ValueError(
                f"the state does not fit this environment or a part of it: {type(error).__name__}: {error}"
            ) from error

        self.episodes = episodes
        take_random()

    def _header(self) -> dict[str, Any]:
        return {"kind": self._kind, "settings": self.episodes.settings()}

    def _spaces(self) -> dict[str, Space[Any]]:
        """Spaces by attribute name: they draw random actions."""
        return {name: space for name, space in vars(self).items() if isinstance(space, Space)}

    def _random_state(self) -> dict[str, Any]:
        """Generators and flags of the environment itself."""
        own = {name: _random_entry(getattr(self, name)) for name in self._random}
        spaces = {name: generator_state(space._np_random) for name, space in self._spaces().items()}
        return {"own": own, "spaces": spaces}

    def _checked_random(self, state: Mapping[str, Any]) -> Callable[[], None]:
        """What puts the generators and flags of a state in place, once all of them are found to be right."""
        own = {name: _loaded_entry(state["own"][name]) for name in self._random}
        spaces: dict[str, Any] = self._spaces()
        drawn = {name: make_generator(state["spaces"][name]) for name in spaces}
        for name, value in own.items():
            _check_like(name, value, getattr(self, name))

        def take() -> None:
            for name, value in own.items():
                setattr(self, name, value)
            for name, space in spaces.items():
                space._np_random = drawn[name]

        return take

    def save_state(self) -> Snapshot:
        """The state of all training runs, as it is now; later steps do not change it."""
        random = {name: copy.deepcopy(getattr(self, name)) for name in self._random}
        return Snapshot(copy_episodes(self.episodes), random)

    def restore_state(self, snapshot: Snapshot) -> None:
        """Go back to a saved state; it can be restored again.

        Raises:
            ValueError: the state is of an environment with other settings, or another number of them.
        """
        check_same("", self.episodes.signature(), snapshot.episodes.signature())
        self.episodes = copy_episodes(snapshot.episodes)
        for name, value in snapshot.random.items():
            setattr(self, name, copy.deepcopy(value))

    def fork(self) -> Self:
        """Another environment in the same state, which goes its own way."""
        twin = copy.copy(self)
        for name, value in vars(self).items():
            if isinstance(value, Space):  # spaces draw too
                setattr(twin, name, copy.deepcopy(value))
        twin.restore_state(self.save_state())
        return twin
