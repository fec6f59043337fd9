"""Mixture: K episodes on several data sets, one stacked session for each of them."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dsenv.env.actions import to_box
from dsenv.env.config import EnvConfig
from dsenv.env.episodes import Episodes, Rows
from dsenv.env.result import Flags, Floats, Info, StepResult
from dsenv.env.session import Session


class Mixture(Episodes):
    """K episodes, each on one of the environment's `datasets`.

    A single environment draws its data set at each reset. Of K stacked ones, environment k works on data set
    k mod D of those that may be drawn, in all its episodes. The context value "dataset" moves an environment
    for an episode; stacked ones move when all of them are reset together, for a session is built for each
    number of rows.

    Args:
        config: what an episode is; it has `datasets`.
        count: K.
        device: where the trainings run.
        draws: whether data sets are drawn, rather than fixed by k; needs K = 1.
    """

    def __init__(self, config: EnvConfig, count: int, device: torch.device, *, draws: bool = False) -> None:
        assert count == 1 or not draws, count
        if count < 1:
            raise ValueError(f"num_envs must be at least 1, got {count}")
        self.config, self.count, self._device, self._draws = config, count, device, draws
        self._contexts = config.make_contexts()
        self._drawable = self._contexts.drawable_datasets()
        self._sessions: dict[int, Session] = {}
        self._settle(self._usual())
        self.control = self.sessions()[0].control
        self.finished: Flags = np.ones(count, np.bool_)

    def _usual(self) -> Rows:
        """(K,) the data set of each environment where the context names none."""
        return np.array(self._drawable)[np.arange(self.count) % len(self._drawable)]

    def _settle(self, home: Rows) -> None:
        """Let each environment work on the data set `home` (K,); sessions are built where they do not fit."""
        self._rows = {int(number): np.flatnonzero(home == number) for number in np.unique(home)}
        self._home = home
        for number, rows in self._rows.items():
            if number not in self._sessions or self._sessions[number].count != len(rows):
                self._sessions[number] = self._build(number, len(rows))

    def _build(self, number: int, count: int) -> Session:
        session = Session(self.config, count, self._device, number)
        for other in self._sessions.values():
            if other.observation_names != session.observation_names:
                raise ValueError(
                    f"observations have {len(session.observation_names)} entries on the data set "
                    f"{session.task.dataset.name} and {len(other.observation_names)} on "
                    f"{other.task.dataset.name}: the control shows the models' features; set "
                    "control.embedding = false, or give all data sets the same model"
                )
        return session

    @property
    def observation_names(self) -> list[str]:
        return self.sessions()[0].observation_names

    @property
    def candidate_shape(self) -> tuple[int, int] | None:
        return self.sessions()[0].candidate_shape

    def parts(self) -> list[tuple[Session, Rows]]:
        return [(self._sessions[number], rows) for number, rows in self._rows.items()]

    def sessions(self) -> list[Session]:
        return list(self._sessions.values())

    def reset(
        self,
        replicas: Sequence[int],
        rngs: Sequence[np.random.Generator],
        contexts: Sequence[Mapping[str, Any] | None],
    ) -> None:
        values = [dict(self._contexts.check(context or {})) for context in contexts]
        self._move(replicas, rngs, [value.pop("dataset", None) for value in values])
        given = {k: (rng, value) for k, rng, value in zip(replicas, rngs, values, strict=True)}
        for session, rows in self.parts():
            own = [(slot, *given[k]) for slot, k in enumerate(rows.tolist()) if k in given]
            if own:
                slots, own_rngs, own_values = zip(*own, strict=True)
                session.reset(slots, own_rngs, own_values)
        self.finished = self._gathered([session.finished for session, _ in self.parts()])

    def _move(
        self, replicas: Sequence[int], rngs: Sequence[np.random.Generator], names: Sequence[str | None]
    ) -> None:
        """Settle the environments `replicas` on the data sets of their coming episodes."""
        is_whole = len(replicas) == self.count
        home = self._usual() if is_whole else self._home.copy()
        for replica, rng, name in zip(replicas, rngs, names, strict=True):
            if name is not None:
                home[replica] = self._contexts.index(name)
            elif self._draws and len(self._drawable) > 1:
                home[replica] = self._drawable[int(rng.integers(len(self._drawable)))]
        if not is_whole and (moved := np.flatnonzero(home != self._home)).size:
            k = int(moved[0])
            wanted, own = (self._contexts.datasets[int(numbers[k])] for numbers in (home, self._home))
            raise ValueError(
                f"environment {k} works on the data set {own!r}, and the context wants {wanted!r}: stacked "
                "environments move only when all of them are reset together"
            )
        if not np.array_equal(home, self._home):
            self._settle(home)

    def step(self, actions: NDArray[Any]) -> StepResult:
        to_box(actions, self.config.actions, self.control, self.count)  # a mistake shows before anyone trains
        actions = np.asarray(actions)
        results = [session.step(actions[rows]) for session, rows in self.parts()]
        self.finished = self._gathered([result.terminated for result in results])
        return StepResult(
            observation=self._gathered([result.observation for result in results]),
            reward=self._gathered([result.reward for result in results]),
            terminated=self.finished.copy(),
            info=self._gathered_info([result.info for result in results]),
        )

    def observe(self) -> Floats:
        return self._gathered([session.observe() for session, _ in self.parts()])

    def info(self) -> Info:
        return self._gathered_info([session.info() for session, _ in self.parts()])

    def _gathered(self, values: Sequence[NDArray[Any]]) -> NDArray[Any]:
        """Arrays of the parts (k, ...) as one array (K, ...)."""
        whole = np.empty((self.count, *values[0].shape[1:]), values[0].dtype)
        for value, rows in zip(values, self._rows.values(), strict=True):
            whole[rows] = value
        return whole

    def _gathered_info(self, infos: Sequence[Info]) -> Info:
        return {name: self._gathered([info[name] for info in infos]) for name in infos[0]}


def make_episodes(
    config: EnvConfig, count: int, device: torch.device, *, draws: bool = False
) -> Session | Mixture:
    """K episodes as the settings want them: in one session, or mixed over `datasets`.

    Args:
        config: what an episode is.
        count: K.
        device: where the trainings run.
        draws: whether the data set is drawn at each reset; needs K = 1.
    """
    return Mixture(config, count, device, draws=draws) if config.datasets else Session(config, count, device)
