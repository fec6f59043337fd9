"""One loss a batch in the place of one a sample: a moving average for each sample (BLS)."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from dsenv.catalogue import Choice, build_part
from dsenv.describe import Described
from dsenv.errors import check_number, pick, shown
from dsenv.plan.said import Said

MODES = {"batch": "dsenv.plan.batch_loss:BatchLoss"}
"""What a loss may be of, by name, beside "sample"."""
USE = "loss_of='batch'"


class BatchLoss(Described):
    """The loss of a batch stands for those of its samples, where a loop has nothing else.

    For losses that are a mean over the batch by their nature, or come out of a fused kernel:
    `DataPlan(loss_of="batch")`, and `plan.loss(batch, mean)` with the mean as a scalar. The signal `loss` of
    a sample is then a moving average of the losses of the batches that it was in, one for each visit, with
    the bias of its start corrected (as in Adam: after the first visit it is that batch's loss). All signals
    made of losses come from it; those made of outputs are not there. Parts that need more than a loss are
    refused: those that read logits or features, learn from every batch, or compare the loss of a sample with
    another one of it.

    Weights: a mean cannot be taken apart, so it is multiplied by the mean weight of its batch, as BLS does.
    That is the weighted mean only as far as weights and losses within a batch do not go together.

    Helps: a plan, with its volume schedule, positions and metrics, in a loop without losses of samples.
    Does not help: to tell samples apart. The score ranks them nearly at random: on digits and Fashion-MNIST
    (5 seeds; docs/benchmarks/rules.md, "The loss of a batch", has the command) its rank correlation with
    the own losses was 0.03 to 0.08 in epoch 3 and 0.08 to 0.11 in epoch 15, where InfoBatch's last losses had
    0.80 to 0.99. InfoBatch on it was as accurate as with random scores (`scores="random"`, its honest
    reference) and as a random subset, within 0.6 points, and trained on 79 to 81 % of the data where those
    trained on 70 %.

    Cost: none beyond the usual signals. State: none.
    Source: Zhou et al., CVPR 2026, arXiv 2604.04681, with InfoBatch on this score; its README takes a decay
    of 0.7, its code 0.9.
    Differs from the published code (mrazhou/BLS at 726279b): the average begins at the first loss and not at
    0, which made rarely visited samples look easy; a batch whose loss is not finite is left out.

    Args:
        decay: share of the old average that stays at a visit, [0, 1); 0 is the last batch's loss.
    """

    def __init__(self, decay: float = 0.9) -> None:
        self.decay = check_number("decay", decay, 0, 1, open_high=True)

    def averaged(self, old: Tensor, loss: Tensor, visits: Tensor) -> Tensor:
        """The moving averages (B,) after one more visit.

        The weighted mean of the losses l_1 to l_n, with weights that fall as decay^(n - i).

        Args:
            old: (B,) averages so far; any number at a first visit.
            loss: (B,) losses of the batches that the samples were in, in nats.
            visits: (B,) visits before this one.
        """
        share = (1 - self.decay) / (1 - self.decay ** (visits.float() + 1))
        return torch.where(visits > 0, torch.lerp(old, loss, share), loss)

    def check_alone(self, said: Said) -> None:
        """Check that nothing was given beside the loss.

        Raises:
            ValueError: something was.
        """
        if given := [name for name, value in vars(said).items() if value is not None]:
            raise ValueError(
                f"with DataPlan({USE}) plan.loss takes the batch and its loss alone, got {given[0]} too; "
                "where outputs are known, losses of samples are: reduction='none', and leave loss_of out"
            )

    def spread(self, loss: Any, size: int, device: torch.device) -> Tensor:
        """The loss of a batch as that of each of its `size` samples (B,), without a graph.

        Raises:
            ValueError: it is no scalar, not floating, or somewhere else.
        """
        self.check_loss(loss, size, device)
        found: Tensor = loss.detach().float().reshape(1).expand(size)
        return found

    def weighted(self, loss: Tensor, weight: Tensor) -> Tensor:
        """What to minimise (): the loss of a batch times the mean of its weights (B,).

        Raises:
            ValueError: the loss is no scalar, not floating, or somewhere else.
        """
        self.check_loss(loss, len(weight), weight.device)
        return loss.reshape(()) * weight.mean()

    def check_loss(self, loss: Any, size: int, device: torch.device) -> None:
        """Check that a loss is one floating number on the plan's device.

        Raises:
            ValueError: it is not.
        """
        if not isinstance(loss, Tensor):
            raise ValueError(
                f"plan.loss needs the batch's mean loss as a scalar tensor, with its graph, got "
                f"{type(loss).__name__} {shown(loss)}; leave .item() out"
            )
        if loss.dim() and loss.shape != (1,):
            raise ValueError(
                f"with DataPlan({USE}) plan.loss takes one loss for the batch, a scalar, got shape "
                f"{tuple(loss.shape)}; losses of samples, ({size},), say more: leave loss_of out to give them"
            )
        if not loss.is_floating_point() or loss.layout != torch.strided:
            raise ValueError(f"plan.loss needs a dense, floating loss, got {loss.dtype} ({loss.layout})")
        if loss.device != device:
            raise ValueError(
                f"the loss is on {loss.device}, the plan's batches on {device}; give "
                f"DataPlan(device={str(loss.device)!r}), and the plan puts batches there"
            )


def make_batch_loss(choice: "Choice | BatchLoss", parts: Iterable[Any]) -> BatchLoss | None:
    """The mode of a plan; None where a loss is that of a sample.

    Args:
        choice: "sample", "batch", a table of a name and settings, or a `BatchLoss`.
        parts: selector, volume, controller and guard; None for none.

    Raises:
        ValueError: the choice is unknown, or a part needs more than the loss of a batch.
    """
    if isinstance(choice, str) and pick("loss_of", choice, ("sample", *MODES)) == "sample":
        return None
    mode: BatchLoss = build_part("loss_of", MODES, choice, expected=BatchLoss)
    for part in parts:
        if part is not None and (reason := what_it_lacks(part)):
            raise ValueError(
                f"{type(part).__name__} cannot work with {USE}: it {reason}, and the plan is given one "
                "number a batch; give losses of samples (reduction='none'), or choose another part: random "
                "and infobatch need no more than a loss, most static selectors only a scoring pass"
            )
    return mode


def what_it_lacks(part: Any) -> str:
    """What a part needs that the loss of a batch does not say; "" where that is enough."""
    if getattr(part, "needs_pass", False):  # a static selector learns only from the scoring pass
        return ""
    needs = {
        "reads the logits of every sample": getattr(part, "needs_logits", False),
        "reads features of every sample": getattr(part, "needs_features", False),
        "compares the losses of several views of a sample": getattr(part, "extra_views", 0),
        "learns from the loss of each sample in a batch": getattr(part, "observes", False),
        "compares the loss of a sample with another loss of it": getattr(part, "needs_own_loss", False),
    }
    return next((reason for reason, is_needed in needs.items() if is_needed), "")
