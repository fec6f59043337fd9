"""InfoBatch where only the loss of a batch is known (BLS), against own losses, random scores, and no choice.

    python benchmarks/batch_loss.py --seeds 10 --json batch_loss.jsonl
    python benchmarks/batch_loss.py --summary batch_loss.jsonl

Digits (1,297 to train on, MLP with 64 hidden units, 30 epochs in batches of 32) and 5,000 images of
Fashion-MNIST (MLP with 128, 20 epochs in batches of 128), AdamW at 1e-3 with a cosine. InfoBatch takes its
own number of samples, with full epochs in the last eighth; "random" draws as many as InfoBatch with own
losses took. Scores: own losses; a moving average of the batch losses with a decay of 0.9 or 0.7; the losses
in random places. Agents share data, initial parameters and seed, so differences are paired. After each epoch
the score of every sample is compared with its own loss at that moment, from a pass over the data.

One line of JSON for each data set and seed; those that are there are not run again. Without Fashion-MNIST in
dsenv's data folder only digits are run.
"""

import argparse
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from common import facts
from scipy.stats import spearmanr
from sklearn.datasets import load_digits
from torch import Tensor
from torch.nn import functional as F
from transfer_statistics import paired

from dsenv import DataPlan
from dsenv.tasks.fashion_mnist import fashion_mnist
from dsenv.tasks.models import mlp

RANDOM_SCORES = {"name": "infobatch", "scores": "random"}
AGENTS: dict[str, dict[str, Any]] = {
    "own losses": {"selector": "infobatch"},
    "random scores": {"selector": RANDOM_SCORES},
    "batch losses, 0.9": {"selector": "infobatch", "loss_of": "batch"},
    "batch losses, 0.7": {"selector": "infobatch", "loss_of": {"name": "batch", "decay": 0.7}},
    "random": {"selector": "random"},
    "all data": {"ratio": 1.0},
}
COMPARED = [name for name in AGENTS if name != "random scores"]
SHOWN = (2, 3, 5, 10, 15)  # epochs, and the last pruned one
Rows = list[dict[str, Any]]


class Data(NamedTuple):
    """Standardised inputs (N, ...) and labels (N,), to train on and to test on."""

    inputs: Tensor
    labels: Tensor
    test_inputs: Tensor
    test_labels: Tensor


class Setting(NamedTuple):
    """How a model is trained."""

    epochs: int
    batch: int
    hidden: int


SETTINGS = {"digits": Setting(30, 32, 64), "fashion": Setting(20, 128, 128)}


def draw(name: str, seed: int) -> Data:
    """The samples of a seed."""
    generator = torch.Generator().manual_seed(seed)
    if name == "digits":
        found = load_digits()
        inputs, labels = torch.from_numpy(found.data).float(), torch.from_numpy(found.target).long()
        order = torch.randperm(len(labels), generator=generator)
        train, test = order[500:], order[:500]
        parts = inputs[train], labels[train], inputs[test], labels[test]
    else:
        whole = fashion_mnist(validation=1, test=10_000)
        train = torch.randperm(len(whole.train.labels), generator=generator)[:5_000]
        images = whole.train.images[train], whole.test.images
        inputs, test_inputs = (part.float().flatten(1) / 255 for part in images)
        parts = inputs, whole.train.labels[train], test_inputs, whole.test.labels

    mean, deviation = parts[0].mean(0), parts[0].std(0) + 1e-2
    return Data((parts[0] - mean) / deviation, parts[1], (parts[2] - mean) / deviation, parts[3])


