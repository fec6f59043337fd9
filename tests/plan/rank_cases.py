"""What each of two ranks does in the tests of plans in several processes, which compare what they return."""

import itertools
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed
from torch.nn import functional as F
from torch.utils.data import DataLoader, default_collate

import dsenv
from dsenv.plan import DataPlan, IndexedCollate
from tests.plan.ranks import Row, Rows, Run, samples, train

USUAL: dict[str, Any] = {"epochs": 4, "batch_size": 16}
FORK = {"num_workers": 2, "multiprocessing_context": "fork"}
RUNS: dict[str, tuple[dict[str, Any], dict[str, Any] | None]] = {
    "constant": ({"selector": "infobatch", "ratio": 0.5}, None),
    "pods": ({"selector": "small_loss", "ratio": 0.5, "volume": "pods"}, FORK),
    "rising": ({"selector": "random", "ratio": 0.6, "volume": "linear"}, {}),
    "own count": ({"selector": "infobatch"}, None),
    "data agent": ({"selector": "data_agent", "ratio": 0.5}, None),
    "margins": ({"selector": {"name": "small_loss"}, "ratio": 0.5, "accumulate": 2}, None),
    "pass": ({"selector": "herding", "ratio": 0.5, "uniform_epochs": 1}, None),
    "policy": ({"policy": "curriculum", "ratio": 0.5, "epochs": 4}, None),
    "guard": ({"selector": "ucb", "ratio": 0.5, "epochs": 8, "guard": dsenv.Guard(share=0.1)}, None),
}
"""Settings of a plan, and of its loader; None for resident tensors."""


def new_run(name: str, **settings: Any) -> Run:
    size = 480 if name in ("guard", "policy") else 100
    data = samples(size) if RUNS[name][1] is None else Rows()
    return Run(DataPlan(data, classes=4, **{**USUAL, **RUNS[name][0], **settings}))


def through(run: Run, name: str, stop: int | None = None) -> dict[str, Any]:
    """The outcome of a run, of some batches or of all."""
    loader = RUNS[name][1]
    train(run.epochs(None if loader is None else run.plan.loader(**loader)), stop)
    return run.outcome()


def all_runs(folder: Path) -> dict[str, Any]:
    """Every kind of selector and volume; each rank's rows, and what it ended with."""
    found: dict[str, Any] = {name: through(new_run(name), name) for name in RUNS}
    found["gathers"] = gathers()
    found["images"] = augmented()
    found["refused"] = refused()
    found["left out"] = left_out()
    found["streams"] = {ahead: stream("pods", *ahead) for ahead in ((0, 0), (3, 0), (2, 2))}
    found["dealt"] = dealt()
    found["resumed"] = [
        resumed(folder, name, stop, how)
        for name, how, stops in (
            ("constant", "epochs", (2, 6, 7, 9)),
            ("pods", "stream", (1, 6, 8)),
            ("margins", "epochs", (4,)),
        )
        for stop in stops
    ]
    return found


def stream(name: str, ahead: int, workers: int) -> dict[str, Any]:
    run = new_run(name)
    train(run.stream(ahead, workers))
    return run.outcome()


def saved_by_one(folder: Path, state: dict[str, Any]) -> dict[str, Any]:
    """A state that the first rank writes and all read."""
    if distributed.get_rank() == 0:
        torch.save(state, folder / "state.pt")
    distributed.barrier()
    found: dict[str, Any] = torch.load(folder / "state.pt", weights_only=True)
    distributed.barrier()
    return found


def resumed(folder: Path, name: str, stop: int, how: str) -> dict[str, Any]:
    """A run stopped after some batches and gone on with, beside the one that was not stopped."""

    def steps(run: Run) -> Iterator[None]:
        return run.stream(2, 0) if how == "stream" else run.epochs()

    whole, other = new_run(name), new_run(name)
    coming = steps(whole)
    train(coming, stop)
    state = saved_by_one(folder, whole.state_dict())
    own = whole.plan.state_dict()

    other.load_state_dict(state)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train(steps(other))
        train(coming)
    return {
        "what": (name, how, stop),
        "late": len(state["plan"]["epoch_sampler"]["late"]),
        "rows": [whole.rows[stop:], other.rows],
        "parameters": [whole.outcome()["parameters"], other.outcome()["parameters"]],
        "signals": [whole.outcome()["signals"], other.outcome()["signals"]],
        "state": own,
    }


