"""The losses of each image are those of the model for it alone, and their mean that of the model's own."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dsenv.vision import detection_losses
from tests.vision.models import MODELS, model

COUNTS = (1, 3, 0, 2)  # objects of each image


def batch_of(counts: tuple[int, ...] = COUNTS, seed: int = 0) -> tuple[Tensor, list[dict[str, Any]]]:
    """Images (B, 3, 64, 64) of noise, and targets with boxes, labels and masks."""
    generator = torch.Generator().manual_seed(seed)
    targets = []
    for count in counts:
        first = (torch.rand(count, 2, generator=generator) * 30).floor()
        boxes = torch.cat([first, first + (torch.rand(count, 2, generator=generator) * 25).floor() + 6], 1)
        masks = torch.zeros(count, 64, 64, dtype=torch.uint8)
        for number, (left, upper, right, lower) in enumerate(boxes.long().tolist()):
            masks[number, upper:lower, left:right] = 1
        labels = torch.randint(1, 3, (count,), generator=generator)
        targets.append({"boxes": boxes, "labels": labels, "masks": masks})
    return torch.rand(len(counts), 3, 64, 64, generator=generator), targets


def own_losses(net: nn.Module, images: Tensor, targets: Any) -> dict[str, Tensor]:
    found: dict[str, Tensor] = net(list(images), [dict(target) for target in targets])
    return found


@pytest.mark.parametrize("name", MODELS)
def test_the_loss_of_an_image_is_that_of_the_model_for_it_alone(name: str) -> None:
    net, (images, targets) = model(name), batch_of()
    found = detection_losses(net, images, targets)
    for row in range(len(COUNTS)):
        alone = own_losses(net, images[row : row + 1], targets[row : row + 1])
        assert found.keys() == alone.keys()
        for part, loss in alone.items():
            torch.testing.assert_close(found[part][row], loss, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", MODELS)
def test_the_mean_by_batch_is_the_models_own_loss_and_gradient(name: str) -> None:
    images, targets = batch_of()
    gradients = []
    for by_image in (False, True):
        net = model(name)
        if by_image:
            losses = detection_losses(net, images, targets, share="batch")
            parts = {part: loss.mean() for part, loss in losses.items()}
        else:
            parts = own_losses(net, images, targets)
        sum(parts.values()).backward()
        gradients.append((parts, [parameter.grad for parameter in net.parameters()]))

    (own, own_gradient), (mean, mean_gradient) = gradients
    for part, loss in own.items():
        torch.testing.assert_close(mean[part], loss, rtol=1e-4, atol=1e-6)
    for one, other in zip(own_gradient, mean_gradient, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(("name", "is_equal"), [("retina", True), ("fcos", False), ("ssd", False)])
def test_where_the_mean_by_image_is_the_models_own_loss(name: str, is_equal: bool) -> None:
    net, (images, targets) = model(name), batch_of()
    mean = sum(loss.mean() for loss in detection_losses(net, images, targets).values())
    own = sum(own_losses(net, images, targets).values())
    assert torch.allclose(mean, own, rtol=1e-4) == is_equal

    alike = targets[:1] * 4  # the same number of matched anchors in each image
    mean = sum(loss.mean() for loss in detection_losses(net, images, alike).values())
    torch.testing.assert_close(mean, sum(own_losses(net, images, alike).values()), rtol=1e-4, atol=1e-6)


def test_faster_rcnn_draws_the_same_proposals_as_the_models_own_forward() -> None:
    net, (images, targets) = model("faster"), batch_of()
    for part in (net.rpn, net.roi_heads):
        part.fg_bg_sampler.batch_size_per_image = 8  # of which all images have enough
    torch.manual_seed(5)
    own = own_losses(net, images, targets)
    torch.manual_seed(5)
    found = detection_losses(net, images, targets)
    for name, loss in own.items():
        torch.testing.assert_close(found[name].mean(), loss, rtol=1e-4, atol=1e-6)


def test_the_model_is_left_as_it_is() -> None:
    for name in MODELS:
        net, (images, targets) = model(name), batch_of()
        before = {place: set(vars(part)) for place, part in net.named_modules()}
        parts = dict(net.named_modules())
        detection_losses(net, images, targets)
        assert before == {place: set(vars(part)) for place, part in net.named_modules()}
        assert all(part is parts[place] for place, part in net.named_modules())
        assert all(loss.dim() == 0 for loss in own_losses(net, images, targets).values())


def test_images_in_a_list_of_several_sizes_and_tv_tensors() -> None:
    from torchvision import tv_tensors

    net, (images, targets) = model("retina"), batch_of()
    plain = detection_losses(net, images, targets)
    wrapped = [
        {**target, "boxes": tv_tensors.BoundingBoxes(target["boxes"], format="XYXY", canvas_size=(64, 64))}
        for target in targets
    ]
    found = detection_losses(net, images, wrapped)
    assert all(type(loss) is Tensor and torch.equal(loss, plain[part]) for part, loss in found.items())
    several = [images[0], images[1, :, :, :50], images[2], images[3]]
    fitting = [
        *targets[:1],
        {"boxes": torch.tensor([[1.0, 2, 30, 40]]), "labels": torch.tensor([1])},
        *targets[2:],
    ]
    assert detection_losses(net, several, fitting)["classification"].shape == (4,)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"boxes": torch.tensor([[1, 2, 9, 9]])}, "image 1 of the batch needs boxes as a floating tensor"),
        ({"boxes": torch.rand(4)}, r"image 1 .* has boxes of shape \(4,\)"),
        ({"boxes": torch.tensor([[1.0, 2, 99, 9]])}, "box 0 of image 1 .* the image is 64 x 64 pixels"),
        ({"boxes": torch.tensor([[9.0, 2, 3, 9]])}, "box 0 of image 1 .* x1 < x2"),
        (
            {"labels": torch.ones(3)},
            r"image 1 .* has 3 boxes and needs .* labels, got torch.float32",
        ),
        (
            {"labels": torch.ones(2, dtype=torch.int64)},
            r"3 boxes and needs as many .*, got .*\(2,\)",
        ),
        ({"masks": torch.ones(3, 9, 9)}, r"image 1 .* is 64 x 64 and its mask has shape \(3, 9, 9\)"),
        ({"masks": torch.ones(2, 64, 64)}, r"image 1 .* has 3 boxes and masks of shape \(2, 64, 64\)"),
    ],
)
def test_bad_targets_are_named(change: dict[str, Tensor], words: str) -> None:
    images, targets = batch_of()
    targets[1] = {**targets[1], **change}
    with pytest.raises(ValueError, match=words):
        detection_losses(model("retina"), images, targets)


def test_what_is_no_detection_model() -> None:
    from torchvision import tv_tensors

    images, targets = batch_of()
    with pytest.raises(ValueError, match=r"the model must be Faster R-CNN.*got Linear; of Distri"):
        detection_losses(nn.Linear(2, 2), images, targets)
    with pytest.raises(ValueError, match=r"in evaluation mode.*model.train\(\)"):
        detection_losses(model("retina").eval(), images, targets)
    with pytest.raises(ValueError, match="4 images need a list of as many targets"):
        detection_losses(model("retina"), images, targets[:2])
    with pytest.raises(ValueError, match="image 0 of the batch needs a target with 'boxes'"):
        detection_losses(model("retina"), images, [{"box": 1}, *targets[1:]])
    with pytest.raises(ValueError, match=r"no share called 'sum'.*batch, image"):
        detection_losses(model("retina"), images, targets, share="sum")
    sides = tv_tensors.BoundingBoxes(torch.rand(1, 4), format="XYWH", canvas_size=(64, 64))
    targets[0] = {"boxes": sides, "labels": torch.tensor([1])}
    with pytest.raises(ValueError, match="boxes of format XYWH, and torchvision's models take XYXY"):
        detection_losses(model("retina"), images, targets)
