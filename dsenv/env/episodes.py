"""Episodes: K episodes of an environment, in one stacked session for each data set."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dsenv.control.base import Actions, Control
from dsenv.describe import describe
from dsenv.env.config import EnvConfig
from dsenv.env.results import Flags, Floats, Info, StepResult
from dsenv.env.session import Session
from dsenv.env.session_state import load_session, state_of_session
from dsenv.errors import check_count, shown
from dsenv.states import fitted

Rows = NDArray[np.int64]


class Episodes:
    """K episodes of the same environment, each in one of one or more sessions.

    Without `datasets` all K are in one session. With them, a single environment draws its data set at each
    reset; of K stacked ones, environment k works on data set k mod D of those that may be drawn, in all its
    episodes. The context value "dataset" moves an environment for an episode; stacked ones move when all of
    them are reset together, for a session is built for each number of rows.

    Args:
        config: what an episode is.
        count: K.
        device: where the training runs.
        draws: whether data sets are drawn, rather than fixed by k; needs K = 1.
        first: number of the first one, where these are a part of more: it decides their data sets.
    """

    def __init__(
        self, config: EnvConfig, count: int, device: torch.device, *, draws: bool = False, first: int = 0
    ) -> None:
        assert count == 1 or not draws, count
        count = check_count("num_envs", count)
        self.config = config
        self.count = count
        self._settings = self._describe()
        self.device = device
        self._draws, self._first = draws, first
        self._contexts = config.make_contexts()
        self._drawable = self._contexts.drawable_datasets() if config.datasets else [0]
        self._sessions: dict[int, Session] = {}
        self._settle(self._usual())
        self.control = self.sessions()[0].control
        self.finished: Flags = np.ones(count, np.bool_)
        """(K,) episodes that are over, or were never begun."""

    def _usual(self) -> Rows:
        """(K,) the data set of each environment where the context names none."""
        numbers = self._first + np.arange(self.count)
        return np.array(self._drawable)[numbers % len(self._drawable)]

    def _settle(self, home: Rows) -> None:
        """Let each environment work on the data set `home` (K,); sessions are built where they do not fit."""
        self._rows = {int(number): np.flatnonzero(home == number) for number in np.unique(home)}
        self._home = home
        for number, rows in self._rows.items():
            if number not in self._sessions or self._sessions[number].count != len(rows):
                self._sessions[number] = self._build(number, len(rows))

    def _build(self, number: int, count: int) -> Session:
        session = Session(self.config, count, self.device, number)
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
        """What each entry of an observation is."""
        return self.sessions()[0].observation_names

    @property
    def candidate_shape(self) -> tuple[int, int] | None:
        """(M, F): candidates that an observation ends with, and features of each; else None."""
        return self.sessions()[0].candidate_shape

    def parts(self) -> list[tuple[Session, Rows]]:
        """The sessions that run the episodes, and which episodes each of them runs, in its order."""
        return [(self._sessions[number], rows) for number, rows in self._rows.items()]

    def sessions(self) -> list[Session]:
        """Every session that is kept, whether it runs episodes now or not."""
        return list(self._sessions.values())

    def part_of(self, replica: int) -> tuple[Session, int]:
        """The session that runs an episode, and the episode's row there."""
        for session, rows in self.parts():
            if replica in rows:
                return session, int(np.flatnonzero(rows == replica)[0])
        raise ValueError(f"there are {self.count} episodes, and no number {replica}")

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

        Raises:
            ValueError: a context value is unknown or out of range, or moves one stacked environment alone.
        """
        values = [dict(self._contexts.check({} if given is None else given)) for given in contexts]
        self._move(replicas, rngs, [value.pop("dataset", None) for value in values])

        given = {k: (rng, value) for k, rng, value in zip(replicas, rngs, values, strict=True)}
        for session, rows in self.parts():
            own = [(slot, *given[k]) for slot, k in enumerate(rows.tolist()) if k in given]
            if own:
                slots, own_rngs, own_values = zip(*own, strict=True)
                session.reset(slots, own_rngs, own_values)
        self.finished = self._gathered([session.finished for session, _ in self.parts()]).copy()

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
        """Train every unfinished episode for one interval; finished ones stand still.

        Args:
            actions: see `to_box`; checked before anyone trains.
        """
        boxes = to_box(actions, self.config.actions, self.control, self.count)
        results = [session.step(boxes[rows]) for session, rows in self.parts()]
        self.finished = self._gathered([result.terminated for result in results])
        return StepResult(
            observation=self._gathered([result.observation for result in results]),
            reward=self._gathered([result.reward for result in results]),
            terminated=self.finished.copy(),
            info=self._gathered_info([result.info for result in results]),
        )

    def observe(self) -> Floats:
        """The observation (K, O), on the host."""
        return self._gathered([session.observe() for session, _ in self.parts()])

    def info(self) -> Info:
        """What is known between intervals: contexts and budgets."""
        return self._gathered_info([session.info() for session, _ in self.parts()])

    def _gathered(self, values: Sequence[NDArray[Any]]) -> NDArray[Any]:
        """Arrays of the parts (k, ...) as one array (K, ...); that of a single part as it is."""
        if len(values) == 1:
            return values[0]
        whole = np.empty((self.count, *values[0].shape[1:]), values[0].dtype)
        for value, rows in zip(values, self._rows.values(), strict=True):
            whole[rows] = value
        return whole

    def _gathered_info(self, infos: Sequence[Info]) -> Info:
        if len(infos) == 1:
            return infos[0]
        return {name: self._gathered([info[name] for info in infos]) for name in infos[0]}

    def settings(self) -> dict[str, Any]:
        """Every setting but the tasks, for a state to be compared with; those it was built with."""
        return self._settings

    def _describe(self) -> dict[str, Any]:
        own = {"task", "datasets"}  # each session describes its task and data
        settings = {name: describe(value) for name, value in vars(self.config).items() if name not in own}
        return settings | {"datasets": self.config.dataset_names(), "num_envs": self.count}

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to continue the episodes, those in flight included."""
        sessions = {str(number): state_of_session(self._sessions[number]) for number in self._rows}
        return {"home": self._home.copy(), "sessions": sessions}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`; after an error the episodes are of no use.

        Raises:
            ValueError: the state is of other data, another task or other parts.
        """
        home = fitted("home", state["home"], self._home)
        last = max(len(self.config.datasets), 1) - 1
        if home.min() < 0 or home.max() > last:
            raise ValueError(f"home of the state names data sets from 0 to {last}, got {home.tolist()}")

        self._settle(home)
        if state["sessions"].keys() != {str(number) for number in self._rows}:
            raise ValueError(
                f"the state holds the data sets {sorted(state['sessions'])}, not those of its rows"
            )
        for number in self._rows:
            load_session(self._sessions[number], state["sessions"][str(number)])
        self.finished = self._gathered([session.finished for session, _ in self.parts()]).copy()

    def signature(self) -> dict[str, Any]:
        """What two `Episodes` must have in common for the state of one to fit the other."""
        return self._settings if self.config.datasets else self._settings | self.sessions()[0].signature()


def to_box(actions: NDArray[Any], kind: str, control: Control, replicas: int) -> Actions:
    """Actions of any kind as (K, A) floats in [-1, 1].

    Args:
        actions: (K, A) in [-1, 1], values beyond are clipped; with discrete actions (K,) choices, with
            binary ones (K, A) of 0 and 1.
        kind: one of `ACTION_KINDS`.
        control: turns them into decisions.
        replicas: K.

    Raises:
        ValueError: they are of another shape, no choices that exist, or not all numbers.
    """
    values = as_array("actions", actions)
    if kind == "discrete":
        choices = control.choices()
        is_whole = values.dtype.kind in "iu"
        if not is_whole or values.shape != (replicas,) or not np.isin(values, np.arange(len(choices))).all():
            raise ValueError(
                f"actions must be {replicas} choices, whole numbers from 0 to {len(choices) - 1}, got "
                f"{shown(actions)}"
            )
        return choices[values.astype(np.int64)]

    if values.shape != (replicas, control.size):
        raise ValueError(f"actions must have shape {(replicas, control.size)}, got {values.shape}")
    if kind == "binary":
        if not ((values == 0) | (values == 1)).all():
            raise ValueError(f"binary actions must be 0 or 1, got {shown(values.tolist())}")
        return 2 * values.astype(np.float32) - 1

    if values.dtype.kind == "b":
        raise ValueError(
            f"actions must be numbers in [-1, 1], got {values.dtype}; use actions = 'binary' for masks"
        )
    if np.isnan(values).any():
        raise ValueError(f"an action is NaN: {shown(values.tolist())}; has the policy diverged?")
    if not np.isfinite(values).all():
        raise ValueError(f"an action is not finite: {shown(values.tolist())}; has the policy diverged?")
    return values.clip(-1, 1).astype(np.float32)


def as_array(name: str, values: Any) -> NDArray[Any]:
    """What a user gave as an array of numbers or flags.

    Raises:
        ValueError: it is none: None, text, complex numbers, lists of different lengths.
    """
    try:
        found = np.asarray(values)
    except Exception as error:  # a tensor on a GPU or with a graph, a list of lists of different lengths
        raise ValueError(
            f"{name} must be an array of numbers, and {shown(values)} does not become one: {error}"
        ) from error
    if found.dtype.kind not in "biuf":
        raise ValueError(f"{name} must be an array of numbers, got {shown(values)} ({found.dtype})")
    return found
