"""Tables of rules: trim, human label noise, batch losses, wrong labels found; other kinds of task."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from tables_format import gains, mean_of, parts, points, source, stored, table, within
from tables_policies import bar, by_kind
from transfer_statistics import paired

Rows = Sequence[dict[str, Any]]


def trim() -> str:
    """Gain over a random half on five tables of data and two recipes, by the share of wrong labels."""
    names = {"small_loss": "smallest losses", "trim": "**`trim`**", "true rate": "`trim` told the true share"}
    body = []
    for rate in (0.0, 0.2, 0.4):
        own = [row["accuracy"] for row in stored("trim.json")["rows"] if row["rate"] == rate]
        cells = []
        for name in names:
            gain = 100 * np.array([row[name] - row["random"] for row in own])
            half = 1.96 * gain.std(ddof=1) / math.sqrt(len(gain))
            cells.append(f"{within(gain.mean(), half)}, worst {gain.min():+.1f}")
        base = 100 * np.mean([row["random"] for row in own])
        body.append([f"{rate:.0%}", str(len(own)), f"{base:.1f}", *cells])
    heads = [
        "wrong labels",
        "runs",
        "random half, %",
        *(f"{name}: points over it" for name in names.values()),
    ]
    return parts(table(heads, body), source("trim.json"))


def rules() -> str:
    """All rules and all data on the rows to tune on."""
    agents = {
        "small_loss": "smallest losses",
        "trim": "`trim`",
        "infobatch": "`infobatch` at half",
        "data_agent": "`data_agent`",
        "all_data": "all data",
    }
    command = (
        "python benchmarks/transfer.py --set tune --seeds 2 --agents random small_loss trim trim_oracle "
        "infobatch data_agent all_data"
    )
    results = bar("transfer_tune_rules.jsonl", "tune")
    return parts(by_kind(results, agents), source("transfer_tune_rules.jsonl", command))


# Human label noise

RECIPES = {
    "linear": "linear model",
    "MLP, calm": "MLP that ends early",
    "MLP, long": "MLP that goes on",
}
LABELS = {
    "right": "right",
    "human": "one human rater",
    "by class": "the same, dealt out by class",
    "symmetric": "symmetric",
}
HUMAN_AGENTS = {
    "small_loss": "smallest losses",
    "trim": "`trim`",
    "infobatch": "`infobatch`",
    "order_dp": "`order_dp`",
    "data_agent": "`data_agent`",
    "policy": "shipped policy",
    "right half": "told what is wrong: right half",
    "all data": "all data",
    "all right": "told what is wrong: all right",
}


def human_rows() -> list[tuple[str, str, Rows]]:
    """Recipe, labels and lines, in the order of the tables."""
    lines = stored("human_noise.jsonl")
    found = []
    for recipe in RECIPES:
        for labels in LABELS:
            own = [line for line in lines if (line["recipe"], line["labels"]) == (recipe, labels)]
            found.append((recipe, labels, own))
    return found


def human() -> str:
    """Points over a random half with labels of ten raters, and of noise that is like it but for one thing."""
    body = []
    for recipe, labels, own in human_rows():
        cells = [points(found) if (found := gains(own, agent)) else "" for agent in HUMAN_AGENTS]
        base = f"{mean_of(own, 'random', 'accuracy'):.1f}"
        body.append([f"{RECIPES[recipe]}, {LABELS[labels]}", str(len(own)), base, *cells])
    heads = ["model and labels", "seeds", "random half, %", *HUMAN_AGENTS.values()]
    return parts(
        table(heads, body), source("human_noise.jsonl", "python benchmarks/human_noise.py --seeds 10")
    )


def human_behind() -> str:
    """What the signals tell of wrong labels."""
    body = []
    for recipe, labels, own in human_rows():
        if labels == "right":
            continue
        reads = [row["agents"]["all data"]["reads"] for row in own]
        auc = [np.mean([read[epoch]["AUC of loss"] for read in reads]) for epoch in ("1", "4", "12")]
        doubt = np.mean([read["12"]["AUC of doubt"] for read in reads])
        among = np.mean([read["4"]["wrong among the largest losses"] for read in reads])
        chosen = [mean_of(own, agent, "wrong") for agent in ("random", "small_loss", "trim")]
        cells = [", ".join(f"{value:.1f}" for value in chosen), ", ".join(f"{value:.2f}" for value in auc)]
        body.append([f"{RECIPES[recipe]}, {LABELS[labels]}", *cells, f"{doubt:.2f}", f"{100 * among:.0f}"])
    heads = [
        "model and labels",
        "wrong among the chosen, %: random, smallest losses, `trim`",
        "AUC of the loss after epochs 1, 4, 12",
        "AUC of the raters' doubt",
        "wrong among as many largest losses, %",
    ]
    return table(heads, body)


# The loss of a batch


def batch_loss() -> str:
    """InfoBatch with batch losses, own losses and random scores."""
    agents = ("own losses", "batch losses, 0.9", "batch losses, 0.7", "random", "all data")
    body = []
    for data, title in (("digits", "digits"), ("fashion", "Fashion-MNIST")):
        lines = [row for row in stored("batch_loss.jsonl") if row["data"] == data]
        base = np.array([row["agents"]["random scores"]["accuracy"] for row in lines])
        cells = []
        for agent in agents:
            own = np.array([row["agents"][agent]["accuracy"] for row in lines])
            cells.append(f"{points_fine(own - base)} ({100 * mean_of(lines, agent, 'share'):.0f} %)")
        share = 100 * mean_of(lines, "random scores", "share")
        body.append([title, f"{base.mean():.2f} ({share:.0f} %)", *cells])
        ranks = [f"{last_rank(lines, agent):.2f}" for agent in agents[:3]]
        body.append([f"{title}: rank correlation with the own loss after epoch 15", "", *ranks, "", ""])
    heads = ["data (share used)", "random scores, %", *(f"{name}: points over it" for name in agents)]
    return parts(table(heads, body), source("batch_loss.jsonl", "python benchmarks/batch_loss.py --seeds 5"))


def points_fine(values: np.ndarray) -> str:
    found = paired(values)
    return within(found.mean, found.high - found.mean, ".2f")


def last_rank(lines: Rows, agent: str, epoch: int = 15) -> float:
    return float(np.mean([row["agents"][agent]["correlation"][epoch - 1] for row in lines]))


# Wrong labels found in one training run

FINDERS = (
    "all data",
    "random half",
    "small_loss half",
    "policy half",
    "one half for good",
    "cleanlab, 5 folds",
)


def suspect_runs() -> dict[tuple[str, str], dict[str, Rows]]:
    """Runs of each finder, by data and noise."""
    found: dict[tuple[str, str], dict[str, Rows]] = {}
    for study in stored("suspects.json"):
        for row in study["rows"]:
            found.setdefault((row["setting"], row["noise"]), {})[row["finder"]] = row["runs"]
    return found


def suspects() -> str:
    """The ranking at the true number, and the proposal that needs no noise rate."""
    body, totals = [], {finder: [] for finder in FINDERS}
    for (data, noise), finders in suspect_runs().items():
        cells = []
        for finder in FINDERS:
            means = [
                100 * np.mean([run[what] for run in finders[finder]])
                for what in ("at_true", "precision", "recall")
            ]
            totals[finder].append(means)
            cells.append(f"{means[0]:.0f} ({means[1]:.0f} / {means[2]:.0f})")
        body.append([data, noise.replace("pair_flip", "pair flips"), *cells])
    means = [np.mean(values, axis=0) for values in totals.values()]
    body.append(["**mean**", "", *(f"**{m[0]:.0f} ({m[1]:.0f} / {m[2]:.0f})**" for m in means)])
    costs = []
    for finder in FINDERS:
        samples = [run["samples"] for own in suspect_runs().values() for run in own[finder]]
        costs.append(f"{np.mean(samples):.2f}")
    body.append(["samples trained on, of one run on all data", "", *costs])
    note = "cleanlab trains five models on four fifths of the data each; 3 seeds."
    return parts(table(["data", "wrong labels", *FINDERS], body), f"{note} {suspects_source()}")


def suspects_source() -> str:
    study = stored("suspects.json")[0]
    facts = study["facts"]
    return (
        f"`{study['command']}`; {facts['cpu']}, {facts['threads']} thread, torch {facts['torch']}, "
        f"scikit-learn {facts['scikit-learn']}, cleanlab {facts['cleanlab']} "
        "([JSON](RESULTS/suspects.json))."
    )


# Other kinds of task

DRAWS = 10_000


KIND_NAMES = {"curriculum": "`curriculum`, as shipped", "ppo": "PPO, trained there"}


def kind(env: str) -> str:
    """Metric of each agent in an environment, and its difference from random on the same seeds."""
    rows = [row for row in stored("kinds_env.json")["rows"] if row["env"] == env]
    own = {row["agent"]: np.array(row["metric"]) for row in rows}
    base = dict.fromkeys(own, own["random"])
    if env.startswith("Segmentation"):  # the trained agent was evaluated apart, beside a random of its own
        apart = stored("segmentation_ppo.json")["agents"]
        own["ppo"], base["ppo"] = (np.array(apart[name][: len(own["random"])]) for name in ("ppo", "random"))

    body = []
    for name, values in own.items():
        cells = []
        for number, mean in enumerate(values.mean(1)):
            over = "" if name == "random" else bootstrap(values[number] - base[name][number])
            cells += [f"{mean:.3f}", over]
        body.append([KIND_NAMES.get(name, f"`{name}`"), *cells])
    heads = ["agent"]
    for share in rows[0]["noise"]:
        heads += [f"{share:.0%}", "over random"]
    return table(heads, body)


def bootstrap(apart: np.ndarray) -> str:
    """Mean with the 95 % bootstrap interval over seeds."""
    draws = np.random.default_rng(0).integers(len(apart), size=(DRAWS, len(apart)))
    low, high = np.quantile(apart[draws].mean(1), [0.025, 0.975])
    return f"{apart.mean():+.3f} [{low:+.3f}, {high:+.3f}]"


def between(env: str, agent: str, other: str, share: float) -> str:
    """Difference of two agents at a share of exchanged targets."""
    rows = [row for row in stored("kinds_env.json")["rows"] if row["env"] == env]
    number = rows[0]["noise"].index(share)
    own = {row["agent"]: np.array(row["metric"][number]) for row in rows}
    return bootstrap(own[agent] - own[other])


def kind_says(env: str) -> str:
    """The trained agent beside the rule it begins as, and the smallest losses."""
    at = (0.2, 0.4)
    lines = []
    for other in ("trim", "small_loss"):
        found = [f"{between(env, 'ppo', other, share)} at {100 * share:.0f} %" for share in at]
        lines.append(f"minus `{other}` is {' and '.join(found)}")
    return f"The trained agent (one seed) {', and '.join(lines)}."


LANGUAGE_NAMES = {
    "all_data": "all data (twice the samples)",
    "curriculum": "`curriculum`, shipped",
    "ppo_language": "PPO, 640 steps, its last policy",
}


def language() -> str:
    """Exact answers of a small decoder in percent, two training runs an agent."""
    found: dict[str, list[dict[str, Any]]] = {}
    for row in stored("language_env.json")["agents"]:
        found.setdefault(row["agent"], []).append(row)
    body = []
    for name, rows in found.items():
        cells = []
        for row in sorted(rows, key=lambda row: row["context"]["label_noise"]):
            mean, low, high, over = (
                100 * row[key]
                for key in ("accuracy_mean", "accuracy_low", "accuracy_high", "over_random_mean")
            )
            cells += [f"{mean:.1f} ({low:.1f} to {high:.1f})", "" if name == "random" else f"{over:+.1f}"]
        body.append([LANGUAGE_NAMES.get(name, f"`{name}`"), *cells])
    return table(["agent", "clean", "over random", "40 % exchanged", "over random"], body)


def language_learning() -> str:
    """Exact answers after training on all data with right answers, by generator and level."""
    runs = stored("language_env.json")["learning"]
    found: dict[str, dict[str, float]] = {}
    for name in runs[0]["levels"]:
        generator, level = name.rsplit(" ", 1)
        found.setdefault(generator, {})[level] = 100 * np.mean([run["levels"][name] for run in runs])
    body = [
        [f"`{name}`", *(f"{own[level]:.0f}" if level in own else "" for level in "123")]
        for name, own in found.items()
    ]
    exact, scorer = (" and ".join(f"{100 * run[key]:.1f}" for run in runs) for key in ("metric", "scorer"))
    seconds = " and ".join(f"{run['seconds']:.0f}" for run in runs)
    line = (
        f"All of them: {exact} % (two seeds), by the scorers of reasoning-gym {scorer} %, in {seconds} "
        "seconds of processor time."
    )
    return parts(table(["exact answers, %", "level 1", "2", "3"], body), line)


TABLES: dict[str, Callable[[], str]] = {
    "trim": trim,
    "rules": rules,
    "human-noise": human,
    "human-noise-behind": human_behind,
    "batch-loss": batch_loss,
    "suspects": suspects,
    "kind-multilabel": lambda: kind("MultiLabel-Curriculum-v0"),
    "kind-regression": lambda: kind("Regression-Curriculum-v0"),
    "kind-segmentation": lambda: kind("Segmentation-Curriculum-v0"),
    "kind-language": language,
    "kind-language-learning": language_learning,
    "kind-multilabel-says": lambda: kind_says("MultiLabel-Curriculum-v0"),
    "kind-regression-says": lambda: kind_says("Regression-Curriculum-v0"),
}
