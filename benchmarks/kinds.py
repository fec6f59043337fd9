"""Half of the data on every kind of task: what it costs in the metric, and what it saves.

    python benchmarks/kinds.py --seeds 10 --json benchmarks/results/kinds.jsonl
    python benchmarks/kinds.py --seeds 10 --longer 3 --json benchmarks/results/kinds.jsonl
    python benchmarks/kinds.py --tasks language --seeds 5 --json benchmarks/results/kinds.jsonl
    python benchmarks/kinds.py --table --json benchmarks/results/kinds.jsonl

A plan in a plain loop, right targets, 20 epochs (language: 8) of AdamW with a cosine; all of the data, and
five ways to half of it, beside all of it for half of the epochs; for language also 30 %, and half of the
tokens. Metric on the test split at the end, samples and tokens seen, processor seconds of the whole loop, and
bytes of the plan's state. Paired by seed: one seed gives one data set, one initial model, one order of
everything. One line of JSON for each run; those that are there are not run again. Data Agent needs the
entropy of a sample, and a point prediction has none, so it has no row on regression. The rows of language
need reasoning-gym (pip install reasoning-gym).
"""

import argparse
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import common
import numpy as np
import torch
from kinds_env import interval
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from dsenv import DataPlan
from dsenv.tasks import Dataset
from dsenv.tasks.composed_digits import digit_angles, several_digits
from dsenv.tasks.decoder import decoder
from dsenv.tasks.digits import digits
from dsenv.tasks.generated_scenes import generated_scenes
from dsenv.tasks.models import mlp, small_fcn
from dsenv.tasks.reasoning import VOCABULARY, reasoning

RECIPES = {"segmentation": (20, 20, 0.03), "language": (8, 16, 2e-3)}
"""Epochs, batch size and learning rate, where they are not those of `RECIPE`."""
RECIPE = (20, 32, 5e-3)
ARMS: dict[str, dict[str, Any]] = {
    "all data": {"ratio": 1.0, "selector": "random"},
    "all data, half the epochs": {"ratio": 1.0, "selector": "random", "epochs": 0.5},
    "random": {"ratio": 0.5, "selector": "random"},
    "infobatch": {"ratio": 0.5, "selector": "infobatch"},
    "pods, random": {"ratio": 0.5, "selector": "random", "volume": "pods"},
    "pods, infobatch": {"ratio": 0.5, "selector": "infobatch", "volume": "pods"},
    "data_agent": {"ratio": 0.5, "selector": "data_agent"},
}
ARMS_OF_LANGUAGE: dict[str, dict[str, Any]] = {
    "random, half of the tokens": {"ratio": 0.5, "selector": "random", "ratio_of": "tokens"},
    **{f"{name}, 30 %": {**arm, "ratio": 0.3} for name, arm in ARMS.items() if "all data" not in name},
}
TASKS: dict[str, tuple[Callable[[int], Dataset], Callable[[Dataset], nn.Module]]] = {
    "classification": (lambda seed: digits(split_seed=seed), lambda data: network(data, 10)),
    "multilabel": (lambda seed: several_digits(seed=seed), lambda data: network(data, 10)),
    "regression": (lambda seed: digit_angles(seed=seed), lambda data: network(data, 1)),
    "segmentation": (
        lambda seed: generated_scenes(3, 1.5, 240, 50, 300, seed=seed, side=16),
        lambda data: small_fcn(data.sample_shape, 4, width=8),
    ),
    "language": (
        lambda seed: reasoning(train=4000, validation=128, test=1000, seed=seed),
        lambda data: decoder(data.sample_shape, VOCABULARY),
    ),
}


def network(data: Dataset, outputs: int) -> nn.Module:
    return mlp(data.sample_shape, outputs, hidden=(64,))


def arms_of(task: str) -> dict[str, dict[str, Any]]:
    """Ways to spend a budget, by name."""
    own = {name: arm for name, arm in ARMS.items() if (task, name) != ("regression", "data_agent")}
    return {**own, **ARMS_OF_LANGUAGE} if task == "language" else own


