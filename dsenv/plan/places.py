"""What of a batch's targets lies on its images: found, checked, or refused by name."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from dsenv.augment.base import AugmentationController
from dsenv.augment.geometric import GEOMETRIC_OPS
from dsenv.errors import shown
from dsenv.vision.boxes import check_boxes, check_classes, check_masks, tv_kind

Images = Tensor | Sequence[Tensor]
Table = dict[Any, Any]  # the target of one image; one that is a bare tensor stands under None

ON_IMAGES = ("box", "mask", "keypoint", "segment", "semantic", "landmark", "polygon")  # in keys of targets


# What is there


def check_images(inputs: Any) -> None:
    """Check that the inputs of a batch are images, for augmentation: (B, C, H, W), or a list of (C, H, W).

    Raises:
        ValueError: they are neither.
    """
    if isinstance(inputs, list | tuple) and inputs and all(isinstance(item, Tensor) for item in inputs):
        shapes = [tuple(item.shape) for item in inputs]
        if any(len(shape) != 3 for shape in shapes):
            raise ValueError(f"augment needs images (C, H, W) in a list, got shapes {shown(shapes)}")
        return
    if not isinstance(inputs, Tensor):
        inside = f" of {type(inputs[0]).__name__}" if isinstance(inputs, list | tuple) and inputs else ""
        raise ValueError(
            f"augment needs images as one tensor a batch, or a list of tensors (C, H, W), got "
            f"{type(inputs).__name__}{inside}; of samples (image, target) make (images, targets) by "
            "collate_fn=lambda samples: tuple(zip(*samples))"
        )
    if inputs.dim() != 4:
        raise ValueError(f"augment needs images (B, C, H, W), got inputs of shape {tuple(inputs.shape)}")


def sizes_of(images: Images) -> list[tuple[int, int]]:
    """Height and width of each image."""
    if isinstance(images, Tensor):
        return [(images.shape[-2], images.shape[-1])] * len(images)
    return [(image.shape[-2], image.shape[-1]) for image in images]


def check_geometry(
    controller: AugmentationController, inputs: Images, labels: Any, classes: int | None, kind: Any = None
) -> bool:
    """Check that augmentation leaves labels true, and tell whether they are to be moved with the images.

    Args:
        controller: augments.
        inputs: the images.
        labels: targets of the batch.
        classes: C; None where it is not known.
        kind: of task; its `on_images` says which plain tensors lie on the images, "masks" for (B, H, W)
            classes of pixels, "boxes" for `boxes` and `masks` of each image's table.

    Raises:
        ValueError: something lies on the images that cannot be moved, or is none of them; or an op moves
            images and the controller does not say how.
    """
    moving = [name for name in getattr(controller, "ops", ()) if name in GEOMETRIC_OPS]
    look = Look(sizes_of(inputs), classes, kind)
    found = look.at(labels) if moving else False
    if look.stuck:
        raise ValueError(
            f"augment moves images ({', '.join(moving[:3])}, ...), and {look.stuck} that would not move "
            "along; give them as torchvision.tv_tensors (Mask, BoundingBoxes), say what is trained "
            "(DataPlan(kind='segmentation'), kind='detection'), or use ops that leave places alone: "
            "augment={'name': ..., 'ops': dsenv.augment.ops.PHOTOMETRIC_OPS}"
        )

    if (found or not isinstance(inputs, Tensor)) and not controller.moves_targets:
        what = "masks and boxes" if found else "images of a list"
        raise ValueError(
            f"{type(controller).__name__} defines augment or views anew, so the plan does not know what "
            f"it does to each image, and {what} cannot follow: define view_draws beside it (what is drawn "
            "for each view), or override strengths alone"
        )
    return found


class Look:
    """Looks for what lies on the images of a batch.

    Args:
        sizes: (H, W) of each image.
        classes: C; None where it is not known.
        kind: of task, see `check_geometry`.
    """

    def __init__(self, sizes: Sequence[tuple[int, int]], classes: int | None, kind: Any) -> None:
        self.sizes = sizes
        self.classes = classes
        self.on_images = getattr(kind, "on_images", "")
        self.stuck = ""
        """What lies on the images and cannot be moved, in words."""

    def at(self, labels: Any) -> bool:
        """Whether something of a batch's targets is to be moved."""
        if isinstance(labels, Mapping):
            return any([self._in_batch(key, value) for key, value in labels.items()])
        if not isinstance(labels, list | tuple):
            return self._in_batch(None, labels)

        if len(labels) != len(self.sizes):
            self._stick(*(_words(item, self.sizes[0], self.classes) for item in labels))
            return False
        tables = [table_of(target) for target in labels]
        return any([self._in_sample(table, row) for row, table in enumerate(tables)])

    def _in_batch(self, key: Any, value: Any) -> bool:
        """Of a value for the whole batch."""
        role = self.role(key, value)
        if not role:
            self._stick(_words(value, self.sizes[0], self.classes) if key is None else _deep(key, value))
            return False

        if len(value) != len(self.sizes):
            raise ValueError(
                f"the batch has {len(self.sizes)} images and {role} of shape {tuple(value.shape)}; give as "
                "many as images along the first axis, or a list with one target for each image"
            )
        self._check(role, value[:1] if role == "boxes" else value[0], 0)
        return True

    def _in_sample(self, table: Table, row: int) -> bool:
        """Of the target of one image."""
        roles = {key: role for key, value in table.items() if (role := self.role(key, value))}
        for key, value in table.items():
            if key in roles:
                self._check(roles[key], value, row)
            elif key is not None:
                self._stick(_deep(key, value))
            else:
                is_size = isinstance(value, Tensor) and tuple(value.shape) == self.sizes[row]
                found = f"targets of shape {tuple(value.shape)}, as large as the images," if is_size else ""
                self._stick(found or _words(value, self.sizes[row], self.classes))

        check_table(table, [key for key, role in roles.items() if role == "boxes"], row)
        return bool(roles)

    def role(self, key: Any, value: Any) -> str:
        """What a value is, "boxes" or "masks"; "" for what does not lie on images."""
        kind = tv_kind(value)
        if kind in ("Mask", "BoundingBoxes"):
            return "masks" if kind == "Mask" else "boxes"
        if key is None and self.on_images == "masks" and isinstance(value, Tensor) and value.dim() >= 2:
            check_classes(value)
            return "masks"
        if kind:
            self._stick(f"targets with {key or 'a'} {kind}")
        elif self.on_images == "boxes" and key in ("boxes", "masks") and isinstance(value, Tensor):
            return str(key)
        elif key is not None and any(word in str(key).lower() for word in ON_IMAGES):
            self._stick(f"targets with {key}")
        return ""

    def _stick(self, *found: str) -> None:
        self.stuck = self.stuck or next((words for words in found if words), "")

    def _check(self, role: str, value: Tensor, row: int) -> None:
        (check_masks if role == "masks" else check_boxes)(value, self.sizes[row], f"image {row} of the batch")


