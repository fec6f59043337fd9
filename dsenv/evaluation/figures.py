"""Figures of an evaluation."""

from collections.abc import Mapping
from textwrap import wrap
from typing import TYPE_CHECKING, Any

import numpy as np

from dsenv.evaluation.compare import CHANCE, REFERENCE, Evaluation, Row
from dsenv.evaluation.labels import context_label
from dsenv.evaluation.tables import between, by_context, shown_name, wrong_share
from dsenv.tracking.pictures import bin_colors, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.table import Table


def accuracy_figure(evaluation: Evaluation) -> "Figure":
    """Test accuracy of every agent in every context, with 95 % intervals."""
    figure = new_figure(6, 4.4)
    axis = figure.subplots()
    table = by_context(evaluation)
    labels = [context_label(context) for context in evaluation.contexts]
    place = np.arange(len(labels))

    for number, (agent, rows) in enumerate(table.items()):
        mean = np.array([100 * rows[label].accuracy_mean for label in labels])
        low = np.array([100 * rows[label].accuracy_low for label in labels])
        high = np.array([100 * rows[label].accuracy_high for label in labels])
        is_subject = agent == evaluation.agent
        axis.errorbar(
            place + (number - len(table) / 2) * 0.03,
            mean,
            yerr=[mean - low, high - mean],
            label=f"{_in_legend(agent)} ({between(row.ratio for row in rows.values())} of the data)",
            marker="o",
            capsize=2,
            linewidth=2.5 if is_subject else 1,
            color="black" if is_subject else f"C{number % 10}",
            zorder=3 if is_subject else 2,
        )

    axis.set_xticks(place, labels)
    best = max(100 * row.accuracy_high for row in evaluation.rows)
    worst = sorted(min(100 * row.accuracy_low for row in rows.values()) for rows in table.values())
    floor = worst[min(1, len(worst) - 1)] - 2  # one bad agent may leave the figure, the others need the room
    subject = shown_name(evaluation.agent)
    axis.set(ylabel=f"{evaluation.words}, %", title=f"{evaluation.env}: {subject} against fixed rules")
    axis.set_ylim(floor, min(100.0, best + 1))
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)
    return figure


def _in_legend(agent: str) -> str:
    """An agent's name in a legend, which leaves out those that begin with "_"."""
    return f" {shown_name(agent)}" if agent.startswith("_") else shown_name(agent)


def schedule_figure(evaluation: Evaluation) -> "Figure":
    """What the agent selected over time: share from each loss-rank bin, and the ratio, for each context."""
    shares, ratios = evaluation.schedules[evaluation.agent], evaluation.ratios[evaluation.agent]
    contexts, intervals, bins = shares.shape
    figure, axes = _grid(contexts)
    time = np.arange(1, intervals + 1)
    colors = bin_colors(bins)

    for axis, share, ratio, context in zip(axes, shares, ratios, evaluation.contexts, strict=True):
        bottom = np.zeros(intervals)
        for b in range(bins):
            heights = np.nan_to_num(share[:, b])
            axis.bar(time, heights, bottom=bottom, color=colors[b], width=0.92, label=f"bin {b}")
            bottom += heights
        axis.plot(time, ratio, "w--", linewidth=3)
        axis.plot(time, ratio, "k--", linewidth=1.2, label="ratio")
        axis.set(title=context_label(context), ylim=(0, 1), xlim=(0.4, intervals + 0.6))

    _label_axes(figure, axes, "share of the selected samples")
    handles, names = axes[-1].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside right center", fontsize=8, title="loss rank\n(0: smallest)")
    figure.suptitle(f"{evaluation.env}: what {shown_name(evaluation.agent)} selects")
    return figure


