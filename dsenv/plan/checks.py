"""What a training loop hands to a plan, checked; each message says what to pass instead."""

import math
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from dsenv.augment.base import AugmentationController
from dsenv.errors import shown
from dsenv.outputs import ModelOutputs
from dsenv.plan.collate import NothingLeft
from dsenv.plan.data import IGNORED, Batch, are_whole, no_class
from dsenv.plan.epoch_record import EpochRecord
from dsenv.plan.plan_guard import PlanGuard
from dsenv.select.base import Selector
from dsenv.task_kinds.base import TaskKind


def check_labels(
    labels: Any,
    index: Tensor,
    classes: int | None,
    kind: TaskKind | None = None,
    lengths: Tensor | None = None,
) -> None:
    """Check the labels of a loader's batch where they are on the CPU: one for each sample, and classes.

    Args:
        labels: what the data set gives as target.
        index: (B,) positions.
        classes: C; None where it is not known.
        kind: of the task; None for classification.
        lengths: (B,) of samples that lie in one row without padding; None where each has a row.

    Raises:
        ValueError: there are more or fewer labels than positions, or one is not in 0..C-1.
    """
    if not isinstance(labels, Tensor):
        return
    is_flat = lengths is not None and len(lengths) == len(index) and 1 in (labels.dim(), len(labels))
    if labels.dim() and len(index) not in labels.shape and not is_flat:
        raise ValueError(
            f"the batch has {len(index)} positions and labels of shape {tuple(labels.shape)}: the collate "
            "function leaves samples out or adds some; give it to plan.loader(collate_fn=...), or to "
            "dsenv.plan.IndexedCollate in a loader of your own, and its positions follow"
        )
    if not are_whole(labels) or labels.dim() != 1 or not len(labels) or labels.device.type != "cpu":
        return
    if kind is not None and kind.classes is None:
        return

    low, high = (int(value) for value in labels.aminmax())
    if low == IGNORED or (classes is not None and (low < 0 or high >= classes)):
        label = low if low < 0 else high
        position = int(index[(labels == label).nonzero()[0].to(index.device)])
        raise ValueError(no_class(label, position, classes))


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
            "example F.cross_entropy(logits, labels, reduction='none'), and let plan.loss take the mean; "
            "where the loss is a mean over the batch and nothing else, DataPlan(loss_of='batch') takes it"
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
        f"{found}; take the mean over the other dimensions first: losses.flatten(1).mean(1) for pixels, or "
        "plan.kind.sample_loss of DataPlan(kind='segmentation'), which leaves out what does not count; for "
        "tokens with padding only over what counts, (losses * mask).sum(1) / mask.sum(1), because padding "
        "counted as 0 makes short samples look easy; dsenv.text.from_logits and token_losses do that, and "
        "plan.loss(..., tokens=mask.sum(1)) lets every token count the same"
    )


def check_tokens(tokens: Any, size: int, device: torch.device, losses: Tensor | None = None) -> None:
    """Check that `tokens` is one number for each of `size` samples, on the plan's device.

    Args:
        tokens: what was given.
        size: B.
        device: of the plan's batches.
        losses: (B,) of the samples; one without tokens may have none (NaN). None where each needs tokens.

    Raises:
        ValueError: it is something else; on a CPU also where a sample has no token.
    """
    is_tensor = isinstance(tokens, Tensor)
    is_number = is_tensor and (tokens.is_floating_point() or tokens.dtype in (torch.int32, torch.int64))
    if not is_number or tokens.shape != (size,) or tokens.layout != torch.strided:
        found = f"{tokens.dtype} {tuple(tokens.shape)}" if is_tensor else shown(tokens)
        raise ValueError(
            f"tokens must be numbers of shape ({size},), how many each loss is the mean of, got {found}; "
            "mask.sum(1) of a mask (B, T)"
        )
    if tokens.device != device:
        raise ValueError(f"the tokens are on {tokens.device}, the plan's batches on {device}")
    is_right = (tokens >= 1) & (tokens < math.inf) if tokens.is_cpu else None
    if is_right is not None and losses is not None:
        is_right |= (tokens == 0) & losses.isnan()
    if is_right is not None and not bool(is_right.all()):
        row = int((~is_right).nonzero()[0])
        raise ValueError(
            "tokens must be at least 1 for each sample, and finite, got "
            f"{tokens[row].item():g} in row {row}: a sample whose labels are all masked has no loss; leave "
            "it out of the data"
        )


