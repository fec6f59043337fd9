"""History: what happened in each interval of the episodes so far, for figures and tables."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dsenv.control.base import Control

FIELDS = ("ratio", "val_accuracy", "train_accuracy", "wrong_labels", "strength")


class History:
    """Records of K episodes of at most T intervals; NaN where an interval has not happened.

    Attributes:
        scalars: by name, (K, T): ratio, val_accuracy, train_accuracy, wrong_labels; strength, NaN where the
            control does not decide it.
        selected: (K, T, B) share of each selection that came from each loss-rank bin.
        actions: (K, T, A) in [-1, 1].
    """

    def __init__(self, replicas: int, intervals: int, bins: int, actions: int) -> None:
        self.scalars = {name: np.full((replicas, intervals), np.nan, np.float32) for name in FIELDS}
        self.selected = np.full((replicas, intervals, bins), np.nan, np.float32)
        self.actions = np.full((replicas, intervals, actions), np.nan, np.float32)

    def strengths(self, control: Control) -> NDArray[np.float32]:
        """Strength (K, T, S) asked for in each stability bin; S is 0 where `control` asks for none."""
        replicas, intervals, size = self.actions.shape
        if not control.decides_how_strong:
            return np.zeros((replicas, intervals, 0), np.float32)
        return control.decode(self.actions.reshape(-1, size))["strength"].reshape(replicas, intervals, -1)

    def clear(self, replica: int) -> None:
        """Begin a new episode."""
        for record in (*self.scalars.values(), self.selected, self.actions):
            record[replica] = np.nan

    def add(
        self,
        running: NDArray[np.bool_],
        interval: NDArray[np.int64],
        info: dict[str, NDArray[Any]],
        actions: NDArray[np.float32],
    ) -> None:
        """Record one interval of the running episodes.

        Args:
            running: (K,) bool.
            interval: (K,) number of the interval just done, from 0.
            info: what `Session.step` reports.
            actions: (K, A) in [-1, 1].
        """
        rows = np.flatnonzero(running)
        for name, record in self.scalars.items():
            if name in info:
                record[rows, interval[rows]] = info[name][rows]
        self.selected[rows, interval[rows]] = info["selected_bins"][rows]
        self.actions[rows, interval[rows]] = actions[rows]
