"""What every selector, schedule and augmentation controller adds to a training step.

    OMP_NUM_THREADS=1 python benchmarks/overhead.py [--infobatch PATH] [--json PATH]

A bare loop over tensors in memory (random order, gather, normalise, mean of the losses) and one with a
DataPlan for every method train at batch 128, an epoch each in turn, all methods in every round. The clock
runs while a batch is made and while its loss is taken in; the model works between, so that caches are as in
training. On a CPU it counts the time of this process on it, so that other jobs on the machine do not count.
"added" is that time beyond the bare loop's, per step: median over the rounds and quartiles. It
contains the choice of an epoch's samples; "once" is what a method does once for the whole training (the pass
of static selectors, and their ranking).

Two settings: a small CNN (16, 32, 32 channels) on Fashion-MNIST as it is, or scikit-learn's digits where it
is not installed; and ResNet-18 with its CIFAR stem, whose step is timed on the same images at 32 x 32 x 3.
There the 512 features between the spans are drawn once and not computed: to the plan it is the same.

"beyond the ops" of a controller is its "added" minus that of `fixed`, which draws and applies the same ops
and knows nothing. --infobatch names the folder that holds the published package `infobatch`: its loop is
compared with a plain DataLoader on the same tensors; its row is skipped where no path is given.
"""

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import common
import torch
from common import Spread
from methods import AUGMENTS, SELECTORS
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from dsenv.plan import DataPlan, FeatureForward
from dsenv.tasks.dataset import Dataset
from dsenv.tasks.digits import digits
from dsenv.tasks.fashion_mnist import fashion_mnist
from dsenv.tasks.models import resnet18, small_cnn
from dsenv.tasks.task import seeded_model
from dsenv.volume.registry import SCHEDULES

BATCH = 128
CHEAP = {"sada, loss": {"name": "sada", "window": 2, "warm_up": 3, "estimator": "loss"}}


class Setting:
    """Images, and what works between the clock's spans."""

    def __init__(self, name: str, data: Dataset, device: torch.device, *, resnet: bool) -> None:
        self.name, self.device = name, device
        images, labels = data.train.images, data.train.labels
        if resnet:
            images = F.interpolate(images.float(), (32, 32)).round().byte().expand(-1, 3, -1, -1).contiguous()
        self.images, self.labels = images.to(device), labels.to(device)
        held_out = images[:500].to(device), labels[:500].to(device)
        self.held_out = held_out
        self.factor = torch.tensor(1 / 255, device=device)
        factory = resnet18 if resnet else small_cnn
        options: dict[str, Any] = {} if resnet else {"width": 16}
        self.model = seeded_model(lambda: factory(images.shape[1:], 10, **options), 0)
        self.model.to(device, memory_format=torch.channels_last)
        self.width = 512 if resnet else 32
        self.optimizer = torch.optim.SGD(self.model.parameters(), 0.01, momentum=0.9)
        self.works = not resnet  # whether the model works between the spans
        generator = torch.Generator().manual_seed(0)
        self.features = torch.randn(len(images), self.width, generator=generator).to(device)
        self.head = (torch.randn(self.width, 10, generator=generator) / 10).to(device).requires_grad_()

    def normalise(self, images: Tensor) -> Tensor:
        return (images * self.factor).contiguous(memory_format=torch.channels_last)

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Logits and features of any images, without the model where it does not work."""
        if self.works:
            assert isinstance(self.model, nn.Sequential)
            found: tuple[Tensor, Tensor] = FeatureForward(self.model, self.model[-1])(inputs)
            return found
        features = self.features[: len(inputs)]
        return features @ self.head, features

    def losses(self, inputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Losses, logits and features of a batch."""
        logits, features = self.forward(inputs)
        return F.cross_entropy(logits, labels, reduction="none"), logits, features

    def learn(self, loss: Tensor) -> None:
        if not self.works:
            return
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()

    def step_seconds(self, repeats: int) -> float:
        """Seconds of one step of the model: forward, backward, optimiser."""
        inputs, labels = self.normalise(self.images[:BATCH]), self.labels[:BATCH]

        def step() -> None:
            loss = F.cross_entropy(self.model(inputs), labels)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()

        times = common.interleaved({"step": step}, repeats, self.device, cpu_time=True)["step"]
        return Spread.of(times).median


