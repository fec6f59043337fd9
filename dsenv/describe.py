"""Settings by value: whatever a part was built with, as plain data that can be saved and compared.

Two descriptions are equal where the settings are. Learnt state does not enter: a part built by `Described`
is described as it was when its constructor returned. `attributes_of` is for the opposite question, whether
an object has changed: it describes all that the object holds.
"""

import copy
import enum
import functools
import hashlib
import inspect
import math
import random
import types
from collections import deque
from collections.abc import Callable, Mapping, Set
from dataclasses import fields, is_dataclass
from pathlib import PurePath
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dsenv.plain import bytes_of

DEPTH = 12
ATTRIBUTES_DEPTH = 4  # an object may hold the whole environment
MOST_ENTRIES = 1000  # of a list; a longer one is described by its digest
NOT_SETTINGS = ("device",)  # where a part lives may change between two runs
AS_TEXT = (enum.Enum, PurePath, torch.dtype, torch.device, np.dtype, complex, range, slice)
KEPT = "_settings"  # attribute in which a part holds its description
ABSENT = object()


class Described:
    """Base of parts that know the settings they were built with, whatever class the user makes of them.

    Every `__init__` of a subclass is noted: once the outermost one returns, its arguments are described, by
    the attribute of the same name where there is one (a checked value, a default that was filled in), else
    as they were given.
    """

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        if "__init__" in vars(cls):
            cls.__init__ = _noting(vars(cls)["__init__"])  # type: ignore[method-assign]

    def settings(self) -> dict[str, Any]:
        """All constructor settings as plain data: numbers, text, lists, dicts; tensors by digest.

        The device is left out. Learnt state is no setting: the same before and after a training run.
        """
        kept = vars(self).get(KEPT)
        if kept is None:  # made by a constructor that was not noted, as that of a dataclass
            kept = _attributes(self, {}, lambda part: _describe(part, DEPTH - 1, (id(self),)))
        return copy.deepcopy(kept)


def _noting(init: Callable[..., None]) -> Callable[..., None]:
    """An `__init__` that describes its arguments once it is done, where no other one called it."""

    @functools.wraps(init)
    def noting(self: Described, *args: Any, **keywords: Any) -> None:
        is_outermost = KEPT not in vars(self)
        if not is_outermost:
            init(self, *args, **keywords)
            return

        vars(self)[KEPT] = None
        try:
            init(self, *args, **keywords)
        finally:
            del vars(self)[KEPT]
        given = _given(inspect.signature(init), self, *args, **keywords)
        vars(self)[KEPT] = _attributes(self, given, lambda part: _describe(part, DEPTH - 1, (id(self),)))

    return noting


def describe(value: Any, depth: int = DEPTH) -> Any:
    """A value as plain data: None, bool, int, float, str, lists and dicts with text as keys.

    | value                         | described by                                              |
    |-------------------------------|-----------------------------------------------------------|
    | numbers, text, None           | itself; NumPy's as Python's; NaN and infinities as text   |
    | tensors, arrays, bytes        | type, shape, dtype, SHA-256 of the bytes                  |
    | parameters that are trained   | shape and dtype                                           |
    | mappings, sequences, sets     | their entries; of more than 1,000 their number and digest |
    | classes, functions            | module and name; lambdas and inner functions also by code |
    | partials, methods             | function and what is bound to it                          |
    | dataclasses                   | type and the fields that are constructor arguments        |
    | modules of torch              | their printed form                                        |
    | other objects                 | `settings()` where they have it, else type and the        |
    |                               | attributes that are constructor arguments                 |

    Args:
        value: anything; cycles are cut.
        depth: levels of entries and attributes that are gone into.
    """
    return _describe(value, depth, ())


def attributes_of(value: Any) -> dict[str, Any]:
    """What an object holds, learnt state included, by the names of its attributes; cycles are cut.

    Objects inside are described by their attributes as well, and generators by where they stand.
    """
    return {
        name: _describe(held, ATTRIBUTES_DEPTH - 1, (id(value),), whole=True)
        for name, held in _all_attributes(value).items()
    }


