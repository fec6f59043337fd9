"""The parts of a plan from their names."""

from collections.abc import Mapping
from typing import Any

from dsenv.augment import CONTROLLERS, AugmentationController, NoAugmentation
from dsenv.catalogue import Choice, build_part
from dsenv.errors import check_share
from dsenv.select.base import Selector
from dsenv.select.registry import SELECTORS
from dsenv.volume.base import VolumeSchedule, counts
from dsenv.volume.budget import FORWARD_COST
from dsenv.volume.registry import SCHEDULES


def describe(choice: Choice | object | None) -> str:
    """A part in words, so that a state is not continued with another one: its name and plain settings."""
    if choice is None or isinstance(choice, str):
        return choice or "none"
    if not isinstance(choice, Mapping):
        return type(choice).__name__
    plain = {key: value for key, value in choice.items() if isinstance(value, str | int | float)}
    name = str(plain.pop("name", ""))
    return name if not plain else f"{name} {dict(sorted(plain.items()))}"


def make_selector(choice: Choice | Selector, given: Mapping[str, Any]) -> Selector:
    """A selector from its name, its table or itself."""
    if isinstance(choice, Selector):
        return choice
    selector: Selector = build_part("selector", SELECTORS, choice, given, Selector)
    return selector


def make_controller(
    choice: Choice | AugmentationController | None, given: Mapping[str, Any]
) -> AugmentationController | None:
    """An augmentation controller from its name, its table or itself; None for none."""
    if choice is None:
        return None
    if isinstance(choice, AugmentationController):
        found = choice
    else:
        found = build_part("augment", CONTROLLERS, choice, given, AugmentationController)
    return None if isinstance(found, NoAugmentation) else found


def make_counts(
    choice: Choice | VolumeSchedule | None,
    ratio: float | None,
    selector: Selector,
    size: int,
    epochs: int,
    looks: int,
) -> tuple[int, ...] | None:
    """Samples of each epoch; None where the selector is to set its own number.

    Args:
        choice: a volume schedule, its name or table; None for a constant one.
        ratio: mean share of the training set, (0, 1]; None for the selector's own count where it has
            one, else for all data.
        selector: says whether it has a count of its own.
        size: N.
        epochs: number of epochs.
        looks: passes over the training set that the budget pays for.
    """
    if isinstance(choice, VolumeSchedule):
        if ratio is not None and ratio != choice.target:
            raise ValueError(f"ratio {ratio} differs from the schedule's target {choice.target}; give one")
        return tuple(counts(choice, size, epochs))
    if ratio is None:
        if choice is not None:
            raise ValueError(f"volume {choice!r} needs ratio=..., the mean share of the data an epoch")
        if hasattr(selector, "count"):
            return None
        ratio = 1.0
    target = check_share("ratio", ratio) - looks * FORWARD_COST / epochs
    if target <= 0:
        raise ValueError(
            f"{ratio} of {epochs} epochs does not pay for {looks} passes over the data at {FORWARD_COST:.2f} "
            "epochs each; raise the ratio, train longer, or set looks=0 to leave them unpaid"
        )
    known = {"target": target}
    schedule: VolumeSchedule = build_part("volume", SCHEDULES, choice or "constant", known, VolumeSchedule)
    return tuple(counts(schedule, size, epochs))
