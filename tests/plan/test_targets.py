"""Masks and boxes in a plan: every controller moves them with its images, or says why it cannot."""

from typing import Any

import pytest
import torch
from torch import Tensor

from dsenv.augment import CONTROLLERS, AugmentationController, FixedStrength
from dsenv.augment.geometric import GEOMETRIC_OPS
from dsenv.augment.ops import PHOTOMETRIC_OPS
from dsenv.plan import Batch, DataPlan
from dsenv.task_kinds.segmentation import Segmentation
from tests.augment.shapes import classes_of, extents, shapes

pytestmark = pytest.mark.fast

SIZE = (24, 32)
IMAGES, MASKS, BOXES = shapes(200, *SIZE)
OPS = (*GEOMETRIC_OPS, "posterize")  # posterize leaves black and full colours as they are
STRONG = {"name": "fixed", "strength": 1.0, "ops": GEOMETRIC_OPS}


def collate(samples: list[Any]) -> Any:
    return tuple(zip(*samples, strict=True))


def plan_of(data: Any, **settings: Any) -> DataPlan:
    return DataPlan(data, **{"epochs": 3, "batch_size": 40, "augment": STRONG, **settings})


def masked(count: int = 80, **settings: Any) -> DataPlan:
    return plan_of((IMAGES[:count], MASKS[:count]), kind="segmentation", classes=3, **settings)


def detected(rows: list[Any], **settings: Any) -> DataPlan:
    return plan_of(rows, kind="detection", **settings)


def batches(plan: DataPlan) -> list[Batch]:
    return list(plan.loader(collate_fn=collate))


def wrapped(boxes: Tensor, size: tuple[int, int] = SIZE, form: str = "XYXY", **more: Any) -> Any:
    from torchvision import tv_tensors

    return tv_tensors.BoundingBoxes(boxes, format=form, canvas_size=size, **more)


def rows_of(count: int = 40, **more: Any) -> list[Any]:
    """Samples of a detection: an image, and the boxes, labels, masks and number of its two shapes."""
    return [
        (
            IMAGES[row],
            {
                "boxes": BOXES[row].clone(),
                "labels": torch.tensor([1, 2]),
                "masks": torch.stack([MASKS[row] == 1, MASKS[row] == 2]),
                "image_id": torch.tensor([row, row]),
                **more,
            },
        )
        for row in range(count)
    ]


def assert_lies(images: Tensor, masks: Tensor) -> None:
    """Each pixel of a mask has the class of its colour, or lies outside of the image, where it is black."""
    seen, outside = classes_of(images), masks == 255
    assert torch.equal(seen[~outside], masks[~outside]) and not bool(seen[outside].any())


def assert_holds(box: Tensor, inside: Tensor) -> None:
    """A box holds what was seen; nearest pixels are off by up to half a one."""
    assert bool((inside[:2] - box[:2] >= -0.75).all() and (box[2:] - inside[2:] >= -0.75).all())


# Masks


SETTINGS: dict[str, dict[str, Any]] = {
    "ent_augment": {"warm_up": 1},
    "ada_augment": {"features": 4},
    "rand_augment": {"strength": 0.8},
    "sada": {"estimator": "loss", "warm_up": 1, "window": 2, "classes": 3},
}


@pytest.mark.parametrize("name", [name for name in CONTROLLERS if name != "none"])
def test_masks_move_under_every_controller(name: str) -> None:
    plan = masked(augment={"name": name, "ops": OPS, **SETTINGS.get(name, {})})
    if name == "given":
        plan.controller.strength.fill_(0.9)
    moved = 0
    for _ in plan.epochs_left():
        for batch in plan.batches():
            assert_lies(batch.inputs, batch.labels)
            moved += int((batch.labels != MASKS[batch.index]).flatten(1).any(1).sum())
            for view, labels in zip(batch.views, batch.view_labels, strict=True):
                assert_lies(view, labels)
            logits = torch.randn(len(batch.index), 3, *SIZE)
            losses = plan.kind.sample_loss(logits, batch.labels)
            more = {"features": torch.rand(len(batch.index), 4)} if plan.controller.needs_features else {}

            def forward(view: Tensor) -> tuple[Tensor, Tensor]:
                return torch.zeros(len(view), 3, *SIZE), torch.rand(len(view), 4)

            plan.loss(batch, losses, outputs=logits, forward=forward, **more)
    assert moved > 50


def test_images_are_those_of_a_plan_without_masks() -> None:
    settings = {"augment": {"name": "rand_augment", "strength": 0.7, "ops": OPS}, "seed": 3}
    plain = plan_of((IMAGES[:80], torch.arange(80) % 3), **settings)
    for one, other in zip(plain.batches(), masked(**settings).batches(), strict=True):
        assert torch.equal(one.index, other.index) and torch.equal(one.inputs, other.inputs)


