"""What a plan has cost so far."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from dsenv.plan.world import World
from dsenv.volume.budget import FORWARD_COST

PARTS = ("select", "augment", "observe", "score")


@dataclass(repr=False)
class Cost:
    """What a training run has cost so far, and the time that the plan's own work took."""

    trained: int = 0
    """Samples trained on (forward and backward)."""
    extra_forwards: int = 0
    """Samples of further forward passes, over the training set, a validation split or other views."""
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(PARTS, 0.0))
    """Time on the host in "select", "augment", "observe" and "score"."""
    _tokens: int | Tensor = 0  # () int64 on the device of the batches, so that no step waits

    _met: tuple[int, int, int] = (0, 0, 0)  # samples, forwards and tokens when the ranks last met

    @property
    def tokens(self) -> int:
        """Tokens of the samples trained on, 0 where nobody said them; to read it is a wait for a device.

        Of the plan's `lengths` where they are known, else as given to `DataPlan.loss`.
        """
        return int(self._tokens)

    def count(self, samples: int, tokens: Tensor | None) -> None:
        """Count samples trained on, and their tokens (B,) where they are known."""
        self.trained += samples
        if tokens is not None:
            self._tokens = self._tokens + tokens.detach().sum()

    def settle(self, world: World) -> None:
        """Count what all ranks did since they last met here, not this one alone; every rank must call it."""
        if world.is_alone:
            return
        now = (self.trained, self.extra_forwards, self.tokens)
        own = [value - before for value, before in zip(now, self._met, strict=True)]
        of_ranks = zip(*world.tell("what the training has cost", own), strict=True)
        sums = [before + sum(each) for before, each in zip(self._met, of_ranks, strict=True)]
        self.trained, self.extra_forwards, self._tokens = sums
        self._met = self.trained, self.extra_forwards, self.tokens

    @property
    def compute(self) -> float:
        """All of it, in samples trained on; a forward pass alone counts as a third."""
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
        return {
            "trained": self.trained,
            "extra_forwards": self.extra_forwards,
            "tokens": self.tokens,
            "seconds": dict(self.seconds),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict()`."""
        self.trained = state["trained"]
        self.extra_forwards = state["extra_forwards"]
        self._tokens = state.get("tokens", 0)  # older states have none
        self.seconds = dict(state["seconds"])
        self._met = self.trained, self.extra_forwards, self.tokens

    def __repr__(self) -> str:
        tokens = f"tokens={self.tokens}, " if self.tokens else ""
        own = f"trained={self.trained}, extra_forwards={self.extra_forwards}, {tokens}seconds={self.seconds}"
        return f"Cost({own})"
