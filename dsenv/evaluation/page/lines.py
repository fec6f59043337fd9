"""Lines up the agents of several runs on one environment: each once, training seeds pooled."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from dsenv.evaluation.compare import ACCURACY, CHANCE, REFERENCE, Evaluation, Row
from dsenv.evaluation.page.content import Line, Note, Part, Sheet, Subject
from dsenv.evaluation.pooled import pooled_row
from dsenv.evaluation.statistics import Scores
from dsenv.evaluation.tables import context_label
from dsenv.evaluation.trace import Trace

REFERENCES = {
    REFERENCE: "trains on every sample in every training interval",
    CHANCE: "on a random subset",
    "all_data_plus_validation": "on the trusted validation labels too, which no other agent trains on",
    "trim_oracle": "leaves out as many large losses as labels are wrong, which no other agent is told",
}
"""Rules that an agent is measured by, and what they do."""
SAME = ("accuracy_mean", "accuracy_low", "accuracy_high", "samples_used", "seeds", "diverged")


def sheet(part: Part, number: int = 0) -> Sheet:
    """Line up the agents of a part.

    Args:
        part: the runs.
        number: of the part on its page.
    """
    contexts: list[dict[str, Any]] = []
    for subject in part.subjects:
        contexts += [context for context in subject.evaluation.contexts if context not in contexts]

    notes = [Note(text) for text in _other_metrics(part.subjects)]
    own = _subject_lines(part.subjects, contexts)
    pooled = _pooled_lines(part.subjects, contexts, notes)
    rules = _rule_lines(part.subjects, own, contexts, notes)

    lines = sorted([*pooled, *own, *rules], key=_order)
    labels = [context_label(context) for context in contexts]
    return Sheet(part, number, contexts, labels, lines, notes)


def _other_metrics(subjects: Sequence[Subject]) -> list[str]:
    """What stands in the place of accuracy, where runs are on another kind of task than classification."""
    found = sorted({subject.evaluation.metric for subject in subjects} - {ACCURACY})
    return [
        f"This is no classification: where the page says accuracy it shows the {name}, in percent; points "
        "are hundredths of it."
        for name in found
    ]


def _order(line: Line) -> tuple[int, bool, str, bool, float]:
    """Agents that runs were made for, pooled ones first; what they are measured by; rules by their gain."""
    gains = [row.gain_mean for row in line.whole if row.gain_mean is not None]
    gain = 0.0 if line.family else -float(np.mean(gains or [0.0]))
    group = 0 if line.is_subject else 2
    if line.kind == "reference" and not line.is_subject:
        group = 1 if line.agent in (REFERENCE, CHANCE) else 3
        gain = list(REFERENCES).index(line.agent)
    return group, line.family == "", line.family, line.kind != "pooled", gain


def _line(name: str, agent: str, evaluation: Evaluation, contexts: Sequence[Any], **about: Any) -> Line:
    """One agent of an evaluation."""
    rows = {context_label(row.context): row for row in evaluation.rows if row.agent == agent}
    place = {context_label(context): n for n, context in enumerate(evaluation.contexts)}
    traces = evaluation.traces.get(agent)
    labels = [context_label(context) for context in contexts]

    return Line(
        name,
        rows=[rows.get(label) for label in labels],
        traces=[traces[place[label]] if traces and label in place else None for label in labels],
        scores=_scores(evaluation, agent, contexts),
        all_data=_scores(evaluation, REFERENCE, contexts),
        random=_scores(evaluation, CHANCE, contexts),
        evaluations=[evaluation],
        **about,
    )


def _scores(evaluation: Evaluation, agent: str, contexts: Sequence[Any]) -> Scores | None:
    """Accuracies (S, M); None where a context or the accuracies of the seeds are not there."""
    traces = evaluation.traces.get(agent)
    if traces is None or evaluation.contexts != list(contexts):
        return None
    return np.stack([trace.accuracy for trace in traces], 1)


def _subject_lines(subjects: Sequence[Subject], contexts: Sequence[Any]) -> list[Line]:
    """The agents that runs were made for."""
    found: list[Line] = []
    for subject in subjects:
        agent = subject.evaluation.agent
        kind = "learned" if subject.learned else "reference" if agent in REFERENCES else "rule"
        about = {"kind": kind, "is_subject": True, "family": subject.family}
        line = _line(subject.label, agent, subject.evaluation, contexts, **about)
        others = [other for other in found if other.kind == kind and other.name == line.name]
        if subject.learned or not any(_is_same(line, other) for other in others):
            found.append(line)
    return found


def _rule_lines(
    subjects: Sequence[Subject], own: Sequence[Line], contexts: Sequence[Any], notes: list[Note]
) -> list[Line]:
    """The agents that they are compared with; once where all runs have the same numbers."""
    found: list[tuple[str, Line]] = [(line.name, line) for line in own if line.kind != "learned"]
    given, differing = len(found), []
    for subject in subjects:
        for agent in dict.fromkeys(row.agent for row in subject.evaluation.rows):
            if agent == subject.evaluation.agent:
                continue
            kind = "reference" if agent in REFERENCES else "rule"
            about = {"kind": kind, "is_subject": False}
            line = _line(agent, agent, subject.evaluation, contexts, **about)

            others = [other for name, other in found if name == agent]
            if any(_is_same(line, other) for other in others):
                continue
            if others:
                differing.append(agent)
                line = _line(
                    f"{agent} (run of {subject.label})", agent, subject.evaluation, contexts, **about
                )
            found.append((agent, line))

    if differing:
        names = ", ".join(dict.fromkeys(differing))
        notes.append(
            Note(
                f"The runs have different numbers for {names}: another number of seeds, another machine or "
                "other versions. Each stands by itself; gains are measured within a run."
            )
        )
    return [line for _, line in found[given:]]


def _is_same(line: Line, other: Line) -> bool:
    """Whether two lines have the same numbers; seconds are another each time."""
    if [row is None for row in line.rows] != [row is None for row in other.rows]:
        return False
    return all(
        [getattr(row, name) for row in line.whole] == [getattr(row, name) for row in other.whole]
        for name in SAME
    )


def _pooled_lines(subjects: Sequence[Subject], contexts: Sequence[Any], notes: list[Note]) -> list[Line]:
    """One line for each agent that was trained with several seeds."""
    families: dict[str, dict[int, Line]] = {}
    for subject in subjects:
        if subject.learned:
            about = {"kind": "learned", "is_subject": True}
            line = _line(subject.label, subject.evaluation.agent, subject.evaluation, contexts, **about)
            families.setdefault(subject.family, {}).setdefault(subject.seed, line)

    found = []
    for family, lines in families.items():
        if len(lines) < 2:
            continue
        shapes = {None if line.scores is None else line.scores.shape for line in lines.values()}
        if len(shapes) > 1 or None in shapes:
            words = (
                f"The training seeds of {family} are not pooled: their evaluations have other numbers of "
                "seeds, other contexts, or no accuracies of single seeds. Evaluate them alike."
            )
            notes.append(Note(words))
            continue
        found.append(_pooled(family, list(lines.values()), contexts))
    return found


def _pooled(family: str, lines: Sequence[Line], contexts: Sequence[Any]) -> Line:
    """The mean of agents that differ by their training seed."""
    stacked: dict[str, Scores | None] = {}
    for name in ("scores", "all_data", "random"):
        values = [getattr(line, name) for line in lines]
        stacked[name] = None if any(value is None for value in values) else np.stack(values)

    rows: list[Row | None] = []
    for number, context in enumerate(contexts):
        known = [row for line in lines if (row := line.rows[number]) is not None]
        rows.append(pooled_row(family, context, known, stacked, number))
    name = f"{family} (mean of {len(lines)} training seeds)"
    evaluations = [found for line in lines for found in line.evaluations]
    none: list[Trace | None] = [None] * len(contexts)
    return Line(name, "pooled", True, rows, none, family=family, evaluations=evaluations, **stacked)
