"""Which samples of the current epoch were trained on: one bit each, so that no order of batches matters."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dsenv.kernels import sent
from dsenv.plan.data import Batch, check_index
from dsenv.plan.world import check_dealt
from dsenv.select.base import Selection


class EpochRecord:
    """The samples of one epoch in training order, and what became of each.

    A sample's place is where it stands in that order; batch `number` holds the places from
    `number * batch_size` on. Of several ranks each has every `ranks`-th batch, and the record says what
    became of its own. What is asked batch by batch does not wait for a device.

    Args:
        epoch: number of the epoch.
        chosen: its samples of all ranks, in training order.
        end: how many of them are trained on; the rest is cut off by `drop_last`.
        batch_size: samples a batch, of one rank.
        size: N, samples in the training set.
        rank: number of this rank.
        ranks: how many there are; with several, `end` is whole steps of all of them.
        parts: batches of all ranks that make a step together.
    """

    def __init__(
        self,
        epoch: int,
        chosen: Selection,
        end: int,
        batch_size: int,
        size: int,
        rank: int = 0,
        ranks: int = 1,
        parts: int = 1,
    ) -> None:
        self.epoch = epoch
        self.chosen = chosen
        self.end = end
        self.batch_size = batch_size
        self.size = size
        self.rank, self.ranks, self.parts = rank, ranks, parts
        self.own_end = end // ranks
        """Samples that this rank trains on."""

        self.done = 0
        """Samples that this rank trained on."""
        self.is_agreed = ranks == 1
        """The ranks have the same samples."""
        self.left_out: list[int] = []
        """Positions of those that a collate function left out of batches; they are not offered again."""

        device = chosen.index.device
        self._weights = chosen.weight.new_zeros(size)  # 0: not in this epoch
        self._weights[chosen.index] = chosen.weight
        self._trained = torch.zeros(size, dtype=torch.bool, device=device)
        self._marked: list[Tensor] = []  # positions that were trained on and are not among the bits yet
        self._taken: dict[int, int] = {}  # samples taken in of each batch, by its number
        self._made: dict[int, Tensor] = {}  # positions of the batches as they were made, by number
        self._is_own = True  # no batch was taken in but those
        self._by_others = 0  # samples that other ranks trained on before the state that this one goes on from
        self._given = 0  # batches whose positions were not looked at
        self.is_resumed = False
        """The batches were cut when something was trained on already."""
        self._host: tuple[NDArray[np.int64], NDArray[np.int64]] | None = None

    # What is left

    @property
    def passed(self) -> int:
        """Samples of this rank that are not offered any more: trained on, or left out."""
        return self.done + len(self.left_out)

    @property
    def is_done(self) -> bool:
        """No sample is left."""
        return self.passed >= self.own_end

    def check_left(self) -> None:
        """Check that something is left.

        Raises:
            ValueError: nothing is.
        """
        if self.is_done:
            raise ValueError(
                f"epoch {self.epoch} is over; go on with `for epoch in plan.epochs_left()`, or call "
                f"plan.start_epoch({self.epoch + 1})"
            )

    def cut(self, *, is_whole: bool = False, of_all: bool = False) -> tuple[Tensor, Selection]:
        """Places (M,) that are left, ascending, on the CPU, and their samples; a wait where any is closed.

        Args:
            is_whole: those that are not left too.
            of_all: those of the other ranks too.
        """
        if not is_whole:
            self.check_left()
        self.is_resumed = self.passed > 0 and not is_whole
        self._given = 0 if is_whole else -(-self.passed // self.batch_size)

        places = torch.arange(self.end)
        index, weight = self.chosen.index[: self.end], self.chosen.weight[: self.end]
        is_own = self.ranks == 1 or of_all
        if not is_own:
            places = places[places // self.batch_size % self.ranks == self.rank]
        if self.is_resumed:
            places = self._open(places)
        if self.is_resumed or not is_own:
            at = places.to(index.device)
            index, weight = index[at], weight[at]
        return places, Selection(index, weight)

    def _open(self, places: Tensor) -> Tensor:
        """Those of the places (M,) whose samples were neither trained on nor left out; a wait."""
        positions = torch.from_numpy(self._order()[places.numpy()])
        is_closed = self._bits()[positions.to(self._trained.device)].cpu()
        if self.left_out:
            is_closed |= torch.isin(positions, torch.tensor(self.left_out))
        return places[~is_closed]

    def left(self, **which: bool) -> Selection:
        """What is left, in training order; `which` as for `left_batches`, errors as for `check_left`."""
        return self.cut(**which)[1]

    def left_batches(self, **which: bool) -> list[tuple[int, Tensor, Tensor]]:
        """Number, positions (B,) and weights (B,) of every batch that is left, in training order.

        A batch keeps its number and its samples whatever was trained on before it; one that was trained on in
        part holds the rest. Errors as for `check_left`.

        Args:
            which: `is_whole`, for the batches that are not left too, and `of_all`, for those of other ranks.
        """
        places, left = self.cut(**which)
        numbers, sizes = torch.unique_consecutive(places // self.batch_size, return_counts=True)
        parts = (torch.split(part, sizes.tolist()) for part in (left.index, left.weight))
        found = list(zip(numbers.tolist(), *parts, strict=True))
        self._made = {number: index for number, index, _ in found}
        return found

    # Batches of a loader

    def look_up(self, index: Tensor) -> tuple[Tensor, int]:
        """Weights (B,) of samples (B,), and the number of their batch, whatever was fetched ahead.

        Where the positions are not on the CPU, nothing of them is looked at, since that would be a wait; the
        number is then how many batches were looked up before.

        Raises:
            ValueError: a sample was not chosen for this epoch, or is there twice.
        """
        check_index(index, self._weights.device)
        if index.device.type != "cpu":
            self._given += 1
            return self._weights[index], (self._given - 1) * self.ranks + self.rank

        places = self._places_of(index)
        places.sort()
        if places[0] < 0 or (places[1:] == places[:-1]).any():
            self._refuse(index)
        number = int(places[0]) // self.batch_size
        if self.ranks > 1:
            is_first = not (self._made or self.passed)
            check_dealt(places // self.batch_size, self.rank, self.ranks, self.epoch, is_first=is_first)
        return self._weights[sent(index, self._weights.device)], number

    def _places_of(self, index: Tensor) -> NDArray[np.int64]:
        """Places (B,) of samples (B,) on the CPU, -1 for those that were not chosen."""
        positions: NDArray[np.int64] = index.numpy()
        if positions.min() < 0 or positions.max() >= self.size:
            self._refuse(index)
        found: NDArray[np.int64] = self._on_host()[1][positions]
        return found

    def _refuse(self, index: Tensor) -> None:
        """Name the first sample that was not chosen, or is there twice."""
        places = self._on_host()[1]
        met: set[int] = set()
        for position in index.tolist():
            if not 0 <= position < self.size or places[position] < 0:
                raise ValueError(
                    f"the batch holds sample {position}, which is not among those of epoch {self.epoch}: "
                    "another sampler made it, or it is left over from another epoch; some frameworks replace "
                    "samplers"
                )
            if position in met:
                raise ValueError(
                    f"the batch holds sample {position} twice, and a sample comes once an epoch: another "
                    "sampler made it, or the collate function repeats samples"
                )
            met.add(position)

    def free_number(self, index: Tensor, number: int) -> int:
        """The number of a batch of samples (B,), or the next one that no other batch has.

        For samplers of the user's own, which may mix the samples of several batches.
        """
        if index.is_cpu:
            while (other := self._made.get(number)) is not None and not _same_samples(other, index):
                number += self.ranks
        return number

    def note_made(self, index: Tensor, number: int) -> None:
        """Note that samples (B,) are batch `number` of the epoch."""
        self._made[number] = index

    def size_of(self, number: int) -> int:
        """Samples of batch `number`, as it was planned."""
        return max(0, min(self.batch_size, self.end - number * self.batch_size))

    def check_size(self, size: int, number: int) -> None:
        """Check that a loader of the user's own makes the batches that the plan counts as steps.

        Raises:
            ValueError: batch `number` is neither a full batch, nor as it was planned, nor the rest after all
                others; where an epoch is gone on with, it is larger than a batch.
        """
        is_last = len(self._made) >= self.own_end // self.batch_size
        rest = self.end % self.batch_size if is_last else self.batch_size
        is_whole = size in (self.batch_size, self.size_of(number), rest)
        if is_whole or (self.is_resumed and size <= self.batch_size):
            return
        kind, name = ("steps", "batch_size") if self.parts == 1 else ("batches", "micro_batch_size")
        raise ValueError(
            f"the batch holds {size} samples, the plan makes {kind} of {self.batch_size}: give the "
            f"DataLoader batch_size=plan.{name}, or DataPlan(batch_size=...) that of the loader; "
            "where the collate function leaves samples out, say plan.batch(index, sample, partial=True)"
        )

    def leave_out(self, number: int, kept: Tensor) -> None:
        """Note that only the samples `kept` (B,), on the CPU, come of what is left of batch `number`."""
        size = self.size_of(number)
        if len(kept) >= size:
            return

        first = number * self.batch_size
        missing = torch.from_numpy(np.setdiff1d(np.arange(first, first + size), self._places_of(kept)))
        if self.is_resumed or self.left_out:
            missing = self._open(missing)
        self.left_out += self._order()[missing.numpy()].tolist()

    def leave_out_all(self, index: Tensor) -> None:
        """Note that none of the samples (B,) of a batch will come; errors as for `look_up`."""
        self.look_up(index)
        self.left_out += index.tolist()

    def _on_host(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Positions (M,) by place, and places (N,) by position, -1 where not chosen, for the CPU.

        The first call in an epoch is a wait.
        """
        if self._host is None:
            order: NDArray[np.int64] = self.chosen.index.cpu().numpy()
            places = np.full(self.size, -1)
            places[order[: self.end]] = np.arange(self.end)
            self._host = order, places
        return self._host

    def _order(self) -> NDArray[np.int64]:
        return self._on_host()[0]

    # What was trained on

    def check_new(self, batch: Batch) -> None:
        """Check that the samples of a batch are of this epoch, and that none was trained on before.

        Where the positions are not on the CPU, to look at them would be a wait; there the number of the batch
        tells.

        Raises:
            ValueError: one is not, or was.
        """
        # As the plan made it, and nothing else was taken in: new without a look
        number, index = batch.number, batch.index
        if self._is_own and number not in self._taken and self._made.get(number) is index:
            return

        self._is_own = False
        check_index(index, self._weights.device)
        if self._trained.is_cpu and index.is_cpu:
            if (self._places_of(index) < 0).any():
                self._refuse(index)
            trained = index[self._bits()[index]]
            if len(trained):
                self._refuse_again(f"sample {int(trained[0])}")
            return

        taken, most = self._taken.get(number, 0), self.size_of(number)
        if taken and taken + len(index) > most:
            self._refuse_again(f"batch {number}")
        if len(index) > most:
            raise ValueError(
                f"batch {number} of epoch {self.epoch} has {most} samples, and {len(index)} were "
                "given: give plan.loss the batches that the plan made, or DataPlan a larger batch_size"
            )

    def _refuse_again(self, what: str) -> None:
        raise ValueError(
            f"{what} of epoch {self.epoch} was taken in before, by plan.loss or plan.observe: a sample "
            "counts once an epoch. For the weighted loss once more (SAM, L-BFGS, logging) call "
            "plan.weighted(batch, losses), which takes nothing in"
        )

    def mark(self, batch: Batch) -> None:
        """Note that the samples of a batch were trained on."""
        size = len(batch.index)
        self._marked.append(batch.index)
        self._taken[batch.number] = self._taken.get(batch.number, 0) + size
        self.done += size

    def repeated(self) -> int:
        """Samples that were taken in more than once, which only a look at a device can tell; a wait."""
        return self.done + self._by_others - int(self._bits().count_nonzero())

    def _bits(self) -> Tensor:
        """Which samples (N,) were trained on; what was marked since the last look is written now."""
        if self._marked:
            marked = torch.cat([index.to(self._trained.device) for index in self._marked])
            self._trained.index_fill_(0, marked, True)
            self._marked = []
        return self._trained

    # States

    def trained_on(self) -> Tensor:
        """Positions (M,) of the samples that this rank trained on, and of those before a resume; a wait."""
        return self._bits().nonzero().squeeze(1)

    def state_dict(
        self, trained: Tensor | None = None, left_out: Sequence[int] | None = None
    ) -> dict[str, Any]:
        """The samples, and what became of each.

        Args:
            trained: positions of the samples that any rank trained on; None for those of this one.
            left_out: of the samples that were left out on any rank; None for those of this one.
        """
        bits = self._bits().clone()
        if trained is not None:
            bits.index_fill_(0, trained, True)
        return {
            "index": self.chosen.index.clone(),
            "weight": self.chosen.weight.clone(),
            "trained": bits,
            "left_out": list(self.left_out if left_out is None else left_out),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a state of the same samples, of all ranks.

        Raises:
            ValueError: what is left cannot be shared by the ranks there are now.
        """
        self._trained.copy_(state["trained"])
        self._marked, self._made, self._is_own = [], {}, True

        # How many samples of each batch: one wait, once a resume
        places = self._on_host()[1]
        trained = places[self._trained.cpu().numpy()]
        numbers, sizes = np.unique(trained // self.batch_size, return_counts=True)
        by_rank = np.bincount(numbers % self.ranks, weights=sizes, minlength=self.ranks)
        self._taken = {
            number: size
            for number, size in zip(numbers.tolist(), sizes.tolist(), strict=True)
            if number % self.ranks == self.rank
        }
        self.left_out = [
            position
            for position in state["left_out"]
            if places[position] // self.batch_size % self.ranks == self.rank
        ]
        self.done = int(by_rank[self.rank])
        self._by_others = int(by_rank.sum()) - self.done
        self.is_resumed = self.passed > 0
        if not state["left_out"] and by_rank.min() < by_rank.max():
            raise ValueError(
                f"the state is of the middle of a step of epoch {self.epoch}, and {self.ranks} ranks with "
                f"batches of {self.batch_size} cannot share what is left of it evenly: save it after a whole "
                "step, or go on with as many ranks and micro-batches as before"
            )


def _same_samples(one: Tensor, other: Tensor) -> bool:
    """Whether two batches (B,) hold the same samples, in any order."""
    return torch.equal(one, other) or torch.equal(one.sort().values, other.sort().values)
