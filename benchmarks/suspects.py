"""Wrong labels found by `plan.suspects()` in one training run, beside cleanlab with 5-fold cross-validation.

    OMP_NUM_THREADS=1 python benchmarks/suspects.py [--json PATH]

Labels of clean data are made wrong (5, 20 and 40 % symmetric, 20 % by the next class), a model is trained on
them, and what is found is compared with what was changed. Data: scikit-learn's digits (1,397 images, MLP),
Fashion-MNIST (3,000 images, MLP; 2,000 images, CNN; left out where it is not installed) and the table
breast cancer (469 rows, 2 classes, MLP). Selections: all data; half of it in each epoch at random, by small
loss and by the shipped curriculum policy; and one random half for good, whose other half nobody visits.

cleanlab (pip install cleanlab; its rows are left out where it is missing) gets the probabilities of five
models, each trained on four fifths of the data in the same loop with the same settings, on the fifth that it
did not see: `find_label_issues` as it is by default, and `get_label_quality_scores` to rank.

One row for each data set, noise and finder, mean and standard deviation over the seeds, in percent:

- likely: rows in the proposal (`suspects.likely`, cleanlab's issues) over the wrong labels there are;
- precision and recall of that proposal, among the samples that were visited;
- at the true number: precision (= recall) of the first rows, as many as there are wrong labels;
- AP: average precision of the ranking. Beside it that of other rankings from the same run: by the mean margin
  of the probabilities, by the mean loss, by the margin at the last visit and by forgetting events;
- said: where a wrong label was proposed, how often `said` is the right class (only dsenv);
- never visited: their share of the data, and the share of wrong labels among them;
- samples trained on, over those of one run on all data, and seconds of processor time (training and finding).

--repeats is the number of seeds. Nothing here was tuned on these figures but the choice between the rankings.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import common
import numpy as np
import torch
from methods import light_cnn
from sklearn.metrics import average_precision_score
from sklearn.model_selection import StratifiedKFold
from torch import Tensor, nn
from torch.nn import functional as F

from dsenv.plan import DataPlan
from dsenv.tasks.corruption import add_noise
from dsenv.tasks.digits import digits
from dsenv.tasks.fashion_mnist import fashion_mnist
from dsenv.tasks.models import mlp
from dsenv.tasks.tabular import breast_cancer
from dsenv.tasks.task import seeded_model

NOISES = (("symmetric", 0.05), ("symmetric", 0.2), ("symmetric", 0.4), ("pair_flip", 0.2))
SELECTIONS: dict[str, dict[str, Any]] = {
    "all data": {"selector": "random"},
    "random half": {"selector": "random", "ratio": 0.5},
    "small_loss half": {"selector": "small_loss", "ratio": 0.5, "uniform_epochs": 1},
    "policy half": {"policy": "curriculum", "ratio": 0.5},
    "one half for good": {"selector": "fixed_random", "ratio": 0.5},
}
BATCH, FOLDS = 64, 5
DATA = ("digits", "table", "mlp", "cnn")
RIVALS = ("probability margin", "mean loss", "last margin", "forgetting")


@dataclass(frozen=True)
class Setting:
    """Clean data, and how a model is trained on them."""

    name: str
    inputs: Tensor
    labels: Tensor
    classes: int
    make: Callable[[], nn.Module]
    epochs: int
    lr: float


class Means:
    """Mean over visits of what other rankings go by."""

    def __init__(self, size: int) -> None:
        self.sums = torch.zeros(3, size)
        self.seconds = 0.0
        """Time spent here, which is not counted."""

    def add(self, index: Tensor, logits: Tensor, labels: Tensor, losses: Tensor) -> None:
        start = time.process_time()
        probability = logits.softmax(1)
        own = probability.gather(1, labels[:, None])[:, 0]
        margin = own - probability.scatter(1, labels[:, None], -1.0).amax(1)
        self.sums[:, index] += torch.stack([-margin, losses, torch.ones_like(losses)])
        self.seconds += time.process_time() - start

    def scores(self) -> tuple[Tensor, Tensor]:
        """Minus the mean margin of the probabilities, and the mean loss; the higher, the more suspect."""
        margin, loss, visits = self.sums
        return margin / visits, loss / visits


def train(
    setting: Setting, inputs: Tensor, labels: Tensor, seed: int, means: Means | None, **parts: Any
) -> tuple[DataPlan, nn.Module]:
    """One training run: SGD with momentum, its learning rate falling to 0."""
    model = seeded_model(setting.make, seed)
    optimizer = torch.optim.SGD(model.parameters(), setting.lr, momentum=0.9, weight_decay=5e-4)
    plan = DataPlan(
        (inputs, labels),
        epochs=setting.epochs,
        batch_size=BATCH,
        classes=setting.classes,
        seed=seed,
        **parts,
    )
    scheduler = plan.lr_scheduler(optimizer, lambda progress: 1 - progress)
    for _ in plan.epochs_left():
        for batch in plan.batches():
            logits = model(batch.inputs)
            losses = F.cross_entropy(logits, batch.labels, reduction="none")
            loss = plan.loss(batch, losses, logits=logits)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scheduler.step()
            if means is not None:
                means.add(batch.index, logits.detach(), batch.labels, losses.detach())
    return plan, model


def found_by_dsenv(setting: Setting, given: Tensor, seed: int, selection: str) -> dict[str, float]:
    """Figures of `plan.suspects()` with a selection."""
    wrong, means = given != setting.labels, Means(len(given))
    start = time.process_time()
    plan, _ = train(setting, setting.inputs, given, seed, means, **SELECTIONS[selection])
    table = plan.suspects()
    seconds = time.process_time() - start - means.seconds

    position, likely, missed = table.position, table.likely, table.never_visited
    caught = wrong[likely.position]
    own = plan.signals
    others = (*means.scores(), -own.margin, own.forgetting_events)
    ranked = {
        name: precision(wrong[position], scores[position])
        for name, scores in zip(RIVALS, others, strict=True)
    }
    right = likely.said == setting.labels[likely.position]

    return {
        **proposal(likely.position, wrong, len(position), int(wrong[position].sum())),
        "at_true": at_true(wrong[position]),
        "ap": precision(wrong[position], table.score),
        **ranked,
        "said": float(right[caught].float().mean()) if caught.any() else float("nan"),
        "never": len(missed) / len(given),
        "never_wrong": float(wrong[missed].float().mean()) if len(missed) else float("nan"),
        "samples": plan.cost.trained / (setting.epochs * len(given)),
        "seconds": seconds,
    }


def found_by_cleanlab(setting: Setting, given: Tensor, seed: int) -> dict[str, float]:
    """Figures of cleanlab on the probabilities of five models."""
    from cleanlab.filter import find_label_issues
    from cleanlab.rank import get_label_quality_scores

    wrong = given != setting.labels
    start, trained = time.process_time(), 0
    probability = torch.zeros(len(given), setting.classes)
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
    for fit, held in folds.split(np.zeros(len(given)), given.numpy()):
        plan, model = train(setting, setting.inputs[fit], given[fit], seed, None)
        trained += plan.cost.trained
        model.eval()
        with torch.no_grad():
            probability[held] = model(setting.inputs[held]).softmax(1)

    issues = find_label_issues(
        given.numpy(), probability.numpy(), return_indices_ranked_by="self_confidence", n_jobs=1
    )
    quality = torch.from_numpy(get_label_quality_scores(given.numpy(), probability.numpy()))
    seconds = time.process_time() - start
    return {
        **proposal(torch.from_numpy(issues), wrong, len(given), int(wrong.sum())),
        "at_true": at_true(wrong[quality.argsort(stable=True)]),
        "ap": precision(wrong, -quality),
        "samples": trained / (setting.epochs * len(given)),
        "seconds": seconds,
    }


def proposal(positions: Tensor, wrong: Tensor, visited: int, there: int) -> dict[str, float]:
    """Size, precision and recall of a proposal among the visited samples, `there` of which are wrong."""
    caught = int(wrong[positions].sum())
    return {
        "visited": visited,
        "likely": len(positions) / max(there, 1),
        "precision": caught / max(len(positions), 1),
        "recall": caught / max(there, 1),
    }


def at_true(wrong: Tensor) -> float:
    """Share of wrong labels among as many first rows as there are; `wrong` is in the order of the ranking."""
    return float(wrong[: int(wrong.sum())].float().mean())


def precision(wrong: Tensor, score: Tensor) -> float:
    """Average precision of a ranking from high to low scores."""
    return float(average_precision_score(wrong.numpy(), score.numpy()))


def settings(names: list[str], quick: bool) -> Iterator[Setting]:
    """The named data sets; Fashion-MNIST where it is installed."""
    if "digits" in names:
        split = digits(train=300 if quick else 1397, validation=200, test=200).train
        images = split.images.flatten(1).float() / 255
        make = lambda: mlp((64,), 10, (64, 64))  # noqa: E731
        yield Setting("digits, MLP", images, split.labels, 10, make, 2 if quick else 20, 0.1)
    if "table" in names:
        split = breast_cancer(train=469, validation=50, test=50).train
        make = lambda: mlp((30,), 2, (64, 64))  # noqa: E731
        yield Setting("breast cancer, MLP", split.images, split.labels, 2, make, 20, 0.05)

    try:
        many, few = fashion_mnist(train=3000).train, fashion_mnist(train=2000).train
    except FileNotFoundError as error:
        print(f"Fashion-MNIST is left out: {error}")
        return
    if "mlp" in names:
        make = lambda: mlp((784,), 10, (128, 128))  # noqa: E731
        yield Setting("Fashion-MNIST, MLP", scaled(many.images).flatten(1), many.labels, 10, make, 15, 0.05)
    if "cnn" in names:
        yield Setting("Fashion-MNIST, CNN", scaled(few.images), few.labels, 10, light_cnn, 12, 0.1)


def scaled(images: Tensor) -> Tensor:
    return (images.float() / 255 - 0.286) / 0.353


def row(setting: str, noise: str, finder: str, runs: list[dict[str, float]]) -> dict[str, Any]:
    """Figures of one finder over the seeds."""

    def cell(name: str, form: str = ".1f", scale: float = 100) -> str:
        values = [scale * run[name] for run in runs if name in run and run[name] == run[name]]
        if not values:
            return ""
        spread = f" ± {statistics.stdev(values):{form}}" if len(values) > 1 else ""
        return f"{statistics.mean(values):{form}}{spread}"

    never = f"{cell('never')}; {cell('never_wrong')} wrong" if runs[0].get("never") else ""
    names = ("likely", "precision", "recall", "at_true", "ap", *RIVALS, "said")
    cells = [setting, noise, finder, *(cell(name) for name in names), never]
    cells += [cell("samples", ".2f", 1), cell("seconds", ".2f", 1)]
    return {"setting": setting, "noise": noise, "finder": finder, "runs": runs, "cells": cells}


def has_cleanlab() -> bool:
    try:
        import cleanlab  # noqa: F401
    except ImportError:
        print("cleanlab is not installed: its rows are left out")
        return False
    return True


def measure(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """All rows."""
    finders: dict[str, Callable[[Setting, Tensor, int], dict[str, float]]] = {
        name: lambda setting, given, seed, name=name: found_by_dsenv(setting, given, seed, name)
        for name in SELECTIONS
    }
    if has_cleanlab():
        finders[f"cleanlab, {FOLDS} folds"] = found_by_cleanlab
    for setting in settings(args.data, args.quick):
        train(replace(setting, epochs=1), setting.inputs, setting.labels, 0, None)  # warms up
        for kind, rate in NOISES[1:2] if args.quick else NOISES:
            runs: dict[str, list[dict[str, float]]] = {name: [] for name in finders}
            for seed in range(args.repeats):
                # Not the seed of the run: a selector that draws the same numbers would know the wrong ones
                generator = torch.Generator().manual_seed(1000 + seed)
                given = add_noise(kind, setting.labels, rate, setting.classes, generator)
                for name, find in finders.items():
                    runs[name].append(find(setting, given, seed))
            for name, values in runs.items():
                yield row(setting.name, f"{rate:.0%} {kind}", name, values)


def main() -> None:
    """Print the table."""
    parser = common.parser(__doc__, repeats=3)
    parser.add_argument("--data", nargs="+", default=list(DATA), choices=DATA, help="these data sets alone")
    args = parser.parse_args()
    if args.quick:
        args.repeats, args.data = 1, ["digits"]
    common.choose_device("cpu")
    heads = ["data", "wrong labels", "finder", "likely", "precision", "recall", "at the true number", "AP"]
    heads += [f"AP, {name}" for name in RIVALS] + ["said", "never visited", "samples", "seconds"]
    rows = list(measure(args))
    common.report(args, common.facts(torch.device("cpu"), ("scikit-learn", "cleanlab")), heads, rows)


if __name__ == "__main__":
    main()
