"""Human label noise: which selectors find it, at half of the data, and what they are up against.

    python benchmarks/human_noise.py --seeds 10 --json human_noise.jsonl
    python benchmarks/human_noise.py --summary human_noise.jsonl

7,217 words, each rated by ten people (`words.py` says what to install): classes bad, neither, good. Each
seed draws 2,000 words to train on and 2,000 others to test on, whose labels are the median of the ten
ratings. The labels to train on are right (the median), human (the vote of one of the ten, drawn for each
word), or wrong at the same rate in two ways that forget the words: "by class" deals out the human labels
anew among the words of one right class, "symmetric" draws words and classes at random. What human labels
have over "by class" is which words are wrong; what "by class" has over "symmetric" is which classes.

Three recipes of 12 epochs: a linear model and an MLP that end before they know the labels by heart, and an
MLP that goes on. Agents share words, labels, initial parameters and seed, so differences are paired.
"right half" and "all right" know which labels are wrong and leave these out: what exact knowledge is worth.

One line of JSON for each recipe, kind of labels and seed; those that are there are not run again. A seed
takes a minute and a half of processor time.
"""

import argparse
import json
import math
import sys
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from common import facts
from scipy.stats import rankdata, spearmanr
from torch import Tensor
from torch.nn import functional as F
from transfer_data import Trial, rated, what_is_missing
from transfer_rows import Row
from transfer_runs import EPOCHS, build_model, policies
from transfer_statistics import paired

from dsenv import DataPlan, Selection, Selector
from dsenv.plan import FeatureForward
from dsenv.select.trim import estimated_noise_rate
from dsenv.tasks.corruption import symmetric_noise

SAMPLES = TEST = 2000
RECIPES = {
    "linear": Row("words", "adamw", 1e-3, "cosine", "clean", hidden=()),
    "MLP, calm": Row("words", "adamw", 1e-3, "cosine", "clean", batch=64),
    "MLP, long": Row("words", "adamw", 3e-3, "constant", "clean"),
}
LABELS = ("right", "human", "by class", "symmetric")
RULES = ("random", "small_loss", "trim", "trim_oracle", "infobatch", "order_dp", "data_agent")
AGENTS = (*RULES, "policy", "right half", "all data", "all right")
LOOKED_AT = (1, 2, 4, 8, 12)  # epochs after which the signals are read
FIRST_CHOSEN = 3  # epoch, from 0, from which on what was chosen is counted
Rows = list[dict[str, Any]]
OTHERS = [agent for agent in AGENTS if agent != "random"]
TOLD = (
    "AUC of loss",
    "AUC of mean margin",
    "AUC of doubt",
    "wrong among the largest losses",
    "doubt of wrong labels",
    "doubt of right labels",
    "doubt of right labels among them",
    "loss and doubt, right labels",
    "estimated rate",
)


class Words(NamedTuple):
    """What one seed trains on, and how doubtful its words are."""

    trial: Trial
    doubt: Tensor
    """(N,) share of the raters who are not of the median's class."""
    test_doubt: Tensor


class Right(Selector):
    """Draws from the samples whose label is right, and takes others only when there are no more.

    Args:
        wrong: (N,) bool, which labels are wrong.
    """

    def __init__(self, wrong: Tensor) -> None:
        self.wrong = wrong

    def select(self, signals: Any, count: int, generator: torch.Generator) -> Selection:
        order = torch.rand(signals.size, generator=generator) + 2 * self.wrong
        return Selection(order.argsort()[:count], torch.ones(count))


def draw(kind: str, seed: int) -> Words:
    """Words and labels of a seed; the words are the same for each kind of labels."""
    features, clean, raters = rated()
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(clean), generator=generator)
    test, train = order[:TEST], order[TEST : TEST + SAMPLES]

    doubt = (raters != clean[:, None]).float().mean(1)
    rater = torch.randint(raters.shape[1], (len(train),), generator=generator)
    human = raters[train].long().gather(1, rater[:, None]).squeeze(1)
    given = {
        "right": lambda: clean[train],
        "human": lambda: human,
        "by class": lambda: shuffled_within(clean[train], human, generator),
        "symmetric": lambda: symmetric_noise(
            clean[train], float((human != clean[train]).float().mean()), 3, generator
        ),
    }[kind]()

    mean, deviation = features[train].mean(0), features[train].std(0) + 1e-6
    scaled = [(features[part] - mean) / deviation for part in (train, test)]
    trial = Trial(scaled[0], given, given != clean[train], scaled[1], clean[test], 3)
    return Words(trial, doubt[train], doubt[test])


