"""One training run in Lightning, in the cases that every framework's adapter must get right."""

import logging
import os
import warnings
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from lightning.fabric import Fabric
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.nn import functional as F
from torch.utils.data import DataLoader

from dsenv.integrations.lightning import PlanCallback
from dsenv.plan import DataPlan, IndexedCollate
from tests.integrations.cases import RATE, Case, Result, check_row, flat, new_plan, stop_step, worker_settings
from tests.integrations.cases import _run as run_calls
from tests.plan.ranks import new_net

logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
QUIET: dict[str, Any] = {
    "accelerator": "cpu",
    "logger": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "enable_checkpointing": False,
}


class Model(LightningModule):
    """A user's module with a plan; it notes every batch at its loss.

    Args:
        plan: its plan.
        found: where the batches are noted.
        by_progress: the rate falls along `plan.progress`; else along `trainer.estimated_stepping_batches`.
    """

    def __init__(self, plan: DataPlan, found: Result | None = None, *, by_progress: bool = True) -> None:
        super().__init__()
        self.plan, self.net = plan, new_net()
        self.found = Result(validations=0) if found is None else found
        self.by_progress = by_progress

    def training_step(self, batch: Any) -> Any:
        if not hasattr(batch, "weight"):  # of a DataLoader of the user's own
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
        scheduler: Any = None
        if self.by_progress:
            scheduler = self.plan.lr_scheduler(optimizer, lambda progress: 1 - progress)
        else:
            steps = int(self.trainer.estimated_stepping_batches)
            scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


class Sharded(Model):
    """The same under FSDP2."""

    def configure_model(self) -> None:
        assert self.device_mesh is not None
        fully_shard(self.net, mesh=self.device_mesh["data_parallel"])


class StoppedError(Exception):
    """The training was stopped, as if the process was killed."""


class SaveIn(Callback):
    """Saves a checkpoint in a hook, and stops there.

    Args:
        path: of the checkpoint.
        hook: name of the hook.
        call: save at this call of it, from 1 on; None to go by `step`.
        step: save at the first call after this step.
    """

    def __init__(self, path: Path, hook: str, call: int | None = None, step: int | None = None) -> None:
        self.path, self.call, self.step, self.calls = path, call, step, 0
        setattr(self, hook, self._save)

    def _save(self, trainer: Trainer, *_: Any) -> None:
        if trainer.sanity_checking:
            return
        self.calls += 1
        if (trainer.global_step == self.step) if self.call is None else (self.calls == self.call):
            trainer.save_checkpoint(self.path)
            raise StoppedError


def new_trainer(plan: DataPlan, *callbacks: Any, **settings: Any) -> Trainer:
    own = {"max_epochs": plan.epochs, "accumulate_grad_batches": plan.accumulate, "devices": 1}
    return Trainer(callbacks=[PlanCallback(plan), *callbacks], **{**QUIET, **own, **settings})


def validation() -> DataLoader[Any]:
    return DataLoader([torch.zeros(1)] * 2)  # type: ignore[arg-type]


def plan_loader(plan: DataPlan, workers: int) -> Any:
    return plan.loader(**worker_settings(workers))


def own_loader(plan: DataPlan, workers: int) -> DataLoader[Any]:
    own = {"sampler": plan.sampler, "collate_fn": IndexedCollate(), **worker_settings(workers)}
    return DataLoader(plan.dataset, plan.micro_batch_size, **own)


def quiet() -> None:
    """Warnings are errors, but for those of Lightning that say nothing of the data."""
    warnings.simplefilter("error", UserWarning)
    for words in (".*does not have many workers.*", ".*was not set.*", ".*treespec.*"):
        warnings.filterwarnings("ignore", words)


def fitted(
    plan: DataPlan,
    *callbacks: Any,
    make: Callable[..., Any] = plan_loader,
    kind: type[Model] = Model,
    workers: int = 0,
    found: Result | None = None,
    checkpoint: Path | None = None,
    by_progress: bool = True,
    **settings: Any,
) -> Result:
    """What a `fit` saw; it may be stopped by `SaveIn`."""
    model = kind(plan, found, by_progress=by_progress)
    trainer = new_trainer(plan, *callbacks, **settings)
    with warnings.catch_warnings():
        quiet()
        trainer.fit(model, make(plan, workers), validation(), ckpt_path=checkpoint)
    whole = [getattr(each, "full_tensor", lambda each=each: each)() for each in model.net.parameters()]
    result = model.found
    result.parameters = flat(nn.ParameterList(each.detach() for each in whole))
    result.steps, result.progress = trainer.global_step, plan.progress
    result.last_rate = trainer.optimizers[0].param_groups[0]["lr"]
    return result


