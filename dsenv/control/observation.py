"""Observation: what an agent sees of a training run, float32, of fixed size and free of scale.

No entry depends on the number of samples, the model or the unit of the loss, so a policy trained on
one task can act on another. The same function serves environments and plans.

Two tables say what is shown: `FEATURES` of the training run, `CANDIDATE_FEATURES` of each candidate sample.
Names and values are both made from them. A policy file holds the names that it was trained with: whoever
changes a name, its place or its meaning raises `VERSION`.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from dsenv import kernels
from dsenv.control.base import Control
from dsenv.control.state import Candidates, TrainingState
from dsenv.control.trimming import mean_visits, trimmed
from dsenv.select.trim import estimated_noise_rate
from dsenv.signals import SampleSignals

VERSION = 2
QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9)


def squash(loss: Tensor, guess_loss: float) -> Tensor:
    """Loss to [0, 1): one half for an uninformed guess, whose loss is `guess_loss` (log C for classes)."""
    loss = loss.clamp(0, 1e4)
    return loss / (loss + guess_loss)


def masked_quantiles(values: Tensor, mask: Tensor) -> Tensor:
    """Lower quantiles (K, Q) of the masked entries of each row of (K, N); 0 where there are none."""
    ordered = kernels.sort(values.masked_fill(~mask, torch.inf))
    count = mask.sum(1, keepdim=True)
    share = torch.tensor(QUANTILES, device=values.device)
    position = (share * (count - 1)).long().clamp(min=0)
    return torch.where(count > 0, ordered.gather(1, position), 0.0)


def share_of(which: Tensor, mask: Tensor) -> Tensor:
    """Share (K,) of the masked entries of each row of (K, N) bool that are true; 0 where there are none."""
    return (which & mask).sum(1) / mask.sum(1).clamp(min=1)


def standardised(values: Tensor, known: Tensor) -> Tensor:
    """Values (..., M) with the mean of the known ones taken off, over their deviation; 0 for the others."""
    count = known.sum(-1, keepdim=True).clamp(min=1)
    mean = (values * known).sum(-1, keepdim=True) / count
    off = (values - mean) * known
    # Values that are equal to rounding stay near 0, whichever way a CPU rounds their mean
    return off / ((off * off).sum(-1, keepdim=True) / count).sqrt().clamp(min=1e-4)


# Of the training run


class Reading:
    """A state as `FEATURES` read it: what several features need is made once.

    Args:
        state: of K training runs.
        control: its stability bins are shown.
    """

    def __init__(self, state: TrainingState, control: Control) -> None:
        self.state, self.signals = state, state.signals
        self.interval = state.intervals_done()
        """(K,) float32."""
        self.seen = state.signals.seen & state.pool
        """(K, N) bool, samples that exist and were trained on."""
        self.trusted = state.shows_validation.float()
        """(K,) 1 where the validation accuracy is shown, else 0."""
        self._bins = {
            "bin": (state.bins, state.selected.shape[1]),
            "stability bin": (state.stability, control.stability_bins),
        }
        self._by_bin: dict[str, dict[str, Tensor]] = {}

    def by_bin(self, kind: str, name: str) -> Tensor:
        """The entry `name` of `BY_BIN` for each bin of a kind, (K, B)."""
        if kind not in self._by_bin:
            self._by_bin[kind] = sums_by_bin(self, *self._bins[kind])
        return self._by_bin[kind][name]


Feature = Callable[[Reading], Tensor]


def mean_of_seen(total: Tensor, seen: Tensor, members: Tensor) -> Tensor:
    """Mean over the samples of a bin that were trained on; 0 where there are none."""
    del members
    return total / seen.clamp(min=1)


def share_unseen(total: Tensor | None, seen: Tensor, members: Tensor) -> Tensor:
    """Share of a bin's samples that were never trained on; 1 for an empty bin."""
    del total
    return 1 - seen / members.clamp(min=1)


