"""HOW MUCH to train on: the selection ratio over time, under a cumulative budget."""

from dsenv.volume.base import VolumeSchedule, counts
from dsenv.volume.budget import Budget
from dsenv.volume.constant import Constant
from dsenv.volume.cosine import Cosine
from dsenv.volume.linear import Linear
from dsenv.volume.pods import Pods
from dsenv.volume.step import Step

__all__ = ["Budget", "Constant", "Cosine", "Linear", "Pods", "Step", "VolumeSchedule", "counts"]
