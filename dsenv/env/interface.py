"""What the single and the vector environment have in common."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from gymnasium import spaces

from dsenv.control.base import Control
from dsenv.control.registry import CONTROLS
from dsenv.env.config import EnvConfig
from dsenv.env.episodes import Episodes
from dsenv.env.session import Session
from dsenv.errors import check_seed, pick, shown

ActionSpace = spaces.Box | spaces.Discrete | spaces.MultiBinary
RENDER_MODES = ("rgb_array", "ansi")
METADATA = {"render_modes": list(RENDER_MODES), "render_fps": 2}


def make_spaces(episodes: Episodes | Session) -> tuple[spaces.Box, ActionSpace]:
    """Observation and action space of one episode: boxes in [-1, 1], discrete actions or masks."""
    observation = spaces.Box(-1.0, 1.0, (len(episodes.observation_names),), np.float32)
    if episodes.config.actions == "discrete":
        return observation, spaces.Discrete(len(episodes.control.choices()))
    if episodes.config.actions == "binary":
        return observation, spaces.MultiBinary(episodes.control.size)
    return observation, spaces.Box(-1.0, 1.0, (episodes.control.size,), np.float32)


def choose_device(name: str | torch.device) -> torch.device:
    """The device called `name`; "auto" is the GPU where there is one, else the CPU.

    Raises:
        ValueError: there is no such device here.
    """
    if not isinstance(name, str | torch.device):
        raise ValueError(f"device must be 'auto', 'cpu', 'cuda' or 'cuda:1', got {shown(name)}")
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"no device called {name!r}; use 'auto', 'cpu', 'cuda' or 'cuda:1'") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            f"device {name!r} was asked for, but torch finds no CUDA GPU here; use 'auto' or 'cpu'"
        )
    if device.type == "meta" or (device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count()):
        raise ValueError(f"no device called {name!r} that can train here; use 'auto' or 'cpu'")
    return device


def check_render_mode(mode: str | None) -> str | None:
    """Return the render mode if it is known, else raise a ValueError."""
    if mode not in (None, *RENDER_MODES):
        raise ValueError(f"render_mode must be one of {list(RENDER_MODES)} or None, got {mode!r}")
    return mode


def check_options(options: Mapping[str, Any] | None, known: tuple[str, ...]) -> Mapping[str, Any]:
    """Return the options of a reset if they are known, else raise a ValueError with the nearest one."""
    if options is None:
        return {}
    if not isinstance(options, Mapping):
        raise ValueError(f'options must be a table such as {{"context": {{...}}}}, got {shown(options)}')
    for name in options:
        pick("reset option", name, known)
    return options


def check_reset_seed(seed: Any) -> int | None:
    """Return the seed of a reset as a Python int, or None, else raise a ValueError."""
    return None if seed is None else check_seed("seed", seed)


class Described:
    """What an environment says of itself: names of what its observations and actions hold, and what it is."""

    config: EnvConfig
    episodes: Episodes

    @property
    def observation_names(self) -> list[str]:
        """What each entry of an observation is."""
        return self.episodes.observation_names

    @property
    def control(self) -> Control:
        """How actions become decisions."""
        return self.episodes.control

    @property
    def candidate_shape(self) -> tuple[int, int] | None:
        """(M, F): candidates that an observation ends with, and features of each; else None."""
        return self.episodes.candidate_shape

    @property
    def action_names(self) -> tuple[str, ...]:
        """What each component of an action is."""
        return self.episodes.control.names

    def __repr__(self) -> str:
        """Class, id where it is registered, and the settings that say most."""
        config, sessions = self.config, self.episodes.sessions()
        spec = getattr(self, "spec", None)
        name = type(self).__name__ + (f" {spec.id}" if spec is not None else "")
        count = f" of {self.episodes.count}" if hasattr(self, "num_envs") else ""
        known = {kind: name for name, kind in CONTROLS.items()}
        control = known.get(type(self.control), type(self.control).__name__)
        data = f"data sets {', '.join(config.dataset_names())}"
        if not config.datasets:
            data = f"data set {sessions[0].task.dataset.name} ({sessions[0].trainer.size} samples)"
        models = ", ".join(dict.fromkeys(model_name(session.task.model) for session in sessions))
        return (
            f"<{name}{count}: control {control!r}, ratio {config.ratio:g}, {config.intervals} intervals, "
            f"{data}, model {models}>"
        )

    __str__ = __repr__


def model_name(factory: Any) -> str:
    """What a task's model is called: its name in the table, or that of the function or class."""
    for given in getattr(factory, "args", ()):
        if isinstance(given, Mapping) and "name" in given:
            return str(given["name"])
    inner = getattr(factory, "func", factory)
    return str(getattr(inner, "__qualname__", type(inner).__name__))
