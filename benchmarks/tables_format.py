"""What the generated tables share: files of results, Markdown, and where figures are from."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from transfer_statistics import Interval, paired

RESULTS = Path(__file__).resolve().parent / "results"
PLUS_MINUS = "\N{NO-BREAK SPACE}\N{PLUS-MINUS SIGN}\N{NO-BREAK SPACE}"
Line = Mapping[str, Any]


@cache
def stored(name: str) -> Any:
    """Content of a file of results; of .jsonl the list of its lines."""
    text = (RESULTS / name).read_text("utf-8")
    if name.endswith(".jsonl"):
        return [json.loads(line) for line in text.splitlines()]
    return json.loads(text)


def table(heads: Sequence[str], body: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = ["| " + " | ".join(cells) + " |" for cells in (heads, *body)]
    return "\n".join([lines[0], "|" + "---|" * len(heads), *lines[1:]])


def parts(*texts: str) -> str:
    """Texts with an empty line between them."""
    return "\n\n".join(texts)


def within(mean: float, half: float, form: str = ".1f", sign: str = "+") -> str:
    """A mean with half of its interval on one line; no minus before a zero."""
    digits = int(form[1:-1])
    shown = f"{round(mean, digits) + 0.0:{sign}{form}}"
    return f"{shown}{PLUS_MINUS}{half:{form}}" if math.isfinite(half) else shown


def points(found: Interval | None) -> str:
    """A difference in points with half of its interval."""
    return "-" if found is None else within(found.mean, (found.high - found.low) / 2)


def gains(rows: Sequence[Line], agent: str, base: str = "random") -> Interval | None:
    """Points of accuracy of an agent over another, paired over lines; None where it is missing."""
    own = [
        row["agents"][agent]["accuracy"] - row["agents"][base]["accuracy"]
        for row in rows
        if agent in row["agents"]
    ]
    return paired(np.array(own)) if own else None


def mean_of(rows: Sequence[Line], agent: str, what: str) -> float:
    return float(np.mean([row["agents"][agent][what] for row in rows]))


def source(name: str, command: str = "", facts: Line | None = None, note: str = "") -> str:
    """One line: the command, the machine with its versions, and the file.

    Args:
        name: of the file in benchmarks/results.
        command: in place of that of the file.
        facts: of the machine, in place of those of the file.
        note: a sentence before the rest.
    """
    content = stored(name)
    first: Line = content[0] if isinstance(content, list) else content
    command = command or first["command"]
    facts = facts or first.get("facts") or first["machine"]
    return " ".join(filter(None, [note, f"`{command}`; {machine(facts)} ([JSON](RESULTS/{name}))."]))


def machine(facts: Line) -> str:
    """Processor, threads and versions in words."""
    where = f"one {facts['gpu']}" if facts.get("gpu") else facts["cpu"]
    cores = f", {facts['cores']} cores" if "cores" in facts else ""
    threads = f"{facts['threads']} thread" + ("s" if facts["threads"] != 1 else "")
    load = f", load average {facts['load']:.0f}" if "load" in facts else ""
    versions = [f"torch {facts['torch']}"]
    versions += [f"{name} {facts[name]}" for name in ("ray", "transformers", "gymnasium") if facts.get(name)]
    day = f", {facts['date']}" if "date" in facts else ""
    return f"{where}{cores}, {threads}{load}, {', '.join(versions)}{day}"
