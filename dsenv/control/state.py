"""TrainingState: where K training runs stand between two intervals; environments and plans keep one."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dsenv import kernels
from dsenv.signals import SampleSignals
from dsenv.states import fitted
from dsenv.volume.budget import Budget, Counts

STEADY_VISITS = 3  # visits that it takes to tell how much a sample's influence varies
MEASURED = (
    "ratio",
    "selected",
    "wrong_labels",
    "strength",
    "train_loss",
    "train_accuracy",
    "validation_accuracy",
    "validation_gain",
    "action",
)
"""Fields of a `TrainingState` that the last interval measured."""
TENSORS = ("pool", "bins", "stability", "shows_validation")
SCORES = ("loss", "outputs", "embedding")
BUDGET = ("capacity", "total", "spent", "floor")


@dataclass(frozen=True)
class CandidateScores:
    """What the models say now about (K, M) candidates."""

    loss: Tensor
    """(K, M) nats."""
    outputs: dict[str, Tensor]
    """(K, M) each: confidence, entropy, margin, correct."""
    embedding: Tensor | None = None
    """(K, M, D) inputs of the last linear layer."""


@dataclass(frozen=True)
class Candidates:
    """The samples that K agents are shown."""

    index: Tensor
    """(K, M) int64; N is padding."""
    scores: CandidateScores | None = None
    """Scores by a fresh forward pass; None for the values at their last visit."""


@dataclass
class TrainingState:
    """The state of K training runs between two intervals; tensors are on the training device.

    `Control.decide` and `observe` read it. `dsenv.env.session.Session` and `dsenv.policy.PolicyRunner` keep
    one and bring it up to date after each interval.
    """

    signals: SampleSignals
    """(K, N) history of the samples."""
    pool: Tensor
    """(K, N) bool, the samples that exist."""
    bins: Tensor
    """(K, N) int64 loss-rank bin of each sample."""
    stability: Tensor
    """(K, N) int64 stability bin of each sample."""
    candidates: Candidates
    """The samples shown one by one; M is 0 for most controls."""
    budget: Budget
    """Samples that each run may still see; on the host."""
    planned: Counts
    """(K,) samples of the coming interval by the volume schedule; on the host."""
    interval: Counts
    """(K,) intervals done, which is the number of the coming one; on the host."""
    intervals: int
    """T, intervals of a whole run."""
    target: float | Tensor
    """Target ratio; (K,) float32 where runs have their own."""
    shows_validation: Tensor
    """(K,) bool, whether the agent may see the validation accuracy."""

    ratio: Tensor
    """(K,) share of the last interval's capacity that was trained on."""
    selected: Tensor
    """(K, B) share of the last selection that came from each loss-rank bin."""
    wrong_labels: Tensor
    """(K,) share of the last selection with a wrong label; for analysis, not observed."""
    strength: Tensor
    """(K,) mean augmentation strength of the last selection, where the control decides it; not observed."""
    train_loss: Tensor
    """(K,) mean training loss of the last interval in nats."""
    train_accuracy: Tensor
    """(K,) share of the samples trained on that were predicted as labelled."""
    validation_accuracy: Tensor
    """(K,) accuracy on the trusted validation split, after the last interval."""
    validation_gain: Tensor
    """(K,) its change over the last interval."""
    action: Tensor
    """(K, A) the last action, each component in [-1, 1]."""

    @classmethod
    def blank(
        cls,
        signals: SampleSignals,
        pool: Tensor,
        budget: Budget,
        *,
        bins: int,
        actions: int,
        intervals: int,
        target: float | Tensor,
    ) -> "TrainingState":
        """Before the first interval, with all samples in bin 0 and no candidates.

        Args:
            signals: of K training runs.
            pool: (K, N) bool, the samples that exist.
            budget: of the K runs.
            bins: B, number of loss-rank bins.
            actions: A, number of action components.
            intervals: T.
            target: target ratio; (K,) where runs have their own.
        """
        replicas = len(pool)
        zeros = torch.zeros_like(pool, dtype=torch.int64)

        return cls(
            signals=signals,
            pool=pool,
            bins=zeros,
            stability=zeros,
            candidates=Candidates(zeros[:, :0]),
            budget=budget,
            planned=np.zeros(replicas, np.int64),
            interval=np.zeros(replicas, np.int64),
            intervals=intervals,
            target=target,
            shows_validation=torch.ones(replicas, dtype=torch.bool, device=pool.device),
            **unmeasured(replicas, bins, actions, signals.guess_loss, pool.device),
        )

    def begin(
        self, replica: int, pool: Tensor, budget: Budget, planned: int, *, shows_validation: bool
    ) -> None:
        """Let one replica begin a new training run; `restart` and `rank` follow for all that begin.

        Args:
            replica: which one.
            pool: (N,) bool, the samples that exist for it.
            budget: of this run alone.
            planned: samples of its first interval by the volume schedule.
            shows_validation: whether the agent may see its validation accuracy.
        """
        self.pool[replica] = pool.to(self.pool.device)
        self.budget.put(replica, budget)
        self.planned[replica] = planned
        self.interval[replica] = 0
        self.shows_validation[replica] = shows_validation

    def restart(self, rows: Tensor, validation_accuracy: Tensor) -> None:
        """Forget what was measured in the rows (K,) bool; fresh models have this validation accuracy (K,)."""
        replicas, bins = self.selected.shape
        actions = self.action.shape[1]

        blank = unmeasured(replicas, bins, actions, self.signals.guess_loss, self.pool.device)
        self.measured(rows, **blank | {"validation_accuracy": validation_accuracy})

    def measured(self, rows: Tensor, **values: Tensor) -> None:
        """Take in what the last interval measured.

        Args:
            rows: (K,) bool, the runs that trained in it; the others stay as they are.
            values: (K, ...) by name, of `MEASURED`.
        """
        for name in MEASURED:
            old = getattr(self, name)
            mask = rows.view(-1, *[1] * (old.ndim - 1))
            setattr(self, name, torch.where(mask, values[name], old))

    def advance(self, counts: Counts, running: NDArray[np.bool_]) -> None:
        """Book an interval: the samples (K,) it trained on, in the runs (K,) bool that are not over."""
        self.budget.spend(counts)
        self.interval = self.interval + running

    def rank(self, by: str, stability: int = 0) -> None:
        """Put the samples into bins again.

        Args:
            by: name of the signal that loss-rank bins follow.
            stability: S, number of stability bins; 0 for none.
        """
        self.bins = loss_bins(getattr(self.signals, by), self.pool, self.selected.shape[1])
        if stability:
            self.stability = stability_bins(self.signals, self.pool, stability)

    def state_dict(self) -> dict[str, Any]:
        """All of it but the signals, which are the trainer's."""
        shown = self.candidates.scores
        scores = None if shown is None else {name: getattr(shown, name) for name in SCORES}
        budget = {name: getattr(self.budget, name).copy() for name in BUDGET}
        return {
            **{name: getattr(self, name).clone() for name in (*TENSORS, *MEASURED)},
            "candidates": {"index": self.candidates.index, "scores": scores},
            "budget": budget,
            "planned": self.planned.copy(),
            "interval": self.interval.copy(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`.

        Raises:
            ValueError: a tensor has another shape or type.
        """
        own = (*TENSORS, *MEASURED, "planned", "interval")
        values = {name: fitted(name, state[name], getattr(self, name)) for name in own}
        budget = {name: fitted(name, state["budget"][name], getattr(self.budget, name)) for name in BUDGET}
        index = fitted("candidates", state["candidates"]["index"], self.candidates.index)
        scores = state["candidates"]["scores"]

        for name, value in values.items():
            setattr(self, name, value)
        for name, value in budget.items():
            setattr(self.budget, name, value)
        self.candidates = Candidates(index, None if scores is None else CandidateScores(**scores))

    def intervals_done(self) -> Tensor:
        """(K,) float32 intervals done, brought to the device."""
        return torch.from_numpy(self.interval.astype(np.float32)).to(self.pool.device)

    def budget_left(self) -> Tensor:
        """(K,) float32 share of the budget that is left, [0, 1], brought to the device."""
        left = (self.budget.left / self.budget.total).astype(np.float32)
        return torch.from_numpy(left).to(self.pool.device)


def unmeasured(
    replicas: int, bins: int, actions: int, guess_loss: float, device: torch.device
) -> dict[str, Tensor]:
    """What stands for the measurements before the first interval: zeros, and the loss of a uniform guess.

    Args:
        replicas: K.
        bins: B, number of loss-rank bins.
        actions: A, number of action components.
        guess_loss: loss of an uninformed guess, log C for classes.
        device: where the tensors live.
    """
    zeros = torch.zeros(replicas, device=device)
    return dict.fromkeys(MEASURED, zeros) | {
        "selected": zeros.new_zeros(replicas, bins),
        "train_loss": zeros + guess_loss,
        "action": zeros.new_zeros(replicas, actions),
    }


def loss_bins(score: Tensor, pool: Tensor, bins: int) -> Tensor:
    """Cut each replica's samples into equally full bins by rank, smallest score first.

    Args:
        score: (K, N) what to rank by, for example the last loss.
        pool: (K, N) bool, the samples that exist for the replica.
        bins: B, the number of bins.

    Returns:
        (K, N) int64 in 0..B-1; samples outside the pool get B - 1.
    """
    ranked = torch.where(pool, score, torch.inf)
    return kernels.rank_bins(ranked, pool.sum(1, keepdim=True).clamp(min=1), bins)


def stability_bins(signals: SampleSignals, pool: Tensor, bins: int) -> Tensor:
    """Cut samples into equally full bins by the variance of their influence, steady ones first.

    Samples with fewer than three visits go to the last bin.

    Args:
        signals: of K training runs.
        pool: (K, N) bool, the samples that exist.
        bins: S.

    Returns:
        (K, N) int64 in 0..S-1.
    """
    known = pool & (signals.times_trained >= STEADY_VISITS)
    return loss_bins(signals.influence_variance, known, bins).masked_fill_(~known, bins - 1)
