"""WHAT to train on: which samples, with which weights."""

from typing import TYPE_CHECKING, Any

from dsenv.catalogue import import_entry_point
from dsenv.select.base import ModelOutputs, Selection, Selector, StackedSelection
from dsenv.select.gumbel import gumbel_top_k

if TYPE_CHECKING:
    from dsenv.select.learned import Learned

__all__ = [
    "Learned",
    "ModelOutputs",
    "Selection",
    "Selector",
    "StackedSelection",
    "gumbel_top_k",
]


def __getattr__(name: str) -> Any:
    """Import the learned part when it is first asked for; policies are made of what this package holds."""
    if name != "Learned":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return import_entry_point(f"{__name__}.learned:Learned")
