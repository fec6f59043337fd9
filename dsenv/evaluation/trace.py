"""What an evaluation keeps of the runs of one agent in one context."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dsenv.evaluation.runs import Floats, PerSeed, Runs


@dataclass(frozen=True)
class Trace(PerSeed):
    """Runs of one agent in one context: S seeds, T intervals, B loss-rank bins, C classes.

    Beside what is kept of every seed, means over seeds of what `Runs` has for each. NaN stands for what did
    not happen: no run got that far, the agent decides no strength, curves were turned off.
    """

    seconds: Floats
    """(T,)."""
    selected: Floats
    """(T, B) in [0, 1]."""
    ratio: Floats
    """(T,) in [0, 1]."""
    wrong: Floats
    """(T,) in [0, 1]."""
    strength: Floats
    """(T,) in [0, 1]."""
    strengths: Floats
    """(T, bins) in [0, 1]; no bins where the agent does not decide it."""
    class_seen: Floats
    """(C,) in [0, 1]."""
    class_pool: Floats
    """(C,) in [0, 1]."""
    class_accuracy: Floats
    """(C,) in [0, 1]."""

    @classmethod
    def of(cls, runs: Runs) -> "Trace":
        """Means over seeds of what is followed over time, and the rest as it is."""
        kept = {field.name for field in fields(PerSeed)}
        found: dict[str, Any] = {field.name: getattr(runs, field.name) for field in fields(cls)}
        for name in found.keys() - kept:
            found[name] = _mean(found[name])
        return cls(**found)

    @property
    def has_curve(self) -> bool:
        """Whether the test split was scored after every interval."""
        return bool(np.isfinite(self.curve).any())

    def plain(self) -> dict[str, Any]:
        """Lists of numbers for JSON, None for NaN; six digits but for the accuracies of the seeds."""
        return {name: _listed(values, 17 if name == "accuracy" else 6) for name, values in vars(self).items()}

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> "Trace":
        """The inverse of `plain`.

        Raises:
            KeyError, TypeError, ValueError: it is damaged.
        """
        found = {}
        for field in fields(cls):
            kind = np.float64 if field.name == "accuracy" else KINDS.get(field.name, np.float32)
            values = np.array(plain[field.name], dtype=np.float64 if kind is not np.bool_ else kind)
            found[field.name] = values.astype(kind)
        return cls(**found)


KINDS: dict[str, Any] = {
    "samples_used": np.int64,
    "full": np.int64,
    "extra_forwards": np.int64,
    "samples": np.int64,
    "diverged": np.bool_,
}
"""Types of the fields that are not float32, beside `accuracy`."""


def _mean(values: Floats) -> Floats:
    """Mean over seeds; NaN where no seed got that far."""
    found: Floats = np.ma.masked_invalid(values).mean(0).filled(np.nan).astype(np.float32)
    return found


def _listed(values: NDArray[Any], digits: int) -> Any:
    """An array as nested lists."""
    if values.dtype.kind != "f":
        return values.tolist()
    if values.ndim > 1:
        return [_listed(row, digits) for row in values]
    return [float(f"{value:.{digits}g}") if np.isfinite(value) else None for value in values.tolist()]
