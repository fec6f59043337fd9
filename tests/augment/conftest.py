"""One thread, and images to augment."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tests.augment.images import smooth_images, stroke_images

Maker = Callable[..., Tensor]


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def make_images() -> Maker:
    """Half smooth images, half strokes: (count, channels, height, width) uint8."""

    def make(count: int, channels: int, height: int, width: int) -> Tensor:
        half = count // 2
        return torch.cat(
            [
                smooth_images(count - half, channels, height, width),
                stroke_images(half, channels, height, width),
            ]
        )

    return make
