"""Reinforcement-learning environments and agents that control the data a model trains on.

Importing dsenv registers its environments with Gymnasium, as strings: torch and the other heavy
libraries are loaded when the first name that needs them is asked for.
"""

from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from dsenv.catalogue import import_entry_point, load, names, register_envs
from dsenv.version import VERSION

if TYPE_CHECKING:
    from dsenv.agents.export import export
    from dsenv.agents.scalars import EnvScalars
    from dsenv.agents.vec_env import StackedVecEnv
    from dsenv.augment import AugmentationController
    from dsenv.checks import check_controller, check_reward, check_schedule, check_selector
    from dsenv.env import EnvConfig, TrainingEnv
    from dsenv.env.rewards import Reward
    from dsenv.plan import DataPlan, Guard
    from dsenv.policy import Policy
    from dsenv.policy.shipped import pretrained
    from dsenv.rehearsal import rehearse
    from dsenv.select import Selection, Selector
    from dsenv.signals import SampleSignals
    from dsenv.tasks import Recipe, Task
    from dsenv.volume import VolumeSchedule

__version__ = VERSION
__all__ = [
    "AugmentationController",
    "DataPlan",
    "EnvConfig",
    "EnvScalars",
    "Guard",
    "Policy",
    "Recipe",
    "Reward",
    "SampleSignals",
    "Selection",
    "Selector",
    "StackedVecEnv",
    "Task",
    "TrainingEnv",
    "VolumeSchedule",
    "check_controller",
    "check_reward",
    "check_schedule",
    "check_selector",
    "export",
    "load",
    "names",
    "pretrained",
    "rehearse",
]

_LAZY = {
    "AugmentationController": "dsenv.augment:AugmentationController",
    "DataPlan": "dsenv.plan:DataPlan",
    "EnvConfig": "dsenv.env:EnvConfig",
    "EnvScalars": "dsenv.agents.scalars:EnvScalars",
    "Guard": "dsenv.plan:Guard",
    "Policy": "dsenv.policy:Policy",
    "Recipe": "dsenv.tasks:Recipe",
    "Reward": "dsenv.env.rewards:Reward",
    "SampleSignals": "dsenv.signals:SampleSignals",
    "Selection": "dsenv.select:Selection",
    "Selector": "dsenv.select:Selector",
    "StackedVecEnv": "dsenv.agents.vec_env:StackedVecEnv",
    "Task": "dsenv.tasks:Task",
    "TrainingEnv": "dsenv.env:TrainingEnv",
    "VolumeSchedule": "dsenv.volume:VolumeSchedule",
    "check_controller": "dsenv.checks:check_controller",
    "check_reward": "dsenv.checks:check_reward",
    "check_schedule": "dsenv.checks:check_schedule",
    "check_selector": "dsenv.checks:check_selector",
    "export": "dsenv.agents.export:export",
    "pretrained": "dsenv.policy.shipped:pretrained",
    "rehearse": "dsenv.rehearsal:rehearse",
}

register_envs()


def __getattr__(name: str) -> Any:
    """Import what needs torch when it is first asked for."""
    if name not in _LAZY:
        near = get_close_matches(name, __all__, n=1)
        hint = f". Did you mean {near[0]!r}?" if near else ""
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}{hint}")
    return import_entry_point(_LAZY[name])


def __dir__() -> list[str]:
    """The names that are for use."""
    return sorted(__all__)
