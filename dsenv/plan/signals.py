"""Signals of a training loop that may give no logits."""

from collections.abc import Iterable

import torch
from torch import Tensor

from dsenv.plan.suspects import LabelHistory
from dsenv.signals import SampleSignals, read_outputs_and_rival

FROM_LOGITS = ("confidence", "entropy", "margin", "correct", "forgetting_events")


class PlanSignals(SampleSignals):
    """Signals of a training loop that may give no logits.

    Without logits the signals made of them stay as they were before training, and reading them is an
    error once samples were trained on.
    """

    blind = False
    """The last samples came without logits."""
    label_history: LabelHistory | None = None
    """What the visits said about each label, for `DataPlan.suspects`; None before the first logits."""

    def __getattr__(self, name: str) -> Tensor:
        if name in FROM_LOGITS and self.blind:
            raise ValueError(
                f"the signal {name!r} needs the model's outputs: plan.loss(batch, losses, logits=logits)"
            )
        return super().__getattr__(name)

    def update_losses(self, index: Tensor, loss: Tensor, step: int, **known: Tensor | None) -> None:
        """Take in losses (B,) of samples (B,) whose logits are not known; `known` as for `update`."""
        self.blind = True
        self.update(index, loss, None, torch.zeros_like(index), step, **known)

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
