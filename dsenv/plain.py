"""States as plain data: tensors, numbers and text in nested tables and lists; nothing in them executes.

`encoded` turns what parts say of themselves into such data, `decoded` turns it back. What JSON has no word
for (a tuple, a table with other keys than text, an array or number of NumPy, a float that is not finite, a
whole number above 2^53, a tensor on another device) becomes a table with the key `TAG`, so that the state can
be written as safetensors and JSON (`dsenv.files`) and comes back as it was, to the bit.
"""

import hashlib
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dsenv.errors import shown

TAG = "__dsenv__"
DEEPEST = 64
"""Levels of tables and lists that a state may have."""
KINDS = "biuf"  # of NumPy's arrays: flags, whole numbers, floating point
SMALL = 2**53  # whole numbers up to here are the same in every reader of JSON
BIT_GENERATORS = ("PCG64", "PCG64DXSM", "MT19937", "Philox", "SFC64")
ABSENT = "nothing"  # what stands in a difference for a key that is missing


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
        return _encoded_scalar(value)
    if isinstance(value, Tensor):
        return _encoded_tensor(value, where)
    if isinstance(value, np.ndarray | np.generic):
        return _encoded_array(value, where)
    if depth == 0:
        raise ValueError(f"{where} is nested more than {DEEPEST} levels deep; does it hold itself?")
    if isinstance(value, Mapping):
        return _encoded_table(value, where, depth)
    if type(value) in (list, tuple, torch.Size):
        values = [encoded(each, f"{where}[{number}]", depth - 1) for number, each in enumerate(value)]
        return values if type(value) is list else {TAG: "tuple", "values": values}
    raise ValueError(
        f"{where} is of {type(value).__module__}.{type(value).__qualname__}, and a state holds only tensors, "
        "arrays, numbers and text, in dicts, lists and tuples; give one of these in state_dict()"
    )


def _encoded_scalar(value: Any) -> Any:
    if type(value) is float and not math.isfinite(value):
        return {TAG: "float", "value": np.array(value, "<f8").tobytes().hex()}
    if type(value) is int and abs(value) > SMALL:
        return {TAG: "int", "value": hex(value)}
    return value


def _encoded_tensor(value: Tensor, where: str) -> Any:
    if value.layout != torch.strided or value.is_complex() or value.is_quantized or value.is_meta:
        raise ValueError(f"{where} is a tensor of {value.dtype}, {value.layout}; give a dense, real one")
    on_host = value.detach().to("cpu", copy=True).contiguous()
    return on_host if value.device.type == "cpu" else {TAG: "device", "value": on_host}


def _encoded_array(value: NDArray[Any] | np.generic, where: str) -> dict[str, Any]:
    """An array or number of NumPy as a tensor, with its byte order where that is not the machine's own."""
    array = np.asarray(value)
    kind = {TAG: "array" if isinstance(value, np.ndarray) else "number", "value": _from_numpy(array, where)}
    return kind if array.dtype.isnative else {**kind, "dtype": array.dtype.str}


def _encoded_table(value: Mapping[Any, Any], where: str, depth: int) -> dict[str, Any]:
    if all(type(key) is str for key in value) and TAG not in value:
        return {key: encoded(each, f"{where}.{key}", depth - 1) for key, each in value.items()}
    pairs = [
        [encoded(key, f"a key of {where}", depth - 1), encoded(each, f"{where}[{key!r}]", depth - 1)]
        for key, each in value.items()
    ]
    return {TAG: "table", "pairs": pairs}


def _from_numpy(value: NDArray[Any], where: str) -> Tensor:
    if value.dtype.kind not in KINDS or value.dtype.itemsize > 8:
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
                return _untagged(value, device, where, depth)
            except (TypeError, RuntimeError) as error:  # a key that is none, a tensor that is no array
                raise ValueError(f"{where} is not as it was saved: {error}") from error
        return {key: decoded(each, device, f"{where}.{key}", depth - 1) for key, each in value.items()}
    raise ValueError(f"{where} is of {type(value).__qualname__}, which no state of dsenv holds; is it one?")


def _untagged(value: dict[str, Any], device: torch.device, where: str, depth: int) -> Any:
    """What a tagged table stands for."""
    tag, inside = value[TAG], {key: each for key, each in value.items() if key != TAG}
    whole, values, pairs = (inside.get(name) for name in ("value", "values", "pairs"))
    if isinstance(whole, Tensor) and (tag == "array" or (tag == "number" and whole.ndim == 0)):
        return _decoded_array(whole, inside.get("dtype"), is_number=tag == "number")
    if tag == "device" and isinstance(whole, Tensor):
        return whole.to(device, copy=True)
    if tag == "tuple" and isinstance(values, list):
        return tuple(decoded(values, device, where, depth))
    if tag == "table" and isinstance(pairs, list) and all(type(p) is list and len(p) == 2 for p in pairs):
        return {
            decoded(key, device, f"a key of {where}", depth - 1): decoded(each, device, where, depth - 1)
            for key, each in pairs
        }
    if tag == "float" and isinstance(whole, str) and len(whole) == 16:
        return float(np.frombuffer(bytes.fromhex(whole), "<f8")[0])
    if tag == "int" and isinstance(whole, str):
        return int(whole, 16)
    raise ValueError(
        f"{where} has the tag {shown(tag)} with {sorted(inside)}, which this version does not know"
    )


def _decoded_array(value: Tensor, dtype: Any, *, is_number: bool) -> Any:
    array = value.detach().clone().numpy()
    if dtype is not None:
        array = array.astype(np.dtype(dtype), casting="equiv")  # another byte order alone
    return array[()] if is_number else array


def bytes_of(value: Tensor) -> Any:
    """The bytes of a tensor, whatever its dtype, layout and device."""
    value = value.detach()
    value = value if value.layout == torch.strided else value.to_dense()
    value = value.resolve_conj().resolve_neg().cpu().contiguous()
    return value.reshape(-1).view(torch.uint8).numpy().data if value.numel() else b""


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
        found.update(f"tensor {value.dtype} {tuple(value.shape)};".encode())
        found.update(bytes_of(value))
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
    """The first place where two pieces of plain data differ, with both values; None where they are equal.

    A list equals a tuple, and a whole number the float of its value; `ABSENT` stands for a missing key.
    """
    if isinstance(own, Mapping) and isinstance(other, Mapping):
        keys = [*own, *(key for key in other if key not in own)]
        pairs = ((f"{where}.{key}" if where else str(key), key) for key in keys)
        places = (differing(own.get(key, ABSENT), other.get(key, ABSENT), at) for at, key in pairs)
        return next(filter(None, places), None)
    if isinstance(own, list | tuple) and isinstance(other, list | tuple) and len(own) == len(other):
        both = enumerate(zip(own, other, strict=True))
        return next(filter(None, (differing(a, b, f"{where}[{place}]") for place, (a, b) in both)), None)

    is_tensor = isinstance(own, Tensor) or isinstance(other, Tensor)
    is_same = not is_tensor and isinstance(own, bool) == isinstance(other, bool)
    return None if is_same and own == other else (where, own, other)


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
