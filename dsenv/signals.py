"""SampleSignals: what is known about each training sample, on the training device.

Signals come from the training forward itself. A sample that was not trained on keeps its last
values; `last_step` says how old they are.
"""

import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from dsenv import kernels
from dsenv.task_kinds.base import TaskKind
from dsenv.task_kinds.classification import Classification, read_outputs

EMA_DECAY = 0.8  # weight of the old value in `loss_ema`
INFLUENCE_SHARE = 0.3  # weight of the newest change in `influence` and its variance
FROM_OUTPUTS = {
    "confidence": "confidence",
    "entropy": "entropy",
    "margin": "margin",
    "correct": "correct",
    "forgetting_events": "correct",
}
"""Signals that come from the model's outputs, and the reading of a `TaskKind` that each needs."""


class SampleSignals:
    """Per-sample history of one training run, or of K replicas of it.

    Every signal is a tensor of shape (N,), or (K, N) where `replicas` is given:

    | name              | dtype   | range     | meaning                                              |
    |-------------------|---------|-----------|------------------------------------------------------|
    | loss              | float32 | nats, >=0 | last training loss; log C before the first visit     |
    | loss_ema          | float32 | nats, >=0 | its exponential mean over visits                     |
    | loss_change       | float32 | nats      | last loss minus the one before                       |
    | loss_rank         | float32 | [0, 1]    | rank of the loss among those trained in its interval |
    | confidence        | float32 | [0, 1]    | probability of the given label                       |
    | entropy           | float32 | [0, 1]    | entropy of the prediction / log C                    |
    | margin            | float32 | [-1, 1]   | probability of the label minus the largest other     |
    | correct           | float32 | 0 or 1    | the prediction agrees with the given label           |
    | times_trained     | int32   | >=0       | visits so far                                        |
    | last_step         | int32   | >=-1      | step of the last visit; -1 before the first          |
    | forgetting_events | int32   | >=0       | changes from right to wrong (Toneva et al., 2019)    |
    | influence         | float32 | nats, >=0 | exponential mean of the size of the loss change      |
    | influence_variance| float32 | nats^2    | exponential variance of the same (SADA, loss form)   |

    Ranges and meanings are those of classification; `TaskKind` has them for other kinds of task, whose own
    `guess_loss` stands in the place of log C. Reading a signal that a kind does not give is an error.

    Use::

        import torch
        from dsenv import SampleSignals

        signals = SampleSignals(size=1000, classes=10)
        index = torch.arange(64)  # the samples of one batch
        logits, labels = torch.randn(64, 10), torch.randint(0, 10, (64,))
        loss = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
        signals.update(index, loss, logits, labels, step=0)
        hardest = signals.loss.topk(5).indices
        print(signals, signals.confidence[hardest], signals.times_trained.sum())

    Args:
        size: N, the number of training samples.
        classes: C, the number of classes; None where `kind` says it.
        replicas: K, or None for plain (N,) signals.
        device: where the tensors live.
        kind: of the task; None for classification.
    """

    def __init__(
        self,
        size: int,
        classes: int | None = None,
        replicas: int | None = None,
        device: torch.device | str = "cpu",
        *,
        kind: TaskKind | None = None,
    ) -> None:
        if size < 1 or (kind is None and (classes is None or classes < 2)):
            raise ValueError(f"signals need size >= 1 and classes >= 2, got {size} and {classes}")
        if kind is None:
            assert classes is not None
            kind = Classification(classes)

        self.size = size
        self.kind = kind
        self.replicas = replicas
        self.device = torch.device(device)
        self._initial = _before_training(kind)

        # One column more than samples: padding (index N) is written there and never read
        lead = () if replicas is None else (replicas,)
        self._store = {
            name: torch.full(
                (*lead, size + 1),
                value,
                dtype=torch.int32 if isinstance(value, int) else torch.float32,
                device=self.device,
            )
            for name, value in self._initial.items()
        }

    def __getattr__(self, name: str) -> Tensor:
        store = self.__dict__.get("_store", {})
        if name in FROM_OUTPUTS and (reason := self.kind.missing((FROM_OUTPUTS[name],))):
            raise ValueError(f"the signal {name!r} is not there: {reason}")
        if name in store:
            signal: Tensor = store[name][..., : self.size]
            return signal
        raise AttributeError(f"SampleSignals has no signal {name!r}; there are: {', '.join(store)}")

    def shown(self, name: str) -> Tensor:
        """A signal as agents see it: 0 where the kind of task does not give it."""
        if name in FROM_OUTPUTS and FROM_OUTPUTS[name] not in self.kind.gives:
            return self._store[name][..., : self.size]
        signal: Tensor = getattr(self, name)
        return signal

    @property
    def classes(self) -> int:
        """C.

        Raises:
            ValueError: the outputs are no logits of classes.
        """
        if self.kind.classes is None:
            raise ValueError(f"a task of kind {self.kind.name} has no number of classes")
        return self.kind.classes

    @property
    def guess_loss(self) -> float:
        """Loss of an uninformed guess, in nats: log C for classification."""
        return self.kind.guess_loss

    def __repr__(self) -> str:
        kind = self.kind
        of = kind.name if kind.classes is None else f"{kind.classes} classes"
        what = f"{self.size} samples, {of}"
        if self.replicas is not None:
            what = f"{self.replicas} replicas of {what}"
        elif self.device.type == "cpu":  # elsewhere the number would wait for the device
            what += f", {int(self.seen.sum())} seen"
        where = "" if self.device.type == "cpu" else f", {self.device}"
        return f"{type(self).__name__}({what}{where})"

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all signals."""
        return tuple(self._store)

    def of_replica(self, replica: int, index: Tensor | None = None) -> "SampleSignals":
        """The (N,) signals of one of K replicas: a view, or with `index` (M,) a copy of those samples."""
        rows = {name: tensor[replica] for name, tensor in self._store.items()}
        if index is not None:
            padding = index.new_tensor([self.size])
            rows = {name: tensor[torch.cat([index, padding])] for name, tensor in rows.items()}
        return self._like(self.size if index is None else len(index), rows, None)

    def as_replica(self) -> "SampleSignals":
        """These (N,) signals as those of K = 1 replicas, (1, N): a view."""
        assert self.replicas is None, self.replicas
        return self._like(self.size, {name: tensor[None] for name, tensor in self._store.items()}, 1)

    def grouped(self, index: Tensor) -> "SampleSignals":
        """Copies of these (N,) signals for groups (G, M) of samples, as if each were a replica of its own."""
        assert self.replicas is None, self.replicas
        padding = index.new_full((len(index), 1), self.size)
        index = torch.cat([index, padding], 1)
        return self._like(
            index.shape[1] - 1, {name: tensor[index] for name, tensor in self._store.items()}, len(index)
        )

    def _like(self, size: int, store: dict[str, Tensor], replicas: int | None) -> "SampleSignals":
        other = object.__new__(SampleSignals)
        other.size = size
        other.kind = self.kind
        other.replicas = replicas
        other.device = self.device
        other._initial, other._store = self._initial, store
        return other

    @property
    def seen(self) -> Tensor:
        """Which samples were trained on at least once, bool."""
        return self.times_trained > 0

    def reset(self, replicas: Iterable[int] | None = None) -> None:
        """Forget everything, or everything of the named replicas."""
        rows = None if replicas is None else list(replicas)
        for name, value in self._initial.items():
            store = self._store[name]
            for part in [store] if rows is None else [store[row] for row in rows]:
                part.fill_(value)

    def update(
        self,
        index: Tensor,
        loss: Tensor,
        logits: Tensor | None,
        labels: Tensor,
        step: int | Tensor,
        *,
        known: Tensor | None = None,
        filled: Tensor | None = None,
        counted: Tensor | None = None,
        readings: Mapping[str, Tensor] | None = None,
    ) -> None:
        """Take in one interval's training forward.

        Args:
            index: (..., B) int64 positions of the samples, each at most once; N marks padding.
            loss: (..., B) per-sample training loss, in nats.
            logits: (..., B, C) the model's outputs; None where they are not known: then the signals made of
                them stay as they were.
            labels: (..., B) int64 the labels trained on.
            step: number of this interval, stored as `last_step`; (K,) where replicas are at different ones.
            known: (..., B) bool, samples whose loss and outputs are to be taken in; None for all. Of the
                others the visit counts, and all else stays as it was.
            filled: (..., B) bool, samples that are not known, whose loss is to be taken in all the same,
                since the caller put another in its place; None for none.
            counted: (..., B) bool, samples that were trained on; None for all. Of the others not even the
                visit counts.
            readings: (..., B) each, what the kind of task read of the outputs, in the place of logits.
        """
        assert index.shape == loss.shape, (index.shape, loss.shape)
        assert logits is None or index.shape == labels.shape, (index.shape, labels.shape)
        assert logits is None or logits.shape[:-1] == index.shape, (index.shape, logits.shape)
        loss = loss.float()
        said = {} if logits is None else self._read(index, logits, labels, known)
        said |= {name: value.float() for name, value in (readings or {}).items() if name in self._store}

        old = {name: self.gather(name, index) for name in ("loss", "loss_ema", "correct")}
        visits = self.gather("times_trained", index)
        first = visits == 0
        forgot = torch.zeros_like(visits)
        if "correct" in said:
            forgot = (old["correct"] > said["correct"]).int()
        is_sample = index < self.size

        # The first visit has no loss to compare with
        new = {
            **self._influence(index, (loss - old["loss"]).abs(), visits),
            "loss_ema": torch.where(first, loss, torch.lerp(loss, old["loss_ema"], EMA_DECAY)),
            "loss_change": torch.where(first, torch.zeros_like(loss), loss - old["loss"]),
            "loss_rank": _rank(loss, is_sample if known is None else is_sample & known),
            "loss": loss,
            **said,
        }
        if known is not None:
            forgot = torch.where(known, forgot, torch.zeros_like(forgot))
            new = self._known_only(new, index, known, known if filled is None else known | filled)
        for name, value in new.items():
            self._write(name, index, value)
        self._write("times_trained", index, visits + (1 if counted is None else counted.int()))

        # A number is filled in on the device: a copy to a GPU would wait for it
        at = step.int()[:, None] if isinstance(step, Tensor) else visits.new_full((), step)
        at = at.to(self.device).expand_as(visits)
        if counted is not None:
            at = torch.where(counted, at, self.gather("last_step", index))
        self._write("last_step", index, at)
        self._store["forgetting_events"].scatter_add_(-1, index, forgot)

    def _known_only(
        self, new: dict[str, Tensor], index: Tensor, known: Tensor, with_loss: Tensor
    ) -> dict[str, Tensor]:
        """New values where they are known, old ones elsewhere; losses where `with_loss` says."""
        taken = {**dict.fromkeys(new, known), "loss": with_loss, "loss_ema": with_loss}
        return {
            name: torch.where(taken[name], value, self.gather(name, index)) for name, value in new.items()
        }

    def _read(
        self,
        index: Tensor,  # noqa: ARG002
        logits: Tensor,
        labels: Tensor,
        known: Tensor | None,  # noqa: ARG002
    ) -> dict[str, Tensor]:
        """What the outputs say, as signals; a subclass may take in more of the samples, see `update`."""
        return read_outputs(logits, labels)

    def _influence(self, index: Tensor, change: Tensor, visits: Tensor) -> dict[str, Tensor]:
        """Influence and its variance after a loss change of that size; there is none at a first visit."""
        mean, variance = self.gather("influence", index), self.gather("influence_variance", index)
        share = torch.where(visits > 1, INFLUENCE_SHARE, 1.0)  # the second visit gives the first change
        moved = share * (change - mean)
        spread = torch.where(visits > 1, (1 - share) * (variance + moved * (change - mean)), 0.0)
        return {"influence": torch.where(visits > 0, mean + moved, 0.0), "influence_variance": spread}

    def gather(self, name: str, index: Tensor) -> Tensor:
        """A signal at the positions `index` (..., M); its values at N, the padding, have no meaning."""
        return self._store[name].gather(-1, index)

    def _write(self, name: str, index: Tensor, value: Tensor) -> None:
        store = self._store[name]
        store.scatter_(-1, index, value.to(store.dtype))  # another where torch's default dtype is

    def state_dict(self) -> dict[str, Tensor]:
        """A copy of every signal."""
        return {name: tensor.clone() for name, tensor in self._store.items()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Continue from `state_dict()`.

        Raises:
            ValueError: the state is of another number of samples or replicas.
        """
        for name, tensor in self._store.items():
            if state[name].shape != tensor.shape:
                raise ValueError(
                    f"signal {name!r} of the state has shape {tuple(state[name].shape)}, "
                    f"this store needs {tuple(tensor.shape)}"
                )
            tensor.copy_(state[name])


def _before_training(kind: TaskKind) -> dict[str, float | int]:
    """Signals of a sample that was never trained on; 0 for what the kind of task does not give."""
    found = {
        "loss": kind.guess_loss,
        "loss_ema": kind.guess_loss,
        "loss_change": 0.0,
        "loss_rank": 0.5,
        "confidence": kind.guess_confidence,
        "entropy": 1.0,
        "margin": 0.0,
        "correct": 0.0,
        "times_trained": 0,
        "last_step": -1,
        "forgetting_events": 0,
        "influence": 0.0,
        "influence_variance": 0.0,
    }
    for name, reading in FROM_OUTPUTS.items():
        if reading not in kind.gives:
            found[name] *= 0
    return found


def _rank(values: Tensor, valid: Tensor) -> Tensor:
    """Rank of each valid value among the valid ones of its row, scaled to [0, 1]; (..., B)."""
    order = kernels.argsort(values.masked_fill(~valid, math.inf), stable=values.ndim > 1)
    ranks = torch.empty_like(values)
    positions = torch.arange(values.shape[-1], device=values.device, dtype=values.dtype)
    ranks.scatter_(-1, order, positions.expand_as(values))
    return ranks / (valid.sum(-1, keepdim=True) - 1).clamp(min=1)
