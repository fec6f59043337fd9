"""Training runs of a rehearsal: one candidate, many held-out parts, side by side as one program."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dsenv.agents.learned import LearnedAgent
from dsenv.agents.rules import NeutralRule
from dsenv.env.config import EnvConfig
from dsenv.env.context import Context
from dsenv.env.episodes import to_box
from dsenv.env.interface import make_spaces
from dsenv.env.session import Session
from dsenv.rehearsal.candidates import Candidate
from dsenv.tasks.task import Task
from dsenv.training.trainer import PREDICT_ELEMENTS
from dsenv.volume.budget import FORWARD_COST

Floats = NDArray[np.float64]


def no_check(done: float) -> None:
    """Do nothing: there is no time limit."""
    del done


class TooLateError(Exception):
    """The time limit was reached within a training run."""


class HeldOutSession(Session):
    """Training runs that each leave out the samples of their held-out part.

    Args:
        config: the environment; its task has all samples as the training split.
        held_out: (K, N) bool, the samples that each training run does not see.
        device: where the training runs.
    """

    def __init__(self, config: EnvConfig, held_out: Tensor, device: torch.device) -> None:
        self._held_out = held_out
        super().__init__(config, len(held_out), device)

    def _labels_and_pool(self, replica: int, context: Context, seed: int) -> tuple[Tensor, Tensor]:
        del context, seed
        return self.task.dataset.train.labels.clone(), ~self._held_out[replica]


@dataclass(frozen=True)
class Outcome:
    """What K training runs of one candidate gave on their held-out parts."""

    accuracy: Floats
    """(K,) share of the held-out labels that are predicted; that of a guess where the run diverged."""
    hits: Floats
    """(N,) how often a model that did not see a sample predicted its label."""
    tries: Floats
    """(N,) how many models did not see it."""
    probabilities: Tensor
    """(N, C) sum over those models of what they say of it."""
    cost: float
    """Samples seen, as a share of all data in every epoch; a scoring pass counts as a third."""
    seconds: float
    diverged: int


def run(
    candidate: Candidate,
    task: Task,
    held_out: Tensor,
    seeds: Sequence[int],
    *,
    epochs: int,
    device: torch.device,
    threads: int = 1,
    check: Callable[[float], None] = no_check,
) -> Outcome:
    """Train K models of a candidate, and score each on the part that it did not see.

    Args:
        candidate: what the training runs see.
        task: its training split holds all samples.
        held_out: (K, N) bool, what each of them does not see.
        seeds: K seeds; candidates with equal ones start from equal parameters.
        epochs: length of a training run.
        device: where they run.
        threads: training runs at the same time, where they run in a loop on a CPU.
        check: called after each interval with the share that is done; raises to stop.
    """
    began = time.perf_counter()
    agent, session = _session(candidate, task, held_out, epochs, device, threads)
    acting = agent.bind(session.control, make_spaces(session)[1])
    session.reset(range(len(seeds)), [np.random.default_rng(seed) for seed in seeds], [{}] * len(seeds))

    state: Any = None
    start, diverged = np.ones(len(seeds), np.bool_), np.zeros(len(seeds), np.bool_)
    while not session.finished.all():
        found, state = acting.predict(session.observe(), state=state, episode_start=start, deterministic=True)
        start = np.zeros_like(start)
        actions = to_box(found, session.config.actions, session.control, session.count)
        diverged |= session.step(actions).info["diverged"]
        check(float(session.state.interval.max()) / session.config.intervals)

    return _outcome(session, held_out, diverged, epochs, time.perf_counter() - began)


def check_candidate(candidate: Candidate, task: Task, epochs: int, device: torch.device) -> None:
    """Build what a candidate needs, and train nothing.

    Raises:
        ValueError: a name or setting is unknown, or a part does not fit the data.
    """
    held_out = torch.zeros(1, len(task.dataset.train), dtype=torch.bool)
    try:
        agent, session = _session(candidate, task, held_out, epochs, device, 1)
        agent.bind(session.control, make_spaces(session)[1])
    except ValueError as error:
        raise ValueError(f"candidate {candidate.name!r}: {error}") from error


def _session(
    candidate: Candidate, task: Task, held_out: Tensor, epochs: int, device: torch.device, threads: int
) -> tuple[LearnedAgent | NeutralRule, HeldOutSession]:
    """The agent of a candidate, and its training runs."""
    agent = candidate.agent()
    settings = {"task": task, **agent.env, "trainer": {"threads": threads}}
    settings["intervals"] = _intervals(agent, epochs, int((~held_out).sum(1).min()))
    return agent, HeldOutSession(EnvConfig.of(settings), held_out, device)


def _intervals(agent: LearnedAgent | NeutralRule, epochs: int, size: int) -> int:
    """Intervals of a training run: epochs, or as many groups of candidates as these are long."""
    candidates = agent.policy.control.candidates if isinstance(agent, LearnedAgent) else 0
    return max(2, round(epochs * size / candidates)) if candidates else epochs


def _outcome(
    session: HeldOutSession, held_out: Tensor, diverged: NDArray[np.bool_], epochs: int, seconds: float
) -> Outcome:
    """What the trained models say of the samples that they did not see."""
    dataset = session.task.dataset
    found = held_out_probabilities(session, held_out.to(session.device)).cpu()
    found[torch.from_numpy(diverged)] = 1 / dataset.classes

    # One row for each held-out sample of each training run
    run, sample = held_out.nonzero().unbind(1)
    said = found[run, held_out.cumsum(1)[held_out] - 1]
    hit = (said.argmax(1) == dataset.train.labels[sample]).double()
    hit[torch.from_numpy(diverged)[run]] = 1 / dataset.classes

    tries = held_out.sum(0).double()
    accuracy = torch.zeros(len(held_out)).double().index_add_(0, run, hit) / held_out.sum(1)
    info = session.info()
    used = info["samples_used"] + FORWARD_COST * info["extra_forwards"]
    full = (~held_out).sum(1).numpy() * epochs
    return Outcome(
        accuracy=accuracy.numpy(),
        hits=torch.zeros_like(tries).index_add_(0, sample, hit).numpy(),
        tries=tries.numpy(),
        probabilities=torch.zeros(len(tries), dataset.classes).index_add_(0, sample, said),
        cost=float((used / full).mean()),
        seconds=seconds,
        diverged=int(diverged.sum()),
    )


@torch.no_grad()
def held_out_probabilities(session: HeldOutSession, held_out: Tensor) -> Tensor:
    """Probabilities (K, M, C) that each model gives its held-out samples, in their order; 0 for padding."""
    count, size = held_out.shape
    most = int(held_out.sum(1).max())
    order = torch.where(held_out, torch.arange(size, device=held_out.device), size).sort(1).values[:, :most]

    # In parts that fit into memory
    trainer = session.trainer
    values = max(int(np.prod(session.task.dataset.sample_shape)), 64)
    chunk = max(1, PREDICT_ELEMENTS // (count * values))
    parts = [trainer.score_candidates(part).logits for part in torch.split(order, chunk, 1)]
    logits = torch.cat([part for part in parts if part is not None], 1)
    return logits.softmax(2)
