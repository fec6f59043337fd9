"""Forward passes: a model with its features, and scoring passes over data without training."""

import functools
import types
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook

from dsenv import kernels
from dsenv.augment.influence import evaluation_mode
from dsenv.errors import shown
from dsenv.outputs import ModelOutputs
from dsenv.plan import checks, values
from dsenv.plan.collate import read_by_name
from dsenv.task_kinds.base import TaskKind, checked_readings

ForwardFunction = Callable[[Any], Any]
"""Maps inputs to logits (B, C), or to (logits, features (B, D))."""
SampleLoss = Callable[[Tensor, Tensor], Tensor]
"""Maps logits (B, C) and labels (B,) to a loss for each sample (B,)."""


def outputs(forward: ForwardFunction, inputs: Any) -> tuple[Tensor, Tensor | None]:
    """Logits (B, C) and, where the function gives them, features (B, D), without a graph.

    Raises:
        ValueError: it is no function, or gives neither.
    """
    if not callable(forward):
        raise ValueError(f"forward must be a model or a function of the inputs, got {shown(forward)}")
    with torch.no_grad():
        found = forward(inputs)

    if isinstance(found, Tensor):
        return found, None
    if isinstance(found, tuple) and len(found) == 2 and all(isinstance(value, Tensor) for value in found):
        return found[0], found[1]
    raise ValueError(
        f"forward must give logits, or a pair (logits, features), got {type(found).__name__}; wrap the "
        "model, for example lambda x: model(x).logits"
    )


@contextmanager
def evaluating(forward: ForwardFunction) -> Iterator[None]:
    """Put every model that a function calls into evaluation mode, and each module back into its own after.

    A module, or the model of a `FeatureForward`, is known; the models behind any other function are met when
    they are called.
    """
    known = _models_of(forward)
    with ExitStack() as stack:
        for model in known:
            stack.enter_context(evaluation_mode(model))

        def meet(module: nn.Module, _arguments: Any) -> None:
            if module.training:
                stack.enter_context(evaluation_mode(module))

        # A hook makes torch compile a model anew, so there is none where the model is known
        if not any(model is forward or model is getattr(forward, "model", None) for model in known):
            stack.callback(register_module_forward_pre_hook(meet).remove)
        yield


def _models_of(function: Any, depth: int = 3) -> list[nn.Module]:
    """Models that a function holds: itself, what it is bound to, and what it reads by name."""
    if isinstance(function, nn.Module):
        return [function]
    if depth == 0 or isinstance(function, type | types.ModuleType):
        return []

    bound = [getattr(function, name, None) for name in ("__self__", "__wrapped__")]
    held = [*bound, *read_by_name(function)]
    if isinstance(function, functools.partial):
        held += [function.func, *function.args, *function.keywords.values()]
    if not isinstance(function, types.FunctionType):
        held += getattr(function, "__dict__", {}).values()
    return [model for part in held for model in _models_of(part, depth - 1)]


def full_pass(
    forward: ForwardFunction,
    batches: Iterable[tuple[Tensor, Any, Tensor]],
    size: int,
    sample_loss: SampleLoss | None = None,
    classes: int | None = None,
    of: Tensor | None = None,
    kind: TaskKind | None = None,
) -> ModelOutputs:
    """Run a model over a split, in evaluation mode.

    Args:
        forward: an `nn.Module`, a `FeatureForward`, or any function of the inputs.
        batches: (positions, inputs, labels) that cover the split, in any order, on the model's device.
        size: N, samples of the split.
        sample_loss: per-sample loss; None for that of the kind of task, cross-entropy for classification.
        classes: C, where known.
        of: (N,) positions of the split's samples in the data, for messages; None for 0..N-1.
        kind: of the task; None for classification.

    Returns:
        The outputs in the order of the split. What is not finite is replaced by the mean of what is, and
        said in a warning.

    Raises:
        ValueError: samples are missing, outputs have another shape, or a label is no class.
    """
    return values.finite_pass(joined_pass(forward, batches, size, sample_loss, classes, kind), of)


def joined_pass(
    forward: ForwardFunction,
    batches: Iterable[tuple[Tensor, Any, Tensor]],
    size: int,
    sample_loss: SampleLoss | None = None,
    classes: int | None = None,
    kind: TaskKind | None = None,
) -> ModelOutputs:
    """The outputs of a pass in the order of the split, as they are; all else as for `full_pass`."""
    columns = _Columns(size)
    with evaluating(forward):
        for index, inputs, given in batches:
            found, features = outputs(forward, inputs)
            targets = given.to(found.device)
            if kind is not None and kind.classes is None:
                columns.put(read(kind, index, found, features, targets, sample_loss))
            else:
                columns.put(_classified(index, found, features, targets, sample_loss, classes))
    return columns.outputs()


