"""A GPU that is not there: code runs as on a GPU, numbers are computed on the CPU, and waits are found.

A tensor on the stand-in is a `Resident`: it says that it is on "cuda:0", so that code takes the branches
that it takes on a GPU, and keeps its numbers in a plain tensor. A `TorchDispatchMode` sees every operation,
computes it on the plain tensors and hands residents back. Residents and plain tensors differ, so copies
between devices show, and an operation on both is refused, as on a GPU. To torch's C++ code a resident is on
the device "meta", for which autograd, views and vmap need no driver.

While something is `watching`, `WaitError` is raised for what waits until a GPU's queue is empty: reading a
number, a result whose size depends on numbers, and a copy to the other side, unless it is from pinned memory
and does not block. Which operations these are is written down here, as torch's CUDA code has it; nothing is
measured.

With `true_gpu` the same code is watched on a GPU that is there: torch itself then refuses what waits.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import cache
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing

from dsenv.training import graphs

DEVICE = torch.device("cuda:0")
READS = {  # operations for which the host needs a number, or the size of what they return
    *("_local_scalar_dense", "equal", "allclose", "is_nonzero", "_assert_scalar", "item"),
    *("nonzero", "masked_select", "bincount", "histc", "unique_dim", "unique_consecutive", "isin"),
    *("_unique", "_unique2", "unique_dim_consecutive", "repeat_interleave"),
    *("multinomial", "_linalg_check_errors"),
}
INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index", "_unsafe_index_put"}
TAKES_BOTH = {*INDEXING, "copy_", "_to_copy"}  # operations on tensors of two devices
PINNED = "is_pinned_here"  # attribute of plain tensors

_watched: list[str] = []  # what is watched at present, by all threads
_on_true_gpu: list[torch.device] = []  # the GPU that is watched in place of the stand-in


class WaitError(RuntimeError):
    """A GPU would have been waited for."""


class Resident(Tensor):
    """A tensor on the stand-in."""

    host: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl
    device, is_cuda, is_meta = DEVICE, True, False  # type: ignore[assignment]  # hide those of the C++ code

    @staticmethod
    def __new__(cls, host: Tensor) -> "Resident":
        layout = {"strides": host.stride(), "storage_offset": host.storage_offset(), "dtype": host.dtype}
        made = torch.Tensor._make_wrapper_subclass(cls, host.shape, **layout, device="meta")
        made.host = host
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return compute(func, args, kwargs or {})

    def to(self, *args: Any, **kwargs: Any) -> Tensor:
        """Nothing is copied within the device."""
        device, dtype, non_blocking, layout = torch._C._nn._parse_to(*args, **kwargs)
        target = {} if device is None or device.type != "cpu" else {"device": device}
        kept = {} if layout is None else {"memory_format": layout}
        dtype = self.dtype if dtype is None else dtype
        copy = bool(kwargs.get("copy"))
        return super().to(dtype=dtype, non_blocking=non_blocking, copy=copy, **target, **kept)

    def __setitem__(self, index: Any, value: Any) -> None:
        # For CUDA torch makes a plain scalar of a number, for "meta" it would not.
        super().__setitem__(
            index, value if isinstance(value, Tensor) else torch.tensor(value, dtype=self.dtype)
        )

    def new_tensor(self, data: Any, *, dtype: torch.dtype | None = None) -> Tensor:
        return torch.tensor(data, dtype=dtype or self.dtype, device=DEVICE)

    def __format__(self, spec: str) -> str:
        return format(self.item(), spec) if self.dim() == 0 else repr(self)

    def __repr__(self, **_: Any) -> str:
        note_wait("repr")
        return f"Resident({self.host!r})"

    def tolist(self) -> Any:
        note_wait("tolist")
        return self.host.tolist()

    def numpy(self, **_: Any) -> Any:
        raise TypeError(f"can't convert {DEVICE} device type tensor to numpy; use Tensor.cpu() first")


class StandIn(TorchDispatchMode):
    """Sends every operation through `compute`."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # nothing is compiled here, and torch's guard takes longer than most operations

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return compute(func, args, kwargs or {})


