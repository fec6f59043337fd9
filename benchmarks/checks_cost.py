"""What the checks of a plan cost: its own processor time a step, before and after, in one run.

    OMP_NUM_THREADS=1 python benchmarks/checks_cost.py --before PATH [--rounds 7] [--json PATH]

PATH is a checkout of dsenv at an earlier commit (`git worktree add PATH COMMIT`). In every round both
versions run in a process of their own, in turn, the first one changing from round to round. Each trains a
linear model by a plan, and the clock counts the processor time of this process while a batch is made, while
its loss is taken in and while an epoch ends. The ratio of a round is after / before; given are its median and
its range.

Rows: tensors in memory, a map-style data set through a loader (positions and labels are looked at there), a
loader of the user's own with `plan.sampler`, and selectors that learn from every batch.
"""

import argparse
import json
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import common
import torch
from common import Spread
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader

from dsenv import DataPlan

SIZE, FEATURES, CLASSES, BATCH, EPOCHS = 12_800, 64, 10, 128, 3
ROWS: dict[str, dict[str, Any]] = {
    "tensors, random": {},
    "tensors, infobatch": {"selector": "infobatch"},
    "tensors, ucb": {"selector": "ucb"},
    "tensors, data_agent": {"selector": "data_agent"},
    "tensors, curriculum policy": {"policy": "curriculum"},
    "plan.loader, random": {"source": "loader"},
    "own DataLoader, random": {"source": "own"},
}


class Rows(torch.utils.data.Dataset[Any]):
    """A map-style data set of the same samples; whole batches are fetched at once."""

    classes = tuple(map(str, range(CLASSES)))

    def __init__(self, inputs: Tensor, labels: Tensor) -> None:
        self.inputs, self.labels = inputs, labels.tolist()

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.inputs[index], self.labels[index]


class Clock:
    """Processor time of some calls, added up."""

    total = 0.0

    def timed(self, call: Any, *arguments: Any, **settings: Any) -> Any:
        """The result of a call."""
        start = time.process_time()
        try:
            return call(*arguments, **settings)
        finally:
            self.total += time.process_time() - start


def batches(plan: DataPlan, source: str) -> Iterator[Any]:
    """The batches of an epoch; what a DataLoader of the user's own does is not the plan's."""
    if source == "tensors":
        return iter(plan.batches())
    if source == "loader":
        return iter(plan.loader())
    return iter(DataLoader(plan.dataset, BATCH, sampler=plan.sampler))


def own_time(source: str = "tensors", **settings: Any) -> float:
    """Milliseconds of the plan's own processor time a step."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(SIZE, FEATURES, generator=generator)
    labels = torch.randint(CLASSES, (SIZE,), generator=generator)
    data = (inputs, labels) if source == "tensors" else Rows(inputs, labels)
    clock, steps = Clock(), 0
    plan = DataPlan(data, epochs=EPOCHS, batch_size=BATCH, ratio=0.5, **settings)
    weight = torch.zeros(FEATURES, CLASSES, requires_grad=True)

    for _ in range(EPOCHS):
        found = clock.timed(batches, plan, source)
        while (batch := clock.timed(next, found, None)) is not None:
            if source == "own":
                batch = clock.timed(plan.batch, *batch)
            logits = batch.inputs @ weight
            losses = F.cross_entropy(logits, batch.labels, reduction="none")
            loss = clock.timed(plan.loss, batch, losses, logits=logits, features=batch.inputs)
            (gradient,) = torch.autograd.grad(loss, weight)
            weight.data -= 0.1 * gradient
            steps += 1
        clock.timed(plan.start_epoch, plan.epoch + 1)
    return 1000 * clock.total / steps


def measure() -> dict[str, float]:
    """Milliseconds a step of every row, in this process."""
    warnings.simplefilter("ignore")
    own_time()  # imports and first allocations
    return {name: own_time(**settings) for name, settings in ROWS.items()}


def in_process(folder: Path) -> dict[str, float]:
    """The same with the dsenv of a checkout, in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, __file__, "--measure"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def main() -> None:
    """Run the rounds and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--before", type=Path, help="checkout of the earlier version")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--measure", action="store_true", help="measure this version and print JSON")
    parser.add_argument("--json", type=Path, help="file for the rows")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.measure:
        sys.stdout.write(json.dumps(measure()))
        return
    if args.before is None:
        parser.error("--before needs a checkout of the earlier version")

    # Both versions in turn, the first one changing
    folders = {"before": args.before.resolve(), "after": Path(__file__).resolve().parents[1]}
    found: dict[str, list[dict[str, float]]] = {"before": [], "after": []}
    for number in range(args.rounds):
        for name in ("before", "after") if number % 2 == 0 else ("after", "before"):
            found[name].append(in_process(folders[name]))

    sys.stdout.write("| row | before, ms a step | after, ms a step | after / before |\n|---|---|---|---|\n")
    rows = []
    for row in ROWS:
        pair = {name: [times[row] for times in rounds] for name, rounds in found.items()}
        ratios = [after / before for before, after in zip(pair["before"], pair["after"], strict=True)]
        spreads = [Spread.of(values) for values in (pair["before"], pair["after"], ratios)]
        before, after, ratio = (spread.median for spread in spreads)
        sys.stdout.write(
            f"| {row} | {before:.3f} | {after:.3f} | {ratio:.3f} ({min(ratios):.3f} to {max(ratios):.3f}) |\n"
        )
        rows.append({"row": row, **pair, "ratios": ratios, "median": ratio})
    if args.json:
        facts = common.facts(torch.device("cpu"))
        args.json.write_text(
            json.dumps({"command": " ".join(sys.argv), "facts": facts, "rows": rows}, indent=1)
        )


if __name__ == "__main__":
    main()
