"""What `plan.metrics()` and `plan.log_to(writer)` add to a training run.

    OMP_NUM_THREADS=1 python benchmarks/plan_log.py [--json PATH]

A small CNN (16, 32, 32 channels) trains for ten epochs on half of Fashion-MNIST's first 10,000 images, or of
scikit-learn's digits where it is not installed, by a plan with InfoBatch: bare, with `metrics()` after each
epoch, and with a `SummaryWriter` without pictures, with pictures every 5 epochs (the default) and after each
epoch. All in turn in every round. On a CPU the clock counts the time of this process on it, the writer's
thread included. "added" is the time beyond the bare run's of the same round, by epoch: median and quartiles.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path

import common
import torch
from common import Spread
from overhead import load
from torch.nn import functional as F
from torch.utils.tensorboard import SummaryWriter

from dsenv import DataPlan
from dsenv.tasks.models import small_cnn
from dsenv.tasks.task import seeded_model

EPOCHS, BATCH = 10, 128
PICTURES = {"log, no pictures": 0, "log, pictures every 5 epochs": 5, "log, pictures after each epoch": 1}


def make_run(images: torch.Tensor, labels: torch.Tensor, name: str, folder: Path) -> Callable[[], None]:
    """A function that trains once, with what `name` says."""

    def run() -> None:
        model = seeded_model(lambda: small_cnn(images.shape[1:], 10, width=16), 0).to(images.device)
        optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9)
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

        for _ in plan.epochs_left():
            for batch in plan.batches():
                logits = model(batch.inputs)
                losses = F.cross_entropy(logits, batch.labels, reduction="none")
                loss = plan.loss(batch, losses, logits=logits)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            if name == "metrics":
                plan.metrics()
        if writer is not None:
            writer.close()

    return run


def main() -> None:
    """Print the table."""
    parser = common.parser(__doc__, repeats=5)
    parser.add_argument("--images", type=int, default=10_000, help="training images (default 10,000)")
    args = parser.parse_args()
    if args.quick:
        args.images, args.repeats = 512, 1
    device = common.choose_device(args.device)
    data = load(args.images)
    images, labels = data.train.images.to(device), data.train.labels.to(device)

    with tempfile.TemporaryDirectory() as folder:
        names = ("bare", "metrics", *PICTURES)
        calls = {name: make_run(images, labels, name, Path(folder)) for name in names}
        times = common.interleaved(calls, args.repeats, device, cpu_time=True)

    rows = []
    bare = Spread.of([value / EPOCHS for value in times["bare"]])
    for name in names[1:]:
        pairs = zip(times[name], times["bare"], strict=True)
        added = Spread.of([1e3 * (value - base) / EPOCHS for value, base in pairs])
        share = added.median / (1e3 * bare.median)
        cells = [name, added.text(".1f"), f"{100 * share:.1f} %"]
        rows.append({"name": name, "added_ms": added._asdict(), "share": share, "cells": cells})
    heads = ["", "added ms an epoch", f"of an epoch of {1e3 * bare.median:,.0f} ms"]
    facts = common.facts(device, ("tensorboard", "matplotlib")) | {"images": len(labels)}
    common.report(args, facts, heads, rows)


if __name__ == "__main__":
    main()
