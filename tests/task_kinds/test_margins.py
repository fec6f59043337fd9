"""Margins of several labels and of masks equal their definitions, written out."""

from itertools import product

import pytest
import torch

from dsenv.task_kinds.multilabel import MultiLabel
from dsenv.task_kinds.segmentation import Segmentation

pytestmark = pytest.mark.fast


def set_margin(logits, labels):
    """Probability of the labelled set less the largest other, over all sets of labels."""
    p = logits.sigmoid()
    chances = {
        members: float(torch.where(torch.tensor(members) > 0, p, 1 - p).prod())
        for members in product((0, 1), repeat=len(p))
    }
    own = chances.pop(tuple(labels.int().tolist()))
    return own - max(chances.values())


def test_the_margin_of_several_labels_is_that_of_sets():
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(40, 4, generator=generator)
    labels = torch.randint(0, 2, (40, 4), generator=generator)
    labels[:10] = (logits[:10] > 0).long()
    kind = MultiLabel(4)
    found = kind.read(logits, labels, kind.sample_loss(logits, labels))
    wanted = torch.tensor([set_margin(*row) for row in zip(logits, labels, strict=True)])
    torch.testing.assert_close(found["margin"], wanted, atol=1e-5, rtol=0)
    assert torch.equal(found["margin"] > 0, found["correct"] > 0)


def test_the_margin_of_a_mask_is_that_of_its_worst_class():
    generator = torch.Generator().manual_seed(0)
    logits, masks = torch.randn(6, 3, 4, 5, generator=generator), torch.zeros(6, 4, 5, dtype=torch.int64)
    masks[:3, :2] = 2
    masks[:, 3] = 255
    kind = Segmentation(3)
    found = kind.read(logits, masks, kind.sample_loss(logits, masks))["margin"]
    for row in range(6):
        margins = []
        for number in masks[row][masks[row] != 255].unique():
            p = logits[row].softmax(0)[:, masks[row] == number]
            others = torch.cat([p[:number], p[number + 1 :]]).amax(0)
            margins.append(float((p[number] - others).mean()))
        assert float(found[row]) == pytest.approx(min(margins), abs=1e-5)


def test_a_confident_model_is_against_the_target_of_another_sample():
    labels = torch.tensor([[1, 0, 0, 0, 0, 0, 0, 0, 1, 0], [0, 1, 0, 0, 0, 0, 0, 0, 0, 0]])
    logits = 12.0 * labels - 6
    kind = MultiLabel(10)
    assert bool((kind.read(logits, labels, torch.zeros(2))["margin"] > 0.9).all())
    assert bool((kind.read(logits, labels.flip(0), torch.zeros(2))["margin"] < -0.9).all())

    masks = torch.zeros(2, 8, 8, dtype=torch.int64)
    masks[0, :2, :2], masks[1, 5:, 5:] = 1, 2
    outputs = 12.0 * torch.nn.functional.one_hot(masks, 3).permute(0, 3, 1, 2) - 6
    pixels = Segmentation(3)
    assert bool((pixels.read(outputs, masks, torch.zeros(2))["margin"] > 0.9).all())
    assert bool((pixels.read(outputs, masks.flip(0), torch.zeros(2))["margin"] < -0.9).all())
