"""What an evaluation leaves in a run's folder: JSON, figures, TensorBoard's events."""

import io
import shutil
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from dsenv import files
from dsenv.evaluation import figures, storage
from dsenv.evaluation.compare import Evaluation
from dsenv.evaluation.events import Place, write_events
from dsenv.tracking.pictures import Pixels, pixels


def write_report(
    evaluation: Evaluation,
    folder: Path,
    step: int,
    prefix: str = "",
    about: Mapping[str, str | float] | None = None,
    *,
    followed: Sequence[str] | None = None,
) -> list[Path]:
    """Write an evaluation to a run's folder: JSON, PNGs, and TensorBoard's events.

    An evaluation that was there before keeps its events, and its JSON as `evaluation-1.json` and so on.

    Args:
        evaluation: what to write.
        folder: the run's folder.
        step: environment steps the agent was trained for.
        prefix: put before the names of files and folders, for an evaluation on another environment.
        about: what stands beside the agent in TensorBoard's tab HParams.
        followed: agents that get curves and a row of their own in TensorBoard; None for all.

    Returns:
        The files written, the JSON first.
    """
    path = folder / f"{prefix}{storage.RESULT}"
    place = _place(folder, prefix, step, path, about or {})

    pictures = _pictures(evaluation)
    named = {NAMES[name]: picture for name, picture in pictures.items()}
    gain = {"gain over all data, and cost": pixels(figures.gain_figure(evaluation))}
    write_events(evaluation, place, gain | named, followed)
    written = [files.write(folder / f"{prefix}{name}.png", _png(found)) for name, found in pictures.items()]

    # Last: whoever finds it knows that everything is there
    if path.is_file():
        _keep(path, place.number - 1)
    storage.save(evaluation, path, _facts(place, step))
    return [path, *written]


def _facts(place: Place, trained: int) -> dict[str, Any]:
    """What stands beside an evaluation in its JSON."""
    now = datetime.now().astimezone().replace(microsecond=0).isoformat()
    return {"number": place.number, "step": place.step, "trained": trained, "made": now}


NAMES = {
    "accuracy": "test accuracy of all agents",
    "schedule": "schedule, the share from each loss bin",
    "noise": "wrong and right labels trained on",
    "strength": "strength of each stability bin",
}
"""Figures, and what TensorBoard calls them."""


def _pictures(evaluation: Evaluation) -> dict[str, Pixels]:
    """Figures (H, W, 3) by name, those that there is something to draw for."""
    drawn = {
        "accuracy": figures.accuracy_figure(evaluation),
        "schedule": figures.schedule_figure(evaluation),
        "noise": figures.noise_figure(evaluation),
        "strength": figures.strength_figure(evaluation),
    }
    return {name: pixels(figure) for name, figure in drawn.items() if figure is not None}


def _png(picture: Pixels) -> bytes:
    from PIL import Image

    content = io.BytesIO()
    Image.fromarray(picture).save(content, format="png")
    return content.getvalue()


def _place(folder: Path, prefix: str, step: int, path: Path, about: Mapping[str, str | float]) -> Place:
    """Where the events go: behind those of the evaluations that are there."""
    number = 1
    if path.is_file():
        facts = storage.facts_of(path)  # none in one that is damaged or old
        number = int(facts.get("number", 1)) + 1
        step = max(step, int(facts.get("step", step)) + 1)

    # One that was killed before its JSON left events, of this step or of one of the next
    while Place(folder, prefix, number, step, about).curves.exists():
        number, step = number + 1, step + 1
    return Place(folder, prefix, number, step, about)


def _keep(path: Path, number: int) -> None:
    """Keep an evaluation beside the one that takes its place."""
    kept = path.with_name(f"{path.stem}-{number}{path.suffix}")
    while kept.exists():
        number += 1
        kept = path.with_name(f"{path.stem}-{number}{path.suffix}")
    shutil.copy2(path, kept)
