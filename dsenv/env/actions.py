"""Actions as the control takes them."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dsenv.control.base import Actions, Control


def to_box(actions: NDArray[Any], kind: str, control: Control, replicas: int) -> Actions:
    """Actions of any kind as (K, A) floats in [-1, 1].

    Args:
        actions: (K, A) in [-1, 1], values beyond are clipped; with discrete actions (K,) choices, with
            binary ones (K, A) of 0 and 1.
        kind: one of `ACTION_KINDS`.
        control: turns them into decisions.
        replicas: K.

    Raises:
        ValueError: they are of another shape, no choices that exist, or not all numbers.
    """
    values = np.asarray(actions)
    if kind == "discrete":
        choices = control.choices()
        if values.shape != (replicas,) or not np.isin(values, np.arange(len(choices))).all():
            raise ValueError(
                f"actions must be {replicas} choices from 0 to {len(choices) - 1}, got {actions}"
            )
        return choices[values.astype(np.int64)]
    values = values.astype(np.float32)
    if values.shape != (replicas, control.size):
        raise ValueError(f"actions must have shape {(replicas, control.size)}, got {values.shape}")
    if kind == "binary":
        if not ((values == 0) | (values == 1)).all():
            raise ValueError(f"binary actions must be 0 or 1, got {values.tolist()}")
        return 2 * values - 1
    if np.isnan(values).any():
        raise ValueError(f"an action is NaN: {values.tolist()}; has the policy diverged?")
    return values.clip(-1, 1)
