"""Context: what is drawn anew for each episode, so that a policy must read the situation."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dsenv.errors import check_share, pick
from dsenv.tasks.corruption import NOISES, add_noise, long_tail, random_subset

Range = float | Sequence[float]


@dataclass(frozen=True, kw_only=True)
class Context:
    """The situation of one episode."""

    label_noise: float = 0.0
    """Share of the training labels that are wrong, [0, 1]."""
    imbalance: float = 1.0
    """Size of the rarest class over that of the most frequent, (0, 1]."""
    subset: float = 1.0
    """Share of the training samples that exist, (0, 1]."""

    def __post_init__(self) -> None:
        check_share("label_noise", self.label_noise, zero=True)
        check_share("imbalance", self.imbalance)
        check_share("subset", self.subset)


class ContextSpace:
    """A distribution over contexts: each value a number, or a range [low, high] to draw from uniformly.

    Args:
        noise: kind of label noise, "symmetric" or "pair_flip".
        values: ranges by name; names and bounds are those of `Context`.

    Raises:
        ValueError: a name is unknown, or a value out of range.
    """

    def __init__(self, noise: str = "symmetric", **values: Range) -> None:
        self.noise = pick("label noise", noise, NOISES)
        known = [field.name for field in fields(Context)]
        self._ranges: dict[str, tuple[float, float]] = {}
        for name, value in values.items():
            pick("context value", name, known)
            low, high = value if isinstance(value, Sequence) else (value, value)
            if low > high:
                raise ValueError(f"context {name}: the range [{low}, {high}] is empty; write [low, high]")
            Context(**{name: low}), Context(**{name: high})  # raise where a bound is out of range
            self._ranges[name] = (float(low), float(high))

    def draw(self, rng: np.random.Generator) -> Context:
        """Draw the context of one episode."""
        return Context(**{name: float(rng.uniform(low, high)) for name, (low, high) in self._ranges.items()})

    def fixed(self, rng: np.random.Generator, values: Mapping[str, float]) -> Context:
        """Draw a context, then set some of its values."""
        if not isinstance(values, Mapping):
            raise ValueError(f'a context is a mapping such as {{"label_noise": 0.4}}, got {values!r}')
        for name in values:
            pick("context value", name, [field.name for field in fields(Context)])
        drawn: dict[str, Any] = vars(self.draw(rng)).copy()
        return Context(**{**drawn, **values})

    def realise(
        self, context: Context, labels: Tensor, classes: int, seed: int, trusted: int = 0
    ) -> tuple[Tensor, Tensor]:
        """Make the training labels and the pool of one episode.

        Args:
            context: the situation.
            labels: (N,) clean labels, on the CPU.
            classes: C.
            seed: decides which samples are kept and which labels are wrong.
            trusted: samples at the end that are kept, labels and all, whatever the context is.

        Returns:
            given: (N,) int64 labels to train on. Wrong labels fall on exactly the stated share of the pool,
                trusted samples apart.
            pool: (N,) bool, the samples that exist.
        """
        generator = torch.Generator().manual_seed(seed)
        own = len(labels) - trusted
        pool = long_tail(labels[:own], context.imbalance, classes, generator)
        members = pool.nonzero().squeeze(1)
        members = members[random_subset(len(members), context.subset, generator)]
        pool = torch.zeros_like(labels, dtype=torch.bool)
        pool[members] = True
        pool[own:] = True
        given = labels.clone()
        given[members] = add_noise(self.noise, labels[members], context.label_noise, classes, generator)
        return given, pool
