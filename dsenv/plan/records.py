"""What a plan writes down: signals of each sample, and what its own work cost."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from dsenv.signals import SampleSignals
from dsenv.volume.budget import FORWARD_COST

FROM_LOGITS = ("confidence", "entropy", "margin", "correct", "forgetting_events")
FLUSH_ELEMENTS = 1 << 24  # logits, samples x classes, kept before the signals take them in
PARTS = ("select", "augment", "observe", "score")


@dataclass
class Cost:
    """What a training spent so far, and what the plan's own work took of it."""

    trained: int = 0
    """Samples trained on (forward and backward)."""
    extra_forwards: int = 0
    """Samples of further forward passes, over the training set, a validation split or other views."""
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(PARTS, 0.0))
    """Time on the host in "select", "augment", "observe" and "score"."""

    @property
    def presentations(self) -> float:
        """All of it in training presentations; a forward pass counts as a third."""
        return self.trained + FORWARD_COST * self.extra_forwards

    @contextmanager
    def timed(self, part: str) -> Iterator[None]:
        """Add the time of a block to `seconds`."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[part] += time.perf_counter() - start

    def state_dict(self) -> dict[str, Any]:
        """A copy of all of it."""
        return {"trained": self.trained, "extra_forwards": self.extra_forwards, "seconds": dict(self.seconds)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict()`."""
        self.trained, self.extra_forwards, self.seconds = (
            state["trained"],
            state["extra_forwards"],
            dict(state["seconds"]),
        )


class PlanSignals(SampleSignals):
    """Signals of a loop that may keep its logits to itself.

    Without logits the signals made of them stay as they were before training, and reading them is an
    error once samples were trained on.
    """

    blind = False
    """The last samples came without logits."""

    def __getattr__(self, name: str) -> Tensor:
        if name in FROM_LOGITS and self.blind:
            raise ValueError(
                f"the signal {name!r} needs the model's outputs: plan.loss(batch, losses, logits=logits)"
            )
        return super().__getattr__(name)

    def update_losses(self, index: Tensor, loss: Tensor, step: int) -> None:
        """Take in losses (B,) of samples (B,) whose logits are not known."""
        self.blind = True
        nothing = torch.zeros(len(index), self.classes, device=loss.device)  # says nothing about any class
        self.update(index, loss, nothing, torch.zeros_like(index), step)


class EpochBuffer:
    """One epoch's training forwards, until the signals take them in together.

    A sample comes once an epoch and is chosen between epochs, so nobody needs them earlier; ranks are
    then those of the whole epoch, and a step costs next to nothing.
    """

    def __init__(self) -> None:
        self._parts: list[tuple[Tensor, ...]] = []
        self._elements = 0

    def add(self, signals: PlanSignals, step: int, index: Tensor, loss: Tensor, *more: Tensor) -> None:
        """Keep a batch without its graph: positions and losses (B,), and logits (B, C) with labels or not."""
        if self._parts and len(self._parts[0]) != 2 + len(more):
            raise ValueError("some batches of this epoch came with logits and some without; give them always")
        # Cloned, since a compiled model may write its next outputs into the same memory.
        self._parts.append((index, loss.clone(), *(value.clone() for value in more)))
        self._elements += len(loss) * signals.classes  # without logits too, which the signals make up
        if self._elements > FLUSH_ELEMENTS:
            self.flush(signals, step)

    def flush(self, signals: PlanSignals, step: int) -> None:
        """Let the signals take in what is kept."""
        if not self._parts:
            return
        index, loss, *more = (torch.cat(parts) for parts in zip(*self._parts, strict=True))
        if more:
            signals.blind = False
            signals.update(index, loss, more[0], more[1], step)
        else:
            signals.update_losses(index, loss, step)
        self._parts, self._elements = [], 0

    def state_dict(self) -> dict[str, Any]:
        """What is kept."""
        return {"parts": [list(part) for part in self._parts], "elements": self._elements}

    def load_state_dict(self, state: dict[str, Any], device: torch.device) -> None:
        """Continue from `state_dict()`."""
        self._parts = [tuple(value.to(device) for value in part) for part in state["parts"]]
        self._elements = state["elements"]
