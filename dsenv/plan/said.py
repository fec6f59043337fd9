"""What a loop hands over of a training forward beside the losses, checked, and read by the kind of task."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dsenv.augment.base import AugmentationController
from dsenv.errors import pick, shown
from dsenv.plan.checks import HINTS, check_output
from dsenv.plan.data import Batch
from dsenv.plan.plan_guard import PlanGuard
from dsenv.policy.parts import LearnedPart, LearnedVolume
from dsenv.select.base import Selector
from dsenv.task_kinds.base import READINGS, TaskKind, checked_readings

RANGES = {
    "confidence": (0, 1),
    "entropy": (0, 1),
    "margin": (-1, 1),
    "correct": (0, 1),
    "error": (0, math.inf),
}
ROOM = 0.01  # beyond a range, for rounding in bfloat16
SHOWN = ("confidence", "entropy", "margin", "correct")  # readings that policies are shown
Part = Selector | AugmentationController | LearnedVolume | PlanGuard | None


@dataclass(frozen=True)
class Said:
    """What a loop hands over of a batch of B samples beside the losses; each is None where it does not.

    For classification `outputs` and `logits` are the same thing.
    """

    logits: Tensor | None = None
    """(B, C) outputs for classification."""
    features: Tensor | None = None
    """(B, D) inputs of the model's last layer."""
    outputs: Any = None
    """Outputs that the kind of task reads."""
    signals: Mapping[str, Tensor] | None = None
    """(B,) each, what the loop has read itself, by names of `READINGS`."""

    def read(
        self, kind: TaskKind, batch: Batch, losses: Tensor, classes: int | None
    ) -> tuple[Tensor | None, dict[str, Tensor] | None]:
        """Logits (B, C), detached, or what was read of other outputs; None for neither.

        Args:
            kind: of the task.
            batch: gives targets and device.
            losses: (B,), detached.
            classes: C, where known.

        Raises:
            ValueError: something is of another type or shape, somewhere else, or given twice.
        """
        size, device = len(batch.index), batch.weight.device
        self._check_once(kind)
        self._check_features(size, device)
        if self.signals is not None:
            return None, self._readings(kind, self.signals, size, device)
        if kind.classes is not None:
            return self._logits(batch, classes), None
        if self.outputs is None:
            return None, None

        kind.check_outputs(self.outputs, batch.labels)
        with torch.no_grad():
            readings = kind.read(detached(self.outputs), batch.labels, losses)
        return None, checked_readings(kind, readings, size)

    def _check_once(self, kind: TaskKind) -> None:
        given = [name for name in ("logits", "outputs", "signals") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} say the same thing of a batch: give one of them")
        if self.logits is not None and kind.classes is None:
            raise ValueError(
                f"a task of kind {kind.name} has no logits of classes: plan.loss(batch, losses, "
                "outputs=outputs)"
            )

    def _check_features(self, size: int, device: torch.device) -> None:
        if self.features is None:
            return
        check_output("features", self.features, device)
        if self.features.dim() != 2 or len(self.features) != size:
            raise ValueError(
                f"features must have shape ({size}, D), got {tuple(self.features.shape)}; flatten them"
            )

    def _logits(self, batch: Batch, classes: int | None) -> Tensor | None:
        logits, size = self.outputs if self.logits is None else self.logits, len(batch.index)
        if logits is None:
            return None
        check_output("logits", logits, batch.weight.device)
        if classes is None:
            raise ValueError(
                "logits were given, but the number of classes is not known; set DataPlan(classes=...), or "
                "DataPlan(kind=...) for a task that is no classification"
            )
        if logits.shape != (size, classes):
            raise ValueError(
                f"logits must have shape ({size}, {classes}), got {tuple(logits.shape)}; where the labels do "
                "not name every class, set DataPlan(classes=...); where outputs are not classes, say which "
                "kind of task it is, DataPlan(kind=...), or leave logits out"
            )

        labels = batch.labels
        if not isinstance(labels, Tensor) or labels.dtype != torch.int64 or labels.shape != (size,):
            is_tensor = isinstance(labels, Tensor)
            found = f"{labels.dtype} {tuple(labels.shape)}" if is_tensor else type(labels).__name__
            raise ValueError(
                f"with logits, batch.labels must be int64 classes of shape ({size},), got {found}; give the "
                "plan labels.long(), set them by batch._replace(labels=...), leave logits out, or say which "
                "kind of task it is, DataPlan(kind=...)"
            )
        found_logits: Tensor = logits.detach()
        return found_logits

    @staticmethod
    def _readings(kind: TaskKind, signals: Any, size: int, device: torch.device) -> dict[str, Tensor]:
        """What the loop has read itself, detached: all that the kind gives, or a part of it."""
        if not isinstance(signals, Mapping):
            raise ValueError(f"signals must be tensors by name ({', '.join(READINGS)}), got {shown(signals)}")
        for name, value in signals.items():
            pick("reading", name, READINGS)
            if reason := kind.missing((name,)):
                raise ValueError(f"signals has {name!r}, and {reason}")
            is_right = isinstance(value, Tensor) and value.is_floating_point() and value.shape == (size,)
            if not is_right or value.device != device:
                what = (
                    f"{value.dtype} {tuple(value.shape)}, {value.device}"
                    if isinstance(value, Tensor)
                    else shown(value)
                )
                raise ValueError(f"signals[{name!r}] must be floating, ({size},), on {device}; got {what}")
            if value.is_cpu:  # elsewhere it would be a wait
                _check_range(name, value)
        return {name: value.detach().float() for name, value in signals.items()}


