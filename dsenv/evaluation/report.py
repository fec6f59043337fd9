"""What an evaluation shows a person: a table, figures, TensorBoard."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dsenv import files
from dsenv.evaluation.compare import Evaluation, Row
from dsenv.evaluation.storage import save
from dsenv.tracking.pictures import bin_colors

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def context_label(context: Mapping[str, Any]) -> str:
    """A context in words: "wine, label noise 40%, lr x 0.5"."""
    return ", ".join(_value_label(name, value) for name, value in context.items()) or "as drawn"


def _value_label(name: str, value: Any) -> str:
    if isinstance(value, str):
        return value
    return f"lr x {value:g}" if name == "lr" else f"{name.replace('_', ' ')} {100 * value:.4g}%"


def _by_context(evaluation: Evaluation) -> dict[str, dict[str, Row]]:
    """Rows by agent, then by context."""
    table: dict[str, dict[str, Row]] = {}
    for row in evaluation.rows:
        table.setdefault(row.agent, {})[context_label(row.context)] = row
    return table


def markdown_table(evaluation: Evaluation) -> str:
    """Test accuracy in percent and half its 95 % interval: a row an agent, a column a context."""
    table = _by_context(evaluation)
    labels = [context_label(context) for context in evaluation.contexts]
    costs = any(row.compute != row.ratio for row in evaluation.rows)  # forwards without training
    heads = ["agent", "data used", *(["compute"] if costs else []), *labels]
    lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]

    for agent, rows in table.items():
        first = rows[labels[0]]
        spent = [f"{first.ratio:.0%}", *([f"{first.compute:.0%}"] if costs else [])]
        name = f"**{agent}**" if agent == evaluation.agent else agent
        lines.append(f"| {' | '.join([name, *spent, *(_cell(rows[label]) for label in labels)])} |")

    return "\n".join(lines)


def _cell(row: Row) -> str:
    half = (row.accuracy_high - row.accuracy_low) / 2
    lost = f" ({row.diverged} diverged)" if row.diverged else ""
    return f"{100 * row.accuracy_mean:.1f} ± {100 * half:.1f}{lost}"


def gains(evaluation: Evaluation) -> str:
    """The agent's gain over all data in each context, with its 95 % interval, in points of accuracy."""
    rows = [row for row in evaluation.rows if row.agent == evaluation.agent and row.gain_mean is not None]
    lines = []
    for row in rows:
        assert row.gain_mean is not None and row.gain_low is not None and row.gain_high is not None
        mean, low, high = (100 * value for value in (row.gain_mean, row.gain_low, row.gain_high))
        lines.append(f"{context_label(row.context)}: {mean:+.1f} points ({low:+.1f} to {high:+.1f})")
    return "\n".join(lines)


