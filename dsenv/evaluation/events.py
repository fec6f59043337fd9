"""An evaluation as TensorBoard's events: a sub-run for each agent, so that all of them overlay in one chart.

In a run's folder, `evaluation/` holds pictures, tables and the layout of the tab "Custom Scalars", and each
agent's curves in a folder of its name; `hparams/` holds the rows of the tab "HParams", one an agent. An
evaluation that is made again adds a step to pictures, tables and rows, and puts its curves into
`evaluation-2/`. Contexts are columns, not rows: some tabs show nothing at first where there are more than 40
sub-runs.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dsenv import files
from dsenv.evaluation.compare import Evaluation
from dsenv.evaluation.labels import context_label
from dsenv.evaluation.statistics import band
from dsenv.evaluation.tables import markdown_table, overall_table, wrong_label_table
from dsenv.evaluation.trace import Trace
from dsenv.tracking.layout import evaluation_layout
from dsenv.tracking.pictures import Pixels

# Groups of tags; TensorBoard shows them in this order, before all that have no number
RESULT = "1 result"
CURVE = "2 test accuracy over samples seen"
OVER_TIME = {
    "ratio": "3 share of the data, by interval",
    "wrong": "4 wrong labels among the chosen, by interval",
    "strength": "5 augmentation strength, by interval",
}
"""Fields of a trace, and the groups of their curves."""
LOW, HIGH = "6 lower edge of the 95% interval", "7 upper edge of the 95% interval"
COLUMNS = {
    "accuracy_mean": "8 test accuracy at the end",
    "gain_mean": "8 gain over all data",
    "over_random_mean": "8 gain over random",
    "wrong_late": "8 wrong labels late",
}
"""Fields of a row of the result, and the groups of their columns in the tab HParams, one a context."""
COSTS = {
    "ratio": "9 cost/share of the data",
    "compute": "9 cost/compute",
    "samples_used": "9 cost/samples seen",
    "seconds": "9 cost/seconds",
}
"""The same of columns that are one for all contexts: means."""

CONSTANT = 1e-6
LONGEST = 60  # letters of a folder's name, of up to 4 bytes each; a file system takes 255


@dataclass(frozen=True)
class Place:
    """Where the events of an evaluation go, and what it is called there."""

    folder: Path
    """Of the run."""
    prefix: str
    """Before the names of folders; empty where the run is evaluated in its own environment."""
    number: int
    """Of the evaluation, from 1 on."""
    step: int
    """Of pictures, tables and rows; larger than that of the evaluation before."""
    about: Mapping[str, str | float]
    """What stands beside agent and context in the tab HParams: the run, the agent's seed."""

    @property
    def pictures(self) -> Path:
        """Folder of pictures and tables."""
        return self.folder / f"{self.prefix}evaluation"

    @property
    def rows(self) -> Path:
        """Folder that holds a sub-run for each row of the tab HParams."""
        return self.folder / f"{self.prefix}hparams"

    @property
    def curves(self) -> Path:
        """Folder that holds a sub-run for each agent."""
        again = "" if self.number == 1 else f"-{self.number}"
        return self.folder / f"{self.prefix}evaluation{again}"


def folder_names(names: Iterable[str]) -> dict[str, str]:
    """A folder for each name; no two share one, on systems that ignore the case of letters too."""
    found: dict[str, str] = {}
    taken: set[str] = set()
    for name in names:
        safe = re.sub(r"[^\w.=+%-]+", "_", name).lstrip(".")[:LONGEST] or "_"
        folder, number = safe, 2
        while folder.casefold() in taken:
            folder, number = f"{safe}-{number}", number + 1
        taken.add(folder.casefold())
        found[name] = folder
    return found


def write_events(
    evaluation: Evaluation,
    place: Place,
    pictures: Mapping[str, Pixels],
    followed: Sequence[str] | None = None,
) -> None:
    """Write an evaluation for TensorBoard.

    Args:
        evaluation: what to write.
        place: where.
        pictures: (H, W, 3) by name.
        followed: agents that get curves and a row; None for all.

    Raises:
        OSError: an event file cannot be written.
    """
    with files.naming(str(place.curves)):
        place.curves.mkdir(parents=True, exist_ok=True)  # first: it tells the next one that this one began
    _write_pictures(evaluation, place, pictures)
    names = folder_names(evaluation.traces)
    for agent, traces in evaluation.traces.items():
        if followed is not None and agent not in followed:
            continue
        _write_curves(evaluation, traces, place.curves / names[agent])
        _write_row(evaluation, agent, names[agent], place)


