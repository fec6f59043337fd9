"""What one agent did in one context: training runs from start to end, and what is kept of them."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dsenv.agents.base import Agent
from dsenv.env.session import Session
from dsenv.env.vector_env import TrainingVectorEnv

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class PerSeed:
    """What is kept of every training run: S seeds, T intervals."""

    accuracy: NDArray[np.float64]
    """(S,) test accuracy after the last interval; that of a guess where the training run diverged."""
    samples_used: NDArray[np.int64]
    """(S,) samples seen."""
    full: NDArray[np.int64]
    """(S,) samples seen where all data is trained on."""
    extra_forwards: NDArray[np.int64]
    """(S,) samples of forward passes without training."""
    diverged: NDArray[np.bool_]
    """(S,)."""
    curve: Floats
    """(S, T) test accuracy after each interval; all NaN where curves were turned off."""
    samples: NDArray[np.int64]
    """(S, T) samples seen up to the end of each interval."""
    scoring: Floats
    """(S,) seconds that scoring the test split for the curve took."""


@dataclass(frozen=True)
class Runs(PerSeed):
    """What one agent did in one context: S seeds, T intervals, C classes; NaN where nothing happened."""

    seconds: Floats
    """(S, T) seconds up to there: of the runs side by side, divided by their number; without any scoring
    of the test split."""
    selected: Floats
    """(S, T, B) share of the selection from each loss-rank bin."""
    ratio: Floats
    """(S, T) share of the data."""
    wrong: Floats
    """(S, T) share of wrong labels in the selection."""
    strength: Floats
    """(S, T) mean augmentation strength of the selection; NaN where the agent does not decide it."""
    strengths: Floats
    """(S, T, bins) strength of each stability bin; no bins where the agent does not decide it."""
    class_seen: Floats
    """(S, C) share of each true class among the samples seen; NaN where curves were turned off."""
    class_pool: Floats
    """(S, C) share of each true class in the training data."""
    class_accuracy: Floats
    """(S, C) test accuracy of each class after the last interval; NaN where the run diverged."""

    @classmethod
    def joined(cls, parts: Sequence["Runs"]) -> "Runs":
        """Runs one after another; NaN fills the classes that some of them do not have."""
        columns = {}
        for field in fields(cls):
            values = [getattr(part, field.name) for part in parts]
            if field.name.startswith("class_"):
                most = max(value.shape[1] for value in values)
                values = [_widened(value, most) for value in values]
            columns[field.name] = np.concatenate(values)
        return cls(**columns)

    def of(self, place: NDArray[np.int64]) -> "Runs":
        """The runs at positions `place`, in that order."""
        return Runs(**{name: values[place] for name, values in vars(self).items()})


def _widened(values: Floats, columns: int) -> Floats:
    missing = columns - values.shape[1]
    return np.pad(values, ((0, 0), (0, missing)), constant_values=np.nan) if missing else values


class Watch:
    """Keeps what an environment's history does not hold: test accuracy, samples, seconds, classes over time.

    Args:
        env: whose training runs are watched, just begun.
        curves: score the test split after every interval, and count the classes of the samples seen.
    """

    def __init__(self, env: TrainingVectorEnv, curves: bool) -> None:
        shape = (env.num_envs, env.config.intervals)
        self._curves, self._interval = curves, 0
        self._parts = env.episodes.parts()
        self._hits: list[list[Tensor]] = [[] for _ in self._parts]
        self._class_hits: dict[int, tuple[Tensor, Tensor]] = {}
        self._seen = [_no_classes(session) for session, _ in self._parts]
        self._spent = 0.0
        self.samples = np.zeros(shape, np.int64)
        self.seconds = np.full(shape, np.nan, np.float32)
        self.ended = np.full(env.num_envs, -1)
        """(K,) the interval in which a run diverged, from 0 on; -1 for the others."""
        self._scoring = 0.0

    def after_interval(self, seconds: float, diverged: NDArray[np.bool_]) -> None:
        """Take in an interval of all unfinished runs.

        Args:
            seconds: it took for all of them together.
            diverged: (K,) runs that diverged in it.
        """
        self._spent += seconds
        self.seconds[:, self._interval] = self._spent / len(self.ended)
        self.ended[diverged] = self._interval

        began = time.perf_counter()
        for number, (session, rows) in enumerate(self._parts):
            self.samples[rows, self._interval :] = session.state.budget.spent[:, None]
            if self._curves:
                self._class_hits[number] = session.trainer.class_hits("test")
                self._hits[number].append(self._class_hits[number][0].sum(1))
                self._seen[number] += _classes_of(session)
        if self._curves and self._parts[0][0].device.type == "cuda":
            torch.cuda.synchronize()  # or the next interval's seconds would hold it
        self._scoring += time.perf_counter() - began
        self._interval += 1

    def runs(self) -> Runs:
        """What became of the runs, in the order of the environment's replicas."""
        parts = [self._runs_of(number) for number in range(len(self._parts))]
        order = np.concatenate([rows for _, rows in self._parts])
        return Runs.joined(parts).of(np.argsort(order))

    def _runs_of(self, number: int) -> Runs:
        """Results of one session's finished runs."""
        session, rows = self._parts[number]
        history, guess = session.history, session.task.kind.guess_metric
        diverged = self.ended[rows] >= 0
        hits, size = self._hits_at_end(number)
        score = (hits.sum(1) / size.sum()).double().cpu().numpy()

        return Runs(
            accuracy=np.where(diverged, guess, score),
            samples_used=session.state.budget.spent.copy(),
            full=session.state.budget.capacity * session.config.intervals,
            extra_forwards=session.info()["extra_forwards"],
            diverged=diverged,
            curve=self._curve(number),
            samples=self.samples[rows],
            seconds=self.seconds[rows],
            selected=history.selected.copy(),
            ratio=history.scalars["ratio"].copy(),
            wrong=history.scalars["wrong_labels"].copy(),
            strength=history.scalars["strength"].copy(),
            strengths=history.strengths(session.control),
            class_seen=_shares(self._seen[number]),
            class_pool=_shares(_counted(session, session.state.pool)),
            class_accuracy=_class_accuracy(hits, size, diverged),
            scoring=np.full(len(rows), self._scoring / len(self.ended), np.float32),
        )

    def _curve(self, number: int) -> Floats:
        """Test accuracy (k, T) of the runs of one session; that of a guess from where they diverged."""
        session, rows = self._parts[number]
        found = np.full((len(rows), self.samples.shape[1]), np.nan, np.float32)
        if not self._curves:
            return found
        hits = torch.stack(self._hits[number], 1).cpu().numpy()
        size = session.trainer.split("test").size if session.task.dataset.classes else 1
        found[:, : self._interval] = hits / size

        ended = self.ended[rows]
        is_guess = (ended >= 0)[:, None] & (np.arange(found.shape[1]) >= ended[:, None])
        found[is_guess] = session.task.kind.guess_metric
        return found

    def _hits_at_end(self, number: int) -> tuple[Tensor, Tensor]:
        """Right predictions of each class (k, C) in the test split, and its samples (C,), at the end."""
        return self._class_hits.get(number) or self._parts[number][0].trainer.class_hits("test")


