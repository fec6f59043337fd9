"""A plan's parts, made to fit each other and one budget."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dsenv.augment import AugmentationController
from dsenv.catalogue import Choice
from dsenv.plan import build as parts
from dsenv.plan.epoch_schedule import EpochSchedule
from dsenv.plan.policies import PlanPolicies, default_ratio, make_policies
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
    scoring_passes: int | None


@dataclass(frozen=True)
class Assembly:
    """The parts of a plan."""

    selector: Selector
    controller: AugmentationController | None
    volume: LearnedVolume | None
    """None where a schedule decides."""
    epoch_schedule: EpochSchedule
    policies: PlanPolicies | None
    """Runs the policies behind learned parts; None where there are none."""
    described: dict[str, str]
    """What a state can be continued under."""


def assemble(choices: Choices, given: Mapping[str, Any], batch_size: int, drop_last: bool) -> Assembly:
    """Build the parts and their epoch schedule.

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
    scoring_passes = int(selector.needs_pass) if choices.scoring_passes is None else choices.scoring_passes
    counts = None
    if not isinstance(volume_choice, LearnedVolume) and volume is None:
        counts = parts.make_counts(volume_choice, ratio, selector, size, epochs, scoring_passes)
    policies = _policies((selector, volume, controller), volume_choice, ratio, counts, scoring_passes, given)
    decides = policies is not None and policies.decides_count
    total, least = (policies.total, policies.least) if policies is not None and decides else (None, 1)
    epoch_schedule = EpochSchedule(size, epochs, batch_size, drop_last, counts, total, least)
    return Assembly(selector, controller, volume, epoch_schedule, policies, described)


def _policies(
    built: tuple[Any, ...],
    volume: parts.VolumeChoice,
    ratio: float | None,
    counts: tuple[int, ...] | None,
    scoring_passes: int,
    given: Mapping[str, Any],
) -> PlanPolicies | None:
    """Drivers for the learned parts among `built`, under the plan's budget."""
    if isinstance(volume, VolumeSchedule):
        target: float | None = volume.target
        paid = volume.target
    else:
        target = 1.0 if ratio is None and counts is not None else ratio
        paid = 1.0 if target is None else parts.paid_ratio(target, given["epochs"], scoring_passes)
    return make_policies(
        built,
        size=given["size"],
        classes=given["classes"],
        epochs=given["epochs"],
        ratio=target,
        budget=paid,
        seed=given["seed"],
        device=given["device"],
    )
