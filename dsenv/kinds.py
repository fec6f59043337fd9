"""What builds a part, looked at before it is called: a file may name anything that can be imported."""

import inspect
import typing
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

from dsenv.errors import shown


class AgentLike(ABC):
    """What a file in `agents/` builds: anything with `learns`, `check` and `bind` (`dsenv.agents.base`)."""

    learns: bool

    @abstractmethod
    def check(self) -> None:
        """Check settings that are only read when the agent is trained."""

    @abstractmethod
    def bind(self, control: Any, action_space: Any) -> Any:
        """The agent for an environment with this control."""

    @classmethod
    def __subclasshook__(cls, other: type) -> bool:
        return all(hasattr(other, name) for name in ("learns", "check", "bind"))


def check_kind(kind: str, words: str, found: Any, expected: type) -> None:
    """Check that what a text named builds an `expected`; it is not called.

    A class has to be derived from `expected`. A function has to be written in Python and to bear a return
    annotation that names `expected` or a class derived from it: `os:system`, `subprocess:run` and their like
    do not.

    Args:
        kind: what is asked for, in errors.
        words: the text that named it.
        found: what it named.
        expected: class that is to be built.

    Raises:
        ValueError: it is neither.
    """
    if inspect.isclass(found):
        check_class(kind, words, found, expected)
    elif not (inspect.isfunction(found) and _returns(found, expected)):
        name = getattr(found, "__name__", "make")
        raise ValueError(
            f"{kind} {words!r} must be a {expected.__name__}: a class derived from it, or a function whose "
            f"return annotation says so, def {name}(...) -> {expected.__name__}; got {shown(found)}, which "
            "was not called"
        )


def check_class(kind: str, words: str, found: type, expected: type) -> None:
    """Check that a class is derived from `expected` and can be built.

    Raises:
        ValueError: it is another class, or lacks a method.
    """
    if not issubclass(found, expected):
        raise ValueError(
            f"{kind} {words!r} must be a {expected.__name__}, got {found.__name__}, which was not called"
        )
    if inspect.isabstract(found):
        missing = ", ".join(sorted(getattr(found, "__abstractmethods__", ())))
        raise ValueError(f"{kind} {words!r} cannot be built: the class {found.__name__} lacks {missing}")


def check_built(kind: str, words: str, part: Any, expected: type) -> None:
    """Check that a factory gave an `expected`.

    Raises:
        ValueError: it gave something else.
    """
    if not isinstance(part, expected):
        raise ValueError(f"{kind} {words!r} must be a {expected.__name__}, got {type(part).__name__}")


def _returns(function: Callable[..., Any], expected: type) -> bool:
    """Whether a function's return annotation names a class derived from `expected`."""
    annotation = getattr(function, "__annotations__", {}).get("return")
    if isinstance(annotation, str):
        try:
            annotation = typing.get_type_hints(function).get("return")
        except Exception:  # noqa: BLE001  # a name that only type checkers import: compare the text
            return str(annotation).rpartition(".")[2] == expected.__name__
    named = typing.get_origin(annotation) or annotation  # Env of gymnasium.Env[Any, Any]
    return inspect.isclass(named) and issubclass(named, expected)


def call_part(kind: str, words: str, source: Callable[..., Any], settings: dict[str, Any]) -> Any:
    """Build a part of its settings.

    Raises:
        ValueError: its class hands **settings on to one that does not know them all.
    """
    try:
        return source(**settings)
    except TypeError as error:
        unknown = [key for key in settings if f"unexpected keyword argument {key!r}" in str(error)]
        if not unknown:
            raise
        raise ValueError(f"{kind} {words!r} has no setting {unknown[0]!r} ({error})") from error