def shuffled_within(clean: Tensor, given: Tensor, generator: torch.Generator) -> Tensor:
    """The given labels (N,), exchanged at random among samples of the same clean class."""
    out = given.clone()
    for name in clean.unique():
        where = (clean == name).nonzero().squeeze(1)
        out[where] = given[where[torch.randperm(len(where), generator=generator)]]
    return out


def parts(agent: str, trial: Trial) -> dict[str, Any]:
    """What the agent is, as arguments of `DataPlan`."""
    rate = float(trial.wrong.float().mean())
    if agent == "policy":
        return {"policy": policies(None)["policy"], "ratio": 0.5, "guard": False}
    others: Mapping[str, dict[str, Any]] = {
        "all data": {"ratio": 1.0},
        "all right": {"selector": Right(trial.wrong), "ratio": 1 - rate},
        "right half": {"selector": Right(trial.wrong), "ratio": 0.5},
        "trim_oracle": {"selector": {"name": "trim", "rate": rate}, "ratio": 0.5},
    }
    return others.get(agent) or {"selector": agent, "ratio": 0.5}


def train(row: Row, words: Words, seed: int, agent: str) -> dict[str, Any]:
    """Figures of one training run; accuracies in percent."""
    trial = words.trial
    model = build_model(row, trial, seed)
    plan = DataPlan(
        (trial.inputs, trial.given),
        epochs=EPOCHS,
        batch_size=row.batch,
        classes=trial.classes,
        seed=seed,
        **parts(agent, trial),
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=row.lr)
    shapes = {"constant": lambda progress: 1.0, "cosine": lambda p: (1 + math.cos(math.pi * p)) / 2}
    schedule = plan.lr_scheduler(optimizer, shapes[row.schedule])
    forward = FeatureForward(model, model[-1]) if plan.selector.needs_features else None

    chosen, reads = [], {}
    for epoch in plan.epochs_left():
        for batch in plan.batches():
            logits, features = (model(batch.inputs), None) if forward is None else forward(batch.inputs)
            losses = F.cross_entropy(logits, batch.labels, reduction="none")
            loss = plan.loss(batch, losses, logits=logits, features=features)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            if epoch >= FIRST_CHOSEN:
                chosen.append(batch.index)
        if agent == "all data" and epoch + 1 in LOOKED_AT:
            plan.start_epoch(epoch + 1)  # the signals take in the epoch
            reads[epoch + 1] = read(plan, words)

    index = torch.cat(chosen)
    wrong = trial.wrong[index]
    shares = {"wrong": wrong.float().mean(), "doubt": words.doubt[index[~wrong]].mean()}
    found = score(model, words) | {name: round(100 * float(value), 2) for name, value in shares.items()}
    return {**found, "reads": reads} if reads else found


@torch.no_grad()
def score(model: torch.nn.Module, words: Words) -> dict[str, float]:
    """Accuracy on the test words, on those that all raters place alike and on the others, in percent.

    "by heart" are the wrong labels that the model gives back.
    """
    trial = words.trial
    is_right = (model(trial.test_inputs).argmax(1) == trial.test_labels).float()
    clear = words.test_doubt == 0
    found = {"accuracy": is_right, "clear": is_right[clear], "doubtful": is_right[~clear]}
    if trial.wrong.any():
        found["by heart"] = (model(trial.inputs).argmax(1) == trial.given).float()[trial.wrong]
    return {name: round(100 * float(value.mean()), 3) for name, value in found.items()}


