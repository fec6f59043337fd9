"""Series that say nothing are left out: those that never change."""

import math
from collections.abc import Mapping
from typing import Any

from dsenv.tracking import names

CLOSE = 1e-6  # relative; sums of equal values differ in their last bits
NORMAL = {names.DIVERGED: 0.0, names.NOT_FINITE: 0.0, names.GUARD_WARNED: 0.0}
"""Series whose constant says something unless it is this one: all runs may diverge, from the first on."""


class Changing:
    """Withholds a series until it has had two different values.

    Use::

        from dsenv.tracking import Changing

        changing = Changing()
        print(changing.points("ratio", 0, 0.5), changing.points("ratio", 64, 0.5))  # [] []
        print(changing.points("ratio", 128, 0.6))  # [(0, 0.5), (64, 0.5), (128, 0.6)]
    """

    def __init__(self) -> None:
        self._held: dict[str, tuple[float, int, int]] = {}  # value, first step, last step
        self._changed: set[str] = set()

    def points(
        self, name: str, step: int, value: float, normal: float | None = None
    ) -> list[tuple[int, float]]:
        """What to write of a series now that it has a value at a step.

        Args:
            name: of the series.
            step: of the value.
            value: now.
            normal: the only constant that says nothing, where not any does: another one is written at once.

        Returns:
            Nothing while it is constant; its first and last constant point and the new one when it changes;
            from then on each new one.
        """
        if name in self._changed:
            return [(step, value)]
        if name not in self._held and normal is not None and value != normal:
            self._changed.add(name)
            return [(step, value)]
        if name not in self._held:
            self._held[name] = (value, step, step)
            return []

        held, first, last = self._held[name]
        same = math.isclose(value, held, rel_tol=CLOSE, abs_tol=CLOSE) or (value != value and held != held)
        if same:
            self._held[name] = (held, first, step)
            return []

        self._changed.add(name)
        del self._held[name]
        past = [(first, held)] if first == last else [(first, held), (last, held)]
        return [*past, (step, value)]

    def state_dict(self) -> dict[str, Any]:
        """Which series have changed, and the values of the others."""
        held = {name: list(values) for name, values in self._held.items()}
        return {"held": held, "changed": sorted(self._changed)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self._held = {
            name: (float(value), int(first), int(last))
            for name, (value, first, last) in state["held"].items()
        }
        self._changed = set(state["changed"])
