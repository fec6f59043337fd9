"""A plan of ImageNet's size with the parts of each method: memory, and seconds a step and an epoch.

    OMP_NUM_THREADS=1 python benchmarks/reproduce_scale.py --json benchmarks/results/reproduce_scale.json

N = 1,281,167 samples of 1,000 classes, batches of 256, half of the data. There is no model: losses, logits
(256, 1000) and features (256, 2048) are generated, so that what is measured is the plan alone. Each row is a
process of its own. "state" is that of the plan with signals, selector and controller, "resident" by how much
the process grows at most from before the plan to after three selections, both by the sample. Selection and
step are processor time of one thread, the median of three epochs' first batches and of the next steps.
Moderate needs a pass over the data, whose logits and features are held for all samples until it is over: 4 kB
and, with 2,048 features, 8 kB a sample. Its row has a tenth of the samples and 64 features. SADA's estimator
"kl" keeps a prediction of 1,000 classes in half precision for each sample, "loss" one number.
"""

import json
import resource
import statistics
import subprocess
import sys
import time
from typing import Any

import common
import torch
from kinds import state_bytes
from reproduce_rows import AGENT, pods
from reproduce_runs import filled
from torch import Tensor

from dsenv import DataPlan

SIZE, CLASSES, BATCH, FEATURES, EPOCHS = 1_281_167, 1000, 256, 2048, 90
QUICK = (2000, 10, 64, 16, 4)
STEPS = 30  # of each of three epochs, after its first one
PASSED = 64  # features of a scoring pass
HALF = {"ratio": 0.5}
PARTS: dict[str, dict[str, Any]] = {
    "random": {"selector": "random", **HALF},
    "PODS on random": {"selector": "random", "volume": pods(), **HALF},
    "InfoBatch": {"selector": "infobatch", **HALF},
    "PODS on InfoBatch": {"selector": "infobatch", "volume": pods(), **HALF},
    "UCB": {"selector": "ucb", **HALF},
    "PODS on UCB": {"selector": "ucb", "volume": pods(), **HALF},
    "epsilon-greedy": {"selector": "epsilon_greedy", **HALF},
    "Moderate, N / 10": {"selector": "moderate", "uniform_epochs": 1, **HALF},
    "Data Agent": {"selector": AGENT, **HALF},
    "PODS on Data Agent": {"selector": AGENT, "volume": pods(), **HALF},
    "SADA, kl": {"augment": {"name": "sada", "estimator": "kl", "warm_up": 1}},
    "SADA, loss": {"augment": {"name": "sada", "estimator": "loss", "warm_up": 1}},
    "EntAugment": {"augment": {"name": "ent_augment", "warm_up": 1}},
}


def resident() -> float:
    """Largest resident memory of this process so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1024 if sys.platform != "darwin" else 1)


def pass_over(plan: DataPlan, classes: int) -> None:
    """The scoring pass of a selector that needs one, with generated outputs."""

    def forward(inputs: Tensor) -> tuple[Tensor, Tensor]:
        return torch.rand(len(inputs), classes), torch.rand(len(inputs), PASSED)

    if plan.selector.needs_pass:
        plan.score(forward, batch_size=4096)


def measure(name: str, quick: bool) -> dict[str, float]:
    """Figures of one row, in this process."""
    size, classes, batch_size, width, epochs = QUICK if quick else (SIZE, CLASSES, BATCH, FEATURES, EPOCHS)
    size = size // 10 if name.endswith("N / 10") else size
    torch.set_num_threads(1)
    draw = torch.Generator().manual_seed(0)
    images = torch.zeros(size, 1, 2, 2, dtype=torch.uint8)
    labels = torch.randint(classes, (size,), generator=draw)
    logits = torch.randn(batch_size, classes, generator=draw)
    features = torch.rand(batch_size, width, generator=draw)
    before = resident()
    plan = DataPlan(
        (images, labels), epochs=epochs, batch_size=batch_size, classes=classes, **filled(PARTS[name], epochs)
    )
    selections, steps = [], []
    for epoch in range(3):
        plan.start_epoch(epoch)
        if epoch == 1:
            pass_over(plan, classes)
        start = time.process_time()
        for number, batch in enumerate(plan.batches()):
            count = len(batch.index)
            losses = torch.rand(count, generator=draw)
            plan.loss(batch, losses, logits=logits[:count], features=features[:count])
            now = time.process_time()
            (steps if number else selections).append(now - start)
            start = now
            if number == STEPS:
                break
    grown = resident() - before
    return {
        "state_bytes": state_bytes(plan.state_dict()) / size,
        "resident_bytes": grown / size,
        "selection_seconds": statistics.median(selections),
        "step_seconds": statistics.median(steps),
    }


def main() -> None:
    """Print the table."""
    parser = common.parser(__doc__, repeats=1)
    parser.add_argument("--one", choices=list(PARTS), help="measure one row in this process, as JSON")
    parser.add_argument("--only", nargs="+", choices=list(PARTS), help="only these rows")
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measure(args.one, args.quick)))
        return

    rows = []
    for name in args.only or PARTS:
        command = [sys.executable, "-W", "ignore", __file__, "--one", name, *["--quick"] * args.quick]
        found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        cells = [
            name,
            f"{found['state_bytes']:,.0f} B",
            f"{found['state_bytes'] * SIZE / 2**20:,.0f} MiB",
            f"{found['resident_bytes']:,.0f} B",
            f"{found['selection_seconds']:.2f} s",
            f"{1000 * found['step_seconds']:.2f} ms",
        ]
        rows.append({"name": name, **found, "cells": cells})
    heads = ["parts", "state a sample", "state of N", "resident a sample", "selection", "step"]
    common.report(args, common.facts(common.choose_device("cpu")), heads, rows)


if __name__ == "__main__":
    main()
