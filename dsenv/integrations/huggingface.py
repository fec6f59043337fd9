"""A plan in the Trainer of `transformers` and in TRL's SFTTrainer: two changed lines."""

import math
import os
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader

from dsenv.errors import check_share, shown
from dsenv.integrations import huggingface_checks as checks
from dsenv.integrations.huggingface_data import (
    KEY,
    Carried,
    CollatedSamples,
    Picks,
    Samples,
    as_it_is,
    own_streams,
)
from dsenv.integrations.huggingface_losses import (
    FUSED,
    OWN,
    FusedModel,
    SampleLosses,
    asked_tokens,
    check_same_loss,
    observe,
    read_losses,
)
from dsenv.integrations.huggingface_plan import load_plan, make_plan, said_by, score_plan
from dsenv.plan.data import Batch
from dsenv.plan.data_plan import DataPlan
from dsenv.task_kinds.language import Language

__all__ = ["DataPlanMixin", "SampleLosses"]

FILE = "dsenv_plan.pt"
"""Where a checkpoint holds the state of the plan."""
PREFIX = "plan/"
"""Of the plan's metrics in the logs."""


class DataPlanMixin:
    """Puts a `DataPlan` into the Trainer of `transformers`, and into `SFTTrainer` of TRL.

    Use (two lines differ from a plain Trainer)::

        class MyTrainer(DataPlanMixin, Trainer):
            pass

        trainer = MyTrainer(..., plan=dict(selector="infobatch", ratio=0.5))
        trainer.train()
        print(trainer.plan.cost)

    Epochs, batch size, accumulation, ranks and seed are those of `TrainingArguments`; `plan` holds any other
    setting of `DataPlan`. The Trainer's epochs are the plan's, whatever their lengths: steps, learning rate,
    `state.epoch`, and what is evaluated, saved and logged by epoch follow from it. A checkpoint holds the
    plan's state, and `train(resume_from_checkpoint=...)` goes on bit for bit. After each epoch
    `plan.metrics()` is logged, with names that begin with "plan/".

    The loss of each sample is read off the model's logits, in `SFTTrainer` off its fused head; the kind of
    task follows from the model. The first batch is compared with the model's own loss. See
    docs/huggingface.md.

    Args:
        given: of the Trainer.
        plan: settings of `DataPlan`; None for a Trainer without one.
        named: of the Trainer.

    Raises:
        ValueError: `transformers` is not installed, a setting is unknown, or the Trainer is set to something
            that a plan cannot go with.
    """

    args: Any
    model: Any
    state: Any
    accelerator: Any
    train_dataset: Any
    data_collator: Any
    lr_scheduler: Any

    def __init__(self, *given: Any, plan: Mapping[str, Any] | None = None, **named: Any) -> None:
        self._settings = None if plan is None else checks.check_settings(plan)
        self._plan: DataPlan | None = None
        self._made_for: tuple[Any, ...] = ()
        self._is_compared = False
        if self._settings is not None:
            is_of_batch = self._settings.get("loss_of", "sample") != "sample"
            self._way = checks.check_trainer(type(self), DataPlanMixin, is_of_batch=is_of_batch)

        parent: Any = super()
        parent.__init__(*given, **named)
        if self._settings is None:
            return
        checks.check_arguments(self)
        if self._way != "fused":
            self.loss_is_scaled_for_ga = self._way != "batch"
        if self.train_dataset is not None:
            self._ready_plan()

    # The plan

    @property
    def plan(self) -> DataPlan | None:
        """The plan, for metrics, suspects and cost; None for a Trainer without one or without data."""
        return self._plan

    def _ready_plan(self) -> DataPlan:
        """The plan for the arguments as they are: a new one where they changed, or after a run."""
        assert self._settings is not None
        args = self.args
        said = (*said_by(args).values(), args.max_steps, args.num_train_epochs, id(self.train_dataset))
        if self._plan is None or said != self._made_for:
            self._plan = make_plan(self, self._settings, self._way)
            self._made_for = said
        return self._plan

    def score(self, forward: Any = None, validation: Any = None) -> None:
        """Scoring pass by the Trainer's collator, for selectors that rank the samples in one.

        Before `train`, or with `uniform_epochs=1` in `on_epoch_begin` of a callback; arguments as for
        `huggingface_plan.score_plan`.
        """
        score_plan(self, forward, validation)

    @property
    def _steps(self) -> int | None:
        """Steps of the whole plan; None where they are decided during the training run."""
        assert self._plan is not None
        try:
            return self._plan.total_steps
        except ValueError:
            return None

    # Epochs and steps

    def train(self, *given: Any, **named: Any) -> Any:
        """As that of the Trainer; a second call begins with a new plan of the same settings."""
        parent: Any = super()
        self._is_compared = False
        if self._plan is not None and (self._plan.epoch or self._plan.epoch_sampler.done):
            self._plan = None
        return parent.train(*given, **named)

    def get_train_dataloader(self) -> Any:
        """The loader of the plan's batches."""
        parent: Any = super()
        if self._settings is None or self.train_dataset is None:
            return parent.get_train_dataloader()

        # As the Trainer does: columns that the model does not take are removed
        plan, args, dataset, collator = self._ready_plan(), self.args, self.train_dataset, self.data_collator
        if hasattr(dataset, "remove_columns"):
            dataset = parent._remove_unused_columns(dataset, description="training")
        else:
            collator = parent._get_collator_with_removed_columns(collator, description="training")

        samples = CollatedSamples(Samples(dataset), collator, self.data_collator, plan.epoch_sampler.seed)
        loader = DataLoader(
            samples,
            batch_size=plan.micro_batch_size,
            sampler=Picks(plan.epoch_sampler),
            collate_fn=as_it_is,
            num_workers=args.dataloader_num_workers,
            pin_memory=args.dataloader_pin_memory,
            persistent_workers=args.dataloader_persistent_workers,
            multiprocessing_context=args.dataloader_multiprocessing_context,
            prefetch_factor=args.dataloader_prefetch_factor,
            generator=torch.Generator(),  # the global stream stays where it is
        )
        return self.accelerator.prepare(loader)

    def set_initial_training_values(self, args: Any, dataloader: Any) -> tuple[Any, ...]:
        """Epochs and steps of the whole plan; the steps of each epoch follow when it begins."""
        this: Any = super()
        found: tuple[Any, ...]
        if (plan := self._plan) is None:
            found = this.set_initial_training_values(args, dataloader)
            return found
        total = self._steps or plan.epoch_schedule.most_steps
        max_steps = args.max_steps if args.max_steps > 0 else total
        steps = max(1, total // plan.epochs)
        is_whole = self._steps is not None and args.max_steps <= 0
        samples = plan.epoch_schedule.total_samples if is_whole else max_steps * plan.batch_size
        batch_size = this.get_total_train_batch_size(args)
        batches = steps * plan.accumulate
        found = (plan.epochs, steps, plan.signals.size, samples, batch_size, batches, max_steps)
        return found

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """The Trainer's schedule; it follows the plan's progress where the number of steps is not known."""
        parent: Any = super()
        is_own = self.lr_scheduler is not None
        found = parent.create_scheduler(num_training_steps, optimizer)
        plan = self._plan
        if plan is None:
            return found

        def following(shape: Callable[[Any], float]) -> Callable[[int], float]:
            return lambda _: shape(plan.progress * num_training_steps)

        if is_own and self._steps is not None and self.args.max_steps <= 0:
            plan.check_scheduler(found, accumulate=1)
        elif not is_own and self._steps is None and isinstance(found, LambdaLR):
            found.lr_lambdas = [following(shape) for shape in found.lr_lambdas]
        return found

    def _run_epoch(self, **named: Any) -> None:
        """One epoch of the plan, of as many steps as it has."""
        parent: Any = super()
        if (plan := self._plan) is None:
            parent._run_epoch(**named)
            return
        epoch = named["epoch"]
        self._go_to(epoch)
        steps = plan.steps_in_epoch()

        # Of a plan without a known number of steps the last epoch tells it
        if self._steps is None and epoch == plan.epochs - 1:
            is_resumed = named["resume_from_checkpoint"] is not None and epoch == named["epochs_trained"]
            skipped = named["steps_trained_in_current_epoch"] // plan.accumulate if is_resumed else 0
            self.state.max_steps = self.state.global_step - skipped + steps

        named |= {"steps_in_epoch": steps * plan.accumulate, "num_update_steps_per_epoch": steps}
        parent._run_epoch(**named)
        if plan.epoch == epoch and plan.epoch_sampler.is_done:
            self._go_to(epoch + 1)

    def _go_to(self, epoch: int) -> None:
        """End the epoch before this one, and log what the plan says of it."""
        plan, this = self._plan, self  # type: DataPlan | None, Any
        assert plan is not None
        if plan.epoch < epoch:
            plan.start_epoch(epoch)
            this.log({f"{PREFIX}{name}": value for name, value in plan.metrics().items()})

    # States

    def _init_training_state(
        self,
        max_steps: int,
        num_update_steps_per_epoch: int,
        num_train_epochs: int,
        resume_from_checkpoint: Any,
        trial: Any,
    ) -> tuple[int, int]:
        """Where training begins: by the plan's state, where it goes on from a checkpoint."""
        parent: Any = super()
        found: tuple[int, int] = parent._init_training_state(
            max_steps, num_update_steps_per_epoch, num_train_epochs, resume_from_checkpoint, trial
        )
        if self._plan is None or resume_from_checkpoint is None:
            return found
        if self.args.ignore_data_skip:
            raise ValueError(
                "ignore_data_skip=True: a plan goes on with the samples that are left; leave it out"
            )
        return load_plan(self._plan, os.path.join(resume_from_checkpoint, FILE), self.state.global_step)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """The Trainer's checkpoint, with the state of the plan; all ranks come here, since they gather it."""
        parent: Any = super()
        if self._plan is not None and not self.args.save_only_model:
            state = self._plan.state_dict()
            run: str = parent._get_output_dir(trial=trial)
            folder = os.path.join(run, f"checkpoint-{self.state.global_step}")
            if self.args.should_save:
                os.makedirs(folder, exist_ok=True)
                torch.save(state, os.path.join(folder, FILE))
        parent._save_checkpoint(model, trial)

    def _evaluate(self, *given: Any, **named: Any) -> Any:
        """The Trainer's evaluation during training; what is drawn there does not move the training."""
        parent: Any = super()
        if (plan := self._plan) is None:
            return parent._evaluate(*given, **named)
        with own_streams():
            metrics = parent._evaluate(*given, **named)
        accuracy = metrics.get("eval_accuracy") if isinstance(metrics, Mapping) else None
        if plan.epoch_sampler.policies is not None and accuracy is not None:
            plan.report_validation(check_share("eval_accuracy", accuracy, zero=True))
        return metrics

    # Losses

    def training_step(self, model: Any, inputs: Any, *given: Any, **named: Any) -> Any:
        """As that of the Trainer."""
        parent: Any = super()
        if self._plan is not None and KEY not in inputs:
            raise ValueError(
                "the batch does not say which samples it holds: it did not come from the plan's loader; "
                f"leave get_train_dataloader to DataPlanMixin, and the entry {KEY!r} in the batches"
            )
        return parent.training_step(model, inputs, *given, **named)

    def sample_losses(
        self, model: Any, inputs: Mapping[str, Any], lengths: Tensor | None = None
    ) -> SampleLosses:
        """The losses of a batch's samples, and what else the model says of them; for models of your own.

        Define it in your class where a model's loss is another one. For a kind of task of tokens `tokens`
        must be given.

        Args:
            model: as it is trained; it must be called as a whole, for gradients of several ranks to meet.
            inputs: what the collator made, on the model's device.
            lengths: (B,) lengths of samples that lie in one row without padding; else None.
        """
        plan = self._plan
        assert plan is not None
        labels, is_first = inputs.get("labels"), not self._is_compared
        is_decoder = isinstance(plan.kind, Language) and not self._is_encoder_decoder
        if is_decoder and not is_first:  # the model's own loss would be made in vain
            inputs = {name: value for name, value in inputs.items() if name != "labels"}
        outputs = model(**inputs)

        has_loss = not isinstance(outputs, Mapping) and labels is not None
        logits = outputs["logits"] if isinstance(outputs, Mapping) else outputs[1 if has_loss else 0]
        smoothing = self.args.label_smoothing_factor
        found = read_losses(plan.kind, logits, labels, lengths, smoothing)
        if is_first and not smoothing:
            own = outputs.get("loss") if isinstance(outputs, Mapping) else outputs[0]
            check_same_loss(own, found, self.model, plan.kind)
        self._is_compared = True
        return found

    @property
    def _is_encoder_decoder(self) -> bool:
        return bool(getattr(getattr(self.model, "config", None), "is_encoder_decoder", False))

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The weighted loss of a training batch; that of the Trainer for any other."""
        parent: Any = super()
        carried: Carried | None = inputs.pop(KEY, None) if KEY in inputs else None
        if self._plan is None or carried is None:
            return parent.compute_loss(
                model, inputs, return_outputs=return_outputs, num_items_in_batch=num_items_in_batch
            )
        plan, labels = self._plan, {"labels": inputs.get("labels"), "lengths": carried.lengths}
        batch = plan.batch(carried.index, labels, partial=carried.is_partial)
        if self._way == "batch":
            return plan.loss(batch, parent.compute_loss(model, inputs))

        if self._way == "fused":
            fused = FusedModel(model, batch.weight, carried.lengths)
            loss = parent.compute_loss(fused, inputs, num_items_in_batch=num_items_in_batch)
            assert isinstance(plan.kind, Language)
            heard = fused.readings(math.log(plan.kind.vocabulary))
            observe(plan, batch, heard.loss, FUSED, tokens=heard.tokens, signals=heard.signals)
            return loss
        return self._weighted(batch, self.sample_losses(model, inputs, carried.lengths), num_items_in_batch)

    def _weighted(self, batch: Batch, found: Any, items: Any) -> Tensor:
        """The plan's part in a step's loss: over the tokens or samples of all ranks and micro-batches."""
        plan = self._plan
        assert plan is not None
        if not isinstance(found, SampleLosses):
            raise ValueError(f"sample_losses must return a SampleLosses, got {shown(found)}")
        if isinstance(plan.kind, Language) != (found.tokens is not None):
            raise ValueError(
                f"sample_losses gives {'no ' if found.tokens is None else ''}tokens for a task of kind "
                f"{plan.kind.name!r}: they belong to kind 'language', whose losses are means over tokens"
            )
        heard = found.loss if found.heard is None else found.heard
        observe(plan, batch, heard.detach(), OWN, tokens=found.tokens, **found.said)

        sums: Tensor = (found.totals * batch.weight).sum()
        if items is None:
            return sums / (len(found.loss) if found.tokens is None else found.tokens.sum().clamp(min=1))
        ranks = self.accelerator.num_processes if self.args.average_tokens_across_devices else 1
        loss: Tensor = sums / items * ranks
        return loss

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: Any) -> Any:
        """Tokens or samples of a step, over its micro-batches and, where they are averaged, all ranks."""
        parent: Any = super()
        is_planned = bool(batch_samples) and KEY in batch_samples[0]
        if not is_planned or self._way in ("fused", "batch"):
            return parent._get_num_items_in_batch(batch_samples, device)
        items = sum(self._items(batch) for batch in batch_samples)
        found = torch.as_tensor(items, device=device).clamp(min=1)
        if self.args.average_tokens_across_devices and self.args.world_size > 1:
            found = self.accelerator.gather(found).sum()
        return found

    def _items(self, batch: Mapping[str, Any]) -> Tensor | int:
        """Tokens that a batch asks for, or its samples."""
        carried: Carried = batch[KEY]
        kind = None if self._plan is None else self._plan.kind
        if not isinstance(kind, Language):
            return len(carried.index)
        return asked_tokens(batch["labels"], carried.lengths, shifted=kind.shifted)
