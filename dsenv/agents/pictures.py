"""Pictures and histograms of the training runs that an agent controls, a few times in its training."""

from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecEnvWrapper

from dsenv.agents.vec_env import StackedVecEnv
from dsenv.control.base import Control
from dsenv.env.session import Session
from dsenv.tracking import names, pictures

Rows = NDArray[np.int64]
Floats = NDArray[np.float32]

MOST_POINTS = 64  # of the picture over time; more are joined in pairs
MOST_ACTIONS = 1024  # of each moment, in a histogram
PATIENCE = 3  # training runs, from the first moment of pictures to the last
MOST_RUNS = 8  # training runs whose samples make a histogram
BINS = {"log_weight": "loss bin", "strength": "stability bin"}
"""What the components of an answer are for."""
MOST_PARTS = 8  # components of an action with a histogram each; more share one


def sessions_of(env: VecEnv) -> list[Session]:
    """Sessions of this process behind a VecEnv; none where its environments are elsewhere."""
    while isinstance(env, VecEnvWrapper):
        env = env.venv
    if isinstance(env, StackedVecEnv):
        return [session for session, _ in env.env.episodes.parts()]
    if not isinstance(env, DummyVecEnv):
        return []
    each = [getattr(single.unwrapped, "episodes", None) for single in env.envs]
    return [session for episodes in each if episodes is not None for session, _ in episodes.parts()]


