"""Agents that were trained alike but for their seed, as one row of a table."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from dsenv.evaluation.compare import CHANCE, REFERENCE, Evaluation, Row
from dsenv.evaluation.statistics import Scores, mean, mean_difference, stratified_interval


def pooled(evaluations: Sequence[Evaluation]) -> Evaluation:
    """One table of A trained agents: their mean as one row a context, and the rules as they are.

    The agents' intervals cover agent seeds and evaluation seeds: agents are drawn with replacement, then
    evaluation seeds. The intervals of the rules cover evaluation seeds alone. Gains are paired within each
    evaluation.

    Use::

        from pathlib import Path
        from dsenv.evaluation.pooled import pooled
        from dsenv.evaluation.storage import load
        from dsenv.evaluation.tables import markdown_table

        paths = sorted(Path("runs/STUDY").glob("*/evaluation.json"))
        print(markdown_table(pooled([load(path)[0] for path in paths])))

    Args:
        evaluations: one an agent, on the same seeds in the same contexts; the rules are those of the first.

    Returns:
        The rows; `traces` is empty. `seeds` of the agent's rows is the number of all its runs in a context.

    Raises:
        ValueError: they do not belong together, or one has no accuracies of single seeds.
    """
    _check_alike(evaluations)
    first = evaluations[0]
    names = {"scores": first.agent, "all_data": REFERENCE, "random": CHANCE}
    stacked = {key: _stacked(evaluations, name) for key, name in names.items()}

    rows: list[Row] = []
    for number, context in enumerate(first.contexts):
        own = [row for each in evaluations for row in each.rows
               if row.agent == first.agent and row.context == context]  # fmt: skip
        rows.append(pooled_row(first.agent, context, own, stacked, number))
        rows += [row for row in first.rows if row.agent != first.agent and row.context == context]
    return Evaluation(first.env, first.agent, rows, first.contexts, {}, first.metric)


def _check_alike(evaluations: Sequence[Evaluation]) -> None:
    """Check that evaluations differ by the agent's seed alone."""
    shapes = []
    for found in evaluations:
        traces = found.traces.get(found.agent, [])
        shapes.append((found.env, found.agent, found.contexts, [len(trace.accuracy) for trace in traces]))
    if not shapes or not shapes[0][3] or any(shape != shapes[0] for shape in shapes):
        raise ValueError(
            "agents are pooled where their evaluations have the same environment, agent name, contexts and "
            f"numbers of seeds, and the accuracies of single seeds; got {shapes}: evaluate them alike"
        )


def _stacked(evaluations: Sequence[Evaluation], agent: str) -> Scores | None:
    """Accuracies (A, S, M) of an agent of that name; None where an evaluation has none."""
    found = [evaluation.traces.get(agent) for evaluation in evaluations]
    known = [traces for traces in found if traces is not None]
    if len(known) < len(found):
        return None
    return np.stack([np.stack([trace.accuracy for trace in traces], 1) for traces in known])


def pooled_row(
    agent: str,
    context: Mapping[str, Any],
    rows: Sequence[Row],
    stacked: Mapping[str, Scores | None],
    number: int,
) -> Row:
    """The mean of A agents in one context, with intervals over agent seeds and evaluation seeds.

    Args:
        agent: name of the row.
        context: of the row.
        rows: of the single agents in this context.
        stacked: accuracies (A, S, M) of the agents, "scores", and of "all_data" and "random"; None: not run.
        number: of the context, in [0, M).
    """

    def gain(name: str) -> tuple[float | None, float | None, float | None]:
        other = one[name]
        return (None, None, None) if other is None else _with_interval(mean_difference, own, other)

    def average(name: str) -> float | None:
        values = [getattr(row, name) for row in rows]
        return None if any(value is None for value in values) else float(np.mean(values))

    one = {name: None if found is None else found[:, :, [number]] for name, found in stacked.items()}
    own: Any = one["scores"]
    over_data, over_random = gain("all_data"), gain("random")

    ratio, compute, samples = (average(name) for name in ("ratio", "compute", "samples_used"))
    assert ratio is not None and compute is not None and samples is not None
    return Row(
        agent, dict(context), ratio, compute, *_with_interval(mean, own), samples,
        seeds=sum(row.seeds for row in rows),
        gain_mean=over_data[0], gain_low=over_data[1], gain_high=over_data[2],
        diverged=sum(row.diverged for row in rows), wrong_late=average("wrong_late"),
        over_random_mean=over_random[0], over_random_low=over_random[1], over_random_high=over_random[2],
        seconds=average("seconds"),
    )  # fmt: skip


def _with_interval(statistic: Callable[..., Any], *scores: Scores) -> tuple[float, float, float]:
    """A statistic of (A, S, 1) scores, and its interval over agents and seeds."""
    value = float(np.mean(statistic(*scores)))
    return value, *stratified_interval(statistic, *scores)