def _describe(value: Any, depth: int, outer: tuple[int, ...], *, whole: bool = False) -> Any:
    """Describe a value.

    Args:
        value: anything.
        depth: levels that are left.
        outer: objects that it stands in.
        whole: describe objects by all that they hold, not by their settings alone.
    """
    if isinstance(value, AS_TEXT):
        return str(value)
    if value is None or isinstance(value, str | bool | int | float | np.generic):
        return _plain(value)
    if isinstance(value, Tensor | np.ndarray | bytes | bytearray | memoryview):
        return _digested(value, whole=whole)

    inside = (*outer, id(value))
    if id(value) in outer:
        return f"{_name(type(value))} again"
    if isinstance(value, type | types.FunctionType | types.BuiltinFunctionType | types.MethodType):
        return _of_callable(value, depth, inside, whole=whole)
    if depth <= 0:
        return f"{_name(type(value))} ..."

    def inner(part: Any) -> Any:
        return _describe(part, depth - 1, inside, whole=whole)

    entries = _entries(value, inner)
    if entries is not None:
        return entries
    if whole and not isinstance(value, functools.partial):
        return {"type": _name(type(value)), **{k: inner(held) for k, held in _all_attributes(value).items()}}
    return _of_object(value, inner)


def _all_attributes(value: Any) -> dict[str, Any]:
    """What an object holds, by name; of a generator, where it stands."""
    if isinstance(value, torch.Generator):
        return {"state": value.get_state()}
    if isinstance(value, np.random.Generator):
        return {"state": value.bit_generator.state}
    if isinstance(value, random.Random):
        return {"state": value.getstate()}
    slots = [name for kind in type(value).__mro__ for name in getattr(kind, "__slots__", ())]
    own = {name: getattr(value, name) for name in slots if hasattr(value, name)}
    return {**own, **getattr(value, "__dict__", {})}


def _entries(value: Any, inner: Callable[[Any], Any]) -> Any:
    """A collection by its entries; None where the value is none."""
    if isinstance(value, Mapping):
        if all(isinstance(key, str) for key in value):
            return {key: inner(part) for key, part in value.items()}
        return {"type": _name(type(value)), "items": [[inner(key), inner(value[key])] for key in value]}
    if isinstance(value, Set):
        return {"type": "set", "items": sorted(map(inner, value), key=repr)}
    if not isinstance(value, list | tuple | deque):
        return None

    described = [inner(part) for part in value]
    if len(described) <= MOST_ENTRIES:
        return described
    digest = hashlib.sha256(repr(described).encode()).hexdigest()
    return {"type": "list", "length": len(described), "sha256": digest}


def _of_object(value: Any, inner: Callable[[Any], Any]) -> Any:
    """An object by its type and what it was built with."""
    kind = {"type": _name(type(value))}
    if isinstance(value, functools.partial):
        bound = {"args": inner(list(value.args)), "keywords": inner(dict(value.keywords))}
        return {**kind, "function": inner(value.func), **bound}
    if isinstance(value, Described):
        return {**kind, **value.settings()}
    if isinstance(value, nn.Module):
        return {**kind, "modules": str(value)}
    if isinstance(value, torch.Generator):
        return {**kind, "seed": value.initial_seed()}
    if is_dataclass(value):
        names = [field.name for field in fields(value) if field.init and field.name not in NOT_SETTINGS]
        return {**kind, **{name: inner(getattr(value, name, None)) for name in names}}
    if _constructor(type(value)):
        return {**kind, **_attributes(value, {}, inner)}

    text = repr(value)
    return kind if " at 0x" in text else {**kind, "value": text}


def _attributes(value: Any, given: Mapping[str, Any], inner: Callable[[Any], Any]) -> dict[str, Any]:
    """Constructor arguments of an object: its attributes of those names, else what was `given`.

    Where neither tells an argument, the numbers and texts that the object holds are taken in instead.
    """
    found: dict[str, Any] = {}
    is_whole = True
    for name in dict.fromkeys([*_constructor(type(value)), *given]):
        held = _held(value, name, given.get(name, ABSENT))
        if name in NOT_SETTINGS:
            continue
        if held is ABSENT:
            is_whole = False
        else:
            found[name] = inner(held)

    if not is_whole and not isinstance(value, Described):
        plain = (str, bool, int, float, type(None))
        rest = getattr(value, "__dict__", {}).items()
        found.update({name: _plain(held) for name, held in rest if isinstance(held, plain)})
    return found


