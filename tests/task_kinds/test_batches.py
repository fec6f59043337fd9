"""The loss of a batch refuses outputs and targets that do not fit: a data set shows them only there."""

import pytest
import torch

from dsenv.task_kinds import make_kind

pytestmark = pytest.mark.fast

IMAGES = {"name": "segmentation", "classes": 3}
TEXT = {"name": "language", "vocabulary": 9}
MASKS = torch.zeros(4, 5, 6, dtype=torch.int64)
TOKENS = torch.ones(4, 7, dtype=torch.int64)
FIRST = torch.arange(4)[:, None] == 0


@pytest.mark.parametrize(
    ("kind", "outputs", "targets", "words"),
    [
        # Broadcast, these would be losses of every output against every target
        ("regression", torch.rand(4, 1), torch.rand(4), "squeeze the last axis"),
        ("regression", torch.rand(4), torch.rand(4, 1), r"give outputs\[:, None\]"),
        ("regression", torch.rand(4, 1), torch.rand(4, 3), "shape of the targets"),
        # Values that are none would be trained on
        ("multilabel", torch.rand(4, 3), torch.tensor([[1.0, -1.0, 1.0]] * 4), "must be 0 or 1, got -1"),
        ("multilabel", torch.rand(4, 3), torch.tensor([[0.0, 0.0, 255.0]] * 4), "must be 0 or 1, got 255"),
        ({"name": "multilabel", "labels": 5}, torch.rand(4, 3), torch.ones(4, 3), "'labels': 3"),
        (IMAGES, torch.rand(4, 5, 5, 6), MASKS, r"must be logits \(B, C, H, W\)"),
        (IMAGES, torch.rand(4, 3, 5, 6), MASKS.to(torch.uint8), r"got torch.uint8 .*; use masks.long\(\)"),
        (
            IMAGES,
            torch.rand(4, 3, 5, 6),
            MASKS[:, None],
            r"classes of pixels \(B, H, W\), got torch.int64 \(4, 1, 5, 6\)",
        ),
        (TEXT, torch.rand(4, 7, 5), TOKENS, r"must be logits \(B, T, V\)"),
        (TEXT, torch.rand(4, 7, 9), TOKENS * 25, "has the token 25"),
        (TEXT, torch.rand(4, 7, 9), TOKENS * -5, "has the token -5"),
        (TEXT, torch.rand(4, 7, 9), torch.where(FIRST, -100, TOKENS), r"asks for no token at sample \[0\]"),
    ],
)
def test_the_loss_of_a_batch_says_what_does_not_fit(kind, outputs, targets, words):
    with pytest.raises(ValueError, match=words):
        make_kind(kind).sample_loss(outputs, targets)
