"""What a guard costs, how soon it finds a choice that does harm, and how often it stops a good one.

    python benchmarks/guard.py --first-seed 0 --seeds 10 --jobs 16 --json guard.jsonl

The MLP, tables and recipes of benchmarks/trim.py: 12 epochs, batch 32, half of the data an epoch, 2,000
samples, 0, 20 and 40 % of the labels redrawn. Policies of the control "curriculum" with one answer each:

- good: trims what seems wrong and draws the rest at random, as the selector `trim`;
- easy: leaves out most of the largest losses, on clean data too;
- bad: the largest losses, trimming nothing;
- and the shipped policy "curriculum", where there is one.

Each without a guard, with one whose safe choice is "random" or "trim" (the default), and with the latter
where the loop scores the reserve by a forward pass, in place of training steps that it rides along in. One
line of JSON a run; those that are there are not run again. Seeds 100 and more chose the guard's settings.
"""

import argparse
import json
import math
import warnings
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import facts
from torch import nn
from torch.nn import functional as F
from trim import EPOCHS, RATES, RECIPES, redrawn, split

import dsenv
from dsenv import DataPlan
from dsenv.control.observation import feature_names
from dsenv.control.registry import make_control
from dsenv.policy.actors import MlpActor, build_actor
from dsenv.policy.card import PolicyCard
from dsenv.policy.policy import Policy, describe_network

TABLES = ("digits", "optdigits", "letter")
WEIGHTS = {"good": (0, 0, 0, 0, 0), "easy": (2, 2, 2, 0, -5), "bad": (-5, -2.5, 0, 2.5, 5)}
TRIM = {"good": 1.0}  # of the others nothing is trimmed
GUARDS: dict[str, dict[str, Any]] = {
    "off": {},
    "random": {"safe": "random"},
    "trim": {"safe": "trim"},
    "scored": {"safe": "trim"},
}
POLICIES = (*WEIGHTS, "curriculum")
ARMS = ("random", "trim", *(f"{policy} {guard}" for policy in POLICIES for guard in GUARDS))
SHARE, WARNED = "guard/share of the policy", "guard/warned"
Key = tuple[str, str, float, int, str]


def constant(name: str) -> Policy:
    """A policy that always gives the same action."""
    settings = {"name": "curriculum"}
    control = make_control(settings, 5, 0.5)
    action = control.encode(log_weight=np.array(WEIGHTS[name]), trim=TRIM.get(name, 0.0))
    with torch.random.fork_rng():
        actor = MlpActor(len(feature_names(5, control)), [8], control.size, "tanh", "gaussian")
    weights = {part: torch.zeros_like(value) for part, value in actor.network.state_dict().items()}
    weights["layers.1.bias"] = torch.tensor(action, dtype=torch.float32)
    network = describe_network(actor)
    card = PolicyCard(
        network=network,
        control=settings,
        bins=5,
        ratio=0.5,
        actions="box",
        rank_by="loss",
        intervals=EPOCHS,
        validation_shown=0.0,
    )
    return Policy(build_actor(network, weights), card)


def plan_settings(arm: str) -> dict[str, Any]:
    """Selector, or policy and guard, of an arm."""
    policy, _, guard = arm.partition(" ")
    if not guard:
        return {"selector": policy}
    chosen = constant(policy) if policy in WEIGHTS else policy
    return {"policy": chosen, "guard": GUARDS[guard] if guard != "off" else False}


def train(key: Key) -> dict[str, Any]:
    """One training run, as a row."""
    torch.set_num_threads(1)
    name, recipe, rate, seed, arm = key
    inputs, labels, test_inputs, test_labels = split(name, seed)
    classes = int(max(labels.max(), test_labels.max())) + 1
    given = redrawn(labels, rate, classes, 10 + seed)
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(inputs.shape[1], 64), nn.ReLU(), nn.Linear(64, classes))
    sizes = {"epochs": EPOCHS, "batch_size": 32, "ratio": 0.5, "classes": classes}
    plan = DataPlan((inputs, given), **sizes, **plan_settings(arm), seed=seed)
    parameters = model.parameters()
    if recipe == "adamw":
        optimizer: torch.optim.Optimizer = torch.optim.AdamW(parameters, lr=3e-3)
        schedule = plan.lr_scheduler(optimizer, lambda progress: 1.0)
    else:
        optimizer = torch.optim.SGD(parameters, lr=0.1, momentum=0.9)
        schedule = plan.lr_scheduler(optimizer, lambda progress: (1 + math.cos(math.pi * progress)) / 2)

    shares, warned, wrong = [], [], []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in plan.epochs_left():
            for batch in plan.batches():
                logits = model(batch.inputs)
                losses = F.cross_entropy(logits, batch.labels, reduction="none")
                loss = plan.loss(batch, losses, logits=logits)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
            if arm.endswith("scored"):
                plan.score_reserve(model)
            said, chosen = plan.metrics(), plan.epoch_sampler.chosen
            trained = chosen.index[chosen.weight > 0]
            shares.append(round(said.get(SHARE, math.nan), 4))
            warned.append(said.get(WARNED, 0.0))
            wrong.append(round(float((given != labels)[trained].float().mean()), 4))
    with torch.no_grad():
        accuracy = float((model(test_inputs).argmax(1) == test_labels).float().mean())
    row = dict(zip(("table", "recipe", "rate", "seed", "arm"), key, strict=True))
    found = {"accuracy": accuracy, "compute": plan.cost.compute, "wrong": wrong}
    guard = {"share": shares, "warned": sum(map(bool, warned))} if plan.guard else {}
    return {**row, **found, **guard, "machine": facts(torch.device("cpu"))}


