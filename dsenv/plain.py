"""States as plain data: tensors, numbers and text in nested tables and lists; nothing in them executes.

`encoded` turns what parts say of themselves into such data, `decoded` turns it back. What plain data has no
word for (a tuple, a table with other keys than text, an array or number of NumPy, a tensor on another device)
becomes a table with the key `TAG`, so that the state can be written as safetensors and JSON and comes back as
it was.
"""

import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dsenv.errors import shown

TAG = "__dsenv__"
DEEPEST = 64
"""Levels of tables and lists that a state may have."""
BIT_GENERATORS = ("PCG64", "PCG64DXSM", "MT19937", "Philox", "SFC64")


def encoded(value: Any, where: str = "state", depth: int = DEEPEST) -> Any:
    """A copy of `value` as plain data; later changes of `value` do not reach it.

    Args:
        value: None, text, bool, int, float, tensors, NumPy arrays and numbers (bool, integer, float), and
            dicts, lists and tuples of these.
        where: what the value is, for the message.
        depth: levels that are left.

    Raises:
        ValueError: something in it is of another type, or is nested too deeply.
    """
    if value is None or type(value) in (str, bool, int, float):
        return value
    if depth == 0:
        raise ValueError(f"{where} is nested more than {DEEPEST} levels deep; does it hold itself?")
    if isinstance(value, Tensor):
        return _encoded_tensor(value, where)
    if isinstance(value, np.ndarray | np.generic):
        kind = "array" if isinstance(value, np.ndarray) else "number"
        return {TAG: kind, "value": _from_numpy(np.asarray(value), where)}
    if isinstance(value, Mapping):
        return _encoded_table(value, where, depth)
    if type(value) in (list, tuple, torch.Size):
        values = [encoded(each, f"{where}[{number}]", depth - 1) for number, each in enumerate(value)]
        return values if type(value) is list else {TAG: "tuple", "values": values}
    raise ValueError(
        f"{where} is of {type(value).__module__}.{type(value).__qualname__}, and a state holds only tensors, "
        "arrays, numbers and text, in dicts, lists and tuples; give one of these in state_dict()"
    )


def _encoded_tensor(value: Tensor, where: str) -> Any:
    if value.layout != torch.strided or value.is_complex() or value.is_quantized or value.is_meta:
        raise ValueError(f"{where} is a tensor of {value.dtype}, {value.layout}; give a dense, real one")
    on_host = value.detach().to("cpu", copy=True).contiguous()
    return on_host if value.device.type == "cpu" else {TAG: "device", "value": on_host}


def _encoded_table(value: Mapping[Any, Any], where: str, depth: int) -> dict[str, Any]:
    if all(type(key) is str for key in value) and TAG not in value:
        return {key: encoded(each, f"{where}.{key}", depth - 1) for key, each in value.items()}
    pairs = [
        [encoded(key, f"a key of {where}", depth - 1), encoded(each, f"{where}[{key!r}]", depth - 1)]
        for key, each in value.items()
    ]
    return {TAG: "table", "pairs": pairs}


def _from_numpy(value: NDArray[Any], where: str) -> Tensor:
    if value.dtype.kind not in "biuf" or value.dtype.itemsize > 8:
        raise ValueError(f"{where} is an array of {value.dtype}; give one of bool, integers or floats")
    native = np.array(value, dtype=value.dtype.newbyteorder("="), order="C")
    return torch.from_numpy(native)


def decoded(value: Any, device: torch.device, where: str = "state", depth: int = DEEPEST) -> Any:
    """What `encoded` was given; tensors that were on another device than the CPU are put on `device`.

    Raises:
        ValueError: it is no plain data, or a tag is unknown.
    """
    if value is None or type(value) in (str, bool, int, float):
        return value
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, np.ndarray):
        return _from_numpy(value, where)
    if depth == 0:
        raise ValueError(f"{where} is nested more than {DEEPEST} levels deep")
    if type(value) is list:
        return [decoded(each, device, f"{where}[{place}]", depth - 1) for place, each in enumerate(value)]
    if type(value) is dict and all(type(key) is str for key in value):
        if TAG in value:
            try:
                return _untagged(value, device, where, depth - 1)
            except (TypeError, RuntimeError) as error:  # a key that is none, a tensor that is no array
                raise ValueError(f"{where} is not as it was saved: {error}") from error
        return {key: decoded(each, device, f"{where}.{key}", depth - 1) for key, each in value.items()}
    raise ValueError(f"{where} is of {type(value).__qualname__}, which no state of dsenv holds; is it one?")


