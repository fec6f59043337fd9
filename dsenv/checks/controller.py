"""check_controller: the contract of augmentation controllers."""

from typing import Any

import torch
from torch import Tensor

from dsenv.augment import CONTROLLERS, AugmentationController
from dsenv.checks.calls import Make, call, check_flags, maker, same
from dsenv.checks.made_up import (
    BATCH,
    EPOCHS,
    MadeUp,
    Needs,
    check_copied,
    declared_needs,
    reloaded,
    run_as_declared,
)
from dsenv.signals import SampleSignals

NEEDS = ("logits", "features")
FACTS = ("needs_logits", "needs_features", "needs_parameters", "observes", "takes_strengths")
EDGE = 1e-3  # how far rounding may take a floating image out of [0, 1]


def check_controller(
    part: Any,
    *,
    signals: SampleSignals | None = None,
    classes: int = 4,
    features: int = 8,
    seed: int = 0,
) -> None:
    """Check that an augmentation controller of your own keeps the contract of those that come with dsenv.

    It runs on small made-up images, bytes and floats, through several epochs: `strengths`, `augment`,
    `observe`, `end_epoch`, and its state into a fresh controller.

    Use::

        from dsenv import AugmentationController, check_controller

        class ByConfidence(AugmentationController):
            def strengths(self, signals, index, generator):
                return signals.confidence[index]

        check_controller(ByConfidence)  # None: all is right

    Args:
        part: an object, a class, "module:Class", or a name or table as for `DataPlan(augment=...)`. A class
            is built with what it takes of size, classes, device, seed, epochs and features.
        signals: (N,) history to begin with; a copy is used. None for one of 40 samples, never seen.
        classes: C, where no signals are given.
        features: D, length of the feature vectors.
        seed: decides the data and the generators.

    Raises:
        ValueError: something is wrong; the message names it, what was allowed, and the next step.
    """
    data = MadeUp(signals, classes, features, seed)
    make = maker("controller", part, AugmentationController, CONTROLLERS, data.given())
    first = _check_runs(make, data)
    _check_images(first, data)
    _check_state(first, make, data)


def _check_runs(make: Make, data: MadeUp) -> Any:
    """Check that two runs of fresh controllers augment alike; the controller after the first one."""
    controller = make()
    name = type(controller).__name__
    if not hasattr(controller, "epoch"):
        raise ValueError(f"{name}.__init__ must call super().__init__(), with ops and magnitudes or without")
    check_flags(controller, *FACTS)

    first, made = run_as_declared(controller, NEEDS, lambda needs: _run(make(), data, needs))
    again = _run(make(), data, declared_needs(controller, NEEDS))[1]
    if not same(made, again):
        raise ValueError(
            f"{name} augments otherwise with an equal generator and equal data; draw only from the "
            "generator, and take parameters from a seed"
        )
    return first


def _run(controller: Any, data: MadeUp, needs: Needs) -> tuple[Any, list[Tensor]]:
    """A training run of some epochs; the controller after it, and the strengths and images it made."""
    signals = data.signals()
    start = controller.epoch
    made: list[Tensor] = []
    for epoch in range(EPOCHS):
        made += _epoch(controller, signals, data, epoch, needs)
        data.update(signals, data.everything(), epoch)
        if controller.epoch != start + epoch + 1:
            raise ValueError(
                f"{type(controller).__name__}.end_epoch must count the epoch, which it left at "
                f"{controller.epoch}; call super().end_epoch() in it"
            )

    return controller, made


def _epoch(controller: Any, signals: SampleSignals, data: MadeUp, epoch: int, needs: Needs) -> list[Tensor]:
    """One epoch, batch by batch; strengths and, of its first batch, images."""
    made = []
    for number, index in enumerate(torch.split(data.everything(), BATCH)):
        step = 100 * (epoch + 1) + number
        if getattr(controller, "takes_strengths", False):
            controller.strength.copy_(data.uniform(step, data.size))
        made.append(_strengths(controller, signals, index, data, step))
        if number == 0:
            made.append(_augmented(controller, _images(data, index), signals, index, data, step))
        _show(controller, signals, index, data, epoch, needs)

    call(controller, "end_epoch")
    return made


def _show(
    controller: Any, signals: SampleSignals, index: Tensor, data: MadeUp, epoch: int, needs: Needs
) -> None:
    """What a training loop tells the controller after a batch's forward pass."""
    trained, extra = data.outputs(index, epoch, needs), getattr(controller, "extra_views", 0)
    if isinstance(extra, bool) or not isinstance(extra, int) or extra < 0:
        raise ValueError(
            f"{type(controller).__name__}.extra_views must be a whole number of views, 0 or more, got "
            f"{extra!r}"
        )

    if extra:
        views = call(controller, "views", _images(data, index), signals, index, data.generator(epoch))
        _check_views(controller, views, _images(data, index), extra)
        told = tuple(data.outputs(index, epoch + 50 * view, needs) for view in range(1, extra + 1))
        call(controller, "observe_views", trained, told, data.generator(epoch))
    elif getattr(controller, "observes", True):
        call(controller, "observe", trained)

    if getattr(controller, "needs_parameters", False):
        call(controller, "record", index, data.uniform(epoch, len(index)))


