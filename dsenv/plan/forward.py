"""Forward passes: a model with its features, and scoring passes over data without training."""

from collections.abc import Callable, Iterable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from dsenv import kernels
from dsenv.augment.influence import evaluation_mode
from dsenv.outputs import ModelOutputs

ForwardFunction = Callable[[Any], Any]
"""Maps inputs to logits (B, C), or to (logits, features (B, D))."""
SampleLoss = Callable[[Tensor, Tensor], Tensor]
"""Maps logits (B, C) and labels (B,) to a loss for each sample (B,)."""


def outputs(forward: ForwardFunction, inputs: Any) -> tuple[Tensor, Tensor | None]:
    """Logits (B, C) and, where the function gives them, features (B, D), without a graph."""
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


def full_pass(
    forward: ForwardFunction,
    batches: Iterable[tuple[Any, Tensor]],
    sample_loss: SampleLoss | None = None,
) -> ModelOutputs:
    """Run a model over a split, in evaluation mode where the model is known.

    Args:
        forward: an `nn.Module`, a `FeatureForward`, or any function of the inputs.
        batches: (inputs, labels) in the order of the split, on the model's device.
        sample_loss: per-sample loss; None for cross-entropy.
    """
    model = forward if isinstance(forward, nn.Module) else getattr(forward, "model", None)
    logits = []
    features = []
    labels = []
    losses = []

    with evaluation_mode(model) if isinstance(model, nn.Module) else nullcontext():
        for inputs, given in batches:
            logit, feature = outputs(forward, inputs)
            logits.append(logit)
            labels.append(given.to(logit.device))
            losses.append((sample_loss or _cross_entropy)(logit.float(), labels[-1]))
            if feature is not None:
                features.append(feature)

    all_labels = torch.cat(labels)
    index = torch.arange(len(all_labels), device=all_labels.device)
    joined = torch.cat(features) if features else None
    return ModelOutputs(index, all_labels, torch.cat(losses), torch.cat(logits), joined)


def _cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    if labels.dtype != torch.int64 or labels.dim() != 1:
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
