"""What contexts are called, in tables and charts."""

from collections.abc import Mapping
from typing import Any


def context_label(context: Mapping[str, Any]) -> str:
    """A context in words: "wine, label noise 40%, lr x 0.5"."""
    return ", ".join(_value_label(name, value) for name, value in context.items()) or "as drawn"


def _value_label(name: str, value: Any) -> str:
    if isinstance(value, str):
        return value
    return f"lr x {value:.7g}" if name == "lr" else f"{name.replace('_', ' ')} {100 * value:.7g}%"
