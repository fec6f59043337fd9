"""A plan's parts, made to fit each other and one budget."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dsenv.augment import AugmentationController
from dsenv.catalogue import Choice
from dsenv.plan import build as parts
from dsenv.plan.epoch_schedule import Timetable
from dsenv.plan.policies import Guidance, default_ratio, make_guidance
from dsenv.policy.parts import PolicyChoice
from dsenv.select.base import Selector
from dsenv.volume.base import VolumeSchedule
from dsenv.volume.learned import Learned as LearnedVolume


@dataclass(frozen=True)
class Choices:
    """What a user gave to a `DataPlan`; see there."""

    selector: Choice | Selector | None
    volume: parts.VolumeChoice
    augment: Choice | AugmentationController | None
    policy: PolicyChoice | None
    ratio: float | None
    looks: int | None


@dataclass(frozen=True)
class Assembly:
    """The parts of a plan."""

    selector: Selector
    controller: AugmentationController | None
    volume: LearnedVolume | None
    """None where a schedule decides."""
    timetable: Timetable
    guidance: Guidance | None
    """Runs the policies behind learned parts; None where there are none."""
    described: dict[str, str]
    """What a state can be continued under."""


def assemble(choices: Choices, given: Mapping[str, Any], batch_size: int, drop_last: bool) -> Assembly:
    """Build the parts and their timetable.

    Args:
        choices: as the user made them.
        given: size, classes, device, epochs and seed.
        batch_size: samples a step.
        drop_last: leave out an epoch's last batch where it is smaller.

    Raises:
        ValueError: a choice is unknown, contradicts another one, or the budget is too small.
    """
    selector_choice, volume_choice, augment_choice = parts.apply_policy(
        choices.policy, choices.selector, choices.volume, choices.augment
    )
    selector = parts.make_selector(selector_choice, given)
    controller = parts.make_controller(augment_choice, given)
    volume = parts.make_volume(volume_choice)
    described = {
        "selector": parts.describe(selector_choice or "random", selector),
        "augment": parts.describe(augment_choice, controller),
        "volume": "fixed" if volume is None else parts.describe(None, volume),
    }
    ratio, epochs, size = choices.ratio, given["epochs"], given["size"]
    if ratio is None and not isinstance(volume_choice, VolumeSchedule):
        ratio = default_ratio((volume, selector))
    looks = int(selector.needs_pass) if choices.looks is None else choices.looks
    counts = None
    if not isinstance(volume_choice, LearnedVolume) and volume is None:
        counts = parts.make_counts(volume_choice, ratio, selector, size, epochs, looks)
    guidance = _guidance((selector, volume, controller), volume_choice, ratio, counts, looks, given)
    decides = guidance is not None and guidance.decides_count
    total, least = (guidance.total, guidance.least) if guidance is not None and decides else (None, 1)
    timetable = Timetable(size, epochs, batch_size, drop_last, counts, total, least)
    return Assembly(selector, controller, volume, timetable, guidance, described)


def _guidance(
    built: tuple[Any, ...],
    volume: parts.VolumeChoice,
    ratio: float | None,
    counts: tuple[int, ...] | None,
    looks: int,
    given: Mapping[str, Any],
) -> Guidance | None:
    """Drivers for the learned parts among `built`, under the plan's budget."""
    if isinstance(volume, VolumeSchedule):
        target: float | None = volume.target
        paid = volume.target
    else:
        target = 1.0 if ratio is None and counts is not None else ratio
        paid = 1.0 if target is None else parts.paid_ratio(target, given["epochs"], looks)
    return make_guidance(
        built,
        size=given["size"],
        classes=given["classes"],
        epochs=given["epochs"],
        ratio=target,
        budget=paid,
        seed=given["seed"],
        device=given["device"],
    )
