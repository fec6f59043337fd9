"""WHAT to train on: which samples, with which weights."""

from dsenv.outputs import ModelOutputs
from dsenv.select.base import Selection, Selector, StackedSelection
from dsenv.select.gumbel import gumbel_top_k

__all__ = [
    "ModelOutputs",
    "Selection",
    "Selector",
    "StackedSelection",
    "gumbel_top_k",
]