def _check_range(name: str, value: Tensor) -> None:
    """Check that a reading (B,) lies where it has to; what is not finite is looked at elsewhere."""
    low, high = RANGES[name]
    beyond = value.isfinite() & ((value < low - ROOM) | (value > high + ROOM))
    if bool(beyond.any()):
        row = int(beyond.nonzero()[0])
        hint = "; divide one in nats by log C" if name == "entropy" else ""
        raise ValueError(
            f"signals[{name!r}] must be in [{low}, {high}], got {value[row].item():g} in row {row}{hint}"
        )


def detached(outputs: Any) -> Any:
    """Outputs of a model without their graph; dicts, lists and tuples of them too."""
    if isinstance(outputs, Tensor):
        return outputs.detach()
    if isinstance(outputs, Mapping):
        return {key: detached(value) for key, value in outputs.items()}
    if isinstance(outputs, list | tuple) and not hasattr(outputs, "_fields"):
        return type(outputs)(detached(value) for value in outputs)
    return outputs


def check_guard(guard: PlanGuard | None, kind: TaskKind) -> None:
    """Check that a kind of task gives what the guard of a choice measures.

    Raises:
        ValueError: it does not; the message says why.
    """
    if guard is not None and guard.has_choice and (reason := kind.missing(guard.reads)):
        raise ValueError(
            f"a guard reads the {', '.join(guard.reads)} of each sample, and {reason}; give guard=False"
        )


def check_needed(
    parts: Iterable[Part],
    said: Said,
    logits: Tensor | None,
    readings: Mapping[str, Tensor] | None,
    kind: TaskKind,
) -> None:
    """Check that what the parts of a plan need was handed over.

    Raises:
        ValueError: something is missing; the message says how to give it.
    """
    for part in parts:
        if part is None or getattr(part, "needs_pass", False):
            continue  # a static selector learns only from the scoring pass
        name, reads = type(part).__name__, getattr(part, "reads", ())
        if isinstance(part, LearnedPart):
            reads = [read for read in SHOWN if read in kind.gives]
        if part.needs_logits and logits is None:
            missing = [read for read in reads if readings is None or read not in readings]
            if readings is not None and reads and missing:
                raise ValueError(
                    f"{name} reads the {missing[0]} of every training batch: "
                    f"plan.loss(batch, losses, signals={{{missing[0]!r}: ...}})"
                )
            if not reads or missing:
                how = "logits" if kind.classes is not None else "outputs"
                hint = (
                    HINTS["logits"] if kind.classes is not None else f"what a task of kind {kind.name} reads"
                )
                raise ValueError(
                    f"{name} needs the {how} of every training batch: plan.loss(batch, losses, {how}=...); "
                    f"{hint}"
                )
        if part.needs_features and said.features is None:
            raise ValueError(
                f"{name} needs the features of every training batch: "
                f"plan.loss(batch, losses, features=...); {HINTS['features']}"
            )
