"""Learning-rate schedules of the user's own: whether they end where the plan does."""

import functools
import warnings
from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np
from torch.optim import Optimizer, lr_scheduler

from dsenv.errors import shown

LENGTHS = ("total_steps", "T_max", "total_iters", "num_training_steps")  # names of the length of a schedule
STAGES = ("step_size", "T_0", "num_warmup_steps")  # names of a stage that a plan should reach the end of
FOLLOWS = "_follows_plan"  # mark of a function that is given the plan's progress


def check_scheduler(scheduler: Any, steps: Sequence[int], accumulate: int) -> None:
    """Warn when a schedule is made for another number of steps than the plan has, or does not tell.

    A number that equals the epochs is taken for a schedule that steps once an epoch.

    Args:
        scheduler: of torch, those that are made of others included.
        steps: batches of each epoch.
        accumulate: batches whose gradients one step of the optimiser takes.

    Raises:
        ValueError: it is no schedule.
    """
    if isinstance(scheduler, type | Optimizer) or not callable(getattr(scheduler, "step", None)):
        raise ValueError(f"scheduler must be a learning-rate schedule with a step(), got {shown(scheduler)}")

    total, epochs = sum(steps), len(steps)
    by_epoch = [-(-number // accumulate) for number in steps], [number // accumulate for number in steps]
    allowed = {epochs, -(-total // accumulate), total // accumulate, *map(sum, by_epoch)}
    wanted = sum(by_epoch[0])
    name = type(scheduler).__name__
    advice = f"plan.total_steps{'' if accumulate == 1 else f', {total}, in steps of {accumulate} batches'}"

    planned = planned_steps(scheduler, allowed)
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


def planned_steps(scheduler: Any, allowed: Collection[int]) -> int | None:
    """Steps that a schedule is made for; 0 for one that fits any number, None where it is not told.

    Args:
        scheduler: of torch.
        allowed: numbers that are right, by which one of several lengths is told that is not.
    """
    if parts := getattr(scheduler, "_schedulers", None):
        milestones = getattr(scheduler, "_milestones", None)
        return _of_sequence(parts, milestones, allowed) if milestones else _of_chain(parts, allowed)
    if functions := getattr(scheduler, "lr_lambdas", None):
        return _worst([_of_function(function, allowed) for function in functions], allowed)
    if isinstance(scheduler, lr_scheduler.MultiStepLR):
        return _stage(max(scheduler.milestones, default=0), allowed)
    if isinstance(scheduler, lr_scheduler.ConstantLR) or _is_warm_up(scheduler):
        return _stage(scheduler.total_iters, allowed)

    if lengths := _numbers(vars(scheduler), LENGTHS):
        return lengths[0]
    if stages := _numbers(vars(scheduler), STAGES):
        return _stage(stages[0], allowed)
    endless = (lr_scheduler.ExponentialLR, lr_scheduler.CyclicLR, lr_scheduler.ReduceLROnPlateau)
    return 0 if isinstance(scheduler, endless) else None


def _of_sequence(parts: Sequence[Any], milestones: Sequence[int], allowed: Collection[int]) -> int | None:
    """One schedule after another: the last one begins at the last milestone."""
    begins = int(milestones[-1])
    last = planned_steps(parts[-1], [number - begins for number in allowed])
    if last is None:
        return None
    return begins + last if last else _stage(begins, allowed)


def _of_chain(parts: Sequence[Any], allowed: Collection[int]) -> int | None:
    """All at once: each that comes to an end should do so at the end of the plan."""
    return _worst([planned_steps(part, allowed) for part in parts], allowed)


def _worst(lengths: Sequence[int | None], allowed: Collection[int]) -> int | None:
    """Of several lengths one that is wrong, else None where one is not told, else one that is right."""
    told = [length for length in lengths if length]
    wrong = [length for length in told if length not in allowed]
    if wrong:
        return wrong[0]
    return None if None in lengths else max(told, default=0)


def _of_function(function: Any, allowed: Collection[int]) -> int | None:
    """Steps that a function of the step is made for."""
    if hasattr(function, FOLLOWS):
        return 0
    is_partial = isinstance(function, functools.partial)
    known = function.keywords if is_partial else getattr(function, "__dict__", {})
    if lengths := _numbers(known, LENGTHS):
        return lengths[0]
    stages = _numbers(known, STAGES)
    return _stage(stages[0], allowed) if stages else None


def _stage(end: int, allowed: Collection[int]) -> int:
    """0 for a stage that ends within the plan; else its end, which the plan does not reach."""
    return int(end) if end > max(allowed) else 0


def _is_warm_up(scheduler: Any) -> bool:
    """It rises to the full rate and stays there."""
    return isinstance(scheduler, lr_scheduler.LinearLR) and scheduler.start_factor < scheduler.end_factor


def _numbers(table: Any, names: Sequence[str]) -> list[int]:
    """Whole numbers of these names in a table."""
    found = (table.get(name) for name in names)
    return [int(value) for value in found if isinstance(value, int | float | np.integer) and value % 1 == 0]


def following(factor: Callable[[], float]) -> Callable[[int], float]:
    """A factor of the number of steps, for `LambdaLR`, that does not depend on it: a plan's progress does."""

    def of_step(_step: int) -> float:
        return factor()

    setattr(of_step, FOLLOWS, True)
    return of_step