def test_the_data_stay_as_they_were() -> None:
    rows = rows_of()
    before = MASKS.clone(), [sample[1]["boxes"].clone() for sample in rows]
    list(masked().batches())
    batches(detected(rows))
    assert torch.equal(MASKS, before[0])
    for sample, boxes in zip(rows, before[1], strict=True):
        assert torch.equal(sample[1]["boxes"], boxes) and len(sample[1]["labels"]) == 2


def test_pixels_from_outside_are_the_kinds_ignored_ones() -> None:
    plan = plan_of((IMAGES, MASKS), kind=Segmentation(3, ignore_index=-100))
    labels = next(plan.batches()).labels
    assert bool((labels == -100).any()) and not bool((labels == 255).any())


def test_a_mask_that_would_lose_all_that_counts_stays() -> None:
    """One labelled pixel in a corner: most moves would take it out of the image."""
    masks = torch.full((40, *SIZE), 255)
    masks[:, 0, 0] = 1
    plan = plan_of((IMAGES[:40], masks), kind="segmentation", classes=3)
    batch = next(plan.batches())
    assert bool((batch.labels != 255).flatten(1).any(1).all())
    stays = (batch.labels == masks[batch.index]).flatten(1).all(1)
    assert 10 < int(stays.sum()) < 40
    same = (batch.inputs == IMAGES[batch.index]).flatten(1).all(1)
    assert bool(same[stays].any()) and not bool(same[~stays].any())


def test_masks_of_tv_tensors_in_lists_and_tables() -> None:
    from torchvision import tv_tensors

    for target in (lambda mask: tv_tensors.Mask(mask), lambda mask: {"mask": tv_tensors.Mask(mask[None])}):
        rows = [(IMAGES[row], target(MASKS[row])) for row in range(40)]
        (batch,) = batches(plan_of(rows))
        for image, moved in zip(batch.inputs, batch.labels, strict=True):
            mask = moved["mask"] if isinstance(moved, dict) else moved
            assert isinstance(mask, tv_tensors.Mask)
            assert_lies(image[None], mask.as_subclass(Tensor).view(1, *SIZE))


# Boxes


@pytest.mark.parametrize("name", GEOMETRIC_OPS)
def test_a_detection_lies_where_its_objects_lie(name: str) -> None:
    plan = detected(rows_of(60), augment={**STRONG, "ops": [name]}, batch_size=30)
    found = 0
    for batch in batches(plan):
        for image, target in zip(batch.inputs, batch.labels, strict=True):
            assert target["image_id"].shape == (2,)  # of the image, not of its boxes
            assert len(target["boxes"]) == len(target["labels"]) == len(target["masks"])
            seen = classes_of(image[None])
            for box, label, mask in zip(target["boxes"], target["labels"], target["masks"], strict=True):
                assert torch.equal(mask, seen[0] == label)
                assert bool((box[2:] - box[:2] >= 1).all())
                inside = extents(seen == label)[0]
                if not bool(inside.isnan().any()):
                    assert bool(
                        (inside[:2] - box[:2] >= -0.75).all() and (box[2:] - inside[2:] >= -0.75).all()
                    )
                    found += 1
    assert found > 60


def test_boxes_that_are_left_with_less_than_a_pixel_are_dropped() -> None:
    near_edge = torch.tensor([[0.0, 4, 3, 9], [14, 6, 20, 18]])
    names = ["left", "middle"]
    rows = [(IMAGES[0], {"boxes": near_edge, "labels": torch.tensor([1, 2]), "names": names})] * 40
    (batch,) = batches(detected(rows, augment={**STRONG, "ops": ["translate_x"]}))
    kept = [target["names"] for target in batch.labels]
    assert {tuple(each) for each in kept} == {("left", "middle"), ("middle",)}
    for target in batch.labels:
        assert target["labels"].tolist() == [names.index(name) + 1 for name in target["names"]]


def test_small_boxes_of_images_that_do_not_move_stay() -> None:
    tiny = torch.tensor([[3.2, 4.0, 3.7, 4.4]])
    rows = [(IMAGES[0], {"boxes": tiny, "labels": torch.tensor([1])})] * 40
    plan = detected(rows, augment={**STRONG, "ops": ["posterize", "rotate"]})
    (batch,) = batches(plan)
    left = [len(target["boxes"]) for target in batch.labels]
    assert 5 < sum(left) < 35
    assert all(torch.equal(target["boxes"], tiny) for target in batch.labels if len(target["boxes"]))