def noise_figure(evaluation: Evaluation) -> "Figure | None":
    """How often right and wrong labels are trained on, over time; None where no context has label noise.

    The chance of a sample of either kind in each interval, from the ratio and the share of wrong labels in
    the selection.
    """
    rates = [wrong_share(context) for context in evaluation.contexts]
    noisy = [n for n, rate in enumerate(rates) if rate > 0]
    if not noisy:
        return None

    wrong, ratio = evaluation.wrong[evaluation.agent], evaluation.ratios[evaluation.agent]
    figure, axes = _grid(len(noisy))
    time = np.arange(1, wrong.shape[1] + 1)

    for axis, number in zip(axes, noisy, strict=True):
        rate = rates[number]
        if rate < 1:
            axis.plot(time, ratio[number] * (1 - wrong[number]) / (1 - rate), label="right label")
        axis.plot(time, ratio[number] * wrong[number] / rate, label="wrong label")
        axis.plot(time, ratio[number], "k:", label="all")
        axis.set(title=context_label(evaluation.contexts[number]), ylim=(0, 1.02))
        axis.grid(alpha=0.3)

    _label_axes(figure, axes, "chance of being trained on")
    axes[-1].legend(fontsize=8)
    figure.suptitle(f"{evaluation.env}: what {shown_name(evaluation.agent)} makes of wrong labels")
    return figure


def strength_figure(evaluation: Evaluation) -> "Figure | None":
    """Strength of each stability bin over time; None where the agent does not decide it."""
    strengths = evaluation.strengths.get(evaluation.agent)
    if strengths is None:
        return None

    contexts, intervals, bins = strengths.shape
    figure, axes = _grid(contexts)
    time, colors = np.arange(1, intervals + 1), bin_colors(bins)

    for axis, strength, context in zip(axes, strengths, evaluation.contexts, strict=True):
        for b in range(bins):
            axis.plot(time, strength[:, b], color=colors[b], label=f"bin {b}")
        axis.set(title=context_label(context), ylim=(-0.02, 1.02))
        axis.grid(alpha=0.3)

    _label_axes(figure, axes, "augmentation strength")
    handles, names = axes[-1].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside right center", fontsize=8, title="stability\n(0: steadiest)")
    figure.suptitle(f"{evaluation.env}: how strongly {shown_name(evaluation.agent)} augments")
    return figure


def _grid(panels: int) -> "tuple[Figure, list[Axes]]":
    """A figure with that many panels, at most two side by side, so that it can be read on a small card."""
    columns = min(panels, 2)
    lines = -(-panels // columns)
    figure = new_figure(2.5 * columns + 0.9, 1.9 * lines + 0.6)
    axes = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False)
    for axis in axes.flat[panels:]:
        axis.remove()
    return figure, list(axes.flat[:panels])


def _label_axes(figure: "Figure", axes: "list[Axes]", what: str) -> None:
    """Whole numbers of intervals along all panels, and `what` up their side."""
    from matplotlib.ticker import MaxNLocator

    for axis in axes:
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.tick_params(labelbottom=True)
    figure.supxlabel("interval", fontsize=10)
    figure.supylabel(what, fontsize=10)


def gain_figure(evaluation: Evaluation) -> "Figure":
    """Which agent helped and which harmed, in which context and at which cost: gains over all data, coloured.

    Green where the 95 % interval of the gain lies above 0, red where it lies below, grey where it holds 0;
    the larger the gain, the darker. Where all data was not run, test accuracies without colours.
    """
    from matplotlib.transforms import Bbox

    table, labels = by_context(evaluation), [context_label(context) for context in evaluation.contexts]
    agents = _in_order(evaluation, table)
    largest = max((abs(row.gain_mean) for row in evaluation.rows if row.gain_mean), default=1.0)

    cells, colors = [], []
    for agent in agents:
        rows = [table[agent][label] for label in labels]
        texts, faces = zip(*(_gain_cell(row, largest) for row in rows), strict=True)
        cells.append([_agent_name(agent), between(row.compute for row in rows), *texts])
        colors.append(["white", "white", *faces])
    over = [_over_random(table[evaluation.agent][label]) for label in labels]
    cells.append([f"{_agent_name(evaluation.agent)}, over random", "", *over])
    colors.append(["white"] * (2 + len(labels)))

    heads = ["agent", "cost", *(_in_lines(label) for label in labels)]
    tall = max(1, 0.72 * max(head.count("\n") + 1 for head in heads))  # of the heads, in rows
    width = 2.4 + 0.85 * (len(labels) + 1.5)
    verdict = _wrapped(_verdict(evaluation, table, labels), width)
    height = 0.8 + 0.2 * (verdict.count("\n") + 1) + 0.27 * (len(cells) + tall - 1)
    figure = new_figure(width, height)
    axis = figure.subplots()
    axis.set_axis_off()
    grid = axis.table(
        cells, colors, cellLoc="center", colLabels=heads, loc="center", bbox=Bbox.unit(),
        colWidths=[2.6, 1.2, *[1.0] * len(labels)],
    )  # fmt: skip
    _style(grid, [line for line, agent in enumerate(agents, 1) if agent == evaluation.agent], tall)
    figure.suptitle(verdict, fontsize=11)
    figure.supxlabel(CAPTION.format(evaluation.rows[0].seeds), fontsize=8.5)
    return figure


