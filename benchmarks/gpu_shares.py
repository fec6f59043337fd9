"""Where the time goes on a GPU: ResNet-18 beside a bare loop, and Stable-Baselines3's parts of a rollout.

    OMP_NUM_THREADS=1 python benchmarks/gpu_shares.py [--device cuda] [--json PATH]

"ResNet-18": one interval of a single environment (an epoch on half of the data, and the validation split) in
bf16 and channels_last, beside a bare loop of the same samples, model, optimiser and precision: random order,
gather of bytes on the device, normalise, forward, backward, step, and one scoring of the validation split.
Both take turns. Images are drawn at random: 32 x 32 x 3, ten classes. On a CPU both are in float32.

"PPO": SB3 on K stacked environments, a rollout and an update, with its policy on the device and on the CPU.
Each part is timed with the device's work finished before and after it: the environment's steps, the policy's
forward passes, its update, SB3's copies of observations to the policy's device, and copies by `Tensor.cpu`
and `torch.from_numpy`, most of which lie within the environment's time. "rest" is SB3's own bookkeeping.
"""

import argparse
import itertools
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any
from unittest.mock import patch

import common
import numpy as np
import torch
from common import Spread
from stable_baselines3 import PPO
from stable_baselines3.common import on_policy_algorithm
from torch import Tensor
from torch.nn import functional as F

from dsenv import StackedVecEnv
from dsenv.catalogue import load_vector
from dsenv.env import TrainingEnv
from dsenv.tasks import Dataset, Recipe, Task, from_tensors
from dsenv.tasks.models import resnet18
from dsenv.tasks.task import seeded_model

SHAPE = (3, 32, 32)
RECIPE = Recipe(lr=0.1, weight_decay=5e-4, schedule="one_cycle", batch_size=128)
INTERVALS = 30