def _classified(
    index: Tensor,
    logits: Tensor,
    features: Tensor | None,
    labels: Tensor,
    sample_loss: SampleLoss | None,
    classes: int | None,
) -> ModelOutputs:
    """What a pass says of a batch for classification."""
    checks.check_pass(index, logits, features, classes)
    if sample_loss is None and logits.dim() == 2:
        checks.check_labels(labels.cpu(), index.cpu(), logits.shape[1])
    losses = (sample_loss or _cross_entropy)(logits.float(), labels)
    checks.check_losses(losses, len(index), logits.device)
    return ModelOutputs(index.to(logits.device), labels, losses, logits, features)


def read(
    kind: TaskKind,
    index: Tensor,
    found: Tensor,
    features: Tensor | None,
    targets: Tensor,
    sample_loss: SampleLoss | None = None,
) -> ModelOutputs:
    """What a pass says of a batch of another kind of task than classification: losses and readings."""
    kind.check_outputs(found, targets)
    checks.check_pass(index, found, features, None)
    with torch.no_grad():
        losses = (sample_loss or kind.sample_loss)(found.float(), targets)
        checks.check_losses(losses, len(index), found.device)
        readings = checked_readings(kind, kind.read(found, targets, losses), len(index))
    index = index.to(found.device)
    return ModelOutputs(index, torch.full_like(index, -1), losses, None, features, readings)


class _Columns:
    """The outputs of batches, each at its position in the split: they are held once.

    Args:
        size: N, samples of the split.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._positions: list[Tensor] = []
        self._columns: dict[str, Tensor] = {}
        self._readings: dict[str, Tensor] = {}

    def put(self, batch: ModelOutputs) -> None:
        """Take in the outputs of a batch."""
        self._positions.append(batch.index)
        for name in ("labels", "loss", "logits", "features"):
            self._write(self._columns, name, batch.index, getattr(batch, name))
        for name, found in (batch.readings or {}).items():
            self._write(self._readings, name, batch.index, found)

    def _write(self, columns: dict[str, Tensor], name: str, index: Tensor, found: Tensor | None) -> None:
        if found is None:
            return
        if name not in columns:
            columns[name] = found.new_empty((self.size, *found.shape[1:]))
        column = columns[name]
        if found.shape[1:] != column.shape[1:]:
            raise ValueError(
                f"the {name} of a pass over the data had shape {tuple(column.shape[1:])} for a sample, "
                f"and now {tuple(found.shape[1:])}; give one shape for all batches"
            )
        column[index] = found

    def outputs(self) -> ModelOutputs:
        """All outputs in the order of the split; errors as of `_check_once`."""
        positions = torch.cat(self._positions)
        _check_once(positions, self.size)
        columns: dict[str, Any] = {"logits": None, "features": None, **self._columns}
        readings = self._readings or None
        return ModelOutputs(torch.arange(self.size, device=positions.device), **columns, readings=readings)


def _check_once(index: Tensor, size: int) -> None:
    """The positions of a pass must be those of the samples 0..N-1, in any order.

    Raises:
        ValueError: one is missing or there twice.
    """
    met = torch.bincount(index, minlength=size)
    wrong = (met != 1).nonzero().flatten()
    if len(wrong):
        first = int(wrong[0])
        raise ValueError(
            f"a pass over the data must see each of its {size} samples once; sample {first} came "
            f"{int(met[first])} times, {len(wrong)} such in all: the collate function leaves samples out or "
            "repeats them; take broken samples out of the data set"
        )


def _cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    if labels.dtype != torch.int64 or labels.dim() != 1 or logits.dim() != 2:
        raise ValueError(
            f"a pass over the data needs int64 class labels, one a sample, got {labels.dtype} of shape "
            f"{tuple(labels.shape)}; convert them in the data, for example labels.long(), or give sample_loss"
        )
    return kernels.cross_entropy(logits, labels)


class FeatureForward:
    """Calls a model and gives (logits, features), where features are what its head was given.

    The model is left as it is: a hook is on the head only during the call.

    Args:
        model: gives logits (B, C).
        head: its last linear layer, a module within it.

    Raises:
        ValueError: the head is not part of the model.
    """

    def __init__(self, model: nn.Module, head: nn.Module) -> None:
        if not any(module is head for module in model.modules()):
            raise ValueError(f"head {head} is not a module of the model; pass for example model.fc")
        self.model, self.head = model, head

    def __call__(self, inputs: Any) -> tuple[Tensor, Tensor]:
        """Logits (B, C) and features (B, D)."""
        caught: list[Tensor] = []

        def catch(_module: nn.Module, arguments: tuple[Any, ...]) -> None:
            caught.append(arguments[0])

        hook = self.head.register_forward_pre_hook(catch)
        try:
            logits: Tensor = self.model(inputs)
        finally:
            hook.remove()
        if not caught:
            raise ValueError(
                f"the model did not call its head {self.head}; a compiled model that ran before goes on "
                "without the hook: make its first call through FeatureForward, or wrap the model as it was"
            )
        return logits, caught[-1]
