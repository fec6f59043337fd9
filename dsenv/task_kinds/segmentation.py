"""Segmentation: the class of each pixel."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from dsenv.errors import LARGEST, check_count, shown
from dsenv.task_kinds.base import READINGS, TaskKind, check_tensor, found
from dsenv.vision.boxes import check_classes

IGNORED = 255  # class of pixels that count in no loss; torchvision's segmentation sets use it
MOST_CLASSES = 1 << 16
RIGHT = 0.5  # mean IoU from which on an image counts as right, the usual bound for objects


class Segmentation(TaskKind):
    """The class of each pixel; outputs are logits (B, C, H, W), targets int64 (B, H, W).

    Outputs may be the table {"out": logits} of torchvision's segmentation models. Pixels whose target is
    `ignore_index` count in nothing; each mask has at least one that counts.

    The loss of a sample is the mean cross-entropy of its pixels that count, so that large and small images
    compare, and the confidence exp(-loss), the geometric mean of the probabilities of their classes. Entropy
    (over log C) and error (softmax minus one-hot, which is EL2N of one pixel; Paul et al., 2021) are means
    over them. Margin is that of the worst class in the mask: the mean over its pixels of the probability of
    the class less the largest other. Over all pixels an image with the mask of another would look right,
    since most of both is background. All this is our reading, since those papers classify images. A sample
    is correct where the mean IoU of the classes in its mask is at least 0.5. The metric is the mean IoU over
    the classes that were seen or predicted, from intersections and unions over all samples.

    `read` holds two float32 tensors of the size of the logits beside them, whatever their type.

    For example::

        import torch
        from dsenv.task_kinds.segmentation import Segmentation

        kind = Segmentation(classes=4)
        logits = torch.randn(2, 4, 16, 16, requires_grad=True)
        masks = torch.randint(0, 4, (2, 16, 16))
        masks[:, :3] = 255  # pixels that do not count
        losses = kind.sample_loss(logits, masks)
        losses.mean().backward()
        said = kind.read(logits.detach(), masks, losses.detach())
        print(losses, said["confidence"], said["correct"])

    Args:
        classes: C, at least 2.
        ignore_index: target of pixels that do not count, and of those that augmentation brings in from
            outside of the image.
    """

    name = "segmentation"
    gives = READINGS
    metric_name = "mean IoU"
    on_images = "masks"

    def __init__(self, classes: int, ignore_index: int = IGNORED) -> None:
        self.outputs = self.pixel_classes = check_count("classes", classes, 2, MOST_CLASSES)
        self.ignore_index = check_count("ignore_index", ignore_index, -LARGEST, LARGEST)
        self.guess_loss = math.log(self.outputs)
        self.guess_confidence = 1 / self.outputs
        self.guess_metric = 1 / (2 * self.outputs - 1)

    def settings(self) -> dict[str, Any]:
        """`classes` of the base are those of a sample, of which there are none here."""
        return {**super().settings(), "classes": self.pixel_classes}

    def sample_loss(self, outputs: Any, targets: Tensor) -> Tensor:
        check_classes(targets)
        self.check_outputs(outputs, targets)
        if targets.device.type == "cpu":  # elsewhere it would be a wait, and an empty mask gives NaN
            self._check_values("the batch", targets)
        losses = functional.cross_entropy(
            logits_of(outputs).float(), targets, ignore_index=self.ignore_index, reduction="none"
        )  # (B, H, W), 0 for pixels that do not count
        return losses.flatten(1).sum(1) / self._counted(targets).flatten(1).sum(1)

    @torch.no_grad()
    def read(self, outputs: Any, targets: Tensor, loss: Tensor) -> dict[str, Tensor]:
        del loss  # of a loss function of one's own it would not be a likelihood
        logits = logits_of(outputs).detach()
        counted = self._counted(targets)
        right = targets.masked_fill(~counted, 0)[:, None]  # (B, 1, H, W)
        number = counted.flatten(1).sum(1)

        def mean(values: Tensor) -> Tensor:
            return torch.where(counted, values, 0.0).flatten(1).sum(1) / number

        # Two tensors of the size of the logits, each changed in place
        log_probability = logits.log_softmax(1, dtype=torch.float32)
        probability = log_probability.exp()
        log_right = log_probability.gather(1, right)[:, 0]
        entropy = -log_probability.mul_(probability).sum(1)
        gap = probability.scatter_add_(1, right, torch.full_like(right, -1, dtype=torch.float32))
        other = gap.amax(1)  # the right class has a gap of at most 0
        sums = self.statistics(outputs, targets, number)

        return {
            "confidence": mean(log_right).exp(),
            "entropy": mean(entropy) / math.log(self.pixel_classes),
            "margin": self._worst(log_right.exp() - other, targets, counted),
            "correct": (self._own_iou(sums, targets) >= RIGHT).float(),
            "error": mean(gap.square_().sum(1).sqrt_()),
        }

    @torch.no_grad()
    def statistics(self, outputs: Any, targets: Tensor, loss: Tensor) -> Tensor:
        del loss
        predicted = logits_of(outputs).max(1).indices  # argmax of an inner axis is far slower on a CPU
        counted = self._counted(targets)
        hit = self._areas(targets, counted & (predicted == targets))
        return torch.cat([hit, self._areas(targets, counted) + self._areas(predicted, counted) - hit], 1)

    def metric(self, sums: Tensor) -> Tensor:
        hit, union = torch.split(sums, self.pixel_classes, -1)
        known = union > 0
        return (hit / union.clamp(min=1)).sum(-1) / known.sum(-1).clamp(min=1)

    def check_targets(self, what: str, targets: Any, size: int) -> None:
        check_tensor(what, targets, size)
        if targets.dim() != 3 or targets.dtype != torch.int64:
            one_plane = targets.dim() == 4 and targets.shape[1] == 1
            hint = "use masks[:, 0].long()" if one_plane else "use masks.long(), one number a pixel"
            raise ValueError(
                f"{what} must be int64 classes of pixels (N, H, W), got {found(targets)}; {hint}"
            )
        self._check_values(what, targets)

    def _check_values(self, what: str, targets: Tensor) -> None:
        """Check that pixels have classes that there are, and each mask one that counts."""
        counted = self._counted(targets)
        wrong = counted & ((targets < 0) | (targets >= self.pixel_classes))
        if bool(wrong.any()):
            row, y, x = (int(place) for place in wrong.nonzero()[0])
            raise ValueError(
                f"{what} has the class {int(targets[row, y, x])} (sample {row}, pixel ({y}, {x})); "
                f"allowed are 0 to {self.pixel_classes - 1}, and ignore_index {self.ignore_index} for pixels "
                "that do not count"
            )
        empty = ~counted.flatten(1).any(1)
        if bool(empty.any()):
            rows = shown(empty.nonzero().flatten().tolist())
            raise ValueError(
                f"{what} has masks that leave nothing to learn from, at samples {rows}: every pixel is "
                f"{self.ignore_index}; leave these images out of the data, or set another ignore_index"
            )

    def check_outputs(self, outputs: Any, targets: Any) -> None:
        given: Any = outputs.get("out") if isinstance(outputs, Mapping) else outputs
        super().check_outputs(given, targets)
        if not isinstance(targets, Tensor) or targets.dim() != 3:
            raise ValueError(f"targets must be int64 classes of pixels (B, H, W), got {found(targets)}")
        batch, height, width = targets.shape
        wanted = (batch, self.pixel_classes, height, width)
        if given.dim() == 4 and given.shape[:2] == wanted[:2] and given.shape != wanted:
            raise ValueError(
                f"outputs for segmentation have {tuple(given.shape[2:])} pixels, the masks {height, width}: "
                f"torch.nn.functional.interpolate(logits, {height, width}, mode='bilinear')"
            )
        if given.shape != wanted:
            raise ValueError(
                f"outputs for segmentation must be logits (B, C, H, W) = {wanted}, got {tuple(given.shape)}"
            )

    def _counted(self, targets: Tensor) -> Tensor:
        """Which pixels count."""
        return targets != self.ignore_index

    def _areas(self, classes: Tensor, where: Tensor) -> Tensor:
        """Pixels of each class, (B, C), of those where something holds."""
        place = classes.masked_fill(~where, self.pixel_classes).flatten(1)
        areas = torch.zeros(len(classes), self.pixel_classes + 1, device=classes.device)
        return areas.scatter_add_(1, place, torch.ones_like(place, dtype=torch.float32))[:, :-1]

    def _worst(self, values: Tensor, targets: Tensor, counted: Tensor) -> Tensor:
        """Smallest mean (B,) of values (B, H, W) over the pixels of a class that is in the mask."""
        areas = self._areas(targets, counted)
        place = targets.masked_fill(~counted, 0).flatten(1)
        own = torch.where(counted, values, 0.0).flatten(1)
        sums = torch.zeros_like(areas).scatter_add_(1, place, own)
        return torch.where(areas > 0, sums / areas.clamp(min=1), torch.inf).amin(1)

    def _own_iou(self, sums: Tensor, targets: Tensor) -> Tensor:
        """Mean IoU (B,) of the classes that are in each mask."""
        hit, union = torch.split(sums, self.pixel_classes, -1)
        known = self._areas(targets, self._counted(targets)) > 0
        return torch.where(known, hit / union.clamp(min=1), 0.0).sum(1) / known.sum(1).clamp(min=1)


def logits_of(outputs: Any) -> Tensor:
    """The logits of a model's outputs: themselves, or what a table has under "out"."""
    logits: Tensor = outputs["out"] if isinstance(outputs, Mapping) else outputs
    return logits
