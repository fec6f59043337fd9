"""The loss of each image, for torchvision's detection models, whose own losses are those of a batch.

In training mode these models return losses that are taken over the whole batch. Here the backbone and the
heads run once for all images, as in the model's own forward, and the losses are then taken image by image by
torchvision's own functions. What the loss of an image is divided by is `share`:

- "image": what the model divides by where it is given that image alone, its own matched anchors or sampled
  proposals. The mean over images is then the model's own loss for RetinaNet; for Faster R-CNN where all
  images have the same number of sampled proposals, which is so unless an image is short of them; for FCOS and
  SSD where all have the same number of matched anchors, else not.
- "batch": the mean number over the batch. The mean over images is then the model's own loss, for every model.
  But the loss of an image depends on the others of its batch, and images with many objects have larger ones.

Batch normalisation sees the whole batch, and Faster R-CNN draws its proposals from torch's global stream,
both as in the model's own forward.

Use::

    import torch
    from torchvision.models.detection import ssdlite320_mobilenet_v3_large
    from dsenv.vision import detection_losses

    model = ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=3)
    target = {"boxes": torch.tensor([[10.0, 20.0, 60.0, 90.0]]), "labels": torch.tensor([1])}
    losses = sum(detection_losses(model, torch.rand(2, 3, 100, 100), [target, target]).values())
    losses.mean().backward()
"""

import copy
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from dsenv.errors import pick
from dsenv.vision.boxes import check_detection_targets

Targets = Sequence[Mapping[str, Any]]
SHARES = ("image", "batch")
NO_MODEL = (
    "the model must be Faster R-CNN, Mask R-CNN, RetinaNet, FCOS or SSD of torchvision.models.detection"
)
INSIDE = (
    "of DistributedDataParallel or torch.compile give the module inside, and of a model of your own take one "
    "loss for each image yourself"
)


def detection_losses(
    model: nn.Module, images: Sequence[Tensor] | Tensor, targets: Targets, *, share: str = "image"
) -> dict[str, Tensor]:
    """The losses of a torchvision detection model for each image, in one forward pass, see the module.

    Their sum over the parts is what a plan takes::

        losses = sum(detection_losses(model, images, targets).values())  # (B,)
        loss = plan.loss(batch, losses)

    Args:
        model: Faster R-CNN, Mask R-CNN, RetinaNet, FCOS or SSD of `torchvision.models.detection`, in training
            mode; it is left as it is.
        images: B of (C, H, W), floating in [0, 1].
        targets: for each image a table with `boxes` (n, 4), floating corners x1, y1, x2, y2 in pixels, and
            `labels` (n,) int64; for Mask R-CNN `masks` (n, H, W) too.
        share: what the loss of an image is divided by: its own number ("image"), or the mean ("batch").

    Returns:
        The parts of the loss by torchvision's names, each (B,), with their graph.

    Raises:
        ValueError: the model is none of these or not in training mode, or a target is not as said above.
    """
    share = pick("share", share, SHARES)
    change = next((change for name, change in CHANGES.items() if isinstance(model, _class_of(name))), None)
    if change is None:
        raise ValueError(f"{NO_MODEL}, got {type(model).__name__}; {INSIDE}")
    if not model.training:
        raise ValueError("the model is in evaluation mode and gives no losses: call model.train() first")
    check_detection_targets(targets, [(image.shape[-2], image.shape[-1]) for image in images])

    twin = _twin(model)
    change(twin, share)
    found: dict[str, Tensor] = twin(list(images), [_plain(target) for target in targets])
    return found


def _class_of(name: str) -> Any:
    """A class of `torchvision.models.detection`; no class where its module was not imported."""
    module, _, attribute = name.rpartition(".")
    return getattr(sys.modules.get(f"torchvision.models.detection.{module}"), attribute, ())


def _twin(module: nn.Module) -> Any:
    """A module that shares parameters and parts with another, and may be given other methods and parts."""
    twin = copy.copy(module)
    vars(twin)["_modules"] = dict(module._modules)
    return twin


def _plain(target: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: value.as_subclass(Tensor) if isinstance(value, Tensor) else value
        for key, value in target.items()
    }


def _by_image(parts: Sequence[Mapping[str, Tensor]], counts: Tensor | None, share: str) -> dict[str, Tensor]:
    """Losses of single images as (B,), each by name.

    Args:
        parts: losses () of each image by name, divided by its own count.
        counts: (B,) what each image's losses were divided by; None where the model itself takes their mean.
        share: see `detection_losses`.
    """
    found = {name: torch.stack([part[name] for part in parts]) for name in parts[0]}
    if counts is None or share == "image":
        return found
    factor = counts.clamp(min=1) * len(parts) / counts.sum().clamp(min=1)
    return {name: losses * factor.to(losses) for name, losses in found.items()}


def _one_by_one(compute: Any, share: str, *, counts: bool) -> Callable[..., dict[str, Tensor]]:
    """A function that takes the losses of a batch image by image, in place of `compute`.

    Args:
        compute: of targets, outputs of the heads, anchors and matches: losses () by name.
        share: see `detection_losses`.
        counts: whether `compute` divides by the number of matched anchors of all images together.
    """

    def losses(
        targets: list[Any], outputs: dict[str, Tensor], anchors: list[Tensor], matched: list[Tensor]
    ) -> dict[str, Tensor]:
        parts = []
        for number in range(len(targets)):
            one = slice(number, number + 1)
            own = {name: value[one] for name, value in outputs.items()}
            parts.append(compute(targets[one], own, anchors[one], matched[one]))
        numbers = torch.stack([(match >= 0).sum() for match in matched]) if counts else None
        return _by_image(parts, numbers, share)

    return losses


