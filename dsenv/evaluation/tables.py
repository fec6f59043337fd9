"""Tables of an evaluation, as text."""

from collections.abc import Mapping
from typing import Any

from dsenv.evaluation.compare import Evaluation, Row


def context_label(context: Mapping[str, Any]) -> str:
    """A context in words: "wine, label noise 40%, lr x 0.5"."""
    return ", ".join(_value_label(name, value) for name, value in context.items()) or "as drawn"


def _value_label(name: str, value: Any) -> str:
    if isinstance(value, str):
        return value
    return f"lr x {value:g}" if name == "lr" else f"{name.replace('_', ' ')} {100 * value:.4g}%"


def by_context(evaluation: Evaluation) -> dict[str, dict[str, Row]]:
    """Rows by agent, then by context."""
    table: dict[str, dict[str, Row]] = {}
    for row in evaluation.rows:
        table.setdefault(row.agent, {})[context_label(row.context)] = row
    return table


def markdown_table(evaluation: Evaluation) -> str:
    """Test accuracy in percent and half its 95 % interval: a row an agent, a column a context."""
    table = by_context(evaluation)
    labels = [context_label(context) for context in evaluation.contexts]
    costs = any(row.compute != row.ratio for row in evaluation.rows)  # forwards without training
    heads = ["agent", "data used", *(["compute"] if costs else []), *labels]
    lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]

    for agent, rows in table.items():
        first = rows[labels[0]]
        spent = [f"{first.ratio:.0%}", *([f"{first.compute:.0%}"] if costs else [])]
        name = f"**{agent}**" if agent == evaluation.agent else agent
        lines.append(f"| {' | '.join([name, *spent, *(_cell(rows[label]) for label in labels)])} |")

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
    return float(context.get("label_noise", 0) + context.get("pair_flip", 0))


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
        name = f"**{agent}**" if agent == evaluation.agent else agent
        lines.append(f"| {' | '.join([name, *cells])} |")

    return "\n".join(lines)
