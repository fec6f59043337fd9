"""The bar on one screen: what agents gain on a random subset, where they help, where not; the verdicts."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from transfer_rows import Row
from transfer_statistics import Differences, Interval, holm, paired, share_of, together

KINDS = ("clean", "symmetric", "pair", "human", "open-set", "long tail", "500 samples", "shifted test")
NOISE_KINDS = ("symmetric", "pair", "human", "open-set")
COLUMNS = {
    "small_loss": "small",
    "trim": "trim",
    "trim_oracle": "oracle",
    "infobatch": "infobatch",
    "data_agent": "data_agent",
    "all_data": "all data",
    "policy": "policy",
    "policy_guarded": "guarded",
    "bad": "bad",
    "bad_guarded": "bad guarded",
}
HARM = -0.5  # points: no row may lie wholly below
ORACLE_SHARE = 80  # percent of the oracle's gain
BAD_COSTS = 1.0  # points that a bad policy may cost
WORST = 4

Line = Mapping[str, Any]


class Results:
    """Figures of all runs, by row, agent and seed.

    Args:
        lines: as they stand in the file.
        rows: those to look at.
    """

    def __init__(self, lines: Iterable[Line], rows: Sequence[Row]) -> None:
        self.figures: dict[str, dict[int, dict[str, Any]]] = {}
        self.wrong: dict[str, float] = {}
        for line in lines:
            self.figures.setdefault(line["row"], {}).setdefault(line["seed"], {}).update(line["agents"])
            self.wrong[line["row"]] = max(line["wrong"], self.wrong.get(line["row"], 0.0))
        self.rows = [row for row in rows if row.name in self.figures]

    def of_kind(self, kind: str) -> list[Row]:
        return [row for row in self.rows if row.kind == kind]

    @property
    def noisy(self) -> list[Row]:
        """Rows with wrong labels."""
        return [row for row in self.rows if self.wrong[row.name] > 0]

    def differences(self, row: Row, agent: str, other: str, what: str = "accuracy") -> Differences:
        """Figures of one agent minus those of another on the seeds that both have, (S,)."""
        seeds = self.figures[row.name]
        pairs = [
            (seeds[seed][agent][what], seeds[seed][other][what])
            for seed in sorted(seeds)
            if what in seeds[seed].get(agent, {}) and what in seeds[seed].get(other, {})
        ]
        return np.array([mine - theirs for mine, theirs in pairs], np.float64)

    def gains(self, rows: Sequence[Row], agent: str, other: str = "random", what: str = "accuracy") -> list:
        """Those of each row that has any."""
        found = [self.differences(row, agent, other, what) for row in rows]
        return [values for values in found if len(values)]

    def mean(self, rows: Sequence[Row], agent: str, other: str = "random") -> Interval | None:
        """Mean difference over rows; None where there is none."""
        found = self.gains(rows, agent, other)
        return together(found) if found else None

    def agents(self) -> list[str]:
        """Those that were run, in the order of the columns."""
        there = {agent for seeds in self.figures.values() for runs in seeds.values() for agent in runs}
        return [agent for agent in COLUMNS if agent in there]

    def values(self, agent: str, what: str) -> list[float]:
        """A figure of an agent in all runs."""
        runs = [runs for row in self.rows for runs in self.figures[row.name].values()]
        return [found[agent][what] for found in runs if what in found.get(agent, {})]


def summary(lines: Sequence[Line], rows: Sequence[Row]) -> str:
    """Tables and verdicts, as text."""
    results = Results(lines, rows)
    if not results.rows:
        return "no row of this set is in the file"
    agents = results.agents()
    about = [agent for agent in ("policy", "policy_guarded") if agent in agents] or [
        agent for agent in ("trim",) if agent in agents
    ]
    parts = [_head(lines, results, len(rows)), _by_kind(results, agents), _helps(results, agents)]
    parts += [_worst(results, agent) for agent in about]
    return "\n\n".join([*parts, _verdicts(results)])


def _head(lines: Sequence[Line], results: Results, wanted: int) -> str:
    counts = sorted({len(results.figures[row.name]) for row in results.rows})
    seeds = f"{counts[0]} seeds" if len(counts) == 1 else f"{counts[0]} to {counts[-1]} seeds"
    digests = sorted({line["policy"][:12] for line in lines if line.get("policy")})
    cpus = sorted({line["machine"]["cpu"] for line in lines})
    versions = sorted({f"torch {line['machine']['torch']}" for line in lines})
    words = [
        f"{len(results.rows)} of {wanted} rows, {seeds} each",
        *(f"policy {digest}" for digest in digests),
    ]
    quick = ["QUICK: figures mean nothing"] if any(line.get("quick") for line in lines) else []
    few = any(len(results.figures[row.name]) < row.seeds for row in results.rows)
    fewer = ["FEWER SEEDS than the bar asks for, so verdicts are weak"] if few else []
    return "; ".join([*words, *cpus, *versions, *quick, *fewer])


def _by_kind(results: Results, agents: Sequence[str]) -> str:
    """Gain over a random subset of the same size in points, mean over the rows of each kind."""
    groups = [(kind, results.of_kind(kind)) for kind in KINDS]
    groups += [("all with wrong labels", results.noisy), ("all rows", results.rows)]
    heads = ["points over random", "rows", *(COLUMNS[agent] for agent in agents)]
    body = []
    for name, rows in groups:
        if rows:
            means = [results.mean(rows, agent) for agent in agents]
            body.append([name, str(len(rows)), *("-" if mean is None else str(mean) for mean in means)])

    rare = [results.gains(results.of_kind("long tail"), agent, what="rare") for agent in agents]
    if any(rare):
        cells = [str(together(found)) if found else "-" for found in rare]
        body.append(["rare third of the tails", str(len(results.of_kind("long tail"))), *cells])
    return _table(heads, body)


def _helps(results: Results, agents: Sequence[str]) -> str:
    """Rows in which the 95 % interval of each agent lies above 0, below, or on both sides."""
    lines = []
    for agent in agents:
        found: dict[str, list[str]] = {"better": [], "worse": [], "neither": []}
        for row in results.rows:
            values = results.differences(row, agent, "random")
            low, high = paired(values)[1:] if len(values) > 1 else (math.nan, math.nan)
            found["better" if low > 0 else "worse" if high < 0 else "neither"].append(row.kind)
        where = ", ".join(f"{kind} {count}" for kind, count in Counter(found["worse"]).most_common())
        lines.append(
            [
                COLUMNS[agent],
                str(len(found["better"])),
                str(len(found["neither"])),
                str(len(found["worse"])),
                where,
            ]
        )
    return _table(["rows that are", "better", "neither", "worse", "than random: where worse"], lines)


def _worst(results: Results, agent: str) -> str:
    """The rows with the lowest mean, with Holm's intervals over all rows."""
    found = _corrected(results, agent)
    body = [[row.name, str(interval)] for row, interval in found[:WORST]]
    heads = [f"worst rows of {COLUMNS[agent]}", "points over random, Holm's 95 % interval"]
    return _table(heads, body)


