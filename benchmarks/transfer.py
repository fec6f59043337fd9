"""The shipped curriculum policy at half of the data, on settings it never saw, against other agents.

Each row is a setting: Fashion-MNIST with an MLP (5,000 images) and a CNN (2,000), other subset sizes,
pair flips instead of symmetric noise, and a long tail of 1:50. All agents train on the same seeds at equal
sample presentations; test accuracy in percent, with half the 95 % bootstrap interval. The policy acts with
the validation accuracy and without it, as in a loop of one's own that has no validation split.

python benchmarks/transfer.py --seeds 32 --json transfer.json
"""

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from common import choose_device, facts, parser, report

import dsenv
from dsenv.agents.learned import LearnedAgent
from dsenv.catalogue import definition
from dsenv.evaluation.compare import Entry, Row, evaluate

ENV = "FashionMNIST-Curriculum-v0"
CNN = {
    "dataset": {"train": 2000, "validation": 500},
    "model": {"name": "small_cnn", "width": 8, "norm": "none"},
    "recipe": {"optimizer": "adamw", "lr": 5e-3, "batch_size": 32},
}
Setting = tuple[dict[str, Any], list[dict[str, float]]]

SETTINGS: dict[str, Setting] = {
    "MLP": ({}, [{"label_noise": rate} for rate in (0.0, 0.2, 0.4)]),
    "MLP, 1,000 images": ({}, [{"subset": 0.2, "label_noise": rate} for rate in (0.0, 0.2, 0.4)]),
    "MLP, 2,500 images": ({}, [{"subset": 0.5, "label_noise": rate} for rate in (0.0, 0.4)]),
    "MLP, pair flips": ({}, [{"label_noise": 0.0, "pair_flip": rate} for rate in (0.2, 0.4)]),
    "MLP, long tail 1:50": ({}, [{"imbalance": 0.02, "label_noise": rate} for rate in (0.0, 0.2)]),
    "CNN, 2,000 images": (
        {"task": CNN, "intervals": 24, "trainer": {"precision": "bf16", "channels_last": True}},
        [{"label_noise": rate} for rate in (0.0, 0.2, 0.4)],
    ),
}
RIVALS = ("all_data", "random", "infobatch", "small_loss", "data_agent")


def main() -> int:
    args = options()
    torch.set_num_threads(1)
    device = choose_device(args.device)
    policy = args.policy or "curriculum"
    entries = [Entry(name, dsenv.load("agents", name)) for name in args.rivals]
    entries += [
        Entry("policy", LearnedAgent(policy, {"validation_shown": 1.0})),
        Entry("policy without validation", LearnedAgent(policy, {"validation_shown": 0.0})),
    ]
    names = [entry.name for entry in entries]
    rows = []
    for setting in args.settings:
        overrides, contexts = SETTINGS[setting]
        if args.quick:
            overrides, contexts = merge_quick(overrides), contexts[:1]
        env = definition("envs", ENV).with_overrides({**overrides, "evaluation_contexts": contexts})
        seeds = 2 if args.quick else args.cnn_seeds if setting.startswith("CNN") else args.seeds
        found = evaluate(env, entries, "policy", seeds=seeds, device=str(device))
        for number, context in enumerate(found.contexts):
            own = {row.agent: row for row in found.rows[number * len(names) : (number + 1) * len(names)]}
            rows.append(line(setting, context, own, names))
        if args.json:  # a long run keeps what it has
            args.json.with_suffix(".partial.json").write_text(json.dumps(rows, indent=1))
    heads = ["setting", "seeds", *names, "without validation less the better of random and infobatch"]
    heads += ["less all data"]
    report(args, facts(device), heads, rows)
    return 0


def options() -> argparse.Namespace:
    made = parser(__doc__, repeats=1)
    made.add_argument("--seeds", type=int, default=32, help="trainings of each agent in each setting")
    made.add_argument("--cnn-seeds", type=int, default=8, help="the same, of the CNN")
    made.add_argument("--policy", type=Path, help="a policy file (default: the shipped one)")
    made.add_argument("--rivals", nargs="*", default=list(RIVALS), choices=list(RIVALS))
    made.add_argument("--settings", nargs="+", default=list(SETTINGS), choices=list(SETTINGS))
    return made.parse_args()


def merge_quick(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Sizes for a smoke run."""
    small = {"dataset": {"train": 200, "validation": 100, "test": 100}}
    return {**overrides, "task": {**overrides.get("task", {}), **small}}


def line(
    setting: str, context: Mapping[str, float], own: Mapping[str, Row], names: list[str]
) -> dict[str, Any]:
    """One row of the table."""
    mean = {name: 100 * own[name].accuracy_mean for name in names}
    half = {name: 50 * (own[name].accuracy_high - own[name].accuracy_low) for name in names}
    blind = mean["policy without validation"]
    nan = float("nan")  # where a rival was left out
    over_best = blind - max(mean.get("random", nan), mean.get("infobatch", nan))
    over_all = blind - mean.get("all_data", nan)
    rate = context.get("label_noise", 0) + context.get("pair_flip", 0)
    cells = [f"{setting}, {rate:.0%} wrong", str(own["policy"].seeds)]
    cells += [f"{mean[name]:.1f} ± {half[name]:.1f}" for name in names]
    cells += [f"{over_best:+.1f}", f"{over_all:+.1f}"]
    shares = {name: own[name].compute for name in names}
    return {
        "setting": setting,
        "context": dict(context),
        "seeds": own["policy"].seeds,
        "accuracy": mean,
        "half_interval": half,
        "compute": shares,
        "over_best_at_budget": over_best,
        "over_all_data": over_all,
        "cells": cells,
    }


if __name__ == "__main__":
    sys.exit(main())
