"""DataPlan: selector x volume schedule x augmentation in your own training loop."""

import copy
import itertools
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict
from typing import Any, Self

import torch
from torch import Tensor

from dsenv.augment.base import AugmentationController
from dsenv.catalogue import Choice
from dsenv.describe import describe
from dsenv.errors import check_count, check_function, check_seed, check_share
from dsenv.kernels import sent
from dsenv.plan import build, checks, epoch_checks, states
from dsenv.plan.batch_loss import BatchLoss, make_batch_loss
from dsenv.plan.collate import split_picks
from dsenv.plan.cost import Cost
from dsenv.plan.data import Batch, IndexedDataset, row_lengths, split_sample, to_device
from dsenv.plan.epoch_sampler import EpochSampler
from dsenv.plan.epoch_schedule import Budgeted
from dsenv.plan.epochs import PlanEpochs
from dsenv.plan.feedback import BatchTransform, Feedback, Transform
from dsenv.plan.forward import ForwardFunction, SampleLoss
from dsenv.plan.guard import GuardChoice
from dsenv.plan.lengths import open_lengths
from dsenv.plan.loader import AnySampler, PlanLoader, make_batch_sampler, make_sampler
from dsenv.plan.log import PlanLog
from dsenv.plan.metrics import PlanMetrics
from dsenv.plan.said import Said
from dsenv.plan.signals import PlanSignals
from dsenv.plan.source import open_kind, open_source
from dsenv.plan.suspects import Suspects, find_suspects
from dsenv.plan.world import AUTO, World, WorldChoice
from dsenv.policy.parts import PolicyChoice
from dsenv.select.base import Selector
from dsenv.task_kinds.registry import KindChoice

_NUMBERS = itertools.count()  # of the plans of this process; batches carry them


