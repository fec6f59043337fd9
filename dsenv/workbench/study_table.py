"""The table of a study: the mean of the agents, the rules as they are, and how far agent seeds lie apart."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dsenv import files
from dsenv.evaluation import storage
from dsenv.evaluation.compare import Evaluation, Row
from dsenv.evaluation.pooled import pooled
from dsenv.evaluation.tables import context_label, gains, markdown_table

TABLE = "table.md"
FEW = 5  # agent seeds: the interval of fewer is too short


def study_table(seeds: Sequence[int], evaluations: Sequence[Evaluation]) -> str:
    """The table of a study in Markdown.

    Args:
        seeds: of the A agents.
        evaluations: of the A agents, on the same evaluation seeds in the same contexts.

    Raises:
        ValueError: they do not belong together.
    """
    found = pooled(evaluations)
    agent, count = found.agent, len(seeds)
    runs = evaluations[0].rows[0].seeds

    many = f"{count} agent seeds" if count > 1 else "one agent seed"
    lines = [
        f"# {agent} on {found.env}, {many}",
        "",
        _lead(agent, count, runs, found.words),
        "",
        markdown_table(found),
    ]
    gained = gains(found)
    if gained:
        items = "\n".join(f"- {line}" for line in gained.splitlines())
        lines += ["", f"{agent} against all data, same evaluation seeds, with 95 % intervals:", "", items]
    if count > 1:
        lines += ["", f"How far agent seeds lie apart, each the mean of {runs} runs, before rounding:", ""]
        lines.append(_spread_table(spread(seeds, evaluations)))
    return "\n".join(lines) + "\n"


def _lead(agent: str, count: int, runs: int, metric: str) -> str:
    """What the numbers of the table are."""
    words = f"T{metric[1:]} in percent and half its 95 % interval."
    if count == 1:
        return (
            f"{words} Means of {runs} fresh seeds. There is one agent seed, so no interval covers the luck "
            "of training an agent."
        )
    words += (
        f" {agent}: mean of {count} agents, trained alike but for their seed, on {runs} fresh seeds each; "
        "its interval covers agent seeds and evaluation seeds. Rules are not trained: their intervals cover "
        "evaluation seeds."
    )
    if count < FEW:
        words += f" Intervals of fewer than {FEW} agent seeds are too short."
    return words


def spread(seeds: Sequence[int], evaluations: Sequence[Evaluation]) -> list[dict[str, Any]]:
    """Lowest and highest agent seed in each context, by test accuracy in [0, 1].

    Args:
        seeds: of the agents.
        evaluations: of the agents.

    Returns:
        For each context: `context`, `lowest` and `highest`, each with `seed` and `accuracy`.
    """
    found = []
    for context in evaluations[0].contexts:
        pairs = [
            {"seed": seed, "accuracy": _own_row(evaluation, context).accuracy_mean}
            for seed, evaluation in zip(seeds, evaluations, strict=True)
        ]
        lowest, highest = (end(pairs, key=lambda pair: pair["accuracy"]) for end in (min, max))
        found.append({"context": dict(context), "lowest": lowest, "highest": highest})
    return found


def _own_row(evaluation: Evaluation, context: dict[str, Any]) -> Row:
    return next(row for row in evaluation.rows if row.agent == evaluation.agent and row.context == context)


def _spread_table(found: Sequence[dict[str, Any]]) -> str:
    lines = ["| context | lowest | highest | apart |", "|---|---|---|---|"]
    for one in found:
        ends = [one[name] for name in ("lowest", "highest")]
        cells = [f"{100 * end['accuracy']:.1f} (seed {end['seed']})" for end in ends]
        apart = 100 * (ends[1]["accuracy"] - ends[0]["accuracy"])
        lines.append(f"| {context_label(one['context'])} | {' | '.join(cells)} | {apart:.1f} points |")
    return "\n".join(lines)


def write_table(
    folder: Path, seeds: Sequence[int], runs: Sequence[str], evaluations: Sequence[Evaluation], text: str
) -> list[Path]:
    """Write the table to the folder of a study: `table.md`, and after it `evaluation.json`.

    `dsenv.evaluation.storage.load` reads the JSON: the rows of the table, and beside them `agent_seeds`, what
    each agent reached, and `spread`. What the agents did over time is in the folders of the runs.

    Args:
        folder: of the study.
        seeds: of the agents.
        runs: names of their folders.
        evaluations: of the agents.
        text: the table in Markdown.

    Raises:
        OSError: a file cannot be written.
    """
    each = [
        {"seed": seed, "run": run, "rows": [_figures(_own_row(found, c)) for c in found.contexts]}
        for seed, run, found in zip(seeds, runs, evaluations, strict=True)
    ]
    about = {"agent_seeds": each, "spread": spread(seeds, evaluations)}
    files.write_text(folder / TABLE, text)
    path = folder / storage.RESULT
    storage.save(pooled(evaluations), path, about)
    return [folder / TABLE, path]


def _figures(row: Row) -> dict[str, Any]:
    """What one agent reached in one context."""
    names = ("context", "accuracy_mean", "gain_mean", "over_random_mean", "wrong_late", "diverged", "seeds")
    return {name: getattr(row, name) for name in names}
