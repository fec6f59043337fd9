"""The cases of `cases.py` in a loop of plain torch: DistributedDataParallel, and one process without it."""

from collections.abc import Iterator
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import distributed
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

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
from tests.plan.ranks import new_net


def is_first() -> bool:
    return not distributed.is_initialized() or distributed.get_rank() == 0


class Loop(cases.Loop):
    """A loop of torch, as users write it; in it is what other loaders change."""

    def __init__(self, case: Case) -> None:
        if case.ranks > 1 and not distributed.is_initialized():
            distributed.init_process_group("gloo")
        self.case, self.plan = case, new_plan(case)
        net = new_net()
        self.net = DistributedDataParallel(net) if case.ranks > 1 else net
        self.optimizer = torch.optim.SGD(self.net.parameters(), lr=RATE)
        self.scheduler = self.plan.lr_scheduler(self.optimizer, lambda progress: 1 - progress)
        self.loader = self.new_loader()
        self.found = Result(validations=0)

    def new_loader(self) -> Any:
        return self.plan.loader(**worker_settings(self.case.workers))

    def batches(self) -> Iterator[Any]:
        """Batches of the current epoch."""
        return iter(self.loader)

    def steps(self) -> Iterator[None]:
        for _ in self.plan.epochs_left():
            for number, batch in enumerate(self.batches(), 1):
                is_step = number % self.plan.accumulate == 0
                is_quiet = self.case.ranks > 1 and not is_step
                with self.net.no_sync() if is_quiet else nullcontext():  # type: ignore[operator]
                    self.found.rows.append(check_row(batch))
                    logits = self.net(batch.inputs[:, 1:])
                    losses = F.cross_entropy(logits, batch.labels, reduction="none")
                    (self.plan.loss(batch, losses, logits=logits) / self.plan.accumulate).backward()
                if is_step:
                    self.optimizer.step()
                    self.scheduler.step()
                    self.optimizer.zero_grad()
                    self.found.steps += 1
                    yield
            self.validate()

    def state_dict(self) -> dict[str, Any]:
        return {
            "plan": self.plan.state_dict(),
            "net": self.net.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }

    def save(self, folder: Path) -> None:
        """One rank writes the state of all."""
        state = self.state_dict()
        if is_first():
            torch.save(state, folder / "state.pt")
        if self.case.ranks > 1:
            distributed.barrier()

    def load(self, folder: Path) -> None:
        state = torch.load(folder / "state.pt", weights_only=True)
        self.plan.load_state_dict(state["plan"])
        for name in ("net", "scheduler", "optimizer"):
            getattr(self, name).load_state_dict(state[name])

    def result(self) -> Result:
        self.found.parameters, self.found.progress = flat(self.net), self.plan.progress
        self.found.last_rate = self.scheduler.get_last_lr()[0]
        return self.found


class OwnLoader(Loop):
    """A DataLoader of the user's own with the plan's sampler."""

    def new_loader(self) -> Any:
        return DataLoader(self.plan.dataset, **self.loader_settings())

    def loader_settings(self) -> dict[str, Any]:
        return {
            "batch_size": self.plan.micro_batch_size,
            "sampler": self.plan.sampler,
            "collate_fn": IndexedCollate(),
            "generator": torch.Generator(),
            **worker_settings(self.case.workers),
        }

    def batches(self) -> Iterator[Any]:
        return (self.plan.batch(*raw) for raw in self.loader)


CASES: dict[str, CaseFunction] = {
    "DDP, plan.loader": partial(run_loop, kind=Loop),
    "DDP, DataLoader": partial(run_loop, kind=OwnLoader),
}
