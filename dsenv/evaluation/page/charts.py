"""The charts of a page: a small figure a context, one colour an agent."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from dsenv.evaluation.page import svg
from dsenv.evaluation.page.content import LOUD, Line, Sheet, Training
from dsenv.evaluation.page.words import short
from dsenv.evaluation.runs import Floats
from dsenv.evaluation.statistics import band
from dsenv.evaluation.tables import wrong_share
from dsenv.evaluation.trace import Trace
from dsenv.tracking.pictures import bin_colors

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DASHES = ("-", (0, (5, 1.5)), (0, (1, 1.2)))
REFERENCE_DASHES = {
    "all_data": "-",
    "random": (0, (4, 2)),
    "all_data_plus_validation": (0, (1, 1.5)),
    "trim_oracle": (0, (5, 1.5, 1, 1.5)),
}


@dataclass(frozen=True)
class Chart:
    """One figure: its caption and SVG."""

    caption: str
    svg: str


@dataclass(frozen=True)
class Form:
    """Size of a figure in inches; on the page it is as wide as its place."""

    width: float = 3.6
    height: float = 2.5
    left: float = 0.46
    """Room for what stands left of the axes; a layout that is measured would take twice the time."""


SMALL = Form()


class Drawer:
    """Draws the figures of one part, each with a number of its own."""

    def __init__(self, sheet: Sheet) -> None:
        self.sheet = sheet
        self._count = 0

    def draw(self, caption: str, title: str, fill: Callable[..., None], form: Form = SMALL) -> Chart:
        """One chart.

        Args:
            caption: above it.
            title: what it shows, for those who do not see it.
            fill: draws into the axes.
            form: of the figure.
        """
        from matplotlib import rc_context
        from matplotlib.figure import Figure

        self._count += 1
        with rc_context(svg.SETTINGS):
            figure = Figure(figsize=(form.width, form.height))
            left, bottom = form.left / form.width, 0.42 / form.height
            right, top = 0.13 / form.width, 0.1 / form.height
            fill(figure.add_axes((left, bottom, 1 - left - right, 1 - bottom - top)))
            return Chart(caption, svg.inline(figure, self.sheet.key, self._count, title))

    def each(
        self,
        title: str,
        fill: Callable[..., None],
        contexts: Sequence[int],
        form: Form = SMALL,
    ) -> list[Chart]:
        """One chart for each of these contexts."""
        labels = self.sheet.labels
        return [
            self.draw(labels[n], f"{title}, {labels[n]}", partial(fill, context=n), form) for n in contexts
        ]


def style(sheet: Sheet, number: int) -> dict[str, Any]:
    """Colour, dashes and width of an agent's line."""
    line = sheet.lines[number]
    dashes: Any = REFERENCE_DASHES.get(line.name, DASHES[number // LOUD % len(DASHES)])
    return {
        "color": colour_of(sheet, number),
        "linestyle": dashes,
        "linewidth": 2.2 if line.is_subject else 1.3,
        "zorder": 4 if line.is_subject else 3,
    }


def colour_of(sheet: Sheet, number: int) -> str:
    """The colour of an agent's line."""
    return svg.agent_colour(sheet.colours[number])


def _present(sheet: Sheet, context: int) -> list[tuple[int, Trace]]:
    """Agents with something over time in a context, with their numbers."""
    found = [(n, line.traces[context]) for n, line in sheet.drawn]
    return [(n, trace) for n, trace in found if trace is not None]


def curves(drawer: Drawer, against: str) -> list[Chart]:
    """Test accuracy over samples seen or seconds, with 95 % bands; empty without curves."""
    sheet = drawer.sheet

    def fill(axis: "Axes", context: int) -> None:
        floors = []
        for number, trace in _present(sheet, context):
            if not trace.has_curve:
                continue
            time = trace.samples.mean(0) / 1000 if against == "samples" else trace.seconds
            middle, low, high = band(100 * trace.curve)
            (drawn,) = axis.plot(time, middle, **style(sheet, number))
            shade = axis.fill_between(time, low, high, color=drawn.get_color(), alpha=0.16, linewidth=0)
            drawn.set_gid(f"{svg.AGENT_ID}{number}-line")
            shade.set_gid(f"{svg.AGENT_ID}{number}-band")
            floors.append(float(np.nanmin(middle[len(middle) // 3 :])))

        _zoom(axis, floors)
        axis.set(xlabel="samples seen, thousands" if against == "samples" else "seconds a run")
        axis.set_ylabel("test accuracy, %")

    with_curves = [
        n for n in range(len(sheet.labels)) if any(trace.has_curve for _, trace in _present(sheet, n))
    ]
    return drawer.each(f"Test accuracy against {against}", fill, with_curves)


def _zoom(axis: "Axes", floors: Sequence[float]) -> None:
    """Let the beginnings, and one bad agent, leave the figure: the others need the room."""
    floor = sorted(floors)[min(1, len(floors) - 1)] - 2
    top = axis.dataLim.y1
    axis.set_ylim(max(0, floor), min(100.5, top + 0.06 * (top - floor)))


def schedules(drawer: Drawer, number: int) -> list[Chart]:
    """What one agent chose over time: share from each loss bin, and the ratio."""
    line = drawer.sheet.lines[number]

    def fill(axis: "Axes", context: int) -> None:
        trace = line.traces[context]
        assert trace is not None
        intervals, bins = trace.selected.shape
        edges, bottom = np.arange(intervals + 1) + 0.5, np.zeros(intervals)
        for share, colour in zip(np.nan_to_num(trace.selected.T), bin_colors(bins), strict=True):
            axis.stairs(100 * (bottom + share), edges, baseline=100 * bottom, fill=True, color=colour)
            bottom = bottom + share
        time = np.arange(1, intervals + 1)
        axis.plot(time, 100 * trace.ratio, color="#ffffff", linewidth=3.2)
        axis.plot(time, 100 * trace.ratio, color="#14171a", linewidth=1.5, linestyle=(0, (3, 1.5)))
        axis.set(xlabel="training interval", ylabel="share of the selection, %", ylim=(0, 100))
        _whole_numbers(axis, intervals)
        axis.grid(visible=False)

    return drawer.each(f"What {line.name} selects over time", fill, _contexts_of(line))


def strengths(drawer: Drawer, number: int) -> list[Chart]:
    """Augmentation strength of each stability bin over time; empty where the agent does not decide it."""
    line = drawer.sheet.lines[number]
    deciding = [
        n for n, trace in enumerate(line.traces) if trace is not None and trace.strengths.shape[-1:] > (0,)
    ]

    def fill(axis: "Axes", context: int) -> None:
        trace = line.traces[context]
        assert trace is not None
        intervals, bins = trace.strengths.shape
        time = np.arange(1, intervals + 1)
        for values, colour in zip(trace.strengths.T, bin_colors(bins), strict=True):
            axis.plot(time, 100 * values, color=colour, linewidth=1.8)
        axis.plot(time, 100 * trace.strength, color=svg.INK, linewidth=1.3, linestyle=(0, (3, 1.5)))
        axis.set(xlabel="training interval", ylabel="strength, %", ylim=(-2, 102))
        _whole_numbers(axis, intervals)

    return drawer.each(f"How strongly {line.name} augments", fill, deciding)


def wrong_labels(drawer: Drawer) -> list[Chart]:
    """Wrong labels among the chosen over time, beside the share in the data; for contexts that have any."""
    sheet = drawer.sheet
    rates = [wrong_share(context) for context in sheet.contexts]
    noisy = [n for n, rate in enumerate(rates) if rate > 0 and _present(sheet, n)]

    def fill(axis: "Axes", context: int) -> None:
        _over_time(axis, sheet, context, lambda trace: 100 * trace.wrong)
        axis.axhline(100 * rates[context], color=svg.INK, linewidth=0.9, linestyle=(0, (2, 2)))
        axis.set(xlabel="training interval", ylabel="wrong labels, %")
        axis.set_ylim(bottom=0)

    return drawer.each("Wrong labels among the chosen", fill, noisy)


def difficulty(drawer: Drawer) -> list[Chart]:
    """Mean loss rank of the chosen over time: 0 the smallest losses, 100 the largest."""
    sheet = drawer.sheet
    there = [n for n in range(len(sheet.labels)) if _present(sheet, n)]

    def fill(axis: "Axes", context: int) -> None:
        _over_time(axis, sheet, context, lambda trace: 100 * mean_rank(trace.selected))
        axis.set(xlabel="training interval", ylabel="mean loss rank")

    return drawer.each("Difficulty of the chosen", fill, there)


def mean_rank(selected: Floats) -> Any:
    """Mean loss rank (T,) in [0, 1] of selections with these shares (T, B) from the bins."""
    bins = selected.shape[1]
    return selected @ ((np.arange(bins) + 0.5) / bins)


def _over_time(axis: "Axes", sheet: Sheet, context: int, values: Callable[[Trace], Any]) -> None:
    """One line an agent over intervals."""
    for number, trace in _present(sheet, context):
        over_time = values(trace)
        if not np.isfinite(over_time).any():
            continue
        (drawn,) = axis.plot(np.arange(1, len(over_time) + 1), over_time, **style(sheet, number))
        drawn.set_gid(f"{svg.AGENT_ID}{number}-line")
        _whole_numbers(axis, len(over_time))


def _whole_numbers(axis: "Axes", intervals: int) -> None:
    from matplotlib.ticker import MaxNLocator

    axis.set_xlim(0.5, intervals + 0.5)
    axis.xaxis.set_major_locator(MaxNLocator(6, integer=True))


def _contexts_of(line: Line) -> list[int]:
    return [n for n, trace in enumerate(line.traces) if trace is not None]


def seeds(drawer: Drawer) -> list[Chart]:
    """One dot a seed for each agent."""
    sheet = drawer.sheet
    there = [n for n in range(len(sheet.labels)) if _present(sheet, n)]
    most = max((len(_present(sheet, n)) for n in there), default=0)
    form = Form(height=0.7 + 0.24 * most, left=1.42)

    def fill(axis: "Axes", context: int) -> None:
        agents = _present(sheet, context)[::-1]  # the first one on top
        rng = np.random.default_rng(0)
        for place, (number, trace) in enumerate(agents):
            height = place + rng.uniform(-0.24, 0.24, len(trace.accuracy))
            colour = colour_of(sheet, number)
            (dots,) = axis.plot(
                100 * trace.accuracy, height, "o", color=colour, markersize=2.6, alpha=0.55, markeredgewidth=0
            )
            mean = 100 * trace.accuracy.mean()
            (tick,) = axis.plot([mean, mean], [place - 0.36, place + 0.36], color=svg.INK, linewidth=1.4)
            dots.set_gid(f"{svg.AGENT_ID}{number}-dots")
            tick.set_gid(f"{svg.AGENT_ID}{number}-mean")
        axis.set_yticks(range(len(agents)), [short(sheet.lines[n].name, 20) for n, _ in agents])
        axis.set(xlabel="test accuracy, %", ylim=(-0.6, len(agents) - 0.4))
        axis.grid(visible=False, axis="y")

    return drawer.each("Test accuracy, one dot a seed", fill, there, form)


def training(drawer: Drawer, trainings: Sequence[Training]) -> list[Chart]:
    """Validation reward over environment steps, with a 95 % band over episodes."""
    numbers = {line.name: number for number, line in enumerate(drawer.sheet.lines)}
    found = [run for run in trainings if len(run.steps)]
    if not found:
        return []

    def fill(axis: "Axes") -> None:
        for place, run in enumerate(found):
            number = numbers.get(run.label)
            known = number is not None
            colour = colour_of(drawer.sheet, number) if number is not None else svg.agent_colour(place % LOUD)
            steps, (middle, low, high) = run.steps / 1000, band(run.rewards.T)
            shade = axis.fill_between(steps, low, high, color=colour, alpha=0.16, linewidth=0)
            (drawn,) = axis.plot(steps, middle, "o-", color=colour, markersize=3)

            shade.set_gid(f"{svg.AGENT_ID}{number}-band" if known else None)
            drawn.set_gid(f"{svg.AGENT_ID}{number}-line" if known else None)
            axis.annotate(run.label, (steps[-1], middle[-1]), (4, 0), textcoords="offset points", fontsize=8)
        axis.set(xlabel="environment steps, thousands", ylabel="validation reward of an episode")
        axis.margins(x=0.04)

    caption = ", ".join(run.label for run in found)
    return [drawer.draw(caption, "Validation reward over environment steps", fill, Form(6.4, 2.8))]
