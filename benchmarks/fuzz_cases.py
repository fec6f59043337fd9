"""What a fuzz case is, and values to draw from."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

Draw = Callable[[np.random.Generator], Any]


ODD: Sequence[Any] = (
    *(None, "x", "", b"1", "1", [], [1], {}, {"a": 1}, (1, 2), 1j, object(), float("nan"), float("inf")),
    *(-float("inf"), np.array([1, 2]), np.nan, torch.ones(2), 10**400, -(10**30), print, dict),
)


@dataclass(frozen=True)
class Case:
    """One input."""

    words: str
    """The input in words, to find the case again."""
    call: Callable[[], Any]
    """Gives it to dsenv."""
    oracle: Callable[[Any], str]
    """What is wrong with the result of the call; empty where nothing is."""
    good: bool | None = None
    """Whether it has to be accepted; None where the oracle decides that."""
    named: Sequence[str] = ()
    """What the error has to name, where the input is refused."""


def pick(rng: np.random.Generator, options: Sequence[Any]) -> Any:
    """One of the options; unlike rng.choice it keeps their types."""
    return options[int(rng.integers(len(options)))]


def odd(rng: np.random.Generator) -> Any:
    """A value that no setting of numbers, text or flags takes."""
    return pick(rng, ODD)


def or_none(draws: tuple[Draw, Draw]) -> tuple[Draw, Draw]:
    """Right values, None among them, and wrong ones, None not among them."""
    good, bad = draws

    def wrong(rng: np.random.Generator) -> Any:
        value = bad(rng)
        return wrong(rng) if value is None else value

    return lambda rng: None if rng.random() < 0.2 else good(rng), wrong


def whole(low: int, high: int) -> tuple[Draw, Draw]:
    """Good and bad values of a whole number."""

    def good(rng: np.random.Generator) -> Any:
        value = int(rng.integers(low, high + 1))
        small = [np.int32] if value < 2**31 else []
        return pick(rng, [int, np.int64, torch.tensor, *small])(value)

    def bad(rng: np.random.Generator) -> Any:
        return pick(rng, [low - 1, -(10**18), 10**30, float(low), low + 0.5, True, str(low), odd(rng)])

    return good, bad


def number(low: float, high: float, beyond: Sequence[Any]) -> tuple[Draw, Draw]:
    """Good and bad values of a number.

    Args:
        low: smallest good value that is drawn.
        high: largest one.
        beyond: numbers that are out of range.
    """

    def good(rng: np.random.Generator) -> Any:
        value = pick(rng, [low, high, float(rng.uniform(low, high))])
        return pick(rng, [float, np.float64])(value)

    def bad(rng: np.random.Generator) -> Any:
        return pick(rng, [*beyond, True, np.True_, odd(rng)])

    return good, bad


def one_of(*options: Any) -> tuple[Draw, Draw]:
    """Good and bad values of a name."""

    def good(rng: np.random.Generator) -> Any:
        return pick(rng, options)

    def bad(rng: np.random.Generator) -> Any:
        return pick(rng, [options[0].swapcase(), options[0] + "x", "os:system", 5, True, odd(rng)])

    return good, bad


def flag() -> tuple[Draw, Draw]:
    """Good and bad values of a flag."""
    return (
        lambda rng: pick(rng, [True, False, np.True_, np.False_]),
        lambda rng: pick(rng, [0, 1, "true", "no", odd(rng)]),
    )


def drawn(
    rng: np.random.Generator, table: Mapping[str, tuple[Draw, Draw]]
) -> tuple[dict[str, Any], str | None]:
    """Some settings of a table, and the name of the one that is bad; None where all are good."""
    names = [name for name in table if rng.random() < 0.6] or [next(iter(table))]
    bad = pick(rng, names) if rng.random() < 0.5 else None
    return {name: table[name][name == bad](rng) for name in names}, bad
