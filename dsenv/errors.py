"""Error messages that name the value, what was allowed and the next step."""

import difflib
import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any


def pick(kind: str, name: str, known: Iterable[str]) -> str:
    """Return `name` if it is among `known`, else raise with the nearest match.

    Raises:
        ValueError: `name` is not known; the message lists what is.
    """
    options = sorted(known)
    if name in options:
        return name
    folded = {option.casefold(): option for option in options}
    near = difflib.get_close_matches(str(name).casefold(), folded, n=1, cutoff=0.5)
    hint = f" Did you mean {folded[near[0]]!r}?" if near else ""
    raise ValueError(f"no {kind} called {name!r}.{hint} There are: {', '.join(options)}")


def check_keywords(what: str, function: Callable[..., Any], keywords: Mapping[str, Any]) -> None:
    """Check that `function` takes all `keywords` and that none it needs is missing.

    Raises:
        ValueError: a key is unknown (the message names the nearest one) or missing.
    """
    parameters = inspect.signature(function).parameters.values()
    if not any(p.kind is p.VAR_KEYWORD for p in parameters):
        allowed = [p.name for p in parameters if p.kind is not p.VAR_POSITIONAL]
        for key in keywords:
            pick(f"setting of {what}", key, allowed)
    for name in missing_keywords(function, keywords):
        raise ValueError(f"{what} needs the setting {name!r}, which is not given")


def missing_keywords(function: Callable[..., Any], keywords: Mapping[str, Any]) -> list[str]:
    """Arguments without a default that `keywords` lacks."""
    kinds = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = inspect.signature(function).parameters.values()
    needed = [p.name for p in parameters if p.default is p.empty and p.kind in kinds]
    return [name for name in needed if name not in keywords]


def check_positive(name: str, value: float) -> float:
    """Return `value` if it is a finite number above 0, else raise a ValueError."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise ValueError(f"{name} must be a number above 0, got {value!r}")
    return value


def check_count(name: str, value: int, least: int = 1) -> int:
    """Return `value` if it is a whole number of at least `least`, else raise a ValueError."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name} must be a whole number of at least {least}, got {value!r}")
    return value


def check_share(name: str, value: float, *, zero: bool = False) -> float:
    """Return `value` if it is a share in (0, 1] (in [0, 1] with `zero`), else raise a ValueError."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not (is_number and (value >= 0 if zero else value > 0) and value <= 1):
        raise ValueError(f"{name} must be in {'[' if zero else '('}0, 1], got {value!r}")
    return value