def _untagged(value: dict[str, Any], device: torch.device, where: str, depth: int) -> Any:
    """What a tagged table stands for."""
    tag, inside = value[TAG], {key: each for key, each in value.items() if key != TAG}
    found = decoded(inside, device, where, depth)
    whole, values, pairs = (found.get(name) for name in ("value", "values", "pairs"))
    if tag == "array" and isinstance(whole, Tensor):
        return whole.numpy()
    if tag == "number" and isinstance(whole, Tensor) and whole.ndim == 0:
        return whole.numpy()[()]
    if tag == "device" and isinstance(whole, Tensor):
        return whole.to(device)
    if tag == "tuple" and isinstance(values, list):
        return tuple(values)
    if tag == "table" and isinstance(pairs, list) and all(type(p) is list and len(p) == 2 for p in pairs):
        return {key: each for key, each in pairs}
    raise ValueError(
        f"{where} has the tag {shown(tag)} with {sorted(inside)}, which this version does not know"
    )


def digest(value: Any) -> str:
    """SHA-256 of plain data, as hexadecimal text: equal for equal data, in any order of its keys."""
    found = hashlib.sha256()
    _feed(found, value)
    return found.hexdigest()


def _feed(found: Any, value: Any) -> None:
    """Hash a value behind its type and length, so that no two values look alike."""
    if isinstance(value, np.ndarray):
        value = torch.from_numpy(value)
    if isinstance(value, Tensor):
        flat = value.detach().cpu().contiguous().reshape(-1)
        found.update(f"tensor {value.dtype} {tuple(value.shape)};".encode())
        found.update(flat.view(torch.uint8).numpy().data if flat.numel() else b"")
    elif isinstance(value, dict):
        found.update(f"table {len(value)};".encode())
        for key in sorted(value):
            _feed(found, key)
            _feed(found, value[key])
    elif isinstance(value, list):
        found.update(f"list {len(value)};".encode())
        for each in value:
            _feed(found, each)
    else:
        same = "nan" if isinstance(value, float) and math.isnan(value) else repr(value)
        text = f"{type(value).__name__} {same}".encode()
        found.update(f"{len(text)};".encode() + text)


def differing(own: Any, other: Any, where: str = "") -> tuple[str, Any, Any] | None:
    """The first place where two pieces of plain data differ, with both values; None where they are equal."""
    if isinstance(own, dict) and isinstance(other, dict):
        for key in [*own, *(key for key in other if key not in own)]:
            found = differing(own.get(key), other.get(key), f"{where}.{key}" if where else str(key))
            if found is not None:
                return found
        return None
    if isinstance(own, list) and isinstance(other, list) and len(own) == len(other):
        pairs = enumerate(zip(own, other, strict=True))
        places = (differing(one, two, f"{where}[{number}]") for number, (one, two) in pairs)
        return next((found for found in places if found is not None), None)
    is_same = type(own) is type(other) or (isinstance(own, int | float) and isinstance(other, int | float))
    is_tensor = isinstance(own, Tensor) or isinstance(other, Tensor)  # plain data are told by digests
    return None if is_same and not is_tensor and own == other else (where, own, other)


def fitted(name: str, value: Any, like: Tensor) -> Tensor:
    """A tensor of a state on the device of `like`, of its shape and type.

    Raises:
        ValueError: it is no such tensor.
    """
    if not isinstance(value, Tensor) or value.shape != like.shape or value.dtype != like.dtype:
        raise ValueError(f"{name} of the state is {_form(value)}, and this environment needs {_form(like)}")
    return value.to(like.device)


def fitted_array(name: str, value: Any, like: NDArray[Any]) -> NDArray[Any]:
    """As `fitted`, for an array of NumPy."""
    if not isinstance(value, np.ndarray) or value.shape != like.shape or value.dtype != like.dtype:
        raise ValueError(f"{name} of the state is {_form(value)}, and this environment needs {_form(like)}")
    return value


def listed(name: str, value: Any, count: int) -> Sequence[Any]:
    """A list of a state, of `count` entries.

    Raises:
        ValueError: it is none.
    """
    if not isinstance(value, list) or len(value) != count:
        got = f"{len(value)} of them" if isinstance(value, list) else type(value).__name__
        raise ValueError(f"{name} of the state must be a list of {count}, got {got}")
    return value


def _form(value: Any) -> str:
    if isinstance(value, Tensor | np.ndarray):
        return f"{value.dtype} {tuple(value.shape)}"
    return f"a {type(value).__name__}"


def generator_state(generator: np.random.Generator | None) -> Any:
    """State of a generator of NumPy; None for none."""
    return None if generator is None else dict(generator.bit_generator.state)


def make_generator(state: Any) -> np.random.Generator | None:
    """The generator of NumPy with this state; None for none.

    Raises:
        ValueError: it is no state of a bit generator of NumPy.
    """
    if state is None:
        return None
    name = state.get("bit_generator") if isinstance(state, Mapping) else None
    if name not in BIT_GENERATORS:
        raise ValueError(f"a generator of the state is {shown(name)}; known are {', '.join(BIT_GENERATORS)}")
    generator = np.random.Generator(getattr(np.random, name)())
    generator.bit_generator.state = state
    return generator
