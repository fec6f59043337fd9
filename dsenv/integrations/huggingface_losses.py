"""The loss of each sample, from what models of `transformers` and the fused head of TRL give."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from dsenv.errors import shown
from dsenv.task_kinds.base import TaskKind
from dsenv.task_kinds.classification import Classification
from dsenv.task_kinds.language import Language
from dsenv.task_kinds.regression import Regression
from dsenv.task_kinds.tokens import (
    IGNORED,
    SampleReadings,
    TokenReadings,
    next_tokens,
    of_samples,
    read_tokens,
    row_of_each,
)

CLOSE = 1e-4
"""Relative difference of a model's own loss and the losses of samples that rounding may make in float32: less
than what an auxiliary loss (coefficients from 0.001 on) adds."""
CLOSE_IN_HALF = 0.02
"""The same where one of them is in bfloat16 or float16."""

OWN = "In the Trainer sample_losses gives it, SampleLosses(losses, said={...}): see docs/huggingface.md"
FUSED = (
    "The fused head of SFTTrainer says loss, confidence, entropy and correctness: take a selector that goes "
    "by these, such as infobatch or small_loss, or the plain Trainer"
)
"""What to do in a Trainer where a plan lacks what `plan.loss` would be given."""


class SampleLosses(NamedTuple):
    """What a training forward says of a batch of B samples; made by `DataPlanMixin.sample_losses`."""

    loss: Tensor
    """(B,) loss of each sample, with its graph: of several tokens their mean."""
    tokens: Tensor | None = None
    """(B,) tokens that each loss is the mean of, for kind "language"; None elsewhere."""
    sums: Tensor | None = None
    """(B,) sums over those tokens, with their graph; None for loss x tokens."""
    heard: Tensor | None = None
    """(B,) what the plan learns from, where it is not the loss that is trained on."""
    said: Mapping[str, Any] = {}
    """Arguments of `DataPlan.observe` beside the losses: logits, outputs, signals, features."""

    @property
    def totals(self) -> Tensor:
        """(B,) what is weighed and summed up: that of a sample's tokens, or its loss."""
        if self.sums is not None:
            return self.sums
        return self.loss if self.tokens is None else self.loss * self.tokens


def read_losses(
    kind: TaskKind, logits: Tensor, labels: Any, lengths: Tensor | None, smoothing: float
) -> SampleLosses:
    """Losses and signals of samples from a model's logits.

    Args:
        kind: of the task.
        logits: of the model, with their graph.
        labels: of the batch.
        lengths: (B,) of samples that lie in one row; None where each has its own.
        smoothing: of the labels of classes, [0, 1].

    Raises:
        ValueError: there are no labels.
    """
    if not isinstance(labels, Tensor):
        raise ValueError(f"the batch has no labels, so its samples have no loss; it has {shown(labels)}")
    if isinstance(kind, Language):
        found = language_readings(logits, labels, lengths, shifted=kind.shifted)
        return SampleLosses(found.loss, found.tokens, found.sums, said={"signals": found.signals})
    if isinstance(kind, Regression):
        outputs = logits.reshape(labels.shape)
        loss = (outputs - labels).square().reshape(len(labels), -1).mean(1)
        outputs = outputs.float()
        heard = kind.sample_loss(outputs.detach(), labels.float())
        return SampleLosses(loss, heard=heard, said={"outputs": outputs})
    if isinstance(kind, Classification):
        loss = functional.cross_entropy(logits, labels, reduction="none", label_smoothing=smoothing)
        return SampleLosses(loss, said={"logits": logits})
    return SampleLosses(kind.sample_loss(logits, labels), said={"outputs": logits})


def language_readings(
    logits: Tensor, labels: Tensor, lengths: Tensor | None, *, shifted: bool
) -> SampleReadings:
    """What logits (B, T, V) say of each sample; one that asks for no token has no loss (NaN) and sum 0.

    Arguments as for `dsenv.text.from_logits`.
    """
    asked = (labels if shifted else next_tokens(labels, lengths)).flatten()
    found = read_tokens(logits.reshape(-1, logits.shape[-1]), asked)
    owner = None if lengths is None else row_of_each(lengths.to(labels.device), asked.numel())
    return of_samples(found, asked, owner, len(labels) if lengths is None else len(lengths))


