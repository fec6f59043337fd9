"""What a training loop hands to a plan, checked; each message says what to pass instead."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from dsenv.augment.base import AugmentationController
from dsenv.augment.geometric import GEOMETRIC_OPS
from dsenv.errors import shown
from dsenv.plan.data import Batch
from dsenv.plan.epoch_record import EpochRecord
from dsenv.policy.parts import LearnedVolume
from dsenv.select.base import Selector

ON_IMAGES = ("boxes", "masks", "keypoints", "bbox", "mask", "segmentation")  # targets that lie on images


def check_labels(labels: Any, index: Tensor, classes: int | None) -> None:
    """Check the labels of a loader's batch where they are on the CPU: one for each sample, and classes.

    Args:
        labels: what the data set gives as target.
        index: (B,) positions.
        classes: C; None where it is not known.

    Raises:
        ValueError: there are more or fewer labels than positions, or one is not in 0..C-1.
    """
    if not isinstance(labels, Tensor):
        return
    if labels.dim() and len(index) not in labels.shape:
        raise ValueError(
            f"the batch has {len(index)} positions and labels of shape {tuple(labels.shape)}: the collate "
            "function leaves samples out or adds some; give it to plan.loader(collate_fn=...), or to "
            "dsenv.plan.IndexedCollate in a loader of your own, and its positions follow"
        )
    if classes is None or labels.dtype != torch.int64 or labels.dim() != 1 or labels.device.type != "cpu":
        return

    low, high = (int(value) for value in labels.aminmax())
    if low < 0 or high >= classes:
        label = low if low < 0 else high
        position = int(index[(labels == label).nonzero()[0].to(index.device)])
        raise ValueError(
            f"labels must be classes, 0 to {classes - 1}; got {label} at position {position}: set "
            "DataPlan(classes=...) right, or leave such samples out of the data"
        )


def check_geometry(controller: AugmentationController, inputs: Tensor, labels: Any) -> None:
    """Check that augmentation leaves labels true: geometric ops move objects, and masks and boxes stay.

    Raises:
        ValueError: the labels lie on the images, and an op moves the images.
    """
    moving = [name for name in getattr(controller, "ops", ()) if name in GEOMETRIC_OPS]
    if not moving:
        return

    what = ""
    if isinstance(labels, Tensor) and labels.dim() >= 3 and labels.shape[-2:] == inputs.shape[-2:]:
        what = f"labels of shape {tuple(labels.shape)} are masks"
    targets = labels if isinstance(labels, list | tuple) else [labels]
    found = {key for target in targets if isinstance(target, Mapping) for key in target} & set(ON_IMAGES)
    if found:
        what = f"targets with {', '.join(sorted(found))}"
    if what:
        raise ValueError(
            f"augment moves images ({', '.join(moving[:3])}, ...), and {what} that would not move along; use "
            "ops that leave places alone: augment={'name': ..., 'ops': dsenv.augment.ops.PHOTOMETRIC_OPS}"
        )


def check_epoch(epoch: int, record: EpochRecord | None) -> None:
    """Warn when an epoch ends with chosen samples that were not trained on.

    Args:
        epoch: its number.
        record: which were; None where they were not chosen yet.
    """
    if record is None or not record.done:
        warnings.warn(
            f"epoch {epoch} ended without plan.loss: the plan has learnt nothing from it and counts no step; "
            "take the loss of every training batch by plan.loss(batch, losses)",
            stacklevel=4,
        )
        return

    if record.left_out:
        positions = shown(sorted(record.left_out))
        warnings.warn(
            f"epoch {epoch}: the collate function left out {len(record.left_out)} of {record.end} chosen "
            f"samples (positions {positions}); take them out of the data set, and others are chosen instead",
            stacklevel=4,
        )
    missing = record.end - record.passed
    if missing > 0:
        warnings.warn(
            f"epoch {epoch} ended with {missing} of its {record.end} chosen samples not trained on: "
            f"plan.loss was taken for {record.done}. A loop that leaves an epoch early, skips batches or is "
            "cut short by a framework spends less than the budget, and its learning rate does not end where "
            "it should",
            stacklevel=4,
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
    """Check that `losses` is one floating value for each of `size` samples, on the plan's device.

    Raises:
        ValueError: it is no tensor, a scalar, has another shape or type, or is somewhere else.
    """
    if not isinstance(losses, Tensor):
        raise ValueError(
            f"plan.loss needs the losses as a tensor of shape ({size},), with its graph, got "
            f"{type(losses).__name__} {shown(losses)}; compute them with torch, reduction='none'"
        )
    if losses.dim() == 0:
        raise ValueError(
            "plan.loss needs the loss of each sample, got a scalar; compute it with reduction='none', for "
            "example F.cross_entropy(logits, labels, reduction='none'), and let plan.loss take the mean"
        )

    if losses.shape != (size,):
        raise ValueError(f"plan.loss needs losses of shape ({size},), {_loss_advice(losses, size)}")
    if not losses.is_floating_point() or losses.layout != torch.strided:
        raise ValueError(f"plan.loss needs dense, floating losses, got {losses.dtype} ({losses.layout})")
    if losses.device != device:
        raise ValueError(
            f"the losses are on {losses.device}, the plan's batches on {device}; give "
            f"DataPlan(device={str(losses.device)!r}), and the plan puts batches there"
        )


def _loss_advice(losses: Tensor, size: int) -> str:
    """What to do about losses of another shape than (B,)."""
    found = f"one value a sample, got {tuple(losses.shape)}"
    if losses.dim() == 1 and len(losses) < size:
        return (
            f"{found}: {size - len(losses)} samples of the batch are missing. Where a collate function "
            "leaves them out, use plan.loader(collate_fn=...), which follows it; where the loop does, give "
            "batch._replace(index=batch.index[kept], weight=batch.weight[kept], labels=batch.labels[kept])"
        )
    if losses.dim() == 1:
        return f"{found}; give the losses of this batch alone"
    return (
        f"{found}; take the mean over the other dimensions first: losses.flatten(1).mean(1) for pixels; for "
        "tokens with padding only over what counts, (losses * mask).sum(1) / mask.sum(1), because padding "
        "counted as 0 makes short samples look easy"
    )


def check_pass(index: Tensor, logits: Tensor, features: Tensor | None, labels: Tensor) -> None:
    """Check that a scoring pass gives one row of outputs and one label for each sample of a batch.

    Raises:
        ValueError: it gives another number.
    """
    given = {"logits": logits, "features": features, "labels": labels}
    for name, value in given.items():
        if value is not None and (value.dim() == 0 or len(value) != len(index)):
            raise ValueError(
                f"a pass over {len(index)} samples gave {name} of shape {tuple(value.shape)}: it needs one "
                "row a sample"
            )
        if value is not None and name in HINTS:
            _check_output(name, value, value.device)


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
    device: torch.device,
) -> None:
    """Check that a batch's outputs are there where a part needs them, of the right shape, on the device.

    Raises:
        ValueError: logits, features or labels are missing, of another shape or type, or somewhere else.
    """
    for name, value in {"logits": logits, "features": features}.items():
        if value is not None:
            _check_output(name, value, device)
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


def _check_output(name: str, value: Any, device: torch.device) -> None:
    if not isinstance(value, Tensor):
        raise ValueError(f"{name} must be {HINTS[name]} as a tensor, got {type(value).__name__}")
    if not value.is_floating_point() or value.layout != torch.strided:
        raise ValueError(
            f"{name} must be {HINTS[name]}, dense and floating, got {value.dtype} ({value.layout})"
        )
    if value.device != device:
        raise ValueError(
            f"the {name} are on {value.device}, the plan's batches on {device}; give outputs where "
            f"the batches are, or DataPlan(device={str(value.device)!r})"
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
