"""Reinforcement-learning environments and agents that control the data a model trains on.

Importing dsenv registers its environments with Gymnasium, as strings: torch and the other heavy
libraries are loaded when the first environment, agent or task is built.
"""

from typing import TYPE_CHECKING, Any

from dsenv.catalogue import import_entry_point, load, names, register_envs

if TYPE_CHECKING:
    from dsenv.plan import DataPlan
    from dsenv.policy import Policy
    from dsenv.policy.shipped import pretrained

__version__ = "0.1.0"
__all__ = ["DataPlan", "Policy", "load", "names", "pretrained"]

_LAZY = {
    "DataPlan": "dsenv.plan:DataPlan",
    "Policy": "dsenv.policy:Policy",
    "pretrained": "dsenv.policy.shipped:pretrained",
}

register_envs()


def __getattr__(name: str) -> Any:
    """Import what needs torch when it is first asked for."""
    if name not in _LAZY:
        raise AttributeError(f"module 'dsenv' has no attribute {name!r}")
    return import_entry_point(_LAZY[name])