class Clock:
    """Adds up the time of some spans."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.total = device, 0.0
        self.now = time.process_time if device.type == "cpu" else time.perf_counter

    def timed(self, call: Callable[[], Any]) -> Any:
        common.synchronize(self.device)
        start = self.now()
        found = call()
        common.synchronize(self.device)
        self.total += self.now() - start
        return found


Epoch = Callable[[], float]  # trains for one epoch; milliseconds a step inside the spans


def run_epoch(setting: Setting, batches: Callable[[], Iterator[Any]], loss: Callable[..., Tensor]) -> float:
    """One epoch of (inputs, labels, ...) batches; milliseconds a step for batches and loss."""
    clock, steps = Clock(setting.device), 0
    iterator = clock.timed(batches)
    while (batch := clock.timed(lambda: next(iterator, None))) is not None:
        losses, logits, features = setting.losses(batch[0], batch[1])
        taken = clock.timed(lambda: loss(batch, losses, logits, features))  # noqa: B023 called at once
        setting.learn(taken)
        steps += 1
    return 1e3 * clock.total / steps


def bare(setting: Setting) -> Epoch:
    """The loop without a plan, on half of the data an epoch, as the plans."""
    generator = torch.Generator(setting.device).manual_seed(0)
    size = len(setting.labels)

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        order = torch.randperm(size, generator=generator, device=setting.device)[: size // 2]
        for index in order.split(BATCH):
            yield setting.normalise(setting.images[index]), setting.labels[index]

    return lambda: run_epoch(setting, batches, lambda _batch, losses, *_: losses.mean())


def planned(setting: Setting, epochs: int, once: dict[str, float], name: str, **parts: Any) -> Epoch:
    """The loop with a plan; what it does once is written to `once`."""
    plan = DataPlan(
        (setting.images, setting.labels),
        epochs=epochs,
        batch_size=BATCH,
        transform=setting.normalise,
        uniform_epochs=0 if name == "data_agent" else 1,
        scoring_passes=0,
        **parts,
    )
    epoch_numbers = plan.epochs_left()

    def loss(batch: Any, losses: Tensor, logits: Tensor, features: Tensor) -> Tensor:
        return plan.loss(batch, losses, logits=logits, features=features, forward=setting.forward)

    def epoch() -> float:
        clock = Clock(setting.device)
        number = clock.timed(lambda: next(epoch_numbers))  # ends the epoch before
        if number == 1 and plan.selector.needs_pass:
            looking = Clock(setting.device)
            looking.timed(lambda: plan.score(setting.forward, setting.held_out))
            once[name] = looking.total
        spent = run_epoch(setting, plan.batches, loss)
        return spent + 1e3 * clock.total / plan.steps_in_epoch(number)

    return epoch


def published_infobatch(path: Path, setting: Setting, epochs: int) -> dict[str, Epoch]:
    """The package's loop and the plain DataLoader that it stands on, over the same tensors."""
    sys.path.insert(0, str(path))
    from infobatch import InfoBatch  # patches torch's DataLoader as a whole

    data = TensorDataset(setting.images, setting.labels)
    wrapped = InfoBatch(data, epochs, prune_ratio=0.5)
    own = DataLoader(wrapped, BATCH, sampler=wrapped.sampler, drop_last=True)
    plain = DataLoader(data, BATCH, shuffle=True, drop_last=True)

    def over(loader: Any) -> Callable[[], Iterator[Any]]:
        return lambda: ((setting.normalise(images), labels) for images, labels in loader)

    return {
        "plain DataLoader": lambda: run_epoch(setting, over(plain), lambda _batch, losses, *_: losses.mean()),
        "published InfoBatch": lambda: run_epoch(
            setting, over(own), lambda _batch, losses, *_: wrapped.update(losses)
        ),
    }


