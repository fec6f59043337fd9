"""What is drawn for each sample of a batch before any op runs."""

from typing import NamedTuple

import torch
from torch import Tensor


class Draw(NamedTuple):
    """Op, strength and random numbers of each sample; every field is (B,)."""

    op: Tensor
    """int64 code, position in `OPS`."""
    strength: Tensor
    """float32 in [0, 1]."""
    chance: Tensor
    """float32 in [0, 1): decides signs and flips."""
    row: Tensor
    """float32 in [0, 1): centre of the cutout, from top to bottom."""
    column: Tensor
    """float32 in [0, 1): centre of the cutout, from left to right."""

    @property
    def sign(self) -> Tensor:
        """Direction of ops that have two, -1 or 1."""
        return torch.where(self.chance < 0.5, -1.0, 1.0)

    def take(self, rows: Tensor | slice) -> "Draw":
        """The draws of some samples."""
        return Draw(*(field[rows] for field in self))


def draw_parameters(op: Tensor, strength: Tensor, generator: torch.Generator) -> Draw:
    """Draw three numbers a sample, whatever its op, so that a batch always uses up the same stream."""
    numbers = torch.rand(3, len(op), generator=generator, device=generator.device).to(op.device)
    return Draw(op, strength.to(op.device, torch.float32), *numbers)
