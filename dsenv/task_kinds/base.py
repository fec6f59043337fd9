"""What every kind of task says of its samples."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from dsenv.describe import Described
from dsenv.errors import check_positive, check_share

READINGS = ("confidence", "entropy", "margin", "correct", "error")
"""What a kind may say of a sample beside its loss."""


class TaskKind(Described, ABC):
    """What a model's outputs say of each sample, and what the metric of the task is.

    All that dsenv decides by are numbers of one sample, free of scale, so that a selector, a reward or a
    policy works on every kind that gives what it reads:

    | name       | range   | meaning                                                                       |
    |------------|---------|-------------------------------------------------------------------------------|
    | loss       | >= 0    | in nats where the loss is a likelihood; `guess_loss` is its scale             |
    | confidence | [0, 1]  | probability of what is labelled: the geometric mean over labels, pixels, tokens |
    | entropy    | [0, 1]  | of the prediction, over that of a uniform guess                               |
    | margin     | [-1, 1] | how far the prediction is on the side of the label; above 0 it is right       |
    | correct    | 0 or 1  | the prediction agrees with what is labelled                                   |
    | error      | >= 0    | length of the gradient of the loss by the outputs (EL2N)                      |

    A kind of one's own says how large the loss of a guess is, gives the loss and what it can read::

        import torch
        import torch.nn.functional as F
        from dsenv import DataPlan
        from dsenv.task_kinds import TaskKind

        class Counts(TaskKind):  # how often something happens: Poisson regression
            guess_loss = 1.0
            gives = ("confidence",)

            def sample_loss(self, outputs, targets):
                excess = F.poisson_nll_loss(outputs, targets, full=True, reduction="none")
                return excess.clamp(min=0)

            def read(self, outputs, targets, loss):
                return {"confidence": torch.exp(-loss)}

        inputs, counts = torch.rand(200, 5), torch.poisson(torch.ones(200))
        model = torch.nn.Sequential(torch.nn.Linear(5, 1), torch.nn.Flatten(0))
        plan = DataPlan((inputs, counts), epochs=2, batch_size=50, selector="infobatch", kind=Counts())
        for epoch in plan.epochs_left():
            for batch in plan.batches():
                outputs = model(batch.inputs)
                losses = plan.kind.sample_loss(outputs, batch.labels)
                plan.loss(batch, losses, outputs=outputs).backward()

    `gives` names what `read` returns; what is missing is shown to agents as 0, and a part that needs it is
    refused with the reason in `why_not`.
    """

    name: ClassVar[str] = ""
    """In messages and files; of a class of one's own, its name."""
    gives: ClassVar[tuple[str, ...]] = ()
    """Which of `READINGS` it gives."""
    why_not: ClassVar[Mapping[str, str]] = MappingProxyType({})
    """Why it does not give one, for messages."""
    metric_name: ClassVar[str] = "mean of 1 / (1 + loss / guess_loss)"
    """What `metric` is."""
    guess_loss: float = 1.0
    """Loss of an uninformed guess, above 0: a uniform distribution, or the mean of the targets."""
    guess_confidence: float = 0.5
    """Confidence of such a guess, [0, 1]."""
    guess_metric: float = 0.0
    """Metric of such a guess, [0, 1]."""
    classes: int | None = None
    """C where the outputs are logits of C classes, one label a sample; else None."""
    on_images: ClassVar[str] = ""
    """Plain targets that lie on the images, and move with them under augmentation: "masks" for (B, H, W)
    classes of pixels, "boxes" for `boxes` and `masks` of each image's table."""
    has_outputs: ClassVar[bool] = True
    """The loss follows from a model's outputs and the targets, so that further views can be compared."""
    outputs: int | None = None
    """How many numbers a model gives for a sample, pixel or token; None where not known."""

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        if "name" not in vars(cls):
            cls.name = cls.__name__
        if unknown := [name for name in cls.gives if name not in READINGS]:
            raise ValueError(f"{cls.__name__}.gives has {unknown[0]!r}; there are: {', '.join(READINGS)}")

    def __repr__(self) -> str:
        values = ", ".join(f"{name}={value!r}" for name, value in self.settings().items())
        return f"{type(self).__name__}({values})"

    def fitted(self, targets: Any) -> Self:
        """This kind with what it reads off all training targets, once; itself where that is nothing.

        Args:
            targets: all of them as a tensor (N, ...), or None where they are not at hand.

        Raises:
            ValueError: it cannot do without.
        """
        del targets
        return self

    def inputs_for(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """What a model reads (..., *shape) where a sample is given these targets; its inputs, in most kinds.

        A language model reads each token of an answer before it is asked for the next: a sample that is given
        the answer of another one has to read that one.
        """
        del targets
        return inputs

    @abstractmethod
    def sample_loss(self, outputs: Any, targets: Any) -> Tensor:
        """Training loss of each sample (B,), with its graph."""

    @abstractmethod
    def read(self, outputs: Any, targets: Any, loss: Tensor) -> dict[str, Tensor]:
        """What the outputs say of each sample: the `READINGS` that it gives, float32 (B,) each.

        Args:
            outputs: of the model, detached.
            targets: what was asked for.
            loss: (B,) loss of each sample, detached.
        """

    def statistics(self, outputs: Any, targets: Any, loss: Tensor) -> Tensor:
        """Numbers (B, M) of each sample, whose sums over a split make the `metric`."""
        del outputs, targets
        share = self.guess_loss / (self.guess_loss + loss.float())
        return torch.stack([share, torch.ones_like(share)], -1)

    def metric(self, sums: Tensor) -> Tensor:
        """The metric (...) in [0, 1], larger is better, from sums (..., M) over the samples of a split."""
        return sums[..., 0] / sums[..., 1].clamp(min=1)

    def check_targets(self, what: str, targets: Any, size: int) -> None:
        """Check targets of `size` samples; `what` names them in messages.

        Raises:
            ValueError: they are of another type or shape, or hold something that is no target.
        """
        check_tensor(what, targets, size)

    def check_outputs(self, outputs: Any, targets: Any) -> None:
        """Check that outputs of a model fit targets (B, ...); shapes and types alone, which costs no wait.

        Raises:
            ValueError: they do not.
        """
        del targets
        if not isinstance(outputs, Tensor) or not outputs.is_floating_point():
            raise ValueError(
                f"outputs for {self.name} must be a floating tensor (B, ...), got {found(outputs)}"
            )

    def missing(self, names: tuple[str, ...]) -> str:
        """Why one of the `READINGS` named is not given, in words; "" where all are."""
        for name in names:
            if name not in self.gives:
                reason = self.why_not.get(name, "it is not defined for it")
                return f"a task of kind {self.name} gives no {name}: {reason}"
        return ""


def checked_readings(kind: TaskKind, readings: Any, size: int) -> dict[str, Tensor]:
    """What a kind's `read` gave for B = `size` samples, looked at by name and shape.

    Raises:
        ValueError: it is not one tensor (B,) for each name in `gives`.
    """
    if not isinstance(readings, Mapping) or set(readings) != set(kind.gives):
        given = ", ".join(map(str, readings)) if isinstance(readings, Mapping) else type(readings).__name__
        raise ValueError(
            f"{type(kind).__name__}.read must give a table of {', '.join(kind.gives) or 'nothing'}, as its "
            f"`gives` says, got {given or 'nothing'}"
        )
    for name, value in readings.items():
        if not isinstance(value, Tensor):
            raise ValueError(
                f"{type(kind).__name__}.read gives {name} as {type(value).__name__}, and not as a tensor "
                f"({size},)"
            )
        if value.shape != (size,):
            raise ValueError(
                f"of the outputs a task of kind {kind.name} reads {name} of shape {tuple(value.shape)}, and "
                f"the batch has {size} samples; where they lie in one row without padding, give signals=... "
                "(dsenv.text.from_logits) in place of outputs"
            )
    return dict(readings)


def check_guess(kind: TaskKind) -> None:
    """Check what a kind says of an uninformed guess, which is the scale of its losses.

    Raises:
        ValueError: the loss is not above 0, or confidence or metric are not in [0, 1].
    """
    name = type(kind).__name__
    check_positive(f"{name}.guess_loss", kind.guess_loss)
    for what in ("guess_confidence", "guess_metric"):
        check_share(f"{name}.{what}", getattr(kind, what), zero=True)


def found(value: Any) -> str:
    """What a value is, for messages."""
    return f"{value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__


def check_tensor(what: str, targets: Any, size: int) -> None:
    """Check that targets are one tensor row a sample.

    Raises:
        ValueError: they are something else.
    """
    if not isinstance(targets, Tensor) or targets.layout is not torch.strided:
        raise ValueError(f"{what} must be a dense tensor (N, ...), got {type(targets).__name__}")
    if not targets.dim() or len(targets) != size:
        raise ValueError(f"{what} must have one row for each of {size} samples, got {tuple(targets.shape)}")


def check_finite(what: str, targets: Tensor) -> None:
    """Check that floating targets are finite; a wait for a device.

    Raises:
        ValueError: one is not; the message names the first row.
    """
    broken = ~torch.isfinite(targets.flatten(1) if targets.dim() > 1 else targets[:, None])
    if bool(broken.any()):
        row = int(broken.any(1).nonzero()[0])
        raise ValueError(f"{what}: sample {row} has a target that is not finite; clean the data first")


def binary_entropy(probability: Tensor) -> Tensor:
    """Entropy of a Bernoulli variable over log 2, [0, 1]."""
    p = probability.float()
    return -(torch.xlogy(p, p) + torch.xlogy(1 - p, 1 - p)) / math.log(2)


def check_fits(kind: TaskKind, part: Any) -> None:
    """Check that a kind of task gives what a selector, controller or reward reads.

    Raises:
        ValueError: it does not; the message says why.
    """
    if part is None or kind.classes is not None:
        return
    name, reads = type(part).__name__, tuple(getattr(part, "reads", ()))
    if getattr(part, "extra_views", 0) and not kind.has_outputs:
        raise ValueError(
            f"{name} compares the losses of several views, and those of a task of kind {kind.name} do not "
            "follow from the outputs of a forward pass; take one without extra_views, such as trivial"
        )
    needs = [what for what in ("logits", "classes") if getattr(part, f"needs_{what}", False)]
    if reason := kind.missing(reads):
        raise ValueError(f"{name} reads the {' and '.join(reads)} of each sample, and {reason}")
    if "classes" in needs or ("logits" in needs and not reads):
        wanted = "labels that are classes" if "classes" in needs else "the logits of classes"
        raise ValueError(
            f"{name} needs {wanted}, and a task of kind {kind.name} has none: take one that goes by the "
            "loss, such as infobatch, small_loss or ucb"
        )
