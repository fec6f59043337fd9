"""What every augmentation controller takes and returns."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from dsenv.augment.draw import Draw, draw_parameters
from dsenv.augment.magnitudes import MODERATE, Magnitudes
from dsenv.augment.ops import OPS, STANDARD_OPS, apply_ops, draw_ops, op_codes
from dsenv.describe import Described
from dsenv.errors import shown
from dsenv.kernels import sent
from dsenv.outputs import ModelOutputs
from dsenv.signals import SampleSignals
from dsenv.states import Exactly, Whole, check_part_state


def checked_device(device: torch.device | str) -> torch.device:
    """The setting `device`.

    Raises:
        ValueError: torch knows no such device.
    """
    try:
        return torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise ValueError(
            f"device must be one of torch's, such as 'cpu' or 'cuda', got {shown(device)}"
        ) from error


class AugmentationController(Described, ABC):
    """Decides how strongly each sample is augmented, and augments it.

    A training loop calls `augment` for each batch before the forward pass, `observe` after it, and
    `end_epoch` after each epoch. Crops and flips that every method shares are left to the
    training loop. `settings()` tells what a controller was built with; keep each setting in an attribute of
    its name.

    Use::

        import torch
        from dsenv import AugmentationController, DataPlan

        class ByConfidence(AugmentationController):  # the surer the prediction, the stronger
            def strengths(self, signals, index, generator):
                return signals.confidence[index]

        images, labels = torch.rand(100, 3, 8, 8), torch.randint(0, 4, (100,))
        plan = DataPlan((images, labels), epochs=2, batch_size=50, augment=ByConfidence())
        batch = next(iter(plan.batches()))

    Args:
        ops: names of the ops to draw from, see `dsenv.augment.OPS`.
        magnitudes: what strength 1 means.

    Raises:
        ValueError: a name or a magnitude is none.
    """

    needs_logits: bool = False
    """`ModelOutputs.logits` must be given to `observe`."""
    reads: tuple[str, ...] = ()
    """Of `dsenv.task_kinds.READINGS`, what stands in the place of logits where a task is no
    classification; nothing where it needs the logits of classes themselves."""
    needs_features: bool = False
    """`ModelOutputs.features` must be given."""
    needs_parameters: bool = False
    """The training loop must compute what it learns from, with the model's parameters."""
    observes: bool = False
    """It learns from every training batch. Set automatically for a class that defines `observe`."""
    extra_views: int = 0
    """Further views of every batch whose outputs it compares; 0 for none."""
    takes_strengths: bool = False
    """The caller decides the strengths and writes them to `strength`, (N,)."""
    ops_per_sample: int = 1
    """Ops that `augment` applies to each sample, one after another."""
    noted: Tensor | None = None
    """(N,) float32 strength at which each sample was augmented since `note_strengths`; -1 for not at all."""

    def __init__(self, *, ops: Sequence[str] = STANDARD_OPS, magnitudes: Magnitudes = MODERATE) -> None:
        self._codes = op_codes(ops)
        self.ops = tuple(OPS[code] for code in self._codes.tolist())
        if not isinstance(magnitudes, Magnitudes):
            raise ValueError(f"magnitudes must be a Magnitudes, got {shown(magnitudes)}")
        self.magnitudes = magnitudes
        self.epoch = 0
        self._memory: dict[str, Tensor] = {}

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        if "observe" in vars(cls) and "observes" not in vars(cls):
            cls.observes = True

    @abstractmethod
    def strengths(self, signals: SampleSignals, index: Tensor, generator: torch.Generator) -> Tensor:
        """Strength of each sample, in [0, 1].

        Args:
            signals: the per-sample history, tensors of shape (N,).
            index: (B,) int64 positions of the samples.
            generator: the only source of randomness.

        Returns:
            (B,) float32 on the index's device.
        """

    def augment(
        self, images: Tensor, signals: SampleSignals, index: Tensor, generator: torch.Generator
    ) -> Tensor:
        """Augment a batch: ops drawn uniformly for each sample, at the sample's strength.

        Args:
            images: (..., C, H, W), uint8 or floating in [0, 1], before normalization.
            signals: the per-sample history.
            index: (...) int64 positions of the samples.
            generator: the only source of randomness.
        """
        strength = self.strengths(signals, index, generator)
        for _ in range(self.ops_per_sample):
            images = self._one_op(images, strength, generator)
        self._note(index, strength)
        return images

    def views(
        self, images: Tensor, signals: SampleSignals, index: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, ...]:
        """The augmented batch to train on, and `extra_views` further views of the same samples.

        Arguments as for `augment`.
        """
        return (self.augment(images, signals, index, generator),)

    def observe(self, batch: ModelOutputs) -> None:
        """Take in one training batch, after its forward pass; each sample at most once."""
        del batch

    def observe_views(
        self, trained: ModelOutputs, views: Sequence[ModelOutputs], generator: torch.Generator
    ) -> None:
        """Take in a training batch and its `extra_views` further views, in place of `observe`.

        Args:
            trained: outputs for the view that the model trained on.
            views: outputs for the others, in the order of `views`, without a graph.
            generator: the only source of randomness.
        """
        del trained, views, generator
        raise ValueError(f"{type(self).__name__} has extra_views = {self.extra_views}: define observe_views")

    def end_epoch(self) -> None:
        """Note that an epoch is over."""
        self.epoch += 1

    def state_dict(self) -> dict[str, Any]:
        """The settings and a copy of everything the controller remembers."""
        memory = {name: tensor.clone() for name, tensor in self._memory.items()}
        return {"settings": self.settings(), "epoch": self.epoch, **memory}

    def state_like(self) -> dict[str, Any]:
        """How a state must look that `load_state_dict` takes; `dsenv.states` has the patterns."""
        return {"settings": Exactly(self.settings()), "epoch": Whole(), **self._memory}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`.

        Raises:
            ValueError: it is no state of this controller, or of other settings or another number of samples;
                nothing is loaded then.
        """
        check_part_state(self, state)
        self.epoch = state["epoch"]
        for name, tensor in self._memory.items():
            tensor.copy_(state[name])

    def draws(self, signals: SampleSignals, index: Tensor, generator: torch.Generator) -> list[Draw]:
        """All that `augment` draws for the samples `index` (B,), in the same order: one draw for each op."""
        strength = self.strengths(signals, index, generator)
        self._codes = sent(self._codes, index.device)
        return [
            draw_parameters(draw_ops(self._codes, len(index), generator), strength, generator)
            for _ in range(self.ops_per_sample)
        ]

    def view_draws(
        self, signals: SampleSignals, index: Tensor, generator: torch.Generator
    ) -> tuple[list[Draw], ...]:
        """All that `views` draws, in the same order: for each view one draw for each op.

        With it masks and boxes move along with the images. Arguments as for `strengths`.
        """
        draws = self.draws(signals, index, generator)
        self._note(index, draws[0].strength)
        return (draws,)

    @property
    def moves_targets(self) -> bool:
        """Whether `view_draws` says all that `views` does to the images.

        Not for a class that defines `views` or `augment` anew, and no `view_draws` beside it.
        """
        order = type(self).__mro__
        says = _definer(order, "view_draws")
        return all(says <= _definer(order, name) for name in ("views", "augment"))

    def note_strengths(self, signals: SampleSignals) -> None:
        """From now on, keep the strength at which each of the N samples is augmented last, in `noted`."""
        self.noted = torch.full((signals.size,), -1.0, device=signals.device)

    def _note(self, index: Tensor, strength: Tensor) -> None:
        """Keep the strengths (B,) of samples (B,), where they are to be noted; no wait for a device."""
        if self.noted is not None:
            self.noted.index_copy_(0, index, strength.detach().to(self.noted))

    @property
    def draws_first(self) -> bool:
        """Whether `augment` is `draws` and then `apply_drawn`, so that many batches can go in one call."""
        return type(self).augment is AugmentationController.augment

    def _one_op(self, images: Tensor, strength: Tensor, generator: torch.Generator) -> Tensor:
        """Apply one op a sample, drawn uniformly."""
        if strength.shape != images.shape[:-3]:
            raise ValueError(
                f"images of shape {tuple(images.shape)} need one index each, got {tuple(strength.shape)}"
            )

        self._codes = sent(self._codes, images.device)
        op = draw_ops(self._codes, strength.numel(), generator)
        flat = images.reshape(-1, *images.shape[-3:])
        return apply_ops(flat, op, strength.flatten(), generator, self.magnitudes).view_as(images)


def _definer(order: Sequence[type], name: str) -> int:
    """Which class of an order of resolution defines an attribute."""
    return next(place for place, kind in enumerate(order) if name in vars(kind))
