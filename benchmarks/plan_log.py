"""What `plan.metrics()` and `plan.log_to(writer)` add to an epoch.

    OMP_NUM_THREADS=1 python benchmarks/plan_log.py [--json PATH]

A plan with InfoBatch trains for ten epochs on half of Fashion-MNIST's first 10,000 images, or of
scikit-learn's digits where it is not installed: bare, with `metrics()` after each epoch, and with a
`SummaryWriter` without pictures, with pictures every 5 epochs (the default) and after each epoch; all in turn
in every round. The clock runs while an epoch ends, which is when the log is written, and in `metrics()`; on a
CPU it counts the time of this process on it, the writer's thread included. "added" is the mean of an epoch
beyond the bare run's of the same round: median over the rounds and quartiles. To the plan all models are the
same: this one is linear. The share is that of an epoch of a small CNN (16, 32, 32 channels), whose
step is timed apart.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path

import common
import torch
from common import Spread
from overhead import BATCH, Clock, Setting, load
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.tensorboard import SummaryWriter

from dsenv import DataPlan

EPOCHS = 10
PICTURES = {"log, no pictures": 0, "log, pictures every 5 epochs": 5, "log, pictures after each epoch": 1}


def make_run(images: Tensor, labels: Tensor, name: str, folder: Path) -> Callable[[], float]:
    """A function that trains once; milliseconds an epoch inside the spans."""

    def run() -> float:
        model = nn.Sequential(nn.Flatten(), nn.Linear(images[0].numel(), 10)).to(images.device)
        optimizer = torch.optim.SGD(model.parameters(), 0.01)
        plan = DataPlan(
            (images, labels),
            epochs=EPOCHS,
            batch_size=BATCH,
            selector="infobatch",
            ratio=0.5,
            transform=lambda inputs: inputs / 255,
        )
        writer = SummaryWriter(tempfile.mkdtemp(dir=folder)) if name in PICTURES else None
        if writer is not None:
            plan.log_to(writer, PICTURES[name])

        clock, numbers = Clock(images.device), plan.epochs_left()
        while clock.timed(lambda: next(numbers, None)) is not None:  # ends the epoch before
            for batch in plan.batches():
                logits = model(batch.inputs)
                losses = F.cross_entropy(logits, batch.labels, reduction="none")
                loss = plan.loss(batch, losses, logits=logits)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            if name == "metrics":
                clock.timed(plan.metrics)
        if writer is not None:
            writer.close()
        return 1e3 * clock.total / EPOCHS

    return run


def main() -> None:
    """Print the table."""
    parser = common.parser(__doc__, repeats=7)
    parser.add_argument("--images", type=int, default=10_000, help="training images (default 10,000)")
    args = parser.parse_args()
    if args.quick:
        args.images, args.repeats = 512, 1
    device = common.choose_device(args.device)
    setting = Setting("small CNN", load(args.images), device, resnet=False)
    steps = len(setting.labels) / 2 / BATCH
    epoch = 1e3 * steps * setting.step_seconds(1 if args.quick else 5)

    names = ("bare", "metrics", *PICTURES)
    with tempfile.TemporaryDirectory() as folder:
        calls = {name: make_run(setting.images, setting.labels, name, Path(folder)) for name in names}
        rounds = [{name: call() for name, call in calls.items()} for _ in range(args.repeats + 1)][1:]

    rows = []
    for name in names[1:]:
        added = Spread.of([times[name] - times["bare"] for times in rounds])
        cells = [name, added.text(".1f"), f"{100 * added.median / epoch:.1f} %"]
        rows.append({"name": name, "added_ms": added._asdict(), "epoch_ms": epoch, "cells": cells})
    heads = ["", "added ms an epoch", f"of a small CNN's epoch of {epoch:,.0f} ms"]
    facts = common.facts(device, ("tensorboard", "matplotlib")) | {"images": len(setting.labels)}
    common.report(args, facts, heads, rows)


if __name__ == "__main__":
    main()
