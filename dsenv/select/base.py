"""What every selector takes and returns."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dsenv import kernels
from dsenv.describe import Described
from dsenv.outputs import ModelOutputs
from dsenv.signals import SampleSignals
from dsenv.states import check_state


@dataclass(frozen=True)
class Selection:
    """The samples that one training run uses next, unshuffled.

    Use::

        import torch
        from dsenv import DataPlan, Selection, Selector

        class RandomByLoss(Selector):  # a uniform draw; large losses count more
            def select(self, signals, count, generator):
                index = torch.randperm(signals.size, generator=generator, device=signals.device)[:count]
                weight = signals.loss[index] / signals.loss[index].mean()
                return Selection(index, weight)

        data = torch.rand(100, 5), torch.randint(0, 4, (100,))
        plan = DataPlan(data, epochs=2, batch_size=25, selector=RandomByLoss(), ratio=0.5)
        print(next(iter(plan.batches())).weight)

    Raises:
        ValueError: index or weight is no tensor, or their shapes differ.
    """

    index: Tensor
    """(M,) int64 positions in the training set, each at most once."""
    weight: Tensor
    """(M,) float32 factor on the loss of each sample."""

    def __post_init__(self) -> None:
        parts = (self.index, self.weight)
        if not all(isinstance(part, Tensor) for part in parts) or self.index.shape != self.weight.shape:
            index, weight = map(_described, parts)
            raise ValueError(
                f"a Selection holds two tensors of one shape, got index {index} and weight {weight}"
            )


@dataclass(frozen=True)
class StackedSelection:
    """The samples that each of K training runs uses next, in training order.

    Runs may choose different numbers of samples; shorter rows are padded with index N.
    """

    index: Tensor
    """(K, M) int64 positions in the training set; N (one past the last) is padding."""
    weight: Tensor
    """(K, M) float32 factor on the loss of each sample; 0 on padding."""
    counts: tuple[int, ...]
    """Number of chosen samples of each run; M is the largest."""

    def __post_init__(self) -> None:
        assert self.index.shape == self.weight.shape, (self.index.shape, self.weight.shape)
        assert self.index.shape == (len(self.counts), max(self.counts, default=0)), self.index.shape

    @classmethod
    def of(cls, selections: Sequence[Selection], size: int) -> "StackedSelection":
        """Pad the selections of K training runs to one length; N is `size`."""
        counts = tuple(len(selection.index) for selection in selections)
        most = max(counts, default=0)
        first = selections[0]

        index = first.index.new_full((len(selections), most), size)
        weight = first.weight.new_zeros(len(selections), most)
        for row, (selection, count) in enumerate(zip(selections, counts, strict=True)):
            index[row, :count], weight[row, :count] = selection.index, selection.weight

        return cls(index, weight, counts)


class Selector(Described, ABC):
    """Chooses which samples to train on.

    Rule-based selectors are pure functions of the signals. Others need more: static ones need one
    pass over the training set (`needs_pass`), learned ones see every training batch (`observe`).
    `settings()` tells what a selector was built with; keep each setting in an attribute of its name.

    Use::

        import torch
        from dsenv import DataPlan, Selection, Selector

        class LargestLoss(Selector):
            def select(self, signals, count, generator):
                index = signals.loss.topk(count).indices
                return Selection(index, torch.ones(count, device=index.device))

        data = torch.rand(100, 5), torch.randint(0, 4, (100,))
        plan = DataPlan(data, epochs=2, batch_size=25, selector=LargestLoss(), ratio=0.5)
        batch = next(iter(plan.batches()))
    """

    needs_pass: bool = False
    """`prepare` must be called once, before the first `select`; the pass costs one forward a sample."""
    needs_logits: bool = False
    """`ModelOutputs.logits` must be given."""
    needs_features: bool = False
    """`ModelOutputs.features` must be given."""
    needs_classes: bool = False
    """Labels must be classes, as for methods that go class by class."""
    reads: tuple[str, ...] = ()
    """Of `dsenv.task_kinds.READINGS`, what stands in the place of logits where a task is no
    classification; nothing where it needs the logits of classes themselves."""
    needs_own_loss: bool = False
    """`SampleSignals.loss` must be that of the sample itself, and not of its batches (`loss_of="batch"`)."""
    observes: bool = False
    """It learns from every training batch. Set automatically for a class that defines `observe`."""

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        if "observe" in vars(cls) and "observes" not in vars(cls):
            cls.observes = True

    def prepare(self, train: ModelOutputs, validation: ModelOutputs | None = None) -> None:
        """Take in one pass over the training set (and the validation split, where a method uses one)."""
        del train, validation

    def observe(self, batch: ModelOutputs) -> None:
        """Take in one training batch, after its forward pass."""
        del batch

    def own_count(self, signals: SampleSignals) -> int | None:
        """How many samples the method's own rule would choose now, 1..N; None where it has no such rule."""
        del signals
        return None

    @abstractmethod
    def select(self, signals: SampleSignals, count: int, generator: torch.Generator) -> Selection:
        """Choose samples.

        Args:
            signals: the per-sample history, tensors of shape (N,).
            count: M, how many to choose, 1..N.
            generator: the only source of randomness; it lives on the signals' device.
        """

    def state_dict(self) -> dict[str, Any]:
        """Everything the selector remembers; empty for a pure function of the signals."""
        return {}

    def state_like(self) -> dict[str, Any]:
        """How a state must look that `load_state_dict` takes; `dsenv.states` has the patterns."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`.

        Raises:
            ValueError: it is no state of this selector, or of other settings or data; nothing is loaded then.
        """
        check_state(type(self).__name__, state, self.state_like())


