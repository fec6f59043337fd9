"""Several ranks of one training run on a CPU, for the tests of plans in several processes."""

import copy
import itertools
import os
import socket
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, distributed, multiprocessing, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from dsenv.plan import DataPlan, IndexedCollate

SIZE, CLASSES = 100, 4


def launch(
    function: Callable[..., Any], folder: Path, *arguments: Any, ranks: int = 2, timeout: int = 60
) -> list[Any]:
    """What `function(folder, *arguments)` returns on each rank of a gloo group; errors are raised."""
    folder.mkdir(exist_ok=True)
    multiprocessing.start_processes(
        _run, (function, str(folder), arguments, ranks, timeout), nprocs=ranks, start_method="spawn"
    )
    return [torch.load(folder / f"rank{rank}.pt", weights_only=False) for rank in range(ranks)]


def _run(
    rank: int, function: Callable[..., Any], folder: str, arguments: tuple[Any, ...], ranks: int, timeout: int
) -> None:
    torch.set_num_threads(1)
    os.environ.pop("WORLD_SIZE", None)
    begin_group(Path(folder) / "store", rank, ranks, timeout)
    try:
        torch.save(function(Path(folder), *arguments), Path(folder) / f"rank{rank}.pt")
    except BaseException:
        traceback.print_exc()
        raise
    distributed.destroy_process_group()


def begin_group(store: Path, rank: int, ranks: int, timeout: int = 60) -> None:
    where = f"file://{store}"
    wait = timedelta(seconds=timeout)
    distributed.init_process_group("gloo", init_method=where, rank=rank, world_size=ranks, timeout=wait)


def script_said(script: Path, folder: Path, ranks: int = 2, **told: str) -> list[str]:
    """What a script printed in each of several processes, started as torchrun does; none may fail."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    root = str(Path(__file__).resolve().parents[2])
    own = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(ranks), "OMP_NUM_THREADS": "1"}
    started = [
        subprocess.Popen(
            [sys.executable, str(script)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=folder,
            env={**os.environ, **own, **told, "PYTHONPATH": root, "RANK": str(n), "LOCAL_RANK": str(n)},
        )
        for n in range(ranks)
    ]
    said = []
    for process in started:
        out, error = process.communicate(timeout=240)
        assert process.returncode == 0, error
        said.append(out)
    return said


# A training run whose samples say which one they are


def samples(size: int = SIZE) -> tuple[Tensor, Tensor]:
    """Inputs (N, 8), the first of which is the position, and labels (N,) with some of them wrong."""
    stream, position = torch.Generator().manual_seed(0), torch.arange(size)
    inputs = torch.randn(size, 8, generator=stream) + 2 * F.one_hot(position % CLASSES, 8)
    inputs[:, 0] = position
    return inputs, labels_of(position)


def labels_of(position: Tensor) -> Tensor:
    """Labels of samples; those of every seventh are wrong."""
    return (position + (position % 7 == 0)) % CLASSES


class Rows:
    """The same samples as a map-style data set."""

    def __init__(self) -> None:
        self.inputs, self.labels = samples()

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.inputs[index], self.labels[index]


class Row(NamedTuple):
    """What a batch held when its loss was taken."""

    epoch: int
    number: int
    index: list[int]
    weight: list[float]


def new_net() -> nn.Linear:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return nn.Linear(7, CLASSES)


class Run:
    """A loop as a user writes it; gradients are averaged over the ranks as DDP does.

    Plain gradient descent: DDP and torch's optimisers import its compiler, which takes seconds a process.
    """

    def __init__(self, plan: DataPlan) -> None:
        self.plan, self.net = plan, new_net()
        self.rows: list[Row] = []
        self.steps = 0

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        return self.net(inputs[:, 1:]), inputs[:, 1:]

    def take(self, batch: Any) -> None:
        """One batch; a step after as many as the plan accumulates."""
        assert torch.equal(batch.inputs[:, 0].long(), batch.index)
        assert torch.equal(batch.labels, labels_of(batch.index))
        logits, features = self.forward(batch.inputs)
        losses = F.cross_entropy(logits, batch.labels, reduction="none")
        (self.plan.loss(batch, losses, logits=logits, features=features) / self.plan.accumulate).backward()
        self.rows.append(Row(batch.epoch, batch.number, batch.index.tolist(), batch.weight.tolist()))
        if len(self.rows) % self.plan.accumulate == 0:
            self.step()

    def step(self) -> None:
        size = self.plan.world.size
        with torch.no_grad():
            for parameter in self.net.parameters():
                assert parameter.grad is not None
                if size > 1:
                    distributed.all_reduce(parameter.grad)
                parameter -= 0.2 * parameter.grad / size
                parameter.grad = None
        self.steps += 1

    def epochs(self, loader: Any = None) -> Iterator[None]:
        """Train epoch by epoch; yields after each batch."""
        for _ in self.plan.epochs_left():
            if self.plan.selector.needs_pass and not self.plan.epoch_sampler.scoring_passes:
                self.plan.score(self.forward)
            for batch in loader or self.plan.batches():
                self.take(batch)
                yield

    def stream(self, ahead: int, workers: int) -> Iterator[None]:
        """Train from one stream of all epochs, of which some batches are fetched ahead."""
        sampler = self.plan.new_sampler(stream=True)
        loader = DataLoader(
            self.plan.dataset,
            self.plan.micro_batch_size,
            sampler=sampler,
            num_workers=workers,
            multiprocessing_context="fork" if workers else None,
            collate_fn=IndexedCollate(),
            generator=torch.Generator(),
        )
        raw = iter(loader)
        waiting = list(itertools.islice(raw, ahead))
        while waiting := [*waiting, *itertools.islice(raw, 1)]:
            self.take(self.plan.batch(*waiting.pop(0)))
            yield

    def state_dict(self) -> dict[str, Any]:
        return {"plan": self.plan.state_dict(), "net": copy.deepcopy(self.net.state_dict())}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.plan.load_state_dict(state["plan"])
        self.net.load_state_dict(state["net"])

    def outcome(self) -> dict[str, Any]:
        parameters = torch.cat([parameter.detach().flatten() for parameter in self.net.parameters()])
        plan = self.plan
        return {
            "rows": self.rows,
            "parameters": parameters,
            "steps": self.steps,
            "signals": plan.signals.state_dict(),
            "trained": plan.cost.trained,
            "progress": plan.progress,
        }


def train(steps: Iterator[None], stop: int | None = None) -> None:
    """Go through some of a run's batches, or all."""
    for _ in itertools.islice(steps, stop):
        pass
