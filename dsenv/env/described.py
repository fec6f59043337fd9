"""Settings and parts as names, numbers and text, so that two of them can be compared."""

import random
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dsenv.plain import digest, generator_state
from dsenv.tasks.dataset import Dataset
from dsenv.tasks.task import Task


def described(setting: Any, depth: int = 4) -> Any:
    """A setting as names, numbers and text, equal for equal settings.

    A setting may be an object or a class, of which every environment may hold one of its own: an object is
    described by its type and its attributes, a class or function by its name, a tensor by the digest of its
    values, a generator by where it stands.

    Args:
        setting: what to describe.
        depth: levels of attributes, tables and lists that are gone into.
    """
    if setting is None or isinstance(setting, str | bool | int | float):
        return setting
    if isinstance(setting, np.generic) and setting.dtype.kind in "biuf":
        return setting.item()
    if isinstance(setting, Tensor | np.ndarray):
        return _of_values(setting)
    if isinstance(setting, Mapping):
        return {str(key): described(value, depth - 1) for key, value in setting.items()} if depth else "{...}"
    if isinstance(setting, list | tuple):
        return [described(value, depth - 1) for value in setting] if depth else "[...]"
    if isinstance(setting, set | frozenset):
        return sorted(repr(described(value, depth - 1)) for value in setting) if depth else "{...}"
    return _of_object(setting, depth)


def _of_values(values: Any) -> str:
    form = f"{type(values).__name__} {tuple(values.shape)} {values.dtype}"
    if isinstance(values, np.ndarray):
        if values.dtype.kind not in "biuf":
            return f"{form}: {values.tolist()}"
        values = torch.from_numpy(np.array(values, order="C"))
    return f"{form}: {digest(values.detach())[:16]}"


def _of_object(setting: Any, depth: int) -> str:
    kind = setting if hasattr(setting, "__qualname__") else type(setting)
    name = f"{kind.__module__}.{kind.__qualname__}"
    if kind is setting or not depth:
        return name
    inside = ", ".join(f"{key}={described(value, depth - 1)!r}" for key, value in _attributes(setting))
    return f"{name}({inside})"


def _attributes(setting: Any) -> Iterator[tuple[str, Any]]:
    """What an object holds, by name, in a fixed order."""
    if isinstance(setting, partial):
        yield from (("func", setting.func), ("args", setting.args), ("keywords", setting.keywords))
    elif isinstance(setting, torch.Generator):
        yield "state", setting.get_state()
    elif isinstance(setting, np.random.Generator):
        yield "state", generator_state(setting)
    elif isinstance(setting, random.Random):
        yield "state", digest([repr(setting.getstate())])
    elif isinstance(setting, Dataset):
        yield from (("name", setting.name), ("samples", len(setting.train)), ("classes", setting.classes))
    else:
        slots = [name for kind in type(setting).__mro__ for name in getattr(kind, "__slots__", ())]
        own = {name: getattr(setting, name) for name in slots if hasattr(setting, name)}
        yield from sorted((own | getattr(setting, "__dict__", {})).items())


def described_task(task: Task, models: Mapping[str, Tensor]) -> dict[str, Any]:
    """What is trained and how, without the data.

    Args:
        task: its recipe, loss and model factory are described.
        models: parameters and buffers of one model, by name.
    """
    loss = task.loss
    return {
        "recipe": described(vars(task.recipe)),
        "loss": loss.__class__.__qualname__ if isinstance(loss, nn.Module) else described(loss),
        "model": described(task.model),
        "parameters": {name: f"{value.dtype} {tuple(value.shape)}" for name, value in models.items()},
    }


SHOWN_SAMPLES = 512


def described_data(dataset: Dataset) -> dict[str, Any]:
    """Fingerprint of training and validation split: length, digest of all labels and of some samples."""
    found: dict[str, Any] = {"name": dataset.name, "classes": dataset.classes}
    for name, split in (("train", dataset.train), ("validation", dataset.validation)):
        step = max(1, len(split) // SHOWN_SAMPLES)
        found[name] = {
            "samples": len(split),
            "shape": list(split.images.shape[1:]),
            "labels": digest(split.labels),
            "inputs": digest(split.images[::step]),
        }
    return found
