"""A rehearsal as a picture and in TensorBoard."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dsenv.rehearsal.evidence import Row
from dsenv.tracking.pictures import Pixels, new_figure, pixels

OWN, OTHERS = "#1b7837", "#5a6f8f"


def picture(rows: Sequence[Row], best: Row, title: str) -> Pixels:
    """Gain over random with its 95 % interval, and cost, of every candidate, (H, W, 3).

    Args:
        rows: of the table, the best at the top.
        best: the one that is drawn in another colour.
        title: above both.
    """
    rows = rows[::-1]
    figure = new_figure(8.4, 1.4 + 0.3 * len(rows))
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=[3, 1])
    place = np.arange(len(rows))
    colors = [OWN if row is best else OTHERS for row in rows]

    for y, row, color in zip(place, rows, colors, strict=True):
        gain = row.over_random
        mean, low, high = np.nan_to_num([gain.mean, gain.low, gain.high], posinf=0, neginf=0) * 100
        left.plot([low, high], [y, y], color=color, linewidth=2)
        left.plot([mean], [y], "o", color=color)
    left.axvline(0, color="0.6", linewidth=1)
    left.set_yticks(place, [f"{row.name} {row.ratio:g}" for row in rows])
    left.set(xlabel="accuracy over random selection, points, with 95 % interval")

    right.barh(place, [row.cost for row in rows], color=colors, height=0.6)
    right.set(xlabel="cost, share of all data")
    figure.suptitle(title)
    return pixels(figure)


def write_events(
    writer: Any, text: str, drawn: Pixels, rows: Sequence[Row], traces: Mapping[str, Sequence[float]]
) -> None:
    """Write a rehearsal to TensorBoard: text, picture, the cost of each candidate and its gain by round.

    Args:
        writer: a `SummaryWriter`, or the path of a folder, for which one is made.
        text: table and advice.
        drawn: the picture.
        rows: of the table.
        traces: by candidate, its gain over random after each round.
    """
    if isinstance(writer, str | Path):
        from torch.utils.tensorboard import SummaryWriter

        with SummaryWriter(str(writer)) as own:
            write_events(own, text, drawn, rows, traces)
        return

    writer.add_text("rehearsal", "\n".join(f"    {line}" for line in text.splitlines()))
    writer.add_image("rehearsal/gain and cost", drawn, dataformats="HWC")
    for name, gains in traces.items():
        for step, gain in enumerate(gains, 1):
            writer.add_scalar(f"rehearsal gain over random in points/{name}", 100 * gain, step)
    for row in rows:
        writer.add_scalar(f"rehearsal cost/{row.name} {row.ratio:g}", row.cost, 0)
