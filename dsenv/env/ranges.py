"""What a context value is drawn from: a number, a range or a list of choices, less what is held out."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from dsenv.errors import check_number, shown

Setting = float | Sequence[float] | Mapping[str, Any]


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, drawn uniformly; a single one where they are the same."""

    low: float
    high: float
    by_ratio: bool = False
    """Whether the logarithm is uniform."""
    gap: tuple[float, float] | None = None
    """Held-out numbers, bounds included, which are never drawn."""

    def draw(self, rng: np.random.Generator) -> float:
        """One number."""
        while True:
            value = self._between(rng.uniform(*self._scaled))
            if self.gap is None or not self.gap[0] <= value <= self.gap[1]:
                return value

    @property
    def _scaled(self) -> tuple[float, float]:
        return (math.log(self.low), math.log(self.high)) if self.by_ratio else (self.low, self.high)

    def _between(self, scaled: float) -> float:
        value = math.exp(scaled) if self.by_ratio else scaled
        return float(min(max(value, self.low), self.high))

    def points(self, number: int) -> list[float]:
        """Evenly spaced numbers, the bounds among them."""
        if self.low == self.high:
            return [self.low]
        return [self._between(float(scaled)) for scaled in np.linspace(*self._scaled, number)]

    def less(self, held_out: "Range | Choices") -> "Range | None":
        """What is left to draw; None for nothing.

        Raises:
            ValueError: single numbers are held out of a range.
        """
        if isinstance(held_out, Choices):
            if self.low != self.high:
                raise ValueError(f"the range [{self.low:g}, {self.high:g}] can only hold out a range")
            return None if self.low in held_out.values else self
        if held_out.low <= self.low and self.high <= held_out.high:
            return None
        return replace(self, gap=(held_out.low, held_out.high))


@dataclass(frozen=True)
class Choices:
    """Values of which each is as likely as any other."""

    values: tuple[Any, ...]

    def draw(self, rng: np.random.Generator) -> Any:
        """One of the values."""
        return self.values[int(rng.integers(len(self.values)))]

    def points(self, number: int) -> list[Any]:
        """All values, whatever their number."""
        del number
        return list(self.values)

    def less(self, held_out: "Range | Choices") -> "Choices | None":
        """What is left to draw; None for nothing."""
        if isinstance(held_out, Choices):
            left = tuple(value for value in self.values if value not in held_out.values)
        else:
            left = tuple(value for value in self.values if not held_out.low <= value <= held_out.high)
        return Choices(left) if left else None


def parse(name: str, setting: Setting, *, by_ratio: bool = False) -> Range | Choices:
    """Read a setting: 0.4, [0.0, 0.6] or {choices = [0.0, 0.2, 0.4]}.

    Args:
        name: of the value, in errors.
        setting: as it stands in the TOML.
        by_ratio: whether ranges are drawn by their logarithm.

    Raises:
        ValueError: it has another form, or the range is empty.
    """
    if isinstance(setting, Mapping):
        choices = setting.get("choices")
        if set(setting) != {"choices"} or not isinstance(choices, Sequence) or not choices:
            raise ValueError(
                f"context {name}: a table must be {{choices = [value, ...]}}, got {dict(setting)}"
            )
        return Choices(tuple(_number(name, value) for value in choices))
    low, high = (_number(name, bound) for bound in _bounds(setting))
    if low > high:
        raise ValueError(f"context {name}: the range [{low}, {high}] is empty; write [low, high]")
    return Range(low, high, by_ratio)


def is_pair(setting: Any) -> bool:
    """Whether a setting is a list of two values."""
    return isinstance(setting, Sequence) and not isinstance(setting, str) and len(setting) == 2


def _bounds(setting: Any) -> tuple[Any, Any]:
    return tuple(setting) if is_pair(setting) else (setting, setting)


def _number(name: str, value: Any) -> float:
    try:
        return float(check_number(name, value))
    except ValueError:
        raise ValueError(
            f"context {name}: {shown(value)} is no number; give a number, a range [low, high] or "
            "{choices = [value, ...]}"
        ) from None
