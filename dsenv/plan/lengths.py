"""Lengths of samples: batches of similar ones, and a budget that counts tokens."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dsenv.describe import describe
from dsenv.errors import shown
from dsenv.plan.epoch_schedule import EpochSchedule
from dsenv.plan.plan_guard import PlanGuard
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
        """How many samples epoch `epoch` is to have, so that it spends what it may, or little less."""
        least = self.schedule.batch_size if self.schedule.drop_last else 1
        found = affordable(self.allowed(epoch), len(self.tokens), self.total, *self._last)
        return min(len(self.tokens), max(least, found))

    def arranged(self, chosen: Selection, epoch: int, generator: torch.Generator) -> Selection:
        """The samples of an epoch in training order, from those that were chosen, in random order.

        Where the budget is in tokens, the last ones are left out until it holds.
        """
        schedule = self.schedule
        if schedule.shares is not None:
            passed = self.tokens[chosen.index].cumsum(0)
            self._last = len(passed), int(passed[-1])
            kept = int((passed <= self.allowed(epoch)).sum())
            if schedule.is_whole:  # at least one step, which later epochs pay for
                kept = max(schedule.batch_size, kept - kept % schedule.batch_size)
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


def affordable(allowed: int, size: int, total: int, chosen: int, tokens: int) -> int:
    """How many samples `allowed` tokens pay for, as far as the last choice tells.

    A selector that prefers short samples has to take longer ones where it takes more: the mean length is
    taken to change evenly between that of the last choice and that of all samples, which is known.

    Args:
        allowed: tokens.
        size: N, all samples.
        total: tokens of all samples.
        chosen: samples of the last choice.
        tokens: tokens of the last choice.

    Returns:
        0 to N.
    """
    mean, last = total / size, tokens / chosen
    slope = (mean - last) / (size - chosen) if chosen < size else 0.0
    counts = np.arange(1, size + 1)
    costs = counts * np.maximum(mean - slope * (size - counts), 1)
    costs[-1] = total
    too_many = np.flatnonzero(costs > allowed)
    return int(too_many[0]) if len(too_many) else size


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


def check_ratio_of(in_tokens: bool, has_ratio: bool, is_learned: bool) -> None:
    """Check that a budget of tokens can be kept by the parts of a plan.

    Raises:
        ValueError: nobody said how large it is, or a learned part decides.
    """
    if in_tokens and is_learned:
        raise ValueError(
            "ratio_of='tokens' does not go with a learned part: a policy counts samples; take "
            "ratio_of='samples', and look at plan.cost.tokens"
        )
    if in_tokens and not has_ratio:
        raise ValueError(
            "ratio_of='tokens' needs ratio=..., the share of all tokens: the selector's own count is one of "
            "samples"
        )


def open_lengths(
    given: Any, dataset: Any, schedule: EpochSchedule, device: torch.device, guard: PlanGuard | None
) -> Lengths | None:
    """The lengths of a plan's samples; None where nobody asks for them.

    Args:
        given: (N,) as the user gave them; None to take those of the data set where tokens are counted, and
            then batches are not sorted by them.
        dataset: may have an attribute `lengths`.
        schedule: of the plan.
        device: where batches live.
        guard: of the plan; it counts samples.

    Raises:
        ValueError: they are no lengths, or are not known and needed.
    """
    in_tokens = schedule.shares is not None
    if in_tokens and guard is not None:
        raise ValueError("ratio_of='tokens' does not go with a guard, which counts samples; leave one out")

    found = getattr(dataset, "lengths", None) if given is None and in_tokens else given
    if found is None and in_tokens:
        raise ValueError(
            "ratio_of='tokens' needs the tokens of each sample: lengths=(N,), or a data set with an "
            "attribute lengths, as a TokenFile has"
        )
    if found is None:
        return None
    tokens = check_lengths(found, schedule.size, device)
    return Lengths(tokens, schedule, sort=given is not None)


def check_lengths(lengths: Any, size: int, device: torch.device) -> Tensor:
    """Lengths (N,) as an int64 tensor on the device.

    Raises:
        ValueError: they are not one whole number of at least 1 for each sample.
    """
    is_tensor = isinstance(lengths, Tensor)
    if (is_tensor and lengths.layout != torch.strided) or isinstance(lengths, np.ma.MaskedArray):
        raise ValueError(_no_lengths(lengths, size))
    try:
        found = np.asarray(lengths.detach().cpu() if is_tensor else lengths)
    except (TypeError, ValueError) as error:
        raise ValueError(_no_lengths(lengths, size)) from error
    if found.shape != (size,) or not np.issubdtype(found.dtype, np.integer):
        raise ValueError(_no_lengths(lengths, size))

    wrong = np.flatnonzero((found < 1) | (found > LONGEST))
    if len(wrong):
        raise ValueError(
            f"lengths must be tokens of each sample, 1 to {LONGEST}, got {found[wrong[0]]} at position "
            f"{wrong[0]}"
        )
    return torch.from_numpy(found.astype(np.int64)).to(device)


def _no_lengths(lengths: Any, size: int) -> str:
    is_tensor = isinstance(lengths, Tensor)
    found = f"{lengths.dtype} {tuple(lengths.shape)}" if is_tensor else shown(lengths)
    return (
        f"lengths must be whole numbers ({size},), the tokens of each sample, got {found}; TokenFile.lengths "
        "has them"
    )
