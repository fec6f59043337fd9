"""Kills training runs of plans at random moments, resumes them, and compares with runs that were left alone.

    OMP_NUM_THREADS=1 python benchmarks/plan_kills.py [--kills 100] [--seconds 600] [--seed 0] [--json PATH]

A child trains a small model by `plan.loader(num_workers=2)`, and every few steps writes model, optimizer
and plan into one file: written beside it, synchronised, renamed. It is killed by SIGKILL while it trains,
fetches or writes, and another child goes on from the file, until one reaches the end. Then parameters, the
optimizer's and the plan's state, and the list of all samples that were trained on, step by step, must be
equal, bit for bit, to those of a run that nobody killed. Selectors take turns. Children are forked from this
process, which has imported everything and started no thread.

The exit status is 1 where a run differs, a child fails, or there were fewer kills than asked for.
"""

import argparse
import json
import os
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset

from dsenv import DataPlan

SELECTORS = ("infobatch", "random", "ucb", "data_agent", {"name": "ranked", "by": "margin"}, "el2n")
SIZE, CLASSES, WIDTH = 64, 4, 8
WORKERS = 2
SLOWEST = 60  # seconds after which a child that was not killed counts as hung


class Samples(Dataset[Any]):
    """Samples that a loader has to fetch one by one."""

    def __init__(self, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.inputs = torch.randn(SIZE, WIDTH, generator=generator)
        self.labels = torch.randint(CLASSES, (SIZE,), generator=generator)

    def __len__(self) -> int:
        return SIZE

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.inputs[index], self.labels[index]


@dataclass
class Found:
    """What came of all runs."""

    kills: int = 0
    """Children that were killed while they trained."""
    kills_before_a_state: int = 0
    """Those of them that left nothing to go on from."""
    runs: int = 0
    """Runs that came to their end, each after some kills."""
    equal: int = 0
    """Those of them that equal the run which nobody killed."""
    differing: list[str] = field(default_factory=list)


def features_first(seed: int) -> nn.ModuleList:
    torch.manual_seed(seed)
    return nn.ModuleList([nn.Linear(WIDTH, 8), nn.Linear(8, CLASSES)])


def train(folder: Path, seed: int, every: int, workers: int = WORKERS) -> None:
    """Train to the end, from `folder/state.pt` on where it exists; the end is written to `folder/end.pt`."""
    model = features_first(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    plan = DataPlan(
        Samples(seed),
        epochs=6,
        batch_size=5,
        selector=SELECTORS[seed % len(SELECTORS)],
        ratio=0.6,
        classes=CLASSES,
        seed=seed,
    )
    trained: list[list[int]] = []
    if (folder / "state.pt").exists():
        state = torch.load(folder / "state.pt", weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        plan.load_state_dict(state["plan"])
        trained = state["trained"]

    loader = plan.loader(num_workers=workers, persistent_workers=workers > 0)
    for _ in plan.epochs_left():
        for batch in loader:
            features = torch.relu(model[0](batch.inputs))
            logits = model[1](features)
            losses = F.cross_entropy(logits, batch.labels, reduction="none")
            loss = plan.loss(batch, losses, logits=logits, features=features)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

            trained.append(batch.index.tolist())
            if len(trained) % every == 0:
                _write(folder / "state.pt", _whole(model, optimizer, plan, trained))
    _write(folder / "end.pt", _whole(model, optimizer, plan, trained))


def _whole(
    model: nn.Module, optimizer: torch.optim.Optimizer, plan: DataPlan, trained: Any
) -> dict[str, Any]:
    return {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "plan": plan.state_dict(),
        "trained": trained,
    }


def _write(path: Path, state: Mapping[str, Any]) -> None:
    """Write a file whole or not at all."""
    beside = path.with_suffix(".new")
    with beside.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)


# Children


def fork(folder: Path, seed: int, every: int) -> int:
    """Start a child that trains, in a process group of its own; its number."""
    child = os.fork()
    if child:
        return child

    status = 1
    try:
        os.setpgid(0, 0)
        warnings.simplefilter("ignore")
        train(folder, seed, every)
        status = 0
    except BaseException:  # noqa: BLE001  # a child must never go on in the parent's code
        traceback.print_exc()
    finally:
        os._exit(status)


def wait(child: int, seconds: float) -> int | None:
    """The child's status once it has ended; None where it runs on for that long."""
    end = time.monotonic() + seconds
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return status
        if time.monotonic() >= end:
            return None
        time.sleep(0.001)


def kill(child: int) -> bool:
    """Kill a child, and then the workers that it leaves behind; whether it was still running."""
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(child, signal.SIGKILL)
    return os.WIFSIGNALED(status)


def alone(folder: Path, seed: int, every: int) -> float:
    """A run that nobody kills; its seconds.

    Raises:
        RuntimeError: it failed, or hung.
    """
    start = time.monotonic()
    status = wait(child := fork(folder, seed, every), SLOWEST)
    if status != 0:
        kill(child) if status is None else None
        raise RuntimeError(f"the run of seed {seed} ended with status {status}")
    return time.monotonic() - start


def killed(folder: Path, seed: int, every: int, usual: float, rng: np.random.Generator, found: Found) -> None:
    """A run that is killed at random moments until a child reaches its end.

    Raises:
        RuntimeError: a child failed.
    """
    while True:
        child = fork(folder, seed, every)
        span = (0.0, 1.1) if rng.random() < 0.3 else (0.35, 1.0)  # most of them after the workers' start
        status = wait(child, usual * float(rng.uniform(*span)))
        if status is None and kill(child):
            found.kills += 1
            found.kills_before_a_state += not (folder / "state.pt").exists()
        elif (folder / "end.pt").exists():
            return
        elif status:
            raise RuntimeError(f"a resumed run of seed {seed} ended with status {status}")


# Comparing


def difference(one: Any, other: Any, where: str = "") -> str:
    """The first place where two states differ; empty where they are equal bit for bit."""
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        same = one.dtype == other.dtype and one.shape == other.shape
        return "" if same and _bytes(one) == _bytes(other) else where
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        keys = {**one, **other}
        return next(filter(None, (difference(one.get(k), other.get(k), f"{where}.{k}") for k in keys)), "")
    if isinstance(one, list | tuple) and isinstance(other, list | tuple) and len(one) == len(other):
        pairs = enumerate(zip(one, other, strict=True))
        return next(filter(None, (difference(a, b, f"{where}[{i}]") for i, (a, b) in pairs)), "")
    return "" if type(one) is type(other) and one == other else where or "the whole"


def _bytes(tensor: Tensor) -> bytes:
    return (
        tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        if tensor.numel()
        else b""
    )


def end_of(folder: Path) -> Any:
    """The end of a run, without the times that it took."""
    state = torch.load(folder / "end.pt", weights_only=True)
    state["plan"]["feedback"]["cost"].pop("seconds")
    return state


def run(kills: int, seconds: float, seed: int) -> Found:
    """Runs with kills, until there were enough kills or the time is over."""
    with tempfile.TemporaryDirectory() as folder:  # what is imported on the way is there for every child
        for again in range(2):
            train(Path(folder), seed + again, 1, workers=0)
            (Path(folder) / "state.pt").unlink()

    rng, found, end = np.random.default_rng(seed), Found(), time.monotonic() + seconds
    number = 0
    while found.kills < kills and time.monotonic() < end:
        number += 1
        every = int(rng.integers(1, 4))
        with tempfile.TemporaryDirectory() as first, tempfile.TemporaryDirectory() as second:
            usual = alone(Path(first), seed + number, every)
            killed(Path(second), seed + number, every, usual, rng, found)
            differs = difference(end_of(Path(first)), end_of(Path(second)))
        found.runs += 1
        found.equal += not differs
        found.differing += [f"seed {seed + number}: {differs}"] if differs else []
        print(f"{found.kills} kills, {found.runs} runs, {found.equal} equal", file=sys.stderr)
    return found


def main(arguments: list[str] | None = None) -> int:
    """Run from the command line; the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, metavar="PATH")
    given = parser.parse_args(arguments)

    torch.set_num_threads(1)
    start = time.monotonic()
    found = run(given.kills, given.seconds, given.seed)
    facts = {"seed": given.seed, "seconds": round(time.monotonic() - start, 1), "torch": torch.__version__}
    print({**facts, **asdict(found)})
    if given.json:
        given.json.write_text(json.dumps({**facts, "workers": WORKERS, **asdict(found)}, indent=1) + "\n")
    return 0 if found.equal == found.runs and found.kills >= given.kills else 1


if __name__ == "__main__":
    sys.exit(main())
