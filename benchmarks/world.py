"""What several ranks cost a plan: bytes and seconds of the gather at an epoch's end, in percent of a step.

    OMP_NUM_THREADS=1 python benchmarks/world.py [--samples 1e6] [--repeats 5] [--json PATH]

Two gloo ranks on this machine, each with half of an epoch on all N samples. "turn" is all that an epoch's
end does: the gather of what both ranks heard, and the update of the signals. "gather" is its first part.
Bytes are those that a rank sends. "a step" is the turn spread over the epoch's steps of 256 samples, "of a
step" its share of such a step: forward and backward pass of a small CNN on 32 x 32 colour images and the
average of its gradients over the ranks. Wall-clock times, since ranks wait for each other: beside other jobs
they are too long, steps and gathers alike. Ranks on other machines add what the network takes for the bytes.
"""

import tempfile
import time
from pathlib import Path

import torch
from common import Spread, choose_device, facts, parser, report
from torch import distributed, multiprocessing, nn

from dsenv.plan import DataPlan
from dsenv.plan.exchange import gather_epochs

BATCH = 256
CASES = {
    "losses": 0,
    "losses and logits, 10 classes": 10,
    "losses and logits, 100 classes": 100,
}


def turn_times(size, classes, repeats):
    """Seconds of gather and turn, and the bytes that this rank sends."""
    labels = torch.arange(size) % max(classes, 2)
    plan = DataPlan((torch.zeros(size, 1), labels), epochs=repeats + 1, batch_size=BATCH, whole_steps=True)
    gathers, turns, sent = [], [], 0
    for _ in range(repeats):
        index = plan.epoch_sampler.to_train().left().index
        columns = {"index": index, "loss": torch.rand(len(index))}
        if classes:
            columns |= {"logits": torch.randn(len(index), classes), "labels": labels[index]}
        sent = sum(value.numel() * value.element_size() for value in columns.values())

        distributed.barrier()
        start = time.perf_counter()
        gather_epochs(plan.world, "a try", {plan.epoch: columns}, plan.device)
        gathers.append(time.perf_counter() - start)

        buffer = type(plan._feedback.buffer)
        plan._feedback.buffer = buffer.of(columns)
        distributed.barrier()
        start = time.perf_counter()
        plan._turn()
        turns.append(time.perf_counter() - start)
    return gathers, turns, sent


def step_times(repeats):
    """Seconds of training steps of this rank's half of a batch, gradients averaged over the ranks."""
    model = nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(64 * 64, 10),
    )  # fmt: skip
    images, labels = torch.rand(BATCH // 2, 3, 32, 32), torch.arange(BATCH // 2) % 10
    times = []
    for _ in range(repeats + 1):
        distributed.barrier()
        start = time.perf_counter()
        nn.functional.cross_entropy(model(images), labels).backward()
        for parameter in model.parameters():
            distributed.all_reduce(parameter.grad)
            parameter.grad = None
        times.append(time.perf_counter() - start)
    return times[1:]


def run_rank(rank, folder, size, repeats):
    torch.set_num_threads(1)
    where = f"file://{folder}/store"
    distributed.init_process_group("gloo", init_method=where, rank=rank, world_size=2)
    found = {name: turn_times(size, classes, repeats) for name, classes in CASES.items()}
    if rank == 0:
        torch.save({"turns": found, "steps": step_times(repeats)}, f"{folder}/found.pt")
    else:
        step_times(repeats)
    distributed.destroy_process_group()


def main():
    made = parser(__doc__, repeats=5)
    made.add_argument("--samples", type=float, default=1e6, help="N (default 1e6)")
    args = made.parse_args()
    device = choose_device("cpu")
    size = 2_000 if args.quick else int(args.samples)
    repeats = 2 if args.quick else args.repeats
    with tempfile.TemporaryDirectory() as folder:
        multiprocessing.start_processes(run_rank, (folder, size, repeats), nprocs=2, start_method="spawn")
        found = torch.load(Path(folder) / "found.pt")

    step = Spread.of(found["steps"])
    steps = size // BATCH
    rows = []
    for name, (gathers, turns, sent) in found["turns"].items():
        gather, turn = Spread.of(gathers), Spread.of(turns)
        share = 100 * turn.median / steps / step.median
        rows.append(
            {
                "what": name,
                "samples": size,
                "bytes_sent": sent,
                "gather_seconds": gather,
                "turn_seconds": turn,
                "step_seconds": step,
                "percent_of_a_step": share,
                "cells": [
                    name,
                    f"{sent / 2**20:,.1f} MiB",
                    gather.text(".3f", " s"),
                    turn.text(".3f", " s"),
                    f"{1e6 * turn.median / steps:.0f} us",
                    f"{share:.2f} %",
                ],
            }
        )
    known = {**facts(device), "steps": steps, "step_seconds": step}
    heads = [f"gathered, N = {size:,}", "bytes a rank", "gather", "turn", "a step", "of a step"]
    report(args, known, heads, rows)


if __name__ == "__main__":
    main()
