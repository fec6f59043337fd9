"""Learned parts of a plan: the policies behind them, each run by one runner."""

import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from dsenv.augment.base import AugmentationController
from dsenv.plan.world import World
from dsenv.policy.parts import LearnedAugmentation, LearnedPart, LearnedVolume
from dsenv.policy.runner import PolicyRunner
from dsenv.select.base import Selector
from dsenv.signals import SampleSignals
from dsenv.task_kinds.base import TaskKind


class PlanPolicies:
    """Asks the policies of a plan's learned parts at the start of each epoch.

    Parts of the same policy share one runner, so that the policy sees one training run and its answers
    fit each other. Every runner is told which samples an epoch trains on, whoever chose them.

    Args:
        parts: the plan's selector, volume and controller, learned ones among others.
        settings: `size`, `kind`, `intervals`, `ratio`, `budget`, `seed` and `device` of the runners.

    Raises:
        ValueError: a runner that was built before the plan is of another training run.
    """

    def __init__(
        self, parts: Sequence[Selector | LearnedVolume | AugmentationController | None], **settings: Any
    ) -> None:
        self.learned: list[Any] = [part for part in parts if isinstance(part, LearnedPart)]
        runners: dict[str, PolicyRunner] = {}
        for part in self.learned:
            if part.is_connected:
                raise ValueError(
                    f"{type(part).__name__} has a runner already, and a plan "
                    "brings its own: build the part from the policy, once for each plan"
                )

            digest = part.policy.digest
            if digest not in runners:
                runners[digest] = PolicyRunner(part.policy, **settings)
                warn_of_kind(part.policy.card.task_kind, settings["kind"])
            part.connect(runners[digest])

        self.runners = list(runners.values())
        self._volume = next((part for part in self.learned if isinstance(part, LearnedVolume)), None)

    @property
    def decides_count(self) -> bool:
        """Whether a policy says how many samples an epoch has."""
        return self._volume is not None

    @property
    def total(self) -> int:
        """Samples chosen in the whole training run."""
        return int(self.runners[0].budget.total[0])

    @property
    def least(self) -> int:
        """Fewest samples that an epoch may get where a policy says how many."""
        return int(self._volume.runner.budget.floor[0]) if self._volume else 0

    def count(self, signals: SampleSignals, share: float = 1.0) -> int:
        """Samples of the coming epoch, where a policy says how many.

        Args:
            signals: of the epochs before.
            share: how much of its answer counts, [0, 1]; the rest is an equal number for each epoch left.
        """
        assert self._volume is not None
        wanted, runner = self._volume.count(signals), self._volume.runner
        if share == 1:
            return wanted
        equal = runner.budget.left / (runner.intervals - runner.interval)
        mixed = np.rint(share * wanted + (1 - share) * equal).astype(np.int64)
        return int(runner.budget.grant(mixed, np.array([runner.interval]))[0])

    def begin(self, signals: SampleSignals, count: int, share: float = 1.0) -> None:
        """Ask every policy about the coming epoch.

        Args:
            signals: of the epochs before.
            count: samples that it has.
            share: how much of its strengths of augmentation counts, [0, 1]; 0 is none.
        """
        for runner in self.runners:
            runner.decide(signals, count)
        for part in self.learned:
            if isinstance(part, LearnedAugmentation):
                part.begin_epoch(signals)
                part.strength.mul_(share)

    def chose(self, index: Tensor, spent: int) -> None:
        """Tell those runners which samples (M,) the epoch trains on that do not know yet, and their cost."""
        for runner in self.runners:
            if runner.is_waiting:
                runner.chose(index, spent)

    def leave_out(self, index: Tensor) -> None:
        """Let no policy see these samples (L,)."""
        for runner in self.runners:
            runner.leave_out(index)

    def agree(self, world: World) -> None:
        """Let all ranks see one validation accuracy: the mean of those that some of them reported."""
        if world.is_alone:
            return
        told = world.tell("the reported validation accuracies", self.runners[0].reported)
        known = [accuracy for accuracy in told if accuracy is not None]
        if known:
            self.validated(sum(known) / len(known))

    def validated(self, accuracy: float) -> None:
        """Report a validation accuracy to all policies."""
        for runner in self.runners:
            runner.validated(accuracy)

    def state_dict(self) -> dict[str, Any]:
        """States of all runners, by the digest of their policies."""
        return {runner.policy.digest: runner.state_dict() for runner in self.runners}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`."""
        for runner in self.runners:
            runner.load_state_dict(state[runner.policy.digest])


def make_policies(
    parts: Iterable[Selector | LearnedVolume | AugmentationController | None],
    signals: SampleSignals,
    *,
    is_known: bool,
    epochs: int,
    ratio: float | None,
    budget: float,
    seed: int,
) -> PlanPolicies:
    """The policies behind the learned parts of a plan.

    Args:
        parts: selector, volume and controller.
        signals: of the plan.
        is_known: whether the number of classes is known, or the task is no classification.
        epochs: length of the plan.
        ratio: target ratio as the user set it; None where the selector sets its own count.
        budget: what is left of it after passes without training.
        seed: of the plan.

    Raises:
        ValueError: the classes or the budget are not known.
    """
    if not is_known:
        raise ValueError(
            "a learned part needs the number of classes; give DataPlan(classes=...), or labels that tell: "
            "int64 of shape (N,), for example labels.long().flatten()"
        )
    if ratio is None:
        raise ValueError(
            "a learned part needs a known budget, and the selector sets the number of samples of each "
            "epoch as it goes; give DataPlan(ratio=...)"
        )
    settings = {"kind": signals.kind, "intervals": epochs, "ratio": ratio, "budget": budget, "seed": seed}
    return PlanPolicies(tuple(parts), size=signals.size, device=signals.device, **settings)


def warn_of_kind(trained: str, kind: TaskKind) -> None:
    """Warn where a policy decides for another kind of task than the one it was trained on."""
    if trained != kind.name:
        warnings.warn(
            f"the policy was trained on {trained}, and this plan is of {kind.name}: it may do harm "
            "there (docs/kinds.md has what was measured). Compare it with selector='random' at the same "
            "ratio, or train a policy in an environment of this kind",
            stacklevel=2,
        )
