"""Which samples of the current epoch were trained on: one bit each, so that no order of batches matters."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from dsenv.errors import shown
from dsenv.kernels import sent
from dsenv.plan.data import Batch
from dsenv.select.base import Selection


class EpochRecord:
    """The samples of one epoch in training order, and what became of each.

    A sample's place is where it stands in that order; batch `number` holds the places from
    `number * batch_size` on. What is asked batch by batch does not wait for a device.

    Args:
        epoch: number of the epoch.
        chosen: its samples, in training order.
        end: how many of them are trained on; the rest is cut off by `drop_last`.
        batch_size: samples a step.
        size: N, samples in the training set.
    """

    def __init__(self, epoch: int, chosen: Selection, end: int, batch_size: int, size: int) -> None:
        self.epoch = epoch
        self.chosen = chosen
        self.end = end
        self.batch_size = batch_size
        self.size = size

        self.done = 0
        """Samples that were trained on."""
        self.left_out: list[int] = []
        """Positions of those that a collate function left out of batches; they are not offered again."""

        device = chosen.index.device
        self._weights = torch.zeros(size, device=device)  # 0: not in this epoch
        self._weights[chosen.index] = chosen.weight
        self._trained = torch.zeros(size, dtype=torch.bool, device=device)
        self._taken: dict[int, int] = {}  # samples taken in of each batch, by its number
        self._is_resumed = False  # batches were cut when something was trained on already
        self._host: tuple[Tensor, Tensor, Tensor] | None = None

    # What is left

    @property
    def passed(self) -> int:
        """Samples that are not offered any more: trained on, or left out."""
        return self.done + len(self.left_out)

    @property
    def is_done(self) -> bool:
        """No sample is left."""
        return self.passed >= self.end

    def places_left(self) -> Tensor:
        """Places (M,) int64 that are left, ascending, on the CPU; a wait where something was trained on.

        Raises:
            ValueError: nothing is left.
        """
        if self.is_done:
            raise ValueError(
                f"epoch {self.epoch} is over; go on with `for epoch in plan.epochs_left()`, or call "
                f"plan.start_epoch({self.epoch + 1})"
            )
        self._is_resumed = self.passed > 0
        if not self._is_resumed:
            return torch.arange(self.end)
        return self._open(torch.arange(self.end))

    def _open(self, places: Tensor) -> Tensor:
        """Those of the places (M,) whose samples were neither trained on nor left out; a wait."""
        order, _, _ = self._on_host()
        positions = order[places]
        is_closed = self._trained[positions.to(self._trained.device)].cpu()
        if self.left_out:
            is_closed |= torch.isin(positions, torch.tensor(self.left_out))
        return places[~is_closed]

    def left(self) -> Selection:
        """What is left, in training order; errors as for `places_left`."""
        places = self.places_left()
        if len(places) == self.end:
            return Selection(self.chosen.index[: self.end], self.chosen.weight[: self.end])
        places = places.to(self.chosen.index.device)
        return Selection(self.chosen.index[places], self.chosen.weight[places])

    def left_batches(self) -> list[tuple[int, Tensor, Tensor]]:
        """Number, positions (B,) and weights (B,) of every batch that is left, in training order.

        A batch keeps its number and its samples whatever was trained on before it; one that was trained on in
        part holds the rest. Errors as for `places_left`.
        """
        places, left = self.places_left(), self.left()
        numbers, sizes = torch.unique_consecutive(places // self.batch_size, return_counts=True)
        parts = (torch.split(part, sizes.tolist()) for part in (left.index, left.weight))
        return list(zip(numbers.tolist(), *parts, strict=True))

    # Batches of a loader

    def weights_of(self, index: Tensor) -> Tensor:
        """Weights (B,) of samples (B,), on the device.

        Raises:
            ValueError: one of them was not chosen, or is there twice. The check is made where the positions
                are on the CPU, as from a DataLoader; elsewhere it would wait for the device.
        """
        _check_index(index, self._weights.device)
        if index.device.type == "cpu":
            self._check_chosen(index)
        return self._weights[sent(index, self._weights.device)]

    def _check_chosen(self, index: Tensor) -> None:
        _, places, _ = self._on_host()
        inside = index.clamp(0, self.size - 1)
        strange = index[(places[inside] < 0) | (inside != index)]
        if len(strange):
            raise ValueError(
                f"the batch holds sample {int(strange[0])}, which is not among those of epoch {self.epoch}: "
                "another sampler made it, or it is left over from another epoch; some frameworks replace "
                "samplers"
            )

        ordered = index.sort().values
        twice = ordered[1:][ordered[1:] == ordered[:-1]]
        if len(twice):
            raise ValueError(
                f"the batch holds sample {int(twice[0])} twice, and a sample comes once an epoch: another "
                "sampler made it, or the collate function repeats samples"
            )

    def number_of(self, index: Tensor) -> int:
        """Number of the batch of samples (B,), whatever was fetched ahead.

        Where the positions are not on the CPU, the next one to be trained on: to look would be a wait.
        """
        if index.device.type != "cpu":
            return self.done // self.batch_size
        _, places, _ = self._on_host()
        return int(places[index].min()) // self.batch_size

    def size_of(self, number: int) -> int:
        """Samples of batch `number`, as it was planned."""
        return max(0, min(self.batch_size, self.end - number * self.batch_size))

    def check_size(self, size: int, number: int) -> None:
        """Check that a loader of the user's own makes the batches that the plan counts as steps.

        Raises:
            ValueError: batch `number` has another size; where an epoch is gone on with, a larger one.
        """
        if size == self.size_of(number) or (self._is_resumed and size <= self.batch_size):
            return
        raise ValueError(
            f"the batch holds {size} samples, the plan makes steps of {self.batch_size}: give the DataLoader "
            "batch_size=plan.batch_size, or DataPlan(batch_size=...) that of the loader; where the collate "
            "function leaves samples out, say plan.batch(index, sample, partial=True)"
        )

    def leave_out(self, number: int, kept: Tensor) -> None:
        """Note that only the samples `kept` (B,), on the CPU, come of what is left of batch `number`."""
        size = self.size_of(number)
        if len(kept) >= size:
            return

        order, places, _ = self._on_host()
        group = torch.arange(number * self.batch_size, number * self.batch_size + size)
        missing = group[~torch.isin(group, places[kept])]
        if self._is_resumed or self.left_out:
            missing = self._open(missing)
        self.left_out += order[missing].tolist()

    def _on_host(self) -> tuple[Tensor, Tensor, Tensor]:
        """On the CPU: positions (M,) by place, places (N,) by position (-1: not chosen), weights (N,).

        The first call in an epoch is a wait.
        """
        if self._host is None:
            order = self.chosen.index.cpu()
            places = torch.full((self.size,), -1)
            places[order[: self.end]] = torch.arange(self.end)
            self._host = order, places, self._weights.cpu()
        return self._host

    # What was trained on

    def check_new(self, batch: Batch) -> None:
        """Check that no sample of a batch was trained on before.

        Where the positions are not on the CPU, to look at them would be a wait; there the number of the batch
        tells.

        Raises:
            ValueError: one was.
        """
        again = ""
        if batch.index.device.type == self._trained.device.type == "cpu":
            trained = batch.index[self._trained[batch.index]]
            again = f"sample {int(trained[0])}" if len(trained) else ""
        if not again and self._taken.get(batch.number, 0) + len(batch.index) > self.size_of(batch.number):
            again = f"batch {batch.number}"

        if again:
            raise ValueError(
                f"{again} of epoch {self.epoch} was taken in before, by plan.loss or plan.observe: a sample "
                "counts once an epoch. For the weighted loss once more (SAM, L-BFGS, logging) call "
                "plan.weighted(batch, losses), which takes nothing in"
            )

    def mark(self, batch: Batch) -> None:
        """Note that the samples of a batch were trained on."""
        self._trained.index_fill_(0, batch.index.to(self._trained.device), True)
        self._taken[batch.number] = self._taken.get(batch.number, 0) + len(batch.index)
        self.done += len(batch.index)

    # States

    def state_dict(self) -> dict[str, Any]:
        """The samples, and what became of each."""
        return {
            "index": self.chosen.index.clone(),
            "weight": self.chosen.weight.clone(),
            "trained": self._trained.clone(),
            "left_out": list(self.left_out),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a state of the same samples."""
        self._trained.copy_(state["trained"])
        self.left_out = list(state["left_out"])
        self.done = int(self._trained.count_nonzero())
        self._is_resumed = self.passed > 0

        # How many samples of each batch: one wait, once a resume
        _, places, _ = self._on_host()
        trained = places[self._trained.cpu()]
        numbers, sizes = torch.unique(trained // self.batch_size, return_counts=True)
        self._taken = dict(zip(numbers.tolist(), sizes.tolist(), strict=True))


def _check_index(index: Any, device: torch.device) -> None:
    """Check that positions are int64 (B,), on the CPU or on the plan's device.

    Raises:
        ValueError: they are not.
    """
    hint = "plan.dataset gives them beside each sample"
    if not isinstance(index, Tensor):
        raise ValueError(f"a batch needs int64 positions (B,) as a tensor, got {shown(index)}; {hint}")
    is_right = index.dtype == torch.int64 and index.dim() == 1 and index.layout == torch.strided
    if not is_right or not len(index):
        raise ValueError(
            f"a batch needs int64 positions of shape (B,), got {index.dtype} of shape {tuple(index.shape)} "
            f"({index.layout}); {hint}"
        )
    if index.device.type not in ("cpu", device.type):
        raise ValueError(f"the positions are on {index.device}, and the plan is on {device}; {hint}")
