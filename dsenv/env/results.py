"""What an interval gives: observation, reward, end and info of K episodes."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Flags = NDArray[np.bool_]
Info = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class StepResult:
    """Outcome of one interval, for each of K episodes, on the host."""

    observation: Floats
    """(K, O)."""
    reward: NDArray[np.float64]
    """(K,)."""
    terminated: Flags
    """(K,) the training run reached its budget, or diverged."""
    info: Info
    """Arrays (K, ...) by name."""
