"""What an environment shows of the training run so far: a figure, or a line."""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from dsenv.env.session import Session
from dsenv.tracking.pictures import bin_colors, pixels

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def summarise(session: Session, replica: int) -> str:
    """One line: interval, context, ratio, accuracy and budget."""
    done = int(session.state.interval[replica])
    context = session.context[replica]
    line = f"interval {done}/{session.config.intervals}  label noise {context.wrong_labels:.0%}"
    if done:
        scalars = {name: record[replica, done - 1] for name, record in session.history.scalars.items()}
        line += (
            f"  ratio {scalars['ratio']:.2f}  train acc {scalars['train_accuracy']:.3f}"
            f"  val acc {scalars['val_accuracy']:.3f}  wrong labels selected {scalars['wrong_labels']:.0%}"
        )
        if session.control.decides_how_strong:
            line += f"  strength {scalars['strength']:.2f}"
    return line + f"  budget left {session.state.budget.left[replica]}/{session.state.budget.total[replica]}"


def draw(session: Session, replica: int) -> NDArray[np.uint8]:
    """A figure (H, W, 3): what was selected by loss-rank bin, how much, and the validation curve.

    Where the control decides it, the strength of each stability bin too.
    """
    from matplotlib.figure import Figure

    history, intervals = session.history, session.config.intervals
    shows_strength = session.control.decides_how_strong
    panels = 4 if shows_strength else 3
    figure = Figure(figsize=(3.2 * panels, 3.2), dpi=100, layout="constrained")
    selected, ratio, accuracy, *rest = axes = figure.subplots(1, panels)
    time = np.arange(1, intervals + 1)
    shares = np.nan_to_num(history.selected[replica])
    bottom = np.zeros(intervals)
    for b, color in enumerate(bin_colors(shares.shape[1])):
        selected.bar(time, shares[:, b], bottom=bottom, color=color, width=0.9)
        bottom += shares[:, b]
    selected.set(title="selected, by loss-rank bin", ylim=(0, 1), ylabel="share (dark: small loss)")
    ratio.bar(time, np.nan_to_num(history.scalars["ratio"][replica]), color="tab:gray", width=0.9)
    ratio.axhline(session.targets[replica], color="black", linestyle=":", label="target")
    ratio.set(title="ratio", ylim=(0, 1.02), ylabel="share of the data")
    accuracy.plot(time, history.scalars["val_accuracy"][replica], "o-", label="validation accuracy")
    accuracy.plot(time, history.scalars["wrong_labels"][replica], "x--", label="wrong labels selected")
    accuracy.set(title="training", ylim=(0, 1.02))
    if shows_strength:
        draw_strengths(rest[0], history.strengths(session.control)[replica])
        rest[0].plot(time, history.scalars["strength"][replica], "k--", label="mean over the samples")
    for axis in axes:
        axis.set(xlabel="interval", xlim=(0.4, intervals + 0.6))
        axis.xaxis.get_major_locator().set_params(integer=True)
    for axis in (ratio, accuracy, *rest):
        axis.legend(fontsize=8)
    figure.suptitle(summarise(session, replica), fontsize=8)
    return pixels(figure)


def draw_strengths(axis: "Axes", strengths: NDArray[np.float32]) -> None:
    """Draw the strength (T, S) of each stability bin over the intervals."""
    time = np.arange(1, len(strengths) + 1)
    for b, color in enumerate(bin_colors(strengths.shape[1])):
        axis.plot(time, strengths[:, b], ".-", color=color)
    axis.set(title="strength, by stability bin", ylim=(-0.02, 1.02), ylabel="strength (dark: steady)")
