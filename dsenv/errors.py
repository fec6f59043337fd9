"""Error messages that name the value, what was allowed and the next step."""

import difflib
import inspect
import math
import numbers
import operator
from collections.abc import Callable, Iterable, Mapping
from importlib.resources.abc import Traversable
from typing import Any

import numpy as np

LARGEST = 2**63 - 1  # of the whole numbers that tensors hold


def pick(kind: str, name: str, known: Iterable[str]) -> str:
    """Return `name` if it is among `known`, else raise with the nearest match.

    Raises:
        ValueError: `name` is not known; the message lists what is.
    """
    options = sorted(known)
    if isinstance(name, str) and name in options:
        return str(name)
    folded = {option.casefold(): option for option in options}
    near = difflib.get_close_matches(str(name).casefold(), folded, n=1, cutoff=0.5)
    hint = f" Did you mean {folded[near[0]]!r}?" if near else ""
    raise ValueError(f"no {kind} called {shown(name)}.{hint} There are: {', '.join(options)}")


def parameters_of(what: str, function: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    """The parameters of a function or class by name.

    Raises:
        ValueError: it is a built-in one that does not say.
    """
    try:
        return inspect.signature(function).parameters
    except (TypeError, ValueError) as error:
        raise ValueError(f"{what} does not say what it takes ({error}); wrap it in a function") from error


def check_file(path: Traversable, what: str) -> None:
    """Check that there is a file of the kind `what`.

    Raises:
        FileNotFoundError: there is nothing.
        ValueError: it is a folder.
    """
    if path.is_dir():
        raise ValueError(f"{path} is a folder; give the path of the {what} in it")
    if not path.is_file():
        raise FileNotFoundError(f"no {what} at {path}")


def check_keywords(what: str, function: Callable[..., Any], keywords: Mapping[str, Any]) -> None:
    """Check that `function` takes all `keywords` and that none it needs is missing.

    Raises:
        ValueError: a key is unknown (the message names the nearest one) or missing.
    """
    parameters = parameters_of(what, function).values()
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


def check_count(name: str, value: Any, least: int = 1, most: int | None = None, *, hint: str = "") -> int:
    """The setting `name` as a Python int; whole numbers of NumPy and torch are taken too.

    Args:
        name: of the setting, for the message.
        value: what was given.
        least: smallest allowed value.
        most: largest allowed value; None for 2**63 - 1, beyond which no tensor and no seed goes.
        hint: what to do instead, put behind the message.

    Raises:
        ValueError: it is no whole number (True and 2.0 are none), or out of range.
    """
    try:
        number = None if isinstance(value, bool) else operator.index(value)
    except (TypeError, ValueError, RuntimeError):  # torch raises any of them for its tensors
        number = None

    if most is None and number is not None and number > LARGEST:
        most = LARGEST
    if number is None or number < least or (most is not None and number > most):
        allowed = f"of at least {least}" if most is None else f"from {least} to {most}"
        more = f"; {hint}" if hint else ""
        raise ValueError(f"{name} must be a whole number {allowed}, got {shown(value)}{more}")
    return number


def check_seed(name: str, value: Any) -> int:
    """The setting `name` as a seed, 0 to 2**63 - 1; errors as for `check_count`."""
    return check_count(name, value, 0, LARGEST)


def check_number(
    name: str,
    value: Any,
    low: float = -math.inf,
    high: float = math.inf,
    *,
    open_low: bool = False,
    open_high: bool = False,
) -> float:
    """The setting `name` as a finite Python number; numbers of NumPy are taken too.

    Args:
        name: of the setting, for the message.
        value: what was given. A Python int stays one.
        low: smallest allowed value.
        high: largest allowed value.
        open_low: `low` itself is not allowed.
        open_high: `high` itself is not allowed.

    Raises:
        ValueError: it is no number (True, text), not finite, or out of range.
    """
    number = _as_number(value)
    is_low = number is None or number < low or (open_low and number == low)
    is_high = number is None or number > high or (open_high and number == high)
    if number is None or is_low or is_high:
        raise ValueError(f"{name} must be {_range(low, high, open_low, open_high)}, got {shown(value)}")
    return number


def check_positive(name: str, value: Any) -> float:
    """The setting `name` as a finite number above 0; errors as for `check_number`."""
    return check_number(name, value, 0, open_low=True)


def check_share(name: str, value: Any, *, zero: bool = False) -> float:
    """The setting `name` as a share in (0, 1], or in [0, 1] with `zero`; errors as for `check_number`."""
    return check_number(name, value, 0, 1, open_low=not zero)


def check_flag(name: str, value: Any) -> bool:
    """The setting `name` as a Python bool; that of NumPy is taken too.

    Raises:
        ValueError: it is anything else: 1, None and "no" are not taken for an answer.
    """
    if isinstance(value, bool | np.bool_):
        return bool(value)
    raise ValueError(f"{name} must be True or False, got {shown(value)}")


def check_function(name: str, value: Any) -> Any:
    """The setting `name` if it is None or can be called, else a ValueError."""
    if value is None or callable(value):
        return value
    raise ValueError(f"{name} must be a function or None, got {shown(value)}")


def shown(value: Any, most: int = 60) -> str:
    """A value in an error message: its repr, cut where it is long."""
    try:
        text = repr(value)
    except Exception:  # noqa: BLE001  # a class of the user's own; the message matters more
        text = f"an object of {type(value).__name__}"
    return text if len(text) <= most else f"{text[: most - 3]}..."


def _as_number(value: Any) -> float | None:
    """A finite int or float; None where the value is none."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        return None
    try:
        plain = int(value) if isinstance(value, numbers.Integral) else float(value)
        return plain if math.isfinite(plain) else None
    except OverflowError:  # 10**400 is no float
        return None


def _range(low: float, high: float, open_low: bool, open_high: bool) -> str:
    """The numbers from `low` to `high` in words."""
    if low == -math.inf and high == math.inf:
        return "a finite number"
    if high == math.inf:
        return f"a number above {low:g}" if open_low else f"a number of at least {low:g}"
    if low == -math.inf:
        return f"a number below {high:g}" if open_high else f"a number of at most {high:g}"
    return f"in {'(' if open_low else '['}{low:g}, {high:g}{')' if open_high else ']'}"
