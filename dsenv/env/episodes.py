"""Episodes: K episodes side by side, whatever they run in."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dsenv.control.base import Control
from dsenv.env.config import EnvConfig
from dsenv.env.result import Flags, Floats, Info, StepResult

if TYPE_CHECKING:
    from dsenv.env.session import Session

Rows = NDArray[np.int64]


class Episodes(ABC):
    """K episodes of the same environment: one `Session`, or a `Mixture` of several."""

    config: EnvConfig
    count: int
    """K."""
    control: Control
    finished: Flags
    """(K,) episodes that are over, or were never begun."""

    @property
    @abstractmethod
    def observation_names(self) -> list[str]:
        """What each entry of an observation is."""

    @property
    @abstractmethod
    def candidate_shape(self) -> tuple[int, int] | None:
        """(M, F): candidates that an observation ends with, and features of each; else None."""

    @abstractmethod
    def reset(
        self,
        replicas: Sequence[int],
        rngs: Sequence[np.random.Generator],
        contexts: Sequence[Mapping[str, Any] | None],
    ) -> None:
        """Begin new episodes.

        Args:
            replicas: which ones.
            rngs: for each of them the generator that its seeds and context are drawn from.
            contexts: for each of them the context values to set, or None; other values are drawn.
        """

    @abstractmethod
    def step(self, actions: NDArray[Any]) -> StepResult:
        """Train every unfinished episode for one interval; finished ones stand still.

        Args:
            actions: see `to_box`.
        """

    @abstractmethod
    def observe(self) -> Floats:
        """The observation (K, O), on the host."""

    @abstractmethod
    def info(self) -> Info:
        """What is known between intervals: contexts and budgets."""

    @abstractmethod
    def parts(self) -> list[tuple["Session", Rows]]:
        """The sessions that run the episodes, and which episodes each of them runs, in its order."""

    @abstractmethod
    def sessions(self) -> list["Session"]:
        """Every session that is kept, whether it runs episodes now or not."""

    def part_of(self, replica: int) -> tuple["Session", int]:
        """The session that runs an episode, and the episode's row there."""
        for session, rows in self.parts():
            if replica in rows:
                return session, int(np.flatnonzero(rows == replica)[0])
        raise ValueError(f"there are {self.count} episodes, and no number {replica}")

    def signature(self) -> dict[str, Any]:
        """What two `Episodes` must have in common for the state of one to fit the other."""
        own = {"task", "datasets"}  # they may hold tensors, which have no single truth
        settings = {name: value for name, value in vars(self.config).items() if name not in own}
        return settings | {"datasets": self.config.dataset_names(), "num_envs": self.count}
