"""Training: K replicas of a task's model, one interval after another."""

from dsenv.training.replicas import make_replicas
from dsenv.training.scores import Interval, Score
from dsenv.training.trainer import Trainer

__all__ = ["Interval", "Score", "Trainer", "make_replicas"]
