"""What every agent offers: SB3's `predict`, and the environment settings it needs."""

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from dsenv.catalogue import Definition
from dsenv.control.base import Control
from dsenv.errors import shown

Prediction = tuple[NDArray[Any], Any]


def check_settings(name: str, value: Any) -> dict[str, Any]:
    """A copy of a table of settings; an empty one for None.

    Raises:
        ValueError: it is no table of settings by name.
    """
    if value is None:
        return {}
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise ValueError(f"{name} must be a table of settings by name, got {shown(value)}")
    return dict(value)


class Agent(Protocol):
    """Maps observations to actions, as Stable-Baselines3's models do."""

    def predict(
        self,
        observation: NDArray[np.float32],
        state: Any = None,
        episode_start: Any = None,
        deterministic: bool = False,
    ) -> Prediction:
        """Actions (K, A) for observations (K, O), or one action (A,) for one observation (O,)."""


class AgentDefinition(Protocol):
    """What a file in `agents/` builds."""

    env: Mapping[str, Any]
    """Environment settings that the agent needs, laid over those of the environment it is run in."""

    @property
    def learns(self) -> bool:
        """Whether the agent is trained before it is used."""

    def check(self) -> None:
        """Check settings that are only read when the agent is trained.

        Raises:
            ValueError: a setting is unknown.
        """

    def bind(self, control: Control, action_space: spaces.Space[Any]) -> Agent:
        """The agent for an environment with this control.

        Raises:
            ValueError: the agent does not answer the control's question.
        """


def build_agent(definition: Definition) -> AgentDefinition:
    """Build an agent from its definition, whose entry point is looked at before it is called.

    Raises:
        ValueError: the entry point is no class of an agent, or a setting is unknown.
    """
    found = definition.resolve()
    methods = [getattr(found, name, None) for name in ("check", "bind")]
    if not isinstance(found, type) or not hasattr(found, "learns") or not all(map(callable, methods)):
        raise ValueError(
            f"the entry point of the agent {definition.name} must name a class with learns, check and bind "
            f"(dsenv.agents.base.AgentDefinition), and {definition.entry_point!r} is {found!r}; it was not "
            "called"
        )
    agent: AgentDefinition = definition.build()
    return agent
