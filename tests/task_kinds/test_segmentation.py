"""Segmentation: every reading equals its literal definition, pixel by pixel."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from dsenv.task_kinds import make_kind
from dsenv.task_kinds.detection import Detection
from dsenv.task_kinds.segmentation import Segmentation

pytestmark = pytest.mark.fast

KIND = Segmentation(5)


def drawn(seed: int = 0) -> tuple[Tensor, Tensor]:
    """Logits (4, 5, 9, 11) and masks; some pixels do not count, and one mask has a single class."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(4, 5, 9, 11, generator=generator)
    masks = torch.randint(0, 5, (4, 9, 11), generator=generator)
    masks[0, :5] = 255
    masks[2] = 3
    logits[3] += 6 * F.one_hot(masks[3], 5).permute(2, 0, 1)  # mostly right
    return logits, masks


def literal(logits: Tensor, mask: Tensor) -> dict[str, float]:
    """The readings of one image, as they are defined."""
    losses, entropies, errors = [], [], []
    margins: dict[int, list[float]] = {}
    hit, union = [0] * 5, [0] * 5
    for y in range(mask.shape[0]):
        for x in range(mask.shape[1]):
            right = int(mask[y, x])
            if right == 255:
                continue
            p = logits[:, y, x].double().softmax(0)
            losses.append(-math.log(p[right]))
            entropies.append(-sum(float(q) * math.log(q) for q in p) / math.log(5))
            rival = max(float(q) for c, q in enumerate(p) if c != right)
            margins.setdefault(right, []).append(float(p[right]) - rival)
            errors.append(math.sqrt(sum((float(q) - (c == right)) ** 2 for c, q in enumerate(p))))
            said = int(p.argmax())
            hit[right] += said == right
            for c in {said, right}:
                union[c] += 1

    def mean(values: list[float]) -> float:
        return sum(values) / len(values)

    there = set(mask[mask != 255].tolist())
    iou = mean([hit[c] / union[c] for c in there])
    return {
        "loss": mean(losses),
        "confidence": math.exp(-mean(losses)),
        "entropy": mean(entropies),
        "margin": min(mean(each) for each in margins.values()),
        "correct": float(iou >= 0.5),
        "error": mean(errors),
        **{f"hit {c}": hit[c] for c in range(5)},
        **{f"union {c}": union[c] for c in range(5)},
    }


def test_readings_are_their_definitions() -> None:
    logits, masks = drawn()
    losses = KIND.sample_loss(logits, masks)
    found = {"loss": losses, **KIND.read(logits, masks, losses)}
    sums = KIND.statistics(logits, masks, losses)
    for row in range(4):
        expected = literal(logits[row], masks[row])
        for name, values in found.items():
            assert float(values[row]) == pytest.approx(expected[name], abs=2e-5), (row, name)
        assert sums[row].tolist() == [expected[f"{what} {c}"] for what in ("hit", "union") for c in range(5)]
    assert set(found["correct"].tolist()) == {0.0, 1.0}


def test_the_metric_is_the_mean_iou_over_all_samples() -> None:
    logits, masks = drawn()
    sums = KIND.statistics(logits, masks, masks).sum(0)
    said, counted = logits.argmax(1), masks != 255
    expected = []
    for c in range(5):
        one, other = (said == c) & counted, masks == c
        expected.append(float((one & other).sum() / (one | other).sum()))
    assert float(KIND.metric(sums)) == pytest.approx(sum(expected) / 5)
    perfect = KIND.statistics(F.one_hot(masks.clamp(max=4), 5).permute(0, 3, 1, 2).float(), masks, masks)
    assert float(KIND.metric(perfect.sum(0))) == 1 and bool((KIND.metric(perfect) == 1).all())


def test_the_loss_has_a_gradient_at_pixels_that_count_alone() -> None:
    logits, masks = drawn()
    logits.requires_grad_()
    KIND.sample_loss(logits, masks).sum().backward()
    expected = logits.detach().softmax(1) - F.one_hot(masks.clamp(max=4), 5).permute(0, 3, 1, 2)
    counted = (masks != 255)[:, None]
    expected = expected * counted / counted.flatten(1).sum(1)[:, None, None, None]
    torch.testing.assert_close(logits.grad, expected, atol=1e-6, rtol=1e-5)


def test_a_table_of_torchvisions_models_and_half_precision() -> None:
    logits, masks = drawn()
    losses = KIND.sample_loss({"out": logits, "aux": logits}, masks)
    assert torch.equal(losses, KIND.sample_loss(logits, masks))
    KIND.check_outputs({"out": logits}, masks)
    half = logits.bfloat16()
    found, expected = KIND.read({"out": half}, masks, losses), KIND.read(half.float(), masks, losses)
    for name, values in found.items():
        assert values.dtype == torch.float32
        torch.testing.assert_close(values, expected[name])


class LargestTensors(TorchDispatchMode):
    """Bytes of the results of each operation on tensors that are as large as the logits."""

    def __init__(self, elements: int) -> None:
        super().__init__()
        self.elements = elements
        self.made: set[int] = set()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = function(*args, **(kwargs or {}))
        for value in found if isinstance(found, tuple) else (found,):
            if isinstance(value, Tensor) and value.numel() >= self.elements:
                self.made.add(value.untyped_storage().data_ptr())
        return found


