"""A plan's sampler and its DataLoader."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import DataLoader, Sampler

from dsenv.plan.batch import Batch, IndexedCollate, ViewBatch

if TYPE_CHECKING:
    from dsenv.plan.data_plan import DataPlan

OWNED = ("batch_size", "batch_sampler", "sampler", "shuffle", "drop_last", "dataset", "generator")


class PlanSampler(Sampler[int]):
    """Positions of the present epoch's samples, for a DataLoader over `plan.dataset`.

    Every `iter` gives a fresh iterator over what is left of the epoch. The state is the plan's, so that
    a stateful loader saves and resumes the whole plan.

    Args:
        plan: chooses the samples.
    """

    def __init__(self, plan: "DataPlan") -> None:
        self.plan = plan

    def __iter__(self) -> Iterator[int]:
        with self.plan.cost.timed("select"):
            return iter(self.plan.epoch_sampler.left().index.tolist())

    def __len__(self) -> int:
        """Samples that the next iteration gives."""
        return self.plan.epoch_sampler.end - self.plan.epoch_sampler.done

    def set_epoch(self, epoch: int) -> None:
        """Go to the next epoch, or stay in the present one; frameworks call this."""
        self.plan.start_epoch(epoch)

    def state_dict(self) -> dict[str, Any]:
        """The plan's state."""
        return self.plan.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`."""
        self.plan.load_state_dict(state)


class PlanLoader:
    """A DataLoader whose batches carry index and weight; made by `DataPlan.loader`.

    Args:
        plan: chooses the samples.
        settings: arguments of `torch.utils.data.DataLoader`, except those that the plan decides.

    Raises:
        ValueError: a setting is the plan's to decide.
    """

    def __init__(self, plan: "DataPlan", settings: Mapping[str, Any]) -> None:
        for name in OWNED:
            if name in settings:
                raise ValueError(f"the plan decides {name}; set it in DataPlan(...), not in the loader")
        self.plan = plan
        # Without a generator of its own, torch's loader draws from the global stream.
        self._generator = torch.Generator()
        own = {"generator": self._generator, "collate_fn": IndexedCollate(settings.get("collate_fn"))}
        self.loader: DataLoader[Any] = DataLoader(
            plan.dataset, batch_size=plan.batch_size, sampler=plan.sampler, **{**settings, **own}
        )

    def __iter__(self) -> Iterator[Batch | ViewBatch]:
        self._generator.manual_seed(self.plan.epoch_sampler.seed_for("loader"))
        first = self.plan.epoch_sampler.done // self.plan.batch_size
        self.plan.epoch_sampler.left()  # says now, not at the first batch, that an epoch is over
        raw = iter(self.loader)
        return (self.plan.batch(index, sample, number) for number, (index, sample) in enumerate(raw, first))

    def __len__(self) -> int:
        """Batches that the next iteration gives."""
        return len(self.loader)