def generated(train: int) -> Dataset:
    """Random byte images, and a validation split of a ninth of them, as CIFAR's 45,000 and 5,000."""
    generator = torch.Generator().manual_seed(0)
    size = train + train // 9 + 64
    images = torch.randint(256, (size, *SHAPE), generator=generator, dtype=torch.uint8)
    return from_tensors(images, torch.arange(size) % 10, train=train, validation=train // 9, test=64)


def precision(device: torch.device) -> str:
    """bf16, but for a CPU, where most have no such units."""
    return "fp32" if device.type == "cpu" else "bf16"


def environment_interval(task: Task, device: torch.device) -> Callable[[], None]:
    """An interval of a single environment."""
    trainer = {"precision": precision(device), "channels_last": True}
    env = TrainingEnv(
        task=task, control="curriculum", ratio=0.5, intervals=INTERVALS, trainer=trainer, device=str(device)
    )
    env.reset(seed=0)

    def run() -> None:
        terminated = env.step(np.zeros(env.action_space.shape, np.float32))[2]
        if terminated:
            env.reset()

    return run


class BareLoop:
    """The same training without dsenv."""

    def __init__(self, task: Task, device: torch.device) -> None:
        self.device, data = device, task.dataset
        self.train, self.validation = (
            (split.images.to(device), split.labels.to(device)) for split in (data.train, data.validation)
        )
        shape = (1, -1, 1, 1)
        self.mean = torch.tensor(data.mean, device=device).view(shape)
        self.std = torch.tensor(data.std, device=device).view(shape)
        self.model = seeded_model(task.model, 0).to(device, memory_format=torch.channels_last)
        self.optimizer = torch.optim.SGD(
            self.model.parameters(), 0.1, momentum=0.9, nesterov=True, weight_decay=5e-4
        )
        self.steps = 0

    def forward(self, images: Tensor) -> Tensor:
        inputs = ((images / 255 - self.mean) / self.std).contiguous(memory_format=torch.channels_last)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=precision(self.device) == "bf16"):
            logits: Tensor = self.model(inputs)
        return logits.float()

    def interval(self) -> None:
        """Half of the data once, and a score on the validation split, read on the host."""
        images, labels = self.train
        self.model.train()
        total = torch.zeros((), device=self.device)
        order = torch.randperm(len(labels), device=self.device)[: len(labels) // 2]
        for index in order.split(RECIPE.batch_size):
            loss = F.cross_entropy(self.forward(images[index]), labels[index])
            self.optimizer.zero_grad()
            loss.backward()
            self.steps += 1
            self.optimizer.param_groups[0]["lr"] = 0.1 / (1 + self.steps / 1000)
            self.optimizer.step()
            total += loss.detach()

        self.model.eval()
        with torch.no_grad():
            hits = [
                (self.forward(part).argmax(1) == wanted).sum()
                for part, wanted in zip(*(whole.split(1024) for whole in self.validation), strict=True)
            ]
        (torch.stack(hits).sum() + total).item()


def resnet_row(args: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """ResNet-18 in an environment of one training run, beside the bare loop."""
    task = Task(generated(args.images), partial(resnet18, SHAPE, 10), RECIPE)
    bare = BareLoop(task, device)
    calls = {"environment": environment_interval(task, device), "bare": bare.interval}
    times = common.interleaved(calls, args.repeats, device)
    share = common.speedup(times, "environment", "bare")
    rate = {name: Spread.of([args.images / 2 / t for t in values]) for name, values in times.items()}
    cells = ["ResNet-18, K = 1", *(f"{value.median:,.0f} samples/s" for value in rate.values())]
    cells += [f"{share.text('.2f')} of the bare loop's rate"]
    return {
        "what": "resnet18",
        "seconds": times,
        "samples_per_second": {name: value._asdict() for name, value in rate.items()},
        "share_of_bare": share._asdict(),
        "cells": cells,
    }


class Watch:
    """Adds up the time of calls, with the device's work finished before and after each."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.total: dict[str, float] = {}

    @contextmanager
    def around(self, owner: Any, attribute: str, name: str) -> Iterator[None]:
        """Time an attribute that is called."""
        own = getattr(owner, attribute)

        def timed(*args: Any, **kwargs: Any) -> Any:
            found: list[Any] = []
            spent = common.seconds(
                lambda: found.append(own(*args, **kwargs)), self.device, common.time.perf_counter
            )
            self.total[name] = self.total.get(name, 0.0) + spent
            return found[0]

        with patch.object(owner, attribute, timed):
            yield


def ppo_row(args: argparse.Namespace, device: torch.device, where: str) -> dict[str, Any]:
    """SB3's PPO on stacked environments, with its networks on the device `where`."""
    env = StackedVecEnv(
        load_vector("Digits-Curriculum-v0", args.replicas, autoreset_mode="SameStep", device=str(device))
    )
    settings = {"n_steps": args.rollout, "batch_size": 512, "n_epochs": 10, "gamma": 1.0}
    model = PPO("MlpPolicy", env, device=where, seed=0, policy_kwargs={"net_arch": [64, 64]}, **settings)
    steps = args.rollout * args.replicas
    model.learn(steps)
    plain = common.seconds(lambda: model.learn(steps), device, common.time.perf_counter)

    watch = Watch(device)
    with ExitStack() as stack:
        for owner, attribute, name in (
            (env, "step_wait", "environment"),
            (model.policy, "forward", "policy"),
            (model, "train", "update"),
            (on_policy_algorithm, "obs_as_tensor", "copies of SB3"),
            (Tensor, "cpu", "copies to the host"),
            (torch, "from_numpy", "copies from the host"),
        ):
            stack.enter_context(watch.around(owner, attribute, name))
        whole = common.seconds(lambda: model.learn(steps), device, common.time.perf_counter)
    found = watch.total
    rest = whole - sum(found.get(name, 0.0) for name in ("environment", "policy", "update", "copies of SB3"))
    shares = {name: value / whole for name, value in {**found, "rest": rest}.items()}
    cells = [f"PPO on {where}, K = {args.replicas}", f"{steps / plain:,.0f} steps/s", ""]
    cells.append(", ".join(f"{name} {100 * value:.1f} %" for name, value in shares.items()))
    return {
        "what": "ppo",
        "networks_on": where,
        "replicas": args.replicas,
        "rollout": args.rollout,
        "seconds": plain,
        "seconds_when_timed": whole,
        "parts": found,
        "shares": shares,
        "cells": cells,
    }


def main() -> None:
    """Print the table."""
    parser = common.parser(__doc__, repeats=7)
    parser.add_argument("--images", type=int, default=18_000, help="training images (default 18,000)")
    parser.add_argument(
        "--replicas", type=int, default=64, metavar="K", help="stacked environments (default 64)"
    )
    parser.add_argument(
        "--rollout", type=int, default=24, help="steps of each environment a rollout (default 24)"
    )
    args = parser.parse_args()
    if args.quick:
        args.images, args.replicas, args.rollout, args.repeats = 72, 2, 4, 1
    device = common.choose_device(args.device)
    rows = [resnet_row(args, device)]
    rows += [ppo_row(args, device, where) for where, _ in itertools.groupby([str(device), "cpu"])]
    known = common.facts(device, ("torchvision", "stable_baselines3"))
    common.report(args, known, ["what", "environment", "bare loop", "share of the time"], rows)


if __name__ == "__main__":
    main()
