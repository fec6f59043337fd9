"""Tables of the other pages: the guard, what checks and logs cost, kills, made-up inputs."""

import statistics
from collections.abc import Callable
from typing import Any

import numpy as np
from tables_format import stored, table, within

RATES = (0.0, 0.2, 0.4)
ARMS = {
    "trim": "`trim`, the safe choice",
    "good off": "good, without a guard",
    "good trim": "good, with the guard",
    "easy trim": "easy, with the guard",
    "bad trim": "bad, with the guard",
    "bad scored": "bad, with the reserve scored",
}


def guard_runs() -> dict[str, dict[float, list[float]]]:
    """Points over a random half of each arm and share of wrong labels, paired by table, recipe and seed."""
    runs: dict[tuple[Any, ...], dict[str, float]] = {}
    for row in stored("guard.jsonl"):
        key = (row["table"], row["recipe"], row["rate"], row["seed"])
        runs.setdefault(key, {})[row["arm"]] = 100 * row["accuracy"]
    found: dict[str, dict[float, list[float]]] = {}
    for key, own in runs.items():
        for arm, accuracy in own.items():
            found.setdefault(arm, {}).setdefault(key[2], []).append(accuracy - own["random"])
    return found


def guard_rules() -> str:
    """The guard beside a good, an easy and a bad policy."""
    found, body = guard_runs(), []
    for arm, name in ARMS.items():
        gains = [np.array(found[arm][rate]) for rate in RATES]
        halves = [1.96 * gain.std(ddof=1) / np.sqrt(len(gain)) for gain in gains]
        cells = [within(gain.mean(), half, ".2f") for gain, half in zip(gains, halves, strict=True)]
        body.append([name, *cells])
    return table(["", "no wrong labels", "20 %", "40 %"], body)


def guard_warnings() -> str:
    """How often the guard warned, and when."""
    rows = [row for row in stored("guard.jsonl") if row.get("share")]
    groups = {
        "bad, wrong labels": [row for row in rows if row["arm"] == "bad trim" and row["rate"]],
        "good, wrong labels": [row for row in rows if row["arm"] == "good trim" and row["rate"]],
        "bad, no wrong labels": [row for row in rows if row["arm"] == "bad trim" and not row["rate"]],
    }
    body = []
    for name, own in groups.items():
        after = [len(row["share"]) - row["warned"] for row in own if row["warned"]]
        when = f"{statistics.median(after):.0f}" if after else ""
        body.append([name, f"{100 * len(after) / len(own):.0f} %", when])
    return table(["policy", "warned in", "after epochs, median of 12"], body)


def checks_cost() -> str:
    """Processor time of a plan's step before and after the checks."""
    body = []
    for row in stored("checks_cost.json")["rows"]:
        name = row["row"].replace("plan.loader", "`plan.loader`")
        before, after = (statistics.median(row[when]) for when in ("before", "after"))
        ratios = row["ratios"]
        spread = f"{row['median']:.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        body.append([name, f"{before:.3g}", f"{after:.3g}", spread])
    return table(["", "before, ms", "after, ms", "after / before: median (range)"], body)


def plan_log() -> str:
    """What the log of a plan adds to an epoch."""
    body = []
    for row in stored("plan_log.json")["rows"]:
        added = row["added_ms"]
        name = "`plan.metrics()`" if row["name"] == "metrics" else row["name"]
        share = f"{100 * added['median'] / row['epoch_ms']:.1f} %"
        body.append([name, f"{added['median']:.0f} ({added['low']:.0f} to {added['high']:.0f})", share])
    return table(["", "added ms an epoch", f"of the epoch's {row['epoch_ms'] / 1000:.1f} s"], body)


def run_cost() -> str:
    """Time and size of a run's pictures, curves and tables."""
    rounds = stored("run_cost.json")["rounds"]
    ratios = " and ".join(f"{own['ratios']['cpu_seconds']:.3f}" for own in rounds)
    size = rounds[0]["after"]["event_megabytes"]
    return (
        f"With pictures, curves and tables the default run took {ratios} times the processor seconds that "
        f"it took before there were any (two rounds), and its event files hold {size:.1f} MB: `python "
        "benchmarks/run_cost.py`, 2 shared cores of an AMD EPYC ([JSON](RESULTS/run_cost.json))."
    )


def made_up() -> str:
    """Counts of the newest run of made-up inputs."""
    content = stored("fuzz.json")
    entries = content["entry_points"].values()
    sums = {what: sum(own[what] for own in entries) for what in ("accepted", "refused", "wrong")}
    return (
        f"The newest run: {content['cases']:,} cases over {len(entries)} entry points (seed "
        f"{content['seed']}), {sums['accepted']:,} accepted, {sums['refused']:,} refused, no hang, and "
        f"{sums['wrong']} counted as wrong ([JSON](RESULTS/fuzz.json)). {content['note']}"
    )


def kills() -> str:
    """Runs and plans that were killed and went on."""
    runs, plans = stored("kills.json"), stored("plan_kills.json")
    body = []
    for name, moment in (("random", "at random moments"), ("aimed", "at changes to files")):
        own = runs[name]["summary"]
        body.append([f"training of an agent, killed {moment}", str(own["killed"]), str(own["equal"])])
    name = f"plan in a loader with workers, {plans['kills']} kills in all"
    body.append([name, str(plans["runs"]), str(plans["equal"])])
    return table(["", "killed", "equal to the run that was left alone"], body)


TABLES: dict[str, Callable[[], str]] = {
    "guard-rules": guard_rules,
    "guard-warnings": guard_warnings,
    "checks-cost": checks_cost,
    "plan-log": plan_log,
    "run-cost": run_cost,
    "made-up": made_up,
    "kills": kills,
}