class Stream(torch.Generator):
    """A CPU's generator that says it is on the stand-in, where it was asked for there."""

    def __new__(cls, device: torch.device | str = "cpu") -> "Stream":
        made = super().__new__(cls, "cpu")
        made.place = torch.device(device)
        return made

    @property
    def device(self) -> torch.device:
        return self.place


@cache
def _facts(func: Any) -> tuple[str, bool, bool]:
    """Name of an operation, whether it writes to what it returns, and whether it changes a tensor's shape."""
    returns = func._schema.returns
    writes = bool(returns) and all(one.alias_info is not None and one.alias_info.is_write for one in returns)
    return func._schema.name.removeprefix("aten::"), writes, torch.Tag.inplace_view in func.tags


def compute(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """Run an operation on plain tensors; its results are residents where a GPU's would be."""
    leaves: list[Tensor] = []
    inner_args = [_plain(value, leaves) for value in args]
    inner_kwargs = {key: _plain(value, leaves) for key, value in kwargs.items()}
    name, writes, reshapes = _facts(func)
    is_remote, wanted = any(isinstance(leaf, Resident) for leaf in leaves), kwargs.get("device")
    stays = is_remote
    if wanted is not None:
        stays = torch.device(wanted).type != "cpu"
        inner_kwargs["device"] = torch.device("cpu")
    if is_remote:
        check_devices(name, leaves)
    if reason := why_it_waits(name, args, kwargs, is_remote, stays):
        note_wait(f"{func}: {reason}")
    result = func(*inner_args, **inner_kwargs)
    if writes and is_remote and not reshapes:
        return _written(func, args, kwargs)
    if not stays:
        return result
    result = _resident(result)
    return return_and_correct_aliasing(func, args, kwargs, result) if reshapes else result


def _plain(value: Any, leaves: list[Tensor]) -> Any:
    """An argument as the CPU's operation takes it; its tensors are added to `leaves`."""
    if isinstance(value, Tensor):
        leaves.append(value)
        return value.host if isinstance(value, Resident) else value
    return [_plain(item, leaves) for item in value] if isinstance(value, list | tuple) else value


def _resident(result: Any) -> Any:
    if isinstance(result, Tensor):
        return Resident(result)
    return type(result)(map(_resident, result)) if isinstance(result, list | tuple) else result


def _written(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """The arguments that an operation wrote to, which it returns."""
    names = {argument.name: place for place, argument in enumerate(func._schema.arguments)}
    found = [
        kwargs[argument.name] if argument.name in kwargs else args[names[argument.name]]
        for argument in func._schema.arguments
        if argument.alias_info is not None and argument.alias_info.is_write
    ]
    return found[0] if len(func._schema.returns) == 1 else tuple(found)


def check_devices(name: str, leaves: Sequence[Tensor]) -> None:
    """Refuse an operation on tensors of two devices; plain scalars go with anything."""
    strange = [leaf for leaf in leaves if not isinstance(leaf, Resident) and leaf.dim()]
    if strange and name not in TAKES_BOTH:
        raise RuntimeError(f"expected all tensors to be on the same device: {name} got {DEVICE} and cpu")


def why_it_waits(
    name: str, args: Sequence[Any], kwargs: Mapping[str, Any], is_remote: bool, stays: bool
) -> str | None:
    """Why a GPU would be waited for, if it would."""
    if name in ("_to_copy", "copy_"):
        target, source = (stays, args[0]) if name == "_to_copy" else (isinstance(args[0], Resident), args[1])
        blocks = not (kwargs.get("non_blocking") or (name == "copy_" and len(args) > 2 and args[2]))
        return _copy_waits(source, target, blocks)
    if not is_remote:
        return None
    if name in READS:
        known = kwargs.get("output_size") is not None
        return None if known else "the host needs a number from the device"
    if name in INDEXING:
        return _index_waits(name, args)
    if name == "where" and any(not isinstance(value, Resident) for value in args):
        return "a scalar tensor is copied to the device"
    return None


def _copy_waits(source: Tensor, to_device: bool, blocks: bool) -> str | None:
    is_remote_source = isinstance(source, Resident)
    if is_remote_source == to_device or source.numel() == 0:
        return None
    if is_remote_source:
        return "a copy to the host"
    if not getattr(source, PINNED, False):
        return "a copy to the device from memory that is not pinned"
    return "a copy to the device that blocks" if blocks else None


def _index_waits(name: str, args: Sequence[Any]) -> str | None:
    given = [index for index in args[1] if index is not None]
    if any(not isinstance(index, Resident) for index in given):
        return "positions are copied to the device"
    if all(index.dtype not in (torch.bool, torch.uint8) for index in given):
        is_number = name != "index" and not isinstance(args[2], Resident)
        return "a scalar tensor is copied to the device" if is_number else None
    is_fill = name != "index" and args[2].numel() == 1 and not isinstance(args[2], Resident)
    return None if is_fill and len(given) == 1 else "the size of a masked part is a number on the device"


def note_wait(what: str) -> None:
    """Raise `WaitError` while something is watched."""
    if _watched:
        raise WaitError(f"{_watched[-1]} would wait for a GPU: {what}")


@contextmanager
def watching(what: str | None) -> Iterator[None]:
    """Let nothing in this block wait, `what` by name; None lets it wait, inside of a block that may not."""
    before = list(_watched)
    _watch([] if what is None else [*before, what])
    try:
        yield
    finally:
        _watch(before)


def _watch(names: Sequence[str]) -> None:
    """Watch for these; on a true GPU torch does."""
    _watched[:] = names
    if _on_true_gpu:
        torch.cuda.set_sync_debug_mode("error" if names else "default")


def within(function: Callable[..., Any], what: str | None) -> Callable[..., Any]:
    """The function, `watching` all of it."""

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        with watching(what):
            return function(*args, **kwargs)

    return wrapped


def _pinned(tensor: Tensor) -> Tensor:
    copied = tensor.clone()
    setattr(copied, PINNED, True)
    return copied


@contextmanager
def true_gpu() -> Iterator[torch.device]:
    """Work on the first GPU; while something is `watching`, torch raises RuntimeError for most that waits."""
    _on_true_gpu.append(DEVICE)
    try:
        yield DEVICE
    finally:
        _on_true_gpu.clear()
        torch.cuda.set_sync_debug_mode("default")


@contextmanager
def stand_in() -> Iterator[torch.device]:
    """Work with the stand-in as if it were a GPU."""
    make = torch.tensor

    def tensor(data: Any, *, pin_memory: bool = False, **kwargs: Any) -> Tensor:
        return _pinned(make(data, **kwargs)) if pin_memory else make(data, **kwargs)

    if torch.cuda.is_available():
        torch.cuda.init()  # later tests may need the true one
    overwrites = torch.__future__.get_overwrite_module_params_on_conversion()
    lifts = torch._C._only_lift_cpu_tensors()
    with ExitStack() as stack:
        for owner, name, new in (
            (torch.cuda, "_lazy_init", lambda: None),
            (torch.cuda, "default_generators", (Stream(DEVICE),)),
            (torch.cuda, "current_device", lambda: 0),
            (torch, "Generator", Stream),
            (torch, "tensor", tensor),
            (Tensor, "pin_memory", _pinned),
            (graphs, "EAGER_STEPS", float("inf")),  # nothing can be captured
        ):
            stack.enter_context(patch.object(owner, name, new))
        stack.callback(torch.__future__.set_overwrite_module_params_on_conversion, overwrites)
        torch.__future__.set_overwrite_module_params_on_conversion(True)
        stack.callback(torch._C._set_only_lift_cpu_tensors, lifts)
        torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor(data, device=...) shows its copy
        stack.enter_context(StandIn())
        yield DEVICE
