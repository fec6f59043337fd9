"""Lengths of samples: batches of similar ones, and a budget that counts tokens."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dsenv.describe import describe
from dsenv.errors import shown
from dsenv.plan.epoch_schedule import EpochSchedule
from dsenv.select.base import Selection

POOL = 50  # batches whose samples are sorted together
LONGEST = 1 << 40  # tokens of a sample, so that sums stay whole numbers


class Lengths:
    """What a plan does with the lengths of its samples.

    Args:
        tokens: (N,) int64 tokens of each sample.
        schedule: of the plan; where it counts in tokens, an epoch gets the share of all tokens that it
            gives to the epoch, and what an epoch leaves over goes to the next.
        sort: batches hold samples of similar length.

    Raises:
        ValueError: the tokens of an epoch may not pay for one batch.
    """

    def __init__(self, tokens: Tensor, schedule: EpochSchedule, *, sort: bool) -> None:
        self.tokens = tokens
        self.schedule = schedule
        self.sort = sort
        self.total = int(tokens.sum())
        """Tokens of all samples."""

        self.spent = 0
        """Tokens of the samples chosen to be trained on so far, those of the current epoch included."""
        self._last = len(tokens), self.total  # samples and tokens of the last choice, before it was cut
        if schedule.shares is not None:
            self._check_smallest(schedule.shares)

    def _check_smallest(self, shares: Sequence[int]) -> None:
        """Check that every epoch can pay for a step, whichever samples are chosen."""
        number = self.schedule.batch_size if self.schedule.drop_last else 1
        needed = int(self.tokens.topk(min(number, len(self.tokens))).values.sum())
        least = min(shares) * self.total // len(self.tokens) - 1
        if least < needed:
            what = "the longest sample has" if number == 1 else f"a batch of the {number} longest samples has"
            raise ValueError(
                f"an epoch may spend {least} of the {self.total} tokens, and {what} {needed}; raise the "
                "ratio, cut long samples, or take ratio_of='samples'"
            )

    def allowed(self, epoch: int) -> int:
        """Tokens that epoch `epoch` may spend."""
        assert self.schedule.shares is not None
        return sum(self.schedule.shares[: epoch + 1]) * self.total // len(self.tokens) - self.spent

    def count(self, epoch: int) -> int:
        """How many samples epoch `epoch` is to have, if they are as long as those of the last choice.

        Before anything was chosen, as long as all samples are.
        """
        chosen, tokens = self._last
        least = self.schedule.batch_size if self.schedule.drop_last else 1
        return min(len(self.tokens), max(least, self.allowed(epoch) * chosen // tokens))

    def arranged(self, chosen: Selection, epoch: int, generator: torch.Generator) -> Selection:
        """The samples of an epoch in training order, from those that were chosen, in random order.

        Where the budget is in tokens, the last ones are left out until it holds.
        """
        schedule = self.schedule
        if schedule.shares is not None:
            passed = self.tokens[chosen.index].cumsum(0)
            self._last = len(passed), int(passed[-1])
            kept = int((passed <= self.allowed(epoch)).sum())
            chosen = Selection(chosen.index[:kept], chosen.weight[:kept])

        if self.sort:
            order = batches_by_length(self.tokens[chosen.index], schedule.batch_size, generator)
            chosen = Selection(chosen.index[order], chosen.weight[order])
        self.spent += int(self.tokens[chosen.index[: schedule.trained(len(chosen.index))]].sum())
        return chosen

    def settings(self) -> dict[str, Any]:
        """What a continued state must share."""
        return {"lengths": describe(self.tokens.cpu()), "sort": self.sort}

    def state_dict(self) -> dict[str, int]:
        """What was spent, and how long the last choice was."""
        return {"spent": self.spent, "last_samples": self._last[0], "last_tokens": self._last[1]}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Continue from `state_dict()`."""
        self.spent = state["spent"]
        self._last = state["last_samples"], state["last_tokens"]


def batches_by_length(lengths: Tensor, batch_size: int, generator: torch.Generator) -> Tensor:
    """An order (M,) of samples in which each batch holds similar lengths, and batches come in random order.

    The samples, which are in random order, are sorted by length in pools of 50 batches, so that batches are
    mixed anew each time. A last batch that is smaller stays the last, with samples of any length.

    Args:
        lengths: (M,) int64, of samples in random order.
        batch_size: samples a step.
        generator: draws the order of the batches.
    """
    whole = len(lengths) // batch_size * batch_size
    place = torch.arange(len(lengths), device=lengths.device)
    if not whole:
        return place

    # By pool first, then by length; equal lengths stay in random order
    inside = lengths[:whole].argsort(stable=True)
    pool = inside // (POOL * batch_size)
    inside = inside[pool.argsort(stable=True)]
    batches = inside.view(-1, batch_size)
    order = torch.randperm(len(batches), generator=generator, device=generator.device).to(lengths.device)
    return torch.cat([batches[order].flatten(), place[whole:]])


def check_lengths(lengths: Any, size: int, device: torch.device) -> Tensor:
    """Lengths (N,) as an int64 tensor on the device.

    Raises:
        ValueError: they are not one whole number of at least 1 for each sample.
    """
    try:
        found = lengths if isinstance(lengths, Tensor) else torch.from_numpy(np.asarray(lengths))
    except (TypeError, ValueError) as error:
        raise ValueError(_no_lengths(lengths, size)) from error
    is_whole = not found.is_floating_point() and not found.is_complex() and found.dtype != torch.bool
    if found.shape != (size,) or not is_whole:
        raise ValueError(_no_lengths(lengths, size))

    low, high = (int(value) for value in found.aminmax())
    if low < 1 or high > LONGEST:
        wrong = low if low < 1 else high
        row = int((found == wrong).nonzero()[0])
        raise ValueError(f"lengths must be tokens of each sample, at least 1, got {wrong} at position {row}")
    return found.to(device, torch.int64)


def _no_lengths(lengths: Any, size: int) -> str:
    is_tensor = isinstance(lengths, Tensor)
    found = f"{lengths.dtype} {tuple(lengths.shape)}" if is_tensor else shown(lengths)
    return (
        f"lengths must be whole numbers ({size},), the tokens of each sample, got {found}; TokenFile.lengths "
        "has them"
    )