def dealt() -> dict[str, Any]:
    """As with Accelerate: the framework deals out all batches, fetches one ahead, and skips on resume."""
    rank, ranks = distributed.get_rank(), distributed.get_world_size()

    def run_epochs(run: Run, skip: int = 0) -> Iterator[None]:
        plan = run.plan
        sampler = plan.new_sampler("global", resume="framework" if skip else "plan")
        loader = DataLoader(plan.dataset, plan.micro_batch_size, sampler=sampler, generator=torch.Generator())
        for _ in plan.epochs_left():
            own = itertools.islice(loader, rank, None, ranks)
            waiting = next(own, None)
            for following in itertools.chain(own, [None]):
                batch, waiting = waiting, following
                if skip:
                    skip -= 1
                    continue
                run.take(plan.batch(*batch))  # type: ignore[misc]
                yield

    whole = new_run("pods")
    coming = run_epochs(whole)
    train(coming, 8)
    other = new_run("pods")
    other.load_state_dict(whole.state_dict())
    trained = len([row for row in whole.rows if row.epoch == whole.plan.epoch])
    train(coming)
    train(run_epochs(other, skip=trained))
    return {"whole": whole.outcome(), "rest": other.outcome()}


def left_out() -> dict[str, Any]:
    """A collate function of rank 1 leaves one sample out of its batches; nobody hangs."""
    is_one = distributed.get_rank() == 1

    def collate(items: list[Any]) -> Any:
        return default_collate(items[1:] if is_one else items)

    run = new_run("rising", epochs=2)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        train(run.epochs(run.plan.loader(collate_fn=collate)))
    said = [str(warning.message) for warning in caught if "left out" in str(warning.message)]
    return {**run.outcome(), "said": said}


def gathers() -> dict[str, Any]:
    """Tensors of uneven lengths and of every type, each by itself."""
    world = DataPlan(samples(), **USUAL).world
    rank = world.rank
    number = 3 * (1 - rank)
    rows = {
        "index": torch.arange(number) + (1 << 40),
        "half": torch.full((number, 2), 0.5, dtype=torch.bfloat16),
        "flag": torch.ones(number, dtype=torch.bool),
    }
    first, told = world.gather("a try", rows if number else {}, {"rank": rank})
    uneven, _ = world.gather("another", {"index": torch.arange(2 + 5 * rank) + 100 * rank})
    return {"first": first, "told": told, "uneven": uneven["index"]}


def augmented() -> dict[str, Any]:
    """Images under a controller that learns batch by batch: what it remembers, and the augmented images."""
    images = torch.rand(64, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    labels = torch.arange(64) % 4
    plan = DataPlan((images, labels), epochs=2, batch_size=16, augment="sada", seed=2)
    seen: list[Tensor] = []
    for _ in plan.epochs_left():
        for batch in plan.batches():
            logits = batch.inputs.flatten(1)[:, :4] * 3
            plan.loss(batch, F.cross_entropy(logits, batch.labels, reduction="none"), logits=logits)
            seen.append(batch.inputs)
    assert plan.controller is not None
    return {
        "memory": plan.controller.state_dict(),
        "images": torch.cat(seen),
        "signals": plan.signals.state_dict(),
    }


def refused() -> dict[str, str]:
    """What is said to a user whose ranks cannot train together."""
    rank = distributed.get_rank()

    def with_global_sampler() -> None:
        plan = new_run("rising").plan
        loader = DataLoader(
            plan.dataset,
            plan.micro_batch_size,
            sampler=plan.new_sampler("global"),
            collate_fn=IndexedCollate(),
            generator=torch.Generator(),
        )
        batches = [plan.batch(*raw) for raw in loader]
        raise AssertionError(len(batches))

    def dealt_twice() -> None:
        plan = new_run("rising").plan
        if rank == 0:
            raise ValueError("only the other ranks notice")
        plan.epoch_sampler.record.is_agreed = True
        loader = DataLoader(
            plan.dataset, plan.micro_batch_size, sampler=plan.sampler, generator=torch.Generator()
        )
        plan.batch(*next(itertools.islice(loader, rank, None)))

    tries: dict[str, Callable[[], Any]] = {
        "seed": lambda: next(iter(new_run("constant", seed=rank).plan.batches())),
        "order": lambda: next(
            iter(DataPlan((torch.rand(64, 2), (torch.arange(64) + rank) % 4), **USUAL).batches())
        ),
        "size": lambda: new_run("constant", batch_size=15).plan.total_steps,
        "few": lambda: new_run("constant", batch_size=128).plan.total_steps,
        "global": with_global_sampler,
        "twice": dealt_twice,
        "told": lambda: next(iter(new_run("constant", world=(0, 2)).plan.batches())) if rank else _raise(),
        "places": lambda: DataPlan(samples(), **USUAL).world.tell(f"call {rank}", 0),
    }
    found = {}
    for name, make in tries.items():
        try:
            make()
            found[name] = "nothing"
        except (ValueError, RuntimeError) as error:
            found[name] = str(error)
    return found


def _raise() -> None:
    raise ValueError("only the other ranks are told wrong")


def rows_of(found: dict[str, Any], epoch: int) -> list[int]:
    """Positions that one rank trained on in an epoch."""
    rows: list[Row] = found["rows"]
    return [position for row in rows if row.epoch == epoch for position in row.index]
