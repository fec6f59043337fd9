"""Rule-based agents: the baselines of every comparison, with the `predict` of a trained one."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from dsenv.agents.base import Prediction, check_settings
from dsenv.control.base import Control
from dsenv.control.curriculum import CurriculumControl
from dsenv.control.joint import JointControl
from dsenv.control.mask import MaskControl
from dsenv.control.observation import CANDIDATE_FEATURES, FEATURES
from dsenv.control.ratio import RatioControl, RuleControl
from dsenv.control.strength import StrengthControl
from dsenv.env.episodes import as_array
from dsenv.errors import pick

Action = NDArray[np.float32]

LOSS = "loss, standardised among the candidates, over 3"
TARGET = list(FEATURES).index("target ratio")
"""Where an observation says the target ratio; every entry before it is a single one."""


class Rule(ABC):
    """An agent that follows a fixed rule.

    Args:
        env: environment settings that the agent needs, beside actions = "box".
    """

    learns = False
    controls: tuple[type[Control], ...] = (CurriculumControl,)
    """The controls whose question this rule answers."""

    def __init__(self, env: Mapping[str, Any] | None = None) -> None:
        self.env: Mapping[str, Any] = {"actions": "box", **check_settings("env", env)}
        self._control: Control | None = None

    def check(self) -> None:  # noqa: B027  # the other agents have something to check
        """Do nothing: no setting is read later."""

    def bind(self, control: Control, action_space: spaces.Space[Any]) -> "Rule":
        """The rule for an environment with this control.

        Raises:
            ValueError: the rule does not answer the control's question, or the actions are discrete.
        """
        name = type(self).__name__
        if not isinstance(control, self.controls):
            raise ValueError(
                f"the rule {name} answers {', '.join(c.__name__ for c in self.controls)}, "
                f"and this environment asks for {type(control).__name__}"
            )
        if not isinstance(action_space, spaces.Box):
            raise ValueError(f"the rule {name} needs an environment with actions = 'box', got {action_space}")

        self._control = control
        return self

    @abstractmethod
    def action(self, control: Control, observation: Action) -> Action:
        """The action (A,) for an observation (O,), whose first entry is the share of the intervals done."""

    def predict(
        self, observation: Action, state: Any = None, episode_start: Any = None, deterministic: bool = False
    ) -> Prediction:
        """Actions (K, A) for observations (K, O), or one action (A,) for one observation (O,)."""
        del episode_start, deterministic
        if self._control is None:
            raise RuntimeError(
                "bind the rule to an environment's control first: rule.bind(env.control, env.action_space)"
            )

        rows = np.atleast_2d(observation)
        actions = np.stack([self.action(self._control, row) for row in rows]).astype(np.float32)
        return (actions if observation.ndim == 2 else actions[0]), state


class NeutralRule(Rule):
    """No preference of its own: every sample alike, the ratio at its target, no augmentation.

    All data where the target ratio is 1, a fresh random subset where not; and with the control "rule"
    whatever the environment's selector and volume schedule do.
    """

    controls = (
        CurriculumControl,
        MaskControl,
        RatioControl,
        StrengthControl,
        JointControl,
        RuleControl,
    )

    def action(self, control: Control, observation: Action) -> Action:
        return neutral(control, observation)


class FixedRule(Rule):
    """The same answer all the time; what it does not name is as in `NeutralRule`.

    Args:
        answers: values by the names of the control's answers, in their own units: {"strength": 0.4}.
        env: environment settings that the agent needs.
    """

    controls = (CurriculumControl, RatioControl, StrengthControl, JointControl)

    def __init__(self, answers: Mapping[str, Any], env: Mapping[str, Any] | None = None) -> None:
        super().__init__(env)
        self._answers = {
            name: as_array(f"answers.{name}", value).astype(np.float32)
            for name, value in check_settings("answers", answers).items()
        }

    def bind(self, control: Control, action_space: spaces.Space[Any]) -> "Rule":
        super().bind(control, action_space)
        for name in self._answers:
            pick("answer", name, control.slices)
        control.encode(**self._answers)  # says now what is out of range
        return self

    def action(self, control: Control, observation: Action) -> Action:
        return neutral(control, observation, **self._answers)


class LossRankRule(Rule):
    """The samples at one end of the loss ranking, all the time.

    Args:
        keep: "small" or "large": which losses to keep.
        env: environment settings that the agent needs.
    """

    controls = (CurriculumControl, MaskControl, JointControl)

    def __init__(self, keep: str, env: Mapping[str, Any] | None = None) -> None:
        super().__init__(env)
        self._sign = {"small": -1.0, "large": 1.0}[pick("end of the loss ranking", keep, ("small", "large"))]

    def action(self, control: Control, observation: Action) -> Action:
        if isinstance(control, MaskControl):
            loss = control.shown(observation)[:, list(CANDIDATE_FEATURES).index(LOSS)]
            return (self._sign * loss).clip(-1, 1)
        return graded(control, observation, self._sign)


class EasyFirstRule(Rule):
    """Small losses at first, then gradually everything alike (curriculum learning, Bengio et al., 2009).

    The preference for small losses falls linearly and is gone at three quarters of the training run.
    """

    controls = (CurriculumControl, JointControl)

    def action(self, control: Control, observation: Action) -> Action:
        preference = max(0.0, 1 - float(observation[0]) / 0.75)
        return graded(control, observation, -preference)


def neutral(control: Control, observation: Action, **answers: Action) -> Action:
    """The action that gives `answers`, and is neutral in all else: the ratio is the target of the episode.

    Args:
        control: turns answers into actions.
        observation: (O,).
        answers: values by the names of the control's answers.
    """
    if "ratio" in control.slices and "ratio" not in answers:
        least = 0.0 if control.minimum is None else control.minimum
        answers = {**answers, "ratio": observation[TARGET].clip(least, 1)}
    return control.encode(**answers)


def graded(control: Control, observation: Action, slope: float) -> Action:
    """The action whose log weights go from -slope at the smallest losses to slope at the largest.

    Everything else that the control asks is answered neutrally.
    """
    action = neutral(control, observation)
    where = control.slices["log_weight"]
    action[where] = slope * np.linspace(-1, 1, where.stop - where.start, dtype=np.float32)
    return action
