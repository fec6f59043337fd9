"""Whether an evaluation that was read from a file can be shown."""

import math
from dataclasses import fields
from typing import Any

import numpy as np

from dsenv.evaluation.compare import Evaluation, Row
from dsenv.evaluation.trace import Trace

SHARES = ("accuracy", "curve", "selected", "wrong", "class_seen", "class_pool", "class_accuracy")
ROUNDED = 1e-5  # what six digits in a file may add
OPTIONAL = {field.name for field in fields(Row) if field.default is None}


def check(evaluation: Evaluation) -> None:
    """Check that all parts of an evaluation fit together.

    Raises:
        ValueError: they do not; the message names the part.
    """
    if not (isinstance(evaluation.env, str) and isinstance(evaluation.agent, str)):
        raise ValueError(f"env and agent must be names, got {evaluation.env!r} and {evaluation.agent!r}")
    if not isinstance(evaluation.contexts, list) or not all(map(_is_context, evaluation.contexts)):
        raise ValueError(f"contexts must be tables of numbers and names, got {evaluation.contexts!r}")
    if evaluation.agent not in {row.agent for row in evaluation.rows if isinstance(row.agent, str)}:
        raise ValueError(f"no row is of its agent {evaluation.agent!r}")

    for row in evaluation.rows:
        _check_row(row, evaluation.contexts)
    for name, traces in evaluation.traces.items():
        if len(traces) != len(evaluation.contexts):
            raise ValueError(f"{name} has {len(traces)} traces for {len(evaluation.contexts)} contexts")
        for trace in traces:
            _check_trace(name, trace)
    for number in range(len(evaluation.contexts)):
        sizes = {traces[number].class_accuracy.shape for traces in evaluation.traces.values()}
        seeds = {traces[number].accuracy.shape for traces in evaluation.traces.values()}
        if len(sizes) > 1 or len(seeds) > 1:
            raise ValueError(f"agents have other numbers of classes or seeds in context {number}")


def _is_context(context: Any) -> bool:
    return isinstance(context, dict) and all(
        isinstance(value, int | float | str) and not isinstance(value, bool) for value in context.values()
    )


def _check_row(row: Row, contexts: list[dict[str, Any]]) -> None:
    if row.context not in contexts or not isinstance(row.agent, str):
        raise ValueError(f"a row of {row.agent!r} has the unknown context {row.context!r}")
    for name, value in vars(row).items():
        if name in ("agent", "context") or (value is None and name in OPTIONAL):
            continue
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise ValueError(f"{name} of {row.agent} must be a number, got {value!r}")
    low, high = row.accuracy_low - ROUNDED, row.accuracy_high + ROUNDED
    if not (row.accuracy_low >= 0 and low <= row.accuracy_mean <= high and row.accuracy_high <= 1):
        ends = f"{row.accuracy_low} to {row.accuracy_high}"
        raise ValueError(f"accuracy of {row.agent} must be in [0, 1], got {row.accuracy_mean} in {ends}")


def _check_trace(name: str, trace: Trace) -> None:
    if trace.curve.ndim != 2 or trace.selected.ndim != 2 or trace.strengths.ndim != 2:
        raise ValueError(f"curve, selected and strengths of {name} must be tables")
    seeds, intervals = trace.curve.shape
    wanted = {
        "accuracy": (seeds,), "samples_used": (seeds,), "full": (seeds,), "extra_forwards": (seeds,),
        "diverged": (seeds,), "samples": (seeds, intervals), "seconds": (intervals,), "ratio": (intervals,),
        "wrong": (intervals,), "strength": (intervals,), "selected": (intervals, trace.selected.shape[1]),
        "strengths": (intervals, trace.strengths.shape[1]), "class_seen": trace.class_accuracy.shape,
        "class_pool": trace.class_accuracy.shape, "class_accuracy": (trace.class_accuracy.size,),
    }  # fmt: skip
    for field, shape in wanted.items():
        found = getattr(trace, field).shape
        if found != shape or 0 in (seeds, intervals):
            raise ValueError(f"{field} of {name} has the shape {found}, not {shape}")
    _check_values(name, trace)


def _check_values(name: str, trace: Trace) -> None:
    """Check that shares are shares; NaN stands for what did not happen, but in final accuracies."""
    if not np.isfinite(trace.accuracy).all():
        raise ValueError(f"accuracy of {name} must be finite, got {trace.accuracy.tolist()}")
    for field in SHARES:
        values = getattr(trace, field)
        known = values[~np.isnan(values)]
        if known.size and not (known.min() >= 0 and known.max() <= 1 + ROUNDED):
            raise ValueError(f"{field} of {name} must be in [0, 1], got {known.min():g} to {known.max():g}")
