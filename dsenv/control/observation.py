"""Observation: what an agent sees of a training, float32, of fixed size and free of scale.

No entry depends on the number of samples, the model or the unit of the loss, so a policy trained on
one task can act on another. The same function serves environments and plug-ins.
"""

import math
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from dsenv import kernels
from dsenv.control.base import Control
from dsenv.control.candidates import FEATURES, Candidates, describe, squash
from dsenv.select.bins import loss_bins
from dsenv.signals import SampleSignals

VERSION = 1
QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9)
STEADY_VISITS = 3  # visits that it takes to tell how much a sample's influence varies


@dataclass
class Last:
    """What the last interval of K trainings measured, on the training device."""

    ratio: Tensor
    """(K,) share of an interval's capacity that was trained on."""
    selected: Tensor
    """(K, B) share of the selection that came from each bin."""
    wrong_labels: Tensor
    """(K,) share of the selection with a wrong label; for analysis, not observed."""
    strength: Tensor
    """(K,) mean augmentation strength of the selection, where the control decides it; not observed."""
    train_loss: Tensor
    """(K,) mean training loss in nats."""
    train_accuracy: Tensor
    """(K,) share of the trained samples predicted as labelled."""
    validation_accuracy: Tensor
    """(K,) accuracy on the trusted validation split, after the interval."""
    validation_gain: Tensor
    """(K,) its change over the interval."""
    action: Tensor
    """(K, A) the action, each component in [-1, 1]."""

    @classmethod
    def blank(cls, replicas: int, bins: int, actions: int, classes: int, device: torch.device) -> "Last":
        """Before the first interval: zeros, and the loss of a uniform guess."""
        zeros = torch.zeros(replicas, device=device)
        return cls(
            ratio=zeros,
            selected=zeros.new_zeros(replicas, bins),
            wrong_labels=zeros,
            strength=zeros,
            train_loss=zeros + math.log(classes),
            train_accuracy=zeros,
            validation_accuracy=zeros,
            validation_gain=zeros,
            action=zeros.new_zeros(replicas, actions),
        )

    def updated(self, new: "Last", rows: Tensor) -> "Last":
        """The rows (K,) bool taken from `new`, the others as they are."""
        values = {}
        for field in fields(self):
            old = getattr(self, field.name)
            values[field.name] = torch.where(
                rows.view(-1, *[1] * (old.ndim - 1)), getattr(new, field.name), old
            )
        return Last(**values)


@dataclass(frozen=True)
class View:
    """The state of K trainings between two intervals, on the training device."""

    signals: SampleSignals
    pool: Tensor
    """(K, N) bool, the samples that exist."""
    bins: Tensor
    """(K, N) int64 loss-rank bin of each sample."""
    stability: Tensor
    """(K, N) int64 stability bin of each sample."""
    candidates: Candidates
    """The samples shown one by one."""
    interval: Tensor
    """(K,) intervals done, float32."""
    intervals: int
    """T, intervals of a whole training."""
    budget_left: Tensor
    """(K,) share of the budget that is left, [0, 1]."""
    ratio: float
    """Target ratio."""
    shows_validation: Tensor
    """(K,) bool, whether the agent may see the validation accuracy."""
    last: Last


def stability_bins(signals: SampleSignals, pool: Tensor, bins: int) -> Tensor:
    """Cut samples into equally full bins by the variance of their influence, steady ones first.

    Samples with fewer than three visits go to the last bin.

    Args:
        signals: of K trainings.
        pool: (K, N) bool, the samples that exist.
        bins: S.

    Returns:
        (K, N) int64 in 0..S-1.
    """
    known = pool & (signals.times_trained >= STEADY_VISITS)
    return loss_bins(signals.influence_variance, known, bins).masked_fill_(~known, bins - 1)