def stopped_and_resumed(
    make_plan: Callable[[], DataPlan], save: SaveIn, settings: dict[str, Any]
) -> Result | None:
    """A run that was stopped, gone on with by a new plan, model and Trainer; None if nothing stopped it."""
    found = Result(validations=0)
    try:
        fitted(make_plan(), save, found=found, **settings)
    except StoppedError:
        return fitted(make_plan(), found=found, checkpoint=save.path, **settings)
    return None


def trained(folder: Path, case: Case, **settings: Any) -> Result:
    """Train a case to its end; where it has a stop, save there, build everything anew, and go on."""
    if case.ranks > 1:
        settings = {"strategy": "ddp", "devices": case.ranks, **settings}
    stop, settings = stop_step(case), {"workers": case.workers, **settings}
    if stop is None:
        return fitted(new_plan(case), **settings)
    save = SaveIn(folder / "stop.ckpt", "on_train_batch_end", step=stop)
    found = stopped_and_resumed(lambda: new_plan(case), save, settings)
    assert found is not None, case
    return found


def with_own_loader(folder: Path, case: Case) -> Result:
    """A DataLoader of the user's own, which gives positions and samples."""
    return trained(folder, case, make=own_loader)


def with_estimate(folder: Path, case: Case) -> Result:
    """The rate falls along `trainer.estimated_stepping_batches`."""
    return trained(folder, case, by_progress=False)


CASES = {"plan.loader": trained, "own DataLoader": with_own_loader, "estimated steps": with_estimate}


# On two ranks, beside those cases


def with_fsdp(folder: Path, case: Case) -> Result:
    """FSDP2 on gloo ranks."""
    strategy = ModelParallelStrategy(data_parallel_size=case.ranks, tensor_parallel_size=1)
    return trained(folder, case, strategy=strategy, kind=Sharded)


def in_fabric(_: Path, case: Case, *, is_own: bool = False) -> Result:
    """A loop of the user's own in Fabric, with plan.loader(), or its own DataLoader."""
    fabric = Fabric(accelerator="cpu", devices=case.ranks, strategy="ddp")
    fabric.launch()
    plan, net = new_plan(case), new_net()
    model, optimizer = fabric.setup(net, torch.optim.SGD(net.parameters(), lr=RATE))
    scheduler = plan.lr_scheduler(optimizer, lambda progress: 1 - progress)
    loader = plan_loader(plan, case.workers)
    if is_own:
        loader = fabric.setup_dataloaders(own_loader(plan, case.workers))

    found = Result()
    for _epoch in plan.epochs_left():
        for raw in loader:
            batch = plan.batch(*raw) if is_own else raw
            found.rows.append(check_row(batch))
            logits = model(batch.inputs[:, 1:])
            losses = F.cross_entropy(logits, batch.labels, reduction="none")
            fabric.backward(plan.loss(batch, losses, logits=logits))
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
            found.steps += 1
    found.parameters, found.progress = flat(net), plan.progress
    found.last_rate = scheduler.get_last_lr()[0]
    return found


def in_fabric_with_own_loader(folder: Path, case: Case) -> Result:
    """`fabric.setup_dataloaders` on a DataLoader of the user's own."""
    return in_fabric(folder, case, is_own=True)


ON_RANKS = {
    **CASES,
    "FSDP2": with_fsdp,
    "Fabric": in_fabric,
    "Fabric, own DataLoader": in_fabric_with_own_loader,
}


def on_rank(folder: Path, call: tuple[str, Case]) -> Result:
    """One of these by its name."""
    return ON_RANKS[call[0]](folder, call[1])


def ends(folder: Path) -> None:
    """Rank 1 of two is killed after step 3 of PODS's first epoch, where the state was saved."""
    plan = new_plan(Case("pods", 2))

    class Kill(Callback):
        def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
            if trainer.global_step == 3:
                trainer.save_checkpoint(folder / "3.ckpt")
                if trainer.global_rank == 1:
                    os._exit(9)

    strategy = DDPStrategy(timeout=timedelta(seconds=20))
    new_trainer(plan, Kill(), devices=2, strategy=strategy).fit(Model(plan), plan.loader())


def run_rank(folder: Path, rank: int, ports: Sequence[int], calls: Sequence[tuple[str, Case]]) -> None:
    """All calls on one of two ranks, whose results are in files, then `ends`; what is said goes to a file."""
    log = os.open(folder / f"rank{rank}.log", os.O_CREAT | os.O_WRONLY)
    os.dup2(log, 1)
    os.dup2(log, 2)
    run_calls(rank, on_rank, folder, calls, 2, ports[0])
    os.environ["MASTER_PORT"] = str(ports[1])
    ends(folder)
