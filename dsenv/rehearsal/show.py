"""A rehearsal as a picture and in TensorBoard."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dsenv.tracking.pictures import Pixels, new_figure, pixels

if TYPE_CHECKING:
    from dsenv.rehearsal.result import Rehearsal

OWN, OTHERS = "#1b7837", "#5a6f8f"


def picture(found: "Rehearsal") -> Pixels:
    """Gain over random with its 95 % interval, and cost, of every candidate."""
    rows = found.table[::-1]
    figure = new_figure(8.4, 1.4 + 0.3 * len(rows))
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=[3, 1])
    place = np.arange(len(rows))
    colors = [OWN if row is found.best else OTHERS for row in rows]

    for y, row, color in zip(place, rows, colors, strict=True):
        gain = row.over_random
        ends = np.nan_to_num([gain.mean, gain.low, gain.high], posinf=0, neginf=0) * 100
        left.plot(ends[1:], [y, y], color=color, linewidth=2)
        left.plot(ends[:1], [y], "o", color=color)
    left.axvline(0, color="0.6", linewidth=1)
    left.set_yticks(place, [f"{row.name} {row.ratio:g}" for row in rows])
    left.set(xlabel="accuracy over random selection, points, with 95 % interval")

    right.barh(place, [row.cost for row in rows], color=colors, height=0.6)
    right.set(xlabel="cost, share of all data")
    setup = found.setup
    rate = "unknown" if found.noise_rate is None else f"{found.noise_rate:.0%}"
    figure.suptitle(f"Rehearsal on {setup.samples:,} samples; labels that look wrong: {rate}")
    return pixels(figure)


def log_to(found: "Rehearsal", writer: Any) -> None:
    """Write a rehearsal to TensorBoard: text, picture, and the gain of each candidate by round."""
    if isinstance(writer, str | Path):
        from torch.utils.tensorboard import SummaryWriter

        with SummaryWriter(str(writer)) as own:
            log_to(found, own)
        return

    writer.add_text("rehearsal", "\n".join(f"    {line}" for line in str(found).splitlines()))
    writer.add_image("rehearsal/gain and cost", found.picture(), dataformats="HWC")
    for row in found.table:
        name = f"{row.name} {row.ratio:g}"
        for step, gain in enumerate(found.traces.get(name, []), 1):
            writer.add_scalar(f"rehearsal gain over random in points/{name}", 100 * gain, step)
        writer.add_scalar(f"rehearsal cost/{name}", row.cost, 0)