class ByBin(NamedTuple):
    """How a feature of each bin is made: a sum over the bin's samples, and what becomes of it."""

    summed: Feature | None
    """What is summed over the samples of a bin that were trained on, (K, N); None for nothing."""
    value: Callable[..., Tensor]
    """The feature (K, B), from that sum, the number of those samples, and of all samples of the bin."""


BY_BIN: dict[str, ByBin] = {
    "mean loss change of {bin}, tanh(nats)": ByBin(lambda r: r.signals.loss_change.tanh(), mean_of_seen),
    "share of {bin} predicted other than labelled": ByBin(
        lambda r: 1 - r.signals.shown("correct"), mean_of_seen
    ),
    "mean entropy of {bin}": ByBin(lambda r: r.signals.shown("entropy"), mean_of_seen),
    "mean age of {bin} since the last visit, share of the training": ByBin(
        lambda r: (r.interval[:, None] - 1 - r.signals.last_step) / r.state.intervals, mean_of_seen
    ),
    "share of {bin} never trained on": ByBin(None, share_unseen),
}
"""What is shown of each bin; one pass over the samples makes all the sums."""


def sums_by_bin(reading: Reading, where: Tensor, bins: int) -> dict[str, Tensor]:
    """The features of `BY_BIN`, (K, B) each.

    Args:
        reading: the state.
        where: (K, N) int64 bin of each sample.
        bins: B.
    """
    columns = {name: entry.summed(reading) for name, entry in BY_BIN.items() if entry.summed is not None}

    seen = torch.ones_like(reading.signals.loss)
    weighted = torch.stack([*columns.values(), seen], 1) * reading.seen[:, None]
    rows = torch.cat([weighted, reading.state.pool[:, None].float()], 1)  # (K, number of columns + 2, N)

    *totals, seen_count, members = kernels.sums_by_group(rows, where, bins).unbind(1)

    total_of = dict(zip(columns, totals, strict=True))
    return {name: entry.value(total_of.get(name), seen_count, members) for name, entry in BY_BIN.items()}


def _features_of(kind: str) -> dict[str, Feature]:
    """The entries of `FEATURES` that `BY_BIN` makes for bins of a kind."""
    each = f"{kind} {{{kind}}}"
    return {name.replace("{bin}", each): partial(Reading.by_bin, kind=kind, name=name) for name in BY_BIN}


FEATURES: dict[str, Feature] = {
    "share of the intervals done": lambda r: r.interval / r.state.intervals,
    "share of the budget left": lambda r: r.state.budget_left(),
    "target ratio": lambda r: torch.zeros_like(r.interval) + r.state.target,
    "ratio of the last interval": lambda r: r.state.ratio,
    "train loss of the last interval, l / (l + log C)": lambda r: squash(
        r.state.train_loss, r.signals.guess_loss
    ),
    "train accuracy of the last interval": lambda r: r.state.train_accuracy,
    "validation accuracy": lambda r: r.state.validation_accuracy * r.trusted,
    "gain in validation accuracy, times 5": lambda r: 5 * r.state.validation_gain * r.trusted,
    "loss of the seen samples, {quantile} % quantile, l / (l + log C)": lambda r: squash(
        masked_quantiles(r.signals.loss, r.seen), r.signals.guess_loss
    ),
    "confidence of the seen samples, {quantile} % quantile": lambda r: masked_quantiles(
        r.signals.shown("confidence"), r.seen
    ),
    "estimated share of wrong labels": lambda r: estimated_noise_rate(r.signals.shown("margin"), r.seen),
    "share of the seen samples with a margin beyond 0.5": lambda r: share_of(
        r.signals.shown("margin").abs() > 0.5, r.seen
    ),
    "mean visits of a sample, v / (v + 4)": lambda r: saturating(mean_visits(r.state), 4),
    **_features_of("bin"),
    "share of the last selection from bin {bin}": lambda r: r.state.selected,
    **_features_of("stability bin"),
    "last action: {action}": lambda r: r.state.action,
}
"""What an agent sees of a training run: name -> function, in the order of the observation.

A function takes a `Reading` of K runs and gives one value each, (K,); or several, (K, n), where its name has
a word in braces: n values for the n quantiles, loss-rank bins, stability bins or components of the action.
The names of those entries come from putting number or component in the place of the word. Values that are
no number are shown as 0, those beyond [-1, 1] are cut. Stability bins are shown where the control has some,
the last action where the control's `shows_action` says so.
"""


