"""The parts of a plan from their names."""

from collections.abc import Mapping
from typing import Any

from dsenv.augment import CONTROLLERS, AugmentationController, NoAugmentation
from dsenv.catalogue import Choice, build_part
from dsenv.errors import check_share
from dsenv.policy.parts import LearnedPart, PolicyChoice, resolve
from dsenv.select.base import Selector
from dsenv.select.registry import SELECTORS
from dsenv.volume.base import VolumeSchedule, counts
from dsenv.volume.budget import FORWARD_COST
from dsenv.volume.learned import Learned as LearnedVolume
from dsenv.volume.registry import SCHEDULES

LEARNED = {
    "selector": "dsenv.select.learned:Learned",
    "volume": "dsenv.volume.learned:Learned",
    "augment": "dsenv.augment.learned:Learned",
}
"""The parts called "learned", which plans have beside those of the registries."""

VolumeChoice = Choice | VolumeSchedule | LearnedVolume | None


def describe(choice: Choice | object | None, part: object = None) -> str:
    """A part in words, so that a state is not continued with another one: its name and plain settings.

    Args:
        choice: what the user gave.
        part: what was made of it.
    """
    if isinstance(part, LearnedPart):
        return f"learned {part.policy.digest}"
    if choice is None or isinstance(choice, str):
        return choice or "none"
    if not isinstance(choice, Mapping):
        return type(choice).__name__
    plain = {key: value for key, value in choice.items() if isinstance(value, str | int | float)}
    name = str(plain.pop("name", ""))
    return name if not plain else f"{name} {dict(sorted(plain.items()))}"


def apply_policy(
    choice: PolicyChoice | None,
    selector: Choice | Selector | None,
    volume: VolumeChoice,
    augment: Choice | AugmentationController | None,
) -> tuple[Choice | Selector | None, VolumeChoice, Choice | AugmentationController | None]:
    """Put a policy in the place of the parts that it decides; the others stay as they are.

    Raises:
        ValueError: one of the parts that it decides is given as well, or it decides nothing.
    """
    if choice is None:
        return selector, volume, augment
    policy = resolve(choice)
    name, control = policy.card.control["name"], policy.control
    own: dict[str, Any] = {"selector": selector, "volume": volume, "augment": augment}
    answers = (control.decides_what, control.decides_how_much, control.decides_how_strong)
    decided = [part for part, is_decided in zip(own, answers, strict=True) if is_decided]
    if not decided:
        raise ValueError(f"policy {policy!r} decides nothing (control {name!r}); leave it out")
    for part in decided:
        only_ops = isinstance(own[part], Mapping) and own[part].get("name") == "given"
        if own[part] is not None and not only_ops:
            raise ValueError(
                f"{part}={describe(own[part])!r} was given, and the policy (control {name!r}) decides "
                f"that; leave {part} out"
            )
        own[part] = {**(own[part] or {}), "name": "learned", "policy": policy}
    return own["selector"], own["volume"], own["augment"]


def make_selector(choice: Choice | Selector | None, given: Mapping[str, Any]) -> Selector:
    """A selector from its name, its table or itself; None for the random one."""
    if isinstance(choice, Selector):
        return choice
    known = {**SELECTORS, "learned": LEARNED["selector"]}
    selector: Selector = build_part("selector", known, choice or "random", given, Selector)
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
        known: dict[str, Any] = {**CONTROLLERS, "learned": LEARNED["augment"]}
        found = build_part("augment", known, choice, given, AugmentationController)
    return None if isinstance(found, NoAugmentation) else found


def make_volume(choice: VolumeChoice) -> LearnedVolume | None:
    """The learned volume of a choice; None where it is a schedule."""
    name = choice.get("name") if isinstance(choice, Mapping) else choice
    if name == "learned":
        learned: LearnedVolume = build_part("volume", {"learned": LEARNED["volume"]}, choice)  # type: ignore[arg-type]
        return learned
    return choice if isinstance(choice, LearnedVolume) else None


def paid_ratio(ratio: float, epochs: int, scoring_passes: int) -> float:
    """Mean share of the training set that is left for training.

    Args:
        ratio: mean share that training and passes may cost together, (0, 1].
        epochs: number of epochs.
        scoring_passes: passes over the training set that the budget pays for.

    Raises:
        ValueError: nothing is left.
    """
    target = check_share("ratio", ratio) - scoring_passes * FORWARD_COST / epochs
    if target <= 0:
        raise ValueError(
            f"{ratio} of {epochs} epochs does not pay for {scoring_passes} passes over the data at "
            f"{FORWARD_COST:.2f} epochs each; raise the ratio, train longer, or set scoring_passes=0 to "
            "leave them unpaid"
        )
    return target


def make_counts(
    choice: Choice | VolumeSchedule | None,
    ratio: float | None,
    selector: Selector,
    size: int,
    epochs: int,
    scoring_passes: int,
) -> tuple[int, ...] | None:
    """Samples of each epoch; None where the selector is to set its own number.

    Args:
        choice: a volume schedule, its name or table; None for a constant one.
        ratio: mean share of the training set, (0, 1]; None for the selector's own count where it has
            one, else for all data.
        selector: says whether it has a count of its own.
        size: N.
        epochs: number of epochs.
        scoring_passes: passes over the training set that the budget pays for.
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
    known = {"target": paid_ratio(ratio, epochs, scoring_passes)}
    schedule: VolumeSchedule = build_part("volume", SCHEDULES, choice or "constant", known, VolumeSchedule)
    return tuple(counts(schedule, size, epochs))