@pytest.mark.parametrize("form", ["XYXY", "XYWH", "CXCYWH"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.int64])
def test_formats_of_boxes(form: str, dtype: torch.dtype) -> None:
    from torchvision.transforms.v2.functional import convert_bounding_box_format as convert

    whole = (BOXES / 2).round() * 2
    plain = [(IMAGES[row], {"boxes": wrapped(whole[row])}) for row in range(40)]
    other = [
        (image, {"boxes": wrapped(convert(target["boxes"], new_format=form).to(dtype), form=form)})
        for image, target in plain
    ]
    (expected,), (found,) = batches(plan_of(plain)), batches(plan_of(other))
    for one, two in zip(expected.labels, found.labels, strict=True):
        assert two["boxes"].format.value == form and two["boxes"].dtype == dtype
        assert two["boxes"].canvas_size == SIZE
        back = convert(two["boxes"], new_format="XYXY").as_subclass(Tensor).float()
        tolerance = 1e-3 if dtype.is_floating_point else 3.0  # whole numbers are cut off, as by torchvision
        if len(back) == len(one["boxes"]):
            torch.testing.assert_close(back, one["boxes"].as_subclass(Tensor), atol=tolerance, rtol=0)


def test_images_of_several_sizes() -> None:
    big, big_masks, big_boxes = shapes(20, 40, 36, seed=1)
    data = [(IMAGES, MASKS, BOXES, SIZE), (big, big_masks, big_boxes, (40, 36))]
    rows = []
    for images, masks, boxes, size in data:
        both = torch.stack([masks == 1, masks == 2], 1)
        rows += [(images[row], {"boxes": wrapped(boxes[row], size), "masks": both[row]}) for row in range(20)]
    (batch,) = batches(detected(rows))
    assert {image.shape for image in batch.inputs} == {(3, *SIZE), (3, 40, 36)}
    for image, target in zip(batch.inputs, batch.labels, strict=True):
        for number, box in enumerate(target["boxes"].as_subclass(Tensor)):
            where = target["masks"][number][None]
            inside = extents(where)[0]
            assert where.shape[1:] == image.shape[1:]
            if not bool(inside.isnan().any()):
                assert_holds(box, inside)


def test_one_box_for_each_image_is_kept() -> None:
    """Of a batch of single boxes none can be left out: what leaves the image has no area."""
    rows = [(IMAGES[row], torch.tensor([0.0, 0, 2, 2])) for row in range(40)]

    def single(samples: list[Any]) -> Any:
        images, boxes = zip(*samples, strict=True)
        return torch.stack(images), wrapped(torch.stack(boxes))

    plan = plan_of(rows, augment={**STRONG, "ops": ["translate_x"]})
    (batch,) = plan.loader(collate_fn=single)
    assert batch.labels.shape == (40, 4) and batch.labels.canvas_size == SIZE
    left = (batch.labels[:, 2] - batch.labels[:, 0]).unique().tolist()
    assert left == [0.0, 2.0]


# What cannot be moved


class OwnAugment(AugmentationController):
    """Augments in its own way."""

    def strengths(self, signals: Any, index: Tensor, generator: torch.Generator) -> Tensor:
        return torch.ones(index.shape)

    def augment(self, images: Tensor, signals: Any, index: Tensor, generator: torch.Generator) -> Tensor:
        return images.flip(-1)


class OwnStrength(FixedStrength):
    """Another strength alone."""

    def strengths(self, signals: Any, index: Tensor, generator: torch.Generator) -> Tensor:
        return torch.full(index.shape, 0.5)


def test_a_controller_that_augments_in_its_own_way_is_refused() -> None:
    with pytest.raises(ValueError, match=r"OwnAugment defines augment .*masks and boxes cannot follow"):
        next(masked(augment=OwnAugment()).batches())
    with pytest.raises(ValueError, match=r"OwnAugment defines augment .*images of a list cannot follow"):
        batches(plan_of([(image, 1) for image in IMAGES], augment=OwnAugment()))
    assert len(next(masked(augment=OwnStrength()).batches()).labels) == 40


@pytest.mark.parametrize("key", ["keypoints", "polygons", "segmentation", "landmarks"])
def test_what_cannot_be_moved_is_refused_by_name(key: str) -> None:
    rows = rows_of(**{key: torch.zeros(2, 3)})
    with pytest.raises(ValueError, match=f"targets with {key} that would not move along"):
        batches(detected(rows))
    plan = detected(rows, augment={"name": "fixed", "ops": PHOTOMETRIC_OPS})
    assert len(batches(plan)) == 1  # ops of colour move nothing


def test_boxes_without_a_kind_are_no_boxes() -> None:
    with pytest.raises(ValueError, match=r"targets with boxes .*torchvision.tv_tensors.*kind='detection'"):
        batches(plan_of(rows_of()))


