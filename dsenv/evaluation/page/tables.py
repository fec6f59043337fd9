"""The tables of a page: of gains, accuracies, statistics over contexts, costs and classes."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dsenv.evaluation.compare import Row
from dsenv.evaluation.page.content import Line, Sheet
from dsenv.evaluation.page.words import DASH, between, ends, percent, points, seconds, verdict
from dsenv.evaluation.statistics import (
    Scores,
    at_cost,
    interquartile_mean,
    interval,
    probability_of_improvement,
    stratified_interval,
)

MOST_CLASSES = 20  # columns of a table of classes
FAINTEST = 0.1  # colour of the smallest gain
SMALLEST = 0.01  # where no gain is larger than this, none has the full colour


@dataclass(frozen=True)
class Cell:
    """One value of a table."""

    text: str
    small: str = ""
    """Beside it: an interval, half of one, a remark."""
    value: float | None = None
    """What the table is sorted by."""
    kind: str = ""
    """"good", "bad", "even", "heat", "more", "less": its colour."""
    heat: float = 0.0
    """How strong the colour is, 0 to 1."""
    bar: float | None = None
    """Length of a bar behind the text, 0 to 1."""


@dataclass(frozen=True)
class TableRow:
    """One agent, or one context."""

    name: str
    cells: list[Cell]
    number: int | None = None
    """Of the agent on its sheet."""
    is_subject: bool = False
    remark: str = ""


@dataclass(frozen=True)
class Table:
    """A caption, heads of the columns after the first, and rows."""

    caption: str
    first: str
    heads: list[str]
    rows: list[TableRow] = field(default_factory=list)

    @property
    def is_coloured(self) -> bool:
        """Whether cells have a colour that means something: agents show theirs elsewhere then."""
        return any(cell.kind not in ("", "even") for row in self.rows for cell in row.cells)


def _each_line(sheet: Sheet, cells: Callable[[Line], list[Cell]]) -> list[TableRow]:
    return [
        TableRow(line.name, cells(line), number, line.is_subject, _tag(line))
        for number, line in enumerate(sheet.lines)
    ]


def _tag(line: Line) -> str:
    return "reference" if line.kind == "reference" else ""


def _heat(value: float, full: float) -> float:
    return round(0.25 + 0.75 * min(1.0, abs(value) / full), 3)


def gain_cell(mean: float | None, low: float | None, high: float | None, largest: float) -> Cell:
    """A gain with its interval, coloured by what it means: by the root of its share of the largest one."""
    if mean is None or low is None or high is None:
        return Cell(DASH)
    kind = verdict(low, high)
    share = min(1.0, abs(mean) / max(largest, SMALLEST))
    heat = round(FAINTEST + (1 - FAINTEST) * share**0.5, 3) if kind in ("good", "bad") else 0.0
    return Cell(points(mean), ends(low, high), mean, kind, heat)


def _largest(sheet: Sheet, name: str) -> float:
    """The largest of all gains, whatever its sign; `name` is that of their field in the rows."""
    values = [getattr(row, name) for line in sheet.lines for row in line.whole]
    return max((abs(value) for value in values if value is not None), default=0.0)


def gains(sheet: Sheet) -> Table:
    """Gain over all data, and what it cost: the table of the first screen."""
    largest = _largest(sheet, "gain_mean")
    spans = [(_span(line, "ratio"), _span(line, "compute")) for line in sheet.lines]
    is_same = all(used.text == compute.text for used, compute in spans)

    def cells(line: Line) -> list[Cell]:
        spent = _mean([row.seconds for row in line.whole])
        return [
            *(_gain_over_all_data(line, row, largest) for row in line.rows),
            _span(line, "ratio"),
            *([] if is_same else [_span(line, "compute")]),
            Cell(seconds(spent), value=spent),
        ]

    costs = ["data used and compute"] if is_same else ["data used", "compute"]
    heads = [*sheet.labels, *costs, "time of a run"]
    caption = "Gain in test accuracy over training on all data, in points, with 95% confidence intervals"
    return Table(caption, "agent", heads, _each_line(sheet, cells))


def _span(line: Line, name: str) -> Cell:
    """A share in all contexts, one field of the rows."""
    values = [getattr(row, name) for row in line.whole]
    return Cell(between(values), value=_mean(values))


def _gain_over_all_data(line: Line, row: Row | None, largest: float) -> Cell:
    if row is None:
        return Cell(DASH)
    if line.kind == "reference" and row.agent == "all_data":
        return Cell("0", f"({percent(row.accuracy_mean)}% accurate)", 0.0)
    return gain_cell(row.gain_mean, row.gain_low, row.gain_high, largest)


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def accuracies(sheet: Sheet) -> Table:
    """Test accuracy in percent and half its 95 % interval."""

    def cell(row: Row | None) -> Cell:
        if row is None:
            return Cell(DASH)
        half = (row.accuracy_high - row.accuracy_low) / 2
        lost = f", {row.diverged} of {row.seeds} diverged" if row.diverged else ""
        return Cell(percent(row.accuracy_mean), f"± {percent(half)}{lost}", row.accuracy_mean)

    caption = (
        "Test accuracy after the last training interval, in percent, and half its 95% confidence interval"
    )
    rows = _each_line(sheet, lambda line: [cell(row) for row in line.rows])
    return Table(caption, "agent", sheet.labels, rows)


def over_random(sheet: Sheet) -> Table | None:
    """Gain over random selection; None where that was not run."""

    def cell(row: Row | None) -> Cell:
        if row is None or row.agent == "random":
            return Cell(DASH)
        return gain_cell(row.over_random_mean, row.over_random_low, row.over_random_high, largest)

    largest = _largest(sheet, "over_random_mean")
    if not any(row.over_random_mean is not None for line in sheet.lines for row in line.whole):
        return None
    caption = "Gain in test accuracy over random selection, in points, with 95% confidence intervals"
    rows = _each_line(sheet, lambda line: [cell(row) for row in line.rows])
    return Table(caption, "agent", sheet.labels, rows)


def over_contexts(sheet: Sheet) -> Table | None:
    """Interquartile mean and probability of improvement; None where accuracies of seeds are not there."""

    def cells(line: Line) -> list[Cell]:
        if line.scores is None:
            return [Cell(DASH)] * 3
        middle = _flat(line.scores)
        low, high = stratified_interval(interquartile_mean, line.scores)
        value = float(interquartile_mean(middle))
        own = Cell(percent(value), f"{percent(low)} to {percent(high)}", value)
        return [own, _chance_cell(line, line.all_data, "all_data"), _chance_cell(line, line.random, "random")]

    if all(line.scores is None for line in sheet.lines):
        return None
    heads = ["interquartile mean, %", "better than all data, %", "better than random, %"]
    caption = "Over all contexts: interquartile mean of accuracy, and the chance that a run beats another"
    return Table(caption, "agent", heads, _each_line(sheet, cells))


def _flat(scores: Scores) -> Scores:
    """(S, M) or (A, S, M) as one table."""
    return scores.reshape(-1, scores.shape[-1])


def _chance_cell(line: Line, others: Scores | None, name: str) -> Cell:
    if line.scores is None or others is None or line.rows[0] is None or line.rows[0].agent == name:
        return Cell(DASH)
    value = float(probability_of_improvement(_flat(line.scores), _flat(others)))
    low, high = stratified_interval(probability_of_improvement, line.scores, others)
    kind = "good" if low > 0.5 else "bad" if high < 0.5 else "even"
    heat = _heat(value - 0.5, 0.5) if kind != "even" else 0.0
    return Cell(percent(value, 0), f"{percent(low, 0)} to {percent(high, 0)}", value, kind, heat)


def at_equal_cost(sheet: Sheet, what: str) -> Table | None:
    """Accuracy of every agent at the point where it has spent what the page's agent spent in all.

    Args:
        sheet: the agents.
        what: "samples" or "seconds".
    """
    subjects = [line for line in sheet.lines if line.is_subject and line.kind != "pooled"]
    budgets = [
        _mean([_spent(line, context, what) for line in subjects]) for context in range(len(sheet.labels))
    ]
    lines = [(n, line) for n, line in sheet.drawn if any(t is not None and t.has_curve for t in line.traces)]
    if not lines or all(budget is None for budget in budgets):
        return None

    rows = [
        TableRow(
            line.name,
            [_cost_cell(line, context, what, budget) for context, budget in enumerate(budgets)],
            number, line.is_subject, _tag(line),
        )
        for number, line in lines
    ]  # fmt: skip
    words = seconds if what == "seconds" else _samples
    budget_words = [DASH if budget is None else words(budget) for budget in budgets]
    heads = [f"{label}: {spent}" for label, spent in zip(sheet.labels, budget_words, strict=True)]
    return Table(
        f"Test accuracy at equal {what}, in percent, and half its 95% confidence interval",
        "agent",
        heads,
        rows,
    )


def _spent(line: Line, context: int, what: str) -> float | None:
    """What an agent spends on one whole run, mean over seeds."""
    row = line.rows[context]
    if row is None or line.traces[context] is None:
        return None
    return row.samples_used if what == "samples" else row.seconds


def _cost_cell(line: Line, context: int, what: str, budget: float | None) -> Cell:
    trace = line.traces[context]
    if trace is None or not trace.has_curve or budget is None:
        return Cell(DASH)
    found = at_cost(trace.curve, trace.samples if what == "samples" else trace.seconds, budget)
    if not np.isfinite(found).all():
        return Cell(DASH, "no training interval done by then")

    low, high = interval(found)
    spent = _spent(line, context, what)
    early = ", done before" if spent is not None and spent < 0.99 * budget else ""
    return Cell(percent(found.mean()), f"± {percent((high - low) / 2)}{early}", float(found.mean()))


def costs(sheet: Sheet) -> Table:
    """Samples, passes without training and seconds of one run, mean over contexts."""
    spent = {id(line): _costs_of(line) for line in sheet.lines}
    most = [max((costs[n] or 0.0 for costs in spent.values()), default=0.0) for n in range(5)]
    texts: list[Callable[[float], str]] = [_thousands, _thousands, _whole_percent, _whole_percent, seconds]

    def cells(line: Line) -> list[Cell]:
        return [
            Cell(DASH)
            if value is None
            else Cell(text(value), value=value, bar=round(value / top, 3) if top else None)
            for value, text, top in zip(spent[id(line)], texts, most, strict=True)
        ]

    heads = ["samples seen", "passes without training", "data used", "compute", "seconds"]
    return Table("Cost of one training run, mean over contexts", "agent", heads, _each_line(sheet, cells))


def _costs_of(line: Line) -> list[float | None]:
    rows, traces = line.whole, [trace for trace in line.traces if trace is not None]
    forwards = [float(trace.extra_forwards.mean()) for trace in traces]
    return [
        _mean([row.samples_used for row in rows]), _mean(forwards), _mean([row.ratio for row in rows]),
        _mean([row.compute for row in rows]), _mean([row.seconds for row in rows]),
    ]  # fmt: skip


def _thousands(value: float) -> str:
    return f"{value:,.0f}"


def _samples(value: float) -> str:
    return f"{value:,.0f} samples"


def _whole_percent(value: float) -> str:
    return f"{percent(value, 0)}%"


def class_accuracies(sheet: Sheet) -> Iterator[Table]:
    """Test accuracy of each class, a table a context; of many classes those that differ most."""
    for context, label in enumerate(sheet.labels):
        lines = [(n, line, line.traces[context]) for n, line in sheet.drawn]
        known = [(n, line, trace.class_accuracy) for n, line, trace in lines if trace is not None]
        if not known:
            continue
        values = np.stack([found for _, _, found in known])
        shown = _most_different(values)
        low, high = float(np.nanmin(values[:, shown])), float(np.nanmax(values[:, shown]))

        rows = [
            TableRow(line.name, [_shade(found[c], low, high) for c in shown], n, line.is_subject)
            for n, line, found in known
        ]
        yield Table(label, "agent", [str(c) for c in shown], rows)


def _most_different(values: Any) -> list[int]:
    """The classes (A, C) to show, in order."""
    spread = np.nan_to_num(np.nanmax(values, 0) - np.nanmin(values, 0), nan=-1)
    return sorted(np.argsort(-spread, kind="stable")[:MOST_CLASSES].tolist())


def _shade(value: float, low: float, high: float) -> Cell:
    if not np.isfinite(value):
        return Cell(DASH)
    heat = round(float((value - low) / (high - low)), 3) if high > low else 0.0
    return Cell(percent(value, 0), "", float(value), "heat", heat)


def class_shares(sheet: Sheet) -> Iterator[Table]:
    """For each agent of the page: share of the classes among the samples seen, minus that in the data."""
    for number, line in sheet.drawn:
        traces = [(label, t) for label, t in zip(sheet.labels, line.traces, strict=True) if t is not None]
        known = [(label, trace.class_seen - trace.class_pool) for label, trace in traces if trace.has_curve]
        if not line.is_subject or not known:
            continue

        most = max(len(values) for _, values in known)  # data sets differ in their classes
        table = np.full((len(known) + 1, most), np.nan)
        table[-1] = 0
        for row, (_, values) in zip(table, known, strict=False):
            row[: len(values)] = values
        shown = _most_different(table)

        labels = [label for label, _ in known]
        rows = [
            TableRow(label, [_more_or_less(values[c]) for c in shown], number)
            for label, values in zip(labels, table[:-1], strict=True)
        ]
        yield Table(line.name, "context", [str(c) for c in shown], rows)


def _more_or_less(value: float) -> Cell:
    if not np.isfinite(value):
        return Cell(DASH)
    return Cell(points(value), "", float(value), "more" if value > 0 else "less", _heat(value, 0.05) - 0.25)
