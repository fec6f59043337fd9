"""HOW MUCH to train on: the selection ratio over time, under a cumulative budget."""

from typing import TYPE_CHECKING, Any

from dsenv.catalogue import import_entry_point
from dsenv.volume.base import VolumeSchedule, counts
from dsenv.volume.budget import Budget
from dsenv.volume.constant import Constant
from dsenv.volume.cosine import Cosine
from dsenv.volume.linear import Linear
from dsenv.volume.pods import Pods
from dsenv.volume.step import Step

if TYPE_CHECKING:
    from dsenv.volume.learned import Learned

__all__ = ["Budget", "Constant", "Cosine", "Learned", "Linear", "Pods", "Step", "VolumeSchedule", "counts"]


def __getattr__(name: str) -> Any:
    """Import the learned part when it is first asked for; policies are made of what this package holds."""
    if name != "Learned":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return import_entry_point(f"{__name__}.learned:Learned")
