"""Recipe: how a model is optimised, as a function of the budget spent."""

import math
from dataclasses import dataclass, fields

from dsenv.errors import pick

OPTIMIZERS = ("sgd", "adamw")
SCHEDULES = ("constant", "cosine", "one_cycle")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Optimiser, learning-rate schedule, loss and batch size.

    The learning rate depends on the share of the sample presentations already spent, so a schedule
    ends where it should when samples are left out.

    Use::

        from dsenv import Recipe

        recipe = Recipe(optimizer="adamw", lr=3e-3, schedule="one_cycle", batch_size=64)
        print([recipe.learning_rate(spent / 10) for spent in range(11)])

    Raises:
        ValueError: a setting is out of range.
    """

    optimizer: str = "sgd"
    """"sgd" or "adamw"."""
    lr: float = 0.1
    """Largest learning rate."""
    momentum: float = 0.9
    """SGD's momentum; AdamW's first beta."""
    nesterov: bool = True
    """Nesterov momentum, for SGD."""
    weight_decay: float = 0.0
    """L2 penalty for SGD, decoupled decay for AdamW."""
    schedule: str = "cosine"
    """"constant", "cosine" to zero, or "one_cycle" (Smith, 2018; torch's defaults)."""
    batch_size: int = 128
    """Samples a step."""
    label_smoothing: float = 0.0
    """Share of the target spread over all classes, [0, 1)."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value, number = getattr(self, field.name), isinstance(field.default, float)
            if not isinstance(value, (int, float) if number else type(field.default)):
                wanted = "a number" if number else type(field.default).__name__
                raise ValueError(f"recipe: {field.name} must be {wanted}, got {value!r}")
        pick("optimizer", self.optimizer, OPTIMIZERS)
        pick("learning-rate schedule", self.schedule, SCHEDULES)
        if self.lr <= 0 or self.batch_size < 1:
            raise ValueError(f"recipe needs lr > 0 and batch_size >= 1, got {self.lr} and {self.batch_size}")
        for name in ("momentum", "label_smoothing"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"recipe: {name} must be in [0, 1), got {getattr(self, name)}")
        if self.weight_decay < 0:
            raise ValueError(f"recipe: weight_decay must not be negative, got {self.weight_decay}")

    def learning_rate(self, progress: float) -> float:
        """Learning rate when the share `progress` (0..1) of the budget is spent."""
        progress = min(max(progress, 0.0), 1.0)
        if self.schedule == "constant":
            return self.lr
        if self.schedule == "cosine":
            return _anneal(self.lr, 0.0, progress)
        return one_cycle(self.lr, progress)


def _anneal(start: float, end: float, share: float) -> float:
    """Half a cosine from `start` to `end`."""
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2


def one_cycle(
    peak: float, progress: float, rise: float = 0.3, start: float = 25.0, end: float = 1e4
) -> float:
    """One-cycle schedule: from peak / start up to peak, then down to peak / start / end."""
    if progress < rise:
        return _anneal(peak / start, peak, progress / rise)
    return _anneal(peak, peak / start / end, (progress - rise) / (1 - rise))
