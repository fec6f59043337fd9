"""DataPlan: selector x volume schedule x augmentation in your own training loop."""

import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from dsenv.augment.base import AugmentationController
from dsenv.catalogue import Choice
from dsenv.errors import check_share
from dsenv.kernels import sent
from dsenv.plan import build, checks
from dsenv.plan.data import Batch, IndexedDataset, open_source, split_sample, to_device
from dsenv.plan.epoch_sampler import EpochSampler, PlanLoader, PlanSampler, check_world
from dsenv.plan.feedback import BatchTransform, Cost, Feedback, PlanSignals, Transform
from dsenv.plan.forward import ForwardFunction, SampleLoss, full_pass
from dsenv.plan.suspects import Suspects, find_suspects
from dsenv.policy.parts import PolicyChoice
from dsenv.select.base import Selector

_NUMBERS = itertools.count()  # of the plans of this process; batches carry them


class DataPlan:
    """Decides what, how much and how strongly augmented a training loop sees.

    Use::

        import torch
        import torch.nn.functional as F
        from dsenv import DataPlan

        images, labels = torch.rand(500, 20), torch.randint(0, 4, (500,))
        model = torch.nn.Linear(20, 4)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        plan = DataPlan((images, labels), epochs=4, batch_size=50, selector="infobatch", ratio=0.5)
        for epoch in plan.epochs_left():
            for batch in plan.batches():
                logits = model(batch.inputs)
                losses = F.cross_entropy(logits, batch.labels, reduction="none")
                loss = plan.loss(batch, losses, logits=logits)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        print(plan, plan.cost)

    An epoch's samples are chosen when its first batch, or its length, is asked for; signals are taken
    in at its end. A batch counts as done once its `loss` was taken, so a state saved between two steps
    resumes at the next batch, however many a loader has fetched ahead.

    Args:
        data: a pair of tensors (inputs, labels) or a `TensorDataset` of two, which stay where they are; a
            pair of arrays, memory-mapped where they are large; or any map-style data set.
        epochs: length of the training run.
        batch_size: samples a step.
        selector: WHAT: a name of `dsenv.select.registry.SELECTORS`, "module:Class", a table of a name and
            settings ({"name": "infobatch", "keep": 0.3}), a class, or a `Selector`; None for "random".
        ratio: mean share of the data in an epoch, (0, 1]; None for all data, for the ratio that a policy was
            trained with, or for the selector's own count where it has one (InfoBatch).
        volume: HOW MUCH: a `VolumeSchedule`, a name of `dsenv.volume.registry.SCHEDULES`, or any other form
            as for `selector`; None for the same ratio in every epoch.
        augment: HOW STRONG: an `AugmentationController`, a name of `dsenv.augment.CONTROLLERS`, or any other
            form as for `selector`; None for none. Inputs are then images, uint8 or floating in [0, 1].
        policy: a trained `Policy`, its file, or the name of a pretrained one: decides the parts that its
            control is about, which are then not given. Each of them may also be {"name": "learned",
            "policy": ...} by itself; parts of one policy share one view of the training run.
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
        ValueError: a name or setting is unknown, the budget is too small, or the process is one of several
            of a `torch.distributed` group.
    """

    def __init__(
        self,
        data: Any,
        *,
        epochs: int,
        batch_size: int,
        selector: Choice | Selector | None = None,
        ratio: float | None = None,
        volume: build.VolumeChoice = None,
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
        check_world()

        # The samples
        self._source = open_source(data, device)
        size, self.device = len(self._source.dataset), self._source.device
        self.classes = self._source.classes if classes is None else classes
        self.signals = PlanSignals(size, self.classes or 2, device=self.device)
        self.dataset = IndexedDataset(self._source.dataset)
        """Gives (position, sample), for your own DataLoader with `sampler`."""

        # What, how much, how strong
        chosen = {"selector": selector, "volume": volume, "augment": augment}
        given = {"size": size, "classes": self.classes, "device": self.device, "epochs": epochs, "seed": seed}
        parts = build.make_parts(policy, chosen, given)
        self.selector = parts.selector
        self.controller = parts.controller
        self._words = parts.words

        # How many samples each epoch has, and which
        said = build.Budgeted(epochs, batch_size, drop_last, ratio, scoring_passes)
        self.epoch_schedule, policies = build.plan_epochs(said, parts, self.signals, self.classes, seed)
        self.epoch_sampler = EpochSampler(
            self.selector, self.signals, self.epoch_schedule, uniform_epochs, tail, seed, policies
        )
        self.sampler = PlanSampler(self.epoch_sampler, self.start_epoch)

        # What is done to a batch, and what is learned from it
        self.transform, self.cost = transform, Cost()
        self._number = next(_NUMBERS)
        self._transform_batch = BatchTransform(
            self._number, self.controller, transform, self.epoch_sampler, self.cost
        )
        self._feedback = Feedback(self.selector, self.controller, self.signals, self.cost, parts.volume)

    # Epochs, steps, progress

    @property
    def epochs(self) -> int:
        """Length of the training run."""
        return self.epoch_schedule.epochs

    @property
    def batch_size(self) -> int:
        """Samples a step."""
        return self.epoch_schedule.batch_size

    @property
    def epoch(self) -> int:
        """Number of the current epoch, as many as there are after the last."""
        return self.epoch_sampler.epoch

    @property
    def progress(self) -> float:
        """Share of the training run that is over, in [0, 1]: that of the budget of samples."""
        return self.epoch_sampler.progress

    @property
    def total_steps(self) -> int:
        """Optimiser steps of the whole plan.

        Raises:
            ValueError: numbers of samples are decided during the training run.
        """
        return self.epoch_schedule.total_steps

    def steps_in_epoch(self, epoch: int | None = None) -> int:
        """Optimiser steps of an epoch; None for the current one."""
        epoch = self.epoch_sampler.epoch if epoch is None else epoch
        if epoch == self.epoch_sampler.epoch and self.epoch_schedule.counts is None:
            return self.epoch_schedule.steps(len(self.epoch_sampler.chosen.index))
        return self.epoch_schedule.steps_in(epoch)

    def epochs_left(self) -> Iterator[int]:
        """Numbers of the epochs to train, from the current one on; each is ended after its loop body."""
        if self.epoch_sampler.is_done:  # the state was saved after an epoch's last batch
            self._end_epoch()
        while self.epoch_sampler.epoch < self.epochs:
            epoch = self.epoch_sampler.epoch
            yield epoch
            if self.epoch_sampler.epoch == epoch:
                self._end_epoch()

    def start_epoch(self, epoch: int) -> None:
        """Go to epoch `epoch`, the current or the next one: for loops that count epochs themselves."""
        checks.check_next_epoch(epoch, self.epoch)
        if epoch > self.epoch:
            self._end_epoch()

    def _end_epoch(self) -> None:
        sampler = self.epoch_sampler
        checks.check_epoch(sampler.epoch, sampler.done, sampler.end if sampler.done else None)
        self._feedback.end_epoch(sampler.epoch)
        sampler.finish()

    def lr_scheduler(self, optimizer: Optimizer, shape: Callable[[float], float]) -> LambdaLR:
        """A scheduler to step after each optimiser step; `shape` maps progress to a factor on the rate."""
        return LambdaLR(optimizer, lambda _: shape(self.progress))

    def check_scheduler(self, scheduler: Any) -> None:
        """Warn when a scheduler is made for another number of steps than the plan has."""
        checks.check_total_steps(scheduler, self.total_steps, self.epochs)

    # Batches

    def batches(self) -> Iterator[Batch]:
        """What is left of the current epoch, as batches; a map-style data set is read in this process."""
        if not self._source.gathers:
            return iter(self.loader())
        with self.cost.timed("select"):
            left = self.epoch_sampler.left()

        first = self.epoch_sampler.batches_done
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
        return PlanLoader(self.dataset, self.sampler, self.epoch_sampler, self.batch, settings)

    def batch(self, index: Tensor, sample: Any, number: int | None = None) -> Batch:
        """The batch made of what your own DataLoader gave, over `plan.dataset` with `plan.sampler`.

        Args:
            index: (B,) int64 positions.
            sample: the collated samples: (inputs, labels), a mapping, or only inputs.
            number: of the batch in its epoch; None to tell it by the positions.

        Raises:
            ValueError: a sample is not among those of this epoch, or the loader's batches have another size.
        """
        weight = self.epoch_sampler.weights_of(index)
        number = self.epoch_sampler.number_of(index) if number is None else number
        checks.check_batch_size(
            len(index), self.batch_size, self.epoch_sampler.end - number * self.batch_size
        )
        inputs, labels = split_sample(to_device(sample, self.device))
        return self._transform_batch(sent(index, self.device), inputs, labels, weight, number)

    # What a training forward says

    def loss(
        self,
        batch: Batch,
        losses: Tensor,
        *,
        logits: Tensor | None = None,
        features: Tensor | None = None,
        forward: ForwardFunction | None = None,
    ) -> Tensor:
        """Weighted mean of a batch's losses; takes in what the training forward says of its samples.

        That is `observe` and then `weighted`. Call it once for each batch that is trained on.

        Args:
            batch: as the plan made it.
            losses: (B,) loss of each sample, with its graph.
            logits: (B, C) the model's outputs. Signals such as entropy come from them.
            features: (B, D) inputs of the model's last layer, see `FeatureForward`.
            forward: (inputs) -> (logits, features), for controllers that compare further views (AdaAugment).

        Raises:
            ValueError: the losses are a scalar, or something that a part needs is missing.
        """
        self.observe(batch, losses, logits=logits, features=features, forward=forward)
        return self.weighted(batch, losses)

    def observe(
        self,
        batch: Batch,
        losses: Tensor,
        *,
        logits: Tensor | None = None,
        features: Tensor | None = None,
        forward: ForwardFunction | None = None,
    ) -> None:
        """Take in what the training forward says of a batch, which then counts as trained on.

        For loops that weigh the losses themselves, token by token for instance. Once for each batch.

        Arguments and errors as for `loss`; the graph of the losses is not used.
        """
        # 1. The batch is of this epoch, the outputs have the right shape, and the epoch has room for them
        checks.check_stamp(batch, self._number, self.epoch)
        seen = self._feedback.checked(batch, losses, logits, features, self.classes)
        self.epoch_sampler.check_room(len(losses))

        # 2. Further views, where the controller compares them
        views = self._feedback.forward_views(batch, forward)

        # 3. Signals, selector and controller take it in
        self._feedback.take_in(seen, views, self.epoch_sampler)

        # 4. The samples count as trained on
        self.epoch_sampler.done += len(losses)
        self.cost.trained += len(losses)

    def weighted(self, batch: Batch, losses: Tensor) -> Tensor:
        """Weighted mean () of a batch's losses (B,), with its graph; nothing is taken in.

        For a second pass over the same batch (SAM, L-BFGS) and for logging.

        Raises:
            ValueError: the losses are not one value a sample.
        """
        checks.check_losses(losses, len(batch.index), batch.weight.device)
        return (losses * batch.weight).mean()

    def score(
        self,
        forward: ForwardFunction,
        validation: Any = None,
        *,
        sample_loss: SampleLoss | None = None,
        **loader: Any,
    ) -> None:
        """Scoring pass: show the selector one pass over the training set; `cost.extra_forwards` counts it.

        For selectors that rank the samples by it (`needs_pass`), before the epoch that is to follow it.

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
        sources = [self._source]
        if validation is not None:
            sources.append(open_source(validation, self.device))

        with self.cost.timed("score"):
            found = (source.batches(self.transform, **loader) for source in sources)
            passes = [full_pass(forward, batches, sample_loss) for batches in found]
        self.cost.extra_forwards += sum(len(source.dataset) for source in sources)

        with self.cost.timed("select"):
            self.selector.prepare(*passes)
        self.epoch_sampler.scoring_passes += 1

    def report_validation(self, accuracy: float) -> None:
        """Report the accuracy in [0, 1] on a trusted validation split, for policies trained with it in sight.

        Call it at the end of each epoch, before the loop goes on. Plans without such a policy ignore it.
        """
        check_share("validation accuracy", float(accuracy), zero=True)
        if self.epoch_sampler.policies is not None:
            self.epoch_sampler.policies.validated(accuracy)

    def suspects(self) -> Suspects:
        """The samples trained on, sorted by how much their label looks wrong: a table, see `Suspects`.

        Reads the epochs that have ended, without a forward pass: `plan.suspects().head(20)` after training.
        """
        return find_suspects(self.signals, self.signals.label_history, self.epoch)

    # States

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
        """The settings that a continued state must share."""
        return {**self.epoch_schedule.as_dict(), **self.epoch_sampler.settings(), **self._words}

    def __repr__(self) -> str:
        parts = ", ".join(f"{name} {words[:20]}" for name, words in self._words.items() if words != "fixed")
        return f"DataPlan({self.epoch_schedule}; {parts}; in epoch {self.epoch}, {self.progress:.0%} done)"