def _class_accuracy(hits: Tensor, size: Tensor, diverged: NDArray[np.bool_]) -> Floats:
    """Test accuracy (k, C) of each class; NaN where there is no such sample or the run diverged."""
    found: Floats = (hits / size).cpu().numpy()  # NaN for 0 / 0
    found[diverged] = np.nan
    return found


def _no_classes(session: Session) -> Tensor:
    return torch.zeros(session.count, max(1, session.task.dataset.classes), device=session.device)


def _groups(session: Session) -> Tensor:
    """True class (N,) of each training sample; 0 for all where samples have none."""
    labels = session.trainer.split("train").labels
    return labels if session.task.dataset.classes else labels.new_zeros(len(labels), dtype=torch.int64)


def _classes_of(session: Session) -> Tensor:
    """How many samples of each true class (k, C) the last interval of a session trained on."""
    chosen, size = session.selection, session.trainer.size
    if chosen is None or not chosen.index.numel():
        return _no_classes(session)
    labels = _groups(session)[chosen.index.clamp(max=size - 1)]
    return _no_classes(session).scatter_add_(1, labels, (chosen.index < size).float())


def _counted(session: Session, flags: Tensor) -> Tensor:
    """How many of the flagged training samples (k, N) are of each true class (k, C)."""
    labels = _groups(session).expand(session.count, -1)
    return _no_classes(session).scatter_add_(1, labels, flags.float())


def _shares(counts: Tensor) -> Floats:
    """Counts (k, C) as shares of their sum; NaN where that is 0."""
    shares: Floats = (counts / counts.sum(1, keepdim=True)).cpu().numpy()
    return shares


def run_episodes(
    env: TrainingVectorEnv,
    agent: Agent,
    seeds: Sequence[int],
    context: Mapping[str, Any],
    *,
    curves: bool = False,
) -> Runs:
    """Run one episode a seed to its end and test the trained models.

    Args:
        env: with autoreset mode "Disabled" and as many environments as there are seeds.
        agent: decides, deterministically.
        seeds: of the episodes.
        context: values to set; the others are drawn.
        curves: score the test split after every interval too; changes no other number.
    """
    observation, _ = env.reset(seed=list(seeds), options={"context": context})
    watch = Watch(env, curves)
    state, start = None, np.ones(env.num_envs, np.bool_)  # for policies with a memory; all begin together

    while not env.episodes.finished.all():
        began = time.perf_counter()
        actions, state = agent.predict(observation, state=state, episode_start=start, deterministic=True)
        start = np.zeros_like(start)
        observation, _, _, _, info = env.step(actions)
        watch.after_interval(time.perf_counter() - began, info["diverged"])

    return watch.runs()
