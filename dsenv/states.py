"""Saved states: what one must look like, checked as a whole before anything of it is loaded.

`check_state(what, state, like)` compares a saved state with the present `state_dict()`: keys, types, shapes
and dtypes. Where a state may really differ, a pattern stands in place of the value: `Either`, `ListOf`,
`TensorOf`, `Whole`, `Exactly`, `Anything`. A state holds tensors, numbers, text, None, lists and dicts, so
that `torch.load(weights_only=True)` reads it.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dsenv.errors import shown
from dsenv.plain import differing

Values = TypeVar("Values", Tensor, NDArray[Any])
WAY_OUT = "build it with the settings and the data it was saved with"


@dataclass(frozen=True)
class Whole:
    """A whole number in a range."""

    least: int = 0
    most: int | None = None


@dataclass(frozen=True)
class TensorOf:
    """A tensor of this dtype; None in the shape stands for any length."""

    dtype: torch.dtype
    shape: tuple[int | None, ...]


@dataclass(frozen=True)
class ListOf:
    """A list of any length, all like `item`."""

    item: Any


@dataclass(frozen=True, init=False)
class Either:
    """Like one of several; give the most usual last, because the error is about that one."""

    options: tuple[Any, ...]

    def __init__(self, *options: Any) -> None:
        object.__setattr__(self, "options", options)


@dataclass(frozen=True)
class Exactly:
    """This value of plain data: a setting that the state was saved with."""

    value: Any


@dataclass(frozen=True)
class Anything:
    """Any plain data: what only its owner can judge."""


def check_state(what: str, state: Any, like: Any) -> None:
    """Check a saved state as a whole; nothing is loaded here.

    Args:
        what: whose state it is, for the message.
        state: what was saved.
        like: the present `state_dict()`, or the same with patterns where a saved one may differ.
            Values of numbers and text are not compared, those in `Exactly` are.

    Raises:
        ValueError: a key is missing or unknown, or a value has another type, shape or dtype than it must
            have; the message names the key, what was found and what is allowed.
    """
    if fault := _fault(state, like, ""):
        raise ValueError(f"this is no state of {what}: {fault}; {WAY_OUT}")


def _fault(state: Any, like: Any, path: str) -> str | None:
    """What is wrong with a part of a state; None where nothing is."""
    if isinstance(like, Whole | Either | Exactly | Anything):
        return _fault_by_pattern(state, like, path)
    if isinstance(like, Tensor):
        like = TensorOf(like.dtype, tuple(like.shape))
    if isinstance(like, TensorOf):
        return _fault_of_tensor(state, like, path)
    if isinstance(like, Mapping):
        return _fault_of_mapping(state, like, path)
    if isinstance(like, list | tuple | ListOf):
        return _fault_of_list(state, like, path)
    return _fault_of_scalar(state, like, path)


def _fault_by_pattern(state: Any, like: Whole | Either | Exactly | Anything, path: str) -> str | None:
    if isinstance(like, Whole):
        limit = f"of at least {like.least}" if like.most is None else f"from {like.least} to {like.most}"
        is_whole = isinstance(state, int) and not isinstance(state, bool)
        is_met = is_whole and state >= like.least and (like.most is None or state <= like.most)
        return None if is_met else f"{_named(path)} must be a whole number {limit}, got {_seen(state)}"
    if isinstance(like, Either):
        faults = [_fault(state, option, path) for option in like.options]
        return None if None in faults else faults[-1]
    if isinstance(like, Exactly):
        if (found := differing(like.value, state, path)) is None:
            return None
        place, own, theirs = found
        return f"it was saved with {_named(place)} = {_seen(theirs)}, here it is {shown(own)}"
    return _not_plain(state, path)


def _fault_of_tensor(state: Any, like: TensorOf, path: str) -> str | None:
    wanted = tuple("any" if length is None else length for length in like.shape)
    if not isinstance(state, Tensor):
        return f"{_named(path)} must be a tensor of shape {_shape(wanted)}, got {_seen(state)}"
    fits = len(state.shape) == len(like.shape) and all(
        length in (None, found) for length, found in zip(like.shape, state.shape, strict=True)
    )
    if not fits:
        return f"{_named(path)} has shape {tuple(state.shape)}, it must be {_shape(wanted)}"
    if state.dtype != like.dtype or state.layout != torch.strided:
        return f"{_named(path)} is {state.dtype} ({state.layout}), it must be {like.dtype}"
    if state.is_meta:
        return f"{_named(path)} is on the device 'meta', which holds no values"
    return None


def _fault_of_mapping(state: Any, like: Mapping[Any, Any], path: str) -> str | None:
    if not isinstance(state, Mapping):
        return f"{_named(path)} must be a dict, got {_seen(state)}"
    if missing := [key for key in like if key not in state]:
        return f"{_named(_joined(path, missing[0]))} is missing"
    if unknown := [key for key in state if key not in like]:
        known = ", ".join(map(repr, like)) or "none"
        return f"{_named(_joined(path, unknown[0]))} is unknown; there are: {known}"
    return next(filter(None, (_fault(state[key], like[key], _joined(path, key)) for key in like)), None)


def _fault_of_list(state: Any, like: list[Any] | tuple[Any, ...] | ListOf, path: str) -> str | None:
    if not isinstance(state, list | tuple):
        return f"{_named(path)} must be a list, got {_seen(state)}"
    items = [like.item] * len(state) if isinstance(like, ListOf) else like
    if len(state) != len(items):
        return f"{_named(path)} has {len(state)} entries, it must have {len(items)}"
    pairs = enumerate(zip(state, items, strict=True))
    return next(filter(None, (_fault(found, item, f"{path}[{i}]") for i, (found, item) in pairs)), None)


def _fault_of_scalar(state: Any, like: Any, path: str) -> str | None:
    """None, a flag, a number or text; a float may be a whole number, and must be finite where `like` is."""
    if isinstance(like, float):
        is_number = isinstance(state, int | float) and not isinstance(state, bool)
        if is_number and (math.isfinite(state) or not math.isfinite(like)):
            return None
        return f"{_named(path)} must be a finite number, got {_seen(state)}"
    if like is None or isinstance(like, bool | int | str):
        wanted = {type(None): "None", bool: "True or False", int: "a whole number", str: "text"}[type(like)]
        return None if type(state) is type(like) else f"{_named(path)} must be {wanted}, got {_seen(state)}"
    raise TypeError(f"a state holds plain data; {_named(path)} is a {type(like).__name__}")


def _not_plain(state: Any, path: str) -> str | None:
    """Which part of a state is no plain data."""
    if isinstance(state, Mapping):
        return next(filter(None, (_not_plain(part, _joined(path, key)) for key, part in state.items())), None)
    if isinstance(state, list | tuple):
        return next(filter(None, (_not_plain(part, f"{path}[{i}]") for i, part in enumerate(state))), None)
    if state is None or isinstance(state, Tensor | bool | int | float | str):
        return None
    return f"{_named(path)} must be plain data (tensors, numbers, text, lists, dicts), got {_seen(state)}"


def fitted(name: str, value: Any, like: Values) -> Values:
    """A tensor or array of a state, of the shape and type of `like`, and on its device.

    Raises:
        ValueError: it is no such one.
    """
    kind: Any = Tensor if isinstance(like, Tensor) else np.ndarray
    if not isinstance(value, kind) or value.shape != like.shape or value.dtype != like.dtype:
        raise ValueError(f"{name} of the state is {_form(value)}, and this environment needs {_form(like)}")
    found: Values = value.to(like.device) if isinstance(like, Tensor) else value
    return found


def _form(value: Any) -> str:
    if isinstance(value, Tensor | np.ndarray):
        return f"{value.dtype} {tuple(value.shape)}"
    return f"a {type(value).__name__}"


def listed(name: str, value: Any, count: int) -> list[Any]:
    """A list of a state, of `count` entries.

    Raises:
        ValueError: it is none.
    """
    if not isinstance(value, list) or len(value) != count:
        got = f"{len(value)} of them" if isinstance(value, list) else type(value).__name__
        raise ValueError(f"{name} of the state must be a list of {count}, got {got}")
    return value


def check_part_state(part: Any, state: Any) -> None:
    """Check the state of a part by its `state_like()`.

    Where a subclass of the user's saves more than `state_like` says, those keys are left to the subclass.

    Raises:
        ValueError: as for `check_state`.
    """
    kind, like = type(part), part.state_like()
    saving, describing = (
        next(base for base in kind.__mro__ if name in vars(base)) for name in ("state_dict", "state_like")
    )
    if isinstance(state, Mapping) and saving is not describing and issubclass(saving, describing):
        state = {key: value for key, value in state.items() if key in like}
    check_state(kind.__name__, state, like)


def adam_state(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Pattern for the state of an Adam optimizer: before its first step or after it, at any learning rate."""
    groups = optimizer.state_dict()["param_groups"]
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    moments = {
        number: {
            "step": TensorOf(torch.float32, ()),
            "exp_avg": parameter.detach(),
            "exp_avg_sq": parameter.detach(),
        }
        for number, parameter in enumerate(parameters)
    }
    free = [{key: 0.0 if key == "lr" else Exactly(value) for key, value in group.items()} for group in groups]
    return {"state": Either({}, moments), "param_groups": free}


def _joined(path: str, key: Any) -> str:
    return f"{path}.{key}" if path else str(key)


def _named(path: str) -> str:
    return repr(path) if path else "it"


def _shape(lengths: tuple[Any, ...]) -> str:
    return f"({', '.join(map(str, lengths))}{',' if len(lengths) == 1 else ''})"


def _seen(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    return shown(value)
