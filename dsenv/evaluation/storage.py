"""An evaluation as a JSON file, and back."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from dsenv import files
from dsenv.evaluation.compare import ACCURACY, Evaluation, Row
from dsenv.evaluation.trace import Trace

LAYOUT = 2  # 1 had the rows alone
RESULT = "evaluation.json"


def save(evaluation: Evaluation, path: Path, facts: Mapping[str, Any]) -> None:
    """Write an evaluation as JSON: the rows of the table, and what every agent did over time.

    Args:
        evaluation: what to write.
        path: of the file.
        facts: plain values that stand beside it: its number, the agent's steps, when it was made.
    """
    content = {
        "layout": LAYOUT,
        "env": evaluation.env,
        "agent": evaluation.agent,
        **facts,
        "rows": [asdict(row) for row in evaluation.rows],
        "contexts": evaluation.contexts,
        "traces": {name: [t.plain() for t in traces] for name, traces in evaluation.traces.items()},
    }
    if evaluation.metric != ACCURACY:
        content["metric"] = evaluation.metric
    files.write_text(path, _text({**content, "digest": _digest(content)}) + "\n")


def load(path: Path) -> tuple[Evaluation, dict[str, Any]]:
    """An evaluation and the facts beside it; one of layout 1 has no traces.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is damaged, or of a newer version.
    """
    try:
        content = json.loads(path.read_bytes())
        layout, digest = content.get("layout", 1), content.pop("digest", None)
        if layout > LAYOUT:
            raise ValueError(f"it has layout {layout}, and this version of dsenv reads up to {LAYOUT}")
        if layout > 1 and digest != _digest(content):
            raise ValueError("it was changed since it was written")
        known = {field.name for field in fields(Row)}
        rows = [Row(**{key: value for key, value in row.items() if key in known}) for row in content["rows"]]
        contexts = content.get("contexts") or _contexts(rows)
        traces = {
            name: [Trace.from_plain(plain) for plain in found]
            for name, found in content.get("traces", {}).items()
        }
        metric = content.get("metric", ACCURACY)
        evaluation = Evaluation(content["env"], content["agent"], rows, contexts, traces, metric)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(
            f"{path} is no whole evaluation ({type(error).__name__}: {error}): make it again with "
            f"python train_agent.py --evaluate {path.parent}"
        ) from error

    own = {"rows", "contexts", "traces", "env", "agent", "layout", "metric"}
    return evaluation, {key: value for key, value in content.items() if key not in own}


def _text(content: Mapping[str, Any]) -> str:
    return json.dumps(content, separators=(",", ":"))


def _digest(content: Mapping[str, Any]) -> str:
    """Of all that a file holds, so that a figure that was changed on the way is not shown as measured."""
    return hashlib.sha256(_text(content).encode()).hexdigest()


def facts_of(path: Path) -> dict[str, Any]:
    """The facts beside an evaluation that may be damaged; none then."""
    try:
        return load(path)[1]
    except (ValueError, OSError):
        return {}


def _contexts(rows: list[Row]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for row in rows:
        if row.context not in found:
            found.append(dict(row.context))
    return found
