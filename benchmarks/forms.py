"""Samples per second of K replicas in each form: stacked layers, vmap, loop, and loop in bf16 channels_last.

    OMP_NUM_THREADS=1 python benchmarks/forms.py [--device cuda] [--json forms.json]

The forms are interleaved and the median of the rounds is reported, as a ratio to the loop of the same
run. `dsenv.training.replicas.choose_form` follows this table.
"""

import argparse
import json
import shlex
import statistics
import sys
import time
from functools import partial
from pathlib import Path

import common
import torch

from dsenv.tasks import Recipe, Task, from_tensors
from dsenv.tasks.models import mlp, small_cnn
from dsenv.training.graphs import EAGER_STEPS
from dsenv.training.replicas import make_replicas

MODELS = {
    "MLP 64-64-10": (partial(mlp, hidden=[64]), (1, 8, 8)),
    "MLP 784-64-10": (partial(mlp, hidden=[64]), (1, 28, 28)),
    "CNN, 14 k parameters": (partial(small_cnn, width=16, norm="none"), (1, 28, 28)),
    "the same, group norm": (partial(small_cnn, width=16, norm="group"), (1, 28, 28)),
}
FORMS = {
    "stacked": {"form": "stacked"},
    "vmap": {"form": "vmap"},
    "loop": {"form": "loop"},
    "loop, bf16 channels_last": {"form": "loop", "autocast": True, "channels_last": True},
}


def make_task(factory, shape):
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (300, *shape), dtype=torch.uint8, generator=generator)
    dataset = from_tensors(images, torch.arange(300) % 10, validation=50, test=50)
    return Task(dataset, partial(factory, shape, 10), Recipe(nesterov=False))


def seconds(replicas, shape, batch, device, steps):
    """Wall-clock seconds of `steps` optimiser steps of all replicas."""
    count = replicas.count
    samples = torch.randn(count, batch, *shape, device=device)
    labels = torch.randint(0, 10, (count, batch), device=device)
    weight = torch.ones(count, batch, device=device)
    lr = torch.full((count,), 0.01, device=replicas.lr_device)
    for number in range(steps + 2):
        if number == 2:  # the first two warm up
            if device.type == "cuda":
                torch.cuda.synchronize()
            start = time.perf_counter()
        replicas.step(samples, torch.zeros_like(labels), labels, weight, [batch] * count, lr)
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--replicas", type=int, nargs="+", default=[8, 32, 64])
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    device = torch.device(args.device)
    rows = []
    print("| model | K |" + "".join(f" {form} |" for form in FORMS) + " loop, samples/s |")
    print("|---|---|" + "---|" * (len(FORMS) + 1))
    for name, (factory, shape) in MODELS.items():
        task = make_task(factory, shape)
        for count in args.replicas:
            made = {form: make_replicas(task, count, device, **settings) for form, settings in FORMS.items()}
            times = {form: [] for form in FORMS}
            seconds(made["stacked"], shape, args.batch, device, EAGER_STEPS)  # until steps are captured
            for _ in range(args.rounds):
                for form, replicas in made.items():
                    times[form].append(seconds(replicas, shape, args.batch, device, args.steps))
            rate = {form: count * args.batch * args.steps / statistics.median(t) for form, t in times.items()}
            rows.append({"model": name, "replicas": count, "samples_per_second": rate})
            ratios = "".join(f" {rate[form] / rate['loop']:.1f}x |" for form in FORMS)
            print(f"| {name} | {count} |{ratios} {rate['loop'] / 1e3:.0f} k |", flush=True)
    if args.json:
        command = shlex.join(["python", *sys.argv])
        found = {"command": command, "facts": common.facts(device), "rows": rows}
        args.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