def test_tv_tensors_that_cannot_be_moved() -> None:
    from torchvision import tv_tensors

    turned = wrapped(torch.zeros(1, 5), form="CXCYWHR")
    cases = {
        "targets with depth Image": {"depth": tv_tensors.Image(torch.rand(1, *SIZE))},
        "targets with inner, which holds some of them deeper": {"inner": {"a": tv_tensors.Mask(MASKS[0])}},
        r"boxes of format CXCYWHR cannot be moved|boxes of shape \(1, 5\)": {"boxes": turned},
        "boxes under .*; give one of them": {"boxes": wrapped(BOXES[0]), "more": wrapped(BOXES[0])},
    }
    for words, target in cases.items():
        with pytest.raises(ValueError, match=words):
            batches(plan_of([(IMAGES[0], target)] * 4))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"boxes": torch.tensor([[2.0, 2, 90, 9], [1, 1, 5, 5]])},
            r"box 0 .* is \[2.0, 2.0, 90.0, 9.0\]",
        ),
        ({"boxes": torch.tensor([[1.0, 1, 5, 5], [9, 9, 4, 12]])}, "box 1 of image 0 .* x1 < x2 and y1 < y2"),
        ({"boxes": torch.tensor([[1, 1, 5, 5], [9, 9, 4, float("nan")]])}, "box 1 of image 0"),
        ({"boxes": torch.rand(2, 5)}, r"boxes of shape \(2, 5\); give \(n, 4\)"),
        ({"masks": torch.zeros(2, 9, 9)}, r"image 0 .* is 24 x 32 and its mask has shape \(2, 9, 9\)"),
        ({"labels": torch.ones(3)}, "2 boxes and labels of shape .*one label for each box"),
    ],
)
def test_bad_targets_are_named(change: dict[str, Tensor], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        batches(detected(rows_of(**change)))


def test_a_canvas_of_another_size() -> None:
    with pytest.raises(ValueError, match=r"is 24 x 32 and its boxes say canvas_size \(9, 9\)"):
        batches(detected(rows_of(boxes=wrapped(torch.tensor([[1.0, 1, 5, 5], [2, 2, 4, 4]]), (9, 9)))))


def test_samples_that_are_no_images() -> None:
    with pytest.raises(ValueError, match=r"got RawSamples of tuple; .*collate_fn=lambda samples: tuple\(zip"):
        list(detected(rows_of()).loader(collate_fn=lambda samples: samples))
    with pytest.raises(ValueError, match=r"images \(C, H, W\) in a list"):
        batches(plan_of([(image[0], 1) for image in IMAGES]))


def test_a_list_of_images_without_places() -> None:
    (batch, *_) = batches(plan_of([(image, 1) for image in IMAGES[:40]]))
    assert isinstance(batch.inputs, tuple) and batch.labels == (1,) * 40
    assert not torch.equal(torch.stack(batch.inputs), IMAGES[batch.index])


def test_masks_of_another_type_are_named() -> None:
    rows = list(zip(IMAGES[:40], MASKS[:40].byte(), strict=True))
    with pytest.raises(ValueError, match=r"int64 classes of pixels, .* got torch.uint8 .*masks.long"):
        next(iter(plan_of(rows, kind="segmentation", classes=3).loader()))


def test_views_of_a_detection_cannot_be_compared() -> None:
    with pytest.raises(
        ValueError, match=r"AdaAugment compares the losses of several views, .* kind detection"
    ):
        detected(rows_of(), augment={"name": "ada_augment", "features": 4})


@pytest.mark.parametrize("kind", ["segmentation", "detection"])
def test_a_state_goes_on_with_the_same_targets(kind: str) -> None:
    def plan() -> DataPlan:
        settings = {"selector": "infobatch", "batch_size": 10, "augment": {**STRONG, "strength": 0.6}}
        return masked(**settings) if kind == "segmentation" else detected(rows_of(), **settings)

    def trained(one: DataPlan, most: int) -> list[Any]:
        """Targets and losses of batches, over the ends of epochs."""
        seen: list[Any] = []
        for _ in one.epochs_left():
            for batch in one.loader(collate_fn=None if kind == "segmentation" else collate):
                labels = (
                    [batch.labels] if kind == "segmentation" else [each["boxes"] for each in batch.labels]
                )
                losses = torch.linspace(0, 1, 200)[batch.index]
                seen.append([*labels, one.loss(batch, losses)])
                if len(seen) == most:
                    return seen
        return seen

    whole, begun, other = plan(), plan(), plan()
    expected = trained(whole, 99)
    trained(begun, 3)
    other.load_state_dict(begun.state_dict())
    for one, two in zip(expected[3:], trained(other, 99), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
