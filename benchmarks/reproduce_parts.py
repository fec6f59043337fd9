"""Parts that the reproduction compares with, and the published regulariser measured along a run.

Plans build the parts by name, as `reproduce_parts:FullTail`.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dsenv import SampleSignals, Selection, Selector, VolumeSchedule
from dsenv.augment.influence import evaluation_mode
from dsenv.outputs import ModelOutputs
from dsenv.select.base import top
from dsenv.select.data_agent import choose_by_rank, choose_uniformly
from dsenv.select.data_agent_reward import composite, uncertainty
from dsenv.select.random import UniformRandom

PROBE = 256  # samples at which the regulariser is measured
DRAWS = 4  # random directions of one estimate


class FullTail(VolumeSchedule):
    """A constant ratio, and all data in the last part of the run, paid from the same budget.

    Args:
        target: mean ratio, (0, 1].
        tail: share of the epochs on all data at the end, [0, target).
    """

    def __init__(self, target: float, tail: float = 0.125) -> None:
        super().__init__(target)
        self.tail = tail

    def _ratio(self, step: int, total: int) -> float:
        full = min(round(self.tail * total), int(self.target * total))
        if step >= total - full:
            return 1.0
        return (self.target * total - full) / (total - full)


class Rescaled(UniformRandom):
    """A fresh uniform subset in which each sample weighs N / M: the sum over all samples is unbiased."""

    def select(self, signals: SampleSignals, count: int, generator: torch.Generator) -> Selection:
        """Draw `count` samples, each with weight N / count."""
        chosen = super().select(signals, count, generator)
        return Selection(chosen.index, chosen.weight * signals.size / count)


class GreedyReward(Selector):
    """The samples of the largest reward of Data Agent at their last visit, without its policy.

    The reward is `composite`: loss and entropy within the batch, weighted by their variances. As in Data
    Agent the first selection and the last eighth of `planned` are uniform draws.

    Args:
        planned: epochs of the run.
        aged: rank as Data Agent's corrected form does: ageing of ranks, and 5 % drawn uniformly.
    """

    needs_logits = True

    def __init__(self, planned: int, aged: bool = False) -> None:
        self.planned, self.aged = planned, aged
        self._worth: Tensor | None = None
        self._trained_at: Tensor | None = None
        self._selections = 0

    def observe(self, batch: ModelOutputs) -> None:
        """Keep the reward of the samples of a batch."""
        assert self._worth is not None and self._trained_at is not None and batch.logits is not None
        unsure = uncertainty(batch.logits.detach().float())
        self._worth[batch.index] = composite(batch.loss.detach().float(), unsure)
        self._trained_at.index_fill_(0, batch.index, self._selections)

    def select(self, signals: SampleSignals, count: int, generator: torch.Generator) -> Selection:
        """Choose the best `count`; each call is one epoch."""
        if self._worth is None:
            self._worth = torch.full((signals.size,), 1.0, device=signals.device)
            self._trained_at = torch.zeros(signals.size, dtype=torch.int32, device=signals.device)
        assert self._trained_at is not None
        number, self._selections = self._selections, self._selections + 1

        if number == 0 or number >= self.planned - round(self.planned / 8):
            chosen = choose_uniformly(signals.size, count, generator)
        elif self.aged:
            age = number - self._trained_at
            chosen = choose_by_rank(self._worth, age, count, 0.05, 0.9, generator)
        else:
            chosen = top(self._worth, count).index
        return Selection(chosen, torch.ones(count, device=chosen.device))

    def state_dict(self) -> dict[str, Any]:
        """Rewards, ages and the number of the selection."""
        return {"worth": self._worth, "trained_at": self._trained_at, "selections": self._selections}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`."""
        self._worth, self._trained_at = state["worth"], state["trained_at"]
        self._selections = state["selections"]


def trace_of_hessian_times_covariance(
    model: nn.Module, inputs: Tensor, labels: Tensor, generator: torch.Generator, draws: int = DRAWS
) -> float:
    """Tr(H C) on some samples: H the Hessian of their mean loss, C the covariance of their gradients.

    For signs z of mean 0 and covariance I, v = sum (z_i - mean z) g_i / sqrt(n) has the covariance C, so that
    the mean of v^T H v over the draws is unbiased. One draw takes two passes backward and one through the
    gradient. Source: PODS (arXiv 2605.14773), proposition 3.1, with Hutchinson's estimator.

    Args:
        model: gives logits (n, K); it is measured in evaluation mode and left as it was.
        inputs: (n, ...) as the model sees them.
        labels: (n,) int64.
        generator: draws the signs, on the device of the inputs.
        draws: how many directions.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    found = []
    with evaluation_mode(model), torch.enable_grad():
        losses = F.cross_entropy(model(inputs).float(), labels, reduction="none")
        gradient = torch.autograd.grad(losses.mean(), parameters, create_graph=True)
        for _ in range(draws):
            signs = torch.randint(0, 2, losses.shape, generator=generator, device=losses.device) * 2.0 - 1
            weights = (signs - signs.mean()) / len(losses) ** 0.5
            direction = torch.autograd.grad(losses @ weights, parameters, retain_graph=True)
            inner = sum((g * d).sum() for g, d in zip(gradient, direction, strict=True))
            product = torch.autograd.grad(inner, parameters, retain_graph=True)
            found.append(sum((h * d).sum() for h, d in zip(product, direction, strict=True)))
    return float(torch.stack(found).mean())


def regulariser(lr: float, size: int, ratio: float, trace: float) -> float:
    """R(p, theta) of PODS: what a step on a random share of the data adds to the expected loss.

    Args:
        lr: learning rate.
        size: N, the size of the training set.
        ratio: p, the share of it in the epoch.
        trace: Tr(H C).
    """
    return lr**2 / (2 * size) * (1 - ratio) / ratio * trace
