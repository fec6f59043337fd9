"""Guard: what a user may say of it, and the samples that it keeps from training."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from dsenv.errors import check_keywords, check_number, pick, shown
from dsenv.select.base import Selector
from dsenv.select.random import FixedRandom, UniformRandom
from dsenv.select.trim import Trim

SAFE: dict[str, type[Selector]] = {"random": UniformRandom, "trim": Trim}
SAFE_KINDS = (UniformRandom, FixedRandom, Trim)  # selectors that need no guard
LEAST, MOST = 20, 2000  # samples of a reserve; fewer tell nothing, more tell nothing new
MOST_OF_EPOCH = 0.1  # of the samples of a mean epoch, that a reserve may be
SHORTEST = 8  # epochs: in shorter runs the reserve would speak when it is too late


@dataclass(frozen=True)
class Guard:
    """How a plan guards a learned choice of samples, see docs/guard.md.

    Use::

        import dsenv
        import torch

        data = torch.rand(500, 20), torch.randint(0, 4, (500,))
        plan = dsenv.DataPlan(
            data, epochs=12, batch_size=50, selector="ucb", ratio=0.5, guard=dsenv.Guard(safe="random")
        )

    Args:
        share: of the samples, that are kept for the reserve and never trained on, [0, 0.2]; 0 for none. At
            most a tenth of an epoch and 2,000; none where that leaves fewer than 20, or in fewer than 8
            epochs.
        safe: the other choice, "trim" or "random".
        start: share of the choice that is guarded in an epoch, before there is evidence, (0, 1).
        swing: by how much that share is raised in odd epochs and lowered in even ones, so that the two can be
            compared, [0, 0.5].

    Raises:
        ValueError: a setting is out of range.
    """

    share: float = 0.04
    safe: str = "trim"
    start: float = 0.5
    swing: float = 0.25

    def __post_init__(self) -> None:
        checked = {
            "share": check_number("guard.share", self.share, 0, 0.2),
            "safe": pick("safe choice of a guard", self.safe, SAFE),
            "start": check_number("guard.start", self.start, 0, 1, open_low=True, open_high=True),
            "swing": check_number("guard.swing", self.swing, 0, 0.5),
        }
        for name, value in checked.items():
            object.__setattr__(self, name, value)


GuardChoice = bool | Guard | Mapping[str, Any] | None
"""True or None for the usual settings, where None asks for a learned part; False for none."""


def guard_settings(choice: GuardChoice, selector: Selector, is_learned: bool) -> Guard | None:
    """The settings of the guard that a user asked for; None for no guard.

    Args:
        choice: what the user gave.
        selector: of the plan.
        is_learned: whether a policy decides a part.

    Raises:
        ValueError: it is no guard, or there is nothing to guard.
    """
    if choice is False or (choice is None and not is_learned):
        return None
    if isinstance(choice, Mapping):
        check_keywords("guard", Guard, choice)
        choice = Guard(**choice)
    if not (choice is None or choice is True or isinstance(choice, Guard)):
        raise ValueError(
            f"guard must be True, False, a dsenv.Guard or a table of its settings ("
            f"{', '.join(field.name for field in fields(Guard))}), got {shown(choice)}"
        )

    if not is_learned and isinstance(selector, SAFE_KINDS):
        raise ValueError(
            f"guard={shown(choice)} has nothing to guard: no part is learned, and {type(selector).__name__} "
            "is a safe choice itself; leave guard out, or give a policy or another selector"
        )
    return choice if isinstance(choice, Guard) else Guard()


def draw_reserve(
    settings: Guard, labels: Any, size: int, epochs: int, mean_count: float, seed: int
) -> NDArray[np.int64]:
    """Positions (R,) of the samples that are never trained on: each class in its share, where known.

    A class of a single sample has none there, or nothing would be learnt of it.

    Args:
        settings: of the user.
        labels: of all samples, where they are at hand; else None.
        size: N.
        epochs: of the plan.
        mean_count: mean samples of an epoch.
        seed: of the plan.
    """
    number = min(max(round(settings.share * size), LEAST), int(MOST_OF_EPOCH * mean_count), MOST)
    if not settings.share or number < LEAST or epochs < SHORTEST:
        return np.zeros(0, np.int64)

    # Sorted by class, in random order within it, evenly spaced
    draw = np.random.default_rng([seed, size])
    order = draw.permutation(size)
    is_list = isinstance(labels, list | tuple) and all(isinstance(label, int) for label in labels)
    if isinstance(labels, Tensor | np.ndarray) or is_list:
        kept = np.asarray(labels.cpu() if isinstance(labels, Tensor) else labels)
        if kept.shape == (size,) and kept.dtype.kind in "biu":
            order = order[np.argsort(kept[order], kind="stable")]
            _, place, sizes = np.unique(kept, return_inverse=True, return_counts=True)
            order = order[sizes[place[order]] > 1]  # the only sample of a class is trained on

    left = len(order)
    number = min(number, int(MOST_OF_EPOCH * left))
    if number < LEAST:
        return np.zeros(0, np.int64)
    first = draw.random() * left / number
    at = (first + np.arange(number) * left / number).astype(np.int64)
    return np.sort(order[at])


def places(
    count: int, riding: int, end: int, batch_size: int
) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
    """Where in an epoch the reserve stands, and by what the weights of the others are multiplied.

    Args:
        count: samples of the epoch, with the reserve.
        riding: how many of the reserve, below `count`.
        end: samples that are trained on, at most `count`.
        batch_size: samples a step.

    Returns:
        (count,) bool, the places of the reserve, and (count,) float32 factors: size of the batch over its
        samples that are trained on.
    """
    starts = np.arange(0, end, batch_size)
    sizes = np.minimum(batch_size, end - starts)
    for part in (2, 1):  # half of each batch at the end, or all of it where that is not enough
        most = sizes // part
        before = np.cumsum(most[::-1])[::-1] - most  # places in the batches behind
        here = np.clip(riding - before, 0, most)
        if here.sum() == riding:
            break

    is_riding, factor = np.zeros(count, bool), np.ones(count, np.float32)
    place = np.arange(end)
    batch = place // batch_size
    is_riding[:end] = place - starts[batch] < here[batch]
    factor[:end] = (sizes / np.maximum(sizes - here, 1))[batch]
    return is_riding, factor