class DataPlan(PlanEpochs):
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
        print(plan, plan.cost, plan.metrics())

    An epoch's samples are chosen when its first batch, or its length, is asked for; signals are taken
    in at its end. The plan knows of each chosen sample whether its `loss` was taken, so a state saved between
    two steps goes on with the others, in whatever order batches came and however many a loader has fetched
    ahead. Losses, logits and features that are not finite are left out, and said once an epoch.

    Args:
        data: a pair of tensors (inputs, labels) or a `TensorDataset` of two, which stay where they are; a
            pair of arrays, memory-mapped where they are large; or any map-style data set.
        epochs: length of the training run.
        batch_size: samples a step of the optimiser: of all ranks and micro-batches together.
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
        guard: mixes a learned choice with a safe one, as far as the evidence goes (docs/guard.md): False for
            none, None for one where a part is learned; True, a `Guard` or a table of its settings.
        classes: C; None to read it off the labels, or the data set's `classes`. Labels that are in memory are
            checked against it.
        kind: of the task: a name of `dsenv.task_kinds.KINDS`, or any other form as for `selector`; None for
            classification. Of other kinds `outputs` take the place of logits.
        lengths: (N,) tokens of each sample: batches then hold samples of similar length, in random order.
        ratio_of: "samples" or "tokens", which `ratio` is a share of; by tokens the number of samples follows
            from how long the chosen ones are, and the lengths may be an attribute `lengths` of the data set.
        loss_of: what a loss is of: "sample"; or "batch", a scalar, see `dsenv.plan.BatchLoss`, also as a
            table ({"name": "batch", "decay": 0.7}).
        transform: applied to each batch of inputs on the device, after augmentation: normalisation.
        drop_last: leave out an epoch's last batch where it is smaller.
        uniform_epochs: first epochs whose samples are drawn uniformly, whatever the selector; for
            selectors that must be shown a model that has learnt something (`score`).
        scoring_passes: passes over the data (`score`) that the budget pays for, at a third of an epoch each;
            None for one where the selector needs it. With a schedule object they come on top of its budget.
        tail: share of the epochs, at the end, on all data where the selector sets its own count, [0, 1].
        device: where batches and signals live; None for that of the tensors, or the CPU.
        seed: decides every random choice, >= 0; global streams are not touched.
        accumulate: batches of each rank whose gradients one step takes; each is of `micro_batch_size`.
        whole_steps: every epoch is a whole number of steps, and what rounding leaves over goes to later
            epochs; None for where several ranks or batches share a step.
        world: the processes that train one model together (docs/frameworks.md): "auto" for those of
            `torch.distributed`, looked up at the first use; None or 1 for this one alone; (rank, size); or a
            `ProcessGroup`. Plans are then built alike on all ranks.

    Raises:
        ValueError: a name or setting is unknown or out of range, a label is no class, the data are no samples
            by position, a part was given to another plan before, or the budget is too small.
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
        guard: GuardChoice = None,
        classes: int | None = None,
        kind: KindChoice | None = None,
        lengths: Any = None,
        ratio_of: str = "samples",
        loss_of: Choice | BatchLoss = "sample",
        transform: Transform | None = None,
        drop_last: bool = False,
        uniform_epochs: int = 0,
        scoring_passes: int | None = None,
        tail: float = 0.125,
        device: torch.device | str | None = None,
        seed: int = 0,
        accumulate: int = 1,
        whole_steps: bool | None = None,
        world: WorldChoice = AUTO,
    ) -> None:
        shared = (accumulate, whole_steps, World(world))
        said = Budgeted(epochs, batch_size, drop_last, ratio, scoring_passes, ratio_of, *shared)
        seed = check_seed("seed", seed)

        # The samples
        classes = None if classes is None else check_count("classes", classes, 2)
        self._source, self.kind = open_kind(data, device, classes, kind)
        size, self.device, self.classes = self._source.facts()
        self.signals = PlanSignals(size, device=self.device, kind=self.kind)
        self.dataset = IndexedDataset(self._source.dataset)
        """Gives (position, sample), for your own DataLoader with `sampler`."""

        # What, how much, how strong
        chosen = {"selector": selector, "volume": volume, "augment": augment}
        given = {"size": size, "classes": self.classes, "device": self.device, "seed": seed}
        parts = build.make_parts(policy, chosen, {**given, "epochs": said.epochs}, self.kind)
        self.selector = parts.selector
        self.controller = parts.controller
        self._parts = parts

        # How many samples each epoch has, and which
        self.epoch_schedule, policies = build.plan_epochs(said, parts, self.signals, self._source, seed)
        self.guard = build.make_guard(guard, parts, policies, self.epoch_schedule, self._source, given)
        known = open_lengths(lengths, data, self.epoch_schedule, self.device, self.guard)
        rules = (self.signals, self.epoch_schedule, uniform_epochs, tail, seed, policies, self.guard, known)
        self.epoch_sampler = EpochSampler(self.selector, *rules)
        self.epoch_sampler.facts = self._facts
        self.sampler = self.new_sampler()
        """Positions of this rank's samples, for your own DataLoader: `new_sampler()`."""

        # What is done to a batch, and what is learned from it
        self.transform, self.cost = check_function("transform", transform), Cost()
        self._number = next(_NUMBERS)
        self._transform_batch = BatchTransform(
            self._number, self.controller, transform, self.epoch_sampler, self.cost, self.classes, self.kind
        )
        learning = (self.selector, self.controller, self.signals, self.cost, parts.volume)
        self.batch_loss = make_batch_loss(loss_of, (*parts, self.guard))
        self._feedback = Feedback(*learning, self.guard, self.epoch_sampler, self.batch_loss)
        is_known = self.classes is not None or self.kind.classes is None
        self._metrics = PlanMetrics(self.epoch_sampler, self._feedback, is_known)
        self._log = PlanLog(self._metrics, self._source)
        build.claim(parts)

    # Batches

    def batches(self) -> Iterator[Batch]:
        """What is left of the current epoch, as batches; a map-style data set is read in this process."""
        if not self._source.gathers:
            return iter(self.loader())
        with self.cost.timed("select"):
            left = self.epoch_sampler.to_train().left_batches()

        epoch, inputs = self.epoch, self._source.gathered([index for _, index, _ in left])
        return (
            self._transform_batch(index, found, labels, weight, number, epoch)
            for (number, index, weight), (found, labels) in zip(left, inputs, strict=True)
        )

    def new_sampler(self, shard: str = "rank", *, resume: str = "plan", stream: bool = False) -> AnySampler:
        """A sampler for your own DataLoader over `plan.dataset`, with batch_size=plan.micro_batch_size.

        Args:
            shard: "rank" for the samples of this rank, for frameworks that leave samplers alone; "global" for
                those of all ranks, for frameworks that deal the batches out to the ranks (Accelerate).
            resume: "plan": goes on where the plan stood when its state was saved; "framework": starts the
                epoch anew, since the framework skips the batches that were trained on.
            stream: one stream over all epochs that are left. The next epoch is chosen when its first sample
                is asked for, and losses that come later are taken in one epoch later, see docs/frameworks.md.

        Raises:
            ValueError: a setting is unknown, or a stream is to be skipped by a framework.
        """
        return make_sampler(self.epoch_sampler, self.start_epoch, self._turn, shard, resume, stream=stream)

    def loader(
        self,
        *,
        indexed: bool = False,
        shard: str = "rank",
        resume: str = "plan",
        stream: bool = False,
        **settings: Any,
    ) -> PlanLoader:
        """A loader of the plan's batches; make it once, before the loop over the epochs.

        A `collate_fn` may sort, shuffle, leave out, pad and nest: the position of each sample travels with
        it. To follow it, it runs at least twice a batch; see `dsenv.plan.IndexedCollate`.

        Args:
            indexed: `collate_fn` is given a list of (position, sample) and returns (positions, batch); then
                it runs once a batch.
            shard: "rank" or "global", as for `new_sampler`.
            resume: "plan" or "framework", as there.
            stream: one stream over all epochs that are left, as there.
            settings: arguments of `torch.utils.data.DataLoader`: num_workers, persistent_workers, ...
        """
        positions = make_batch_sampler(self.epoch_sampler, self._turn, shard, resume, stream=stream)
        return PlanLoader(self.dataset, self.epoch_sampler, self._partial_batch, positions, indexed, settings)

    def _partial_batch(self, index: Tensor, sample: Any) -> Batch:
        return self.batch(index, sample, partial=True)

    def batch(self, index: Tensor, sample: Any, number: int | None = None, *, partial: bool = False) -> Batch:
        """The batch made of what your own DataLoader gave, over `plan.dataset` with `plan.sampler`.

        Args:
            index: (B,) int64 positions, in the order of the rows; (B, 2) with their epochs, of a stream.
            sample: the collated samples: (inputs, labels), a mapping, or only inputs.
            number: of the batch in its epoch; None to tell it by the positions.
            partial: the collate function may leave samples out. Those of the same step that are missing are
                then not offered again, and counted at the end of the epoch.

        Raises:
            ValueError: a sample is not among those of this epoch or there twice, the loader's batches have
                another size, or there are more or fewer labels than positions.
        """
        checks.check_not_left_out(sample)

        # Which samples
        index, epoch = split_picks(index)
        record = epoch_checks.check_open(self.epoch_sampler, epoch)
        weight, place = record.look_up(index)
        if not partial:
            record.check_size(len(index), place)
            place = record.free_number(index, place)
        number = place if number is None else check_count("number", number, 0)
        if partial:
            record.leave_out(number, index)
        record.note_made(index, number)

        # What they hold
        checks.check_labels(split_sample(sample)[1], index, self.classes, self.kind, row_lengths(sample))
        inputs, labels = split_sample(to_device(sample, self.device))
        return self._transform_batch(sent(index, self.device), inputs, labels, weight, number, record.epoch)

    # What a training forward says

    def loss(
        self,
        batch: Batch,
        losses: Tensor,
        *,
        logits: Tensor | None = None,
        features: Tensor | None = None,
        forward: ForwardFunction | None = None,
        outputs: Any = None,
        signals: Mapping[str, Tensor] | None = None,
        tokens: Tensor | None = None,
    ) -> Tensor:
        """Weighted mean of a batch's losses; takes in what the training forward says of its samples.

        That is `observe` and then `weighted`. Call it once for each batch that is trained on.

        Args:
            batch: as the plan made it.
            losses: (B,) loss of each sample, with its graph; a scalar where `loss_of` is "batch".
            logits: (B, C) the model's outputs. Signals such as entropy come from them.
            features: (B, D) inputs of the model's last layer, see `FeatureForward`.
            forward: (inputs) -> (logits, features), for controllers that compare further views (AdaAugment).
            outputs: what the kind of task reads; for classification the same as logits.
            signals: in their place what the loop has read itself: (B,) each, by names of
                `dsenv.task_kinds.READINGS`, as of a fused head that gives no logits.
            tokens: (B,) tokens that a sample's loss is the mean of; see `weighted`.

        Raises:
            ValueError: the losses are a scalar, or something that a part needs is missing.
        """
        said = {"logits": logits, "features": features, "outputs": outputs, "signals": signals}
        self.observe(batch, losses, forward=forward, tokens=tokens, **said)
        return self.weighted(batch, losses, tokens=tokens)

    def observe(
        self,
        batch: Batch,
        losses: Tensor,
        *,
        logits: Tensor | None = None,
        features: Tensor | None = None,
        forward: ForwardFunction | None = None,
        outputs: Any = None,
        signals: Mapping[str, Tensor] | None = None,
        tokens: Tensor | None = None,
    ) -> None:
        """Take in what the training forward says of a batch, which then counts as trained on.

        For loops that weigh the losses themselves, token by token for instance. Once for each batch.

        Arguments and errors as for `loss`; the graph of the losses is not used.
        """
        # 1. The batch is of this epoch and was not taken in before, and its outputs have the right shape
        record = epoch_checks.check_stamp(batch, self._number, self.epoch_sampler)
        record.check_new(batch)
        said = Said(logits, features, outputs, signals)
        seen = self._feedback.checked(batch, losses, said, self.classes, tokens)

        # 2. Further views, where the controller compares them
        views = self._feedback.forward_views(batch, forward)

        # 3. Signals, selector and controller take it in
        self._feedback.take_in(seen, views, record, batch.number)

        # 4. The samples count as trained on; after the last one of all nobody may end the epoch
        record.mark(batch)
        self.cost.count(len(batch.index), self.epoch_sampler.tokens_of(batch.index, tokens))
        epoch_checks.check_closed(self.epoch_sampler.close_before(record.epoch))
        if record.is_done and record.epoch == self.epochs - 1:
            self._feedback.settle(self.epoch)
            self._log.write_last()

    def weighted(self, batch: Batch, losses: Tensor, *, tokens: Tensor | None = None) -> Tensor:
        """Weighted mean () of a batch's losses (B,), with its graph; nothing is taken in.

        For a second pass over the same batch (SAM, L-BFGS) and for logging. With `tokens` (B,), how many
        tokens each loss is the mean of, every token counts the same, not every sample:
        (losses * weight * tokens).sum() / tokens.sum(), as language models are trained.

        Raises:
            ValueError: the losses are not one value a sample, or the tokens not one number.
        """
        if self.batch_loss is not None:
            return self.batch_loss.weighted(losses, batch.weight)
        checks.check_losses(losses, len(batch.index), batch.weight.device)
        if tokens is None:
            return (losses * batch.weight).mean()
        checks.check_tokens(tokens, len(batch.index), batch.weight.device)
        return (losses * batch.weight * tokens).sum() / tokens.sum()

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
            forward: an `nn.Module`, a `FeatureForward` or any function of the inputs that calls a model,
                which is run in evaluation mode; gives logits (B, C), or (logits, features (B, D)).
            validation: (inputs, labels) or a data set of held-out samples, for selectors that use them.
            sample_loss: per-sample loss of (logits, labels); None for cross-entropy.
            loader: batch_size of the pass and, where the data are not tensors, further arguments of
                `torch.utils.data.DataLoader`: num_workers, collate_fn, ...; `indexed` as for `loader`.

        Raises:
            ValueError: the selector needs features or a validation split, and there are none; or the pass
                does not see every sample once.
        """
        sources = [self._source]
        if validation is not None:
            sources.append(open_source(validation, self.device, are_classes=self.kind.classes is not None))
        how = {"transform": self.transform, "sample_loss": sample_loss, **loader}
        passes = [self._feedback.pass_over(source, forward, self.classes, **how) for source in sources]

        checks.check_scored(self.selector, passes)
        with self.cost.timed("select"):
            self.selector.prepare(*passes)
        self.epoch_sampler.scoring_passes += 1

    def report_validation(self, accuracy: float) -> None:
        """Report accuracy, or the kind's metric, in [0, 1] on a validation split, for policies that see it.

        Call it at the end of each epoch, before the loop goes on. Plans without such a policy ignore it.
        """
        found = accuracy.item() if isinstance(accuracy, Tensor) and accuracy.numel() == 1 else accuracy
        accuracy = check_share("validation accuracy", found, zero=True)
        if self.epoch_sampler.policies is not None:
            self.epoch_sampler.policies.validated(accuracy)

    def score_reserve(self, forward: ForwardFunction, **loader: Any) -> None:
        """Show the guard its reserve after an epoch's last batch, at a third of a sample's cost each.

        Where it is not called, the reserve rides along in batches, at a full cost. Arguments as for `score`.

        Raises:
            ValueError: there is no guard, or nothing of the epoch was trained on.
        """
        guard = checks.check_reserve(self.guard, self.epoch_sampler.begun, self.epoch)
        if len(guard.reserve):
            source, how = self._source.subset(guard.reserve), {"transform": self.transform, **loader}
            guard.scored(self._feedback.pass_over(source, forward, self.classes, of=guard.reserve, **how))

    def suspects(self) -> Suspects:
        """The samples trained on, sorted by how much their label looks wrong, see `Suspects`.

        It reads the history of the epochs that have ended, and needs no forward pass of its own: call it
        after the training run, or between two epochs. After the loop above::

            suspects = plan.suspects()
            print(suspects)  # the first rows: position, label, what the model says, margin, ..., score
            wrong = suspects.likely.position  # a proposal, without a noise rate

        Raises:
            ValueError: the logits were not given, no epoch has ended, or the task is no classification.
        """
        checks.check_suspects(self.kind)
        self.settle()  # trained to its end, and not ended yet
        epochs = self.epoch + self.epoch_sampler.is_done
        return find_suspects(self.signals, self.signals.label_history, epochs)

    # What a logger is told

    def metrics(self) -> dict[str, float]:
        """What was decided and seen in an epoch, by name, for any logger: `log(plan.metrics(), step=epoch)`.

        Of the current epoch once something of it was trained on, until then of the one before: call it at the
        end of the loop body, or right after the epoch. Plain floats, made when they are asked for by sums and
        one sort over (N,); what is not known is left out. docs/plan.md has the names.
        """
        return self._metrics.read()

    def log_to(self, writer: Any, pictures: int = 5) -> None:
        """Write `metrics()`, histograms and pictures to TensorBoard after each epoch, at step = epoch.

        Call it once before the loop: `plan.log_to(SummaryWriter("runs/mine"))`; after `load_state_dict` with
        `SummaryWriter("runs/mine", purge_step=plan.epoch)`. The writer is no part of states and copies.

        Args:
            writer: a `torch.utils.tensorboard.SummaryWriter`, or another object with its methods.
            pictures: make pictures after every so many epochs and the last; 0 for none.

        Raises:
            ValueError: the writer lacks a method, which is named.
        """
        self._log.attach(writer, pictures)

    # States

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on from the next batch: tensors, numbers and strings.

        With several ranks every one must call it, since it gathers; it is equal on all of them. One may save
        it, and all load it.
        """
        return self._state(gather=True)

    def _state(self, *, gather: bool) -> dict[str, Any]:
        return {
            "version": states.VERSION,
            "data": self._source.fingerprint,
            "plan": self._settings(),
            "epoch_sampler": self.epoch_sampler.state_dict(gather=gather),
            "feedback": self._feedback.state_dict(gather=gather),
            "metrics": self._metrics.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`, bit for bit; batches of an iterator made before are void.

        Raises:
            ValueError: the state is damaged, of other data, or of a plan with other settings. Then nothing of
                it is loaded.
        """
        before = self._state(gather=False)
        states.check_plan_state(state, before, self.epoch_schedule)
        try:
            self._load(state)
        except Exception as error:
            with suppress(Exception):  # of a part that refuses its own state too
                self._load(before)
            raise ValueError(f"the state could not be loaded, and nothing of it was: {error!r}") from error

    def _load(self, state: Mapping[str, Any]) -> None:
        self._feedback.load_state_dict(state["feedback"])
        self.epoch_sampler.load_state_dict(state["epoch_sampler"])
        self._metrics.load_state_dict(state.get("metrics"))

    def _settings(self) -> dict[str, Any]:
        """The settings that a continued state must share."""
        own = {**self.epoch_schedule.as_dict(), "classes": self.classes, **self.epoch_sampler.settings()}
        own["kind"] = None if self.kind.classes is not None else describe(self.kind)
        own["loss_of"] = None if self.batch_loss is None else describe(self.batch_loss)
        own["guard"] = None if self.guard is None else asdict(self.guard.settings)
        return {**own, **self._parts.words, "parts": self._parts.settings}

    def _facts(self) -> dict[str, Any]:
        """What must be equal on all ranks."""
        own = {**self._settings(), "labels": self._source.fingerprint["labels"]}
        return {name: value if isinstance(value, int | float) else str(value) for name, value in own.items()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """A copy, by `copy.deepcopy` or pickle, is a plan of its own: it takes no batches of the other."""
        vars(self).update(state)
        self._number = next(_NUMBERS)
        self._transform_batch.plan = self._number
        self.epoch_sampler.began = None  # another process has another clock

    def __copy__(self) -> Self:
        """A shallow copy would share what is learnt: it is a deep one."""
        return copy.deepcopy(self)

    def __repr__(self) -> str:
        parts = ", ".join(
            f"{name} {words[:20]}" for name, words in self._parts.words.items() if words != "fixed"
        )
        return f"DataPlan({self.epoch_schedule}; {parts}; in epoch {self.epoch}, {self.progress:.0%} done)"
