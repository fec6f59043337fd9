"""What a rehearsal found: a table, advice, settings for a plan, JSON."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from dsenv import files
from dsenv.catalogue import describe_part
from dsenv.rehearsal import show
from dsenv.rehearsal.advice import advice
from dsenv.rehearsal.candidates import ALL_DATA, Candidate
from dsenv.rehearsal.evidence import Difference, LabelNoise, Row, choose, is_worth_it, make_rows, too_little
from dsenv.rehearsal.halving import Found
from dsenv.tracking.pictures import Pixels

LAYOUT = 1
NAME = 24  # letters of a candidate in the table


@dataclass(frozen=True)
class Setup:
    """What was rehearsed on, and how."""

    data: str
    model: str
    samples: int
    """Samples rehearsed on."""
    total: int
    """Samples that there are."""
    classes: int
    epochs: int
    """Of the user's training run; on a subset more are rehearsed, see `dsenv.rehearsal.halving.stretch`."""
    batch_size: int
    folds: int
    rounds: int
    seed: int
    seconds: float
    minutes: float | None
    """The time limit."""


@dataclass(frozen=True, repr=False)
class Rehearsal:
    """What small training runs of every choice gave on samples that they did not see.

    Use::

        import torch
        import dsenv

        inputs = torch.randn(200, 8)
        labels = (inputs[:, 0] > 0).long()
        found = dsenv.rehearse((inputs, labels), candidates=["trim"], epochs=4, minutes=None, progress=False)
        print(type(found).__name__ == "Rehearsal", found.best.name, found.settings)
        print(found)
    """

    table: list[Row]
    """A row for each candidate, the most accurate first."""
    best: Row
    """The row to take; see `says` for the reason."""
    best_within_ratio: Row
    """The row to take where training on all data is no choice."""
    noise_rate: float | None
    """Estimated share of wrong labels, [0, 1); None where the models are confident of too few samples."""
    says: list[str]
    """Advice, in plain sentences."""
    cut: list[str]
    """What was cut to keep the time limit, and how a subset was trained; empty where all was rehearsed on."""
    left_out: list[str]
    """Policies that cannot be tried, each with its reason."""
    setup: Setup
    noise: LabelNoise | None = None
    traces: Mapping[str, list[float]] = field(default_factory=dict)
    """By candidate: gain over random after each round it took part in."""

    @property
    def settings(self) -> dict[str, Any]:
        """Keyword arguments of `DataPlan` for the best choice; none to train on everything."""
        return dict(self.best.settings)

    @property
    def plan_line(self) -> str:
        """The call to paste."""
        own = "".join(f", {key}={_literal(value)}" for key, value in self.settings.items())
        setup = self.setup
        return f"DataPlan(data, epochs={setup.epochs}, batch_size={setup.batch_size}{own})"

    def __repr__(self) -> str:
        """The choice, in one line."""
        gain = 100 * self.best.over_random.mean
        return (
            f"<Rehearsal of {len(self.table)} candidates: {self.best.name}, {gain:+.1f} points over random>"
        )

    def __str__(self) -> str:
        """The table and the advice, at most 100 columns wide."""
        setup = self.setup
        head = (
            f"{setup.data}: {setup.samples:,} of {setup.total:,} samples, {setup.classes} classes, "
            f"{setup.model}, {setup.epochs} epochs, {setup.seconds:.0f} s"
        )
        lines = [head, "Accuracy in percent on held-out samples, under their own labels.", ""]
        lines += [_HEAD, "-" * len(_HEAD)]
        lines += [_line(row, row is self.best) for row in self.table]
        return "\n".join([*lines, "", *(_wrapped(text) for text in self.says), "", self.plan_line])

    def plain(self) -> dict[str, Any]:
        """Everything but the pictures, as plain data."""
        rows = [asdict(row) | {"settings": _plain(row.settings)} for row in self.table]
        return {
            "layout": LAYOUT,
            "setup": asdict(self.setup),
            "rows": rows,
            "best": {"name": self.best.name, "ratio": self.best.ratio, "settings": _plain(self.settings)},
            "best_within_ratio": {
                "name": self.best_within_ratio.name,
                "ratio": self.best_within_ratio.ratio,
                "settings": _plain(self.best_within_ratio.settings),
            },
            "noise_rate": self.noise_rate,
            "says": self.says,
            "cut": self.cut,
            "left_out": self.left_out,
            "plan": self.plan_line,
            "rounds": {name: list(values) for name, values in self.traces.items()},
        }

    def save(self, path: str | Path) -> Path:
        """Write all of it as JSON; returns the path."""
        return files.write_text(Path(path), json.dumps(self.plain(), indent=1) + "\n")

    def picture(self) -> Pixels:
        """Gain over random and cost of every candidate, (H, W, 3) uint8."""
        rate = "unknown" if self.noise_rate is None else f"{self.noise_rate:.0%}"
        title = f"Rehearsal on {self.setup.samples:,} samples; labels that look wrong: {rate}"
        return show.picture(self.table, self.best, title)

    def log_to(self, writer: Any) -> None:
        """Write table, picture and curves to TensorBoard.

        Args:
            writer: a `SummaryWriter`, or the path of a folder, for which one is made.
        """
        show.write_events(writer, str(self), self.picture(), self.table, self.traces)


