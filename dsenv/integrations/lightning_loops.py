"""Lightning's loops as a plan needs them: what they iterate, and what they do after a resume."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch.utils.data import DataLoader

from dsenv.plan import DataPlan
from dsenv.plan.loader import PlanLoader


class EpochLoader:
    """The plan's loader as Lightning iterates it: an epoch's batches are opened when the first is asked for.

    Lightning asks for an iterator before it moves the epoch, where worker processes would begin to read.

    Args:
        loader: of the plan.
        batches: of the epoch that Lightning trains next, for its length.
        set_epoch: called at the beginning of each epoch.
    """

    def __init__(self, loader: Any, batches: int, set_epoch: Callable[[], None]) -> None:
        self.loader, self.batches, self._set_epoch = loader, batches, set_epoch

    @property
    def sampler(self) -> "EpochLoader":
        """Whose `set_epoch` Lightning calls."""
        return self

    def set_epoch(self, epoch: int) -> None:  # noqa: ARG002
        """Lightning is at the beginning of an epoch."""
        self._set_epoch()

    def __iter__(self) -> Iterator[Any]:
        yield from self.loader

    def __len__(self) -> int:
        return self.batches

    def state_dict(self) -> dict[str, Any]:
        """Nothing: the plan's state says what was trained on. Lightning is told so that it can be resumed."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Nothing to load."""


class PlanSource:
    """Where Lightning gets its training loader from, which is wrapped.

    Args:
        source: Lightning's own.
        wrap: is given the loader.
    """

    def __init__(self, source: Any, wrap: Any) -> None:
        self._source, self._wrap = source, wrap

    def dataloader(self) -> Any:
        """The loader, wrapped."""
        return self._wrap(self._source.dataloader())

    def __getattr__(self, name: str) -> Any:
        return getattr(self._source, name)


def is_of(loader: Any, plan: DataPlan) -> bool:
    """Whether a loader gives batches of this plan."""
    if isinstance(loader, PlanLoader):
        return loader._epoch_sampler is plan.epoch_sampler and not loader.is_stream
    sampler = loader.sampler if isinstance(loader, DataLoader) else None
    return getattr(sampler, "_epoch_sampler", None) is plan.epoch_sampler


def count_epoch(trainer: Any, number: int) -> None:
    """Change how many epochs Lightning has counted as over."""
    progress = trainer.fit_loop.epoch_progress
    for counts in (progress.total, progress.current):
        counts.processed += number
        counts.completed += number


def forget_restart(loop: Any) -> None:
    """Let Lightning's loop over the batches, and those in it, begin anew."""
    for part in (loop, loop.val_loop, loop.automatic_optimization, loop.manual_optimization):
        part._restarting = False
        part.reset_restart_stage()


def is_validation_due(trainer: Any) -> bool:
    """Whether the checkpoint was saved after a batch that a validation was to follow, inside an epoch."""
    loop = trainer.fit_loop
    if not (loop.restarted_mid_epoch and loop.epoch_loop.restarted_on_train_batch_end):
        return False
    found: bool = loop.epoch_loop._should_check_val_fx(loop._data_fetcher)
    return found


def validate(trainer: Any) -> None:
    """Run the validation that was due after the batch of the checkpoint, as if it was saved after that."""
    loop = trainer.fit_loop.epoch_loop
    loop.batch_progress.increment_completed()
    loop.val_loop._restarting = False
    loop.val_loop.reset_restart_stage()
    trainer.validating = True
    loop.val_loop.run()
    trainer.training = True
    loop._restart_stage = "restarted_on_last"


def finish_epoch(trainer: Any) -> None:
    """Do what follows an epoch's last batch, after which the checkpoint was saved: validation and hooks.

    Lightning would count the epoch as over without them, see `count_epoch`.

    Raises:
        StopIteration: it was the last epoch; Lightning ends its loop.
    """
    loop = trainer.fit_loop
    loop._restarting = False
    loop.reset_restart_stage()
    forget_restart(loop.epoch_loop)
    loop.epoch_loop.batch_progress.increment_completed()
    loop.epoch_loop.on_advance_end(loop._data_fetcher)
    loop.on_advance_end()
    loop.on_iteration_done()
    if loop.done:
        raise StopIteration
