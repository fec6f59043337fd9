"""What a plan has cost so far."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from dsenv.volume.budget import FORWARD_COST

PARTS = ("select", "augment", "observe", "score")


@dataclass
class Cost:
    """What a training run has cost so far, and the time that the plan's own work took."""

    trained: int = 0
    """Samples trained on (forward and backward)."""
    extra_forwards: int = 0
    """Samples of further forward passes, over the training set, a validation split or other views."""
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(PARTS, 0.0))
    """Time on the host in "select", "augment", "observe" and "score"."""

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
        return {"trained": self.trained, "extra_forwards": self.extra_forwards, "seconds": dict(self.seconds)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict()`."""
        self.trained = state["trained"]
        self.extra_forwards = state["extra_forwards"]
        self.seconds = dict(state["seconds"])
