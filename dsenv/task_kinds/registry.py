"""Names of the kinds of task; a kind is imported when it is first built."""

from collections.abc import Mapping
from typing import Any

from dsenv.catalogue import Choice, build_part
from dsenv.task_kinds.base import TaskKind, check_guess

KINDS: dict[str, str] = {
    "classification": "dsenv.task_kinds.classification:Classification",
    "language": "dsenv.task_kinds.language:Language",
    "multilabel": "dsenv.task_kinds.multilabel:MultiLabel",
    "regression": "dsenv.task_kinds.regression:Regression",
    "segmentation": "dsenv.task_kinds.segmentation:Segmentation",
    "detection": "dsenv.task_kinds.detection:Detection",
}
"""Name -> "module:class"."""

KindChoice = Choice | TaskKind
"""A name of `KINDS`, "module:Class", a table with a name and settings, a class, or a `TaskKind`."""


def make_kind(choice: KindChoice, given: Mapping[str, Any] | None = None) -> TaskKind:
    """A kind of task from any form in which a part may be given.

    Args:
        choice: see `KindChoice`.
        given: settings that the caller knows; a kind takes those that it has.

    Raises:
        ValueError: a name or setting is unknown or missing, or a kind of one's own has no loss of a guess.
    """
    kind: TaskKind = build_part("kind", KINDS, choice, given, TaskKind)
    check_guess(kind)
    return kind
