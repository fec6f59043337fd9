"""Pictures of a training run, made of arrays alone: what was chosen over time, and a sheet of images."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Floats = NDArray[np.float32]
Pixels = NDArray[np.uint8]

RIGHT, WRONG = (46, 125, 50), (211, 47, 47)  # borders of images by their label
UNKNOWN = (189, 189, 189)  # where nobody knows whether it is wrong
MOST_IMAGES = 16  # of each kind on a sheet
MOST_PIXELS = 64  # a side, of one image on a sheet


def bin_colors(bins: int) -> list[tuple[float, float, float, float]]:
    """One colour a bin, from dark (small loss) to light (large loss)."""
    from matplotlib import colormaps

    return [tuple(colormaps["viridis"](share)) for share in np.linspace(0, 0.95, bins)]


def new_figure(width: float, height: float) -> "Figure":
    """A figure of that size in inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=100, layout="constrained")


def pixels(figure: "Figure") -> Pixels:
    """A figure as (H, W, 3); it is drawn once. Names of the user's own may hold a $: nothing is a formula."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        text.set_parse_math(False)

    canvas = FigureCanvasAgg(figure)
    canvas.draw()  # type: ignore[no-untyped-call]
    found: Pixels = np.asarray(canvas.buffer_rgba())[..., :3].copy()  # type: ignore[no-untyped-call]
    return found


def stack_bins(axis: "Axes", time: Sequence[float], shares: Floats) -> None:
    """Draw shares (T, B) from each loss-rank bin as areas over time (T,), smallest losses at the bottom."""
    found, bins = np.nan_to_num(shares), shares.shape[1]
    labels = [f"{b}" for b in range(bins)]
    if len(found) == 1:  # an area needs two points
        time, found = [time[0] - 0.5, time[0] + 0.5], found.repeat(2, 0)
    axis.stackplot(time, found.T, colors=bin_colors(bins), labels=labels, linewidth=0)
    axis.set(ylim=(0, 1), ylabel="share of the chosen")
    axis.margins(x=0)
    axis.locator_params(axis="x", integer=True)


def bins_picture(time: Sequence[float], shares: Floats, what: str, later: Floats | None = None) -> Pixels:
    """Shares from each loss-rank bin over time, and within a training run.

    Args:
        time: (T,) when.
        shares: (T, B) share of the chosen from each bin then.
        what: time is counted in: the words on the axis.
        later: (I, B) the same by interval of a training run; None for one panel.
    """
    panels = 1 if later is None else 2
    figure = new_figure(1 + 3.6 * panels, 3.2)
    axes = figure.subplots(1, panels, sharey=True, squeeze=False)[0]

    stack_bins(axes[0], time, shares)
    axes[0].set(xlabel=what)
    if later is not None:
        stack_bins(axes[1], range(1, len(later) + 1), later)
        axes[1].set(xlabel="interval of a training run, lately", ylabel="")

    handles, names = axes[0].get_legend_handles_labels()
    title = "loss bin\n(0: smallest)"
    figure.legend(handles[::-1], names[::-1], loc="outside right center", title=title, fontsize=8)
    return pixels(figure)


def sheet(
    chosen: Pixels,
    left_out: Pixels,
    chosen_wrong: NDArray[np.bool_] | None = None,
    left_out_wrong: NDArray[np.bool_] | None = None,
) -> Pixels:
    """A sheet of images that were chosen and that were left out.

    Args:
        chosen: (M, H, W, 3) images, at most `MOST_IMAGES` are shown.
        left_out: (M', H, W, 3); there may be none.
        chosen_wrong: (M,) the label is known to be wrong: a red border, else a green one; None where nobody
            knows: grey borders.
        left_out_wrong: (M',).
    """
    rows = [("chosen", chosen, chosen_wrong), ("left out", left_out, left_out_wrong)]
    rows = [row for row in rows if len(row[1])]
    figure = new_figure(7.2, 1.9 * len(rows) + 0.3)
    axes = figure.subplots(len(rows), 1, squeeze=False)[:, 0]

    for axis, (name, images, wrong) in zip(axes, rows, strict=True):
        axis.imshow(_tiles(images[:MOST_IMAGES], _borders(len(images), wrong)), interpolation="nearest")
        axis.set_title(f"{name}", fontsize=9, loc="left")
        axis.set_axis_off()
    has_wrong = any(bool(wrong.any()) for _, _, wrong in rows if wrong is not None)
    figure.suptitle("red border: wrong label" if has_wrong else "", fontsize=8)
    return pixels(figure)


def _borders(number: int, wrong: NDArray[np.bool_] | None) -> list[tuple[int, int, int]]:
    """The colour of each image's border."""
    return [UNKNOWN] * number if wrong is None else [WRONG if is_wrong else RIGHT for is_wrong in wrong]


def _tiles(images: Pixels, borders: Sequence[tuple[int, int, int]]) -> Pixels:
    """Images (M, H, W, 3) side by side in two lines, with borders."""
    step = -(-max(images.shape[1:3]) // MOST_PIXELS)
    small = images[:, ::step, ::step]
    larger = max(1, 32 // max(small.shape[1:3]))
    small = small.repeat(larger, 1).repeat(larger, 2)

    edge = max(1, small.shape[1] // 12)
    height, width = small.shape[1] + 4 * edge, small.shape[2] + 4 * edge
    tiles = np.full((MOST_IMAGES, height, width, 3), 255, np.uint8)
    for place, (image, border) in enumerate(zip(small, borders, strict=False)):
        tiles[place, edge:-edge, edge:-edge] = border
        tiles[place, 2 * edge : -2 * edge, 2 * edge : -2 * edge] = image
    lines = tiles.reshape(2, MOST_IMAGES // 2, height, width, 3)
    return lines.transpose(0, 2, 1, 3, 4).reshape(2 * height, -1, 3)


def as_pixels(images: NDArray[np.generic]) -> Pixels | None:
    """Images (M, C, H, W), bytes or floats, as (M, H, W, 3) bytes; None where they are no images.

    Floats are stretched to their own range. One channel is grey, the first three of more are colours.
    """
    if images.ndim != 4 or not len(images) or min(images.shape[2:]) < 2:
        return None
    if images.shape[1] == 2:
        images = images[:, :1]
    found = images[:, :3] if images.shape[1] >= 3 else images.repeat(3, 1)
    if found.dtype != np.uint8:
        values = np.nan_to_num(found.astype(np.float32))
        low, high = float(values.min()), float(values.max())
        found = ((values - low) / max(high - low, 1e-12) * 255).astype(np.uint8)
    as_bytes: Pixels = np.ascontiguousarray(found.transpose(0, 2, 3, 1))
    return as_bytes
