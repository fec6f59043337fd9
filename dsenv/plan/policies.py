"""Learned parts of a plan: the policies behind them, each run by one driver."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from dsenv.augment import AugmentationController
from dsenv.augment.learned import Learned as LearnedStrength
from dsenv.policy.parts import LearnedPart
from dsenv.policy.runner import Driver
from dsenv.select.base import Selector
from dsenv.signals import SampleSignals
from dsenv.volume.learned import Learned as LearnedVolume


class Guidance:
    """Asks the policies of a plan's learned parts at the begin of each epoch.

    Parts of the same policy share one driver, so that the policy sees one training and its answers fit each
    other. Every driver is told which samples an epoch trains on, whoever chose them.

    Args:
        parts: the plan's selector, volume and controller, learned ones among others.
        settings: `size`, `classes`, `intervals`, `ratio`, `budget`, `seed` and `device` of the drivers.

    Raises:
        ValueError: a driver that was built before the plan is of another training.
    """

    def __init__(
        self, parts: Sequence[Selector | LearnedVolume | AugmentationController | None], **settings: Any
    ) -> None:
        self.learned: list[Any] = [part for part in parts if isinstance(part, LearnedPart)]
        drivers: dict[str, Driver] = {}
        for part in self.learned:
            if part.is_connected:
                raise ValueError(
                    f"{type(part).__module__}.{type(part).__name__} has a driver already, and a plan "
                    "brings its own: build the part from the policy, and anew for each plan"
                )
            digest = part.policy.digest
            if digest not in drivers:
                drivers[digest] = Driver(part.policy, **settings)
            part.connect(drivers[digest])
        self.drivers = list(drivers.values())
        self._volume = next((part for part in self.learned if isinstance(part, LearnedVolume)), None)

    @property
    def decides_count(self) -> bool:
        """Whether a policy says how many samples an epoch has."""
        return self._volume is not None

    @property
    def total(self) -> int:
        """Samples chosen in the whole training."""
        return int(self.drivers[0].budget.total[0])

    @property
    def least(self) -> int:
        """Fewest samples that an epoch may get where a policy says how many."""
        return int(self._volume.driver.budget.floor[0]) if self._volume else 0

    def count(self, signals: SampleSignals) -> int:
        """Samples of the coming epoch, where a policy says how many."""
        assert self._volume is not None
        return self._volume.count(signals)

    def begin(self, signals: SampleSignals, count: int) -> None:
        """Ask every policy about the coming epoch, which has `count` samples."""
        for driver in self.drivers:
            driver.decide(signals, count)
        for part in self.learned:
            if isinstance(part, LearnedStrength):
                part.begin_epoch(signals)

    def chose(self, index: Tensor) -> None:
        """Tell those drivers which samples (M,) the epoch trains on that do not know yet."""
        for driver in self.drivers:
            if driver.is_waiting:
                driver.chose(index)

    def validated(self, accuracy: float) -> None:
        """Report a validation accuracy to all policies."""
        for driver in self.drivers:
            driver.validated(accuracy)

    def state_dict(self) -> dict[str, Any]:
        """States of all drivers, by the digest of their policies."""
        return {driver.policy.digest: driver.state_dict() for driver in self.drivers}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`."""
        for driver in self.drivers:
            driver.load_state_dict(state[driver.policy.digest])


def has_learned(parts: Sequence[object]) -> bool:
    """Whether a policy is behind one of the parts."""
    return any(isinstance(part, LearnedPart) for part in parts)


def default_ratio(parts: Sequence[object]) -> float | None:
    """The target ratio of the first policy that decides what or how much; None where there is none."""
    for part in parts:
        if isinstance(part, LearnedPart) and part.question != "how_strong":
            return part.policy.card.ratio
    return None


def make_guidance(
    parts: Sequence[Any],
    *,
    size: int,
    classes: int | None,
    epochs: int,
    ratio: float | None,
    budget: float,
    seed: int,
    device: torch.device,
) -> Guidance | None:
    """The guidance of a plan; None where no part is learned.

    Args:
        parts: selector, volume and controller.
        size: N.
        classes: C, where known.
        epochs: length of the plan.
        ratio: target ratio as the user set it; None where the selector sets its own count.
        budget: what is left of it after passes without training.
        seed: of the plan.
        device: where signals live.

    Raises:
        ValueError: the classes or the budget are not known.
    """
    if not has_learned(parts):
        return None
    if classes is None:
        raise ValueError(
            "a learned part needs the number of classes; give DataPlan(classes=...), or labels that tell: "
            "int64 of shape (N,), for example labels.long().flatten()"
        )
    if ratio is None:
        raise ValueError(
            "a learned part needs a known budget, and the selector sets the number of samples of each "
            "epoch as it goes; give DataPlan(ratio=...)"
        )
    settings = {"size": size, "classes": classes, "intervals": epochs, "ratio": ratio, "budget": budget}
    return Guidance(parts, **settings, seed=seed, device=device)
