"""What the selectors share: order with random ties, checks, and one ranking for a whole training run."""

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from dsenv import kernels
from dsenv.errors import check_count, shown
from dsenv.outputs import ModelOutputs
from dsenv.select.base import Selection, Selector
from dsenv.signals import SampleSignals
from dsenv.states import Either, Exactly, TensorOf, Whole, check_part_state

CHUNK = 65_536  # samples worked on at a time where a (samples, D) or (samples, C) copy is needed


def random_order(size: int, generator: torch.Generator) -> Tensor:
    """Random permutation (size,) int64, on the generator's device."""
    return kernels.permutation(size, generator)


def random_subset(size: int, count: int, generator: torch.Generator) -> Tensor:
    """Positions (count,) of a uniform draw without replacement from `size` samples, in any order."""
    return kernels.subset(size, count, generator)


def order_by(score: Tensor, generator: torch.Generator) -> Tensor:
    """Positions (N,) by falling score; equal scores (N,) are in random order."""
    return kernels.ranking(score, generator)


def top_by(score: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Positions (count,) of the largest scores (N,), in any order; equal scores have equal chances."""
    return kernels.top_k(score, count, generator)


def unseen_first(score: Tensor, seen: Tensor) -> Tensor:
    """The scores (N,), with +inf for samples not `seen` (N,) yet."""
    return torch.where(seen, score, torch.inf)


def equally_weighted(index: Tensor) -> Selection:
    """Those samples, each with weight 1."""
    return Selection(index, torch.ones_like(index, dtype=torch.float32))


def check_choice(count: int, size: int) -> int:
    """The number of samples to choose out of `size`, as a Python int.

    Raises:
        ValueError: `count` is no whole number, or outside 1..size.
    """
    try:
        return check_count("count", count, 1, size)
    except ValueError:
        raise ValueError(
            f"a selection of {size} samples must choose 1 to {size}, got count={shown(count)}"
        ) from None


def chunks(size: int) -> Iterator[slice]:
    """Slices of at most `CHUNK` that cover 0..size."""
    return (slice(start, start + CHUNK) for start in range(0, size, CHUNK))


def is_permutation(index: Tensor) -> bool:
    """Whether `index` (N,) int64 holds each of 0..N-1 once."""
    inside = bool(((index >= 0) & (index < len(index))).all())
    met = torch.zeros(len(index), dtype=torch.bool, device=index.device)
    return inside and bool(met.index_fill_(0, index, True).all())


def need(forward: ModelOutputs, name: Literal["logits", "features"], what: object) -> Tensor:
    """The logits (B, C) or features (B, D) of a pass, detached.

    Raises:
        ValueError: the pass does not hold them.
    """
    value: Tensor | None = getattr(forward, name)
    if value is None:
        raise ValueError(
            f"{type(what).__name__} needs the {name} of the pass, got a ModelOutputs without; "
            f"give ModelOutputs({name}=...)"
        )
    return value.detach()


class StaticSelector(Selector):
    """Ranks all samples once, and selects the top `count` of that one ranking.

    Selections of different counts are nested. A subclass says how good each sample of a pass is
    (`score_pass`). Equal scores are put in random order at the first `select` after `prepare`; that
    is the only draw from the generator.

    State: 16 bytes a sample.
    """

    needs_pass = True
    score_dtype: torch.dtype | None = None
    """Of the scores, for the check of a saved state; None for any."""
    averages_passes: bool = False
    """Further calls of `prepare` add to a mean score; else the last call counts."""

    def __init__(self) -> None:
        self._score: Tensor | None = None  # (N,), larger is better
        self._passes = 0
        self._order: Tensor | None = None  # (N,) int64, best first

    @abstractmethod
    def score_pass(self, train: ModelOutputs, validation: ModelOutputs | None) -> Tensor:
        """Score (N,) of each sample in the order of `train.index`; the largest are selected first."""

    def rank(self, score: Tensor, generator: torch.Generator) -> Tensor:
        """Positions (N,), best first, from the scores (N,)."""
        return order_by(score, generator)

    def prepare(self, train: ModelOutputs, validation: ModelOutputs | None = None) -> None:
        """Score the whole training set from one pass over it, in any order.

        Raises:
            ValueError: the pass leaves samples out, has one twice, lacks what the method needs, or holds
                values that are not finite.
        """
        size = len(train.index)
        if not is_permutation(train.index):
            raise ValueError(
                f"{type(self).__name__}.prepare needs each training sample exactly once, got {size} "
                f"positions that are not a permutation of 0..{size - 1}; run the pass over the whole split"
            )

        for part in (train, validation):
            if part is not None:
                self._check_finite(part, "training set" if part is train else "validation split")

        found = self.score_pass(train, validation)
        score = torch.empty_like(found)
        score[train.index] = found
        if self.averages_passes and self._score is not None:
            score = self._score + (score - self._score) / (self._passes + 1)

        self._score, self._order = score, None
        self._passes += 1

    def select(self, signals: SampleSignals, count: int, generator: torch.Generator) -> Selection:
        """Take the first `count` samples of the ranking, each with weight 1.

        Raises:
            ValueError: `prepare` was not called, or with another number of samples.
        """
        count = check_choice(count, signals.size)
        if self._score is None:
            raise ValueError(f"{type(self).__name__} has no ranking yet: call prepare(train) before select")
        if len(self._score) != signals.size:
            raise ValueError(
                f"{type(self).__name__} ranked {len(self._score)} samples, the signals hold {signals.size}; "
                "call prepare with a pass over this training set"
            )

        if self._order is None:
            self._order = self.rank(self._score.to(signals.device), generator)
        self._order = self._order.to(signals.device)
        return equally_weighted(self._order[:count])

    def _check_finite(self, part: ModelOutputs, where: str) -> None:
        """Check what the method reads of a pass; one sample that is not finite would spoil all scores."""
        read = [getattr(part, name) for name in ("logits", "features") if getattr(self, f"needs_{name}")]
        for values in (values for values in read if values is not None):
            is_bad = torch.cat([~values[rows].isfinite().flatten(1).all(1) for rows in chunks(len(values))])
            if bool(is_bad.any()):
                positions = part.index[is_bad]
                raise ValueError(
                    f"{type(self).__name__}.prepare needs finite outputs, got others for {len(positions)} "
                    f"samples of the {where}, at positions {positions[:5].tolist()}; leave them out of it"
                )

    def state_dict(self) -> dict[str, Any]:
        """Settings, scores, passes that they are the mean of, and the ranking; None where there is none."""
        kept = {"score": self._score, "order": self._order}
        tensors = {name: None if tensor is None else tensor.clone() for name, tensor in kept.items()}
        return {"settings": self.settings(), "passes": self._passes, **tensors}

    def state_like(self) -> dict[str, Any]:
        """How a state must look; its length is that of the training set it was saved with."""
        known, every = self.score_dtype, (torch.float64, torch.int64, torch.float32)
        scores = [TensorOf(dtype, (None,)) for dtype in (every if known is None else (known,))]
        order = Either(None, TensorOf(torch.int64, (None,)))
        return {
            "settings": Exactly(self.settings()),
            "passes": Whole(),
            "score": Either(None, *scores),
            "order": order,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`.

        Raises:
            ValueError: it is no state of this selector, or of other settings; nothing is loaded then.
        """
        check_part_state(self, state)
        score, order, name = state["score"], state["order"], type(self).__name__
        if (score is None) != (state["passes"] == 0):
            raise ValueError(f"this is no state of {name}: 'score' must be there if 'passes' is above 0")
        if order is not None and (score is None or len(order) != len(score) or not is_permutation(order)):
            raise ValueError(f"this is no state of {name}: 'order' must be a permutation, as long as 'score'")

        self._passes = state["passes"]
        self._score = None if score is None else score.clone()
        self._order = None if order is None else order.clone()