def train(data: Data, setting: Setting, seed: int, settings: dict[str, Any]) -> dict[str, Any]:
    """One training run: test accuracy in percent, share of the data, and what the scores are worth."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = mlp(tuple(data.inputs.shape[1:]), 10, [setting.hidden])
    plan = DataPlan(
        (data.inputs, data.labels), epochs=setting.epochs, batch_size=setting.batch, seed=seed, **settings
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    reduction = "mean" if "loss_of" in settings else "none"
    correlations = []
    for _ in plan.epochs_left():
        for batch in plan.batches():
            for group in optimizer.param_groups:  # after the epoch's number: its samples are not known before
                group["lr"] = 1e-3 * (1 + math.cos(math.pi * plan.progress)) / 2
            loss = plan.loss(batch, F.cross_entropy(model(batch.inputs), batch.labels, reduction=reduction))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        plan.start_epoch(plan.epoch + 1)  # the signals take in the epoch
        correlations.append(compared(model, data, plan))

    with torch.no_grad():
        right = (model(data.test_inputs).argmax(1) == data.test_labels).float().mean()
    share = plan.cost.trained / (setting.epochs * len(data.labels))
    return {"accuracy": round(100 * float(right), 3), "share": round(share, 4), "correlation": correlations}


@torch.no_grad()
def compared(model: torch.nn.Module, data: Data, plan: DataPlan) -> float:
    """Rank correlation of the signal `loss` and the loss of each sample now."""
    own = F.cross_entropy(model(data.inputs), data.labels, reduction="none")
    return round(float(spearmanr(own.numpy(), plan.signals.loss.numpy()).statistic), 4)


def run(name: str, seed: int) -> dict[str, Any]:
    """All agents on one data set with one seed."""
    data, setting = draw(name, seed), SETTINGS[name]
    found: dict[str, Any] = {}
    for agent, settings in AGENTS.items():
        if agent == "random":
            settings = {**settings, "ratio": found["own losses"]["share"]}
        found[agent] = train(data, setting, seed, settings)
    return {"data": name, "seed": seed, "agents": found}


def summary(rows: Rows) -> str:
    """Markdown: accuracies against random scores, shares, and correlations by epoch."""
    groups = {name: [row["agents"] for row in rows if row["data"] == name] for name in SETTINGS}
    groups = {name: group for name, group in groups.items() if group}
    lines = heading(["data", "seeds", "random scores", *COMPARED])
    for name, group in groups.items():
        base = np.array([agents["random scores"]["accuracy"] for agents in group])
        gains = [str(paired(np.array([row[a]["accuracy"] for row in group]) - base)) for a in COMPARED]
        lines.append(line_of([name, str(len(group)), f"{base.mean():.2f}", *gains]))
        shares = [100 * np.mean([row[a]["share"] for row in group]) for a in ("random scores", *COMPARED)]
        lines.append(line_of(["share of the data, percent", "", *(f"{share:.1f}" for share in shares)]))

    lines += ["", *heading(["rank correlation of score and own loss", *(f"epoch {e}" for e in SHOWN)])]
    for name, group in groups.items():
        for agent in [agent for agent in AGENTS if "losses" in agent]:
            found = np.array([agents[agent]["correlation"] for agents in group])
            lines.append(line_of([f"{name}, {agent}", *(interval(found[:, epoch - 1]) for epoch in SHOWN)]))
    return "\n".join(lines)


def heading(cells: Sequence[str]) -> list[str]:
    return [line_of(cells), "|---" * len(cells) + "|"]


def line_of(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def interval(values: np.ndarray) -> str:
    found = paired(values)
    return f"{found.mean:.2f} ± {found.high - found.mean:.2f}"


def is_there() -> bool:
    """Whether Fashion-MNIST can be read."""
    try:
        fashion_mnist(validation=1, test=1)
    except FileNotFoundError as error:
        print(f"Fashion-MNIST is left out: {error}", file=sys.stderr)
        return False
    return True


def read_lines(path: Path) -> Rows:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def main(arguments: Sequence[str] | None = None) -> int:
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--data", nargs="+", choices=list(SETTINGS), default=list(SETTINGS))
    parser.add_argument("--json", type=Path, default=Path("batch_loss.jsonl"), metavar="PATH")
    parser.add_argument("--summary", type=Path, metavar="PATH", help="print the tables of a file")
    args = parser.parse_args(arguments)
    if args.summary:
        print(summary(read_lines(args.summary)))
        return 0

    torch.set_num_threads(1)
    names = [name for name in args.data if name != "fashion" or is_there()]
    done = {(row["data"], row["seed"]) for row in read_lines(args.json)}
    for seed in range(args.seeds):
        for name in [name for name in names if (name, seed) not in done]:
            found = {**run(name, seed), "machine": facts(torch.device("cpu"))}
            with args.json.open("a") as file:
                file.write(json.dumps(found) + "\n")
    print(summary(read_lines(args.json)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
