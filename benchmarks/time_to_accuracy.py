"""Time and samples to reach the accuracy of training on all data, with parts of it.

    OMP_NUM_THREADS=1 python benchmarks/time_to_accuracy.py [--json PATH]

Trains a small CNN with a one-cycle learning rate on all data in a bare loop, without dsenv, and then with a
DataPlan at 30, 50 and 70 % of the presentations, the learning rate following the budget. "all, shorter" is
the control: the bare loop on all data for fewer epochs, its schedule as short. Fashion-MNIST (10,000 training
and 5,000 validation images), or scikit-learn's digits where it is not installed.

After each epoch the validation accuracy is measured, off the clock. A run has reached the accuracy of all
data when it comes within --margin points of what the same seed reached with all data at the end; time and
samples until then are shares of that whole training's, as median over the seeds that did. "whole run" is the
end-to-end time of the training over that of all data, selection and bookkeeping included (median, quartiles).
On a CPU the clock counts the time of this process on it, so that other jobs on the machine do not count.
Test accuracy is that of the final models; nothing else looks at the test split. --repeats is the number of
seeds.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import common
import torch
from common import Spread
from methods import RECIPE, SELECTORS, light_cnn
from torch import Tensor, nn
from torch.nn import functional as F

from dsenv.plan import DataPlan
from dsenv.tasks.dataset import Dataset, Split
from dsenv.tasks.digits import digits
from dsenv.tasks.fashion_mnist import fashion_mnist
from dsenv.tasks.models import small_cnn
from dsenv.tasks.task import seeded_model

METHODS = ("random", "infobatch", "ucb", "epsilon_greedy", "hardest", "order_dp", "el2n", "forgetting")
PODS = ("random", "order_dp", "el2n")  # selectors that run with the PODS schedule as well


@dataclass
class Run:
    """What one training did."""

    accuracy: list[float] = field(default_factory=list)
    """Validation accuracy after each epoch."""
    seconds: list[float] = field(default_factory=list)
    """Time at which it was, without the measuring."""
    samples: list[int] = field(default_factory=list)
    """Presentations until then."""
    test: float = 0.0

    def reached(self, target: float) -> int | None:
        """The first epoch that ended with that accuracy."""
        return next((number for number, value in enumerate(self.accuracy) if value >= target), None)


class Lab:
    """Data, model and loop that all runs share."""

    def __init__(self, data: Dataset, batch: int, device: torch.device) -> None:
        self.data, self.batch, self.device = data, batch, device
        self.images, self.labels = data.train.images.to(device), data.train.labels.to(device)
        self._shift = torch.tensor(-data.mean[0] / data.std[0], device=device)
        self._scale = torch.tensor(1 / (255 * data.std[0]), device=device)
        self._clock = time.process_time if device.type == "cpu" else time.perf_counter

    def normalise(self, images: Tensor) -> Tensor:
        scaled = torch.addcmul(self._shift, images, self._scale)
        return scaled.contiguous(memory_format=torch.channels_last)

    def model(self, seed: int) -> nn.Module:
        small = self.data.sample_shape[1] < 28
        factory = (lambda: small_cnn(self.data.sample_shape, 10, 16)) if small else light_cnn
        return seeded_model(factory, seed).to(self.device, memory_format=torch.channels_last)

    def train(self, seed: int, epochs: Iterator[Callable[["Loop"], int]]) -> Run:
        """Train by epoch functions, which give the samples they trained on; measured after each."""
        loop, run = Loop(self, seed), Run()
        spent, samples = 0.0, 0
        common.synchronize(self.device)
        start = self._clock()
        for epoch in epochs:
            samples += epoch(loop)
            common.synchronize(self.device)
            spent += self._clock() - start
            run.accuracy.append(self.accuracy(loop.model, self.data.validation))
            run.seconds.append(spent)
            run.samples.append(samples)
            start = self._clock()
        run.test = self.accuracy(loop.model, self.data.test)
        return run

    @torch.no_grad()
    def accuracy(self, model: nn.Module, split: Split) -> float:
        """Share of a split that is classified right, in evaluation mode."""
        model.eval()
        right = 0
        for images, labels in zip(split.images.split(1000), split.labels.split(1000), strict=True):
            with torch.autocast(self.device.type, torch.bfloat16):
                logits = model(self.normalise(images.to(self.device)))
            right += int((logits.argmax(1) == labels.to(self.device)).sum())
        model.train()
        return right / len(split)


class Loop:
    """One training: model, optimizer, and a step at some progress."""

    def __init__(self, lab: Lab, seed: int) -> None:
        self.lab, self.model = lab, lab.model(seed)
        self.optimizer = torch.optim.SGD(
            self.model.parameters(),
            RECIPE.lr,
            momentum=RECIPE.momentum,
            nesterov=RECIPE.nesterov,
            weight_decay=RECIPE.weight_decay,
        )

    def losses(self, inputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        with torch.autocast(self.lab.device.type, torch.bfloat16):
            logits = self.model(inputs)
        return F.cross_entropy(logits.float(), labels, reduction="none"), logits

    def step(self, loss: Tensor, progress: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = RECIPE.learning_rate(progress)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()


def bare_epochs(lab: Lab, epochs: float, seed: int) -> Iterator[Callable[[Loop], int]]:
    """All data without dsenv; the last epoch is cut off where `epochs` is no whole number."""
    generator = torch.Generator(lab.device).manual_seed(seed)
    size, total, done = len(lab.labels), round(epochs * len(lab.labels)), 0

    def epoch(loop: Loop) -> int:
        order = torch.randperm(size, generator=generator, device=lab.device)[: total - done]
        trained = 0
        for index in order.split(lab.batch):
            losses, _ = loop.losses(lab.normalise(lab.images[index]), lab.labels[index])
            loop.step(losses.mean(), (done + trained) / total)
            trained += len(index)
        return trained

    while done < total:
        yield epoch
        done += min(size, total - done)


def planned_epochs(lab: Lab, epochs: int, seed: int, **parts: Any) -> Iterator[Callable[[Loop], int]]:
    """The same loop with a plan; what the plan is built with belongs to its first epoch."""
    plan = DataPlan(
        (lab.images, lab.labels),
        epochs=epochs,
        batch_size=lab.batch,
        transform=lab.normalise,
        uniform_epochs=1,
        seed=seed,
        **parts,
    )

    def epoch(loop: Loop) -> int:
        before = plan.cost.trained
        for batch in plan.batches():
            losses, logits = loop.losses(batch.inputs, batch.labels)
            progress = plan.progress
            loop.step(plan.loss(batch, losses, logits=logits), progress)
        return plan.cost.trained - before

    for _ in plan.epochs_left():
        yield epoch


def makers(lab: Lab, args: argparse.Namespace) -> dict[tuple[str, float], Callable[[int], Run]]:
    """Every method and ratio as a function of the seed."""
    found: dict[tuple[str, float], Callable[[int], Run]] = {}

    def add(name: str, ratio: float, make: Callable[[int], Iterator[Callable[[Loop], int]]]) -> None:
        found[name, ratio] = lambda seed: lab.train(seed, make(seed))

    def plan(name: str, ratio: float, **parts: Any) -> None:
        add(name, ratio, lambda seed: planned_epochs(lab, args.epochs, seed, ratio=ratio, **parts))

    add("all data", 1.0, lambda seed: bare_epochs(lab, args.epochs, seed))
    for ratio in args.ratios:
        length = ratio * args.epochs
        add("all, shorter", ratio, lambda seed, length=length: bare_epochs(lab, length, seed))
        for name in args.methods:
            plan(name, ratio, selector=SELECTORS[name])
        for name in PODS:
            if name in args.methods:
                plan(f"{name}, pods", ratio, selector=SELECTORS[name], volume={"name": "pods", "warmup": 0})
    return found


def row(name: str, ratio: float, runs: list[Run], everything: list[Run], margin: float) -> dict[str, Any]:
    """One row: a method at a ratio over the seeds, next to all data."""
    whole = Spread.of([a.seconds[-1] / b.seconds[-1] for a, b in zip(runs, everything, strict=True)])
    gap = [100 * (a.accuracy[-1] - b.accuracy[-1]) for a, b in zip(runs, everything, strict=True)]
    times, samples = [], []
    for run, rival in zip(runs, everything, strict=True):
        at = run.reached(rival.accuracy[-1] - margin / 100)
        if at is not None:
            times.append(run.seconds[at] / rival.seconds[-1])
            samples.append(run.samples[at] / rival.samples[-1])
    spread = f" ± {statistics.stdev(gap):.2f}" if len(gap) > 1 else ""
    test = statistics.mean(run.test for run in runs)
    cells = [
        name,
        f"{ratio:.0%}",
        whole.text(".3f"),
        f"{statistics.mean(gap):+.2f}{spread}",
        f"{len(times)} of {len(runs)}",
        f"{statistics.median(times):.2f}" if times else "-",
        f"{statistics.median(samples):.2f}" if samples else "-",
        f"{100 * test:.2f}",
    ]
    figures = {"method": name, "ratio": ratio, "whole_run": whole._asdict(), "gap": gap, "test": test}
    return {**figures, "time_share": times, "sample_share": samples, "cells": cells}


def load(images: int) -> Dataset:
    """Fashion-MNIST, or digits where it is not installed."""
    try:
        return fashion_mnist(train=images, validation=5000)
    except FileNotFoundError:
        return digits(train=min(images, 1000))


def main() -> None:
    """Print the table."""
    parser = common.parser(__doc__, repeats=5)
    parser.add_argument("--epochs", type=int, default=8, help="length of the training (default 8)")
    parser.add_argument("--images", type=int, default=10_000, help="training images (default 10,000)")
    parser.add_argument("--ratios", type=float, nargs="+", default=[0.3, 0.5, 0.7])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--margin", type=float, default=0.5, help="points below all data (default 0.5)")
    args = parser.parse_args()  # a round of timing is a seed
    if args.quick:
        args.repeats, args.epochs, args.images = 1, 2, 512
        args.ratios, args.methods = [0.5], ["random", "infobatch"]
    device = common.choose_device(args.device)
    lab = Lab(load(args.images), RECIPE.batch_size, device)
    calls = makers(lab, args)
    lab.train(0, bare_epochs(lab, 0.1, 0))  # warms up
    runs: dict[tuple[str, float], list[Run]] = {key: [] for key in calls}
    for seed in range(args.repeats):
        for key in list(calls)[:: -1 if seed % 2 else 1]:  # to and fro
            runs[key].append(calls[key](seed))
    everything = runs["all data", 1.0]
    rows = [row(*key, values, everything, args.margin) for key, values in runs.items()]
    heads = ["method", "samples", "whole run, time", "validation, points", f"within {args.margin} points"]
    heads += ["time until then", "samples until then", "test, %"]
    common.report(args, common.facts(device), heads, rows)


if __name__ == "__main__":
    main()
