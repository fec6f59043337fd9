"""HOW MUCH to train on: the selection ratio over time, under a cumulative budget."""

from dsenv.volume.budget import Budget

__all__ = ["Budget"]