def _writer(folder: Path) -> Any:
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder))


def _write_pictures(evaluation: Evaluation, place: Place, pictures: Mapping[str, Pixels]) -> None:
    folder, step = place.pictures, place.step
    with files.naming(f"the event file in {folder}"), _writer(folder) as writer:
        for name, picture in pictures.items():
            writer.add_image(f"{RESULT}/{name}", picture, step, dataformats="HWC")
        writer.add_text(f"{RESULT}/table", markdown_table(evaluation), step)
        writer.add_text(f"{RESULT}/over all contexts", overall_table(evaluation), step)
        wrong = wrong_label_table(evaluation)
        if wrong:
            writer.add_text(f"{RESULT}/wrong labels among the chosen, late in training", wrong, step)

        if any(trace.has_curve for traces in evaluation.traces.values() for trace in traces):
            labels = [context_label(context) for context in evaluation.contexts]
            charts = [(label, f"{CURVE}/{label}", f"{LOW}/{label}", f"{HIGH}/{label}") for label in labels]
            writer.add_custom_scalars(evaluation_layout(charts))


def _write_curves(evaluation: Evaluation, traces: list[Trace], folder: Path) -> None:
    """Curves of one agent: test accuracy over samples seen with its band, and what was chosen by interval."""
    with files.naming(f"the event file in {folder}"), _writer(folder) as writer:
        for number, (context, trace) in enumerate(zip(evaluation.contexts, traces, strict=True)):
            label = context_label(context)
            if trace.has_curve:
                mean, low, high = band(trace.curve)
                samples = trace.samples.mean(0).round().astype(np.int64)
                for group, values in ((CURVE, mean), (LOW, low), (HIGH, high)):
                    _write_series(writer, f"{group}/{label}", samples, values)
            for what, group in OVER_TIME.items():
                if _says_something(evaluation, number, what):
                    values = getattr(trace, what)
                    _write_series(writer, f"{group}/{label}", np.arange(1, len(values) + 1), values)


def _write_series(writer: Any, tag: str, steps: NDArray[np.int64], values: NDArray[np.floating[Any]]) -> None:
    for step, value in zip(steps.tolist(), values.tolist(), strict=True):
        if np.isfinite(value):
            writer.add_scalar(tag, value, step)


def _says_something(evaluation: Evaluation, number: int, what: str) -> bool:
    """Whether a series of any agent changes over time in a context, or differs between agents."""
    values = [getattr(traces[number], what) for traces in evaluation.traces.values()]
    finite = np.concatenate([value[np.isfinite(value)] for value in values])
    if not finite.size or np.ptp(finite) <= CONSTANT:
        return False
    known = [value[np.isfinite(value)] for value in values]
    return what != "ratio" or any(value.size and np.ptp(value) > CONSTANT for value in known)


def _write_row(evaluation: Evaluation, agent: str, name: str, place: Place) -> None:
    """A row of the tab HParams: an agent, with what it reached in each context and what it cost."""
    from tensorboard.plugins.hparams.summary_v2 import hparams_pb

    rows = [row for row in evaluation.rows if row.agent == agent]
    about = {**place.about, "environment": evaluation.env, "agent": agent}
    plain = {key: value if isinstance(value, str) else float(value) for key, value in about.items()}

    folder = place.rows / name
    with files.naming(f"the event file in {folder}"), _writer(folder) as writer:
        trial = f"{place.folder.name}/{place.prefix}{name}"
        writer.file_writer.add_summary(hparams_pb(plain, trial_id=trial))
        for field, group in COLUMNS.items():
            for row in rows:
                value = getattr(row, field)
                if value is not None:
                    writer.add_scalar(f"{group}/{context_label(row.context)}", value, place.step)
        for field, tag in COSTS.items():
            known = [value for row in rows if (value := getattr(row, field)) is not None]
            if known:
                writer.add_scalar(tag, float(np.mean(known)), place.step)
