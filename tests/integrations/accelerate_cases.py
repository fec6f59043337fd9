"""The cases of `cases.py` in a loop of Accelerate, on each rank of a launch."""

import os
import time
import warnings
from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState, PartialState
from accelerate.utils import DataLoaderConfiguration, InitProcessGroupKwargs
from torch.nn import functional as F
from torch.optim.lr_scheduler import CosineAnnealingLR, OneCycleLR
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

WAIT = 20  # seconds


def reset() -> None:
    """Forget the accelerator of the case before; Accelerate keeps its state in the class."""
    AcceleratorState._reset_state()
    GradientState._reset_state()
    PartialState._reset_state()


def new_accelerator(accumulate: int = 1, **settings: Any) -> Accelerator:
    """An accelerator on the CPU; that of the case before is forgotten, the group of ranks stays."""
    reset()
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


# Beside the cases


class Configured(Loop):
    """`plan_loader` under settings that change how Accelerate deals samples out."""

    config = DataLoaderConfiguration(even_batches=False, split_batches=True)
    settings: dict[str, Any] = {"dataloader_config": config}  # noqa: RUF012


class Split(Sharded):
    settings: dict[str, Any] = {"dataloader_config": DataLoaderConfiguration(split_batches=True)}  # noqa: RUF012


class Uneven(Sharded):
    settings: dict[str, Any] = {"dataloader_config": DataLoaderConfiguration(even_batches=False)}  # noqa: RUF012


class Dispatched(Sharded):
    settings: dict[str, Any] = {"dataloader_config": DataLoaderConfiguration(dispatch_batches=True)}  # noqa: RUF012


class Half(Loop):
    settings: dict[str, Any] = {"mixed_precision": "bf16"}  # noqa: RUF012


class Short(Loop):
    """With a group whose ranks wait for each other for some seconds at most."""

    settings: dict[str, Any] = {"kwargs_handlers": [InitProcessGroupKwargs(timeout=timedelta(seconds=WAIT))]}  # noqa: RUF012


OTHERS: dict[str, CaseFunction] = {
    "even_batches=False, split_batches=True": partial(run_loop, kind=Configured),
    "sharded, split_batches=True": partial(run_loop, kind=Split),
    "sharded, even_batches=False": partial(run_loop, kind=Uneven),
    "sharded, dispatch_batches=True": partial(run_loop, kind=Dispatched),
    "bf16": partial(run_loop, kind=Half),
}


def run_call(folder: Path, call: tuple[Any, ...]) -> Any:
    """One of `CASES` or `OTHERS` by name with its case, or a function of this module with its arguments."""
    name, *arguments = call
    with warnings.catch_warnings():
        if name in CASES or name in OTHERS:
            warnings.filterwarnings("error", module="dsenv|tests")
            return {**CASES, **OTHERS}[name](folder, *arguments)
        return globals()[name](folder, *arguments)


KILLED = Case("pods", 2)


def killed(folder: Path, _: None) -> None:
    """The second rank is killed after it saved its state; the first one writes down what it is told."""
    loop, began = Short(KILLED), time.monotonic()
    try:
        for number, _ in enumerate(loop.steps(), 1):
            if number == 4:
                loop.save(folder)
            if number == 5 and loop.accelerator.process_index == 1:
                os._exit(9)
            began = time.monotonic()
    except RuntimeError as error:
        said = {"error": str(error), "seconds": time.monotonic() - began, "rows": loop.found.rows[:4]}
        torch.save(said, folder / "said.pt")
        os._exit(3)


def go_on(folder: Path, saved: str) -> Result:
    """Go on from the state that `killed` left."""
    loop = Loop(KILLED)
    loop.load(Path(saved))
    for _ in loop.steps():
        pass
    return loop.result()


def refused(folder: Path) -> dict[str, str]:
    """What is said to users whose plan and accelerator do not fit together."""
    rank = int(os.environ.get("RANK", "0"))

    def with_sampler_of_the_rank() -> None:
        accelerator, plan = new_accelerator(), new_plan(Case("rising", 2))
        loader = DataLoader(
            plan.dataset, plan.micro_batch_size, sampler=plan.sampler, generator=torch.Generator()
        )
        raw = next(iter(accelerator.prepare(loader)))
        if rank:
            plan.batch(*raw)
        raise ValueError("only the other rank notices")

    def after_a_restart() -> None:
        accelerator, plan = new_accelerator(), new_plan(Case("rising", 2))
        state = plan.state_dict()
        state["epoch_sampler"]["epoch"] = 2
        plan.load_state_dict(state)
        sampler = plan.new_sampler(shard="global")
        loader = DataLoader(plan.dataset, plan.micro_batch_size, sampler=sampler, generator=torch.Generator())
        next(iter(accelerator.prepare(loader)))

    def with_another_accumulation() -> None:
        new_accelerator(4)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            try:
                next(iter(new_plan(Case("rising", 2, 2)).loader()))
            except UserWarning as warning:
                raise ValueError(str(warning)) from warning

    dispatch = {"dataloader_config": DataLoaderConfiguration(dispatch_batches=True)}
    tries: dict[str, Callable[[], Any]] = {
        "sampler of the rank": with_sampler_of_the_rank,
        "restart": after_a_restart,
        "plan.loader, accumulation": with_another_accumulation,
        "alone": lambda: plan_loader(new_plan(Case("rising"), world=1), new_accelerator()),
        "accumulation": lambda: plan_loader(new_plan(Case("rising", 2, 2)), new_accelerator()),
        "dispatch": lambda: plan_loader(new_plan(Case("rising", 2)), new_accelerator(**dispatch)),
        "shard": lambda: plan_loader(new_plan(Case("rising", 2)), new_accelerator(), shard="rank"),
    }
    found = {}
    for name, make in tries.items():
        try:
            make()
            found[name] = "nothing"
        except ValueError as error:
            found[name] = str(error)
    return found


def schedules(folder: Path, accumulate: int) -> dict[str, tuple[float, list[str]]]:
    """The last rate of prepared schedules of torch, and what was said at the first batch."""
    kinds: dict[str, Callable[..., Any]] = {
        "for all processes": lambda o, n, p: CosineAnnealingLR(o, n * p),
        "for one process": lambda o, n, _: CosineAnnealingLR(o, n),
        "one cycle": lambda o, n, p: OneCycleLR(o, RATE, total_steps=n * p),
    }
    found = {}
    for name, make in kinds.items():
        loop = Loop(Case("rising", int(os.environ.get("WORLD_SIZE", "1")), accumulate))
        reset()
        accelerator = Accelerator(cpu=True, gradient_accumulation_steps=accumulate)
        optimizer = torch.optim.SGD(loop.net.parameters(), lr=RATE)
        schedule = make(optimizer, loop.plan.total_steps, accelerator.num_processes)
        loop.accelerator = accelerator
        loop.optimizer, loop.scheduler = accelerator.prepare(optimizer, schedule)
        loop.loader = plan_loader(loop.plan, accelerator)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for _ in loop.steps():
                pass
        said = [str(each.message) for each in caught]
        said = [words for words in said if "made for" in words]
        found[name] = loop.scheduler.get_last_lr()[0], said
    return found
