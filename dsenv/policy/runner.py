"""PolicyRunner: runs a policy on one training run outside the environment."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dsenv.control.base import Actions, Decision
from dsenv.control.observation import describe, observe, observe_training, training_names
from dsenv.control.state import MEASURED, Candidates, TrainingState
from dsenv.control.trimming import trimmed
from dsenv.errors import check_share
from dsenv.policy.policy import Policy
from dsenv.signals import SampleSignals
from dsenv.states import TensorOf, check_state
from dsenv.task_kinds.base import TaskKind
from dsenv.volume.budget import Budget


class PolicyRunner:
    """Decides, interval by interval, what a training run is to see, as the policy did in its environment.

    An interval is an epoch of a plan. Use, for your own loop without `DataPlan`::

        runner = PolicyRunner(policy, size=len(data), classes=10, intervals=epochs, ratio=0.5)
        for epoch in range(epochs):
            decision = runner.decide(signals)     # signals of the epochs before
            ...                                   # choose samples by it
            runner.chose(index)
            ...                                   # train, and update the signals with step=epoch

    A policy over candidates sees all samples, in random groups as large as its environment showed it; in each
    group the same share is taken.

    Args:
        policy: decides.
        size: N, samples of the training set.
        classes: C; None where `kind` says it.
        kind: of the task; None for classification.
        intervals: T, epochs of the training run.
        ratio: target ratio, (0, 1]; None for that the policy was trained with.
        budget: share of the samples of all epochs that are trained on, where that is less than `ratio` since
            passes without training are paid for too.
        seed: decides the groups of candidates.
        device: where the signals live.

    Raises:
        ValueError: the policy scores its candidates by a forward pass, the budget is too small, or there are
            fewer than 2 classes.
    """

    def __init__(
        self,
        policy: Policy,
        *,
        size: int,
        classes: int | None = None,
        kind: TaskKind | None = None,
        intervals: int,
        ratio: float | None = None,
        budget: float | None = None,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        self.policy, self.size = policy, size
        if kind is None and (classes is None or classes < 2):
            raise ValueError(f"a policy needs at least 2 classes, got {classes}")
        stand_in = SampleSignals(1, classes, 1, device, kind=kind)  # until `read` gets those of the run
        self.kind, self.seed = stand_in.kind, seed
        ratio = policy.card.ratio if ratio is None else check_share("ratio", ratio)
        self.device = torch.device(device)
        self.control = control = policy.card.make_control(ratio)
        if control.rescores:
            raise ValueError(
                "the policy looks at its candidates by a forward pass before each decision, which only an "
                "environment can do; train one with control.rescore = false"
            )

        paid = ratio if budget is None else min(budget, ratio)
        minimum = paid if control.minimum is None else min(control.minimum, paid)
        self.state = TrainingState.blank(
            stand_in,
            torch.ones(1, size, dtype=torch.bool, device=self.device),
            Budget(np.array([size]), intervals, paid, minimum),
            bins=policy.card.bins,
            actions=control.size,
            intervals=intervals,
            target=ratio,
        )
        self._accuracy: float | None = None  # on the validation split at the last decision
        self._reported: float | None = None  # since then
        self.acted_on: Tensor | None = None
        """(G,) what the policy saw of the training run at its last decision, in [-1, 1]; None if not known.

        Without the rows of single candidates, and as the policy saw it: what was not known stands at 0.
        """
        self._pending: tuple[Decision, Actions] | None = None

    @property
    def intervals(self) -> int:
        """T, epochs of the training run."""
        return self.state.intervals

    @property
    def ratio(self) -> float:
        """Target ratio."""
        return float(self.state.target)

    @property
    def budget(self) -> Budget:
        """Samples that may still be trained on."""
        return self.state.budget

    @property
    def interval(self) -> int:
        """Intervals whose samples were chosen."""
        return int(self.state.interval[0])

    @property
    def is_waiting(self) -> bool:
        """A decision was made, and its samples are not chosen yet."""
        return self._pending is not None

    @property
    def entries(self) -> list[str]:
        """What each entry of `acted_on` is, in order."""
        return training_names(self.policy.card.bins, self.control)

    def validated(self, accuracy: float) -> None:
        """Report the accuracy on a trusted validation split, for the next decision.

        Raises:
            ValueError: it is not in [0, 1].
        """
        self._reported = check_share("validation accuracy", float(accuracy), zero=True)

    def decide(self, signals: SampleSignals, planned: int | None = None) -> Decision:
        """What the next interval is to train on; the same answer until `chose` is called.

        Args:
            signals: (N,) of the intervals before.
            planned: samples of the interval, where the policy does not decide them.

        Raises:
            ValueError: the run is over, the signals are of another one, or the policy needs a
                validation accuracy and was given none.
        """
        if self._pending is None:
            if self.interval >= self.intervals:
                raise ValueError(f"the policy was set up for {self.intervals} intervals, and they are over")
            state = self.read(signals)
            state.planned = np.array([planned or 0])
            actions = self._act_on_groups(signals) if self.control.candidates else self._act(state)
            self._pending = self.control.decide(actions, state), actions
        return self._pending[0]

    @property
    def reported(self) -> float | None:
        """Validation accuracy that was reported since the last interval began; None for none."""
        return self._reported

    def leave_out(self, index: Tensor) -> None:
        """Let the run be without these samples (L,): they are in no bin, and are not drawn."""
        self.state.pool = torch.ones_like(self.state.pool).index_fill_(1, index, False)

    def in_pool(self, log_weight: Tensor) -> Tensor:
        """The log weights (1, N), with -inf for the samples that were left out."""
        return log_weight.masked_fill(~self.state.pool, -torch.inf)

    def chose(self, index: Tensor, spent: int | None = None) -> None:
        """Take down which samples (M,) the interval trains on; `spent` of the budget, None for M."""
        if self._pending is None:
            raise ValueError("nothing was decided yet: call decide(signals) before chose(index)")
        state, number = self.state, len(index)
        spent = number if spent is None else spent

        counted = torch.bincount(state.bins[0, index], minlength=state.selected.shape[1])
        state.selected = (counted / max(number, 1))[None].float()
        state.ratio = torch.full_like(state.ratio, number / self.size)
        if self.control.shows_action:
            state.action = torch.from_numpy(self._pending[1]).to(self.device)

        self._accuracy, self._reported = self._validation(), None
        state.advance(np.array([spent]), np.array([True]))
        self._pending = None

    def read(self, signals: SampleSignals) -> TrainingState:
        """Bring the state up to date: what the last interval did, and the bins of the samples.

        Args:
            signals: (N,) of the intervals before.

        Raises:
            ValueError: as `decide`.
        """
        if signals.size != self.size:
            raise ValueError(
                f"the policy was set up for {self.size} samples, the signals hold {signals.size}"
            )
        state, accuracy = self.state, self._validation()
        state.signals = signals.as_replica()
        state.shows_validation = torch.tensor([accuracy is not None], device=self.device)

        blank = torch.zeros_like(state.ratio)
        known = accuracy is not None and self._accuracy is not None
        state.validation_accuracy = blank + (accuracy or 0.0)
        state.validation_gain = blank + ((accuracy or 0.0) - (self._accuracy or 0.0) if known else 0.0)
        self._measure(signals)

        state.rank(self.policy.card.rank_by, self.control.stability_bins)
        return state

    def _measure(self, signals: SampleSignals) -> None:
        """Loss and accuracy of the last interval, from the samples trained on in it."""
        # Without the model's outputs reading `correct` is an error
        correct, trained = signals.shown("correct"), signals.last_step == self.interval - 1
        if self.interval == 0:
            return
        number = trained.sum().clamp(min=1)
        self.state.train_loss = ((signals.loss * trained).sum() / number)[None]
        self.state.train_accuracy = ((correct * trained).sum() / number)[None]

    def _validation(self) -> float | None:
        """The accuracy to show at this decision; None for none.

        Raises:
            ValueError: the policy needs one, and none was reported.
        """
        if self._reported is not None or not self.policy.card.needs_validation:
            return None if self.policy.card.is_blind else self._reported
        if self.interval == 0:
            return self.kind.guess_metric  # which an untrained model comes near

        raise ValueError(
            "this policy was trained with the accuracy on a validation split in sight, and none was reported "
            f"after epoch {self.interval - 1}: call plan.report_validation(accuracy) (or runner.validated) "
            "at the end of each epoch, or use a policy trained with validation_shown below 1"
        )

    def _act(self, state: TrainingState) -> Actions:
        """An action (1, A) for the training run as a whole."""
        entries = observe(state, self.control)
        self.acted_on = entries[0]
        return self.policy.actions(entries)

    def _act_on_groups(self, signals: SampleSignals) -> Actions:
        """An action (1, P) for candidates (1, P) in groups as large as the policy knows them.

        Scores become ranks within their group, since the policy learned to compare them only there; scores
        that are weights of a draw stay as they are.
        """
        index = self._groups()  # (G, M)
        where = index.clamp(max=self.size - 1)
        groups, number = index.shape
        own = torch.arange(number, device=self.device).expand(groups, -1)
        state = self.state
        shown = describe(
            Candidates(own.masked_fill(index >= self.size, number)),
            signals.grouped(index),
            state.bins[0, where],
            (trimmed(state) >= 0)[0, where],
            self.policy.card.bins - 1,
            state.intervals_done().expand(groups),
            self.intervals,
        )

        entries = observe_training(state, self.control)
        self.acted_on = entries[0]
        rows = torch.cat([entries.expand(groups, -1), shown.flatten(1)], 1)
        actions = self.policy.actions(rows)
        if groups > 1 and self.policy.card.actions == "box" and not self.control.draws:
            actions = ranks(actions, (index < self.size).cpu().numpy())

        state.candidates = Candidates(index.view(1, -1))
        return actions.reshape(1, -1)

    def _groups(self) -> Tensor:
        """All samples in random order, (G, M) with padding N at the end."""
        most = self.control.candidates
        generator = torch.Generator().manual_seed(
            int(np.random.SeedSequence((self.seed, self.interval)).generate_state(1, np.uint64)[0])
        )

        order = torch.randperm(self.size, generator=generator).to(self.device)
        groups = -(-self.size // most)
        padding = order.new_full((groups * most - self.size,), self.size)
        return torch.cat([order, padding]).view(groups, most)

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on from the present interval: tensors and numbers."""
        return {
            "interval": self.interval,
            "spent": int(self.budget.spent[0]),
            "accuracy": self._accuracy,
            "reported": self._reported,
            "acted_on": None if self.acted_on is None else self.acted_on.clone(),
            "last": {name: getattr(self.state, name).clone() for name in MEASURED},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`."""
        self.state.interval = np.array([state["interval"]])
        self.state.budget.spent = np.array([state["spent"]])
        self._accuracy, self._reported = state["accuracy"], state["reported"]
        for name in MEASURED:
            setattr(self.state, name, state["last"][name].clone().to(self.device))
        self._pending = None

        acted_on = state.get("acted_on")  # not in states before version 3 of a plan's
        if acted_on is not None:
            like = {"acted_on": TensorOf(torch.float32, (len(self.entries),))}
            check_state("a PolicyRunner", {"acted_on": acted_on}, like)
            acted_on = acted_on.to(self.device).clone()
        self.acted_on = acted_on


def ranks(scores: Actions, exists: NDArray[np.bool_]) -> Actions:
    """Ranks (G, M) of scores within their row, from 1 for the best to -1; equal scores go by position."""
    order = np.argsort(np.where(exists, -scores, np.inf), axis=1, kind="stable")
    place = np.empty_like(order)
    np.put_along_axis(place, order, np.arange(scores.shape[1])[None], 1)
    found: Actions = (1 - 2 * (place + 0.5) / exists.sum(1, keepdims=True)).astype(np.float32)
    return found
