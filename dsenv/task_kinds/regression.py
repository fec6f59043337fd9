"""Regression: one number a sample, or several."""

import math
import warnings
from types import MappingProxyType
from typing import Any, Self

import torch
from torch import Tensor

from dsenv.errors import check_count, check_positive
from dsenv.task_kinds.base import TaskKind, check_finite, check_tensor, found

FAR = 5.0  # standard deviations from 0 at which the mean of the targets is worth a warning


class Regression(TaskKind):
    """One number a sample, or D of them; outputs and targets are floating, (B,) or (B, D).

    With z the error over `scale`, the standard deviation of the targets, the loss is the mean of z^2 / 2 over
    the D numbers: that of a Gaussian of the targets' own width, in nats, 1/2 for who always says their mean.
    Confidence is exp(-loss), the density at the target over that at its peak; margin (1 - m) / (1 + m) with
    m the mean of z^2, above 0 where the error is smaller than one standard deviation; correct that it is;
    error the length of the gradient of the loss by the outputs in units of the scale, the root of the mean
    of z^2. These are our reading. A point prediction has no distribution, so there is no entropy. The metric
    is R^2, cut to [0, 1].

    Args:
        scale: standard deviation of the training targets, > 0; None to read it off them.
        numbers: D; None to read it off them, or where targets are (B,).

    Raises:
        ValueError: the scale is not above 0.
    """

    name = "regression"
    gives = ("confidence", "margin", "correct", "error")
    why_not = MappingProxyType({"entropy": "a point prediction has no distribution"})
    metric_name = "R2"
    guess_loss = 0.5
    guess_confidence = math.exp(-0.5)

    def __init__(self, scale: float | None = None, numbers: int | None = None) -> None:
        self.scale = None if scale is None else check_positive("scale", scale)
        self.numbers = self.outputs = None if numbers is None else check_count("numbers", numbers)

    def fitted(self, targets: Any) -> Self:
        """This kind with the scale of the targets (N, ...).

        Raises:
            ValueError: there are none at hand and no scale was given, or all of them are equal.

        Warns:
            UserWarning: their mean is far from 0.
        """
        if self.scale is not None:
            return self
        if not isinstance(targets, Tensor):
            raise ValueError(
                "regression needs the standard deviation of the targets, and they are not at hand as a "
                "tensor: kind={'name': 'regression', 'scale': ...}; 1.0 where they are standardised"
            )
        columns = targets.double().reshape(len(targets), -1)
        spread = float(columns.var(0, correction=0).mean().sqrt())
        if not spread > 0:
            raise ValueError(f"all targets are {targets.flatten()[0].item():g}: there is nothing to learn")
        far = columns.mean(0).abs().max() / spread
        if far > FAR:
            warnings.warn(
                f"the mean of the targets is {far:.3g} standard deviations away from 0, and a model begins "
                "near 0: train on (targets - mean) / deviation, or most of the training goes into the mean",
                stacklevel=3,
            )
        return type(self)(spread, columns.shape[1])

    def _squares(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Mean square of the error over the scale, (B,)."""
        off = (outputs.float() - targets.float()) / (1.0 if self.scale is None else self.scale)
        return off.square().flatten(1).mean(1) if off.dim() > 1 else off.square()

    def sample_loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        self.check_outputs(outputs, targets)  # (B, 1) less (B,) would be (B, B)
        return self._squares(outputs, targets) / 2

    def read(self, outputs: Tensor, targets: Tensor, loss: Tensor) -> dict[str, Tensor]:
        del loss
        squares = self._squares(outputs, targets)
        return {
            "confidence": torch.exp(-squares / 2),
            "margin": (1 - squares) / (1 + squares),
            "correct": (squares < 1).float(),
            "error": squares.sqrt(),
        }

    def statistics(self, outputs: Tensor, targets: Tensor, loss: Tensor) -> Tensor:
        del loss
        # In double precision, since the mean of the targets may be large beside their deviation
        wanted = targets.double().reshape(len(targets), -1) / (1.0 if self.scale is None else self.scale)
        squares = self._squares(outputs, targets).double()[:, None]
        return torch.cat([squares, torch.ones_like(squares), wanted, wanted.square()], 1)

    def metric(self, sums: Tensor) -> Tensor:
        squares, number = sums[..., 0], sums[..., 1].clamp(min=1)
        total, total_square = sums[..., 2:].chunk(2, -1)
        variance = (total_square / number[..., None] - (total / number[..., None]).square()).mean(-1)
        return (1 - squares / number / variance.clamp(min=1e-12)).clamp(0, 1)

    def check_targets(self, what: str, targets: Any, size: int) -> None:
        check_tensor(what, targets, size)
        if not targets.is_floating_point():
            raise ValueError(
                f"{what} must be floating numbers (N,) or (N, D), got {found(targets)}; use .float()"
            )
        check_finite(what, targets)

    def check_outputs(self, outputs: Any, targets: Any) -> None:
        super().check_outputs(outputs, targets)
        if not isinstance(targets, Tensor) or outputs.shape != targets.shape:
            has_axis = outputs.dim() == 2 and outputs.shape[1] == 1
            lacks_axis = isinstance(targets, Tensor) and targets.shape == (*outputs.shape, 1)
            hint = "; squeeze the last axis of the outputs" if has_axis else ""
            hint = "; give outputs[:, None]" if lacks_axis else hint
            raise ValueError(
                f"outputs for regression must have the shape of the targets, got outputs {found(outputs)} "
                f"and targets {found(targets)}{hint}"
            )
