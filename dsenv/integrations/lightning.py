"""PlanCallback: a plan in PyTorch Lightning, under `lightning.pytorch` and under `pytorch_lightning`."""

import importlib
import math
import sys
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Self

from dsenv.errors import check_flag, shown
from dsenv.integrations import lightning_checks as checks
from dsenv.integrations.lightning_loops import (
    EpochLoader,
    PlanSource,
    count_epoch,
    finish_epoch,
    forget_restart,
    is_of,
    is_validation_due,
    validate,
)
from dsenv.plan import DataPlan

PACKAGES = ("lightning.pytorch", "pytorch_lightning")
NEW_PLAN = "make a new DataPlan for a new training run"
INSTALL = 'pip install "dsenv-rl[lightning]"'
NAME = "lightning"  # of the adapter, as the plan knows it


class PlanCallback:
    """Lets Lightning's Trainer train by a plan: epochs, limits, validations, rates and resumes follow it.

    It goes to the plan's next epoch when Lightning begins one, and tells the Trainer how many batches it has;
    `trainer.estimated_stepping_batches` is the plan's number of steps; the plan's state is saved in every
    checkpoint, and read by `fit(ckpt_path=...)`. Batches are of `plan.loader()`, or of a DataLoader of your
    own over `plan.dataset` with `plan.sampler`, given to `fit` or by `train_dataloader()`.

    Use::

        import torch
        import torch.nn.functional as F
        from lightning.pytorch import LightningModule, Trainer
        from dsenv import DataPlan
        from dsenv.integrations.lightning import PlanCallback

        class Model(LightningModule):
            def __init__(self, plan):
                super().__init__()
                self.plan, self.net = plan, torch.nn.Linear(20, 4)

            def training_step(self, batch):
                logits = self.net(batch.inputs)
                losses = F.cross_entropy(logits, batch.labels, reduction="none")
                return self.plan.loss(batch, losses, logits=logits)

            def configure_optimizers(self):
                return torch.optim.SGD(self.parameters(), lr=0.1)

        data = torch.rand(500, 20), torch.randint(0, 4, (500,))
        plan = DataPlan(data, epochs=4, batch_size=50, selector="infobatch", ratio=0.5)
        trainer = Trainer(max_epochs=4, callbacks=[PlanCallback(plan)], accelerator="cpu")
        trainer.fit(Model(plan), plan.loader())

    Args:
        plan: whose batches the training is made of.
        log: give `plan.metrics()` to the Trainer's loggers at the end of each epoch.

    Raises:
        ValueError: `lightning` is not installed, or something is no plan. At `fit`: a setting of the Trainer
            does not fit the plan, or the checkpoint has no state of a plan.
    """

    def __new__(cls, *_: Any, **__: Any) -> Self:
        """A callback of the package that is in use; of both where both are."""
        found: Self = _blank(cls)
        return found

    def __init__(self, plan: DataPlan, *, log: bool = True) -> None:
        if not isinstance(plan, DataPlan):
            raise ValueError(f"PlanCallback takes the DataPlan, got {shown(plan)}")
        self.plan, self.log = plan, check_flag("log", log)
        self._is_over = False  # Lightning ended the plan's epoch before everything of it was trained on
        self._ahead = 0  # the plan's epochs before Lightning's epoch 0
        self._start = (0, 0)  # the epoch in which the training began, and batches of it trained before
        self._loader: EpochLoader | None = None
        self._before: dict[str, Any] = {}  # what was put in place of what of the Trainer
        self._has_begun = False
        self._must_finish = False  # a resumed epoch lacks nothing but its end

    # Begin and end of `fit`

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Check the Trainer's settings, and take over what it asks of its loader."""
        if stage != "fit":
            return
        checks.check_trainer(trainer, pl_module, self.plan)
        self._restore(trainer)
        self._has_begun, self._must_finish, self._loader = False, False, None
        is_new = self._is_over or self.plan.epoch_sampler.is_done
        self._start = (self.plan.epoch + 1, 0) if is_new else (self.plan.epoch, self._passed())
        self._ahead = self._start[0] - trainer.current_epoch

        loop = trainer.fit_loop
        self._before = {"source": loop._data_source, "class": type(trainer), "epochs": loop.max_epochs}
        if trainer.fast_dev_run:
            self._before["state"] = self.plan.state_dict()
        self.plan.epoch_sampler.adapter = NAME
        loop._data_source = PlanSource(
            loop._data_source, partial(self._wrapped, set_epoch=partial(self._catch_up, trainer))
        )
        own = {"estimated_stepping_batches": property(self._stepping_batches)}
        trainer.__class__ = type(type(trainer).__name__, (type(trainer),), own)

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:  # noqa: ARG002
        """Give the Trainer back as it was before `fit`."""
        self._restore(trainer)

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:  # noqa: ARG002
        """Give the Trainer back as it was."""
        self._restore(trainer)

    def _restore(self, trainer: Any) -> None:
        if not self._before:
            return
        before, self._before = self._before, {}
        self.plan.epoch_sampler.adapter = None
        trainer.fit_loop._data_source = before["source"]
        trainer.fit_loop.max_epochs = before["epochs"]
        trainer.__class__ = before["class"]
        if "state" in before:
            self.plan.load_state_dict(before["state"])

    def on_fit_end(self, trainer: Any, pl_module: Any) -> None:  # noqa: ARG002
        """Say when Lightning trained nothing though the plan is not over."""
        if not self._has_begun and self.plan.epochs_trained < self.plan.epochs:
            warnings.warn(
                f"Lightning stopped before the first batch (epoch {trainer.current_epoch}, max_epochs="
                f"{trainer.max_epochs}, step {trainer.global_step}, max_steps={trainer.max_steps}), and the "
                f"plan has trained {self.plan.epochs_trained} of its {self.plan.epochs} epochs",
                stacklevel=2,
            )

    # The loader

    def _wrapped(self, loader: Any, set_epoch: Callable[[], None]) -> Any:
        """The plan's loader as Lightning gets it; `set_epoch` is called where samplers are told the epoch.

        Raises:
            ValueError: it is not the plan's, or one of several.
        """
        if not is_of(loader, self.plan):
            raise ValueError(
                "the training loader must be plan.loader() of the plan of PlanCallback, or a DataLoader over "
                "plan.dataset with sampler=plan.sampler and batch_size=plan.micro_batch_size; got "
                f"{shown(loader)}. Draw further batches (CombinedLoader, lists) inside training_step"
            )
        self._loader = EpochLoader(loader, self._whole(self.plan.epoch), set_epoch)
        return self._loader

    def _whole(self, epoch: int) -> int:
        """Batches of a rank in an epoch."""
        own, schedule = self.plan.epoch_sampler, self.plan.epoch_schedule
        if own.epoch >= schedule.epochs:
            return 1  # an error is raised where Lightning begins an epoch
        if schedule.counts is not None:
            samples = schedule.trained(schedule.counts[epoch]) // self.plan.world.size
        elif epoch == own.epoch:
            samples = own.record.own_end
        else:
            return schedule.steps_in(epoch)  # says that it is not known
        return -(-samples // schedule.micro_batch_size)

    def _left(self) -> int:
        """Batches of the plan's current epoch that are still offered."""
        return self._whole(self.plan.epoch) - self._passed()

    def _passed(self) -> int:
        """Batches of the plan's current epoch that are not offered any more."""
        record = self.plan.epoch_sampler.begun
        return 0 if record is None else -(-record.passed // record.batch_size)

    # Epochs

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Set how long Lightning trains, and after a resume inside an epoch how many batches that has."""
        self._has_begun = True
        plan, loop = self.plan, trainer.fit_loop
        progress = loop.epoch_loop.batch_progress
        resumed = loop.epoch_loop.restarted_on_train_batch_end and progress.is_last_batch
        self._must_finish = loop.restarted_mid_epoch and resumed
        if self._must_finish:  # Lightning would count the epoch as over, without its validation
            count_epoch(trainer, -1)

        # Epochs that Lightning has counted by the time that the plan begins its next one
        is_whole = plan.epoch_sampler.is_done or self._is_over
        is_open = loop.restarted_mid_epoch or loop.restarted_on_epoch_end
        begun, last = loop.epoch_progress.current.processed + (is_whole and is_open), self._end(trainer)
        loop.max_epochs = begun + last - plan.epoch - is_whole
        if not is_whole:
            self._set_lengths(
                trainer, self._left() + (self._count_batches(progress.current) if is_open else 0)
            )
        self._check_lengths(trainer, last)
        checks.check_resumed(plan, pl_module)

    def _count_batches(self, counts: Any) -> int:
        """Batches of the resumed epoch; Lightning is told, since another number of ranks counts others."""
        epoch, before = self._start
        passed = self._passed() - (before if epoch == self.plan.epoch else 0)
        more = passed - counts.ready
        for name in ("ready", "started", "processed", "completed"):
            setattr(counts, name, getattr(counts, name) + more)
        return passed

    def _catch_up(self, trainer: Any) -> None:
        """Do what is left after the batch of the checkpoint: a validation, or the epoch's end."""
        must_finish, self._must_finish = self._must_finish, False
        if must_finish:
            finish_epoch(trainer)
        elif is_validation_due(trainer):
            validate(trainer)

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """Go to the plan's next epoch, and tell the Trainer how many batches it has."""
        plan = self.plan
        if self._is_over or plan.epoch_sampler.is_done:
            self._is_over = False
            plan.start_epoch(plan.epoch + 1)
        if plan.epoch >= plan.epochs:
            raise ValueError(
                f"the {plan.epochs} epochs of the plan are over, and Lightning begins epoch "
                f"{trainer.current_epoch}: {NEW_PLAN}"
            )
        checks.check_trainer(trainer, pl_module, plan)
        forget_restart(
            trainer.fit_loop.epoch_loop
        )  # a checkpoint of just before has the epoch before's counts
        self._set_lengths(trainer, self._left())

    def _set_lengths(self, trainer: Any, batches: int) -> None:
        """Set what Lightning has derived from the length of its loader, as its `setup_data` does."""
        loop, number = trainer.fit_loop, self._limited(trainer, batches, self.plan.epoch)
        assert self._loader is not None, loop
        self._loader.batches = batches
        loop._combined_loader.limits = [number]
        loop.max_batches = number
        checks.check_interval(trainer, self.plan.epoch, number)
        if trainer._val_check_time_interval is None:
            interval = trainer.val_check_interval
            is_count = isinstance(interval, int)
            trainer.val_check_batch = interval if is_count else max(1, int(number * interval))
        iter(loop._data_fetcher)  # it keeps the length

    def _limited(self, trainer: Any, batches: int, epoch: int) -> int:
        """Batches of the plan's `epoch` under `limit_train_batches`."""
        limit = trainer.limit_train_batches
        number = min(batches, limit) if isinstance(limit, int) else int(batches * limit)
        if not number and limit:
            raise ValueError(f"limit_train_batches={limit} leaves no batch of the {batches} of epoch {epoch}")
        return number

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:  # noqa: ARG002
        """Check what Lightning's precision made of the batch."""
        checks.check_batch(batch, trainer)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Note whether Lightning ended the epoch early, and log what was decided and seen in it."""
        is_stopped = trainer.should_stop or 0 <= trainer.max_steps <= trainer.global_step
        self._is_over = not (self.plan.epoch_sampler.is_done or is_stopped)
        self.plan.settle()
        if self.log and trainer.is_global_zero:
            found = {name: float(value) for name, value in self.plan.metrics().items()}
            shared = trainer.world_size > 1  # all ranks know the numbers: nothing is reduced
            how = {"sync_dist": shared, "rank_zero_only": shared}
            pl_module.log_dict(found, on_step=False, on_epoch=True, batch_size=1, **how)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:  # noqa: ARG002
        """Say what of the last epoch Lightning left out."""
        if self._is_over and self.plan.epoch == self.plan.epochs - 1:
            self._is_over = False
            self.plan.start_epoch(self.plan.epochs)

    # How long

    def _end(self, trainer: Any) -> int:
        """The plan's epoch before which this training ends.

        Raises:
            ValueError: Lightning would train longer than the plan.
        """
        plan, first, wanted = self.plan, self._ahead, self._before["epochs"]
        if trainer.fit_loop.max_epochs > wanted >= 0:  # by a callback
            wanted = trainer.fit_loop.max_epochs
        last: int = plan.epochs if wanted < 0 else first + wanted
        if last > plan.epochs:
            left = plan.epochs - first
            was = f", and {first} of them are trained" if first > 0 else ""
            advice = f"give max_epochs={left}, or max_epochs=-1 for the plan's" if left else NEW_PLAN
            raise ValueError(
                f"Trainer(max_epochs={wanted}) trains longer than the plan, which has {plan.epochs} epochs"
                f"{was}: {advice} (1000 is Lightning's default; StochasticWeightAveraging adds an epoch)"
            )
        return last

    def _check_lengths(self, trainer: Any, last: int) -> None:
        """Check the lengths of the epochs to come, as far as they are known, and say what is left over."""
        plan, steps = self.plan, trainer.max_steps
        if last < plan.epochs and steps < 0:
            warnings.warn(
                f"Trainer(max_epochs={trainer.max_epochs}) ends after epoch {last - 1} of the plan, which "
                f"has {plan.epochs} epochs: the rest of its budget is not spent; give {plan.epochs}",
                stacklevel=2,
            )
        if plan.epoch_schedule.counts is None:
            return
        for epoch in range(plan.epoch + 1, last):
            checks.check_interval(trainer, epoch, self._limited(trainer, self._whole(epoch), epoch))
        whole = self._planned_steps(trainer, last)
        is_open = self._before["epochs"] < 0 and trainer.lightning_module.automatic_optimization
        if is_open and steps > whole:
            raise ValueError(
                f"Trainer(max_steps={steps}) are more than the {whole} steps of the plan, which ends there: "
                f"give max_steps={whole}, or max_epochs=-1 alone"
            )

    def _planned_steps(self, trainer: Any, last: int) -> int:
        """Steps of the optimiser from Lightning's epoch 0 to the plan's epoch `last`."""
        lengths = {epoch: self._whole(epoch) for epoch in range(max(0, self._ahead), last)}
        if (start := self._start[0]) in lengths:
            lengths[start] -= self._start[1]
        parts: int = trainer.accumulate_grad_batches
        limited = [self._limited(trainer, batches, epoch) for epoch, batches in lengths.items()]
        return sum(math.ceil(batches / parts) for batches in limited)

    def _stepping_batches(self, trainer: Any) -> int:
        """`Trainer.estimated_stepping_batches`: steps of the optimiser in this training.

        Raises:
            ValueError: numbers of samples are decided during the training run.
        """
        steps: int = trainer.max_steps
        if self.plan.epoch_schedule.counts is None:
            return steps if steps >= 0 else self.plan.total_steps  # says that it is not known
        planned: int = self._planned_steps(trainer, self._end(trainer))
        return planned if steps < 0 else min(planned, steps)

    # Checkpoints

    def state_dict(self) -> dict[str, Any]:
        """The plan's state, and where Lightning's epochs begin in it; every rank must call it."""
        own = {"is_over": self._is_over, "ahead": self._ahead, "start": list(self._start)}
        return {"plan": self.plan.state_dict(), **own}

    def on_load_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: Mapping[str, Any]) -> None:  # noqa: ARG002
        """Continue the plan where the checkpoint was saved; for evaluations the plan stays where it is.

        Raises:
            ValueError: there is no state of a plan in it.
        """
        if trainer.state.fn != "fit":
            return
        state = checkpoint["callbacks"].get(self.state_key)  # type: ignore[attr-defined]  # of the base
        if state is None:
            raise ValueError(
                "the checkpoint has no state of a plan: it was saved without PlanCallback, so what the plan "
                "has learnt is not known. Load the parameters alone (load_state_dict), and fit without "
                "ckpt_path"
            )
        self.plan.load_state_dict(state["plan"])
        self._is_over, self._ahead = bool(state["is_over"]), int(state["ahead"])
        self._start = (int(state["start"][0]), int(state["start"][1]))

    def __reduce__(self) -> tuple[Any, ...]:
        """The class is made at run time: a copy makes it anew; errors as for `check_not_spawned`."""
        checks.check_not_spawned()
        return _blank, (type(self).__bases__[0],), vars(self)


def _blank(cls: type) -> Any:
    """A `PlanCallback` without its attributes, which is a Callback of the packages that are in use."""
    if not any(issubclass(cls, base) for base in _bases()):
        cls = type(cls.__name__, (cls, *_bases()), {"__doc__": cls.__doc__, "__module__": cls.__module__})
    return object.__new__(cls)


def _bases() -> tuple[type, ...]:
    """`Callback` of each of the two packages that was imported, of `lightning` where none was.

    Raises:
        ValueError: none is installed; the message has the command.
    """
    used = [name for name in PACKAGES if sys.modules.get(name) is not None] or [PACKAGES[0]]
    try:
        return tuple(importlib.import_module(name).Callback for name in used)
    except ModuleNotFoundError as error:
        raise ValueError(f"PlanCallback needs lightning: {INSTALL}") from error
