"""Builds the parts to check, calls their methods, and watches what a method must not do."""

import copy
import inspect
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dsenv.catalogue import build_part, import_kind
from dsenv.errors import missing_keywords
from dsenv.signals import SampleSignals

Make = Callable[[], Any]
"""Gives a part that nobody has used yet."""

FORMS = {
    "prepare": "prepare(train, validation)",
    "observe": "observe(batch)",
    "select": "select(signals, count, generator)",
    "own_count": "own_count(signals)",
    "ratio": "ratio(step, total)",
    "_ratio": "_ratio(step, total)",
    "strengths": "strengths(signals, index, generator)",
    "augment": "augment(images, signals, index, generator)",
    "views": "views(images, signals, index, generator)",
    "observe_views": "observe_views(trained, views, generator)",
    "record": "record(index, influence)",
    "end_epoch": "end_epoch()",
    "measure": "measure(inputs)",
    "compute": "compute(transition)",
    "state_dict": "state_dict()",
    "load_state_dict": "load_state_dict(state)",
}
"""How each method is called, for messages."""

ADVICE = {
    "torch": "draw by torch.rand(..., generator=generator) and its like",
    "numpy": "draw from the generator, or from a numpy.random.Generator made of a seed",
    "random": "draw from the generator, or from a random.Random made of a seed",
}


class RaisedError(ValueError):
    """A part's method raised an error, where it should have answered."""


def maker(kind: str, part: Any, expected: type, known: Mapping[str, Any], given: Mapping[str, Any]) -> Make:
    """A function that makes fresh ones of a part.

    Args:
        kind: what the part is, in errors.
        part: an object, a class, a function that builds one, "module:Class", or the name or table of a part
            among `known`.
        expected: class that the part must be of.
        known: the parts that come with the package, by name.
        given: what a class or function may ask for.

    Raises:
        ValueError: it is none of these, or cannot be built.
    """
    if isinstance(part, str) and ":" in part:
        part = import_kind(kind, part, expected)

    if isinstance(part, expected):
        return lambda: _copied(part)
    if isinstance(part, str | Mapping):
        return lambda: build_part(kind, known, part, given, expected)

    if not callable(part) or (inspect.isclass(part) and not issubclass(part, expected)):
        name = part.__name__ if inspect.isclass(part) else type(part).__name__
        raise ValueError(
            f"a {kind} must be of a class derived from dsenv.{expected.__name__}, got {name}; give such an "
            "object or class, or its 'module:Class'"
        )

    name = str(getattr(part, "__name__", type(part).__name__))
    return lambda: _built(kind, name, part, expected, given)


def _copied(part: Any) -> Any:
    try:
        return copy.deepcopy(part)
    except Exception as error:
        raise ValueError(
            f"{type(part).__name__} cannot be copied by copy.deepcopy ({error}), and each training run "
            "needs a part of its own; pass the class"
        ) from error


def _built(kind: str, name: str, build: Callable[..., Any], expected: type, given: Mapping[str, Any]) -> Any:
    """A part from its class or from a function, called with what it takes of `given`."""
    for key in missing_keywords(build, given):
        raise ValueError(
            f"{name} needs the argument {key!r}, and a check gives only {', '.join(given)}; pass an object: "
            f"check_{kind}({name}({key}=...))"
        )

    before = _global_streams()
    try:
        part = build_part(kind, {name: build}, name, given, expected)
    except TypeError as error:
        raise ValueError(f"{name} cannot be built: {error}") from error
    _check_streams(f"building {name}", before)
    return part


def call(part: Any, method: str, *arguments: Any) -> Any:
    """Call a method of a part, which must neither raise, nor move global streams, nor change its arguments.

    Raises:
        RaisedError: the method raised an error.
        ValueError: it drew from a global random stream, or changed what it was given.
    """
    where, function = f"{type(part).__name__}.{method}", getattr(part, method, None)
    if function is None:
        raise ValueError(f"{type(part).__name__} has no method {FORMS[method]}; write one")
    named = dict(zip(_names(function, len(arguments)), arguments, strict=True))
    streams, before = _global_streams(), dict(_tensors(named))

    try:
        result = function(*arguments)
    except Exception as error:
        raise RaisedError(
            f"{where} raised {type(error).__name__}: {error} (called as {FORMS[method]})"
        ) from error

    _check_streams(where, streams)
    for name, value in _tensors(named):
        if not _equal(value, before[name]):
            raise ValueError(f"{where} changed the {name} it was given; work on a copy: {name}.clone()")
    return result


def _names(function: Callable[..., Any], count: int) -> list[str]:
    """What a method calls its first `count` arguments."""
    names = list(inspect.signature(function).parameters)
    return names if len(names) == count else [f"argument {number + 1}" for number in range(count)]


def _tensors(named: Mapping[str, Any]) -> Iterator[tuple[str, Tensor]]:
    """Copies of the tensors in arguments, by name."""
    for name, value in named.items():
        yield from _tensors_in(name, value)


def _tensors_in(name: str, value: Any) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield name, value.detach().clone()
    elif isinstance(value, SampleSignals):
        yield from ((f"{name}.{key}", tensor) for key, tensor in value.state_dict().items())
    elif is_dataclass(value):
        for field in fields(value):
            yield from _tensors_in(f"{name}.{field.name}", getattr(value, field.name))
    elif isinstance(value, tuple):
        for number, inner in enumerate(value):
            yield from _tensors_in(f"{name}[{number}]", inner)


def _equal(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors are bit for bit alike, NaN included."""
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    return bool(((one == other) | ((one != one) & (other != other))).all())


def _global_streams() -> dict[str, Any]:
    """Where the global random streams stand."""
    _, key, position, *_ = np.random.get_state()  # noqa: NPY002
    return {
        "torch": torch.random.get_rng_state().tolist(),
        "numpy": (np.asarray(key).tolist(), position),
        "random": random.getstate(),
    }


def _check_streams(where: str, before: Mapping[str, Any]) -> None:
    for name, state in _global_streams().items():
        if state != before[name]:
            raise ValueError(f"{where} draws from the global random stream of {name}; {ADVICE[name]}")


def same(one: Any, other: Any) -> bool:
    """Whether two results or states are alike: tensors bit for bit, in tables and lists as well."""
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return _equal(one, other)
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


def check_flags(part: Any, *names: str) -> None:
    """Check that what a class declares by True or False is one of these.

    Raises:
        ValueError: a declared fact is something else.
    """
    for name in names:
        value = getattr(part, name, False)
        if not isinstance(value, bool):
            raise ValueError(f"{type(part).__name__}.{name} must be True or False, got {value!r}")