def read(plan: DataPlan, words: Words) -> dict[str, float]:
    """How well the signals tell wrong labels from right ones, and what else they go with."""
    signals, wrong, doubt = plan.signals, words.trial.wrong.numpy(), words.doubt.numpy()
    loss, right = signals.loss.numpy(), ~wrong
    found = {"loss and doubt, right labels": spearmanr(loss[right], doubt[right]).statistic}
    found["estimated rate"] = estimated_noise_rate(signals.margin, signals.seen)
    found |= {"doubt of right labels": doubt[right].mean()}
    if wrong.any():
        scores = {
            "loss": loss,
            "loss_ema": signals.loss_ema.numpy(),
            "margin": -signals.margin.numpy(),
            "mean margin": -signals.label_history.margin.numpy(),
            "entropy": signals.entropy.numpy(),
            "doubt": doubt,
        }
        found |= {f"AUC of {name}": auc(value, wrong) for name, value in scores.items()}

        # As many of the largest losses as labels are wrong, and the half with the smallest
        order = np.argsort(-loss)
        top, half = order[: wrong.sum()], order[len(order) // 2 :]
        found |= {
            "loss of wrong labels": loss[wrong].mean(),
            "loss of right labels": loss[right].mean(),
            "doubt of wrong labels": doubt[wrong].mean(),
            "wrong among the largest losses": wrong[top].mean(),
            "doubt of right labels among them": doubt[top][right[top]].mean(),
            "wrong among the smallest half": wrong[half].mean(),
        }
    return {name: round(float(value), 4) for name, value in found.items()}


def auc(score: np.ndarray, wrong: np.ndarray) -> float:
    """Probability that a wrong label scores above a right one; ties count half."""
    ranks, count = rankdata(score), int(wrong.sum())
    return float((ranks[wrong].sum() - count * (count + 1) / 2) / (count * (len(wrong) - count)))


def differences(rows: Rows, agent: str, base: str = "random") -> str:
    """Points of accuracy of an agent over another, paired by seed, with a 95 % interval."""
    if agent not in rows[0]["agents"]:
        return ""
    found = [row["agents"][agent]["accuracy"] - row["agents"][base]["accuracy"] for row in rows]
    return str(paired(np.array(found)))


def mean_of(rows: Rows, agent: str, name: str) -> str:
    return f"{np.mean([row['agents'][agent][name] for row in rows]):.1f}"


def summary(rows: Rows) -> str:
    """Markdown: accuracies, what is chosen, and what the signals tell."""
    cases = [(recipe, kind) for recipe in RECIPES for kind in LABELS]
    groups = {key: [row for row in rows if (row["recipe"], row["labels"]) == key] for key in cases}
    groups = {key: group for key, group in groups.items() if group}
    lines = table("recipe, labels", ["seeds", "random half", *OTHERS])
    for (recipe, kind), group in groups.items():
        gains = [differences(group, agent) for agent in OTHERS]
        base = mean_of(group, "random", "accuracy")
        lines.append(line_of(f"{recipe}, {kind}", [str(len(group)), base, *gains]))

    shown = ("random", "small_loss", "trim", "policy", "order_dp")
    lines += table("wrong labels chosen / doubt of the right ones chosen, in percent", shown)
    for (recipe, kind), group in groups.items():
        cells = [f"{mean_of(group, a, 'wrong')} / {mean_of(group, a, 'doubt')}" for a in shown]
        lines.append(line_of(f"{recipe}, {kind}", cells))

    lines += table("all data, by epoch 1, 4, 12", TOLD)
    for (recipe, kind), group in groups.items():
        if kind != "right":
            lines.append(line_of(f"{recipe}, {kind}", [over_epochs(group, name) for name in TOLD]))
    return "\n".join(lines)


def over_epochs(rows: Rows, name: str) -> str:
    """A reading of the training on all data after epochs 1, 4 and 12, mean over seeds."""
    reads = [row["agents"]["all data"]["reads"] for row in rows]
    return ", ".join(f"{np.mean([read[epoch][name] for read in reads]):.2f}" for epoch in ("1", "4", "12"))


def table(first: str, heads: Sequence[str]) -> list[str]:
    """Head of a table, after an empty line."""
    return ["", line_of(first, heads), "|---" * (len(heads) + 1) + "|"]


def line_of(first: str, cells: Sequence[str]) -> str:
    return "| " + " | ".join([first, *cells]) + " |"


def run(seed: int, recipe: str, kind: str) -> dict[str, Any]:
    """All agents on one kind of labels with one recipe."""
    words = draw(kind, seed)
    knowing = ("right half", "all right", "trim_oracle")  # nothing to know where all labels are right
    agents = [agent for agent in AGENTS if kind != "right" or agent not in knowing]
    found = {agent: train(RECIPES[recipe], words, seed, agent) for agent in agents}
    wrong = round(float(words.trial.wrong.float().mean()), 4)
    return {"recipe": recipe, "labels": kind, "seed": seed, "wrong": wrong, "agents": found}


def main(arguments: Sequence[str] | None = None) -> int:
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--json", type=Path, default=Path("human_noise.jsonl"), metavar="PATH")
    parser.add_argument("--summary", type=Path, metavar="PATH", help="print the tables of a file")
    args = parser.parse_args(arguments)
    if args.summary:
        print(summary(read_lines(args.summary)))
        return 0
    if why := what_is_missing("words"):
        print(f"the rated words are not there: {why}", file=sys.stderr)
        return 1

    torch.set_num_threads(1)
    done = {(row["seed"], row["recipe"], row["labels"]) for row in read_lines(args.json)}
    seeds = range(args.first_seed, args.first_seed + args.seeds)
    for key in [key for key in product(seeds, RECIPES, LABELS) if key not in done]:
        found = {**run(*key), "machine": facts(torch.device("cpu"))}
        with args.json.open("a") as file:
            file.write(json.dumps(found) + "\n")
    print(summary(read_lines(args.json)))
    return 0


def read_lines(path: Path) -> Rows:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


if __name__ == "__main__":
    sys.exit(main())
