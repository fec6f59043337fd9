"""Tables of the reproduction, from its JSON lines."""

import json
import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any

from reproduce_rows import Preset, Row, curve_runs, key, runs_of
from transfer_statistics import Interval, paired

GAIN = 0.2  # points that twice the epochs must gain, else data are redundant
ALL, FEWER = "all data", "all data, fewer epochs"
Line = dict[str, Any]


def read(path: Path) -> list[Line]:
    """The finished runs of a file; none where it is not there."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def points(interval: Interval, digits: int = 2) -> str:
    """A difference in points, with its interval where there is one."""
    if math.isnan(interval.low):
        return f"{interval.mean:+.{digits}f}"
    return f"{interval.mean:+.{digits}f} [{interval.low:+.{digits}f}, {interval.high:+.{digits}f}]"


def place(row: Row) -> tuple[str, ...]:
    """What a row is called among all of them."""
    return row.section, row.name, row.data, row.labels


class Results:
    """The finished runs of one preset, by what they follow from.

    Args:
        lines: the JSON lines.
        preset: of which runs are asked for.
        length: epochs of the rows, in the place of what the curve shows.
    """

    def __init__(self, lines: Sequence[Line], preset: Preset, length: int | None = None) -> None:
        self.preset = preset
        self.found = {key(line): line for line in lines}
        self.known_length = self.length()
        self.runs = runs_of(preset, length or self.known_length or preset.length)
        self._lines: dict[tuple[str, ...], dict[int, Line]] = {}
        self._rows: dict[tuple[str, ...], Row] = {}
        for run in self.runs:
            told = place(run.row)
            self._rows.setdefault(told, run.row)
            own = self._lines.setdefault(told, {})
            line = self.found.get(key(asdict(run)))
            if line is not None:
                own[run.seed] = line

    def curve(self, epochs: int) -> list[Line]:
        """The lines of one point of the curve."""
        runs = curve_runs(self.preset, epochs)
        return [self.found[k] for k in (key(asdict(run)) for run in runs) if k in self.found]

    def length(self) -> int | None:
        """The shortest length of the curve at which twice the epochs gain less than 0.2 points.

        None where the curve is not complete, or does not get there; decided on the held-out images.
        """
        means = {}
        for epochs in self.preset.curve:
            own = [100 * line["validation"] for line in self.curve(epochs)]
            if len(own) == self.preset.curve_seeds:
                means[epochs] = statistics.mean(own)
        short = (e for e in means if 2 * e in means and means[2 * e] - means[e] < GAIN)
        return min(short, default=None)

    def lines(self, row: Row) -> dict[int, Line]:
        """The finished runs of a row, by seed."""
        return self._lines[place(row)]

    def row(self, section: str, name: str, data: str = "main", labels: str = "clean") -> Row | None:
        """The row of that name, if the preset has it."""
        return self._rows.get((section, name, data, labels))

    def rows(self, section: str) -> list[Row]:
        return [row for row in self._rows.values() if row.section == section]

    def difference(self, row: Row | None, other: Row | None) -> Interval | None:
        """Accuracy of one row less that of another, in points, paired by seed; None without shared seeds."""
        if row is None or other is None or row == other:
            return None
        own, others = self.lines(row), self.lines(other)
        apart = [100 * (own[s]["accuracy"] - others[s]["accuracy"]) for s in own if s in others]
        return paired(apart) if apart else None

    def best_fixed(self, data: str) -> Row | None:
        """The fixed strength of the largest mean accuracy on the held-out images."""
        rows = [
            r for r in self.rows("sada") if r.data == data and r.name.startswith("fixed") and self.lines(r)
        ]

        def held_out(row: Row) -> float:
            return statistics.mean(line["validation"] for line in self.lines(row).values())

        return max(rows, key=held_out, default=None)

    def references(self, row: Row) -> dict[str, Row | None]:
        """What a row is compared with, by the title of the column."""
        where = (row.section, row.data, row.labels)
        own = self.row(row.section, row.against, row.data, row.labels) if row.against else None
        if row.section in ("data_agent", "policies"):
            return {"less random": self.row(where[0], "random", *where[1:])}
        if row.section == "sada":
            best = self.best_fixed(row.data)
            names = {"less none": "none", "less TrivialAugment": "trivial", "less EntAugment": "ent_augment"}
            found = {title: self.row("sada", name, row.data) for title, name in names.items()}
            return {**found, "less the best fixed strength": best}
        percent = f"{round(100 * row.ratio)} %" if row.share == 1 and row.ratio is not None else ""
        return {
            "less all data": self.row("pods", ALL),
            "less all data, fewer epochs": self.row("references", f"{FEWER}, {percent}"),
            "less without PODS": own,
        }


def accuracy(lines: Sequence[Line]) -> str:
    """Mean in percent, with half of its 95 % interval."""
    found = paired([100 * line["accuracy"] for line in lines])
    half = "" if math.isnan(found.low) else f" ± {(found.high - found.low) / 2:.2f}"
    return f"{found.mean:.2f}{half}"


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def curve_table(results: Results) -> str:
    """Accuracy of all data over the number of epochs."""
    rows, before = [], None
    for epochs in results.preset.curve:
        lines = results.curve(epochs)
        if not lines:
            continue
        held = statistics.mean(100 * line["validation"] for line in lines)
        gain = "" if before is None else f"{held - before:+.2f}"
        seconds = statistics.median(line["cpu_seconds"] for line in lines)
        rows.append([str(epochs), accuracy(lines), f"{held:.2f}", gain, f"{seconds:.0f}", str(len(lines))])
        before = held
    heads = ["epochs", "test, %", "held out, %", "gained by twice the epochs", "processor s", "seeds"]
    return table(heads, rows)


def section_table(results: Results, section: str) -> str:
    """Every row of a section that has a run."""
    rows = [row for row in results.rows(section) if results.lines(row)]
    columns = list(dict.fromkeys(title for row in rows for title in results.references(row)))
    is_apart = section in ("data_agent", "policies", "sada")
    made = []
    for row in rows:
        lines, seeds = list(results.lines(row).values()), results.lines(row)
        apart = {t: results.difference(row, other) for t, other in results.references(row).items()}
        where = [row.data if section == "sada" else f"{row.data}, {row.labels}"] if is_apart else []
        cells = [points(found) if (found := apart.get(title)) else "" for title in columns]
        trained, coverage = (
            statistics.mean(line[name] for line in lines) for name in ("trained", "coverage")
        )
        seconds = statistics.median(line["cpu_seconds"] for line in lines)
        more = [f"{trained:.1%}", f"{coverage:.1%}", f"{seconds:.0f}", str(len(seeds))]
        made.append([*where, row.name, accuracy(lines), *cells, *more])
    heads = [*["data"] * is_apart, "row", "test, %", *columns, "samples", "ever seen", "processor s", "seeds"]
    return table(heads, made)


def measured(results: Results, row: Row) -> Iterator[list[dict[str, float]]]:
    """R along each run of a row."""
    for line in results.lines(row).values():
        if line["regulariser"]:
            yield line["regulariser"]


def regulariser_table(results: Results) -> str:
    """R(p, theta): its mean over epochs, over steps, and between neighbouring epochs."""
    made = []
    for row in results.rows("pods"):
        runs = list(measured(results, row))
        if not runs:
            continue
        by_epoch, by_step, swing, usable = [], [], [], []
        for run in runs:
            usable.append(statistics.mean(epoch["r"] > 0 for epoch in run))
            by_epoch.append(statistics.mean(epoch["r"] for epoch in run))
            steps = sum(epoch["ratio"] for epoch in run)
            by_step.append(sum(epoch["r"] * epoch["ratio"] for epoch in run) / steps)
            pairs = [(a["r"], b["r"]) for a, b in pairwise(run) if a["r"] > 0 < b["r"]]
            swing += [abs(math.log(a / b)) for a, b in pairs]
        cells = [f"{statistics.mean(v):.3g}" for v in (by_epoch, by_step)]
        told = f"{statistics.median(swing):.2f}" if swing else ""
        made.append([row.name, *cells, told, f"{statistics.mean(usable):.0%}", str(len(runs))])
    heads = [
        "row",
        "R, mean of epochs",
        "R, mean of steps",
        "change of log R between epochs",
        "R > 0",
        "seeds",
    ]
    return table(heads, made)


def missing_table(results: Results) -> str:
    """What of a preset has no run yet."""
    made = []
    for section in dict.fromkeys(run.row.section for run in results.runs):
        rows = results.rows(section)
        done = sum(len(results.lines(row)) for row in rows)
        wanted = sum(run.row.section == section for run in results.runs)
        without = [row for row in rows if not results.lines(row)]
        made.append([section, str(len(rows)), str(len(rows) - len(without)), f"{done} of {wanted}"])
    return table(["section", "rows", "rows with a run", "runs"], made)


def hardware(lines: Sequence[Line]) -> str:
    """Where the runs were made, in a sentence."""
    told = {(line["gpu"] or f"{line['cpu']}, one thread", line["torch"], line["commit"]) for line in lines}
    return "; ".join(f"{where}, torch {torch}, commit {commit}" for where, torch, commit in sorted(told))


def scale_table(found: dict[str, Any]) -> str:
    """Memory and time of plans of ImageNet's size."""
    made = [
        [
            row["name"],
            f"{row['state_bytes']:,.0f} B",
            f"{row['resident_bytes']:,.0f} B",
            f"{row['selection_seconds']:.2f} s",
            f"{1000 * row['step_seconds']:.2f} ms",
        ]
        for row in found["rows"]
    ]
    return table(["parts", "state a sample", "resident a sample", "selection", "step"], made)