def accuracy_figure(evaluation: Evaluation) -> "Figure":
    """Test accuracy of every agent in every context, with 95 % intervals."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), dpi=120, layout="constrained")
    axis = figure.subplots()
    table = _by_context(evaluation)
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
            label=f"{agent} ({rows[labels[0]].ratio:.0%} of the data)",
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
    axis.set(ylabel="test accuracy, %", title=f"{evaluation.env}: {evaluation.agent} against fixed rules")
    axis.set_ylim(floor, min(100.0, best + 1))
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)
    return figure


def schedule_figure(evaluation: Evaluation) -> "Figure":
    """What the agent selected over time: share from each loss-rank bin, and the ratio, for each context."""
    from matplotlib.figure import Figure

    shares, ratios = evaluation.schedules[evaluation.agent], evaluation.ratios[evaluation.agent]
    contexts, intervals, bins = shares.shape
    figure = Figure(figsize=(3.1 * contexts + 0.8, 3.4), dpi=120, layout="constrained")
    axes = figure.subplots(1, contexts, sharey=True, squeeze=False)[0]
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
        axis.set(title=context_label(context), xlabel="interval", ylim=(0, 1), xlim=(0.4, intervals + 0.6))
        axis.xaxis.get_major_locator().set_params(integer=True)

    axes[0].set_ylabel("share of the selected samples")
    handles, names = axes[-1].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside right center", fontsize=8, title="loss rank\n(0: smallest)")
    figure.suptitle(f"{evaluation.env}: what {evaluation.agent} selects")
    return figure


def wrong_share(context: Mapping[str, Any]) -> float:
    """Share of the training labels that a context makes wrong."""
    return float(context.get("label_noise", 0) + context.get("pair_flip", 0))


def noise_figure(evaluation: Evaluation) -> "Figure | None":
    """How often right and wrong labels are trained on, over time; None where no context has label noise.

    The chance of a sample of either kind in each interval, from the ratio and the share of wrong labels in
    the selection.
    """
    from matplotlib.figure import Figure

    rates = [wrong_share(context) for context in evaluation.contexts]
    noisy = [n for n, rate in enumerate(rates) if rate > 0]
    if not noisy:
        return None

    wrong, ratio = evaluation.wrong[evaluation.agent], evaluation.ratios[evaluation.agent]
    figure = Figure(figsize=(3.1 * len(noisy) + 1.4, 3.2), dpi=120, layout="constrained")
    axes = figure.subplots(1, len(noisy), sharey=True, squeeze=False)[0]
    time = np.arange(1, wrong.shape[1] + 1)

    for axis, number in zip(axes, noisy, strict=True):
        rate = rates[number]
        if rate < 1:
            axis.plot(time, ratio[number] * (1 - wrong[number]) / (1 - rate), label="right label")
        axis.plot(time, ratio[number] * wrong[number] / rate, label="wrong label")
        axis.plot(time, ratio[number], "k:", label="all")
        axis.set(title=context_label(evaluation.contexts[number]), xlabel="interval", ylim=(0, 1.02))
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.grid(alpha=0.3)

    axes[0].set_ylabel("chance of being trained on")
    axes[-1].legend(fontsize=8)
    figure.suptitle(f"{evaluation.env}: what {evaluation.agent} makes of wrong labels")
    return figure


def strength_figure(evaluation: Evaluation) -> "Figure | None":
    """Strength of each stability bin over time; None where the agent does not decide it."""
    from matplotlib.figure import Figure

    strengths = evaluation.strengths.get(evaluation.agent)
    if strengths is None:
        return None

    contexts, intervals, bins = strengths.shape
    figure = Figure(figsize=(3.1 * contexts + 1.4, 3.2), dpi=120, layout="constrained")
    axes = figure.subplots(1, contexts, sharey=True, squeeze=False)[0]
    time, colors = np.arange(1, intervals + 1), bin_colors(bins)

    for axis, strength, context in zip(axes, strengths, evaluation.contexts, strict=True):
        for b in range(bins):
            axis.plot(time, strength[:, b], color=colors[b], label=f"bin {b}")
        axis.set(title=context_label(context), xlabel="interval", ylim=(-0.02, 1.02))
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.grid(alpha=0.3)

    axes[0].set_ylabel("augmentation strength")
    handles, names = axes[-1].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside right center", fontsize=8, title="stability\n(0: steadiest)")
    figure.suptitle(f"{evaluation.env}: how strongly {evaluation.agent} augments")
    return figure


def wrong_label_table(evaluation: Evaluation) -> str:
    """Share of wrong labels among the samples of the last third of training, in percent; "" without noise."""
    noisy = [context for context in evaluation.contexts if wrong_share(context) > 0]
    if not noisy:
        return ""

    labels = [context_label(context) for context in noisy]
    lines = [f"| agent | {' | '.join(labels)} |", "|" + "---|" * (1 + len(labels))]
    for agent, rows in _by_context(evaluation).items():
        late = [rows[label].wrong_late for label in labels]
        cells = ["-" if share is None else f"{100 * share:.1f}" for share in late]
        name = f"**{agent}**" if agent == evaluation.agent else agent
        lines.append(f"| {' | '.join([name, *cells])} |")

    return "\n".join(lines)


def write_report(evaluation: Evaluation, folder: Path, step: int, prefix: str = "") -> list[Path]:
    """Write an evaluation to a run's folder: JSON, PNGs, and text, scalars and figures for TensorBoard.

    Args:
        evaluation: what to show.
        folder: the run's folder; TensorBoard's event files lie there.
        step: environment steps the agent was trained for.
        prefix: put before the files' names and in the tags, for an evaluation on another environment.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from torch.utils.tensorboard import SummaryWriter

    drawn = {
        "accuracy": accuracy_figure(evaluation),
        "schedule": schedule_figure(evaluation),
        "noise": noise_figure(evaluation),
        "strength": strength_figure(evaluation),
    }
    figures = {name: figure for name, figure in drawn.items() if figure is not None}
    written = []
    tag = f"evaluation/{prefix}"

    with files.naming(f"the event file in {folder}"), SummaryWriter(str(folder)) as writer:
        writer.add_text(f"{tag}table", markdown_table(evaluation), step)
        writer.add_text(f"{tag}wrong_labels", wrong_label_table(evaluation), step)
        for row in evaluation.rows:
            context = context_label(row.context).replace(" ", "_").replace("%", "percent")
            writer.add_scalar(f"{tag}{row.agent}/{context}", row.accuracy_mean, step)
        for name, figure in figures.items():
            FigureCanvasAgg(figure)
            path = folder / f"{prefix}{name}.png"
            image = io.BytesIO()
            figure.savefig(image, format="png")
            written.append(files.write(path, image.getvalue()))
            writer.add_figure(f"{tag}{name}", figure, step, close=False)

    # Last: whoever finds it knows that everything is there
    json_path = folder / f"{prefix}evaluation.json"
    save(evaluation, json_path, {"step": step})
    return [json_path, *written]