def _corrected(results: Results, agent: str) -> list[tuple[Row, Interval]]:
    """Rows with Holm's intervals against -0.5 points, the lowest mean first."""
    rows = [row for row in results.rows if len(results.differences(row, agent, "random"))]
    intervals = holm([results.differences(row, agent, "random") for row in rows], HARM)
    return sorted(zip(rows, intervals, strict=True), key=lambda pair: pair[1].mean)


# Verdicts


def verdicts(results: Results) -> list[tuple[str, bool | None, str]]:
    """What must be shown, whether it is, and the figures; None where it was not measured."""
    found = []
    for agent in ("policy", "policy_guarded"):
        found += _of_policy(results, agent)
    found.append(_against_trim(results))
    found.append(_bad_policy(results))
    return found


def _of_policy(results: Results, agent: str) -> list[tuple[str, bool | None, str]]:
    """The bars of a policy with or without its guard."""
    name = "guard on" if agent.endswith("guarded") else "guard off"
    titles = (
        f"{name}: no row wholly below {HARM}",
        f"{name}: no kind of noise below 0",
        f"{name}: {ORACLE_SHARE} % of the oracle's gain under noise",
        f"{name}: ahead of random on clean rows",
    )
    if agent not in results.agents():
        return [(title, None, "") for title in titles]

    harmed = [row for row, interval in _corrected(results, agent) if interval.high < HARM]
    means = {kind: results.mean(results.of_kind(kind), agent) for kind in NOISE_KINDS}
    known = {kind: mean for kind, mean in means.items() if mean is not None}
    lowest = min(known, key=lambda kind: known[kind].mean, default="")
    clean = results.mean(results.of_kind("clean"), agent)
    share = _oracle_share(results, agent)
    return [
        (titles[0], not harmed, f"{len(harmed)} rows" + (f", first {harmed[0].name}" if harmed else "")),
        (
            titles[1],
            all(mean.mean >= 0 for mean in known.values()) if known else None,
            f"lowest {lowest} {known[lowest]}" if known else "",
        ),
        (
            titles[2],
            None if share is None else share.mean >= ORACLE_SHARE,
            "" if share is None else f"{share.mean:.0f} % ({share.low:.0f} to {share.high:.0f})",
        ),
        (titles[3], None if clean is None else clean.mean > 0, "" if clean is None else str(clean)),
    ]


