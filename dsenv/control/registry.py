"""The controls by name."""

from collections.abc import Callable

from dsenv.catalogue import Choice, build_part
from dsenv.control.base import Control
from dsenv.control.curriculum import CurriculumControl
from dsenv.control.joint import JointControl
from dsenv.control.mask import MaskControl
from dsenv.control.ratio import RatioControl, RuleControl
from dsenv.control.strength import StrengthControl

CONTROLS: dict[str, Callable[..., Control]] = {
    "curriculum": CurriculumControl,
    "mask": MaskControl,
    "ratio": RatioControl,
    "strength": StrengthControl,
    "joint": JointControl,
    "rule": RuleControl,
}


def make_control(setting: Choice, bins: int, target: float, *, binary: bool = False) -> Control:
    """Build a control from its name, or from a table with `name` and its settings.

    Args:
        setting: the name or table.
        bins: B, number of loss-rank bins.
        target: target ratio of the environment.
        binary: whether actions are masks of yes and no.
    """
    known = {"bins": bins, "target": target, "binary": binary}
    control: Control = build_part("control", CONTROLS, setting, known, Control)
    return control