def _places(bins: int, control: Control) -> dict[str, list[str]]:
    """What stands in the place of each word in braces; an empty list where it is not shown."""
    return {
        "{quantile}": [str(int(100 * share)) for share in QUANTILES],
        "{bin}": [str(b) for b in range(bins)],
        "{stability bin}": [str(b) for b in range(control.stability_bins)],
        "{action}": list(control.names) if control.shows_action else [],
    }


def _names_of(template: str, places: dict[str, list[str]]) -> list[str]:
    """Names of the entries that an entry of `FEATURES` stands for."""
    for word, values in places.items():
        if word in template:
            return [template.replace(word, value) for value in values]
    return [template]


def training_names(bins: int, control: Control) -> list[str]:
    """What each entry of `observe_training` is, in order; arguments as for `feature_names`."""
    places = _places(bins, control)
    return [name for template in FEATURES for name in _names_of(template, places)]


def feature_names(bins: int, control: Control, embedding: int = 0) -> list[str]:
    """What each entry of the observation is, in order.

    Args:
        bins: B, number of loss-rank bins.
        control: decides what is shown beside the state of the training run.
        embedding: D, length of the model's features, where the control shows them.
    """
    shown, names = candidate_names(control, embedding), training_names(bins, control)
    return names + [f"candidate {m}: {name}" for m in range(control.candidates) for name in shown]


def observe(state: TrainingState, control: Control) -> Tensor:
    """The observation (K, O) of K training runs, each entry in [-1, 1]; names in `feature_names`."""
    reading = Reading(state, control)
    found = _observe_training(reading, control)
    if not control.candidates:
        return found
    last_bin = state.selected.shape[1] - 1
    left_out = trimmed(state) >= 0
    shown = describe(
        state.candidates, state.signals, state.bins, left_out, last_bin, reading.interval, state.intervals
    )
    return torch.cat([found, shown.flatten(1)], 1)


def observe_training(state: TrainingState, control: Control) -> Tensor:
    """The part of the observation that is not about single candidates, (K, G)."""
    return _observe_training(Reading(state, control), control)


def _observe_training(reading: Reading, control: Control) -> Tensor:
    places = _places(reading.state.selected.shape[1], control)
    shown = [feature for template, feature in FEATURES.items() if _names_of(template, places)]
    columns = [feature(reading) for feature in shown]
    columns = [column[:, None] if column.ndim == 1 else column for column in columns]
    return torch.cat(columns, 1).nan_to_num_(0.0).clamp_(-1, 1)


# Of candidate samples


class Shown:
    """Candidates as `CANDIDATE_FEATURES` read them; tensors are (K, M).

    Args:
        candidates: which samples, and what the model says of them now.
        signals: of K training runs.
        bins: (K, N) loss-rank bin of each sample.
        left_out: (K, N) bool, whether the rule `trim` leaves the sample out.
        last_bin: number of the last bin.
        interval: (K,) intervals done.
        intervals: of the whole training run.
    """

    def __init__(
        self,
        candidates: Candidates,
        signals: SampleSignals,
        bins: Tensor,
        left_out: Tensor,
        last_bin: int,
        interval: Tensor,
        intervals: int,
    ) -> None:
        index, scores = candidates.index, candidates.scores
        self.guess_loss = signals.guess_loss
        self.of = {name: signals.gather(name, index) for name in signals.names}
        """What is known of the candidates: signals by name, as of now where there are scores."""
        if scores is not None:
            self.of |= {"loss": scores.loss, **scores.outputs}

        self.exists = (index < signals.size).float()
        self.unseen = (self.of["times_trained"] == 0).float()
        self.known = self.exists if scores is not None else self.exists * (1 - self.unseen)
        """Whose loss is known."""
        own = index.clamp(max=signals.size - 1)
        self.bin = bins.gather(1, own) / last_bin
        self.left_out = left_out.gather(1, own).float()
        self.age = (interval[:, None] - 1 - self.of["last_step"]) / intervals


