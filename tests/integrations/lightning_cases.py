"""One training run in Lightning, in the cases that every framework's adapter must get right."""

import logging
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch.nn import functional as F
from torch.utils.data import DataLoader

from dsenv.integrations.lightning import PlanCallback
from dsenv.plan import DataPlan, IndexedCollate
from tests.integrations.cases import RATE, Case, Result, check_row, flat, new_plan, stop_step
from tests.plan.ranks import new_net

logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
QUIET: dict[str, Any] = {
    "accelerator": "cpu",
    "logger": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "enable_checkpointing": False,
}
FORK = {"multiprocessing_context": "fork"}


class Model(LightningModule):
    """A user's module with a plan; it notes every batch at its loss."""

    def __init__(self, plan: DataPlan, found: Result | None = None, *, rate: str = "progress") -> None:
        super().__init__()
        self.plan, self.net, self.found = plan, new_net(), found or Result(validations=0)
        self.rate, self.rates = rate, []  # type: ignore[var-annotated]

    def training_step(self, batch: Any) -> Any:
        if isinstance(batch, list | tuple) and not hasattr(batch, "weight"):
            batch = self.plan.batch(*batch)
        self.found.rows.append(check_row(batch))
        logits = self.net(batch.inputs[:, 1:])
        losses = F.cross_entropy(logits, batch.labels, reduction="none")
        return self.plan.loss(batch, losses, logits=logits)

    def validation_step(self, batch: Any) -> None:
        return None

    def on_validation_epoch_end(self) -> None:
        self.found.validations += not self.trainer.sanity_checking

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.net.parameters(), lr=RATE)
        if self.rate == "progress":
            scheduler = self.plan.lr_scheduler(optimizer, lambda progress: 1 - progress)
        else:
            steps = self.trainer.estimated_stepping_batches
            scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


class SaveAt(Callback):
    """Saves a checkpoint after a step, or after every one in a list, and can stop there."""

    def __init__(
        self, folder: Path, *steps: int, hook: str = "on_train_batch_end", stop: bool = True
    ) -> None:
        self.folder, self.steps, self.hook, self.stop = folder, steps, hook, stop
        self.saved: set[int] = set()

    def _save(self, trainer: Trainer) -> None:
        step = trainer.global_step
        if step in self.steps and step not in self.saved:
            self.saved.add(step)
            trainer.save_checkpoint(self.folder / f"{step}.ckpt")
            if self.stop:
                raise Stopped

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if self.hook == "on_train_batch_end":
            self._save(trainer)

    def on_train_epoch_end(self, trainer: Trainer, *_: Any) -> None:
        if self.hook == "on_train_epoch_end":
            self._save(trainer)


class Stopped(Exception):  # noqa: N818
    """As if the process was killed."""


def new_trainer(plan: DataPlan, *callbacks: Any, ranks: int = 1, **settings: Any) -> Trainer:
    own = {**QUIET, "max_epochs": plan.epochs, "accumulate_grad_batches": plan.accumulate}
    strategy = {"strategy": "ddp", "devices": ranks} if ranks > 1 else {"devices": 1}
    return Trainer(callbacks=[PlanCallback(plan), *callbacks], **{**own, **strategy, **settings})


def validation() -> DataLoader[Any]:
    return DataLoader([torch.zeros(1)] * 2)  # type: ignore[arg-type]


def own_loader(plan: DataPlan, workers: int) -> DataLoader[Any]:
    settings = {"num_workers": workers, **(FORK if workers else {})}
    collate = IndexedCollate()
    return DataLoader(
        plan.dataset, plan.micro_batch_size, sampler=plan.sampler, collate_fn=collate, **settings
    )


def plan_loader(plan: DataPlan, workers: int) -> Any:
    return plan.loader(num_workers=workers, **(FORK if workers else {}))


def trained(
    folder: Path, case: Case, make: Callable[..., Any] = plan_loader, rate: str = "progress", **settings: Any
) -> Result:
    """Train a case to its end; where it has a stop, save there, build everything anew, and go on."""
    stop, found, checkpoint = stop_step(case), Result(validations=0), None
    hook = settings.pop("hook", "on_train_batch_end")
    if case.ranks > 1 and not torch.distributed.is_initialized():
        torch.distributed.init_process_group("gloo")
    for is_last in (False, True) if stop else (True,):
        plan = new_plan(case)
        model = Model(plan, found, rate=rate)
        save = [] if is_last else [SaveAt(folder, stop, hook=hook)]  # type: ignore[arg-type]
        trainer = new_trainer(plan, *save, ranks=case.ranks, **settings)
        try:
            with warnings.catch_warnings():
                quiet()
                trainer.fit(model, make(plan, case.workers), validation(), ckpt_path=checkpoint)
            assert is_last, "it was not stopped"
        except Stopped:
            checkpoint = folder / f"{stop}.ckpt"
    found.steps, found.parameters = trainer.global_step, flat(model.net)
    found.last_rate, found.progress = trainer.optimizers[0].param_groups[0]["lr"], plan.progress
    return found


def quiet() -> None:
    """Warnings are errors, but for those of Lightning that say nothing of the data."""
    warnings.simplefilter("error", UserWarning)
    for words in (".*does not have many workers.*", ".*GPU available.*", ".*`_clean.*"):
        warnings.filterwarnings("ignore", words)


def kill(rank: int) -> None:
    """End this process at once if it is that rank."""
    if int(os.environ.get("RANK", "0")) == rank:
        os._exit(1)


def with_own_loader(folder: Path, case: Case) -> Result:
    """A DataLoader of the user's own, which gives positions and samples."""
    return trained(folder, case, own_loader)


def with_estimate(folder: Path, case: Case) -> Result:
    """The rate falls along `trainer.estimated_stepping_batches`."""
    return trained(folder, case, rate="estimate")


CASES = {"plan.loader": trained, "own DataLoader": with_own_loader, "estimated steps": with_estimate}