def _held(value: Any, name: str, otherwise: Any) -> Any:
    """An object's attribute of this name or with an underscore before it; else `otherwise`."""
    for attribute in (name, f"_{name}"):
        try:
            held = getattr(value, attribute)
        except Exception:  # noqa: BLE001  # a property of the user's own may raise anything
            continue
        if not isinstance(held, types.MethodType):
            return held
    return otherwise


def _given(signature: inspect.Signature, *args: Any, **keywords: Any) -> dict[str, Any]:
    """The arguments of a call by name, with defaults; those of `**keywords` by their own names."""
    bound = signature.bind(*args, **keywords)
    bound.apply_defaults()
    found: dict[str, Any] = {}
    for name, value in list(bound.arguments.items())[1:]:
        is_table = signature.parameters[name].kind is inspect.Parameter.VAR_KEYWORD
        found.update(value if is_table else {name: value})
    return found


def _constructor(kind: type) -> list[str]:
    """Names of all constructor arguments; those of the bases too, where `**keywords` go on to them."""
    names: list[str] = []
    for base in kind.__mro__:
        init = vars(base).get("__init__")
        if not isinstance(init, types.FunctionType):
            continue
        parameters = list(inspect.signature(init).parameters.values())[1:]
        names += [p.name for p in parameters if p.kind is not p.VAR_KEYWORD]
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            break
    return names


def _plain(value: Any) -> Any:
    """A number, text or None as Python's own."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return repr(float(value))
    for kind in (bool, int, float, str):
        if isinstance(value, kind):
            return kind(value)
    return None if value is None else str(value)


def _digested(value: Any, *, whole: bool) -> dict[str, Any]:
    """A tensor, an array or bytes, by shape, dtype and digest."""
    if isinstance(value, nn.Parameter) and value.requires_grad and not whole:
        return {"type": "parameter", "shape": list(value.shape), "dtype": str(value.dtype)}
    if isinstance(value, Tensor):
        head = {"type": "tensor", "shape": list(value.shape), "dtype": str(value.dtype)}
        return head if value.is_meta else {**head, "sha256": hashlib.sha256(bytes_of(value)).hexdigest()}
    if isinstance(value, np.ndarray):
        head = {"type": "array", "shape": list(value.shape), "dtype": str(value.dtype)}
        data = (
            repr(value.tolist()).encode() if value.dtype.hasobject else np.ascontiguousarray(value).tobytes()
        )
        return {**head, "sha256": hashlib.sha256(data).hexdigest()}
    return {"type": "bytes", "length": len(value), "sha256": hashlib.sha256(value).hexdigest()}


def _of_callable(value: Any, depth: int, outer: tuple[int, ...], *, whole: bool) -> Any:
    """A class or function by its name; one that no import finds also by its code."""
    if isinstance(value, types.MethodType):
        return {"method": value.__name__, "of": _describe(value.__self__, depth - 1, outer, whole=whole)}
    name = _name(value)
    if not isinstance(value, types.FunctionType) or "<" not in value.__qualname__ or depth <= 0:
        return name
    held = [cell.cell_contents for cell in value.__closure__ or ()]
    inner = {"closure": held, "defaults": value.__defaults__, "keywords": value.__kwdefaults__}
    described = {key: _describe(part, depth - 1, outer, whole=whole) for key, part in inner.items() if part}
    return {"function": name, "sha256": hashlib.sha256(_code(value.__code__)).hexdigest(), **described}


def _code(code: types.CodeType) -> bytes:
    """What a code object does, without where it was written."""
    constants = [
        _code(part) if isinstance(part, types.CodeType) else _constant(part) for part in code.co_consts
    ]
    return repr((code.co_code, constants, code.co_names, code.co_varnames)).encode()


def _constant(value: Any) -> str:
    """A constant of a code object; the order of a set changes from process to process."""
    return f"{{{', '.join(sorted(map(repr, value)))}}}" if isinstance(value, frozenset) else repr(value)


def _name(kind: Any) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"
