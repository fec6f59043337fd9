"""Positions for a DataLoader, one after the other, and what a stateful loader may save of them."""

import itertools
from collections.abc import Iterator, Mapping

import torch

from dsenv.plan.epoch_record import EpochRecord
from dsenv.plan.epoch_sampler import EpochSampler


def check_loaded(own: EpochSampler, epoch: int, given: int) -> None:
    """Check that the plan was brought to where a loader's state is of: epoch, after so many samples.

    Raises:
        ValueError: it was not: its own state was not loaded.
    """
    if (epoch > 0 or given > 0) and not own.was_loaded:
        raise ValueError(
            f"the loader's state is of epoch {epoch}, after {given} samples were fetched, and the plan "
            f"begins at epoch {own.epoch}: load the plan's state first, plan.load_state_dict(...), which "
            "says what was trained on"
        )


class PositionIterator(Iterator[int]):
    """Positions of what is left of an epoch; a stateful loader may save how far it came.

    The plan's own state knows better what was trained on: after both were loaded this goes over what is left
    by the plan. A loader whose snapshot is older than its state (`snapshot_every_n_steps`) passes over what
    it gave since then; that comes first.

    Args:
        epoch_sampler: says what is left.
        which: as for `EpochRecord.left_batches`.
    """

    def __init__(self, epoch_sampler: EpochSampler, **which: bool) -> None:
        self._epoch_sampler, self._which = epoch_sampler, which
        self._places, left = epoch_sampler.to_train().cut(**which)
        self._positions = left.index.tolist()
        self._given = 0

    def __next__(self) -> int:
        if self._given == len(self._positions):
            raise StopIteration
        self._given += 1
        position: int = self._positions[self._given - 1]
        return position

    def state_dict(self) -> dict[str, int]:
        """How many positions were given, in which epoch, the place of the last in it, and how many follow."""
        place = int(self._places[self._given - 1]) if self._given else -1
        rest = len(self._positions) - self._given
        return {"epoch": self._epoch_sampler.epoch, "given": self._given, "place": place, "rest": rest}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Go on with what the plan says is left.

        Raises:
            ValueError: the plan was not brought to that place: its own state was not loaded.
        """
        own = self._epoch_sampler
        check_loaded(own, state["epoch"], state["given"])
        if "place" in state:  # not in states of older versions
            is_same = state["epoch"] == own.epoch
            self._prepend(own.record, *(state["place"], 0) if is_same else (-1, state["rest"]))

    def _prepend(self, record: EpochRecord, place: int, before: int) -> None:
        """Put what the loader will pass over before what is left.

        Args:
            record: of the current epoch.
            place: after it, what was trained on is passed over.
            before: samples of the epoch before that are passed over too; any others stand for them.
        """
        places, whole = record.cut(**{**self._which, "is_whole": True})
        left_places, left = record.cut(**self._which)  # last: the record goes by the latest cut
        is_passed = (places > place) & ~torch.isin(places, left_places)
        passed = whole.index[is_passed.to(whole.index.device)].tolist()

        others = -(-before // record.batch_size) * record.batch_size
        stand_ins = list(itertools.islice(itertools.cycle(left.index.tolist()), others))
        self._places = torch.cat([torch.full((others,), -1), places[is_passed], left_places])
        self._positions = stand_ins + passed + left.index.tolist()


class StreamIterator(Iterator[int]):
    """Positions of a stream over all epochs; a stateful loader may save that it began.

    After both states were loaded the stream goes on with what is left by the plan. A loader whose snapshot is
    older than its state would pass over batches of it, which are then missing: with a stream leave
    `snapshot_every_n_steps` at 1.

    Args:
        positions: one after the other.
        epoch_sampler: says where the plan is.
    """

    def __init__(self, positions: Iterator[int], epoch_sampler: EpochSampler) -> None:
        self._positions, self._epoch_sampler = positions, epoch_sampler
        self._given = 0

    def __next__(self) -> int:
        found = next(self._positions)
        self._given += 1
        return found

    def state_dict(self) -> dict[str, int]:
        """How many positions were given, and in which epoch the plan is."""
        return {"epoch": self._epoch_sampler.epoch, "given": self._given}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Go on with what the plan says is left; errors as for `PositionIterator`."""
        check_loaded(self._epoch_sampler, state["epoch"], state["given"])