def asked_tokens(labels: Tensor, lengths: Tensor | None, *, shifted: bool) -> Tensor:
    """How many tokens () a batch asks for."""
    return ((labels if shifted else next_tokens(labels, lengths)) != IGNORED).sum()


class FusedModel:
    """A model under TRL's fused head whose token losses are weighed by sample, and kept.

    `SFTTrainer.compute_loss` calls it in place of the model, and makes its loss and its metrics of what comes
    back: log probabilities, entropies and hits of tokens, no logits.

    Args:
        model: as the Trainer trains it.
        weight: (B,) of the samples.
        lengths: (B,) of samples that lie in one row; None where each has its own.
    """

    def __init__(self, model: Callable[..., Any], weight: Tensor, lengths: Tensor | None) -> None:
        self._model, self._weight, self._lengths = model, weight, lengths
        self.said: Any = None
        """Outputs of the model, before they were weighed."""
        self._owner: Tensor | None = None

    def __call__(self, *given: Any, **inputs: Any) -> Any:
        outputs = self._model(*given, **inputs)
        self.said = {name: outputs[name] for name in ("log_probs", "entropy", "is_top1", "label_mask")}
        places = self.said["log_probs"].shape[1]
        if self._lengths is None:
            by_token = self._weight[:, None]
        else:  # place t of the row predicts token t + 1
            tokens = places + 1
            self._owner = row_of_each(self._lengths.to(self._weight.device), tokens)[1:]
            by_token = self._weight[self._owner][None]
        outputs["log_probs"] = outputs["log_probs"] * by_token
        return outputs

    def readings(self, entropy_scale: float) -> SampleReadings:
        """What the head said of each sample.

        Args:
            entropy_scale: log V, of a uniform guess.
        """
        mask = self.said["label_mask"].flatten()
        loss = -self.said["log_probs"].detach().flatten().float()
        right = self.said["is_top1"].flatten().float()
        entropy = (self.said["entropy"].detach().flatten().float() / entropy_scale).clamp(0, 1)

        nothing = torch.zeros_like(loss)
        tokens = TokenReadings(loss, entropy, nothing, right, nothing)
        found = of_samples(tokens, torch.where(mask, 0, IGNORED), self._owner, len(self._weight))
        given = {name: found.signals[name] for name in ("confidence", "entropy", "correct")}
        return found._replace(signals=given)


def observe(plan: Any, batch: Any, losses: Tensor, advice: str, **said: Any) -> None:
    """Let the plan hear a batch.

    Args:
        plan: that hears it.
        batch: of the plan.
        losses: (B,).
        advice: what to do in the Trainer where something is missing.
        said: as for `DataPlan.observe`.

    Raises:
        ValueError: as of `DataPlan.observe`.
    """
    try:
        plan.observe(batch, losses, **said)
    except ValueError as error:
        if "plan.loss(" in str(error):
            raise ValueError(f"{error}. {advice}") from error
        raise


def check_same_loss(own: Any, found: SampleLosses, model: Any, kind: TaskKind) -> None:
    """Check once that the losses of samples are what the model itself trains on.

    Args:
        own: loss () of the model for the same batch; None where it gives none.
        found: the losses of the batch's samples.
        model: for the message.
        kind: of the task.

    Raises:
        ValueError: they are not.
    """
    if not isinstance(own, Tensor) or own.numel() != 1:
        return
    units = len(found.loss) if found.tokens is None else int(found.tokens.sum())
    totals = found.totals.detach()
    theirs, ours = float(own.detach()), float(totals.float().sum()) / max(1, units)
    is_half = torch.finfo(own.dtype).bits < 32 or torch.finfo(totals.dtype).bits < 32
    close = CLOSE_IN_HALF if is_half else CLOSE
    if units and abs(theirs - ours) > close * max(abs(theirs), abs(ours), 0.05):
        raise ValueError(
            f"{type(model).__name__} says that the loss of the first batch is {theirs:.6g}, and the losses "
            f"of its samples as a task of kind {kind.name!r} have the mean {ours:.6g}: the model trains on "
            "something else (class weights, an auxiliary loss, another kind of task). Define "
            "sample_losses(model, inputs, lengths) in your class, name another kind by "
            "plan=dict(kind=...), or take the model's loss as it is by plan=dict(loss_of='batch')"
        )