def interval(values: list[float]) -> str:
    """Mean with a 95 % interval, and the worst."""
    half = 1.96 * np.std(values, ddof=1) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return f"{np.mean(values):+.2f} ± {half:.2f}"


def summary(rows: list[dict[str, Any]]) -> None:
    """Gains over a random half, and what guards did."""
    found: dict[tuple[str, str, float], dict[str, dict[int, float]]] = defaultdict(lambda: defaultdict(dict))
    for row in rows:
        found[row["table"], row["recipe"], row["rate"]][row["arm"]][row["seed"]] = 100 * row["accuracy"]

    # Paired by seed; a setting is a table, a recipe and a share of wrong labels
    print("\n| arm | " + " | ".join(f"{rate:.0%} wrong: gain, worst setting" for rate in RATES) + " |")
    print("|---" * (1 + len(RATES)) + "|")
    for arm in dict.fromkeys(row["arm"] for row in rows):
        cells = []
        for rate in RATES:
            each, worst = [], math.inf
            for arms in (arms for key, arms in found.items() if key[2] == rate):
                gains = [value - arms["random"][s] for s, value in arms[arm].items() if s in arms["random"]]
                each += gains
                worst = min([worst, *([np.mean(gains)] if gains else [])])
            cells.append(f"{interval(each)}, {worst:+.1f}" if each else "")
        print(f"| {arm} | " + " | ".join(cells) + " |")

    print("\n| arm | wrong labels | share of the policy by epoch | warned in | after epochs | compute |")
    print("|---" * 6 + "|")
    guarded = [row for row in rows if "share" in row]
    for arm, rate in product(dict.fromkeys(row["arm"] for row in guarded), RATES):
        own = [row for row in guarded if row["arm"] == arm and row["rate"] == rate]
        if own:
            shares = " ".join(f"{100 * value:.0f}" for value in np.mean([row["share"] for row in own], 0))
            warned = [len(row["share"]) - row["warned"] for row in own if row["warned"]]
            when = f"{np.median(warned):.0f}" if warned else ""
            cost = np.mean([row["compute"] for row in own])
            print(f"| {arm} | {rate:.0%} | {shares} | {len(warned) / len(own):.0%} | {when} | {cost:.0f} |")


def missing(args: argparse.Namespace, rows: list[dict[str, Any]]) -> Iterator[Key]:
    """The runs that are not there yet, one seed after the other."""
    done = {(row["table"], row["recipe"], row["rate"], row["seed"], row["arm"]) for row in rows}
    for seed in range(args.first_seed, args.first_seed + args.seeds):
        for name, recipe, rate, arm in product(args.tables, RECIPES, RATES, args.arms):
            if (name, recipe, rate, seed, arm) not in done:
                yield name, recipe, rate, seed, arm


def main() -> None:
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--tables", nargs="+", default=TABLES, choices=(*TABLES, "penbased", "texture"))
    parser.add_argument("--arms", nargs="+", default=usable(), choices=ARMS)
    parser.add_argument("--jobs", type=int, default=1, help="processes, of one thread each")
    parser.add_argument("--json", type=Path, default=Path("guard.jsonl"))
    args = parser.parse_args()

    rows = [json.loads(line) for line in args.json.read_text().splitlines()] if args.json.is_file() else []
    keys = list(missing(args, rows))
    with ProcessPoolExecutor(args.jobs) as pool, args.json.open("a") as file:
        for row in map(train, keys) if args.jobs == 1 else pool.map(train, keys, chunksize=4):
            rows.append(row)
            file.write(json.dumps(row) + "\n")
            file.flush()
    summary(rows)


def usable() -> list[str]:
    """The arms whose policy there is."""
    try:
        dsenv.pretrained("curriculum")
    except (ValueError, FileNotFoundError):
        return [arm for arm in ARMS if not arm.startswith("curriculum")]
    return list(ARMS)


if __name__ == "__main__":
    main()