def _oracle_share(results: Results, agent: str) -> Interval | None:
    """Share of the oracle's gain on the rows with wrong labels, on the seeds that both have."""
    mine, oracle = [], []
    for row in results.noisy:
        seeds = {
            seed: runs
            for seed, runs in results.figures[row.name].items()
            if {agent, "trim_oracle", "random"} <= runs.keys()
        }
        if seeds:
            gains = [
                [runs[name]["accuracy"] - runs["random"]["accuracy"] for runs in seeds.values()]
                for name in (agent, "trim_oracle")
            ]
            mine.append(np.array(gains[0]))
            oracle.append(np.array(gains[1]))
    if not mine or sum(map(np.mean, oracle)) <= 0:  # there is nothing to take a share of
        return None
    return share_of(mine, oracle)


def _against_trim(results: Results) -> tuple[str, bool | None, str]:
    title = "guard off: ahead of trim under noise"
    found = results.mean(results.noisy, "policy", "trim")
    return (title, None, "") if found is None else (title, found.mean > 0, str(found))


def _bad_policy(results: Results) -> tuple[str, bool | None, str]:
    title = f"guard on: a bad policy costs at most {BAD_COSTS:g} point"
    found = results.mean(results.rows, "bad_guarded")
    if found is None:
        return title, None, ""
    alone = results.mean(results.rows, "bad")
    return title, found.mean >= -BAD_COSTS, f"{found}" + (f", without guard {alone}" if alone else "")


def _verdicts(results: Results) -> str:
    words = {True: "REACHED", False: "NOT REACHED", None: "not measured"}
    lines = [[words[is_met], title, figures] for title, is_met, figures in verdicts(results)]
    for agent in ("policy_guarded", "bad_guarded"):
        acted, share = results.values(agent, "acted"), results.values(agent, "share")
        if agent in results.agents() and not acted:
            lines.append(["", f"the guard of {COLUMNS[agent]}", "does not say the policy's share"])
        if acted:
            figures = f"{np.mean(acted):.0%} of epochs; mean share of the policy {np.mean(share):.0%}"
            lines.append(["", f"the guard took {COLUMNS[agent]} back in", figures])
    share = _oracle_share(results, "trim")
    if share is not None:
        figures = f"{share.mean:.0f} % ({share.low:.0f} to {share.high:.0f})"
        lines.append(["", "trim: share of the oracle's gain", figures])
    return _table(["bar", "", "points, or what is said"], lines)


def _table(heads: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """A markdown table with even columns."""
    widths = [max(len(line[n]) for line in (heads, *body)) for n in range(len(heads))]
    lines = [heads, ["-" * width for width in widths], *body]
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |"
        for line in lines
    )
