"""Kinds of task: what loss, confidence, entropy, margin, correctness and the metric of a sample are."""

from dsenv.task_kinds.base import READINGS, TaskKind
from dsenv.task_kinds.registry import KINDS, KindChoice, make_kind

__all__ = ["KINDS", "READINGS", "KindChoice", "TaskKind", "make_kind"]
