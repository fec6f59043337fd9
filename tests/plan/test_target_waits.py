"""Masks move, and are learned from, without a wait for a GPU, and as on a CPU."""

from collections.abc import Iterator
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import Tensor, nn

from dsenv.augment import CONTROLLERS, move_boxes, move_masks, op_codes
from dsenv.augment.draw import Draw, draw_parameters
from dsenv.augment.geometric import GEOMETRIC_OPS
from dsenv.plan import DataPlan
from tests.augment.shapes import shapes
from tests.plan.test_targets import SETTINGS
from tests.waits import stand_in, true_gpu, watching

pytestmark = pytest.mark.fast

SIZE = (12, 16)
IMAGES, MASKS, BOXES = shapes(24, *SIZE)


@pytest.fixture(params=["stand_in", pytest.param("gpu", marks=pytest.mark.gpu)])
def either(request: Any) -> Iterator[torch.device]:
    """The stand-in, and a GPU where there is one."""
    with stand_in() if request.param == "stand_in" else true_gpu() as device:
        yield device


@pytest.mark.parametrize("name", [name for name in CONTROLLERS if name != "none"])
def test_no_controller_waits_where_masks_move(either: torch.device, name: str) -> None:
    settings = {"name": name, "ops": GEOMETRIC_OPS, **SETTINGS.get(name, {})}
    model = nn.Conv2d(3, 3, 1).to(either)
    data = IMAGES.to(either), MASKS.to(either)
    known = {"epochs": 2, "batch_size": 6, "transform": lambda x: x.float() / 255, "device": either}
    plan = DataPlan(data, kind="segmentation", classes=3, augment=settings, selector="infobatch", **known)

    def forward(view: Tensor) -> tuple[Tensor, Tensor]:
        return model(view), view.flatten(1)[:, :4]

    with patch("dsenv.plan.epoch_buffer.FLUSH_ELEMENTS", 1):
        for _ in plan.epochs_left():
            batches = plan.batches()
            while plan.epoch_sampler.done < plan.epoch_sampler.end:
                with watching("making a batch"):
                    batch = next(batches)
                with watching("a step"):
                    outputs, features = forward(batch.inputs)
                    losses = plan.kind.sample_loss(outputs, batch.labels)
                    plan.loss(batch, losses, outputs=outputs, features=features, forward=forward).backward()
    assert plan.epoch == 2 and plan.signals.confidence.device == either


@pytest.mark.parametrize("name", GEOMETRIC_OPS)
def test_masks_and_boxes_of_a_gpu_are_those_of_a_cpu(either: torch.device, name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    codes = op_codes([name, "brightness"])[torch.arange(24) % 2]
    draw = draw_parameters(codes, torch.rand(24, generator=generator), generator)
    there = Draw(*(part.to(either) for part in draw))
    row = torch.arange(24)
    of_row = row.to(either)
    masks, boxes = MASKS.to(either), BOXES[:, 0].to(either)
    with watching("moving"):
        found = move_masks(masks, there), move_boxes(boxes, of_row, there, SIZE)
    assert torch.equal(found[0].cpu(), move_masks(MASKS, draw))
    torch.testing.assert_close(found[1].cpu(), move_boxes(BOXES[:, 0], row, draw, SIZE))