HINTS = {
    "logits": "the model's outputs (B, C)",
    "features": "the inputs (B, D) of its last layer, by dsenv.plan.FeatureForward(model, head)",
}


def check_output(name: str, value: Any, device: torch.device) -> None:
    """Check that logits or features are a floating tensor on the plan's device.

    Raises:
        ValueError: they are of another type, or somewhere else.
    """
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


def check_pass(index: Tensor, logits: Tensor, features: Tensor | None, classes: int | None) -> None:
    """Check that a scoring pass gives one row of outputs for each sample of a batch.

    Raises:
        ValueError: it gives another number, or logits for another number of classes.
    """
    given = {"logits": logits, "features": features}
    for name, value in given.items():
        if value is not None and (value.dim() == 0 or len(value) != len(index)):
            raise ValueError(
                f"a pass over {len(index)} samples gave {name} of shape {tuple(value.shape)}: it needs one "
                "row a sample"
            )
        if value is not None and name in HINTS:
            check_output(name, value, value.device)
    if features is not None and features.dim() != 2:
        raise ValueError(f"features must have shape (B, D), got {tuple(features.shape)}; flatten them")
    if logits.dim() == 2 and classes is not None and logits.shape[1] != classes:
        raise ValueError(
            f"logits must have shape ({len(index)}, {classes}), got {tuple(logits.shape)}; set "
            "DataPlan(classes=...) right, or give the outputs for all classes"
        )


def check_scored(selector: Selector, passes: Sequence[ModelOutputs]) -> None:
    """Check that the scoring passes gave the features that a selector needs.

    Raises:
        ValueError: they did not.
    """
    if selector.needs_features and any(found.features is None for found in passes):
        raise ValueError(
            f"{type(selector).__name__} needs the features of the pass: plan.score(dsenv.plan.FeatureForward("
            "model, head)), or of a function that gives (logits, features)"
        )


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


def check_suspects(kind: TaskKind) -> None:
    """Check that labels are classes, which `DataPlan.suspects` looks at.

    Raises:
        ValueError: they are not.
    """
    if kind.classes is None:
        raise ValueError(
            f"suspects are labels that a model takes for another class, and a task of kind {kind.name} has "
            "no classes; look at plan.signals.loss_ema, and at plan.signals.margin where the kind gives it"
        )


def check_reserve(guard: PlanGuard | None, record: EpochRecord | None, epoch: int) -> PlanGuard:
    """The guard whose reserve is to be scored now; warns where samples of the epoch are still to come.

    Raises:
        ValueError: there is none, or nothing of the epoch was trained on.
    """
    if guard is None:
        raise ValueError("this plan has no guard, so no reserve to score: give DataPlan(guard=True)")
    if record is None or not record.done:
        raise ValueError(
            f"nothing of epoch {epoch} was trained on yet: call plan.score_reserve(model) after the epoch's "
            "last batch, in the body of the loop over the epochs"
        )
    if not record.is_done:
        text = f"the reserve is scored after {record.done} of the {record.own_end} samples of epoch {epoch}"
        warnings.warn(f"{text}: score it after the last batch, or the others are not in it", stacklevel=3)
    return guard


def check_not_left_out(sample: Any) -> None:
    """Check that a collate function left something of a batch.

    Raises:
        ValueError: it left nothing.
    """
    if isinstance(sample, NothingLeft):
        raise ValueError(
            "the collate function left out all samples of a batch: use plan.loader, or pass it over"
        )