def feature_names(bins: int, control: Control, embedding: int = 0) -> list[str]:
    """What each entry of the observation is, in order.

    Args:
        bins: B, number of loss-rank bins.
        control: decides what is shown beside the state of the training.
        embedding: D, length of the model's features, where the control shows them.
    """
    quantiles = [f"{int(100 * q)} % quantile" for q in QUANTILES]
    names = [
        "share of the intervals done",
        "share of the budget left",
        "target ratio",
        "ratio of the last interval",
        "train loss of the last interval, l / (l + log C)",
        "train accuracy of the last interval",
        "validation accuracy",
        "gain in validation accuracy, times 5",
        *(f"loss of the seen samples, {q}, l / (l + log C)" for q in quantiles),
        *(f"confidence of the seen samples, {q}" for q in quantiles),
        *_bin_names("bin", bins),
        *(f"share of the last selection from bin {b}" for b in range(bins)),
    ]
    if control.stability_bins:
        names += _bin_names("stability bin", control.stability_bins)
    if control.shows_action:
        names += [f"last action: {name}" for name in control.names]
    shown = candidate_names(control, embedding)
    return names + [f"candidate {m}: {name}" for m in range(control.candidates) for name in shown]


def candidate_names(control: Control, embedding: int = 0) -> list[str]:
    """What each feature of a candidate is."""
    return [*FEATURES, *(f"model feature {d}" for d in range(embedding if control.embedding else 0))]


def _bin_names(kind: str, bins: int) -> list[str]:
    """Names of what `_by_bin` gives."""
    return [
        *(f"mean loss change of {kind} {b}, tanh(nats)" for b in range(bins)),
        *(f"share of {kind} {b} predicted other than labelled" for b in range(bins)),
        *(f"mean entropy of {kind} {b}" for b in range(bins)),
        *(f"mean age of {kind} {b} since the last visit, share of the training" for b in range(bins)),
        *(f"share of {kind} {b} never trained on" for b in range(bins)),
    ]


def observe(view: View, control: Control) -> Tensor:
    """The observation (K, O) of K trainings, each entry in [-1, 1]; names in `feature_names`."""
    state = observe_training(view, control)
    if not control.candidates:
        return state
    last_bin = view.last.selected.shape[1] - 1
    shown = describe(view.candidates, view.signals, view.bins, last_bin, view.interval, view.intervals)
    return torch.cat([state, shown.flatten(1)], 1)


def observe_training(view: View, control: Control) -> Tensor:
    """The part of the observation that is not about single candidates, (K, G)."""
    signals, last = view.signals, view.last
    trusted = view.shows_validation.float()
    scalars = [
        view.interval / view.intervals,
        view.budget_left,
        torch.full_like(view.interval, view.ratio),
        last.ratio,
        squash(last.train_loss, signals.classes),
        last.train_accuracy,
        last.validation_accuracy * trusted,
        5 * last.validation_gain * trusted,
    ]
    seen = signals.seen & view.pool
    bins = last.selected.shape[1]
    parts = [
        torch.stack(scalars, 1),
        squash(masked_quantiles(signals.loss, seen), signals.classes),
        masked_quantiles(signals.confidence, seen),
        *_by_bin(view, seen, view.bins, bins),
        last.selected,
    ]
    if control.stability_bins:
        parts += _by_bin(view, seen, view.stability, control.stability_bins)
    if control.shows_action:
        parts.append(last.action)
    return torch.cat(parts, 1).nan_to_num_(0.0).clamp_(-1, 1)


def masked_quantiles(values: Tensor, mask: Tensor) -> Tensor:
    """Lower quantiles (K, Q) of the masked entries of each row of (K, N); 0 where there are none."""
    ordered = kernels.sort(values.masked_fill(~mask, torch.inf))
    count = mask.sum(1, keepdim=True)
    share = torch.tensor(QUANTILES, device=values.device)
    position = (share * (count - 1)).long().clamp(min=0)
    return torch.where(count > 0, ordered.gather(1, position), 0.0)


def _by_bin(view: View, seen: Tensor, where: Tensor, bins: int) -> list[Tensor]:
    """Means over bins, five tensors (K, B); `where` (K, N) is the bin of each sample."""
    signals = view.signals
    age = (view.interval[:, None] - 1 - signals.last_step) / view.intervals
    columns = [signals.loss_change.tanh(), 1 - signals.correct, signals.entropy, age]
    weighted = torch.stack([*columns, torch.ones_like(age)], 1) * seen[:, None]  # (K, 5, N)
    rows = torch.cat([weighted, view.pool[:, None].float()], 1)
    sums = rows.new_zeros(*rows.shape[:2], bins)
    sums.scatter_add_(2, where[:, None].expand_as(rows), rows)
    seen_count, members = sums[:, -2], sums[:, -1].clamp(min=1)
    means = sums[:, :-2] / seen_count.clamp(min=1)[:, None]
    return [*means.unbind(1), 1 - seen_count / members]
