"""Trainer: trains K replicas of a task's model, one interval after another."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from dsenv import kernels
from dsenv.errors import check_count, check_flag, check_positive, pick
from dsenv.outputs import ModelOutputs, of_classes
from dsenv.select.base import StackedSelection
from dsenv.signals import SampleSignals
from dsenv.states import fitted, listed
from dsenv.tasks.task import Task
from dsenv.training.base import State, cloned, flat
from dsenv.training.data import ResidentSplit, rows_of
from dsenv.training.hooks import BatchHooks
from dsenv.training.replicas import make_replicas
from dsenv.training.scores import Interval, Score, Totals, score_classes, score_kind, task_share

PRECISIONS = ("fp32", "bf16")
MOST_REPLICAS = 100_000
FLUSH_ELEMENTS = 1 << 24  # logits kept in an interval before the signals are updated with them
PREDICT_ELEMENTS = 1 << 22  # input values of one evaluation forward


class Trainer:
    """K training runs of one task, side by side, each with its own labels and initial parameters.

    Args:
        task: what to train.
        replicas: K.
        device: where data, parameters and signals live.
        form: how replicas run together, see `make_replicas`.
        precision: "fp32", or "bf16" for autocast.
        channels_last: memory layout of images and convolutions (loop form).
        compile: pass the models through `torch.compile` (loop form).
        threads: replicas that run at the same time (loop form on a CPU); torch's own threads should be 1.
    """

    def __init__(
        self,
        task: Task,
        replicas: int = 1,
        device: torch.device | str = "cpu",
        *,
        form: str = "auto",
        precision: str = "fp32",
        channels_last: bool = False,
        compile: bool = False,
        threads: int = 1,
    ) -> None:
        replicas = check_count("replicas", replicas, most=MOST_REPLICAS)
        threads = check_count("trainer.threads", threads)
        channels_last = check_flag("trainer.channels_last", channels_last)
        compile = check_flag("trainer.compile", compile)
        pick("precision", precision, PRECISIONS)
        self.task, self.device = task, torch.device(device)
        self.replicas = make_replicas(
            task,
            replicas,
            self.device,
            form,
            autocast=precision == "bf16",
            channels_last=channels_last,
            compile=compile,
            threads=threads,
        )
        self.size = len(task.dataset.train)
        """N, the number of training samples."""

        self.splits: dict[str, ResidentSplit] = {}  # by name, those read so far
        self.signals = SampleSignals(self.size, None, replicas, self.device, kind=task.kind)
        self._labels = torch.zeros(replicas, self.size + 1, dtype=torch.int64, device=self.device)
        self.split("train")  # moved to the device now, not within a step
        self._validation_labels: Tensor | None = None  # (K, V), where replicas have their own
        self._wrong: Tensor | None = None  # (K, N), once it was asked for
        self._lr_factors = [1.0] * replicas

    @property
    def labels(self) -> Tensor:
        """(K, N) the labels each replica trains on.

        For other kinds of task than classification, the training samples whose targets they are.
        """
        return self._labels[:, : self.size]

    @property
    def wrong(self) -> Tensor:
        """(K, N) bool, which labels or targets are not those of the data set."""
        if self._wrong is None:
            clean = self.split("train").labels
            differs = self._targets("train", self.labels) != clean
            self._wrong = differs if differs.dim() == 2 else differs.flatten(2).any(-1)
        return self._wrong

    def _targets(self, split: str, labels: Tensor) -> Tensor:
        """Targets (..., *shape) of `labels` (...): classes themselves, or rows of the split's targets."""
        if self.task.kind.classes is not None:
            return labels
        return rows_of(self.split(split).labels, labels)

    def split(self, name: str) -> ResidentSplit:
        """A split of the data set, moved to the device at its first use."""
        if name not in self.splits:
            splits = self.task.dataset.splits()
            self.splits[name] = ResidentSplit(
                splits[pick("split", name, splits)], self.task.dataset, self.device
            )
        return self.splits[name]

    def start(
        self,
        replica: int,
        seed: int,
        labels: Tensor,
        validation_labels: Tensor | None = None,
        *,
        width: float = 1.0,
        lr: float = 1.0,
    ) -> None:
        """Begin a new training run in one replica.

        Args:
            replica: which one, 0..K-1.
            seed: decides its initial parameters.
            labels: (N,) int64, the labels to train on; for other kinds of task than classification the
                training samples whose targets to train on.
            validation_labels: (V,) the same for the validation split; None for those of the data set. Give
                them to every replica, or to none.
            width: share of the model's hidden units, (0, 1]; see `narrow_parameters`.
            lr: factor on the recipe's learning rates, > 0.
        """
        self.replicas.start(replica, seed, width)
        self._lr_factors[replica] = lr
        self._labels[replica, : self.size] = labels.to(self.device)
        self._wrong = None
        self.signals.reset([replica])

        if validation_labels is not None:
            if self._validation_labels is None:
                self._validation_labels = self._clean("validation").repeat(self.replicas.count, 1)
            self._validation_labels[replica] = validation_labels.to(self.device)

    def _clean(self, split: str) -> Tensor:
        """(N,) labels of the data set; for other kinds of task the samples themselves, in their order."""
        data = self.split(split)
        return data.labels if self.task.kind.classes else torch.arange(data.size, device=self.device)

    def _labels_of(self, split: str) -> Tensor:
        """Labels that a split is scored on: (K, N), or (1, N) where all replicas have the same."""
        if split == "validation" and self._validation_labels is not None:
            return self._validation_labels
        return self._clean(split)[None]

    def train(
        self,
        selection: StackedSelection,
        step: int | Tensor,
        spent: Sequence[int],
        budget: Sequence[int],
        hooks: BatchHooks | None = None,
    ) -> Interval:
        """Train every replica once on its selected samples, in the order given.

        Args:
            selection: the samples and their weights; a replica that selects none is left untouched.
            step: number of this interval, for the signals; (K,) where replicas are at different ones.
            spent: samples that each replica has seen before.
            budget: samples that each replica sees in its whole training run, for the learning-rate schedule.
            hooks: augments every batch before the forward pass and receives the outputs of the models.
        """
        starts = range(0, selection.index.shape[1], self.task.recipe.batch_size)
        rates = self._learning_rates(selection.counts, starts, spent, budget)
        self.replicas.features_wanted = hooks is not None and hooks.needs_features
        total = Totals(self.replicas.count, self.device)
        parts: list[ModelOutputs] = []
        pending = 0

        for number, start in enumerate(starts):
            # The batch: positions, labels, weights, and inputs that the hooks augment
            sizes = [self._batch_size(count - start, start > 0) for count in selection.counts]
            if not any(sizes):  # the last sample went with the batch before
                continue
            index, weight = self._batch(selection, start, sizes)  # (K, B)
            labels = self._targets("train", self._labels.gather(1, index))
            inputs = self.task.kind.inputs_for(self._inputs(index, sizes, hooks), labels)

            # One optimiser step; the hooks get the outputs from before it
            found = self.replicas.step(inputs, index, labels, weight, sizes, rates[number])
            if hooks is not None:
                hooks.observe(found, sizes)

            # The signals are updated once an interval, or earlier where its logits are many
            parts.append(found)
            pending += found.loss.numel() if found.logits is None else found.logits.numel()
            if pending > FLUSH_ELEMENTS:
                self._take_in(parts, step, total)
                parts, pending = [], 0

        self._take_in(parts, step, total)
        return Interval(total.loss / total.count, total.correct / total.count)

    def _batch_size(self, left: int, is_later: bool) -> int:
        """Samples of a replica's next batch when `left` are left of the interval.

        Where batch statistics need two samples, a single one that would be left over goes with the batch
        before it.
        """
        batch = self.task.recipe.batch_size
        if self.replicas.needs_company and batch > 1:
            if left == batch + 1:
                return left
            if left == 1 and is_later:
                return 0
        return min(max(left, 0), batch)

    def _batch(self, selection: StackedSelection, start: int, sizes: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Positions and weights (K, B) of the batch that begins at `start`; N is padding.

        Where one pass serves all replicas, B does not depend on what the others select: another shape would
        round otherwise.
        """
        wanted = max(sizes)
        index = selection.index[:, start : start + wanted]
        weight = selection.weight[:, start : start + wanted]

        # Samples that belong to another batch of their replica
        if [min(max(count - start, 0), wanted) for count in selection.counts] != list(sizes):
            size = kernels.sent(torch.tensor(sizes), self.device)
            place = torch.arange(wanted, device=self.device)
            index = index.masked_fill(place >= size[:, None], self.size)

        missing = min(self.task.recipe.batch_size, self.size) - wanted
        if self.replicas.stacked and missing > 0:
            index = functional.pad(index, (0, missing), value=self.size)
            weight = functional.pad(weight, (0, missing))
        return index, weight

    def _inputs(self, index: Tensor, sizes: Sequence[int], hooks: BatchHooks | None) -> Tensor:
        """(K, B, ...) inputs, augmented where the hooks do that."""
        train = self.split("train")
        if hooks is None or not hooks.augments:
            return train.gather(index)
        return train.normalise(hooks.augment(train.raw(index), index, sizes))

    def _learning_rates(
        self, counts: Sequence[int], starts: range, spent: Sequence[int], budget: Sequence[int]
    ) -> Tensor:
        """(S, K) learning rate of each step of the interval."""
        rate = self.task.recipe.learning_rate
        rows = [
            [
                factor * rate((done + min(start, count)) / total)
                for factor, done, count, total in zip(self._lr_factors, spent, counts, budget, strict=True)
            ]
            for start in starts
        ]
        return torch.tensor(rows, device=self.replicas.lr_device)

    def _take_in(self, parts: list[ModelOutputs], step: int | Tensor, total: Totals) -> None:
        """Update the signals and the totals with the outputs of the training forward."""
        if not parts:
            return

        index, loss = (torch.cat([getattr(part, name) for part in parts], 1) for name in ("index", "loss"))
        labels = self._labels.gather(1, index)
        if parts[0].readings is None:
            logits = torch.cat([part.logits for part in parts if part.logits is not None], 1)
            self.signals.update(index, loss, logits, labels, step)
            correct = logits.argmax(-1) == labels
        else:
            each = [part.readings for part in parts if part.readings is not None]
            readings = {name: torch.cat([one[name] for one in each], 1) for name in each[0]}
            self.signals.update(index, loss, None, labels, step, readings=readings)
            correct = readings.get("correct", task_share(self.task.kind, loss))
        total.add(loss, correct, index < self.size, self.size)

    def _predictions(self, split: str, labels: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
        """Targets by labels (K or 1, N), logits and features of a split in evaluation mode, in batches."""
        data = self.split(split)
        # A loop on a GPU runs one replica at a time; elsewhere the batches of all must fit into memory.
        together = 1 if self.device.type == "cuda" and not self.replicas.stacked else self.replicas.count
        each = max(data.images[0].numel(), self.replicas.outputs_each, 64)
        chunk = max(1, PREDICT_ELEMENTS // (together * each))

        for start in range(0, data.size, chunk):
            where = slice(start, min(start + chunk, data.size))
            targets = self._targets(split, labels[:, where])
            samples = self.task.kind.inputs_for(data.normalise(data.images[where])[None], targets)
            samples, targets = (v.expand(self.replicas.count, *v.shape[1:]) for v in (samples, targets))
            yield targets, *self.replicas.predict(samples)

    @torch.no_grad()
    def evaluate(self, split: str) -> Score:
        """Score every replica on a split, in evaluation mode.

        The environment reads only "train" and "validation"; "test" is for evaluation. Labels are those of
        the data set, except for a validation split with its own labels: see `start`.
        """
        size, count = self.split(split).size, self.replicas.count
        self.replicas.features_wanted = False
        found = ((outputs, wanted) for wanted, outputs, _ in self._predictions(split, self._labels_of(split)))
        if self.task.kind.classes is None:
            return score_kind(found, self.task.kind, count, size)
        return score_classes(found, count, size, self.device)

    @torch.no_grad()
    def class_hits(self, split: str) -> tuple[Tensor, Tensor]:
        """Samples of each class that every replica predicts as labelled (K, C), and how many there are (C,).

        In evaluation mode, as `evaluate`, whose accuracy is the share over all classes. For other kinds of
        task there is one group: the metric (K, 1), and 1.
        """
        if self.task.kind.classes is None:
            metric = self.evaluate(split).accuracy[:, None]
            return metric, torch.ones(1, dtype=torch.int64, device=self.device)
        data, classes = self.split(split), self.task.dataset.classes
        self.replicas.features_wanted = False
        hits = torch.zeros(self.replicas.count, classes, device=self.device)
        for wanted, logits, _ in self._predictions(split, data.labels[None]):
            hits.scatter_add_(1, wanted, (logits.argmax(-1) == wanted).float())
        return hits, data.labels.bincount(minlength=classes)

    @torch.no_grad()
    def scoring_pass(self, split: str) -> list[ModelOutputs]:
        """One forward pass over a split: the outputs of each replica for every sample, with features.

        The labels for "train" are those each replica trains on, else those it is scored on. The pass costs
        one extra forward a sample.
        """
        self.replicas.features_wanted = True
        rows = self.labels if split == "train" else self._labels_of(split).expand(self.replicas.count, -1)
        found = list(self._predictions(split, rows))
        own, logits = (torch.cat(parts, 1) for parts in ([p[0] for p in found], [p[1] for p in found]))
        features = torch.cat([part[2] for part in found if part[2] is not None], 1)
        index = torch.arange(rows.shape[1], device=self.device)
        passes = []
        for k in range(len(logits)):
            loss = self.task.sample_loss(logits[k], own[k])
            kept, readings = self.replicas.read(logits[k], own[k], loss)
            labels = of_classes(rows[k], index, kept)
            passes.append(ModelOutputs(index, labels, loss, kept, features[k], readings))
        return passes

    @torch.no_grad()
    def score_candidates(self, index: Tensor, *, features: bool = False) -> ModelOutputs:
        """One forward pass over a few training samples of each replica, in evaluation mode.

        Args:
            index: (K, M) int64 positions; N is padding.
            features: whether to return the inputs of the last linear layer too.

        Returns:
            Outputs of the models; the (K, M) labels are those they are trained on.
        """
        self.replicas.features_wanted = features
        labels = self._targets("train", self._labels.gather(1, index))
        inputs = self.task.kind.inputs_for(self.split("train").gather(index), labels)
        logits, seen = self.replicas.predict(inputs)
        loss = self.task.sample_loss(*flat(2, logits, labels)).view(index.shape)
        kept, readings = self.replicas.read(logits, labels, loss)
        return ModelOutputs(index, of_classes(labels, index, kept), loss, kept, seen, readings)

    def state_dict(self) -> State:
        """Everything needed to continue all training runs."""
        return {
            "replicas": self.replicas.state_dict(),
            "signals": self.signals.state_dict(),
            "labels": self._labels.clone(),
            "validation_labels": cloned(self._validation_labels),
            "lr_factors": list(self._lr_factors),
        }

    def load_state_dict(self, state: State) -> None:
        """Continue from `state_dict()`.

        Raises:
            ValueError: the state is of other models or other data.
        """
        count, validation = self.replicas.count, state["validation_labels"]
        labels = fitted("labels", state["labels"], self._labels)
        factors = [
            check_positive("lr_factors", value) for value in listed("lr_factors", state["lr_factors"], count)
        ]
        if validation is not None:
            like = self._clean("validation").expand(count, -1)
            validation = fitted("validation_labels", validation, like).clone()

        self.replicas.load_state_dict(state["replicas"])
        self.signals.load_state_dict(state["signals"])
        self._labels.copy_(labels)
        self._wrong = None
        self._validation_labels = validation
        self._lr_factors = factors
