"""DataPlan: selector x volume schedule x augmentation in a training loop of one's own."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from dsenv.augment import AugmentationController
from dsenv.catalogue import Choice
from dsenv.errors import check_share
from dsenv.plan import checks, sources
from dsenv.plan.assembly import Choices, assemble
from dsenv.plan.batch import Batch, IndexedDataset, ViewBatch, split_sample, to_device
from dsenv.plan.build import VolumeChoice
from dsenv.plan.clock import Clock
from dsenv.plan.epoch_sampler import EpochSampler
from dsenv.plan.feedback import Feedback
from dsenv.plan.finish import BatchTransform, Transform
from dsenv.plan.forward import ForwardFunction, SampleLoss, full_pass
from dsenv.plan.loader import PlanLoader, PlanSampler
from dsenv.plan.records import Cost, PlanSignals
from dsenv.policy.parts import PolicyChoice
from dsenv.select.base import Selector


class DataPlan(Clock):
    """Decides what, how much and how strongly augmented a training loop sees.

    Use::

        plan = DataPlan((images, labels), epochs=30, batch_size=128, selector="infobatch", ratio=0.5)
        for epoch in plan.epochs_left():
            for batch in plan.batches():
                logits = model(batch.inputs)
                losses = F.cross_entropy(logits, batch.labels, reduction="none")
                loss = plan.loss(batch, losses, logits=logits)
                ...

    An epoch's samples are chosen when its first batch, or its length, is asked for; signals are taken
    in at its end. A batch counts as done once its `loss` was taken, so a state saved between two steps
    resumes at the next batch, however many a loader has fetched ahead.

    Args:
        data: a pair of tensors (inputs, labels) or a `TensorDataset` of two, which stay where they are; a
            pair of arrays, memory-mapped where they are large; or any map-style data set.
        epochs: length of the training.
        batch_size: samples a step.
        selector: WHAT, a `Selector`, a name of `dsenv.select.registry.SELECTORS`, "module:class", or a
            table of a name and settings: {"name": "infobatch", "keep": 0.3}; None for "random".
        ratio: mean share of the data in an epoch, (0, 1]; None for all data, for the ratio that a policy was
            trained with, or for the selector's own count where it has one (InfoBatch).
        volume: HOW MUCH, a `VolumeSchedule`, a name of `dsenv.volume.registry.SCHEDULES` or a table;
            None for the same ratio in every epoch.
        augment: HOW STRONG, an `AugmentationController`, a name of `dsenv.augment.CONTROLLERS` or a
            table; None for none. Inputs are then images, uint8 or floating in [0, 1].
        policy: a trained `Policy`, its file, or the name of a pretrained one: decides the parts that its
            control is about, which are then not given. Each of them may also be {"name": "learned",
            "policy": ...} by itself; parts of one policy share one view of the training.
        classes: C; None to read it off the labels, or the data set's `classes`.
        transform: applied to each batch of inputs on the device, after augmentation: normalisation.
        drop_last: leave out an epoch's last batch where it is smaller.
        uniform_epochs: first epochs whose samples are drawn uniformly, whatever the selector; for
            selectors that must be shown a model that has learnt something (`score`).
        scoring_passes: passes over the data (`score`) that the budget pays for, at a third of an epoch each;
            None for one where the selector needs it. With a schedule object they come on top of its budget.
        tail: share of the epochs, at the end, on all data where the selector sets its own count, [0, 1].
        device: where batches and signals live; None for that of the tensors, or the CPU.
        seed: decides every random choice, >= 0; global streams are not touched.

    Raises:
        ValueError: a name or setting is unknown, or the budget is too small.
    """

    def __init__(
        self,
        data: Any,
        *,
        epochs: int,
        batch_size: int,
        selector: Choice | Selector | None = None,
        ratio: float | None = None,
        volume: VolumeChoice = None,
        augment: Choice | AugmentationController | None = None,
        policy: PolicyChoice | None = None,
        classes: int | None = None,
        transform: Transform | None = None,
        drop_last: bool = False,
        uniform_epochs: int = 0,
        scoring_passes: int | None = None,
        tail: float = 0.125,
        device: torch.device | str | None = None,
        seed: int = 0,
    ) -> None:
        self._source = sources.open_source(data, device)
        size, self.device = len(self._source.dataset), self._source.device
        self.classes = self._source.classes if classes is None else classes
        given = {"size": size, "classes": self.classes, "device": self.device, "epochs": epochs, "seed": seed}
        choices = Choices(selector, volume, augment, policy, ratio, scoring_passes)
        made = assemble(choices, given, batch_size, drop_last)
        self.selector, self.controller, self.epoch_schedule = (
            made.selector,
            made.controller,
            made.epoch_schedule,
        )
        self.signals = PlanSignals(size, self.classes or 2, device=self.device)
        tail = check_share("tail", tail, zero=True)
        self.epoch_sampler = EpochSampler(
            self.selector, self.signals, self.epoch_schedule, uniform_epochs, tail, seed, made.policies
        )
        self.transform, self.cost, self._described = transform, Cost(), made.described
        self._transform_batch = BatchTransform(self.controller, transform, self.epoch_sampler, self.cost)
        self._feedback = Feedback(self.selector, self.controller, self.signals, self.cost, made.volume)
        self.dataset = IndexedDataset(self._source.dataset)
        """Gives (position, sample), for a DataLoader of one's own with `sampler`."""
        self.sampler = PlanSampler(self)

    def epochs_left(self) -> Iterator[int]:
        """Numbers of the epochs to train, from the present one on; each is ended after its loop body."""
        if self.epoch_sampler.is_done:  # the state was saved after an epoch's last batch
            self._end_epoch()
        while self.epoch_sampler.epoch < self.epochs:
            epoch = self.epoch_sampler.epoch
            yield epoch
            if self.epoch_sampler.epoch == epoch:
                self._end_epoch()

    def start_epoch(self, epoch: int) -> None:
        """Go to epoch `epoch`, the present or the next one: for loops that count epochs themselves."""
        present = self.epoch_sampler.epoch
        if epoch not in (present, present + 1):
            raise ValueError(
                f"the plan is in epoch {present} and can go on to {present + 1}, not to {epoch}; signals "
                "come from training, so epochs cannot be skipped: load a state of that epoch"
            )
        if epoch > present:
            self._end_epoch()

    def _end_epoch(self) -> None:
        checks.check_epoch(self.epoch_sampler.epoch, self.epoch_sampler.done)
        self._feedback.end_epoch(self.epoch_sampler.epoch)
        self.epoch_sampler.finish()

    def batches(self) -> Iterator[Batch | ViewBatch]:
        """What is left of the present epoch, as batches; a map-style data set is read in this process."""
        if not self._source.gathers:
            return iter(self.loader())
        with self.cost.timed("select"):
            left = self.epoch_sampler.left()
        first = self.epoch_sampler.done // self.batch_size
        indices, weights = (torch.split(part, self.batch_size) for part in (left.index, left.weight))
        cut = zip(indices, weights, self._source.gathered(indices), strict=True)
        return (
            self._transform_batch(index, inputs, labels, weight, first + number)
            for number, (index, weight, (inputs, labels)) in enumerate(cut)
        )

    def loader(self, **settings: Any) -> PlanLoader:
        """A loader of the plan's batches; make it once, before the loop over the epochs.

        Args:
            settings: arguments of `torch.utils.data.DataLoader`: num_workers, persistent_workers, ...
        """
        return PlanLoader(self, settings)

    def batch(self, index: Tensor, sample: Any, number: int | None = None) -> Batch | ViewBatch:
        """The batch made of what a DataLoader of one's own gave, over `plan.dataset` with `plan.sampler`.

        Args:
            index: (B,) int64 positions.
            sample: the collated samples: (inputs, labels), a mapping, or inputs alone.
            number: of the batch in its epoch; None for the next one to be trained on.

        Raises:
            ValueError: a sample is not among those of this epoch, or the loader's batches have another size.
        """
        weight = self.epoch_sampler.weights_of(index)
        checks.check_batch_size(len(index), self.batch_size, self.epoch_sampler.end)
        number = self.epoch_sampler.done // self.batch_size if number is None else number
        inputs, labels = split_sample(to_device(sample, self.device))
        return self._transform_batch(index.to(self.device), inputs, labels, weight, number)

    def loss(
        self,
        batch: Batch | ViewBatch,
        losses: Tensor,
        *,
        logits: Tensor | None = None,
        features: Tensor | None = None,
        forward: ForwardFunction | None = None,
    ) -> Tensor:
        """Weighted mean of a batch's losses; takes in what the training forward says of its samples.

        Call it once for each batch that is trained on.

        Args:
            batch: as the plan made it.
            losses: (B,) loss of each sample, with its graph.
            logits: (B, C) the model's outputs. Signals such as entropy come from them.
            features: (B, D) inputs of the model's last layer, see `FeatureForward`.
            forward: (inputs) -> (logits, features), for AdaAugment, which looks at two more views.

        Raises:
            ValueError: the losses are a scalar, or something that a part needs is missing.
        """
        seen = self._feedback.checked(batch, losses, logits, features, self.classes)
        self.epoch_sampler.check_room(len(losses))
        views = self._feedback.forward_views(batch, forward)
        self._feedback.take_in(seen, views, self.epoch_sampler)
        self.epoch_sampler.done += len(losses)
        self.cost.trained += len(losses)
        return (losses * batch.weight).mean()

    def score(
        self,
        forward: ForwardFunction,
        validation: Any = None,
        *,
        sample_loss: SampleLoss | None = None,
        **loader: Any,
    ) -> None:
        """Show the selector one pass over the training set; `cost.extra_forwards` counts its samples.

        For selectors that rank the samples by such a pass (`needs_pass`), before the first batch of the
        epoch that is to follow it.

        Args:
            forward: an `nn.Module` or `FeatureForward`, run in evaluation mode, or any function of the
                inputs; gives logits (B, C), or (logits, features (B, D)).
            validation: (inputs, labels) or a data set of held-out samples, for selectors that use them.
            sample_loss: per-sample loss of (logits, labels); None for cross-entropy.
            loader: batch_size of the pass and, where the data are not tensors, further arguments of
                `torch.utils.data.DataLoader`: num_workers, collate_fn, ...

        Raises:
            ValueError: the selector needs features or a validation split, and there are none.
        """
        data = [self._source]
        if validation is not None:
            data.append(sources.open_source(validation, self.device))
        with self.cost.timed("score"):
            passes = [
                full_pass(forward, source.batches(self.transform, **loader), sample_loss) for source in data
            ]
        self.cost.extra_forwards += sum(len(source.dataset) for source in data)
        with self.cost.timed("select"):
            self.selector.prepare(*passes)
        self.epoch_sampler.scoring_passes += 1

    def report_validation(self, accuracy: float) -> None:
        """Report the accuracy on a trusted validation split, for policies that were trained with it in sight.

        Call it at the end of each epoch, before the loop goes on. Plans without such a policy take no notice.

        Args:
            accuracy: share of the split's samples that the model predicts as labelled, in [0, 1].
        """
        check_share("validation accuracy", float(accuracy), zero=True)
        if self.epoch_sampler.policies is not None:
            self.epoch_sampler.policies.validated(accuracy)

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on from the next batch: tensors, numbers and strings."""
        return {
            "plan": self._settings(),
            "epoch_sampler": self.epoch_sampler.state_dict(),
            "feedback": self._feedback.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`, bit for bit; batches of an iterator made before are void.

        Raises:
            ValueError: the state is of a plan with other settings.
        """
        checks.check_state(state, self._settings())
        self.epoch_sampler.load_state_dict(state["epoch_sampler"])
        self._feedback.load_state_dict(state["feedback"])

    def _settings(self) -> dict[str, Any]:
        """What a state can be continued under."""
        return {**self.epoch_schedule.as_dict(), **self.epoch_sampler.settings(), **self._described}
