"""Intervals of several epochs: their samples epoch by epoch, and what they measured together."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch

from dsenv.select.base import StackedSelection
from dsenv.training.scores import Interval
from dsenv.volume.budget import Counts

Pass = tuple[StackedSelection, Interval]
"""The samples of one epoch of K runs, and what training on them measured."""


def by_epoch(number: Counts, epochs: int) -> list[Counts]:
    """Samples (K,) of each epoch, as even as can be, of intervals of `number` (K,) samples.

    An epoch in which no run has a sample is left out.
    """
    ends = [number * done // epochs for done in range(epochs + 1)]
    parts = [end - start for start, end in pairwise(ends)]
    return [part for part in parts if part.any()] or parts[:1]


def joined(
    parts: Sequence[tuple[StackedSelection, Interval]], size: int
) -> tuple[StackedSelection, Interval]:
    """The samples of all epochs as one selection, and the means over them; N is `size`."""
    # Padding goes to the end of each row
    index, weight = (
        torch.cat([getattr(selection, name) for selection, _ in parts], 1) for name in ("index", "weight")
    )
    seen = np.array([selection.counts for selection, _ in parts])  # (epochs, K)
    counts = tuple(seen.sum(0).tolist())
    order = (index == size).to(torch.uint8).argsort(dim=1, stable=True)[:, : max(counts)]
    selection = StackedSelection(index.gather(1, order), weight.gather(1, order), counts)

    share = torch.from_numpy(seen / np.maximum(seen.sum(0), 1)).float().to(index.device)
    loss, accuracy = (
        _mean(torch.stack([getattr(measured, name) for _, measured in parts]), share)
        for name in ("loss", "accuracy")
    )
    return selection, Interval(loss, accuracy)


def _mean(values: torch.Tensor, share: torch.Tensor) -> torch.Tensor:
    """Mean (K,) of values (epochs, K) by their shares; NaN where all shares are 0."""
    own = torch.where(share > 0, values * share, 0.0).sum(0)
    return torch.where((share > 0).any(0), own, torch.nan)
