"""What a training loop hands to a plan, checked; each message says what to pass instead."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from dsenv.augment.base import AugmentationController
from dsenv.plan.data import Batch
from dsenv.policy.parts import LearnedVolume
from dsenv.select.base import Selector


def check_batch_size(size: int, batch_size: int, left: int) -> None:
    """Check that a loader of the user's own makes the batches that the plan counts as steps.

    Args:
        size: samples in its batch.
        batch_size: the plan's.
        left: samples of the epoch from this batch on; the last batch holds what is left over.

    Raises:
        ValueError: the batch has another size.
    """
    if size != min(batch_size, left):
        raise ValueError(
            f"the batch holds {size} samples, the plan makes steps of {batch_size}: give the DataLoader "
            "batch_size=plan.batch_size, or DataPlan(batch_size=...) that of the loader"
        )


def check_epoch(epoch: int, done: int, end: int | None) -> None:
    """Warn when an epoch ends with chosen samples that were not trained on.

    Args:
        epoch: its number.
        done: samples trained on.
        end: samples that it was to train on; None where they were not chosen yet.
    """
    if done and end is not None and done < end:
        warnings.warn(
            f"epoch {epoch} ended with {end - done} of its {end} chosen samples not trained on: plan.loss "
            f"was taken for {done}. A loop that leaves an epoch early, skips batches or is cut short by a "
            "framework spends less than the budget, and its learning rate does not end where it should",
            stacklevel=4,
        )

    if not done:
        warnings.warn(
            f"epoch {epoch} ended without plan.loss: the plan has learnt nothing from it and counts no step; "
            "take the loss of every training batch by plan.loss(batch, losses)",
            stacklevel=4,
        )


def check_next_epoch(epoch: int, current: int) -> None:
    """Check that a plan in epoch `current` can go to `epoch`.

    Raises:
        ValueError: it is neither the current epoch nor the next one.
    """
    if epoch not in (current, current + 1):
        raise ValueError(
            f"the plan is in epoch {current} and can go on to {current + 1}, not to {epoch}; signals come "
            "from training, so epochs cannot be skipped: load a state of that epoch"
        )


def check_stamp(batch: Batch, plan: int, epoch: int) -> None:
    """Check that a batch is of this plan and of its current epoch.

    Raises:
        ValueError: it is another plan's, or is left over from another epoch.
    """
    if batch.plan != plan:
        raise ValueError(
            "the batch is of another plan: its positions mean other samples; give each plan the batches "
            "that it made (plan.batches, plan.loader, plan.batch)"
        )
    if batch.epoch != epoch:
        raise ValueError(
            f"the batch is of epoch {batch.epoch}, the plan is in epoch {epoch}: take plan.loss before the "
            "epoch ends"
        )


def check_losses(losses: Any, size: int, device: torch.device) -> None:
    """Check that `losses` is one value for each of `size` samples, on the plan's device.

    Raises:
        ValueError: it is a scalar, has another shape, or is somewhere else.
    """
    if not isinstance(losses, Tensor) or losses.dim() == 0:
        raise ValueError(
            "plan.loss needs the loss of each sample, got a scalar; compute it with reduction='none', for "
            "example F.cross_entropy(logits, labels, reduction='none'), and let plan.loss take the mean"
        )

    if losses.shape != (size,):
        raise ValueError(
            f"plan.loss needs losses of shape ({size},), one value a sample, got {tuple(losses.shape)}; "
            "take the mean over the other dimensions first, for example losses.flatten(1).mean(1)"
        )

    if losses.device != device:
        raise ValueError(
            f"the losses are on {losses.device}, the plan's batches on {device}; give "
            f"DataPlan(device={str(losses.device)!r}), and the plan puts batches there"
        )


def _check_needed(
    parts: Sequence[Selector | AugmentationController | LearnedVolume | None],
    outputs: Mapping[str, Tensor | None],
) -> None:
    for part in parts:
        if part is None or getattr(part, "needs_pass", False):
            continue  # a static selector learns only from the scoring pass
        for name, given in outputs.items():
            if given is None and getattr(part, f"needs_{name}"):
                raise ValueError(
                    f"{type(part).__name__} needs the {name} of every training batch: "
                    f"plan.loss(batch, losses, {name}=...); {HINTS[name]}"
                )


def check_outputs(
    parts: Sequence[Selector | AugmentationController | LearnedVolume | None],
    size: int,
    classes: int | None,
    logits: Tensor | None,
    features: Tensor | None,
    labels: Any,
) -> None:
    """Check that a batch's outputs are there where a part needs them, and have the right shape.

    Raises:
        ValueError: logits, features or labels are missing or of another shape.
    """
    _check_needed(parts, {"logits": logits, "features": features})
    if features is not None and (features.dim() != 2 or len(features) != size):
        raise ValueError(f"features must have shape ({size}, D), got {tuple(features.shape)}; flatten them")

    if logits is None:
        return
    if classes is None:
        raise ValueError(
            "logits were given, but the number of classes is not known; set DataPlan(classes=...)"
        )
    if logits.shape != (size, classes):
        raise ValueError(
            f"logits must have shape ({size}, {classes}), got {tuple(logits.shape)}; where the labels do not "
            "name every class, set DataPlan(classes=...); where outputs are not classes, leave logits out"
        )
    if not isinstance(labels, Tensor) or labels.dtype != torch.int64 or labels.shape != (size,):
        shape = tuple(labels.shape) if isinstance(labels, Tensor) else type(labels).__name__
        raise ValueError(
            f"with logits, batch.labels must be int64 classes of shape ({size},), got {shape}; set them by "
            "batch._replace(labels=...), or leave logits out"
        )


HINTS = {
    "logits": "the model's outputs (B, C)",
    "features": "the inputs (B, D) of its last layer, by dsenv.plan.FeatureForward(model, head)",
}


def check_views(controller: AugmentationController, views: Any) -> None:
    """Check that a controller gave the view to train on and as many others as it says.

    Raises:
        ValueError: it gave another number, or no tuple.
    """
    found = len(views) if isinstance(views, tuple) else type(views).__name__
    if found != 1 + controller.extra_views:
        raise ValueError(
            f"{type(controller).__name__}.views must give a tuple of {1 + controller.extra_views}: the view "
            f"to train on and extra_views = {controller.extra_views} more; got {found}"
        )


def check_forward(controller: AugmentationController, batch: Batch, forward: Any) -> None:
    """Check that a controller which compares views gets them, and the model to run on them.

    Raises:
        ValueError: there is no forward function, or the batch lacks its views.
    """
    name = type(controller).__name__
    if forward is None:
        raise ValueError(
            f"{name} compares the losses of {1 + controller.extra_views} views: plan.loss(batch, losses, "
            "features=features, forward=forward), with forward(inputs) -> (logits, features)"
        )

    if len(batch.views) != controller.extra_views:
        raise ValueError(f"{name} needs the batch as the plan made it, with its views")


def check_total_steps(scheduler: Any, steps: int, epochs: int) -> None:
    """Warn when a learning-rate schedule is made for another number of steps than the plan has.

    A number that equals `epochs` is taken for a schedule that steps once an epoch.
    """
    for name in ("total_steps", "T_max"):
        planned = getattr(scheduler, name, None)
        if planned is not None and planned not in (steps, epochs):
            warnings.warn(
                f"{type(scheduler).__name__} has {name}={planned}, the plan has {steps} steps in {epochs} "
                f"epochs: the learning rate will not end where it should; give {name}=plan.total_steps",
                stacklevel=3,
            )


def check_state(state: Any, own: dict[str, Any]) -> None:
    """Check that a saved state is of a plan like this one.

    Raises:
        ValueError: a setting differs; the message names it.
    """
    for name, value in own.items():
        saved = state["plan"].get(name)
        if saved != value:
            raise ValueError(
                f"the state is of a plan with {name}={_short(saved)}, this one has {_short(value)}; build it "
                "with the settings it was saved with"
            )


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else text[:57] + "..."