def table_of(target: Any) -> Table:
    """The target of one image as a table."""
    return dict(target) if isinstance(target, Mapping) else {None: target}


def _deep(key: Any, value: Any) -> str:
    """What of a container inside of a target lies on images, in words; "" for nothing."""
    if isinstance(value, Mapping | list | tuple):
        items = value.values() if isinstance(value, Mapping) else value
        if any(tv_kind(item) or _deep(key, item) for item in items):
            return f"targets with {key}, which holds some of them deeper inside,"
    return ""


def _words(value: Any, size: tuple[int, int], classes: int | None) -> str:
    """What of a value lies on images by its shape, in words; "" for nothing."""
    if isinstance(value, Mapping):
        keys = sorted(str(key) for key in value if any(word in str(key).lower() for word in ON_IMAGES))
        return f"targets with {', '.join(keys)}" if keys else ""
    if isinstance(value, list | tuple):
        return next((words for item in value if (words := _words(item, size, classes))), "")
    if not isinstance(value, Tensor):
        return ""

    shape, pixels = tuple(value.shape), size[0] * size[1]
    if value.dim() >= 3 or (value.dim() == 2 and pixels > 1 and shape[1] == pixels):
        return f"labels of shape {shape} are masks or other places"
    if value.dim() == 2 and shape[1] == 4 and value.is_floating_point() and classes != 4:
        return f"labels of shape {shape} are boxes (of four classes, set DataPlan(classes=4))"
    return ""


def check_table(table: Table, boxes: Sequence[Any], row: int) -> None:
    """Check that the target of an image has one set of boxes at most, and as many labels.

    Raises:
        ValueError: it has not.
    """
    if len(boxes) > 1:
        raise ValueError(f"image {row} of the batch has boxes under {shown(list(boxes))}; give one of them")
    labels = table.get("labels")
    if boxes and isinstance(labels, Tensor) and (not labels.dim() or len(labels) != len(table[boxes[0]])):
        raise ValueError(
            f"image {row} of the batch has {len(table[boxes[0]])} boxes and labels of shape "
            f"{tuple(labels.shape)}; give one label for each box"
        )
