"""The sampler over the samples of an epoch, and the loader that makes a plan's batches."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from dsenv.errors import check_count, check_keywords
from dsenv.plan.collate import IndexedCollate, NothingLeft
from dsenv.plan.data import Batch
from dsenv.plan.epoch_sampler import EpochSampler

OWNED = ("batch_size", "batch_sampler", "sampler", "shuffle", "drop_last", "dataset", "generator")


class PositionIterator(Iterator[int]):
    """Positions of what is left of an epoch; a stateful loader may save how far it came.

    The plan's own state knows better what was trained on: after both were loaded this goes over what is left
    by the plan. A loader that then skips batches by itself, since its snapshot is older than its state, skips
    those.

    Args:
        epoch_sampler: says what is left.
    """

    def __init__(self, epoch_sampler: EpochSampler) -> None:
        self._epoch_sampler = epoch_sampler
        self._positions = epoch_sampler.record.left().index.tolist()
        self._given = 0

    def __next__(self) -> int:
        if self._given == len(self._positions):
            raise StopIteration
        self._given += 1
        position: int = self._positions[self._given - 1]
        return position

    def state_dict(self) -> dict[str, int]:
        """How many positions were given, in which epoch."""
        return {"epoch": self._epoch_sampler.epoch, "given": self._given}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Go on with what the plan says is left.

        Raises:
            ValueError: the plan was not brought to that place: its own state was not loaded.
        """
        own = self._epoch_sampler
        has_begun = state["epoch"] > 0 or state["given"] > 0
        if has_begun and not own.was_loaded:
            raise ValueError(
                f"the loader's state is of epoch {state['epoch']}, after {state['given']} samples were "
                f"fetched, and the plan begins at epoch {own.epoch}: load the plan's state first, "
                "plan.load_state_dict(...), which says what was trained on"
            )


class PlanSampler(Sampler[int]):
    """Positions of the current epoch's samples, for a DataLoader over `plan.dataset`.

    Every `iter` gives a fresh iterator over what is left of the epoch; `len` is that of the whole epoch. Save
    the plan's state, which says what was trained on, not how far a loader has fetched ahead; the state of a
    `StatefulDataLoader` may be saved beside it, with any number of workers.

    Args:
        epoch_sampler: chooses the samples.
        start_epoch: goes to an epoch, see `DataPlan.start_epoch`.
    """

    def __init__(self, epoch_sampler: EpochSampler, start_epoch: Callable[[int], None]) -> None:
        self._epoch_sampler, self._start_epoch = epoch_sampler, start_epoch

    def __iter__(self) -> Iterator[int]:
        return PositionIterator(self._epoch_sampler)

    def __len__(self) -> int:
        """Samples of the whole current epoch."""
        return self._epoch_sampler.end

    def set_epoch(self, epoch: int) -> None:
        """Go to the next epoch, or stay in the current one; frameworks call this."""
        self._start_epoch(epoch)


class BatchPositions(Sampler[list[int]]):
    """Positions of each batch that is left of the current epoch; `len` is that of the whole epoch.

    Args:
        epoch_sampler: chooses the samples.
    """

    def __init__(self, epoch_sampler: EpochSampler) -> None:
        self._epoch_sampler = epoch_sampler

    def __iter__(self) -> Iterator[list[int]]:
        batches = self._epoch_sampler.record.left_batches()
        return (index.tolist() for _, index, _ in batches)

    def __len__(self) -> int:
        sampler = self._epoch_sampler
        return sampler.epoch_schedule.steps(len(sampler.chosen.index))


def make_loader(dataset: Any, sampler: Sampler[list[int]], settings: Mapping[str, Any]) -> DataLoader[Any]:
    """A DataLoader with settings of the user's.

    Raises:
        ValueError: torch refuses one of them, or knows none of that name.
    """
    check_keywords("plan.loader", DataLoader, {"dataset": dataset, **settings})
    for name in ("num_workers", "prefetch_factor"):
        if settings.get(name) is not None:
            settings = {**settings, name: check_count(name, settings[name], 0)}
    try:
        return DataLoader(dataset, batch_sampler=sampler, **settings)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"torch.utils.data.DataLoader cannot take these settings: {error}") from error


class PlanLoader:
    """A DataLoader whose batches carry index and weight; made by `DataPlan.loader`.

    Args:
        dataset: gives (position, sample).
        epoch_sampler: says what is left of the epoch.
        make_batch: (positions, collated samples) -> batch, see `DataPlan.batch`.
        indexed: the user's collate function takes and gives positions itself, see `IndexedCollate`.
        settings: arguments of `torch.utils.data.DataLoader`, except those that the plan decides.

    Raises:
        ValueError: a setting is the plan's to decide.
    """

    def __init__(
        self,
        dataset: Any,
        epoch_sampler: EpochSampler,
        make_batch: Callable[[Tensor, Any], Batch],
        indexed: bool,
        settings: Mapping[str, Any],
    ) -> None:
        for name in OWNED:
            if name in settings:
                raise ValueError(f"the plan decides {name}; set it in DataPlan(...), not in the loader")

        self._epoch_sampler, self._make_batch = epoch_sampler, make_batch
        # Without a generator of its own, torch's loader draws from the global stream.
        self._generator = torch.Generator()
        collate = IndexedCollate(settings.get("collate_fn"), indexed=indexed)
        own = {"generator": self._generator, "collate_fn": collate}
        self.loader = make_loader(dataset, BatchPositions(epoch_sampler), {**settings, **own})

    def __iter__(self) -> Iterator[Batch]:
        self._generator.manual_seed(self._epoch_sampler.seed_for("loader"))
        self._epoch_sampler.record.check_left()  # says now, not at the first batch, that an epoch is over
        return self._made(iter(self.loader))

    def _made(self, raw: Iterator[tuple[Tensor, Any]]) -> Iterator[Batch]:
        """The batches of what a loader gives; one of which nothing is left is passed over."""
        for index, sample in raw:
            if isinstance(sample, NothingLeft):
                self._epoch_sampler.record.leave_out_all(index)
            else:
                yield self._make_batch(index, sample)

    def __len__(self) -> int:
        """Batches of the whole current epoch."""
        return len(self.loader)
