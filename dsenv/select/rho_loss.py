"""RHO-LOSS: samples that are not learnt yet but can be."""

from typing import Any

import torch
from torch import Tensor

from dsenv.errors import check_share, shown
from dsenv.select.base import Selection, Selector
from dsenv.select.order_dp import top_of_pool
from dsenv.select.ranking import check_choice, equally_weighted, unseen_first
from dsenv.signals import SampleSignals


def reducible_loss(loss: Tensor, irreducible: Tensor) -> Tensor:
    """Loss of the trained model minus that of one trained on held-out data; all (N,), in nats."""
    assert loss.shape == irreducible.shape, (loss.shape, irreducible.shape)
    return loss - irreducible


def _checked(irreducible: Any) -> Tensor:
    """Irreducible losses (N,) float32."""
    losses: Tensor | None
    try:
        given = torch.as_tensor(irreducible).detach()
        losses = None if given.dtype == torch.bool or given.is_complex() else given.float()
    except (TypeError, ValueError, RuntimeError):
        losses = None
    if losses is None or losses.dim() != 1 or not len(losses):
        got = shown(irreducible) if losses is None else f"shape {tuple(losses.shape)}"
        raise ValueError(f"irreducible must have shape (N,), one loss a sample, got {got}")

    is_bad = ~losses.isfinite()
    if bool(is_bad.any()):
        positions = is_bad.nonzero().flatten()
        raise ValueError(
            f"irreducible must be finite losses, got others for {len(positions)} samples, at positions "
            f"{positions[:5].tolist()}; leave those samples out of the training set"
        )
    return losses


class RhoLoss(Selector):
    """Trains on the samples with the largest reducible loss.

    The irreducible loss is that of a model trained on held-out data: it is high for wrong labels and
    for samples that cannot be learnt, low for those that can. Unseen samples come first, in random order.

    Helps: noisy, redundant or web-scale data, and where fewer steps matter. Does not help: without
    clean held-out data to train the second model on.

    Cost: one top-k a call, 10 bytes a sample while it chooses half; the held-out model and one pass of it
    over the training set beforehand.
    State: 4 bytes a sample (the irreducible losses, given again at construction, not in `state_dict`).
    Source: Mindermann et al., 2022, arXiv 2206.07137.
    Differs: uses the last training loss of each sample; the paper takes a fresh forward of a large
    random batch each step and keeps 10 % of it, to which `share` = 0.1 comes closest.

    Args:
        irreducible: (N,) losses of the held-out model on the training samples, in nats; finite.
        share: part of a fresh uniform pool to train on, in (0, 1]; None ranks all samples.
    """

    needs_own_loss = True

    def __init__(self, irreducible: Tensor, share: float | None = None) -> None:
        self.irreducible = _checked(irreducible)
        self.share = None if share is None else check_share("share", share)

    def select(self, signals: SampleSignals, count: int, generator: torch.Generator) -> Selection:
        """Take the `count` samples with the largest reducible losses, each with weight 1.

        Raises:
            ValueError: the irreducible losses are of another number of samples.
        """
        count = check_choice(count, signals.size)
        if len(self.irreducible) != signals.size:
            raise ValueError(
                f"irreducible holds {len(self.irreducible)} losses, the signals {signals.size} samples; "
                "compute them by a pass of the held-out model over this training set"
            )

        self.irreducible = self.irreducible.to(signals.device)
        score = unseen_first(reducible_loss(signals.loss, self.irreducible), signals.seen)
        share = count / signals.size if self.share is None else self.share
        return equally_weighted(top_of_pool(score, count, share, generator))
