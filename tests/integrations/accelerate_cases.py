"""The cases of `cases.py` in a loop of Accelerate, on each rank of a launch."""

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState, PartialState
from accelerate.utils import DataLoaderConfiguration
from torch.nn import functional as F
from torch.utils.data import DataLoader

from dsenv.integrations.accelerate import plan_loader
from dsenv.plan import IndexedCollate
from tests.integrations import cases
from tests.integrations.cases import (
    RATE,
    Case,
    CaseFunction,
    Result,
    check_row,
    flat,
    new_plan,
    run_loop,
    worker_settings,
)
from tests.plan.ranks import new_net, samples


def new_accelerator(accumulate: int = 1, **settings: Any) -> Accelerator:
    """An accelerator on the CPU; that of the case before is forgotten, the group of ranks stays."""
    AcceleratorState._reset_state()
    GradientState._reset_state()
    PartialState._reset_state()
    os.environ["ACCELERATE_USE_CPU"] = "true"
    return Accelerator(cpu=True, gradient_accumulation_steps=accumulate, **settings)


class Loop(cases.Loop):
    """A training loop as users of Accelerate write it."""

    settings: dict[str, Any] = {}  # noqa: RUF012  # of the accelerator
    plan_settings: dict[str, Any] = {}  # noqa: RUF012

    def __init__(self, case: Case) -> None:
        self.accelerator = new_accelerator(case.accumulate, **self.settings)
        self.plan = new_plan(case, **self.plan_settings)
        net = new_net()
        optimizer = torch.optim.SGD(net.parameters(), lr=RATE)
        scheduler = self.plan.lr_scheduler(optimizer, lambda progress: 1 - progress)
        self.net, self.optimizer, self.scheduler = self.accelerator.prepare(net, optimizer, scheduler)
        self.loader = self.new_loader(case)
        self.found = Result(validations=0)

    def new_loader(self, case: Case) -> Any:
        return plan_loader(self.plan, self.accelerator, **worker_settings(case.workers))

    def batches(self) -> Iterator[Any]:
        """Batches of the current epoch."""
        return iter(self.loader)

    def steps(self) -> Iterator[None]:
        """Train; yields after each step of the optimiser."""
        for _ in self.plan.epochs_left():
            for batch in self.batches():
                with self.accelerator.accumulate(self.net):
                    row = check_row(batch)
                    logits = self.net(batch.inputs[:, 1:])
                    losses = F.cross_entropy(logits, batch.labels, reduction="none")
                    self.accelerator.backward(self.plan.loss(batch, losses, logits=logits))
                    self.optimizer.step()
                    self.scheduler.step()
                    self.optimizer.zero_grad()
                self.found.rows.append(row)
                if self.accelerator.sync_gradients:
                    self.found.steps += 1
                    yield
            self.validate()

    def validate(self) -> None:
        """An evaluation on all samples in the middle of the training; every sample is counted once."""
        inputs, labels = samples()
        rows = list(zip(inputs, labels, strict=True))
        size = 8 if self.accelerator.even_batches else 10  # 100 samples: a batch that is filled up, or none
        loader = self.accelerator.prepare(DataLoader(rows, size, generator=torch.Generator()))  # type: ignore[arg-type]
        seen = []
        for x, y in loader:
            with torch.no_grad():
                self.net(x[:, 1:])
            seen.append(self.accelerator.gather_for_metrics((x[:, 0], y))[0])
        assert torch.cat(seen).long().sort().values.tolist() == list(range(len(labels)))
        self.accelerator._dataloaders.remove(loader)
        self.found.validations += 1

    def save(self, folder: Path) -> None:
        self.accelerator.save_state(str(folder / "state"))

    def load(self, folder: Path) -> None:
        self.accelerator.load_state(str(folder / "state"))

    def result(self) -> Result:
        self.found.parameters, self.found.progress = flat(self.net), self.plan.progress
        self.found.last_rate = self.scheduler.get_last_lr()[0]
        return self.found


class Skipping(Loop):
    """After a resume the first epoch is begun anew and batches are skipped, as in Accelerate's examples."""

    def batches(self) -> Iterator[Any]:
        sampler = self.plan.epoch_sampler
        if not sampler.was_loaded or sampler.begun is None or not sampler.done:
            return iter(self.loader)
        done = sampler.done // self.plan.micro_batch_size
        return iter(self.accelerator.skip_first_batches(self.loader, done))


class Sharded(Loop):
    """A DataLoader of the user's own over samples of all ranks, which Accelerate deals out."""

    resume = "plan"

    def new_loader(self, case: Case) -> Any:
        loader: DataLoader[Any] = DataLoader(
            self.plan.dataset,
            batch_size=self.plan.micro_batch_size * (case.ranks if self.accelerator.split_batches else 1),
            sampler=self.plan.new_sampler(shard="global", resume=self.resume),
            collate_fn=IndexedCollate(),
            generator=torch.Generator(),
            **worker_settings(case.workers),
        )
        self.accelerator.register_for_checkpointing(self.plan)
        return self.accelerator.prepare(loader)

    def batches(self) -> Iterator[Any]:
        self.loader.set_epoch(self.plan.epoch)
        return (self.plan.batch(*raw) for raw in self.loader)


class Plain(Loop):
    """`prepare(plan.loader())`, which Accelerate leaves alone."""

    def new_loader(self, case: Case) -> Any:
        self.accelerator.register_for_checkpointing(self.plan)
        return self.accelerator.prepare(self.plan.loader(**worker_settings(case.workers)))


class Stateful(Sharded):
    """The same with `use_stateful_dataloader`, which skips batches by itself."""

    settings: dict[str, Any] = {"dataloader_config": DataLoaderConfiguration(use_stateful_dataloader=True)}  # noqa: RUF012
    resume = "framework"


CASES: dict[str, CaseFunction] = {
    "plan_loader": partial(run_loop, kind=Loop),
    "skip_first_batches": partial(run_loop, kind=Skipping),
    "sharded by Accelerate": partial(run_loop, kind=Sharded),
    "sharded, stateful": partial(run_loop, kind=Stateful),
    "plan.loader": partial(run_loop, kind=Plain),
}
