"""WHAT, HOW MUCH and HOW STRONG in one action."""

from collections.abc import Mapping
from dataclasses import fields, replace

import numpy as np

from dsenv.control.base import Actions, Control, Decision
from dsenv.control.curriculum import CurriculumControl
from dsenv.control.ratio import RatioControl
from dsenv.control.state import TrainingState
from dsenv.control.strength import StrengthControl
from dsenv.errors import check_flag, pick


class JointControl(Control):
    """WHAT, HOW MUCH and HOW STRONG: several controls in one flat action.

    `slices` says where each answer stands, `decode` and `encode` translate: by default "log_weight" of the
    loss bins, "trim", "ratio" of the interval and "strength" of the stability bins.

    Args:
        bins: B, number of loss-rank bins, and of stability bins where `stability_bins` does not say.
        target: target ratio of the environment.
        sharpness: see `CurriculumControl`.
        trim: see `CurriculumControl`.
        minimum: see `RatioControl`.
        stability_bins: see `StrengthControl`.
        strength: whether the action says how strongly samples are augmented; False for inputs that are no
            images.
    """

    kinds = ("box",)
    decides_what = decides_how_much = True

    def __init__(
        self,
        bins: int,
        target: float,
        sharpness: float = 5.0,
        minimum: float = 0.1,
        stability_bins: int | None = None,
        strength: bool = True,
        trim: bool = True,
    ) -> None:
        self.ratio = RatioControl(bins, target, minimum)
        by_stability = StrengthControl(bins, target, stability_bins)
        self.parts: list[Control] = [CurriculumControl(bins, target, sharpness, trim), self.ratio]
        self.decides_how_strong = check_flag("control.strength", strength)
        if self.decides_how_strong:
            self.parts.append(by_stability)
        self.stability_bins = self.parts[-1].stability_bins
        self.minimum = self.ratio.minimum
        self.size = sum(part.size for part in self.parts)
        self.names = tuple(name for part in self.parts for name in part.names)

    @property
    def slices(self) -> Mapping[str, slice]:
        return {
            name: slice(begin + own.start, begin + own.stop)
            for part, begin in zip(self.parts, self._begins, strict=True)
            for name, own in part.slices.items()
        }

    @property
    def _begins(self) -> list[int]:
        """Where each part's components begin."""
        return [sum(part.size for part in self.parts[:number]) for number in range(len(self.parts))]

    def decode(self, actions: Actions) -> dict[str, Actions]:
        found: dict[str, Actions] = {}
        for part, begin in zip(self.parts, self._begins, strict=True):
            found |= part.decode(actions[:, begin : begin + part.size])
        return found

    def encode(self, **answers: float | Actions) -> Actions:
        for name in answers:
            pick("answer", name, self.slices)
        return np.concatenate(
            [
                part.encode(**{name: value for name, value in answers.items() if name in part.slices})
                for part in self.parts
            ]
        )

    def decide(self, actions: Actions, state: TrainingState) -> Decision:
        whole = Decision()
        for part, begin in zip(self.parts, self._begins, strict=True):
            answer = part.decide(actions[:, begin : begin + part.size], state)
            given = {field.name: getattr(answer, field.name) for field in fields(answer)}
            whole = replace(whole, **{name: value for name, value in given.items() if value is not None})
        return whole

    def choices(self) -> Actions:
        raise ValueError("control 'joint' has no discrete actions; set actions = 'box'")