def checked(found: Any, selector: Selector, count: int, size: int, device: torch.device) -> Selection:
    """What a selector chose, if it is a selection of `count` of `size` samples; a wait for a device.

    Raises:
        ValueError: it is of another type, device, shape, number or range; the message names the selector.
    """
    name = type(selector).__name__
    hint = f"; dsenv.check_selector({name}) tries it on small data"
    if not isinstance(found, Selection):
        raise ValueError(f"{name}.select must return a dsenv.Selection, got {type(found).__name__}{hint}")

    index, weight = found.index, found.weight
    if index.dtype != torch.int64 or index.shape != (count,):
        raise ValueError(
            f"{name}.select must choose int64 positions of shape ({count},), got {_described(index)}{hint}"
        )
    if not weight.is_floating_point():
        raise ValueError(
            f"{name}.select must give each sample a floating weight, got {_described(weight)}{hint}"
        )

    if index.device != device or weight.device != device:
        raise ValueError(
            f"{name}.select must choose on the signals' device {device}, got positions on {index.device} and "
            f"weights on {weight.device}{hint}"
        )

    # One wait for all that is to be known of the values; a NaN is neither above 0 nor below infinity
    met = torch.zeros(size, dtype=torch.bool, device=index.device)
    met.index_fill_(0, index.clamp(0, size - 1), True)
    facts = [*index.aminmax(), *weight.aminmax(), met.count_nonzero()]
    low, high, lightest, heaviest, different = torch.stack([fact.double() for fact in facts]).tolist()
    if low < 0 or high >= size:
        raise ValueError(f"{name}.select chose positions outside 0..{size - 1}{hint}")
    if different < count:
        raise ValueError(f"{name}.select chose a sample more than once{hint}")
    if not (lightest > 0 and heaviest < math.inf):
        raise ValueError(f"{name}.select gave weights that are not finite and above 0{hint}")
    return found if weight.dtype == torch.float32 else Selection(index, weight.float())


def _described(value: Any) -> str:
    return f"{value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__


def top(score: Tensor, count: int) -> Selection:
    """The `count` samples with the largest scores (N,), each with weight 1."""
    index = kernels.top_k(score, count)
    return Selection(index, torch.ones_like(index, dtype=torch.float32))
