"""Cases of one training run that every framework's adapter must get right, and what each must show.

A framework has a module `<name>_cases.py` beside this one with `CASES`, functions by name. Each trains one
case to its end in the processes that `launch_all` started, and returns what this rank saw. Samples say which
one they are, so that every row is checked at the loss.
"""

import itertools
import os
import socket
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, multiprocessing
from torch.nn import functional as F

from dsenv.plan import DataPlan
from tests.plan.ranks import CLASSES, Row, Rows, labels_of, new_net, samples

EPOCHS, BATCH, RATE = 4, 16, 0.2
VOLUMES: dict[str, dict[str, Any]] = {
    "constant": {"selector": "infobatch", "ratio": 0.5},
    "pods": {"selector": "small_loss", "ratio": 0.5, "volume": "pods"},
    "rising": {"selector": "random", "ratio": 0.6, "volume": "linear"},
}
"""Settings of a plan by volume: epochs of one length, longest first, and shortest first."""
STOPS = ("none", "in 0", "last 0", "first 1", "in 2", "last 2", "first 3")
"""When the state is saved: never; in the middle, on the last step, after the first step of an epoch."""


class Case(NamedTuple):
    """One way of training the same run: `ranks` x `accumulate` batches make a step of 16 samples."""

    volume: str = "constant"
    ranks: int = 1
    accumulate: int = 1
    workers: int = 0
    stop: str = "none"

    def __str__(self) -> str:
        return f"{self.volume}, {self.ranks} x {self.accumulate}, {self.workers} workers, stop {self.stop}"


@dataclass
class Result:
    """What one rank of a case saw."""

    rows: list[Row] = field(default_factory=list)
    """Each batch whose loss was taken, before and after the stop."""
    parameters: Tensor = field(default_factory=lambda: torch.zeros(0))
    """All parameters of the model at the end, as one vector."""
    steps: int = 0
    """Steps of the optimiser, before and after the stop."""
    last_rate: float = 1.0
    """The learning rate after the last step; it falls from `RATE` to 0 as the plan's budget is spent."""
    validations: int = EPOCHS
    """Validations, one after each epoch."""
    progress: float = 1.0
    """`plan.progress` at the end."""


CaseFunction = Callable[[Path, Case], Result]
"""(an empty folder that the ranks share, the case) -> what this rank saw."""


def plan_settings(case: Case) -> dict[str, Any]:
    """Arguments of the `DataPlan` of a case, beside the data."""
    own = VOLUMES[case.volume]
    shared = {"epochs": EPOCHS, "batch_size": BATCH, "classes": CLASSES, "whole_steps": True}
    return {**shared, "accumulate": case.accumulate, **own}


def new_plan(case: Case, **settings: Any) -> DataPlan:
    """The plan of a case, over a map-style data set."""
    return DataPlan(Rows(), **{**plan_settings(case), **settings})