CANDIDATE_FEATURES: dict[str, Callable[[Shown], Tensor]] = {
    "exists": lambda s: s.exists,
    "never trained on": lambda s: s.unseen,
    "loss rank at its last visit": lambda s: s.of["loss_rank"],
    "loss-rank bin, of all samples": lambda s: s.bin,
    "left out by the rule trim": lambda s: s.left_out,
    "loss, l / (l + log C)": lambda s: squash(s.of["loss"], s.guess_loss),
    "loss, standardised among the candidates, over 3": lambda s: standardised(s.of["loss"], s.known) / 3,
    "mean loss over visits, l / (l + log C)": lambda s: squash(s.of["loss_ema"], s.guess_loss),
    "loss change at its last visit, tanh(nats)": lambda s: s.of["loss_change"].tanh(),
    "confidence in the label": lambda s: s.of["confidence"],
    "margin of the label": lambda s: s.of["margin"],
    "entropy / log C": lambda s: s.of["entropy"],
    "predicted as labelled": lambda s: s.of["correct"],
    "times trained on, t / (t + 4)": lambda s: saturating(s.of["times_trained"], 4),
    "age of the last visit, share of the training": lambda s: s.age * (1 - s.unseen),
    "forgetting events, f / (f + 2)": lambda s: saturating(s.of["forgetting_events"], 2),
    "deviation of the influence, tanh(nats)": lambda s: s.of["influence_variance"].sqrt().tanh(),
}
"""What an agent sees of each candidate: name -> function to (K, M), in order.

Values that are no number are shown as 0, those beyond [-1, 1] are cut; all are 0 for padding. Where the
control shows the model's features, they follow as "model feature 0" and so on.
"""


def saturating(count: Tensor, half: int) -> Tensor:
    """A count as a number in [0, 1), one half at `half`."""
    count = count.float()
    return count / (count + half)


def candidate_names(control: Control, embedding: int = 0) -> list[str]:
    """What each feature of a candidate is.

    Args:
        control: says whether the model's features are shown.
        embedding: D, their length.
    """
    return [
        *CANDIDATE_FEATURES,
        *(f"model feature {d}" for d in range(embedding if control.embedding else 0)),
    ]


def describe(
    candidates: Candidates,
    signals: SampleSignals,
    bins: Tensor,
    left_out: Tensor,
    last_bin: int,
    interval: Tensor,
    intervals: int,
) -> Tensor:
    """Features of the candidates, (K, M, F) in [-1, 1]; all 0 for padding. F is 17, or 17 + D.

    Args:
        candidates: which samples, and what the model says of them now.
        signals: of K training runs.
        bins: (K, N) loss-rank bin of each sample.
        left_out: (K, N) bool, whether the rule `trim` leaves the sample out.
        last_bin: number of the last bin.
        interval: (K,) intervals done.
        intervals: of the whole training run.
    """
    shown, scores = (
        Shown(candidates, signals, bins, left_out, last_bin, interval, intervals),
        candidates.scores,
    )
    features = torch.stack([feature(shown) for feature in CANDIDATE_FEATURES.values()], -1)
    if scores is not None and scores.embedding is not None:
        scaled = standardised(scores.embedding.transpose(1, 2), shown.exists[:, None]).transpose(1, 2)
        features = torch.cat([features, scaled / 3], -1)
    return features.nan_to_num(0.0).clamp(-1, 1) * shown.exists[..., None]