def make_epochs(setting: Setting, epochs: int, once: dict[str, float], only: list[str]) -> dict[str, Epoch]:
    """An epoch function of every method, by family and name."""
    made: dict[tuple[str, str], dict[str, Any]] = {}
    for name, choice in SELECTORS.items():
        if name == "rho_loss":
            choice = {**choice, "irreducible": torch.rand(len(setting.labels), device=setting.device)}
        if name == "data_agent":
            choice = {"name": name, "config": {"planned": epochs}}
        made["selector", name] = {"selector": choice, "ratio": 0.5}
    for name in SCHEDULES:
        volume = {"name": name, "warmup": 0} if name == "pods" else name
        made["schedule", name] = {"selector": "random", "ratio": 0.5, "volume": volume}
    for name, choice in (AUGMENTS | CHEAP).items():
        if name == "ada_augment":
            choice = {**choice, "features": setting.width}
        made["controller", name] = {"selector": "random", "ratio": 0.5, "augment": choice}
    found: dict[str, Epoch] = {"bare": bare(setting)}
    for (family, name), parts in made.items():
        if not only or name in only or name == "fixed_0.5":
            found[f"{family} {name}"] = planned(setting, epochs, once, name, **parts)
    return found


def measure(setting: Setting, args: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Milliseconds added by every method: of all rounds but the first two, which warm up and look."""
    once: dict[str, float] = {}
    rounds = args.repeats + 2
    calls = make_epochs(setting, rounds, once, args.only)
    if args.infobatch:
        calls |= published_infobatch(args.infobatch, setting, rounds)
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, epoch in calls.items():
            times[name].append(epoch())
    times = {name: values[2:] for name, values in times.items()}
    rivals = {"published InfoBatch": "plain DataLoader"}
    return {
        name: {
            "added": Spread.of([a - b for a, b in zip(values, times[rivals.get(name, "bare")], strict=True)]),
            "beyond": Spread.of(
                [a - b for a, b in zip(values, times["controller fixed_0.5"], strict=True)]
            ).median,
            "once": once.get(name.split(" ", 1)[-1], 0.0),
        }
        for name, values in times.items()
        if name not in ("bare", "plain DataLoader")
    }


def rows_of(found: list[dict[str, dict[str, Any]]], steps: list[float]) -> Iterator[dict[str, Any]]:
    """Rows of the table from the figures of both settings and the seconds of their steps."""
    for name in found[0]:
        family, _, method = name.partition(" ")
        cells, figures = [family, method], {"family": family, "method": method}
        for number, (of_setting, step) in enumerate(zip(found, steps, strict=True)):
            value = of_setting[name]
            cells += [value["added"].text(".3f"), f"{value['added'].median / step / 10:.2f} %"]
            figures[f"setting_{number}"] = {
                "added_ms": value["added"]._asdict(),
                "beyond_ops_ms": value["beyond"] if family == "controller" else None,
                "step_seconds": step,
                "once_seconds": value["once"],
            }
        first = found[0][name]
        cells.append(f"{first['beyond']:.2f}" if family == "controller" else "")
        cells.append(f"{first['once']:.2f}" if first["once"] else "")
        yield {**figures, "cells": cells}


def load(images: int) -> Dataset:
    """Fashion-MNIST, or digits where it is not installed."""
    try:
        return fashion_mnist(train=images)
    except FileNotFoundError:
        return digits(train=min(images, 1000))


def main() -> None:
    """Print the table."""
    parser = common.parser(__doc__, repeats=8)
    parser.add_argument("--images", type=int, default=10_000, help="training images (default 10,000)")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="these methods alone")
    parser.add_argument("--infobatch", type=Path, metavar="PATH", help="folder of the published package")
    args = parser.parse_args()
    if args.quick:
        args.images, args.repeats = 512, 2
        args.only = ["random", "infobatch", "moderate", "pods", "sada"]
    device = common.choose_device(args.device)
    data = load(args.images)
    settings = [
        Setting("small CNN", data, device, resnet=False),
        Setting("ResNet-18", data, device, resnet=True),
    ]
    steps = [setting.step_seconds(1 if args.quick else 5) for setting in settings]
    found = [measure(setting, args) for setting in settings]
    heads = ["", "method"]
    for setting, step in zip(settings, steps, strict=True):
        shape = "x".join(str(n) for n in (*setting.images.shape[2:], setting.images.shape[1]))
        heads += [f"added ms, {shape}", f"of a {setting.name}'s step ({1e3 * step:,.0f} ms)"]
    heads += ["beyond the ops, ms", "once, s"]
    common.report(args, common.facts(device, ("torchvision",)), heads, list(rows_of(found, steps)))


if __name__ == "__main__":
    main()
