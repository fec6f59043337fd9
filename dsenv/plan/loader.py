"""The sampler over the samples of an epoch, and the loader that makes a plan's batches."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler
from torch.utils.data.distributed import DistributedSampler

from dsenv.errors import check_count, check_flag, check_keywords, pick
from dsenv.plan.collate import IndexedCollate, NothingLeft, Pick, split_picks
from dsenv.plan.data import Batch
from dsenv.plan.epoch_sampler import EpochSampler
from dsenv.plan.frameworks import check_adapter

OWNED = ("batch_size", "batch_sampler", "sampler", "shuffle", "drop_last", "dataset", "generator")


class PositionIterator(Iterator[int]):
    """Positions of what is left of an epoch; a stateful loader may save how far it came.

    The plan's own state knows better what was trained on: after both were loaded this goes over what is left
    by the plan. A loader that then skips batches by itself, since its snapshot is older than its state, skips
    those.

    Args:
        epoch_sampler: says what is left.
        which: as for `EpochRecord.left_batches`.
    """

    def __init__(self, epoch_sampler: EpochSampler, **which: bool) -> None:
        self._epoch_sampler = epoch_sampler
        self._positions = epoch_sampler.to_train().left(**which).index.tolist()
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


class PlanSampler(DistributedSampler[int]):
    """Positions of this rank's samples of the current epoch, for a DataLoader over `plan.dataset`.

    Every `iter` gives a fresh iterator over what is left of the epoch; `len` is that of the whole epoch. Save
    the plan's state, which says what was trained on, not how far a loader has fetched ahead; the state of a
    `StatefulDataLoader` may be saved beside it, with any number of workers.

    It is a `DistributedSampler`, so that frameworks which would put one in its place leave it alone; they are
    those that shard samples (Lightning, Ray). For those that shard batches (Accelerate) see `GlobalSampler`.

    Args:
        epoch_sampler: chooses the samples.
        start_epoch: goes to an epoch, see `DataPlan.start_epoch`.
        is_whole: start the epoch anew after a resume; the framework skips what was trained on.
    """

    shuffle, drop_last = True, False

    def __init__(  # no call of the base class, which would choose samples itself
        self, epoch_sampler: EpochSampler, start_epoch: Callable[[int], None], *, is_whole: bool = False
    ) -> None:
        self._epoch_sampler, self._start_epoch, self.is_whole = epoch_sampler, start_epoch, is_whole

    def __iter__(self) -> Iterator[int]:
        return PositionIterator(self._epoch_sampler, is_whole=self.is_whole)

    def __len__(self) -> int:
        """Samples of this rank in the whole current epoch."""
        check_adapter(self._epoch_sampler.adapter)
        return self._epoch_sampler.record.own_end

    def set_epoch(self, epoch: int) -> None:
        """Go to the next epoch, or stay in the current one; frameworks call this."""
        self._start_epoch(epoch)

    # What a DistributedSampler has

    @property
    def num_replicas(self) -> int:  # type: ignore[override]
        """How many ranks there are."""
        return self._epoch_sampler.world.size

    @property
    def rank(self) -> int:  # type: ignore[override]
        """Number of this one."""
        return self._epoch_sampler.world.rank

    @property
    def epoch(self) -> int:  # type: ignore[override]
        """Number of the current epoch."""
        return self._epoch_sampler.epoch

    @property
    def seed(self) -> int:  # type: ignore[override]
        """Of the plan."""
        return self._epoch_sampler.seed

    @property
    def num_samples(self) -> int:  # type: ignore[override]
        """Samples of this rank in the whole current epoch."""
        return self._epoch_sampler.record.own_end

    @property
    def total_size(self) -> int:  # type: ignore[override]
        """Samples of all ranks in it."""
        return self._epoch_sampler.end


class GlobalSampler(Sampler[int]):
    """Positions of all ranks' samples of the current epoch, for frameworks that deal batches out to ranks.

    They must deal batches of `plan.micro_batch_size` in turn, as Accelerate does. Arguments as for
    `PlanSampler`.
    """

    def __init__(
        self, epoch_sampler: EpochSampler, start_epoch: Callable[[int], None], *, is_whole: bool = False
    ) -> None:
        self._epoch_sampler, self._start_epoch, self.is_whole = epoch_sampler, start_epoch, is_whole

    def __iter__(self) -> Iterator[int]:
        return PositionIterator(self._epoch_sampler, is_whole=self.is_whole, of_all=True)

    def __len__(self) -> int:
        """Samples of the whole current epoch."""
        return self._epoch_sampler.end

    def set_epoch(self, epoch: int) -> None:
        """Go to the next epoch, or stay in the current one; frameworks call this."""
        self._start_epoch(epoch)


class StreamSampler(Sampler[int]):
    """Positions of all epochs that are left, one after the other, for loops that know of no epochs.

    The next epoch is chosen when its first sample is asked for, of what was heard until then. A loader that
    fetches ahead asks before the last losses of the epoch were taken: these are taken in at the next such
    turn. Each position is a `Pick`, which says its epoch.

    Args:
        epoch_sampler: chooses the samples.
        turn: goes to the next epoch, though losses of the current one are still to come.
        of_all: those of all ranks, see `GlobalSampler`.
    """

    def __init__(
        self, epoch_sampler: EpochSampler, turn: Callable[[], None], *, of_all: bool = False
    ) -> None:
        self.epoch_sampler, self._turn, self.of_all = epoch_sampler, turn, of_all

    def __iter__(self) -> Iterator[int]:
        if not self.epoch_sampler.epoch_schedule.is_whole:
            raise ValueError(
                "a loader cuts a stream of samples into batches of one size, and the last batch of an epoch "
                "may be smaller: give DataPlan(whole_steps=True), or use plan.loader(stream=True)"
            )
        return self._picks()

    def _picks(self) -> Iterator[int]:
        for epoch, index in self.batches():
            yield from (Pick.of(position, epoch) for position in index.tolist())

    def batches(self) -> Iterator[tuple[int, Tensor]]:
        """Epoch and positions (B,) of each batch."""
        sampler = self.epoch_sampler
        for record in sampler.late:
            yield from ((record.epoch, index) for _, index, _ in record.left_batches(of_all=self.of_all))
        while sampler.epoch < sampler.epoch_schedule.epochs:
            record = sampler.to_train()
            if not record.is_done:
                yield from ((record.epoch, index) for _, index, _ in record.left_batches(of_all=self.of_all))
            if record.epoch == sampler.epoch_schedule.epochs - 1:
                return
            self._turn()

    def __len__(self) -> int:
        """Samples of the whole training run.

        Raises:
            TypeError: numbers of samples are decided during the training run.
        """
        try:
            total = self.epoch_sampler.epoch_schedule.total_samples
        except ValueError as error:
            raise TypeError(f"the stream of a plan has no length: {error}") from error
        return total if self.of_all else total // self.epoch_sampler.world.size


class StreamBatches(Sampler[list[int]]):
    """The batches of a `StreamSampler` as lists of picks; `len` is that of the whole training run."""

    def __init__(self, stream: StreamSampler) -> None:
        self._stream = stream

    def __iter__(self) -> Iterator[list[int]]:
        for epoch, index in self._stream.batches():
            yield [Pick.of(position, epoch) for position in index.tolist()]

    def __len__(self) -> int:
        schedule = self._stream.epoch_sampler.epoch_schedule
        return schedule.total_steps * schedule.accumulate


class BatchPositions(Sampler[list[int]]):
    """Positions of each batch of this rank that is left of the current epoch; `len` is of the whole epoch.

    Args:
        epoch_sampler: chooses the samples.
        which: as for `EpochRecord.left_batches`.
    """

    def __init__(self, epoch_sampler: EpochSampler, **which: bool) -> None:
        self._epoch_sampler, self._which = epoch_sampler, which

    def __iter__(self) -> Iterator[list[int]]:
        batches = self._epoch_sampler.to_train().left_batches(**self._which)
        return (index.tolist() for _, index, _ in batches)

    def __len__(self) -> int:
        record = self._epoch_sampler.record
        end = record.end if self._which.get("of_all") else record.own_end
        return -(-end // record.batch_size)


AnySampler = PlanSampler | GlobalSampler | StreamSampler
SHARDS = ("rank", "global")
RESUMES = ("plan", "framework")


def make_sampler(
    epoch_sampler: EpochSampler,
    start_epoch: Callable[[int], None],
    turn: Callable[..., None],
    shard: str,
    resume: str,
    *,
    stream: bool,
) -> AnySampler:
    """The sampler of `DataPlan.new_sampler`."""
    which = _which(shard, resume, stream)
    if stream:
        return StreamSampler(epoch_sampler, partial(turn, keep=True), of_all=which["of_all"])
    kind = GlobalSampler if which["of_all"] else PlanSampler
    return kind(epoch_sampler, start_epoch, is_whole=which["is_whole"])


def make_batch_sampler(
    epoch_sampler: EpochSampler, turn: Callable[..., None], shard: str, resume: str, *, stream: bool
) -> Sampler[list[int]]:
    """What gives a `PlanLoader` the positions of each batch."""
    which = _which(shard, resume, stream)
    if stream:
        return StreamBatches(StreamSampler(epoch_sampler, partial(turn, keep=True), of_all=which["of_all"]))
    return BatchPositions(epoch_sampler, **which)


def _which(shard: str, resume: str, stream: bool) -> dict[str, bool]:
    """What `EpochRecord.left_batches` takes.

    Raises:
        ValueError: a setting is unknown, or they contradict each other.
    """
    is_whole = pick("way to resume", resume, RESUMES) == "framework"
    if check_flag("stream", stream) and is_whole:
        raise ValueError(
            "a stream goes on where the plan stood, and resume='framework' would have a framework skip from "
            "the first epoch on: leave resume out, and tell the framework not to skip (ignore_data_skip=True)"
        )
    return {"is_whole": is_whole, "of_all": pick("shard", shard, SHARDS) == "global"}


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
        batches: gives the positions of each batch.
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
        batches: Sampler[list[int]],
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
        self.loader = make_loader(dataset, batches, {**settings, **own})

    def __iter__(self) -> Iterator[Batch]:
        self._generator.manual_seed(self._epoch_sampler.seed_for("loader"))
        return self._made(iter(self.loader))  # says now, not at the first batch, that an epoch is over

    def _made(self, raw: Iterator[tuple[Tensor, Any]]) -> Iterator[Batch]:
        """The batches of what a loader gives; one of which nothing is left is passed over."""
        for index, sample in raw:
            if isinstance(sample, NothingLeft):
                index, epoch = split_picks(index)
                record = self._epoch_sampler.record if epoch is None else self._epoch_sampler.record_of(epoch)
                assert record is not None, epoch  # a loader gives batches in the order of their epochs
                record.leave_out_all(index)
            else:
                yield self._make_batch(index, sample)

    def __len__(self) -> int:
        """Batches of the whole current epoch."""
        return len(self.loader)