CAPTION = """points of test accuracy over all data, means of {} runs; green helped, red harmed, grey no
clear difference (95% interval); cost: samples trained on, and a third for each scored"""
HELPED, HARMED, EQUAL, UNKNOWN = (0.40, 0.73, 0.42), (0.90, 0.45, 0.45), "#e0e0e0", "#ffffff"
REFERENCES = (REFERENCE, CHANCE)


def _wrapped(text: str, width: float) -> str:
    """Text of size 11 in lines that fit a figure of `width` inches."""
    return "\n".join(part for line in text.split("\n") for part in wrap(line, int(11 * width)))


def _style(grid: "Table", bold: list[int], tall: float) -> None:
    """Fonts and edges of a table; lines `bold` and the heads are bold, and the heads `tall` rows high."""
    grid.auto_set_font_size(False)
    grid.set_fontsize(11)
    for (line, column), cell in grid.get_celld().items():
        cell.set_edgecolor("white")
        cell.set_height(cell.get_height() * (1 if line else tall))
        cell.get_text().set_fontweight("bold" if not line or line in bold else "normal")
        if column == 0:
            cell.get_text().set_horizontalalignment("left")
        cell.get_text().set_parse_math(False)  # `pixels` finds no text in cells


def _agent_name(agent: str) -> str:
    """An agent as the first column names it."""
    words = shown_name(agent.replace("_plus_", "_+_"), 22).replace("_", " ")
    return f"{words} (reference)" if agent in REFERENCES else words


def _sign(low: float | None, high: float | None) -> str:
    """What a gain is by its interval."""
    if low is None or high is None:
        return ""
    return "helped" if low > 0 else "harmed" if high < 0 else "no clear difference"


def _gain_cell(row: Row, largest: float) -> tuple[str, Any]:
    """Text and colour of one agent in one context."""
    if row.gain_mean is None or row.gain_low is None or row.gain_high is None:
        return f"{100 * row.accuracy_mean:.1f} %", UNKNOWN
    if row.agent == REFERENCE:
        return f"0 ({100 * row.accuracy_mean:.1f} %)", UNKNOWN
    sign = _sign(row.gain_low, row.gain_high)
    if sign == "no clear difference":
        return f"{100 * row.gain_mean:+.1f}", EQUAL

    share = 0.25 + 0.75 * (abs(row.gain_mean) / largest) ** 0.5
    strong = np.array(HELPED if sign == "helped" else HARMED)
    return f"{100 * row.gain_mean:+.1f}", tuple(1 - share * (1 - strong))


def _over_random(row: Row) -> str:
    """An agent's gain over random selection in a context; "" where there is none to compare with."""
    gain = row.over_random_mean
    return "" if gain is None or row.agent == CHANCE else f"{100 * gain:+.1f}"


def _verdict(evaluation: Evaluation, table: Mapping[str, Mapping[str, Row]], labels: list[str]) -> str:
    """Where the agent helped and where it harmed, in a few words."""
    found: dict[str, list[str]] = {}
    for label in labels:
        row = table[evaluation.agent][label]
        found.setdefault(_sign(row.gain_low, row.gain_high), []).append(label)
    parts = [f"{sign} at {', '.join(names)}" for sign, names in found.items() if sign]
    return f"{shown_name(evaluation.agent)}: " + ("\n".join(parts) if parts else "test accuracy")


def _in_order(evaluation: Evaluation, table: Mapping[str, Mapping[str, Row]]) -> list[str]:
    """The agent that it is about, the references, then the others, the best gain first."""
    first = [name for name in (evaluation.agent, *REFERENCES) if name in table]
    rest = [name for name in table if name not in first]

    def accuracy(name: str) -> float:
        return float(np.mean([row.accuracy_mean for row in table[name].values()]))

    return [*dict.fromkeys(first), *sorted(rest, key=accuracy, reverse=True)]


def _in_lines(label: str) -> str:
    """A context over several lines."""
    return label.replace(", ", "\n").replace(" noise ", "\nnoise ")
