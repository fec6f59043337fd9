"""PolicyRunner: runs a policy on one training outside the environment."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dsenv.control.base import Actions, Decision, Situation
from dsenv.control.candidates import Candidates, describe
from dsenv.control.observation import Last, View, observe_training, stability_bins
from dsenv.errors import check_share
from dsenv.policy.policy import Policy
from dsenv.select.bins import loss_bins
from dsenv.signals import SampleSignals
from dsenv.volume.budget import Budget


class PolicyRunner:
    """Decides, interval by interval, what a training is to see, as the policy did in its environment.

    An interval is an epoch of a plan. Use, for a loop of one's own without `DataPlan`::

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
        classes: C.
        intervals: T, epochs of the training.
        ratio: target ratio, (0, 1]; None for that the policy was trained with.
        budget: share of the presentations that are spent on training where that is less than `ratio`, since
            passes without training are paid for too.
        seed: decides the groups of candidates.
        device: where the signals live.

    Raises:
        ValueError: the policy looks at candidates by a forward pass, the budget is too small, or there are
            fewer than 2 classes.
    """

    def __init__(
        self,
        policy: Policy,
        *,
        size: int,
        classes: int,
        intervals: int,
        ratio: float | None = None,
        budget: float | None = None,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        self.policy, self.size, self.classes, self.intervals, self.seed = (
            policy,
            size,
            classes,
            intervals,
            seed,
        )
        if classes < 2:
            raise ValueError(f"a policy needs at least 2 classes, got {classes}")
        self.ratio = policy.card.ratio if ratio is None else check_share("ratio", ratio)
        self.device = torch.device(device)
        self.control = control = policy.card.make_control(self.ratio)
        if control.rescores:
            raise ValueError(
                "the policy looks at its candidates by a forward pass before each decision, which only an "
                "environment can do; train one with control.rescore = false"
            )
        paid = self.ratio if budget is None else min(budget, self.ratio)
        minimum = paid if control.minimum is None else min(control.minimum, paid)
        self.budget = Budget(np.array([size]), intervals, paid, minimum)
        self.pool = torch.ones(1, size, dtype=torch.bool, device=self.device)
        self.last = Last.blank(1, policy.card.bins, control.size, classes, self.device)
        self.interval = 0
        """Intervals whose samples were chosen."""
        self._accuracy: float | None = None  # on the validation split at the last decision
        self._reported: float | None = None  # since then
        self._pending: tuple[Decision, Actions] | None = None
        self._bins = torch.zeros_like(self.pool, dtype=torch.int64)
        self._stability = torch.zeros_like(self._bins)

    @property
    def is_waiting(self) -> bool:
        """A decision was made, and its samples are not chosen yet."""
        return self._pending is not None

    def validated(self, accuracy: float) -> None:
        """Report the accuracy on a trusted validation split, for the next decision.

        Raises:
            ValueError: it is not in [0, 1].
        """
        self._reported = check_share("validation accuracy", float(accuracy), zero=True)

    def decide(self, signals: SampleSignals, planned: int | None = None) -> Decision:
        """What the next interval is to train on; asked again before `chose`, the same.

        Args:
            signals: (N,) of the intervals before.
            planned: presentations of the interval, where the policy does not decide them.

        Raises:
            ValueError: the training is over, the signals are of another one, or the policy needs a
                validation accuracy and was given none.
        """
        if self._pending is None:
            if self.interval >= self.intervals:
                raise ValueError(f"the policy was set up for {self.intervals} intervals, and they are over")
            view = self.view(signals)
            if self.control.candidates:
                shown, actions = self._act_on_groups(view, signals)
            else:
                shown, actions = view.candidates.index, self.policy.act(view)
            situation = Situation(
                bins=self._bins,
                stability=self._stability,
                pool=self.pool,
                candidates=shown,
                budget=self.budget,
                planned=np.array([planned or 0]),
                interval=np.array([self.interval]),
            )
            self._pending = self.control.decide(actions, situation), actions
        return self._pending[0]

    def chose(self, index: Tensor) -> None:
        """Take down which samples (M,) the interval trains on."""
        if self._pending is None:
            raise ValueError("nothing was decided yet: call decide(signals) before chose(index)")
        number, bins = len(index), self.last.selected.shape[1]
        counted = torch.bincount(self._bins[0, index], minlength=bins)
        self.last.selected = (counted / max(number, 1))[None].float()
        self.last.ratio = torch.full_like(self.last.ratio, number / self.size)
        if self.control.shows_action:
            self.last.action = torch.from_numpy(self._pending[1]).to(self.device)
        self.budget.spend(np.array([number]))
        self._accuracy, self._reported = self._validation(), None
        self.interval += 1
        self._pending = None

    def view(self, signals: SampleSignals) -> View:
        """What the next observation is computed from, K = 1; ranks samples and takes in the last interval.

        Args:
            signals: (N,) of the intervals before.

        Raises:
            ValueError: as `decide`.
        """
        if signals.size != self.size:
            raise ValueError(
                f"the policy was set up for {self.size} samples, the signals hold {signals.size}"
            )
        stacked = signals.as_replica()
        self._take_in(signals)
        card = self.policy.card
        self._bins = loss_bins(getattr(stacked, card.rank_by), self.pool, card.bins)
        if self.control.stability_bins:
            self._stability = stability_bins(stacked, self.pool, self.control.stability_bins)
        left = (self.budget.left / self.budget.total).astype(np.float32)
        return View(
            signals=stacked,
            pool=self.pool,
            bins=self._bins,
            stability=self._stability,
            candidates=Candidates(self._bins[:, :0]),
            interval=torch.full((1,), float(self.interval), device=self.device),
            intervals=self.intervals,
            budget_left=torch.from_numpy(left).to(self.device),
            ratio=self.ratio,
            shows_validation=torch.tensor([self._validation() is not None], device=self.device),
            last=self.last,
        )

    def _take_in(self, signals: SampleSignals) -> None:
        """Loss and accuracy of the last interval, from the samples trained on in it; what validation said."""
        accuracy = self._validation()
        known = accuracy is not None and self._accuracy is not None
        blank = torch.zeros_like(self.last.ratio)
        self.last.validation_accuracy = blank + (accuracy or 0.0)
        self.last.validation_gain = blank + ((accuracy or 0.0) - (self._accuracy or 0.0) if known else 0.0)
        correct, trained = signals.correct, signals.last_step == self.interval - 1  # without logits: an error
        if self.interval == 0:
            return
        number = trained.sum().clamp(min=1)
        self.last.train_loss = ((signals.loss * trained).sum() / number)[None]
        self.last.train_accuracy = ((correct * trained).sum() / number)[None]

    def _validation(self) -> float | None:
        """The accuracy to show at this decision; None for none.

        Raises:
            ValueError: the policy needs one, and none was reported.
        """
        if self._reported is not None or not self.policy.card.needs_validation:
            return None if self.policy.card.is_blind else self._reported
        if self.interval == 0:
            return 1 / self.classes  # of a guess, which an untrained model comes near
        raise ValueError(
            "this policy was trained with the accuracy on a validation split in sight, and none was reported "
            f"after epoch {self.interval - 1}: call plan.report_validation(accuracy) (or runner.validated) "
            "at the end of each epoch, or use a policy trained with validation_shown below 1"
        )

    def _act_on_groups(self, view: View, signals: SampleSignals) -> tuple[Tensor, Actions]:
        """Candidates (1, P) in groups as large as the policy knows them, and an action (1, P) for each.

        Scores become ranks within their group, since they were learned to be compared there alone.
        """
        index = self._groups()  # (G, M)
        where = index.clamp(max=self.size - 1)
        groups, number = index.shape
        own = torch.arange(number, device=self.device).expand(groups, -1)
        shown = describe(
            Candidates(own.masked_fill(index >= self.size, number)),
            signals.grouped(index),
            self._bins[0, where],
            self.policy.card.bins - 1,
            view.interval.expand(groups),
            self.intervals,
        )
        state = observe_training(view, self.control).expand(groups, -1)
        actions = self.policy.actions(torch.cat([state, shown.flatten(1)], 1))
        if groups > 1 and self.policy.card.actions == "box":
            actions = ranks(actions, (index < self.size).cpu().numpy())
        return index.view(1, -1), actions.reshape(1, -1)

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
            "last": {item.name: getattr(self.last, item.name).clone() for item in fields(self.last)},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`."""
        self.interval = state["interval"]
        self.budget.spent = np.array([state["spent"]])
        self._accuracy, self._reported = state["accuracy"], state["reported"]
        self.last = Last(**{name: value.clone().to(self.device) for name, value in state["last"].items()})
        self._pending = None


def ranks(scores: Actions, exists: NDArray[np.bool_]) -> Actions:
    """Ranks (G, M) of scores within their row, from 1 for the best to -1; equal scores go by position."""
    order = np.argsort(np.where(exists, -scores, np.inf), axis=1, kind="stable")
    place = np.empty_like(order)
    np.put_along_axis(place, order, np.arange(scores.shape[1])[None], 1)
    found: Actions = (1 - 2 * (place + 0.5) / exists.sum(1, keepdims=True)).astype(np.float32)
    return found
