"""Snapshots: a training run in the middle of an episode, saved, restored and forked exactly."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from gymnasium import Space
from torch import Tensor

from dsenv.env.episodes import Episodes


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
        shared += [session.task, *session.trainer.splits.values()]
    return copy.deepcopy(episodes, {id(part): part for part in shared})


def described(setting: Any, depth: int = 4) -> Any:
    """A setting as names, numbers and text, equal for equal settings.

    A setting may be an object or a class, of which every environment may hold one of its own: an object is
    described by its type and its attributes, a class or function by its name.

    Args:
        setting: what to describe.
        depth: levels of attributes, tables and lists that are gone into.
    """
    if setting is None or isinstance(setting, str | bool | int | float):
        return setting
    if isinstance(setting, Tensor | np.ndarray):
        return f"{type(setting).__name__} {tuple(setting.shape)} {setting.dtype}: {setting.tolist()}"
    if isinstance(setting, Mapping):
        return {str(key): described(value, depth - 1) for key, value in setting.items()} if depth else "{...}"
    if isinstance(setting, list | tuple):
        return [described(value, depth - 1) for value in setting] if depth else "[...]"

    kind = setting if hasattr(setting, "__qualname__") else type(setting)
    name = f"{kind.__module__}.{kind.__qualname__}"
    if kind is setting or not depth:
        return name
    attributes = getattr(setting, "__dict__", {}).items()
    inside = ", ".join(f"{key}={described(value, depth - 1)!r}" for key, value in sorted(attributes))
    return f"{name}({inside})"


class Forkable:
    """Saving, restoring and forking an environment, so that several actions can be tried from one state.

    The same actions after a restore give the same numbers, bit for bit on a CPU.
    """

    episodes: Episodes
    _random: tuple[str, ...]
    """Attributes that hold the environment's own generators and flags."""

    def save_state(self) -> Snapshot:
        """The state of all training runs, as it is now; later steps do not change it."""
        random = {name: copy.deepcopy(getattr(self, name)) for name in self._random}
        return Snapshot(copy_episodes(self.episodes), random)

    def restore_state(self, snapshot: Snapshot) -> None:
        """Go back to a saved state; it can be restored again.

        Raises:
            ValueError: the state is of an environment with other settings, or another number of them.
        """
        own, other = (described(episodes.signature()) for episodes in (self.episodes, snapshot.episodes))
        for name, value in own.items():
            if other.get(name) != value:
                theirs = other.get(name)
                raise ValueError(
                    f"the state is of an environment with {name} = {theirs!r}, this one has {value!r}; "
                    "restore it where it was saved, or make an environment with those settings"
                )
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
