"""What the single and the vector environment have in common."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium import spaces

from dsenv.control.base import Control
from dsenv.env.session import Session
from dsenv.errors import pick

ActionSpace = spaces.Box | spaces.Discrete | spaces.MultiBinary
RENDER_MODES = ("rgb_array", "ansi")
METADATA = {"render_modes": list(RENDER_MODES), "render_fps": 2}


def make_spaces(session: Session) -> tuple[spaces.Box, ActionSpace]:
    """Observation and action space of one episode: boxes in [-1, 1], discrete actions or masks."""
    observation = spaces.Box(-1.0, 1.0, (len(session.observation_names),), np.float32)
    if session.config.actions == "discrete":
        return observation, spaces.Discrete(len(session.control.choices()))
    if session.config.actions == "binary":
        return observation, spaces.MultiBinary(session.control.size)
    return observation, spaces.Box(-1.0, 1.0, (session.control.size,), np.float32)


def check_render_mode(mode: str | None) -> str | None:
    """Return the render mode if it is known, else raise a ValueError."""
    if mode not in (None, *RENDER_MODES):
        raise ValueError(f"render_mode must be one of {list(RENDER_MODES)} or None, got {mode!r}")
    return mode


def check_options(options: Mapping[str, Any] | None, known: tuple[str, ...]) -> Mapping[str, Any]:
    """Return the options of a reset if they are known, else raise a ValueError with the nearest one."""
    for name in options or {}:
        pick("reset option", name, known)
    return options or {}


class Described:
    """Names of what an environment's observations and actions hold."""

    session: Session

    @property
    def observation_names(self) -> list[str]:
        """What each entry of an observation is."""
        return self.session.observation_names

    @property
    def control(self) -> Control:
        """How actions become decisions."""
        return self.session.control

    @property
    def candidate_shape(self) -> tuple[int, int] | None:
        """(M, F): candidates that an observation ends with, and features of each; else None."""
        return self.session.candidate_shape

    @property
    def action_names(self) -> tuple[str, ...]:
        """What each component of an action is."""
        return self.session.control.names
