"""Learning-rate schedules of the user's own: whether they end where the plan does."""

import functools
import warnings
from collections.abc import Sequence
from numbers import Integral
from typing import Any

from torch.optim import Optimizer, lr_scheduler

from dsenv.errors import shown

ENDLESS = (  # they go on for as long as they are stepped
    lr_scheduler.ConstantLR,
    lr_scheduler.StepLR,
    lr_scheduler.ExponentialLR,
    lr_scheduler.CyclicLR,
    lr_scheduler.CosineAnnealingWarmRestarts,
    lr_scheduler.ReduceLROnPlateau,
)
LENGTHS = ("total_steps", "T_max", "total_iters", "num_training_steps")  # attributes that hold a length
FOLLOWS = "_follows_plan"  # mark of a function that is given the plan's progress


def check_scheduler(scheduler: Any, steps: Sequence[int], accumulate: int) -> None:
    """Warn when a schedule is made for another number of steps than the plan has, or does not tell.

    A number that equals the epochs is taken for a schedule that steps once an epoch.

    Args:
        scheduler: of torch, those that are made of others included.
        steps: batches of each epoch.
        accumulate: batches whose gradients one step of the optimiser takes.

    Raises:
        ValueError: it is no scheduler.
    """
    if isinstance(scheduler, type | Optimizer) or not callable(getattr(scheduler, "step", None)):
        raise ValueError(f"scheduler must be a learning-rate schedule with a step(), got {shown(scheduler)}")
    total, epochs = sum(steps), len(steps)
    by_epoch = [-(-number // accumulate) for number in steps], [number // accumulate for number in steps]
    allowed = {epochs, -(-total // accumulate), total // accumulate, *map(sum, by_epoch)}
    wanted = sum(by_epoch[0])
    name = type(scheduler).__name__
    advice = f"plan.total_steps{'' if accumulate == 1 else f', {total}, in steps of {accumulate} batches'}"

    planned = planned_steps(scheduler, total)
    if planned is None:
        warnings.warn(
            f"{name} does not tell for how many steps it is made; see to it that they are {wanted} "
            f"({advice}), or follow plan.progress by plan.lr_scheduler",
            stacklevel=3,
        )
    elif planned and planned not in allowed:
        warnings.warn(
            f"{name} is made for {planned} steps, the plan has {wanted} steps in {epochs} epochs: the "
            f"learning rate will not end where it should; make it for {wanted} ({advice})",
            stacklevel=3,
        )


def planned_steps(scheduler: Any, total: int) -> int | None:
    """Steps that a schedule is made for; 0 for one without an end, None where it is not told.

    Args:
        scheduler: of torch.
        total: steps of the plan, for schedules that need no more than to be reached.
    """
    # One after another, or all at once
    if parts := getattr(scheduler, "_schedulers", None):
        lengths = [planned_steps(part, total) for part in parts]
        if milestones := getattr(scheduler, "_milestones", None):
            return None if lengths[-1] is None else milestones[-1] + lengths[-1] if lengths[-1] else 0
        return None if None in lengths else max(length or 0 for length in lengths)

    if isinstance(scheduler, ENDLESS) or _is_warm_up(scheduler):
        return 0
    if isinstance(scheduler, lr_scheduler.MultiStepLR):
        last = max(scheduler.milestones, default=0)
        return last if last >= total else 0
    if functions := getattr(scheduler, "lr_lambdas", None):
        lengths = [_length_of(function) for function in functions]
        return None if None in lengths else max(length or 0 for length in lengths)

    found = (getattr(scheduler, name, None) for name in LENGTHS)
    return next((int(length) for length in found if isinstance(length, Integral)), None)


def _is_warm_up(scheduler: Any) -> bool:
    """It rises to the full rate and stays there."""
    return isinstance(scheduler, lr_scheduler.LinearLR) and scheduler.start_factor < scheduler.end_factor


def _length_of(function: Any) -> int | None:
    """Steps that a function of the step is made for; 0 where it follows the plan, None where not told."""
    if hasattr(function, FOLLOWS):
        return 0
    known = (
        function.keywords if isinstance(function, functools.partial) else getattr(function, "__dict__", {})
    )
    found = (known.get(name) for name in LENGTHS)
    return next((int(length) for length in found if isinstance(length, Integral)), None)
