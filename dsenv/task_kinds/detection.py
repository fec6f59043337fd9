"""Detection: boxes of objects and their classes, of which a plan knows the loss of each image alone."""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from dsenv.errors import check_positive, shown
from dsenv.task_kinds.base import TaskKind, found

NO_READING = "a detection model says something of thousands of anchors, and not one {name} of an image"
GUESS = 1.0  # about the loss of torchvision's models before training


class Detection(TaskKind):
    """Boxes of objects and their classes.

    Targets are a table for each image, with `boxes` (n, 4) and `labels` (n,), see
    `dsenv.vision.detection_losses`, whose losses are what this kind takes as outputs: a table of parts (B,),
    or their sum (B,). A plan knows the loss of each image and nothing else, so selectors and controllers that
    read entropy, confidence, margin or correctness are refused.

    The metric is the mean of 1 / (1 + loss / guess_loss), in [0, 1]. It is no mean average precision, which
    belongs to the evaluation (torchmetrics, pycocotools). No definition of EL2N or of Data Agent's reward for
    detection is published.

    Args:
        guess_loss: the loss of an untrained model, the scale of the losses.
    """

    name = "detection"
    gives = ()
    why_not: ClassVar[Mapping[str, str]] = {
        "confidence": NO_READING.format(name="confidence"),
        "entropy": NO_READING.format(name="entropy"),
        "margin": NO_READING.format(name="margin"),
        "correct": "whether a detection is right depends on thresholds of score and overlap",
        "error": "its gradient is one over thousands of anchors, which the losses do not tell",
    }
    on_images = "boxes"
    """Plain targets that augmentation moves along with the images."""

    def __init__(self, guess_loss: float = GUESS) -> None:
        self.guess_loss = check_positive("guess_loss", guess_loss)

    def sample_loss(self, outputs: Any, targets: Any) -> Tensor:
        del targets
        if isinstance(outputs, Tensor):
            return outputs
        parts: list[Tensor] = list(outputs.values())
        return torch.stack(parts).sum(0)

    def read(self, outputs: Any, targets: Any, loss: Tensor) -> dict[str, Tensor]:
        del outputs, targets, loss
        return {}

    def check_targets(self, what: str, targets: Any, size: int) -> None:
        wanted = f"{what} must be a list of {size} tables with 'boxes' (n, 4) and 'labels' (n,)"
        if not isinstance(targets, list | tuple) or len(targets) != size:
            given = f"{len(targets)} items" if isinstance(targets, list | tuple) else found(targets)
            raise ValueError(f"{wanted}, got {given}; collate_fn=lambda samples: tuple(zip(*samples))")
        for row, target in enumerate(targets):
            if not isinstance(target, Mapping) or not {"boxes", "labels"} <= set(target):
                given = shown(list(target)) if isinstance(target, Mapping) else found(target)
                raise ValueError(f"{wanted}, got {given} in row {row}")
            boxes = target["boxes"]
            if not isinstance(boxes, Tensor) or boxes.dim() != 2 or boxes.shape[1] != 4:
                raise ValueError(
                    f"{wanted}, got boxes {found(boxes)} in row {row}; (0, 4) where there is none"
                )

    def check_outputs(self, outputs: Any, targets: Any) -> None:
        parts = list(outputs.values()) if isinstance(outputs, Mapping) else [outputs]
        for part in parts:
            if not isinstance(part, Tensor) or part.shape != (len(targets),):
                raise ValueError(
                    f"outputs for detection must be the losses ({len(targets)},) of each image, got "
                    f"{found(part)}; torchvision's models give means over the batch: "
                    "dsenv.vision.detection_losses(model, images, targets) gives those of each image"
                )
