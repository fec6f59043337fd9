"""Narrower models inside the parameters of a full one, so that training runs of several widths stack.

A hidden unit whose incoming and outgoing weights are zero gives nothing and gets no gradient, where its
activation maps 0 to 0 and no normalisation mixes units. Filled up with such units, a narrow model has the
shapes of the full one and trains exactly as it would alone.
"""

import inspect
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from dsenv.tasks.task import Task, seeded_model

EXACT = (
    nn.Linear,
    nn.Conv2d,
    nn.Flatten,
    nn.Identity,
    nn.ReLU,
    nn.GELU,
    nn.SiLU,
    nn.ELU,
    nn.LeakyReLU,
    nn.Tanh,
    nn.MaxPool2d,
    nn.AvgPool2d,
    nn.AdaptiveAvgPool2d,
    nn.AdaptiveMaxPool2d,
)
"""Layers through which a unit of zeros stays one."""


def narrow_parameters(
    task: Task, seed: int, width: float, full: nn.Module | None = None
) -> dict[str, Tensor]:
    """Initial parameters of a narrow model, filled up with zeros to the shapes of the full one.

    Args:
        task: its model factory takes `width_factor`.
        seed: decides the parameters of the narrow model, as if it were alone.
        width: share of the hidden units, (0, 1].
        full: the full model, where it is built already.

    Returns:
        By their names in the model.

    Raises:
        ValueError: the factory takes no `width_factor`, or the model does not stay narrow.
    """
    full = seeded_model(task.model, seed) if full is None else full
    if width == 1:
        return full.state_dict()

    if "width_factor" not in inspect.signature(task.model).parameters:
        raise ValueError(
            f"context width = {width:g}: the model factory {_name(task.model)} takes no width_factor; "
            "give it this keyword, the share of the hidden units to build, or leave context.width out"
        )

    try:
        narrow = seeded_model(lambda: task.model(width_factor=width), seed)
    except ValueError as error:
        raise ValueError(f"context width = {width:g}: {error}") from error

    _check_layers(narrow)
    return _padded(narrow.state_dict(), full.state_dict())


def _name(factory: object) -> str:
    return repr(getattr(factory, "__qualname__", factory))


def _check_layers(model: nn.Module) -> None:
    bad = {
        type(layer).__name__
        for layer in model.modules()
        if not list(layer.children())
        and (not isinstance(layer, EXACT) or (isinstance(layer, nn.Conv2d) and layer.groups != 1))
    }

    if bad:
        raise ValueError(
            f"context width does not fit a model with {', '.join(sorted(bad))}: its extra units would not "
            "stay zero. Use a model without normalisation and dropout (small_cnn: norm = 'none'), or leave "
            "context.width out"
        )


def _padded(narrow: Mapping[str, Tensor], full: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Parameters with zeros behind the last unit of every dimension."""
    if narrow.keys() != full.keys():
        raise ValueError("context width: with width_factor the model has other parameters, not narrower ones")

    padded = {}
    for name, value in full.items():
        own = narrow[name]
        if own.ndim != value.ndim or any(a > b for a, b in zip(own.shape, value.shape, strict=True)):
            raise ValueError(
                f"context width: {name} has shape {tuple(own.shape)} in the narrow model and "
                f"{tuple(value.shape)} in the full one; a narrow model must fit into the full one"
            )
        padded[name] = torch.zeros_like(value)
        padded[name][tuple(slice(length) for length in own.shape)] = own

    return padded
