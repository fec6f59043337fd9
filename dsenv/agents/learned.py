"""An agent that is already trained: a policy from its file, or one that comes with the package."""

from collections.abc import Mapping
from typing import Any

from gymnasium import spaces

from dsenv.agents.base import check_settings
from dsenv.control.base import Control
from dsenv.policy.parts import PolicyChoice, resolve
from dsenv.policy.policy import Policy

SIZES = ("size", "candidates", "stability_bins", "decides_what", "decides_how_much", "decides_how_strong")


class LearnedAgent:
    """A trained policy beside the fixed rules: it no longer learns, and can act at once.

    Its environment asks the question that the policy answers: control, actions, bins and ranking are laid
    over those of the environment it is run in; data, contexts and budget stay. A policy that never saw the
    validation accuracy is not shown it.

    Args:
        policy: a `Policy`, its file, or the name of a pretrained one.
        env: further environment settings.

    Raises:
        ValueError: the file cannot be used, or the name is unknown.
    """

    learns = False

    def __init__(self, policy: PolicyChoice, env: Mapping[str, Any] | None = None) -> None:
        self.policy: Policy = resolve(policy)
        card = self.policy.card

        own = {
            "control": dict(card.control),
            "actions": card.actions,
            "bins": card.bins,
            "rank_by": card.rank_by,
        }

        if card.is_blind:
            own["validation_shown"] = 0.0  # what it never saw would mislead it
        self.env: Mapping[str, Any] = {**own, **check_settings("env", env)}

    def check(self) -> None:
        """Do nothing: no setting is read later."""

    def bind(self, control: Control, action_space: spaces.Space[Any]) -> Policy:
        """The policy, for an environment with this control.

        Raises:
            ValueError: the control or the kind of actions is not the policy's.
        """
        own, card = self.policy.control, self.policy.card
        kinds = {"box": spaces.Box, "discrete": spaces.Discrete, "binary": spaces.MultiBinary}

        differing = [name for name in SIZES if getattr(own, name) != getattr(control, name)]
        if type(own) is not type(control) or differing or not isinstance(action_space, kinds[card.actions]):
            raise ValueError(
                f"the policy answers the control {dict(card.control)} with {card.actions} actions and "
                f"{card.bins} bins, and this environment has {type(control).__name__} with {control.size} "
                f"components and {action_space}; lay the agent's settings over it: "
                "definition.with_overrides(agent.env)"
            )

        return self.policy