def _change_head(model: Any, share: str, *, counts: bool) -> None:
    """Of a model whose head takes the losses."""
    head = _twin(model.head)
    head.compute_loss = _one_by_one(model.head.compute_loss, share, counts=counts)
    model.head = head


def _change_ssd(model: Any, share: str) -> None:
    """SSD takes the losses itself."""
    model.compute_loss = _one_by_one(type(model).compute_loss.__get__(model), share, counts=True)


def _change_rcnn(model: Any, share: str) -> None:
    """Faster and Mask R-CNN: losses of the proposals, and of the boxes and masks made of them."""
    if model.roi_heads.has_keypoint():
        raise ValueError(
            "detection_losses does not take Keypoint R-CNN; call the model once for each image, and give "
            "plan.loss the sums of its losses"
        )
    model.rpn = _change_proposals(model.rpn, share)
    heads = _twin(model.roi_heads)
    heads.forward = partial(_head_losses, model.roi_heads, share)
    model.roi_heads = heads


def _change_proposals(rpn: Any, share: str) -> Any:
    """A region proposal network whose losses are those of each image."""
    counts: list[Tensor] = []
    counting = _twin(rpn)

    def sample(labels: list[Tensor]) -> Any:
        chosen = rpn.fg_bg_sampler(labels)
        counts.append(sum((mask > 0).sum() for masks in chosen for mask in masks))
        return chosen

    def losses(
        objectness: Tensor, deltas: Tensor, labels: list[Tensor], targets: list[Tensor]
    ) -> tuple[Tensor, Tensor]:
        lengths = [len(label) for label in labels]
        rows = zip(
            torch.split(objectness, lengths), torch.split(deltas, lengths), labels, targets, strict=True
        )
        parts = [
            counting.compute_loss(score, delta, [label], [target]) for score, delta, label, target in rows
        ]
        named = [dict(zip(("objectness", "boxes"), part, strict=True)) for part in parts]
        found = _by_image(named, torch.stack(counts), share)
        return found["objectness"], found["boxes"]

    counting.fg_bg_sampler = sample
    twin = _twin(rpn)
    twin.compute_loss = losses
    return twin


def _head_losses(
    heads: Any, share: str, features: Any, proposals: Any, sizes: Any, targets: Any
) -> tuple[list[Any], dict[str, Tensor]]:
    """`RoIHeads.forward` in training mode, with the losses of each image.

    Args:
        heads: `torchvision.models.detection.roi_heads.RoIHeads`.
        share: see `detection_losses`.
        features: of the backbone, by level.
        proposals: boxes of each image.
        sizes: (H, W) of each image.
        targets: of each image.
    """
    from torchvision.models.detection import roi_heads

    # One pass for all images
    chosen, matched, labels, regression = heads.select_training_samples(proposals, targets)
    pooled = heads.box_head(heads.box_roi_pool(features, chosen, sizes))
    logits, deltas = heads.box_predictor(pooled)

    # The losses of the boxes of each image
    counts = [len(label) for label in labels]
    rows = zip(torch.split(logits, counts), torch.split(deltas, counts), labels, regression, strict=True)
    parts = []
    for logit, delta, label, target in rows:
        if not len(label):  # no proposal is left of this image
            parts.append({"loss_classifier": logit.sum(), "loss_box_reg": delta.sum()})
            continue
        of_class, of_box = roi_heads.fastrcnn_loss(logit, delta, [label], [target])
        parts.append({"loss_classifier": of_class, "loss_box_reg": of_box})
    found = _by_image(parts, torch.tensor(counts, device=logits.device), share)

    if heads.has_mask():
        found |= _mask_losses(heads, share, features, sizes, targets, chosen, matched, labels)
    return [], found


def _mask_losses(
    heads: Any, share: str, features: Any, sizes: Any, targets: Any, chosen: Any, matched: Any, labels: Any
) -> dict[str, Tensor]:
    """The loss of the masks of each image, of the proposals `chosen` whose label is that of an object."""
    from torchvision.models.detection import roi_heads

    rows_of = [torch.where(label > 0)[0] for label in labels]
    boxes = [box[rows] for box, rows in zip(chosen, rows_of, strict=True)]
    own = [match[rows] for match, rows in zip(matched, rows_of, strict=True)]
    masks = heads.mask_predictor(heads.mask_head(heads.mask_roi_pool(features, boxes, sizes)))

    counts = [len(rows) for rows in rows_of]
    each = zip(torch.split(masks, counts), boxes, targets, own, strict=True)
    parts = [
        {"loss_mask": roi_heads.maskrcnn_loss(mask, [box], [goal["masks"]], [goal["labels"]], [match])}
        for mask, box, goal, match in each
    ]
    return _by_image(parts, torch.tensor(counts, device=masks.device), share)


CHANGES: dict[str, Callable[[Any, str], None]] = {
    "generalized_rcnn.GeneralizedRCNN": _change_rcnn,
    "retinanet.RetinaNet": partial(_change_head, counts=False),
    "fcos.FCOS": partial(_change_head, counts=True),
    "ssd.SSD": _change_ssd,
}
"""Class of torchvision -> what makes a twin of a model give the losses of each image."""
