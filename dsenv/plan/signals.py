"""Signals of a training loop that may give no logits."""

from collections.abc import Iterable
from typing import Any

from torch import Tensor

from dsenv.outputs import ModelOutputs
from dsenv.plan.suspects import LabelHistory
from dsenv.signals import FROM_OUTPUTS, SampleSignals
from dsenv.task_kinds.classification import read_outputs_and_rival


class PlanSignals(SampleSignals):
    """Signals of a training loop that may give no logits.

    Without logits the signals made of them stay as they were before training, and reading them is an
    error once samples were trained on.
    """

    blind = False
    """The last samples came without logits."""
    lacking: tuple[str, ...] = ()
    """Readings that the kind of task gives, and the last samples came without."""
    label_history: LabelHistory | None = None
    """What the visits said about each label, for `DataPlan.suspects`; None before the first logits."""

    def __getattr__(self, name: str) -> Tensor:
        reading = FROM_OUTPUTS.get(name)
        if reading in self.lacking and not self.blind:
            raise ValueError(
                f"the signal {name!r} needs the {reading} of each sample, and the last ones came without: "
                f"plan.loss(batch, losses, signals={{{reading!r}: ..., ...}})"
            )
        if self.blind and reading in self.kind.gives:
            given = "outputs=outputs" if self.kind.classes is None else "logits=logits"
            raise ValueError(
                f"the signal {name!r} needs the model's outputs: plan.loss(batch, losses, {given})"
            )
        return super().__getattr__(name)

    def knows(self, reading: str) -> bool:
        """Whether the last samples came with one of `dsenv.task_kinds.READINGS`."""
        return not self.blind and reading in self.kind.gives and reading not in self.lacking

    def take_in(self, seen: ModelOutputs, step: int, **known: Any) -> None:
        """Take in the outputs of B samples, of whose outputs little may be known; `known` as for `update`."""
        self.blind = seen.logits is None and seen.readings is None
        said = self.kind.gives if seen.readings is None else seen.readings
        self.lacking = tuple(name for name in self.kind.gives if name not in said)
        labels = seen.labels if seen.logits is None else seen.labels.clamp(0, self.classes - 1)
        self.update(seen.index, seen.loss, seen.logits, labels, step, readings=seen.readings, **known)

    def _read(self, index: Tensor, logits: Tensor, labels: Tensor, known: Tensor | None) -> dict[str, Tensor]:
        """What the outputs say, as signals; the history of the labels takes it in."""
        if self.label_history is None:
            self.label_history = LabelHistory(self.size, self.device)
        said, rival, probability = read_outputs_and_rival(logits, labels)
        self.label_history.add(index, logits, labels, rival, probability, known)
        return said

    def reset(self, replicas: Iterable[int] | None = None) -> None:
        """Forget everything."""
        super().reset(replicas)
        self.label_history = None

    def state_dict(self) -> dict[str, Tensor]:
        """A copy of every signal, and of what is known about the labels."""
        history = self.label_history or LabelHistory(self.size, self.device)
        return {**super().state_dict(), **history.state_dict()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Continue from `state_dict()`."""
        history = LabelHistory(self.size, self.device)
        history.load_state_dict(state)
        super().load_state_dict(state)
        self.label_history = history if bool(history.visits.any()) else None
