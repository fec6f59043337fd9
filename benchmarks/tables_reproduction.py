"""Tables and figure of the page on the published claims, from the JSON lines of `reproduce.py`."""

import json
import statistics
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

from reproduce_claims import CLAIMS
from reproduce_rows import PRESETS
from reproduce_tables import (
    Results,
    curve_table,
    hardware,
    measured,
    missing_table,
    read,
    regulariser_table,
    scale_table,
    section_table,
    table,
)

RESULTS = Path(__file__).resolve().parent / "results"
ORDER = ("gpu", "cpu", "cpu-short")  # the first that has a comparison decides
NONE = "No run of this is in the repository yet."


def verdict_table(results: Sequence[Results]) -> str:
    """Each claim with what was published, the verdict, and how to try it in its own setting."""
    ordered = sorted((r for r in results if r.preset.name in ORDER), key=lambda r: ORDER.index(r.preset.name))
    rows = []
    for claim in CLAIMS:
        verdict, told = claim.verdict(ordered)
        rows.append([claim.paper, claim.claim, claim.published, verdict, "; ".join(told), claim.elsewhere])
    heads = [
        "paper",
        "claim",
        "published",
        "verdict",
        "less by, in points, with 95 % interval",
        "in its own setting",
    ]
    return table(heads, rows)


def of_preset(name: str, results: Results) -> str:
    """A table of one preset, or a line that there is none."""
    made: dict[str, Callable[[Results], str]] = {
        "curve": curve_table,
        "regulariser": regulariser_table,
        "missing": missing_table,
        "hardware": lambda found: hardware(list(found.found.values())) + ".",
        "length": length,
    }
    if name == "missing":
        return missing_table(results)
    if not results.found:
        return NONE
    text = made[name](results) if name in made else section_table(results, name)
    return text if name in ("hardware", "length") or text.count("\n") > 1 else NONE


def length(results: Results) -> str:
    """The length that the curve shows, in a sentence."""
    if results.known_length:
        return f"The other rows have {results.known_length} epochs."
    return f"The curve is not complete; the other rows have {results.runs[0].epochs} epochs."


@cache
def kept(preset: str) -> Results:
    """The runs of a preset that are in the repository."""
    return Results(read(RESULTS / f"reproduce_{preset}.jsonl"), PRESETS[preset])


def of_kept(name: str, preset: str) -> str:
    """A table of the runs that are in the repository."""
    return of_preset(name, kept(preset))


def verdicts() -> str:
    return verdict_table([kept(preset) for preset in ORDER])


def scale() -> str:
    path = RESULTS / "reproduce_scale.json"
    return scale_table(json.loads(path.read_text())) if path.is_file() else NONE


PARTS = {
    "cpu-short": ("curve", "length", "pods", "references", "hardware", "regulariser", "missing"),
    "cpu": (
        "curve",
        "length",
        "pods",
        "references",
        "periods",
        "why",
        "data_agent",
        "sada",
        "policies",
        "hardware",
        "missing",
    ),
}
TABLES: dict[str, Callable[[], str]] = {
    "reproduction-verdicts": verdicts,
    "reproduction-scale": scale,
    **{
        f"reproduction-{preset}-{name}": partial(of_kept, name, preset)
        for preset, names in PARTS.items()
        for name in names
    },
}


def draw_kept(path: Path) -> None:
    """The figure of the first preset that has runs."""
    shown = next((kept(preset) for preset in ORDER if kept(preset).found), None)
    if shown is not None:
        draw(shown, path)


def draw(results: Results, path: Path) -> None:
    """Three panels: the redundancy curve, R along a run, and the ways to half of the samples."""
    import matplotlib as mpl

    mpl.use("Agg")
    mpl.rcParams["svg.hashsalt"] = "dsenv"  # the same file from the same figures
    from matplotlib import pyplot as plt

    figure, (curve, along, ways) = plt.subplots(1, 3, figsize=(13, 3.8), layout="constrained")
    points = [(e, results.curve(e)) for e in results.preset.curve if results.curve(e)]
    means = [100 * statistics.mean(line["accuracy"] for line in lines) for _, lines in points]
    curve.plot([e for e, _ in points], means, marker="o")
    curve.set_xscale("log", base=2)
    curve.set_xticks([e for e, _ in points], [str(e) for e, _ in points])
    curve.set(xlabel="epochs of all data", ylabel="test accuracy, %", title="Redundancy")
    for name in ("random, 50 %", "pods, random, 50 %"):
        row = results.row("pods", name)
        runs = [] if row is None else list(measured(results, row))
        if runs:
            shown = [epoch for epoch in runs[0][:-1] if epoch["r"] > 0]  # the rate ends near 0
            along.plot([epoch["epoch"] for epoch in shown], [epoch["r"] for epoch in shown], label=name)
            along.legend()
    along.set(yscale="log", xlabel="epoch", title="R(p, theta), one run")
    draw_ways(results, ways)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def draw_ways(results: Results, axes: Any) -> None:
    """Accuracy of each way to half of the samples, less that of all data, with intervals."""
    whole = results.row("pods", "all data")
    rows = [r for section in ("pods", "references", "periods") for r in results.rows(section)]
    found = [
        (row, results.difference(row, whole))
        for row in rows
        if "30 %" not in row.name and "70 %" not in row.name
    ]
    found = [(row, apart) for row, apart in found if apart is not None]
    for place, (_, apart) in enumerate(found):
        half = 0.0 if apart.low != apart.low else (apart.high - apart.low) / 2
        axes.errorbar(apart.mean, -place, xerr=half, fmt="o", color="C0")
    axes.set_yticks([-place for place in range(len(found))], [row.name for row, _ in found], fontsize=8)
    axes.axvline(0, color="grey", linewidth=0.8)
    axes.set(xlabel="points less all data", title="Half of the samples")
