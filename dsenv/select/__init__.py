"""WHAT to train on: which samples, with which weights."""

from dsenv.select.base import Forward, Selection, Selector, StackedSelection
from dsenv.select.bins import bin_log_weights, loss_bins
from dsenv.select.gumbel import gumbel_top_k

__all__ = [
    "Forward",
    "Selection",
    "Selector",
    "StackedSelection",
    "bin_log_weights",
    "gumbel_top_k",
    "loss_bins",
]
