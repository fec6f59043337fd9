"""Tables of the reproduction, from its JSON lines."""

import statistics
from pathlib import Path
from typing import Any

from reproduce_rows import Preset

GAIN = 0.2  # points that twice the epochs must gain, else data are redundant


class Results:
    """Runs grouped by row.

    Args:
        lines: the JSON lines.
    """

    def __init__(self, lines: list[dict[str, Any]]) -> None:
        self.lines = lines

    def length(self, preset: Preset) -> int | None:
        """The shortest length of the curve at which twice the epochs gain less than 0.2 points.

        None where the curve is not complete, or does not get there; decided on the held-out images.
        """
        means = {}
        for epochs in preset.curve:
            own = [
                100 * line["validation"]
                for line in self.lines
                if line["row"]["section"] == "curve" and line["epochs"] == epochs
            ]
            if own:
                means[epochs] = statistics.mean(own)
        for epochs in preset.curve:
            if epochs in means and 2 * epochs in means and means[2 * epochs] - means[epochs] < GAIN:
                return epochs
        return None


def write_page(results: Results, preset: Preset, folder: Path) -> None:
    raise NotImplementedError