def test_reading_makes_two_tensors_of_the_size_of_the_logits() -> None:
    logits, masks = drawn()
    with LargestTensors(logits.numel()) as seen:
        KIND.read(logits, masks, masks.float())
    assert len(seen.made - {logits.untyped_storage().data_ptr()}) == 2


@pytest.mark.parametrize(
    ("targets", "words"),
    [
        (
            torch.zeros(4, 9, 11),
            r"classes of pixels \(N, H, W\), got torch.float32 .*one number a pixel",
        ),
        (torch.zeros(4, 1, 9, 11, dtype=torch.int64), r"use masks\[:, 0\].long\(\)"),
        (torch.zeros(3, 9, 11, dtype=torch.int64), "one row for each of 4 samples"),
        (torch.full((4, 9, 11), 5), r"has the class 5 \(sample 0, pixel \(0, 0\)\); allowed are 0 to 4"),
        (torch.full((4, 9, 11), -1), r"has the class -1"),
        (torch.full((4, 9, 11), 255), r"leave nothing to learn from, at samples \[0, 1, 2, 3\]"),
        ([1, 2], "must be a dense tensor"),
    ],
)
def test_targets_of_the_wrong_kind(targets: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        KIND.check_targets("the targets of data", targets, 4)


def test_a_mask_that_leaves_nothing_is_named() -> None:
    logits, masks = drawn()
    masks[1], masks[3] = 255, 255
    with pytest.raises(ValueError, match=r"leave nothing to learn from, at samples \[1, 3\].*ignore_index"):
        KIND.sample_loss(logits, masks)
    with pytest.raises(ValueError, match=r"the batch has the class 255 .*allowed are 0 to 4"):
        Segmentation(5, ignore_index=7).sample_loss(logits, masks)
    assert bool(Segmentation(5, ignore_index=7).sample_loss(logits, masks.clamp(max=4)).isfinite().all())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            torch.Tensor.byte,
            r"int64 classes of pixels, .* got torch.uint8 \(4, 9, 11\); use masks.long",
        ),
        (torch.Tensor.float, "got torch.float32"),
        (list, "must be one tensor .* got list; stack the masks"),
    ],
)
def test_targets_of_a_batch_of_the_wrong_kind(change: Any, words: str) -> None:
    logits, masks = drawn()
    with pytest.raises(ValueError, match=words):
        KIND.sample_loss(logits, change(masks))


@pytest.mark.parametrize(
    ("outputs", "words"),
    [
        (
            torch.rand(4, 5, 3, 4),
            r"have \(3, 4\) pixels, .* \(9, 11\).*interpolate\(logits, \(9, 11\)",
        ),
        (torch.rand(4, 3, 9, 11), r"must be logits \(B, C, H, W\) = \(4, 5, 9, 11\), got \(4, 3, 9, 11\)"),
        (torch.rand(4, 5), r"must be logits .* got \(4, 5\)"),
        ({"logits": torch.rand(4, 5, 9, 11)}, "must be a floating tensor .* got NoneType"),
        (torch.ones(4, 5, 9, 11, dtype=torch.int64), "must be a floating tensor"),
    ],
)
def test_outputs_of_the_wrong_kind(outputs: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        KIND.check_outputs(outputs, drawn()[1])


def test_settings() -> None:
    kind = make_kind({"name": "segmentation", "classes": 3, "ignore_index": -1})
    assert kind.settings() == {"classes": 3, "ignore_index": -1} and kind.classes is None
    for wrong in ({"classes": 1}, {"classes": 3, "ignore_index": 0.5}):
        with pytest.raises(ValueError, match="must be"):
            make_kind({"name": "segmentation", **wrong})


# Detection


TARGETS = [{"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}] * 3


def test_detection_gives_the_loss_and_says_why_nothing_else() -> None:
    kind = make_kind("detection")
    parts = {"one": torch.tensor([1.0, 2, 3]), "other": torch.tensor([1.0, 0, 1])}
    assert (
        kind.sample_loss(parts, TARGETS).tolist() == kind.sample_loss(sum(parts.values()), TARGETS).tolist()
    )
    assert kind.read(parts, TARGETS, torch.zeros(3)) == {} == dict.fromkeys(kind.gives)
    for name in ("confidence", "entropy", "margin", "correct", "error"):
        assert f"kind detection gives no {name}: " in kind.missing((name,)) and name in kind.why_not
    kind.check_targets("targets", TARGETS, 3)
    kind.check_outputs(parts, TARGETS)


@pytest.mark.parametrize(
    ("targets", "words"),
    [
        (torch.zeros(3, 4), "must be a list of 3 tables .* got torch.float32"),
        (TARGETS[:2], r"got 2 items; collate_fn=lambda samples: tuple\(zip"),
        ([{"boxes": torch.zeros(2, 4)}] * 3, r"got \['boxes'\] in row 0"),
        ([{**TARGETS[0], "boxes": torch.zeros(4)}] * 3, r"got boxes torch.float32 \(4,\) in row 0"),
    ],
)
def test_targets_of_a_detection(targets: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Detection().check_targets("targets", targets, 3)


def test_outputs_of_a_detection_are_losses_of_each_image() -> None:
    for outputs in ({"loss_classifier": torch.tensor(1.0)}, torch.rand(3, 2), [1.0]):
        with pytest.raises(ValueError, match=r"must be the losses \(3,\) .*dsenv.vision.detection_losses"):
            Detection().check_outputs(outputs, TARGETS)
