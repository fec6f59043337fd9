"""The plan of a Trainer of `transformers`: what follows from its arguments, its model and its data."""

import copy
import importlib
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from dsenv.integrations.huggingface_checks import WAYS, check_dataset, check_loss
from dsenv.integrations.huggingface_data import Samples, labels_of, lengths_of, own_streams
from dsenv.plan.data_plan import DataPlan
from dsenv.plan.forward import FeatureForward
from dsenv.task_kinds.language import Language

ALIGNED = ("ForMaskedLM", "ForTokenClassification", "ForConditionalGeneration")
"""Losses of models (`loss_type`) whose labels line up with the logits."""
LANGUAGE_LOSSES = ("ForCausalLM", *ALIGNED)
ONE_LABEL = (
    "ForSequenceClassification",
    "ForImageClassification",
    "ForVideoClassification",
    "ForAudioClassification",
)
MOST_TRIES = 16
"""Epochs more than a first guess that volume schedules may need for `max_steps`."""


def said_by(args: Any) -> dict[str, Any]:
    """Settings of a plan that follow from `TrainingArguments`."""
    parts = args.gradient_accumulation_steps * args.world_size
    return {
        "batch_size": args.train_batch_size * parts,
        "accumulate": args.gradient_accumulation_steps,
        "seed": args.seed if args.data_seed is None else args.data_seed,
        "drop_last": args.dataloader_drop_last,
        "device": args.device,
    }


def make_plan(trainer: Any, given: Mapping[str, Any], way: str) -> DataPlan:
    """A new plan for a Trainer.

    Args:
        trainer: gives arguments, model and data.
        given: settings of the user.
        way: to the losses, see `huggingface_checks.check_trainer`.

    Raises:
        ValueError: something does not fit; the message says what to change.
    """
    args, dataset = trainer.args, trainer.train_dataset
    check_dataset(dataset)
    settings, said = dict(given), said_by(args)

    # What kind of task, and what is known of the samples
    kind = settings.get("kind")
    if kind is None and way in ("logits", "fused"):
        kind = settings["kind"] = usual_kind(trainer.model, dataset)
    are_tokens = way == "fused" or isinstance(kind, Language) or name_of(kind) == "language"
    samples = Samples(dataset, None if are_tokens else labels_of(dataset))
    if kind == "classification" and hasattr(trainer.model, "config"):
        settings.setdefault("classes", trainer.model.config.num_labels)
    is_by_length = args.train_sampling_strategy == "group_by_length" or settings.get("ratio_of") == "tokens"
    if is_by_length and settings.get("lengths") is None:
        settings["lengths"] = lengths_of(dataset, args.length_column_name)

    # As many epochs as max_steps take, by plans of the same settings
    epochs = planned_epochs(args, len(samples), said["batch_size"], settings)
    if args.max_steps > 0:
        tries = range(epochs, epochs + MOST_TRIES)
        wide = (number for number in tries if _suffice(samples, number, said, settings, args.max_steps))
        if (epochs := next(wide, 0)) == 0:
            raise ValueError(
                f"max_steps={args.max_steps} are more than {tries[-1]} epochs of this plan have: give "
                "num_train_epochs in place of max_steps"
            )

    plan = DataPlan(samples, epochs=epochs, **said, **settings)
    if plan.world.size != args.world_size:
        raise ValueError(
            f"torch.distributed has {plan.world.size} ranks and TrainingArguments {args.world_size}: start "
            "all processes with torchrun or accelerate launch"
        )
    check_loss(trainer, way, plan.kind)
    plan.epoch_sampler.adapter = "huggingface"
    return plan


def name_of(choice: Any) -> Any:
    """The name in a choice of a part, where there is one."""
    return choice.get("name") if isinstance(choice, Mapping) else getattr(choice, "name", choice)


def usual_kind(model: Any, dataset: Any) -> Any:
    """The kind of task that a model is for, as `DataPlan(kind=...)` takes it.

    Args:
        model: of `transformers`, also under PEFT.
        dataset: its labels tell classes from numbers.

    Raises:
        ValueError: it is not known.
    """
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    config, loss = getattr(base, "config", None), _loss_of(base)
    if config is None or loss not in (*LANGUAGE_LOSSES, *ONE_LABEL):
        raise ValueError(
            f"it is not known which kind of task {type(base).__name__} is for: give plan=dict(kind=...) "
            f"where its logits and labels are those of a kind (docs/kinds.md); or {WAYS}"
        )

    if loss in LANGUAGE_LOSSES:
        is_shifted = loss in ALIGNED or bool(getattr(config, "is_encoder_decoder", False))
        size = config.num_labels if loss == "ForTokenClassification" else vocabulary_of(base)
        return Language(size, shifted=is_shifted)

    problem, count = getattr(config, "problem_type", None), config.num_labels
    if problem == "regression" or (problem is None and count == 1):
        return "regression"
    labels = labels_of(dataset) if problem is None else None
    is_floating = labels is not None and labels.is_floating_point()
    if problem == "multi_label_classification" or is_floating:
        return {"name": "multilabel", "labels": count}
    return "classification"


