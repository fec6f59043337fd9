"""The parts of a plan from names, tables, classes or objects, made to fit each other and one budget."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch

from dsenv.augment import CONTROLLERS, AugmentationController, NoAugmentation
from dsenv.catalogue import Choice, build_part, describe_part, part_type
from dsenv.describe import describe
from dsenv.errors import check_share
from dsenv.plan.epoch_schedule import Budgeted, EpochSchedule
from dsenv.plan.guard import SAFE_KINDS, GuardChoice, draw_reserve, guard_settings
from dsenv.plan.lengths import check_ratio_of
from dsenv.plan.plan_guard import PlanGuard
from dsenv.plan.policies import PlanPolicies, make_policies
from dsenv.plan.source import Source
from dsenv.policy.parts import LearnedPart, LearnedSelector, LearnedVolume, PolicyChoice, resolve
from dsenv.select.base import Selector
from dsenv.select.registry import SELECTORS
from dsenv.signals import SampleSignals
from dsenv.task_kinds.base import TaskKind, check_fits
from dsenv.volume.base import VolumeSchedule, counts
from dsenv.volume.budget import FORWARD_COST
from dsenv.volume.registry import SCHEDULES

VOLUMES = {**SCHEDULES, "learned": "dsenv.policy.parts:LearnedVolume"}
KNOWN: dict[str, Mapping[str, Any]] = {
    "selector": {**SELECTORS, "learned": "dsenv.policy.parts:LearnedSelector"},
    "volume": VOLUMES,
    "augment": {**CONTROLLERS, "learned": "dsenv.policy.parts:LearnedAugmentation"},
}
"""The parts by name: those of the registries, and the learned ones, which only a plan can run."""

CLAIMED = "_given_to_a_plan"  # attribute of a part that belongs to a plan
VolumeChoice = Choice | VolumeSchedule | LearnedVolume | None
Chosen = dict[str, Any]
"""What was chosen for "selector", "volume" and "augment"; None where nothing was."""


def apply_policy(choice: PolicyChoice | None, chosen: Chosen) -> Chosen:
    """Put a policy in the place of the parts that it decides; the others stay as they are.

    Raises:
        ValueError: one of the parts that it decides is given as well, or it decides nothing.
    """
    if choice is None:
        return chosen
    policy = resolve(choice)
    name, control = policy.card.control["name"], policy.control
    answers = (control.decides_what, control.decides_how_much, control.decides_how_strong)
    decided = [part for part, is_decided in zip(chosen, answers, strict=True) if is_decided]
    if not decided:
        raise ValueError(f"policy {policy!r} decides nothing (control {name!r}); leave it out")

    found = dict(chosen)
    for part in decided:
        # A controller that leaves strengths open may be given too: it brings the ops
        own = chosen[part]
        is_open = part == "augment" and own is not None and _takes_strengths(own)
        if own is not None and not (is_open and isinstance(own, Mapping)):
            raise ValueError(
                f"{part}={describe_part(own)!r} was given, and the policy (control {name!r}) decides "
                f"that; leave {part} out"
            )
        found[part] = {**(own or {}), "name": "learned", "policy": policy}
    return found


def _takes_strengths(choice: Any) -> bool:
    kind = part_type("augment", KNOWN["augment"], choice)
    return bool(getattr(kind, "takes_strengths", False)) and not issubclass(kind, LearnedPart)


def make_selector(choice: Choice | Selector | None, given: Mapping[str, Any]) -> Selector:
    """The selector; the random one for None."""
    selector: Selector = build_part(
        "selector", KNOWN["selector"], "random" if choice is None else choice, given, Selector
    )
    return selector


def make_controller(
    choice: Choice | AugmentationController | None, given: Mapping[str, Any]
) -> AugmentationController | None:
    """The augmentation controller; None where nothing is augmented."""
    if choice is None:
        return None
    found = build_part("augment", KNOWN["augment"], choice, given, AugmentationController)
    return None if isinstance(found, NoAugmentation) else found


def make_volume(choice: VolumeChoice) -> LearnedVolume | None:
    """The learned volume of a choice; None where it is a schedule."""
    kind = None if choice is None else part_type("volume", VOLUMES, choice)
    if not (isinstance(kind, type) and issubclass(kind, LearnedVolume)):
        return None
    learned: LearnedVolume = build_part("volume", VOLUMES, choice, expected=LearnedVolume)
    return learned


@dataclass(frozen=True)
class PlanParts:
    """The parts of a plan."""

    selector: Selector
    volume: LearnedVolume | None
    """A learned one; None where the volume is a schedule."""
    controller: AugmentationController | None
    """None where nothing is augmented."""
    volume_choice: VolumeChoice
    """What was chosen for the volume."""
    words: Mapping[str, str]
    """The parts in words, see `describe`."""

    @cached_property
    def settings(self) -> dict[str, Any]:
        """All settings of the parts, as plain data."""
        return {name: describe(part) for name, part in zip(KNOWN, self, strict=True)}

    def __iter__(self) -> Iterator[Selector | LearnedVolume | AugmentationController | None]:
        """Selector, learned volume and controller."""
        return iter((self.selector, self.volume, self.controller))


def make_parts(
    policy: PolicyChoice | None, chosen: Chosen, given: Mapping[str, Any], kind: TaskKind
) -> PlanParts:
    """Build the parts.

    Args:
        policy: decides the parts that its control is about; None for no such policy.
        chosen: what the user gave for "selector", "volume" and "augment".
        given: settings that a part may take.
        kind: of the task.

    Raises:
        ValueError: a name or setting is unknown, a choice contradicts another one, or a part reads what the
            kind of task does not give.
    """
    chosen = apply_policy(policy, chosen)
    selector = make_selector(chosen["selector"], given)
    controller = make_controller(chosen["augment"], given)
    volume = make_volume(chosen["volume"])
    for name, part in (("selector", selector), ("augment", controller)):
        check_free(name, part)
        check_fits(kind, part)
    check_fits(kind, volume)

    words = in_words(chosen, {"selector": selector, "volume": volume, "augment": controller})
    return PlanParts(selector, volume, controller, chosen["volume"], words)


def check_free(name: str, part: Any) -> None:
    """Check that a part, given as an object or by a factory, belongs to no other plan.

    Args:
        name: "selector" or "augment".
        part: what the plan works with; None for nothing.

    Raises:
        ValueError: it was given to a plan before, and may keep what it learnt there.
    """
    if part is not None and getattr(part, CLAIMED, False):
        kind = type(part).__name__
        raise ValueError(
            f"this {kind} was given to a plan before and keeps what it learnt there; make one for each plan, "
            f"{name}={kind}(...), or let the plan make it, from a name, a class or a table"
        )


def claim(parts: "PlanParts") -> None:
    """Note that the parts which may remember something belong to a plan now."""
    for part in (parts.selector, parts.controller):
        if part is not None and keeps_state(part):
            with suppress(AttributeError):  # a class with slots
                object.__setattr__(part, CLAIMED, True)


def keeps_state(part: Any) -> bool:
    """Whether a part may remember something: only rules of dsenv are known not to."""
    if isinstance(part, LearnedPart):  # its runner tells
        return False
    kind = type(part)
    is_own = kind.__module__.partition(".")[0] == "dsenv"
    is_rule = isinstance(part, Selector) and kind.state_dict is Selector.state_dict
    return not (is_own and is_rule and not part.observes and not part.needs_pass)


def in_words(chosen: Chosen, parts: Mapping[str, Any]) -> dict[str, str]:
    """The parts in words, so that a state is not continued with others: names and plain settings.

    Args:
        chosen: what the user gave.
        parts: what was made of it; None for a volume that is a schedule, whose counts a state holds.
    """
    words = {}
    for name, choice in chosen.items():
        part = parts[name]
        if isinstance(part, LearnedPart):
            words[name] = f"learned {part.policy.digest}"
        elif name == "volume":
            words[name] = "fixed"
        else:
            words[name] = describe_part("random" if name == "selector" and choice is None else choice)

    return words


def plan_epochs(
    said: Budgeted, parts: PlanParts, signals: SampleSignals, source: Source, seed: int
) -> tuple[EpochSchedule, PlanPolicies | None]:
    """How many samples each epoch has, and what runs the policies behind learned parts.

    Args:
        said: length, ratio and scoring passes.
        parts: of the plan.
        signals: of the plan, before training.
        source: of the samples.
        seed: of the plan.

    Raises:
        ValueError: a choice contradicts another one, or the budget is too small.
    """
    # What the budget is, and what passes without training leave of it
    ratio = _ratio(said.ratio, parts)
    passes = int(parts.selector.needs_pass) if said.scoring_passes is None else said.scoring_passes
    numbers: tuple[int, ...] | None = None
    if parts.volume is None:
        assert not isinstance(parts.volume_choice, LearnedVolume)
        numbers = make_counts(parts.volume_choice, ratio, parts.selector, signals, said.epochs, passes)

    # The policies under that budget
    target, budget = _budget(parts.volume_choice, ratio, numbers, said.epochs, passes)
    policies = None
    if any(isinstance(part, LearnedPart) for part in parts):
        is_known = source.classes is not None or signals.kind.classes is None
        policies = make_policies(
            parts, signals, is_known=is_known, epochs=said.epochs, ratio=target, budget=budget, seed=seed
        )

    # Where a policy says how many, only the total is known
    in_tokens = said.ratio_of == "tokens"
    check_ratio_of(in_tokens, numbers is not None, policies is not None)
    total, least = None, 1
    if policies is not None and policies.decides_count:
        total, least = policies.total, policies.least
    lengths = (signals.size, said.epochs, said.batch_size, said.drop_last)
    return EpochSchedule(*lengths, numbers, total, least, in_tokens=in_tokens, **said.shared), policies


def _ratio(ratio: float | None, parts: PlanParts) -> float | None:
    """The ratio that was given, else that of a policy that decides what or how much; None for neither."""
    learned = [part for part in (parts.volume, parts.selector) if isinstance(part, LearnedPart)]
    if ratio is None and learned and not isinstance(parts.volume_choice, VolumeSchedule):
        return learned[0].policy.card.ratio
    return ratio


def _budget(
    choice: VolumeChoice, ratio: float | None, numbers: Sequence[int] | None, epochs: int, passes: int
) -> tuple[float | None, float]:
    """The target ratio, None where none is known, and the share that is left of it for training."""
    if isinstance(choice, VolumeSchedule):
        return choice.target, choice.target
    target = 1.0 if ratio is None and numbers is not None else ratio
    return target, 1.0 if target is None else paid_ratio(target, epochs, passes)


def make_guard(
    choice: GuardChoice,
    parts: PlanParts,
    policies: PlanPolicies | None,
    schedule: EpochSchedule,
    source: Source,
    given: Mapping[str, Any],
) -> PlanGuard | None:
    """The guard of the learned parts, or of a selector that the user wants guarded; None for none.

    Args:
        choice: what the user gave.
        parts: of the plan.
        policies: behind learned parts; they do not see the guard's reserve.
        schedule: of the epochs.
        source: of the samples.
        given: `device` and `seed` of the plan.

    Raises:
        ValueError: it is no guard, or there is nothing to guard.
    """
    settings = guard_settings(choice, parts.selector, policies is not None)
    if settings is None:
        return None

    # Without a learned selector there is a choice to compare only where the user says so
    is_asked_for = choice is not None and not isinstance(parts.selector, SAFE_KINDS)
    has_choice = isinstance(parts.selector, LearnedSelector) or is_asked_for
    total = schedule.size * schedule.epochs if schedule.wanted is None else sum(schedule.wanted)
    mean = (total if schedule.total is None else schedule.total) / schedule.epochs
    facts = (schedule.size, schedule.epochs, mean, given["seed"])
    drawn = draw_reserve(settings, source.labels, *facts) if has_choice else np.zeros(0, np.int64)

    reserve = torch.from_numpy(drawn).to(given["device"])
    if policies is not None:
        policies.leave_out(reserve)
    return PlanGuard(settings, schedule.size, reserve, schedule.epochs, has_choice=has_choice)


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
    signals: SampleSignals,
    epochs: int,
    scoring_passes: int,
) -> tuple[int, ...] | None:
    """Samples of each epoch; None where the selector is to set its own number.

    Args:
        choice: a volume schedule in any form; None for a constant one.
        ratio: mean share of the training set, (0, 1]; None for the selector's own count where it has
            one, else for all data.
        selector: says whether it has a count of its own.
        signals: before training.
        epochs: number of epochs.
        scoring_passes: passes over the training set that the budget pays for.
    """
    size = signals.size
    if isinstance(choice, VolumeSchedule):
        if ratio is not None and ratio != choice.target:
            raise ValueError(f"ratio {ratio} differs from the schedule's target {choice.target}; give one")
        return tuple(counts(choice, size, epochs))

    if ratio is None:
        if choice is not None:
            words = describe_part(choice)
            raise ValueError(f"volume {words!r} needs ratio=..., the mean share of the data an epoch")
        if selector.own_count(signals) is not None:
            return None
        ratio = 1.0

    known = {"target": paid_ratio(ratio, epochs, scoring_passes)}
    schedule: VolumeSchedule = build_part(
        "volume", VOLUMES, "constant" if choice is None else choice, known, VolumeSchedule
    )
    return tuple(counts(schedule, size, epochs))
