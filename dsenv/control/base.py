"""Control: which question an agent's action answers, and how it becomes a decision."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from dsenv.control.state import TrainingState
from dsenv.volume.budget import Counts

Actions = NDArray[np.float32]
ACTION_KINDS = ("box", "discrete", "binary")


@dataclass(frozen=True)
class Decision:
    """What one interval is to train on, for each of K replicas; None leaves an answer to the settings."""

    counts: Counts | None = None
    """(K,) samples to train on; None for the number that the volume schedule plans."""
    log_weight: Tensor | None = None
    """(K, N) log of the weights by which samples are drawn, -inf leaves one out; None for the selector."""
    strength: Tensor | None = None
    """(K, N) float32 augmentation strength of each sample, [0, 1]; None for the augmentation controller."""


class Control(ABC):
    """A way for actions in [-1, 1]^size to say what an interval trains on."""

    size: int
    """A, number of action components."""
    names: tuple[str, ...]
    """What each action component is, in words."""
    kinds: tuple[str, ...] = ("box", "discrete")
    """Action spaces that the control offers, of `ACTION_KINDS`."""
    minimum: float | None = None
    """Smallest ratio an interval gets; None where the volume schedule decides."""
    candidates: int = 0
    """M, samples that the agent is shown before each action; 0 for none. They are all an interval offers."""
    rescores: bool = False
    """Whether the candidates are scored by a forward pass, which the budget pays for."""
    draws: bool = False
    """Whether samples are drawn by the weights of the candidates, not the largest scores taken."""
    embedding: bool = False
    """Whether the model's features of the candidates are shown."""
    stability_bins: int = 0
    """S, stability bins that the action and the observation speak of; 0 for none."""
    shows_action: bool = True
    """Whether the observation ends with the last action."""
    decides_what: bool = False
    """Whether the action says which samples."""
    decides_how_much: bool = False
    """Whether the action says how many."""
    decides_how_strong: bool = False
    """Whether the action says how strongly samples are augmented."""

    @property
    def slices(self) -> Mapping[str, slice]:
        """Where each answer stands in the action, by name."""
        return {self.answer: slice(0, self.size)}

    answer: str = "action"
    """Name of what the action says."""

    @abstractmethod
    def decode(self, actions: Actions) -> dict[str, Actions]:
        """Actions (K, size) in the units of their meaning: (K, n) arrays by the names of `slices`."""

    @abstractmethod
    def encode(self, **answers: float | Actions) -> Actions:
        """The action (size,) that says `answers`; the inverse of `decode`. What is not named is neutral.

        Raises:
            ValueError: an answer is unknown, of another length or out of range.
        """

    @abstractmethod
    def choices(self) -> Actions:
        """(M, A) the actions that a discrete action space offers."""

    @abstractmethod
    def decide(self, actions: Actions, state: TrainingState) -> Decision:
        """Turn (K, size) actions in [-1, 1] into a decision about the coming interval.

        Args:
            actions: (K, size).
            state: of the K training runs; it is read alone.
        """


def spread(name: str, value: float | Actions, length: int, low: float, high: float) -> Actions:
    """An answer as an array (length,), checked.

    Args:
        name: of the answer, in errors.
        value: one number for all components, or one for each.
        length: number of components.
        low: smallest value allowed.
        high: largest value allowed.

    Raises:
        ValueError: it has another length, or is out of range.
    """
    values = np.asarray(value, np.float32)
    if values.shape not in ((), (length,)):
        raise ValueError(f"{name} takes one number or {length}, got {values.tolist()}")
    if not ((values >= low - 1e-6) & (values <= high + 1e-6)).all():
        raise ValueError(f"{name} must be from {low:g} to {high:g}, got {values.tolist()}")
    return np.broadcast_to(values, (length,)).astype(np.float32)


def to_unit(actions: Actions) -> Actions:
    """From [-1, 1] to [0, 1]."""
    return (actions + 1) / np.float32(2)


def from_unit(values: Actions) -> Actions:
    """From [0, 1] to [-1, 1]."""
    return np.float32(2) * values - np.float32(1)
