"""How much one update changed the loss of each sample: SADA's influence, exact and cheap.

The influence of sample i on the update from parameters a to b is |<g_i, a - b>|, with g_i the gradient of the
sample's loss (SADA, arXiv 2510.00434). To first order it is the change of that loss.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dsenv.errors import pick

LOG_GUARD = 1e-8  # added to probabilities before the logarithm by TDDS


def influence_by_projection(
    model: nn.Module, params_update: Mapping[str, Tensor], images: Tensor, labels: Tensor
) -> Tensor:
    """The exact influence: size of the projection of each sample's gradient on an update.

    One forward-mode pass (`torch.func.jvp`) for the whole batch: about the cost of one training step, where
    per-sample gradients cost 1.4 to 5 of them. The model runs in evaluation mode and is left as it was.

    Args:
        model: gives logits (B, C); every op in it must support forward-mode differentiation.
        params_update: name of a parameter -> its value before minus after the update; parameters left
            out count as unchanged. See `parameter_update`.
        images: (B, ...) model inputs, normalized.
        labels: (B,) int64.

    Returns:
        (B,) >= 0, in nats.
    """
    return gradient_projection(model, params_update, images, labels).abs()


def gradient_projection(
    model: nn.Module, params_update: Mapping[str, Tensor], images: Tensor, labels: Tensor
) -> Tensor:
    """Signed form (B,) of `influence_by_projection`: positive where the update lowered the sample's loss."""
    parameters = {name: value.detach() for name, value in model.named_parameters()}
    moved = {pick("parameter", name, parameters): parameters[name] for name in params_update}
    update = {name: params_update[name].to(value) for name, value in moved.items()}

    def losses(point: dict[str, Tensor]) -> Tensor:
        logits = torch.func.functional_call(model, point, (images,))
        return F.cross_entropy(logits, labels, reduction="none")

    with torch.no_grad(), evaluation_mode(model):
        projection: Tensor = torch.func.jvp(losses, (moved,), (update,))[1]
    return projection


def parameter_snapshot(model: nn.Module) -> dict[str, Tensor]:
    """A copy of the trainable parameters, by name."""
    return {name: value.detach().clone() for name, value in model.named_parameters() if value.requires_grad}


def parameter_update(before: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Parameters of a `parameter_snapshot` minus the model's current ones, by name."""
    now = dict(model.named_parameters())
    return {name: value - now[name].detach() for name, value in before.items()}


def kl_change(log_probability: Tensor, previous: Tensor) -> Tensor:
    """KL divergence (B,) of the current prediction from the previous one, in nats.

    Args:
        log_probability: (B, C) current log-probabilities.
        previous: (B, C) those of the visit before.
    """
    return (log_probability.exp() * (log_probability - previous)).sum(-1)


def tdds_change(log_probability: Tensor, previous: Tensor) -> Tensor:
    """TDDS's form (B,): the terms of the KL divergence made positive before they are summed.

    Arguments as in `kl_change`. Source: importance_evaluation.py of
    github.com/zhangxin-xd/Dataset-Pruning-TDDS.
    """
    now, then = log_probability.exp(), previous.exp()
    return (now * ((now + LOG_GUARD).log() - (then + LOG_GUARD).log())).abs().sum(-1)


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Put all modules into evaluation mode, and each back into its own afterwards."""
    training = [module for module in model.modules() if module.training]
    model.eval()

    try:
        yield
    finally:
        for module in training:
            module.training = True