def make_result(
    found: Found, tried: Sequence[Candidate], left_out: Sequence[str], labels: Tensor, setup: Setup
) -> Rehearsal:
    """The result of a rehearsal.

    Args:
        found: all that was run.
        tried: the candidates; the first is the reference.
        left_out: in words, what could not be tried.
        labels: (N,) of the samples rehearsed on.
        setup: what was rehearsed on, and how.

    Raises:
        ValueError: there was no time for a single candidate.
    """
    if tried[0] not in found.outcomes:
        raise ValueError(
            f"minutes = {setup.minutes:g} is too short for a single candidate on {setup.samples:,} samples; "
            "give more minutes, fewer epochs or a smaller model"
        )
    rows, reference = make_rows(found.outcomes, tried[0]), tried[0]
    worthy = [row for candidate, row in rows.items() if is_worth_it(candidate, found.outcomes)]
    cheap = [row for row in worthy if row.name != ALL_DATA]
    why = too_little(setup.samples, setup.total, int(labels.bincount().count_nonzero()), setup.folds)

    # Random selection, unless the evidence is for another one
    own = rows[reference]
    best, within = (own, own) if why else (choose(worthy, own), choose(cheap, own))
    leader = max(found.last, key=lambda candidate: rows[candidate].accuracy)
    noise = LabelNoise.of(found.outcomes[leader], labels)

    table = sorted(rows.values(), key=lambda row: -row.over_random.mean)
    return Rehearsal(
        table=table,
        best=best,
        best_within_ratio=within,
        noise_rate=noise.rate,
        says=advice(best, within, own, table, noise, why, found.cut),
        cut=found.cut,
        left_out=list(left_out),
        setup=setup,
        noise=noise,
        traces={f"{c.name} {c.ratio:g}": _trace(found, c, reference) for c in found.outcomes},
    )


def _trace(found: Found, candidate: Candidate, reference: Candidate) -> list[float]:
    """Gain over random after each round."""
    own, other = found.outcomes[candidate], found.outcomes[reference]
    return [Difference.of(own[:count], other).mean for count in range(1, len(own) + 1)]


_HEAD = (
    f"  {'candidate':{NAME}} {'ratio':>5} {'accuracy':>8}  {'over random (95 %)':>23}  "
    f"{'over all':>8}  {'cost':>5} {'runs':>4} {'s':>5}"
)


def _line(row: Row, is_best: bool) -> str:
    name = row.name if len(row.name) <= NAME else f"{row.name[: NAME - 1]}…"
    gain = "" if row.over_random.mean == row.over_random.high == 0 else _interval(row.over_random)
    lost = f" {row.diverged} diverged" if row.diverged else ""
    return (
        f"{'>' if is_best else ' '} {name:{NAME}} {row.ratio:5.2f} {100 * row.accuracy:8.2f}  {gain:>23}  "
        f"{100 * row.over_all.mean:+8.2f}  {row.cost:5.2f} {row.runs:4d} {row.seconds:5.1f}{lost}"
    )


def _interval(found: Difference) -> str:
    return f"{100 * found.mean:+.2f} ({100 * found.low:+.2f} to {100 * found.high:+.2f})"


def _wrapped(text: str) -> str:
    from textwrap import fill

    return fill(text, 98, initial_indent="- ", subsequent_indent="  ")


def _literal(value: Any) -> str:
    return repr(_plain(value))


def _plain(value: Any) -> Any:
    """Settings as plain data: parts that are no names in words."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if value is None or isinstance(value, str | int | float | bool):
        return value
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else describe_part(value)
