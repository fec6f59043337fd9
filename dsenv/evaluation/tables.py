"""Tables of an evaluation, as text."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from dsenv.env.context import NOISE
from dsenv.evaluation.compare import CHANCE, REFERENCE, Evaluation, Row
from dsenv.evaluation.labels import context_label as context_label
from dsenv.evaluation.statistics import (
    at_cost,
    interquartile_mean,
    probability_of_improvement,
    stratified_interval,
)


def by_context(evaluation: Evaluation) -> dict[str, dict[str, Row]]:
    """Rows by agent, then by context."""
    table: dict[str, dict[str, Row]] = {}
    for row in evaluation.rows:
        table.setdefault(row.agent, {})[context_label(row.context)] = row
    return table


def shown_name(agent: str, letters: int = 40) -> str:
    """An agent's name in pictures, in so many letters: of a longer one, both ends."""
    half = (letters - 1) // 2
    return agent if len(agent) <= letters else f"{agent[:half]}…{agent[-half:]}"


def between(shares: Iterable[float]) -> str:
    """Shares of all contexts in percent: "50%" where they are one, else "34 to 52%"."""
    known = [f"{100 * share:.0f}" for share in sorted(shares)]
    return f"{known[0]}%" if known[0] == known[-1] else f"{known[0]} to {known[-1]}%"


def _in_markdown(agent: str, evaluation: Evaluation) -> str:
    """An agent as a cell: bold where the evaluation is about it."""
    plain = " ".join(agent.split()).replace("|", "\\|")
    return f"**{plain}**" if agent == evaluation.agent else plain


def markdown_table(evaluation: Evaluation) -> str:
    """Test accuracy in percent and half its 95 % interval: a row an agent, a column a context."""
    table = by_context(evaluation)
    labels = [context_label(context) for context in evaluation.contexts]
    costs = any(row.compute != row.ratio for row in evaluation.rows)  # forwards without training
    heads = ["agent", "data used", *(["compute"] if costs else []), *labels]
    lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]

    for agent, rows in table.items():
        spent = [between(row.ratio for row in rows.values())]
        spent += [between(row.compute for row in rows.values())] if costs else []
        cells = [_in_markdown(agent, evaluation), *spent, *(_cell(rows[label]) for label in labels)]
        lines.append(f"| {' | '.join(cells)} |")

    return "\n".join(lines)


def _cell(row: Row) -> str:
    half = (row.accuracy_high - row.accuracy_low) / 2
    lost = f" ({row.diverged} diverged)" if row.diverged else ""
    return f"{100 * row.accuracy_mean:.1f} ± {100 * half:.1f}{lost}"


def gains(evaluation: Evaluation) -> str:
    """The agent's gain over all data in each context, with its 95 % interval, in points of accuracy."""
    rows = [row for row in evaluation.rows if row.agent == evaluation.agent and row.gain_mean is not None]
    lines = []
    for row in rows:
        assert row.gain_mean is not None and row.gain_low is not None and row.gain_high is not None
        mean, low, high = (100 * value for value in (row.gain_mean, row.gain_low, row.gain_high))
        lines.append(f"{context_label(row.context)}: {mean:+.1f} points ({low:+.1f} to {high:+.1f})")
    return "\n".join(lines)


def wrong_share(context: Mapping[str, Any]) -> float:
    """Share of the training labels that a context makes wrong."""
    return float(sum(context.get(name, 0) for name in NOISE))


def wrong_label_table(evaluation: Evaluation) -> str:
    """Share of wrong labels among the samples of the last third of training, in percent; "" without noise."""
    noisy = [context for context in evaluation.contexts if wrong_share(context) > 0]
    if not noisy:
        return ""

    labels = [context_label(context) for context in noisy]
    lines = [f"| agent | {' | '.join(labels)} |", "|" + "---|" * (1 + len(labels))]
    for agent, rows in by_context(evaluation).items():
        late = [rows[label].wrong_late for label in labels]
        cells = ["-" if share is None else f"{100 * share:.1f}" for share in late]
        lines.append(f"| {' | '.join([_in_markdown(agent, evaluation), *cells])} |")

    return "\n".join(lines)


def overall_table(evaluation: Evaluation) -> str:
    """Over all contexts: what every agent reached, in percent with 95 % intervals, paired by seed.

    Interquartile mean of the final accuracies, chance to beat a run of all data and of random selection, and
    accuracy at as many samples as the agent with the fewest has seen; see `dsenv.evaluation.statistics`.
    """
    scores = {
        name: np.stack([trace.accuracy for trace in traces], 1) for name, traces in evaluation.traces.items()
    }
    others = [name for name in (REFERENCE, CHANCE) if name in scores]
    heads = ["interquartile mean", *(f"better than {name.replace('_', ' ')}" for name in others)]
    equal = _at_equal_samples(evaluation)
    if equal:
        heads.append("accuracy at equal samples")
    lines = [f"| agent | {' | '.join(heads)} |", "|" + "---|" * (1 + len(heads))]

    for name, own in scores.items():
        cells = [_with_interval(interquartile_mean, own)]
        for other in others:
            is_same = other == name
            cells.append("-" if is_same else _with_interval(probability_of_improvement, own, scores[other]))
        if equal:
            cells.append(f"{100 * equal[name]:.1f}")
        lines.append(f"| {_in_markdown(name, evaluation)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _with_interval(statistic: Any, *scores: Any) -> str:
    """A statistic of scores (S, M) in percent, with its interval."""
    low, high = stratified_interval(statistic, *scores)
    return f"{100 * float(statistic(*scores)):.1f} ({100 * low:.1f} to {100 * high:.1f})"


def _at_equal_samples(evaluation: Evaluation) -> dict[str, float]:
    """Mean accuracy of each agent over seeds and contexts at the fewest samples of any; {} without curves."""
    found: dict[str, list[float]] = {name: [] for name in evaluation.traces}
    for traces in zip(*evaluation.traces.values(), strict=True):
        if not all(trace.has_curve for trace in traces):
            return {}
        fewest = min(int(trace.samples_used.min()) for trace in traces)
        for name, trace in zip(found, traces, strict=True):
            found[name].append(float(at_cost(trace.curve, trace.samples, fewest).mean()))
    means = {name: float(np.mean(values)) for name, values in found.items()}
    return means if np.isfinite(list(means.values())).all() else {}
