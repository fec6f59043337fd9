"""The table of half of the data on every kind of task, from `benchmarks/kinds.py`."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from tables_format import source, stored, table, within
from transfer_statistics import paired

FILE = "kinds.jsonl"
HALF = "all data, half the epochs"
FEWEST = 3
"""Seeds of a row that is shown."""
METRICS = {
    "classification": "accuracy",
    "multilabel": "micro F1",
    "regression": "R2",
    "segmentation": "mean IoU",
    "language": "exact answers",
}


def claims() -> str:
    """Metric, differences and cost of each way to spend half of the budget."""
    heads = ["kind, epochs", "trained on", "metric, %", "less all data", f"less {HALF}", "samples", "tokens"]
    return table([*heads, "seconds", "seeds"], list(lines())) + "\n\n" + source(FILE, COMMAND)


COMMAND = "python benchmarks/kinds.py --seeds 10 [--longer 3] --json benchmarks/results/kinds.jsonl"


def lines() -> Iterator[list[str]]:
    runs: dict[tuple[str, int], dict[str, dict[int, Any]]] = {}  # by kind and epochs, then arm, then seed
    for row in stored(FILE):
        runs.setdefault((row["task"], row["epochs"]), {}).setdefault(row["arm"], {})[row["seed"]] = row

    for (task, epochs), arms in sorted(
        runs.items(), key=lambda run: (list(METRICS).index(run[0][0]), run[0])
    ):
        every, cheap = arms.get("all data", {}), arms.get(HALF, {})
        for arm in sorted(arms, key=lambda arm: (arm != "all data", arm != HALF)):  # these two first
            own = {seed: row for seed, row in arms[arm].items() if seed in every and seed in cheap}
            if len(own) >= FEWEST:
                yield line(task, epochs, arm, own, every, cheap)


def line(task: str, epochs: int, arm: str, own: Any, every: Any, cheap: Any) -> list[str]:
    """One way to spend a budget; runs by seed."""

    def less(others: Any) -> str:
        found = paired(
            np.array([100 * (row["metric"] - others[seed]["metric"]) for seed, row in own.items()])
        )
        return within(found.mean, (found.high - found.low) / 2, ".2f")

    def share(what: str) -> float:
        return float(np.median([row[what] / every[seed][what] for seed, row in own.items()]))

    kind = f"{task} ({METRICS[task]}), {epochs}" if arm == "all data" else ""
    metric = 100 * np.mean([row["metric"] for row in own.values()])
    tokens = f"{share('tokens'):.2f}" if task == "language" else ""
    return [
        kind,
        arm,
        f"{metric:.2f}",
        "" if arm == "all data" else less(every),
        "" if arm == HALF else less(cheap),
        f"{share('samples'):.2f}",
        tokens,
        f"{share('seconds'):.2f}",
        str(len(own)),
    ]


TABLES: dict[str, Callable[[], str]] = {"kinds-claims": claims}