class Features:
    """Inputs (B, D) of a model's last layer in its last forward pass: the mean over pixels or tokens."""

    def __init__(self, model: nn.Module) -> None:
        last = [module for module in model.modules() if isinstance(module, nn.Linear | nn.Conv2d)][-1]
        last.register_forward_pre_hook(self._keep)
        self.found = torch.empty(0)

    def _keep(self, _: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        found = inputs[0].detach()
        self.found = {4: lambda: found.mean((2, 3)), 3: lambda: found.mean(1)}.get(
            found.dim(), lambda: found
        )()


def scaled(data: Dataset, images: Tensor) -> Tensor:
    """Inputs of the model; tokens stay what they are."""
    if images.dtype == torch.int64:
        return images
    shape = (1, -1, *[1] * (images.dim() - 2))
    mean, std = (torch.tensor(values).view(shape) for values in (data.mean, data.std))
    return (images.float() / 255 - mean) / std


def state_bytes(state: Any) -> int:
    """Bytes of all tensors in a state."""
    if isinstance(state, Tensor):
        return state.numel() * state.element_size()
    inner = state.values() if isinstance(state, dict) else state if isinstance(state, list | tuple) else ()
    return sum(map(state_bytes, inner))


def epochs_of(task: str, longer: int) -> int:
    return RECIPES.get(task, RECIPE)[0] * longer


def trained(task: str, arm: str, seed: int, longer: int = 1) -> dict[str, Any]:
    """One training run: metric, samples, processor seconds and bytes of the plan's state."""
    make_data, make_model = TASKS[task]
    _, batch_size, lr = RECIPES.get(task, RECIPE)
    epochs, settings = epochs_of(task, longer), dict(arms_of(task)[arm])
    data = make_data(seed)
    inputs = scaled(data, data.train.images)
    torch.manual_seed(seed)
    model = make_model(data)
    features = Features(model)
    samples = TensorDataset(inputs, data.train.labels)
    asked = (data.train.labels >= 0).sum(1) if task == "language" else None
    if asked is not None:
        samples.lengths = asked  # not DataPlan(lengths=...), which would sort the batches by them
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr)
    plan = DataPlan(
        samples,
        epochs=round(epochs * settings.pop("epochs", 1)),
        batch_size=batch_size,
        seed=seed,
        kind=data.kind,
        **settings,
    )
    schedule = plan.lr_scheduler(optimizer, lambda progress: (1 + math.cos(math.pi * progress)) / 2)

    start = time.process_time()
    for _ in plan.epochs_left():
        for batch in plan.batches():
            outputs = model(batch.inputs)
            losses = plan.kind.sample_loss(outputs, batch.labels)
            said = {"features": features.found} if arm.startswith("data_agent") else {}
            if asked is not None:
                said["tokens"] = asked[batch.index]
            optimizer.zero_grad()
            plan.loss(batch, losses, outputs=outputs, **said).backward()
            optimizer.step()
            schedule.step()
    seconds = time.process_time() - start
    return {
        "task": task,
        "arm": arm,
        "seed": seed,
        "epochs": epochs,
        "metric": tested(model, data),
        "samples": plan.cost.trained,
        "tokens": plan.cost.tokens,
        "seconds": round(seconds, 3),
        "state_bytes": state_bytes(plan.state_dict()),
        "facts": common.facts(torch.device("cpu")),
    }


@torch.no_grad()
def tested(model: nn.Module, data: Dataset) -> float:
    """The metric of the kind on the test split."""
    assert data.kind is not None
    outputs = model.eval()(scaled(data, data.test.images))
    loss = data.kind.sample_loss(outputs, data.test.labels)
    return float(data.kind.metric(data.kind.statistics(outputs, data.test.labels, loss).sum(0)))


def key_of(row: dict[str, Any]) -> tuple[Any, ...]:
    return row["task"], row["arm"], row["epochs"], row["seed"]


def print_table(rows: list[dict[str, Any]]) -> None:
    """Means over seeds; differences and ratios to all data on the same seeds, with 95 % intervals."""
    columns = "metric | less all data | samples | tokens | seconds, of all data's | state, kB | seeds"
    print(f"| kind | arm | {columns} |")
    print("|---|---|---|---|---|---|---|---|---|")
    found = {key_of(row): row for row in rows}
    for task, epochs in sorted({(row["task"], row["epochs"]) for row in rows}):
        for arm in arms_of(task):
            seeds = [seed for name, way, length, seed in found if (name, way, length) == (task, arm, epochs)]
            seeds = [seed for seed in seeds if (task, "all data", epochs, seed) in found]
            if not seeds:
                continue
            own, every = ([found[task, name, epochs, seed] for seed in seeds] for name in (arm, "all data"))
            metric, less, share = np.array(
                [
                    (one["metric"], one["metric"] - all_["metric"], one["seconds"] / all_["seconds"])
                    for one, all_ in zip(own, every, strict=True)
                ]
            ).T
            low, high = interval(less)
            apart = "" if arm == "all data" else f"{less.mean():+.4f} [{low:+.4f}, {high:+.4f}]"
            state = np.mean([row["state_bytes"] for row in own]) / 1000
            samples = np.mean([row["samples"] for row in own])
            tokens = np.mean([row.get("tokens", 0) for row in own])
            seen = f"{samples:,.0f} | {f'{tokens:,.0f}' if tokens else '-'}"
            print(
                f"| {task}, {epochs} epochs | {arm} | {metric.mean():.4f} | {apart} | {seen} "
                f"| {np.median(share):.2f} | {state:.0f} | {len(seeds)} |"
            )


def main(arguments: list[str] | None = None) -> None:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--tasks", nargs="*", choices=list(TASKS), default=list(TASKS))
    made.add_argument("--arms", nargs="*", choices=list(arms_of("language")), help="default: all")
    made.add_argument("--seeds", type=int, default=10)
    made.add_argument("--longer", type=int, default=1, help="times the epochs of a kind")
    made.add_argument("--json", type=Path, required=True, help="one line a run; gone on with")
    made.add_argument("--table", action="store_true", help="print what the file has, run nothing")
    args = made.parse_args(arguments)

    torch.set_num_threads(1)
    lines = args.json.read_text().splitlines() if args.json.is_file() else []
    rows = [json.loads(line) for line in lines]
    done = {key_of(row) for row in rows}
    for seed in range(0 if args.table else args.seeds):
        for task in args.tasks:
            for arm in arms_of(task):
                key = (task, arm, epochs_of(task, args.longer), seed)
                if key in done or arm not in (args.arms or arms_of(task)):
                    continue
                rows.append(trained(task, arm, seed, args.longer))
                with args.json.open("a") as file:
                    file.write(json.dumps(rows[-1]) + "\n")
    print_table(rows)


if __name__ == "__main__":
    main()
