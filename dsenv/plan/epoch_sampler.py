"""Which samples an epoch trains on, in which order, and where it stands; the sampler and loader over them."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from dsenv.errors import check_share
from dsenv.kernels import sent
from dsenv.plan.data import Batch, IndexedCollate
from dsenv.plan.epoch_schedule import EpochSchedule
from dsenv.plan.policies import PlanPolicies
from dsenv.select.base import Selection, Selector, checked
from dsenv.select.infobatch import pruning_is_on
from dsenv.select.random import UniformRandom
from dsenv.signals import SampleSignals

STREAMS = ("loader", "augment", "views")  # what draws random numbers batch by batch
OWNED = ("batch_size", "batch_sampler", "sampler", "shuffle", "drop_last", "dataset", "generator")


def check_world() -> None:
    """Check that the plan is alone: several processes would train the same samples.

    Raises:
        ValueError: this process is in a `torch.distributed` group of several.
    """
    distributed = torch.distributed
    if not (distributed.is_available() and distributed.is_initialized()):
        return

    ranks = distributed.get_world_size()
    if ranks > 1:
        raise ValueError(
            f"this process is rank {distributed.get_rank()} of {ranks} of a torch.distributed group, and a "
            "plan works in one process only: every rank would train the same samples, at several times the "
            "cost and for no gain. Train in one process, or without a plan until plans know of ranks"
        )


class EpochSampler:
    """Goes through the epochs of a schedule and chooses the samples of each.

    Args:
        selector: chooses them.
        signals: what it reads.
        epoch_schedule: how many, and in which steps.
        uniform_epochs: first epochs whose samples are drawn uniformly instead.
        tail: share of the epochs, at the end, on all data where the selector sets its own count.
        seed: decides the choices, their order, and the streams of `generator_for`.
        policies: the policies behind learned parts; None where there are none.
    """

    def __init__(
        self,
        selector: Selector,
        signals: SampleSignals,
        epoch_schedule: EpochSchedule,
        uniform_epochs: int,
        tail: float,
        seed: int,
        policies: PlanPolicies | None = None,
    ) -> None:
        check_share("tail", tail, zero=True)
        if seed < 0 or uniform_epochs < 0:
            raise ValueError(f"seed and uniform_epochs must be at least 0, got {seed} and {uniform_epochs}")

        self.selector = selector
        self.signals = signals
        self.epoch_schedule = epoch_schedule
        self.uniform_epochs = uniform_epochs
        self.tail = tail
        self.seed = seed
        self.policies = policies

        self.epoch = 0
        """Number of the current epoch; as many as there are after the last."""
        self.done = 0
        """Samples of the current epoch that are trained on."""
        self.scoring_passes = 0
        """Scoring passes that the selector was given."""

        self._chosen: Selection | None = None
        self._end = 0  # samples that the current epoch trains on, once they are chosen
        self._before = 0  # samples chosen in the epochs before
        self._generator = torch.Generator(signals.device).manual_seed(seed)
        self._weights = torch.zeros(signals.size, device=signals.device)  # 0: not in this epoch
        self._host_places: Tensor | None = None  # place of each chosen sample in the epoch's order
        self._host_weights: Tensor | None = None  # a copy, to read without waiting for the device

    @property
    def chosen(self) -> Selection:
        """The current epoch's samples in training order; the first call chooses them.

        Raises:
            ValueError: the training run is over.
        """
        if self._chosen is None:
            self._begin_epoch()
        assert self._chosen is not None
        return self._chosen

    def _begin_epoch(self) -> None:
        """Choose the samples of the current epoch and put them into random order."""
        if self.epoch >= self.epoch_schedule.epochs:
            raise ValueError(f"the plan's {self.epoch_schedule.epochs} epochs are over")
        check_world()

        # How many, and what the policies behind learned parts say
        count = self._count()
        if self.policies is not None:
            self.policies.begin(self.signals, count)

        # Which
        selection = self._choose(count)
        if self.policies is not None:
            self.policies.chose(selection.index)

        # In which order
        device = self._generator.device
        order = torch.randperm(len(selection.index), generator=self._generator, device=device)
        self._set(Selection(selection.index[order], selection.weight[order]))

    def _set(self, chosen: Selection) -> None:
        self._chosen, self._end = chosen, self.epoch_schedule.trained(len(chosen.index))
        self._weights.zero_()
        self._weights[chosen.index] = chosen.weight
        self._host_weights = self._host_places = None

    def _count(self) -> int:
        """How many samples the current epoch is to have."""
        size, table = self.epoch_schedule.size, self.epoch_schedule
        if table.counts is not None:
            return table.counts[self.epoch]
        if self.policies is not None and self.policies.decides_count:
            return self.policies.count(self.signals)
        if not pruning_is_on(self.epoch, table.epochs, 1 - self.tail):
            return size

        count = self.selector.own_count(self.signals)
        assert count is not None, self.selector  # else the schedule had counts
        return count

    def _choose(self, count: int) -> Selection:
        """Selection of `count` samples, unshuffled."""
        if self.epoch < self.uniform_epochs:
            return UniformRandom().select(self.signals, count, self._generator)

        unready = self.selector.needs_pass and not self.scoring_passes
        if unready and count == self.signals.size:  # nothing to choose, so nothing to rank
            return UniformRandom().select(self.signals, count, self._generator)

        try:
            found = self.selector.select(self.signals, count, self._generator)
        except ValueError as error:
            if not unready:
                raise
            raise ValueError(
                f"{type(self.selector).__name__} ranks the samples in a pass over them: call "
                f"plan.score(forward) before the first batch of epoch {self.epoch}; or train a little first, "
                f"with DataPlan(uniform_epochs=1) and plan.score(forward) in epoch 1 ({error})"
            ) from error
        return checked(found, self.selector, count, self.signals.size)

    @property
    def end(self) -> int:
        """Samples that the current epoch trains on."""
        if self._chosen is None:
            self._begin_epoch()
        return self._end

    @property
    def is_done(self) -> bool:
        """All samples of the current epoch are trained on."""
        return self._chosen is not None and self.done >= self._end

    @property
    def batches_done(self) -> int:
        """Batches of the current epoch that are trained on: the number of the next one."""
        return self.done // self.epoch_schedule.batch_size

    def left(self) -> Selection:
        """What is left of the current epoch, in training order.

        Raises:
            ValueError: nothing is left.
        """
        chosen = self.chosen
        if self.is_done:
            raise ValueError(
                f"epoch {self.epoch} is over; go on with `for epoch in plan.epochs_left()`, or call "
                f"plan.start_epoch({self.epoch + 1})"
            )
        return Selection(chosen.index[self.done : self.end], chosen.weight[self.done : self.end])

    def check_room(self, size: int) -> None:
        """Check that `size` more samples can be trained on in the current epoch.

        Raises:
            ValueError: it has not begun, or has fewer samples left.
        """
        if self._chosen is None or self.done + size > self._end:
            raise ValueError(
                f"plan.loss was given {size} samples, more than epoch {self.epoch} has left; call it once "
                "for each batch of the current epoch (for gradient accumulation too)"
            )

    def weights_of(self, index: Tensor) -> Tensor:
        """Weights (B,) of samples (B,) of the current epoch.

        Raises:
            ValueError: one of them was not chosen. The check is made where the positions are on the CPU, as
                from a DataLoader; elsewhere it would wait for the device.
        """
        if index.device.type == "cpu":
            strange = index[self._weights_on_host()[index] <= 0]
            if len(strange):
                raise ValueError(
                    f"the batch holds sample {int(strange[0])}, which is not among those of epoch "
                    f"{self.epoch}: another sampler made it, or it is left over from another epoch; some "
                    "frameworks replace samplers"
                )

        return self._weights[sent(index, self._weights.device)]

    def number_of(self, index: Tensor) -> int:
        """Number of the batch of samples (B,) in the current epoch, whatever was fetched ahead.

        Where the positions are not on the CPU, the next one to be trained on: to look would be a wait.
        """
        if index.device.type != "cpu" or not len(index):
            return self.batches_done
        self._weights_on_host()
        assert self._host_places is not None
        return int(self._host_places[index].min()) // self.epoch_schedule.batch_size

    def _weights_on_host(self) -> Tensor:
        """The epoch's weights (N,) on the CPU, and the places; the first call in an epoch is a wait."""
        if self._host_weights is None:
            self._host_weights, chosen = self._weights.cpu(), self.chosen.index.cpu()
            self._host_places = torch.zeros(self.signals.size, dtype=torch.int64)
            self._host_places[chosen] = torch.arange(len(chosen))
        return self._host_weights

    def settings(self) -> dict[str, Any]:
        """The settings that a continued state must share."""
        return {"seed": self.seed, "uniform_epochs": self.uniform_epochs, "tail": self.tail}

    def finish(self) -> None:
        """Go to the next epoch."""
        if self.policies is not None:  # an epoch without training counts for a policy too
            self._before += len(self.chosen.index)
        self.epoch += 1
        self.done = 0
        self._chosen = None

    @property
    def progress(self) -> float:
        """Share of the training run that is over, see `EpochSchedule.progress`."""
        count = self.epoch_schedule.size if self._chosen is None else len(self._chosen.index)
        return self.epoch_schedule.progress(self.epoch, self.done, count, self._before)

    def seed_for(self, stream: str, number: int = 0) -> int:
        """Seed of a stream of random numbers in batch `number` of the current epoch.

        Streams start again with each batch, so that they do not depend on what was fetched ahead.
        """
        key = (self.seed, self.epoch, STREAMS.index(stream), number)
        return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0])

    def generator_for(self, stream: str, number: int) -> torch.Generator:
        """A generator at the start of that stream, on the signals' device."""
        return torch.Generator(self.signals.device).manual_seed(self.seed_for(stream, number))

    def state_dict(self) -> dict[str, Any]:
        """Where the training run stands, and the current epoch's samples."""
        chosen = self._chosen
        return {
            "epoch": self.epoch,
            "done": self.done,
            "scoring_passes": self.scoring_passes,
            "before": self._before,
            "policies": None if self.policies is None else self.policies.state_dict(),
            "generator": self._generator.get_state(),
            "index": None if chosen is None else chosen.index.clone(),
            "weight": None if chosen is None else chosen.weight.clone(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`."""
        self.epoch = state["epoch"]
        self.done = state["done"]
        self.scoring_passes = state["scoring_passes"]
        self._before = state["before"]

        if self.policies is not None:
            self.policies.load_state_dict(state["policies"])
        self._generator.set_state(state["generator"].cpu())

        self._chosen = None
        if state["index"] is not None:
            device = self.signals.device
            self._set(Selection(state["index"].to(device), state["weight"].to(device)))


class PlanSampler(Sampler[int]):
    """Positions of the current epoch's samples, for a DataLoader over `plan.dataset`.

    Every `iter` gives a fresh iterator over what is left of the epoch; `len` is that of the whole epoch. It
    keeps nothing of its own: save the plan's state, which says how far the training run came, not how far
    a loader has fetched ahead.

    Args:
        epoch_sampler: chooses the samples.
        start_epoch: goes to an epoch, see `DataPlan.start_epoch`.
    """

    def __init__(self, epoch_sampler: EpochSampler, start_epoch: Callable[[int], None]) -> None:
        self._epoch_sampler, self._start_epoch = epoch_sampler, start_epoch

    def __iter__(self) -> Iterator[int]:
        return iter(self._epoch_sampler.left().index.tolist())

    def __len__(self) -> int:
        """Samples of the whole current epoch."""
        return self._epoch_sampler.end

    def set_epoch(self, epoch: int) -> None:
        """Go to the next epoch, or stay in the current one; frameworks call this."""
        self._start_epoch(epoch)


class PlanLoader:
    """A DataLoader whose batches carry index and weight; made by `DataPlan.loader`.

    Args:
        dataset: gives (position, sample).
        sampler: gives the positions.
        epoch_sampler: says where the epoch stands.
        make_batch: (positions, collated samples, number of the batch) -> batch, see `DataPlan.batch`.
        settings: arguments of `torch.utils.data.DataLoader`, except those that the plan decides.

    Raises:
        ValueError: a setting is the plan's to decide.
    """

    def __init__(
        self,
        dataset: Any,
        sampler: PlanSampler,
        epoch_sampler: EpochSampler,
        make_batch: Callable[[Tensor, Any, int], Batch],
        settings: Mapping[str, Any],
    ) -> None:
        for name in OWNED:
            if name in settings:
                raise ValueError(f"the plan decides {name}; set it in DataPlan(...), not in the loader")

        self._epoch_sampler, self._make_batch = epoch_sampler, make_batch
        # Without a generator of its own, torch's loader draws from the global stream.
        self._generator = torch.Generator()
        own = {"generator": self._generator, "collate_fn": IndexedCollate(settings.get("collate_fn"))}
        size = epoch_sampler.epoch_schedule.batch_size
        self.loader: DataLoader[Any] = DataLoader(
            dataset, batch_size=size, sampler=sampler, **{**settings, **own}
        )

    def __iter__(self) -> Iterator[Batch]:
        self._generator.manual_seed(self._epoch_sampler.seed_for("loader"))
        first = self._epoch_sampler.batches_done
        self._epoch_sampler.left()  # says now, not at the first batch, that an epoch is over
        raw = iter(self.loader)
        return (self._make_batch(index, sample, number) for number, (index, sample) in enumerate(raw, first))

    def __len__(self) -> int:
        """Batches of the whole current epoch."""
        return len(self.loader)
