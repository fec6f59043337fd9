"""Random selection: the baseline every other selector has to beat."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from dsenv.select.base import Selection, Selector
from dsenv.select.ranking import check_choice, equally_weighted, is_permutation, random_order, random_subset
from dsenv.signals import SampleSignals
from dsenv.states import Either, TensorOf, check_part_state


class UniformRandom(Selector):
    """A fresh uniform subset at each call.

    Helps: always; a strong baseline at equal samples seen. On CIFAR-100 with ResNet-18 at 50 % it
    equals UCB (75.3 both).
    Does not help: with wrong labels or rare classes, which it trains on as they come.

    Cost: one draw a call, no memory beyond the selection. State: none. Unseen samples are drawn like all
    others.
    Source: dynamic random pruning in Raju et al., 2021, arXiv 2111.12621.
    """

    def select(self, signals: SampleSignals, count: int, generator: torch.Generator) -> Selection:
        """Draw `count` samples, each with weight 1."""
        count = check_choice(count, signals.size)
        return equally_weighted(random_subset(signals.size, count, generator))


class FixedRandom(Selector):
    """One random subset for the whole training run: the baseline of static methods.

    The order of all samples is drawn at the first call, so that subsets of different counts are nested.

    Helps: as the fair comparison for static coresets. Does not help: anything else; `UniformRandom`
    reaches every sample in time at the same cost.

    Cost: one permutation a training run. State: 8 bytes a sample. Signals are not used, so unseen
    samples are treated like all others.
    Source: the random baseline of DeepCore (Guo et al., 2022, arXiv 2204.08499).
    """

    def __init__(self) -> None:
        self._order: Tensor | None = None

    def select(self, signals: SampleSignals, count: int, generator: torch.Generator) -> Selection:
        """Take the first `count` samples of the order, each with weight 1.

        Raises:
            ValueError: the order was drawn for another number of samples.
        """
        count = check_choice(count, signals.size)
        if self._order is None:
            self._order = random_order(signals.size, generator)
        if len(self._order) != signals.size:
            raise ValueError(
                f"FixedRandom drew its order for {len(self._order)} samples, the signals hold "
                f"{signals.size}; use one selector for each training set"
            )

        self._order = self._order.to(signals.device)
        return equally_weighted(self._order[:count])

    def state_dict(self) -> dict[str, Any]:
        """The order; None where it is not drawn yet."""
        return {"order": None if self._order is None else self._order.clone()}

    def state_like(self) -> dict[str, Any]:
        """How a state must look; its length is that of the training set it was saved with."""
        return {"order": Either(None, TensorOf(torch.int64, (None,)))}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`.

        Raises:
            ValueError: it is no state of this selector; nothing is loaded then.
        """
        check_part_state(self, state)
        order = state["order"]
        if order is not None and not is_permutation(order):
            raise ValueError("this is no state of FixedRandom: 'order' must be a permutation")
        self._order = None if order is None else order.clone()
