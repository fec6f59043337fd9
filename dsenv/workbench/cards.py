"""Method cards: `docs/methods.md`, made from the docstrings of all registered methods.

python -m dsenv.workbench.cards > docs/methods.md
"""

import inspect
import re
import sys
from collections.abc import Mapping
from typing import Any

from dsenv.catalogue import import_entry_point

INTRODUCTION = """\
# Methods

One card for each method: what it does, when it helps and when not, settings, cost, source, and how it
differs from published code. Made from the docstrings by `python -m dsenv.workbench.cards`; edit those.

A selector goes into `DataPlan(selector=...)` or an environment's `selector`, a schedule into `volume`, a
controller into `augment`, by the name in the heading; what a loss is of into `DataPlan(loss_of=...)`.
"""

LABELS = (
    "What it does|When it helps|When not|Helps|Does not help|Settings|Cost|State|Memory|Source|"
    "Differs from the published code|Differences from (?:the )?published code"
)


def method_tables() -> dict[str, Mapping[str, Any]]:
    """The registries, by their heading."""
    from dsenv.augment import CONTROLLERS
    from dsenv.plan.batch_loss import MODES
    from dsenv.select.registry import SELECTORS
    from dsenv.volume.registry import SCHEDULES

    return {
        "Selectors: what to train on": SELECTORS,
        "Volume schedules: how much": SCHEDULES,
        "Augmentation controllers: how strongly augmented": CONTROLLERS,
        "Losses: what a loss is of, beside a sample": MODES,
    }


def card(name: str, method: type) -> str:
    """One method's card in Markdown."""
    text = inspect.getdoc(method) or ""
    body, *sections = re.split(r"^(Args|Raises):\n", text, flags=re.MULTILINE)
    where = f"`{method.__module__}:{method.__name__}`"
    paragraphs = [_emphasised(paragraph) for paragraph in body.strip().split("\n\n")]
    lines = [f"### {name}", where, *paragraphs]

    for title, content in zip(sections[::2], sections[1::2], strict=True):
        lines.append(f"**{title}**\n\n" + _bullets(content))

    return "\n\n".join(lines)


def _emphasised(paragraph: str) -> str:
    """A paragraph in which the labels of a card stand out."""
    return re.sub(rf"(^|(?<=\n)|(?<=\. ))({LABELS}):(?=\s)", r"**\2:**", paragraph)


def _bullets(section: str) -> str:
    """Entries of an Args or Raises section as a list."""
    joined = re.sub(r"\n {8,}", " ", inspect.cleandoc("\n" + section).replace("\n    ", "\n        "))
    entries = [line for line in joined.splitlines() if line.strip()]
    return "\n".join(re.sub(r"^(\w+):", r"- `\1`:", entry) for entry in entries)


def document() -> str:
    """The whole of docs/methods.md."""
    parts = [INTRODUCTION.rstrip()]
    for heading, table in method_tables().items():
        parts.append(f"## {heading}")
        for name, found in table.items():
            parts.append(card(name, import_entry_point(found) if isinstance(found, str) else found))
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    sys.stdout.write(document())