def _check_views(controller: Any, views: Any, images: Tensor, extra: int) -> None:
    where = f"{type(controller).__name__}.views"
    if not isinstance(views, tuple) or len(views) != 1 + extra:
        found = f"{len(views)} of them" if isinstance(views, tuple) else type(views).__name__
        raise ValueError(
            f"{where} must return a tuple of 1 + extra_views = {1 + extra} views, the one to train on first, "
            f"got {found}"
        )

    for view in views:
        _check_augmented(where, view, images)


def _images(data: MadeUp, index: Tensor, channels: int = 3) -> Tensor:
    """Images (B, C, 8, 8) uint8 of the samples."""
    shape = (len(index), channels, 8, 8)
    return torch.randint(256, shape, generator=data.generator(7), device=data.device).to(torch.uint8)


def _strengths(controller: Any, signals: SampleSignals, index: Tensor, data: MadeUp, step: int) -> Tensor:
    """The strengths of a batch, checked."""
    where = f"{type(controller).__name__}.strengths"
    found = call(controller, "strengths", signals, index, data.generator(step))

    if not isinstance(found, Tensor) or found.dtype != torch.float32:
        kind = found.dtype if isinstance(found, Tensor) else type(found).__name__
        raise ValueError(f"{where} must return a float32 tensor, got {kind}; use strength.float()")
    if found.shape != index.shape:
        raise ValueError(
            f"{where} must return one strength for each position, ({len(index)},), got {tuple(found.shape)}; "
            "where they are kept for all samples, take strength[index]"
        )
    if found.device != index.device:
        raise ValueError(f"{where} must return them on the index's device {index.device}, got {found.device}")
    low, high = float(found.min()), float(found.max())
    if not 0 <= low <= high <= 1:
        raise ValueError(f"{where} must be in [0, 1], got {low} to {high}; use strength.clamp(0, 1)")

    return found


def _augmented(
    controller: Any, images: Tensor, signals: SampleSignals, index: Tensor, data: MadeUp, step: int
) -> Tensor:
    """A batch as the controller augments it, checked."""
    found = call(controller, "augment", images, signals, index, data.generator(step))
    _check_augmented(f"{type(controller).__name__}.augment", found, images)
    result: Tensor = found
    return result


def _check_augmented(where: str, found: Any, images: Tensor) -> None:
    """Check that augmented images are of the shape, the type and the range of the images."""
    if not isinstance(found, Tensor):
        raise ValueError(f"{where} must return a tensor of images, got {type(found).__name__}")
    for what in ("shape", "dtype", "device"):
        was, now = getattr(images, what), getattr(found, what)
        if was != now:
            was, now = (tuple(value) if what == "shape" else value for value in (was, now))
            raise ValueError(
                f"{where} changed the {what} of the images from {was} to {now}; it must stay: crops and "
                "normalisation are the transform's business"
            )

    if images.is_floating_point() and not bool(((found >= -EDGE) & (found <= 1 + EDGE)).all()):
        low, high = float(found.min()), float(found.max())
        raise ValueError(
            f"{where} took floating images out of [0, 1], to {low:.3g}..{high:.3g}; use "
            "images.clamp(0, 1), and normalise in the transform"
        )


def _check_images(controller: Any, data: MadeUp) -> None:
    """Check images of one and of three channels, bytes and floats."""
    signals, index = data.signals(), data.everything()[:BATCH]
    for channels in (1, 3):
        stored = _images(data, index, channels)
        for images in (stored, stored.float() / 255):
            _augmented(controller, images, signals, index, data, 8)


def _check_state(controller: Any, make: Make, data: MadeUp) -> None:
    """Check that a fresh controller with this one's state goes on as this one does."""
    needs, other = declared_needs(controller, NEEDS), make()
    state, saved = reloaded(controller, other)

    for epoch in range(EPOCHS, EPOCHS + 2):
        one, two = (_epoch(each, data.signals(), data, epoch, needs) for each in (controller, other))
        if controller.epoch != other.epoch or not same(one, two):
            raise ValueError(
                f"a fresh {type(controller).__name__} with the state of another one augments otherwise: "
                "state_dict leaves something out, or load_state_dict does not take it in; extend super()'s "
                "by all that it remembers"
            )
    check_copied(controller, state, saved)