def stop_step(case: Case) -> int | None:
    """Steps of the optimiser after which the state is saved; None for never."""
    kind, _, epoch = case.stop.partition(" ")
    if kind == "none":
        return None
    steps = new_plan(case._replace(ranks=1), world=None).epoch_schedule.steps_in
    before = sum(steps(number) for number in range(int(epoch)))
    return before + {"in": steps(int(epoch)) // 2, "last": steps(int(epoch)), "first": 1}[kind]


def check_row(batch: Any) -> Row:
    """The row of a batch, whose content is that of its positions."""
    assert torch.equal(batch.inputs[:, 0].long(), batch.index)
    assert torch.equal(batch.labels, labels_of(batch.index))
    return Row(batch.epoch, batch.number, batch.index.tolist(), batch.weight.tolist())


def worker_settings(workers: int) -> dict[str, Any]:
    """Arguments of a DataLoader; workers are forked, since others take seconds to start."""
    return {"num_workers": workers, "multiprocessing_context": "fork" if workers else None}


def flat(net: torch.nn.Module) -> Tensor:
    """All parameters as one vector, a copy."""
    return torch.cat([parameter.detach().flatten() for parameter in net.parameters()]).clone()


def reference(case: Case) -> Result:
    """The same training run in one process, in a plain loop: same samples, same steps, no framework."""
    parts = case.ranks * case.accumulate
    plan = DataPlan(samples(), **{**plan_settings(case), "accumulate": parts, "world": None})
    net, found = new_net(), Result(validations=0)
    optimizer = torch.optim.SGD(net.parameters(), lr=RATE)
    scheduler = plan.lr_scheduler(optimizer, lambda progress: 1 - progress)
    for _ in plan.epochs_left():
        for number, batch in enumerate(plan.batches(), 1):
            found.rows.append(check_row(batch))
            logits = net(batch.inputs[:, 1:])
            losses = F.cross_entropy(logits, batch.labels, reduction="none")
            (plan.loss(batch, losses, logits=logits) / parts).backward()
            if number % parts == 0:
                optimizer.step()
                scheduler.step()
                optimizer.zero_grad()
                found.steps += 1
        found.validations += 1
    found.parameters, found.progress = flat(net), plan.progress
    found.last_rate = scheduler.get_last_lr()[0]
    return found


class Loop:
    """A training loop of a framework, for `run_loop`; `plan` and `found` are set by its `__init__(case)`."""

    plan: DataPlan
    found: Result

    def steps(self) -> Iterator[None]:
        """Train; yields after each step of the optimiser."""
        raise NotImplementedError

    def validate(self) -> None:
        """A validation after an epoch."""
        self.found.validations += 1

    def save(self, folder: Path) -> None:
        """Save everything needed to go on; every rank calls it."""
        raise NotImplementedError

    def load(self, folder: Path) -> None:
        """Load what `save` saved, into a loop that is new."""
        raise NotImplementedError

    def result(self) -> Result:
        """What was seen so far."""
        raise NotImplementedError


def run_loop(folder: Path, case: Case, kind: Callable[[Case], Loop]) -> Result:
    """Train a case to its end; at its stop the state is saved, and everything built anew goes on from it."""
    loop, stop = kind(case), stop_step(case)
    for _ in itertools.islice(loop.steps(), stop):
        pass
    if stop is None:
        return loop.result()

    loop.save(folder)
    if loop.plan.epoch_sampler.is_done:  # on an epoch's last step: the process ends after the validation
        loop.validate()
    before, after = loop.result(), kind(case)
    after.load(folder)
    for _ in after.steps():
        pass
    found = after.result()
    found.rows = before.rows + found.rows
    found.steps += before.steps
    found.validations += before.validations
    return found


# What must hold


def rows_of_epoch(results: Sequence[Result], epoch: int) -> list[tuple[int, float]]:
    """(position, weight) of everything that the ranks trained on in an epoch, sorted."""
    rows = (row for found in results for row in found.rows if row.epoch == epoch)
    return sorted((i, w) for row in rows for i, w in zip(row.index, row.weight, strict=True))


def check_result(results: Sequence[Result], expected: Result) -> None:
    """Check what the ranks of a case saw against the plain loop of one process.

    In every epoch the ranks together train on the samples that were chosen, each once and with its weight;
    steps, validations and the last rate are as planned, and the parameters equal.
    """
    for epoch in range(EPOCHS):
        own, theirs = rows_of_epoch(results, epoch), rows_of_epoch([expected], epoch)
        assert [i for i, _ in own] == [i for i, _ in theirs], f"epoch {epoch}"
        torch.testing.assert_close(
            torch.tensor([w for _, w in own]), torch.tensor([w for _, w in theirs]), rtol=1e-6, atol=0
        )
    for found in results:
        assert found.steps == expected.steps and found.progress == expected.progress == 1
        assert abs(found.last_rate) < 1e-9 and found.validations == expected.validations
        assert torch.equal(found.parameters, results[0].parameters)
        torch.testing.assert_close(found.parameters, expected.parameters, rtol=0, atol=1e-5)


def check_resumed(stopped: Sequence[Result], whole: Sequence[Result]) -> None:
    """Check that a run which was stopped and gone on with is the run that was not, bit for bit."""
    for one, other in zip(stopped, whole, strict=True):
        assert one.rows == other.rows and one.steps == other.steps
        assert torch.equal(one.parameters, other.parameters) and one.last_rate == other.last_rate
        assert one.validations == other.validations


# Launches


def launch_all(
    function: Callable[..., Any], folder: Path, calls: Iterable[Any], ranks: int = 1
) -> dict[Any, list[Any]]:
    """What `function(folder of the call, call)` returns on each rank, for several calls in one launch.

    Processes have the environment that torchrun gives; the group of ranks is the framework's to begin.
    """
    folder.mkdir(exist_ok=True, parents=True)
    calls = list(calls)
    arguments = (function, folder, calls, ranks, _free_port())
    multiprocessing.start_processes(_run, arguments, nprocs=ranks, start_method="spawn")
    found = [torch.load(folder / f"rank{rank}.pt", weights_only=False) for rank in range(ranks)]
    return {call: [each[number] for each in found] for number, call in enumerate(calls)}


def launch_until_death(
    function: Callable[..., Any], folder: Path, ranks: int, timeout: int = 120, call: Any = None
) -> list[Any]:
    """Exit codes of ranks that run `function(folder / "call0", call)`, of which one may end before others.

    A rank that is not done after `timeout` seconds is killed.
    """
    folder.mkdir(exist_ok=True, parents=True)
    arguments = (function, folder, [call], ranks, _free_port())
    started = multiprocessing.start_processes(_run, arguments, nprocs=ranks, start_method="spawn", join=False)
    end = time.monotonic() + timeout
    for process in started.processes:
        process.join(max(0.0, end - time.monotonic()))
        process.kill()
    return [process.exitcode for process in started.processes]


def _run(
    rank: int, function: Callable[..., Any], folder: Path, calls: Sequence[Any], ranks: int, port: int
) -> None:
    torch.set_num_threads(1)
    set_environment(rank, ranks, port)
    found = []
    try:
        for number, call in enumerate(calls):
            place = folder / f"call{number}"
            place.mkdir(exist_ok=True)
            found.append(function(place, call))
    except BaseException:
        traceback.print_exc()
        raise
    torch.save(found, folder / f"rank{rank}.pt")
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def set_environment(rank: int, ranks: int, port: int) -> None:
    """The environment that torchrun gives a process; of one process alone it is not set."""
    for name in [name for name in os.environ if name.startswith("ACCELERATE_")]:
        del os.environ[name]
    own = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks}
    own |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    for name, value in own.items():
        os.environ.pop(name, None)
        if ranks > 1:
            os.environ[name] = str(value)


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])
