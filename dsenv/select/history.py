"""Base of the selectors that keep their own numbers for each sample."""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from dsenv.errors import check_count
from dsenv.outputs import ModelOutputs
from dsenv.select.base import Selector
from dsenv.signals import SampleSignals
from dsenv.states import Exactly, TensorOf, check_part_state


class HistorySelector(Selector):
    """Keeps named float32 tensors (N,) and visits (N,) int32, updated by every training batch.

    State: 4 bytes a sample and field, and 4 for the visits.

    Args:
        size: N; None to learn it at the first `select`. Until then `observe` grows the tensors to the
            positions that it sees, and has to wait for the device to read them.
    """

    fields: tuple[str, ...]
    """Names of the tensors a subclass keeps."""

    def __init__(self, size: int | None = None) -> None:
        self._kept = {name: torch.empty(0) for name in self.fields}
        self._visits = torch.empty(0, dtype=torch.int32)
        self.size = None if size is None else check_count("size", size)
        self._size = self.size  # or what the signals say

    @abstractmethod
    def updated(self, old: Mapping[str, Tensor], visits: Tensor, batch: ModelOutputs) -> dict[str, Tensor]:
        """New values (B,) of every field.

        Args:
            old: values (B,) before this batch, 0 where a sample is seen for the first time.
            visits: (B,) how often each sample was observed before.
            batch: the training batch.
        """

    def observe(self, batch: ModelOutputs) -> None:
        """Update the samples of one training batch; each is at most once in it.

        A sample whose loss is not finite is left as it was.
        """
        index = batch.index
        self._make_room(int(index.max()) + 1 if self._size is None else self._size, index.device)

        visits = self._visits[index]
        old = {name: kept[index] for name, kept in self._kept.items()}
        new = {name: value.detach().float() for name, value in self.updated(old, visits, batch).items()}

        # A value that is not finite would stay for good: that visit is not taken in
        if batch.is_finite:
            count = visits + 1
        else:
            usable = torch.stack([batch.loss.detach().float(), *new.values()]).isfinite().all(0)
            new = {name: torch.where(usable, value, old[name]) for name, value in new.items()}
            count = visits + usable.int()
        for name, value in new.items():
            self._kept[name][index] = value
        self._visits[index] = count

    def history(self, signals: SampleSignals) -> tuple[dict[str, Tensor], Tensor]:
        """The kept tensors (N,), and which samples were observed (N,) bool.

        Raises:
            ValueError: samples were trained on without `observe`, or the state is of other data.
        """
        if len(self._visits) > signals.size:
            raise ValueError(
                f"{type(self).__name__} observed position {len(self._visits) - 1}, the signals hold only "
                f"{signals.size} samples; use one selector for each training set"
            )

        self._size = signals.size
        self._make_room(signals.size, signals.device)
        observed = self._visits > 0

        if bool(signals.seen.any()) and not bool(observed.any()):
            raise ValueError(
                f"{type(self).__name__} observed no batch, but {int(signals.seen.sum())} samples "
                "were trained on: call observe(ModelOutputs(...)) after the forward of every training batch"
            )

        return self._kept, observed

    def _make_room(self, size: int, device: torch.device) -> None:
        if len(self._visits) >= size and self._visits.device == device:
            return

        missing = max(size - len(self._visits), 0)
        self._visits = _padded(self._visits.to(device), missing)
        self._kept = {name: _padded(kept.to(device), missing) for name, kept in self._kept.items()}

    def state_dict(self) -> dict[str, Any]:
        """The settings and a copy of all kept tensors."""
        kept = {name: kept.clone() for name, kept in self._kept.items()}
        return {"settings": self.settings(), "visits": self._visits.clone(), **kept}

    def state_like(self) -> dict[str, Any]:
        """How a state must look; it may be of any number of samples where `size` is None."""
        kept = {name: TensorOf(torch.float32, (None,)) for name in self.fields}
        return {"settings": Exactly(self.settings()), "visits": TensorOf(torch.int32, (None,)), **kept}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`.

        Raises:
            ValueError: it is no state of this selector, or of other settings; nothing is loaded then.
        """
        check_part_state(self, state)
        size = len(state["visits"])
        for name in self.fields:
            if len(state[name]) != size:
                raise ValueError(
                    f"this is no state of {type(self).__name__}: {name!r} holds {len(state[name])} samples, "
                    f"'visits' {size}"
                )
        if self.size is not None and size > self.size:
            raise ValueError(
                f"this is no state of {type(self).__name__}: 'visits' holds {size} samples, this one is for "
                f"{self.size}"
            )

        self._visits = state["visits"].clone()
        self._kept = {name: state[name].clone() for name in self.fields}
        self._size = self.size


def _padded(values: Tensor, missing: int) -> Tensor:
    """The values (S,) with `missing` zeros after them."""
    return torch.cat([values, values.new_zeros(missing)])
