"""What a module says beside its shapes: what is tied or hooked, its buffers, and what its forward changes."""

import random
import types
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dsenv.describe import describe
from dsenv.plain import generator_state
from dsenv.tasks.narrow import narrow_parameters
from dsenv.tasks.task import Task, seeded_model

HOOKS = (
    "_forward_hooks",
    "_forward_pre_hooks",
    "_backward_hooks",
    "_backward_pre_hooks",
)
PARAMETER_HOOKS = ("_backward_hooks", "_post_accumulate_grad_hooks")
CONTAINERS = (list, tuple, dict, set, deque)
FIXED = (int, float, complex, str, bytes, type(None), type, torch.dtype, types.BuiltinFunctionType)
"""Types whose values never change."""
OF_MODULE = frozenset(vars(nn.Module()))  # attributes of torch's own
OTHER_STREAMS: tuple[tuple[str, Callable[[], Any], Callable[[Any], None]], ...] = (
    ("numpy.random", lambda: np.random.get_state(legacy=False), np.random.set_state),  # noqa: NPY002
    ("random", random.getstate, random.setstate),
)
"""Global streams beside torch's: name, how to read the state, how to set it."""


@dataclass(frozen=True)
class ForwardFacts:
    """What one forward pass in training mode showed of a model."""

    changes_input: bool
    """It writes into its inputs."""
    draws: bool
    """It draws from torch's global stream."""
    draws_elsewhere: str
    """Another global stream that it draws from, by its name in Python; empty where there is none."""
    changes: tuple[str, ...]
    """Buffers and attributes, by name, that it changes."""
    forgets: tuple[str, ...]
    """Those of them that `state_dict` and buffers do not hold."""


def fresh_model(task: Task, seed: int, width: float = 1.0) -> nn.Module:
    """A model with initial parameters from `seed`, of a share `width` of the hidden units; on the CPU."""
    model = seeded_model(task.model, seed)
    if width != 1:
        model.load_state_dict(narrow_parameters(task, seed, width, model))
    return model


def is_hooked(model: nn.Module) -> bool:
    """Whether a module or parameter has hooks, which only the module alone is sure to call."""
    modules = any(getattr(part, name, None) for part in model.modules() for name in HOOKS)
    return modules or has_parameter_hooks(model)


def has_parameter_hooks(model: nn.Module) -> bool:
    """Whether a parameter has hooks, which no copy of it has."""
    return any(getattr(value, name, None) for value in model.parameters() for name in PARAMETER_HOOKS)


def can_be_copied(model: nn.Module) -> bool:
    """Whether `copy.deepcopy` gives a model of its own, which shares nothing and lacks nothing."""
    if has_parameter_hooks(model):
        return False
    for part in model.modules():
        if isinstance(part, torch.jit.ScriptModule):
            return False
        hooks = [hook for name in HOOKS for hook in getattr(part, name, {}).values()]
        held = vars(part).values()
        if any(_holds_outside(value) for value in (*hooks, *held)):
            return False
        if any(isinstance(value, Tensor) and not value.is_leaf for value in held):  # torch does not copy it
            return False
    return True


def _holds_outside(value: Any) -> bool:
    """Whether a function holds objects from outside, the module itself may be, which its copy holds too."""
    if isinstance(value, partial):
        return any(_holds_outside(part) for part in (value.func, *value.args, *value.keywords.values()))
    if not isinstance(value, types.FunctionType):
        return False
    held = [cell.cell_contents for cell in value.__closure__ or ()]
    held += [*(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).values()]
    return not all(isinstance(part, FIXED) for part in held)


def is_tied(model: nn.Module) -> bool:
    """Whether a parameter stands in more than one place."""
    return len(list(model.named_parameters(remove_duplicate=False))) > len(list(model.parameters()))


def hidden_buffers(model: nn.Module) -> dict[str, Tensor]:
    """Buffers that `state_dict` leaves out (`persistent=False`), by name."""
    kept = model.state_dict()
    return {name: value for name, value in model.named_buffers() if name not in kept}


def load_model(model: nn.Module, state: Mapping[str, Any], hidden: Mapping[str, Tensor]) -> None:
    """Load a `state_dict` and `hidden_buffers`.

    Raises:
        ValueError: they are of another model.
    """
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(f"the state is of another model: {error}") from error
    own = hidden_buffers(model)
    if own.keys() != hidden.keys():
        raise ValueError(f"the state has the buffers {sorted(hidden)}, this model has {sorted(own)}")
    with torch.no_grad():
        for name, buffer in own.items():
            buffer.copy_(hidden[name])


def observe_forward(model: nn.Module, samples: Tensor) -> tuple[Any, ForwardFacts]:
    """Outputs of one forward pass in training mode, and what it showed; the model may be changed by it.

    The global streams of torch, NumPy and Python are left as they were.
    """
    stream = _streams(samples.device)[-1]
    before, version = stream.get_state(), samples._version
    others = {name: (read(), put) for name, read, put in OTHER_STREAMS}
    kept = {name for name, _ in model.named_buffers()} | set(model.state_dict())
    was = dict(_attributes(model))
    try:
        with torch.no_grad():
            outputs = model.train()(samples)
        draws = not torch.equal(stream.get_state(), before)
        drawn = [name for name, read, _ in OTHER_STREAMS if not _equal(read(), others[name][0])]
    finally:
        stream.set_state(before)
        for state, put in others.values():
            put(state)

    now = dict(_attributes(model))
    changes = tuple(name for name, value in was.items() if not _equal(value, now.get(name)))
    forgets = tuple(name for name in changes if name not in kept)
    elsewhere = drawn[0] if drawn else ""
    return outputs, ForwardFacts(samples._version != version, draws, elsewhere, changes, forgets)


@contextmanager
def streams_kept(device: torch.device) -> Iterator[None]:
    """Leave torch's global streams, of the CPU and of the device, as they were."""
    before = [(stream, stream.get_state()) for stream in _streams(device)]
    try:
        yield
    finally:
        for stream, state in before:
            stream.set_state(state)


def _streams(device: torch.device) -> list[torch.Generator]:
    """The global streams of torch, that of the device last."""
    if device.type != "cuda":
        return [torch.default_generator]
    index = torch.cuda.current_device() if device.index is None else device.index
    return [torch.default_generator, torch.cuda.default_generators[index]]


def _attributes(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """What a forward may change, by name: buffers, and numbers, tensors, generators, lists and tables."""
    for name, buffer in model.named_buffers():
        yield name, buffer.detach().clone()
    for prefix, part in model.named_modules():
        for key, value in vars(part).items():
            name = f"{prefix}.{key}" if prefix else key
            if isinstance(value, Tensor):
                yield name, value.detach().clone()
            elif isinstance(value, torch.Generator):
                yield name, value.get_state()
            elif isinstance(value, np.random.Generator):
                yield name, generator_state(value)
            elif isinstance(value, random.Random):
                yield name, value.getstate()
            elif isinstance(value, CONTAINERS) and key not in OF_MODULE:
                yield name, describe(value)
            elif isinstance(value, int | float | str) and key != "training":
                yield name, value


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one.shape == other.shape and bool(((one == other) | ((one != one) & (other != other))).all())
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(_equal(one[key], other[key]) for key in one)
    if isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
        return np.array_equal(one, other)
    return type(one) is type(other) and bool(one == other)