def _loss_of(model: Any) -> str | None:
    """Name of the loss of a model of `transformers`, or of a class made of one; None where it has none."""
    if (found := getattr(model, "loss_type", None)) is not None:
        return str(found)
    known = importlib.import_module("transformers.models.auto.modeling_auto")
    for name in (cls.__name__ for cls in type(model).__mro__):
        if name in known.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values():
            return "ForCausalLM"
        for loss in (*LANGUAGE_LOSSES, *ONE_LABEL):
            if name.endswith(loss):
                return loss
    return None


def vocabulary_of(model: Any) -> int:
    """How many tokens a model gives logits for."""
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    weight = getattr(head, "weight", None)
    if isinstance(weight, Tensor) and weight.dim() == 2 and weight.numel():
        return len(weight)
    return int(model.config.get_text_config().vocab_size)


def planned_epochs(args: Any, size: int, batch_size: int, settings: Mapping[str, Any]) -> int:
    """Epochs of a plan: `num_train_epochs`, or at least how many `max_steps` take.

    Args:
        args: TrainingArguments.
        size: N.
        batch_size: samples a step.
        settings: of the plan.

    Raises:
        ValueError: `max_steps` is given, and nobody knows how many steps an epoch has.
    """
    if args.max_steps <= 0:
        return int(args.num_train_epochs)
    ratio = settings.get("ratio")
    if ratio is None and settings.get("policy") is None and settings.get("selector") in (None, "random"):
        ratio = 1.0
    if not isinstance(ratio, int | float) or isinstance(ratio, bool) or not 0 < ratio <= 1:
        raise ValueError(
            f"max_steps={args.max_steps} and no ratio: how many steps an epoch has is not known beforehand; "
            "give plan=dict(ratio=...), or num_train_epochs in place of max_steps"
        )
    return max(1, math.ceil(int(args.max_steps) * batch_size / (ratio * size)))


def _suffice(samples: Samples, epochs: int, said: Any, settings: Any, max_steps: int) -> bool:
    """Whether a plan of so many epochs has at least `max_steps` steps.

    Raises:
        ValueError: how many it has is not known beforehand.
    """
    trial = DataPlan(samples, epochs=epochs, **said, **copy.deepcopy(settings))
    try:
        return bool(trial.total_steps >= max_steps)
    except ValueError as error:
        raise ValueError(
            f"max_steps={max_steps} cannot be planned: {error}; give num_train_epochs in place of max_steps"
        ) from error


class OfTables(nn.Module):
    """Logits of a model of `transformers` for a batch that is a table of its arguments.

    Args:
        model: of `transformers`.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: Mapping[str, Any]) -> Any:
        """Logits of a batch."""
        found = self.model(**inputs)
        return found["logits"] if isinstance(found, Mapping) else found[0]


def score_plan(trainer: Any, forward: Any, validation: Any) -> None:
    """A scoring pass of the plan over batches of the Trainer's collator.

    Args:
        trainer: with its plan.
        forward: maps a batch without labels to logits, or to (logits, features); None for the model's logits,
            a `FeatureForward` for what its head is given too.
        validation: a data set of held-out samples as the training set's; None for none.

    Raises:
        ValueError: there is no plan, batches have no labels, or as for `DataPlan.score`.
    """
    if trainer.plan is None:
        raise ValueError("this Trainer has no plan to score samples for: give plan=dict(selector=...)")
    collator = trainer._get_collator_with_removed_columns(trainer.data_collator, description="scoring")

    def pair(samples: list[Any]) -> tuple[Any, Any]:
        batch = dict(collator(samples))
        if "labels" not in batch:
            raise ValueError(f"the batches of the data collator have no 'labels'; they have {sorted(batch)}")
        return batch, batch.pop("labels")

    if forward is None:
        forward = OfTables(trainer.model)
    elif isinstance(forward, FeatureForward):
        forward = FeatureForward(OfTables(forward.model), forward.head)
    held_out = None if validation is None else Samples(validation, labels_of(validation))
    how = {"batch_size": trainer.args.eval_batch_size, "collate_fn": pair}
    with own_streams():
        trainer.plan.score(forward, held_out, **how)


def load_plan(plan: DataPlan, path: str, step: int) -> tuple[int, int]:
    """Load a plan's state; returns the epoch to go on with, and the batches of it that were trained on.

    Args:
        plan: as it was made.
        path: of the file in the checkpoint.
        step: optimiser steps that the Trainer has done by its own state.

    Raises:
        ValueError: there is no such file, it is of another plan, or Trainer and plan are at other places.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise ValueError(
            f"there is no state of a plan at {path}: the checkpoint is of a Trainer without a plan, or of "
            "one with save_only_model=True; go on from another one, or train from the start"
        ) from error
    plan.load_state_dict(state)

    epoch, record = plan.epochs_trained, plan.epoch_sampler.begun
    passed = 0 if record is None or epoch > plan.epoch else record.passed
    batches = -(-passed // plan.micro_batch_size)
    try:
        before = sum(map(plan.steps_in_epoch, range(epoch)))
    except ValueError:  # numbers of samples that were decided on the way
        return epoch, batches
    if before + batches // plan.accumulate != step:
        raise ValueError(
            f"the checkpoint of {path} is at step {step}, and its plan at step "
            f"{before + batches // plan.accumulate}: they are of different runs"
        )
    return epoch, batches
