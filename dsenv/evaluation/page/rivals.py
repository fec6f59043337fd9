"""The best fixed rule beside an agent: whether something that learns nothing does as well."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from dsenv.evaluation.compare import CHANCE, REFERENCE, Evaluation
from dsenv.evaluation.page.content import Line, Sheet
from dsenv.evaluation.page.lines import REFERENCES
from dsenv.evaluation.statistics import interval, mean_difference, stratified_interval
from dsenv.evaluation.tables import context_label
from dsenv.policy.shipped import pretrained

SAME_BUDGET = 0.005  # shares of the data that differ by less are the same budget


@dataclass(frozen=True)
class Rival:
    """The rule with the highest mean accuracy in a context, of those that see no more samples."""

    name: str
    accuracy: float
    """Its test accuracy, mean over seeds."""
    gain: float | None
    """That minus the accuracy of all data; None where all data was not run."""
    over: float
    """Accuracy of the agent minus that of the rule on the same seeds, mean."""
    low: float
    """Lower end of its 95 % interval."""
    high: float


def best_rule(sheet: Sheet, line: Line, context: int) -> Rival | None:
    """The best rule for an agent, of its own evaluations; None for rules, and where nothing can be paired.

    Args:
        sheet: that the agent is on.
        line: the agent.
        context: number of the context.
    """
    row = line.rows[context]
    if row is None or line.kind not in ("learned", "pooled"):
        return None

    label = sheet.labels[context]
    most = row.ratio + SAME_BUDGET
    names = [name for name in rules_of(line) if _ratio(line, name, label) <= most]
    scores = {name: found for name in names if (found := _scores(line, name, label)) is not None}
    own = _own_scores(line, label)
    scores = {name: found for name, found in scores.items() if own is not None and found.shape == own.shape}
    if own is None or not scores:
        return None

    name = max(scores, key=lambda found: float(scores[found].mean()))
    accuracy = float(scores[name].mean())
    data = _scores(line, REFERENCE, label)
    gain = None if data is None else accuracy - float(data.mean())
    over = float((own - scores[name]).mean())
    return Rival(name, accuracy, gain, over, *_interval(own, scores[name]))


def rules_of(line: Line) -> list[str]:
    """Rules and random selection in all evaluations of an agent; trained policies are no rules."""
    learned = {*pretrained.names(), *(found.agent for found in line.evaluations)}
    names = [list(dict.fromkeys(row.agent for row in found.rows)) for found in line.evaluations]
    return [
        name
        for name in (names[0] if names else [])
        if name not in learned
        and (name == CHANCE or name not in REFERENCES)
        and all(name in others for others in names)
    ]


def _ratio(line: Line, name: str, label: str) -> float:
    """Share of the data that a rule sees; infinite where it was not run."""
    found = [
        row.ratio
        for evaluation in line.evaluations
        for row in evaluation.rows
        if row.agent == name and context_label(row.context) == label
    ]
    return float(np.mean(found)) if len(found) == len(line.evaluations) else np.inf


def _own_scores(line: Line, label: str) -> Any:
    found = [_accuracy(evaluation, evaluation.agent, label) for evaluation in line.evaluations]
    return _stacked(found)


def _scores(line: Line, name: str, label: str) -> Any:
    return _stacked([_accuracy(evaluation, name, label) for evaluation in line.evaluations])


def _stacked(found: list[Any]) -> Any:
    """Accuracies (A, S) of A evaluations; None where they do not pair."""
    if any(values is None for values in found) or len({len(values) for values in found}) != 1:
        return None
    return np.stack(found)


def _accuracy(evaluation: Evaluation, agent: str, label: str) -> Any:
    """Accuracies (S,) in a context; None where there are none."""
    labels = [context_label(context) for context in evaluation.contexts]
    if agent not in evaluation.traces or label not in labels:
        return None
    return evaluation.traces[agent][labels.index(label)].accuracy


def _interval(own: Any, other: Any) -> tuple[float, float]:
    """95 % interval of the mean difference of two tables (A, S)."""
    if len(own) == 1:
        return interval(own[0] - other[0])
    return stratified_interval(mean_difference, own[..., None], other[..., None])