def moments(intervals: int) -> list[int]:
    """Intervals that are looked at, from 1 on: the first, the middle one and the last but one.

    After the last one an environment begins a new training run at once.
    """
    return sorted({1, max(1, intervals // 2), max(1, intervals - 1)})


class Pictures:
    """Collects what training runs do and, a few times in an agent's training, makes pictures of it.

    Args:
        number: how often in the whole training.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        self._last = 0  # step of the last ones
        self._waiting: list[int] = []  # moments that the pictures in the making still wait for
        self._points: list[tuple[int, list[float], int]] = []  # step, summed shares, how many
        self._now: tuple[list[float], int] = ([], 0)
        self._by_interval: dict[int, tuple[list[float], int]] = {}
        self._actions: dict[int, deque[Floats]] = {}

    def collect(self, infos: list[dict[str, Any]]) -> None:
        """Take in what one step of all environments chose."""
        shares = np.array([info["selected_bins"] for info in infos], np.float64)
        done = np.array([info.get("interval", 0) for info in infos])
        self._now = _added(self._now, shares.sum(0), len(shares))
        for interval in np.unique(done[done > 0]).tolist():
            rows = shares[done == interval]
            self._by_interval[interval] = _added(
                self._by_interval.get(interval, ([], 0)), rows.sum(0), len(rows)
            )

    def close_point(self, step: int) -> None:
        """End a point of the picture over time."""
        if self._now[1]:
            self._points.append((step, *self._now))
            self._now = ([], 0)
        if len(self._points) > MOST_POINTS:
            pairs = zip(self._points[::2], self._points[1::2], strict=False)
            rest = self._points[-1:] if len(self._points) % 2 else []
            joined = [(b[0], *_added((a[1], a[2]), np.array(b[1]), b[2])) for a, b in pairs]
            self._points = joined + rest

    def look(self, env: VecEnv, writer: Any, step: int, total: int) -> None:
        """Look at the training runs, and write what is due.

        Args:
            env: the environments.
            writer: a `SummaryWriter`.
            step: environment steps of the agent so far.
            total: of its whole training.
        """
        sessions = sessions_of(env)
        intervals = sessions[0].config.intervals if sessions else 0
        lead = 0 if self._last else 2 * intervals * env.num_envs  # until all moments were seen
        is_due = step - self._last >= total / self.number - lead
        if not sessions:
            if is_due:
                self._last = step
                self._write_bins(writer, step)
            return

        if is_due and not self._waiting:
            self._last = step
            self._waiting = moments(intervals)
        for interval in moments(intervals):
            now = list(_at(sessions, interval))
            if not now:
                continue
            self._keep_actions(now, interval)
            if self._waiting[:1] == [interval]:
                self._write_pool(writer, step, now, interval, intervals)
                self._waiting.pop(0)
                if not self._waiting:
                    self._write_rest(writer, step, now, intervals)
        if self._waiting and step - self._last >= PATIENCE * intervals * env.num_envs:
            self._waiting = []  # no run gets so far: they diverge before
            self._write_actions(writer, step, sessions[0].control, intervals)
            self._write_bins(writer, step)

    def _write_rest(self, writer: Any, step: int, now: list[tuple[Session, Rows]], intervals: int) -> None:
        """All but the pool, once the last moment was seen."""
        self._write_actions(writer, step, now[0][0].control, intervals)
        self._write_sheet(writer, step, now)
        self._write_bins(writer, step)

    def _keep_actions(self, now: list[tuple[Session, Rows]], interval: int) -> None:
        kept = self._actions.setdefault(interval, deque(maxlen=MOST_ACTIONS))
        for session, rows in now:
            kept.extend(session.history.actions[rows, interval - 1])

    def _write_pool(
        self, writer: Any, step: int, now: list[tuple[Session, Rows]], interval: int, of: int
    ) -> None:
        """Histograms of losses and confidences over all samples of a few training runs that were seen."""
        session, rows = now[0]
        at = torch.from_numpy(rows[:MOST_RUNS]).to(session.device)
        signals = session.trainer.signals
        seen = signals.times_trained[at] > 0
        for name, signal in (("losses", signals.loss), ("confidences", signals.confidence)):
            values = signal[at][seen].cpu()
            values = values[values.isfinite()]
            if len(values):
                writer.add_histogram(names.pool(name, names.interval(interval, of)), values.numpy(), step)

    def _write_actions(self, writer: Any, step: int, control: Control, of: int) -> None:
        for interval, kept in sorted(self._actions.items()):
            for part, values in _parts(control, np.stack(kept)):
                writer.add_histogram(names.action(part, names.interval(interval, of)), values, step)
        self._actions = {}

    def _write_sheet(self, writer: Any, step: int, now: list[tuple[Session, Rows]]) -> None:
        """A sheet of images of one training run; none where its samples are no images."""
        session, rows = now[0]
        found = sheet_of(session, int(rows[0]))
        if found is not None:
            writer.add_image(names.IMAGES, found, step, dataformats="HWC")

    def _write_bins(self, writer: Any, step: int) -> None:
        if not self._points:
            return
        steps, sums, counts = zip(*self._points, strict=True)
        shares = (np.array(sums) / np.array(counts)[:, None]).astype(np.float32)
        lately = [np.array(total) / count for _, (total, count) in sorted(self._by_interval.items())]
        later = np.array(lately, np.float32) if len(lately) > 1 else None
        picture = pictures.bins_picture(steps, shares, "environment steps of the agent", later)
        writer.add_image(names.BY_BIN, picture, step, dataformats="HWC")
        self._by_interval = {}

    def state_dict(self) -> dict[str, Any]:
        """What was collected, and which pictures are made."""
        return {
            "last": self._last,
            "waiting": list(self._waiting),
            "points": [list(point) for point in self._points],
            "now": list(self._now),
            "by_interval": {str(number): list(values) for number, values in self._by_interval.items()},
            "actions": {str(number): np.stack(rows) for number, rows in self._actions.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self._last, self._waiting = int(state["last"]), list(state["waiting"])
        self._points = [(step, list(shares), count) for step, shares, count in state["points"]]
        self._now = (list(state["now"][0]), state["now"][1])
        self._by_interval = {
            int(number): (list(shares), count) for number, (shares, count) in state["by_interval"].items()
        }
        self._actions = {
            int(number): deque(np.asarray(rows), maxlen=MOST_ACTIONS)
            for number, rows in state["actions"].items()
        }


def _added(
    before: tuple[list[float], int], shares: NDArray[np.float64], count: int
) -> tuple[list[float], int]:
    """Sums of shares and how many, with more of both."""
    total = shares if not before[1] else np.array(before[0]) + shares
    return total.tolist(), before[1] + count


def _at(sessions: list[Session], interval: int) -> Iterator[tuple[Session, Rows]]:
    """Sessions with training runs that have just done `interval` intervals, and their rows there."""
    for session in sessions:
        rows = np.flatnonzero((session.state.interval == interval) & ~session.finished)
        if rows.size:
            yield session, rows


def _parts(control: Control, actions: Floats) -> Iterator[tuple[str, Floats]]:
    """Components of actions (n, A) by name, in the units of their meaning; long answers as one."""
    for answer, values in control.decode(actions).items():
        name = answer.replace("_", " ")
        if values.shape[1] > MOST_PARTS:
            yield name, values
        elif values.shape[1] == 1:
            yield name, values[:, 0]
        else:
            for place in range(values.shape[1]):
                yield f"{name} of {BINS.get(answer, 'part')} {place}", values[:, place]


def sheet_of(session: Session, replica: int) -> pictures.Pixels | None:
    """Images that a training run's last interval chose and left out; None where samples are no images."""
    data, size = session.trainer.split("train"), session.trainer.size
    if session.selection is None or data.images.ndim != 4:
        return None
    index = session.selection.index[replica]
    is_chosen = torch.zeros(size + 1, dtype=torch.bool, device=session.device)
    is_chosen[index] = True
    is_chosen, pool = is_chosen[:size], session.state.pool[replica]
    wrong = session.trainer.wrong[replica]

    shown = []
    for flags in (is_chosen, pool & ~is_chosen):
        places = flags.nonzero()[:, 0]
        spread = torch.linspace(0, max(len(places) - 1, 0), min(len(places), pictures.MOST_IMAGES))
        places = places[spread.long().to(places.device)]
        images = pictures.as_pixels(data.images[places].cpu().numpy())
        if images is None:
            images = np.zeros((0, 2, 2, 3), np.uint8)
        shown.append((images, wrong[places].cpu().numpy()))
    (chosen, chosen_wrong), (left, left_wrong) = shown
    return pictures.sheet(chosen, left, chosen_wrong, left_wrong) if len(chosen) else None
