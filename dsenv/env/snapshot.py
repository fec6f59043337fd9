"""Snapshots: a training in the middle of an episode, saved, restored and forked exactly."""

import copy
from dataclasses import dataclass
from typing import Any, Self

from gymnasium import Space

from dsenv.env.mixture import Mixture
from dsenv.env.session import Session


@dataclass(frozen=True)
class Snapshot:
    """State of an environment between two steps. Picklable; the data set is shared, not copied."""

    session: Session | Mixture
    random: dict[str, Any]
    """Generators that later episodes are drawn from, by attribute name."""


def copy_episodes(episodes: Session | Mixture) -> Session | Mixture:
    """Episodes of their own in the same state; tasks, settings and resident data are shared."""
    shared: list[Any] = [episodes.config]
    for session in episodes.sessions():
        shared += [session.task, *session.trainer.splits.values()]
    return copy.deepcopy(episodes, {id(part): part for part in shared})


class Forkable:
    """Saving, restoring and forking an environment, so that several actions can be tried from one state.

    The same actions after a restore give the same numbers, bit for bit on a CPU.
    """

    session: Session | Mixture
    _random: tuple[str, ...]
    """Attributes that hold the environment's own generators and flags."""

    def save_state(self) -> Snapshot:
        """The state of all trainings, as it is now; later steps do not change it."""
        random = {name: copy.deepcopy(getattr(self, name)) for name in self._random}
        return Snapshot(copy_episodes(self.session), random)

    def restore_state(self, snapshot: Snapshot) -> None:
        """Go back to a saved state; it can be restored again.

        Raises:
            ValueError: the state is of an environment with other settings, or another number of them.
        """
        own, other = self.session.signature(), snapshot.session.signature()
        for name, value in own.items():
            if other.get(name) != value:
                theirs = other.get(name)
                raise ValueError(
                    f"the state is of an environment with {name} = {theirs!r}, this one has {value!r}; "
                    "restore it where it was saved, or make an environment with those settings"
                )
        self.session = copy_episodes(snapshot.session)
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
