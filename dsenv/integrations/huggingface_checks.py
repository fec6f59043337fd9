"""What a Trainer of `transformers` is set to, and what a plan can go with."""

import importlib
import inspect
from collections.abc import Mapping
from typing import Any

from torch.utils.data import IterableDataset

from dsenv.errors import check_keywords, shown
from dsenv.plan.data_plan import DataPlan
from dsenv.task_kinds.base import TaskKind
from dsenv.task_kinds.classification import Classification

INSTALL = 'pip install "dsenv-rl[huggingface]", or in a checkout pip install -e ".[huggingface]"'
SAID_BY = {
    "data": "train_dataset",
    "epochs": "TrainingArguments(num_train_epochs=...)",
    "batch_size": "TrainingArguments(per_device_train_batch_size=...)",
    "accumulate": "TrainingArguments(gradient_accumulation_steps=...)",
    "seed": "TrainingArguments(seed=...) or data_seed",
    "drop_last": "TrainingArguments(dataloader_drop_last=...)",
    "device": "TrainingArguments",
    "world": "torch.distributed, which the launcher begins (torchrun, accelerate launch)",
}
"""Settings of a plan that follow from the Trainer, and from what there."""
USED = {
    "_run_epoch": ("epoch", "train_dataloader", "steps_in_epoch", "num_update_steps_per_epoch"),
    "_init_training_state": ("max_steps", "num_update_steps_per_epoch", "resume_from_checkpoint"),
    "_get_num_items_in_batch": ("batch_samples", "device"),
    "_get_collator_with_removed_columns": ("data_collator",),
    "_remove_unused_columns": ("dataset",),
    "_save_checkpoint": ("model", "trial"),
    "_evaluate": ("trial",),
    "set_initial_training_values": ("args", "dataloader"),
    "create_scheduler": ("num_training_steps",),
}
"""Methods of the Trainer that the adapter calls or replaces, with arguments that they must have."""
WAYS = (
    "define sample_losses(model, inputs, lengths) in your class (docs/huggingface.md), or take one loss a "
    "batch by plan=dict(loss_of='batch')"
)


def import_transformers() -> Any:
    """The package `transformers`.

    Raises:
        ValueError: it is not installed; the message has the command.
    """
    try:
        return importlib.import_module("transformers")
    except ModuleNotFoundError as error:
        raise ValueError(f"a plan in the Trainer needs transformers: {INSTALL}") from error


def check_trainer(cls: type, mixin: type, *, is_of_batch: bool) -> str:
    """Check the classes behind a Trainer with a plan; returns the way to its losses.

    "batch": one for each batch, as the Trainer makes it; "own": `sample_losses` of the user; "fused": by the
    fused head of TRL; "logits": by the logits of the model.

    Args:
        cls: of the Trainer.
        mixin: `DataPlanMixin`.
        is_of_batch: the plan takes one loss a batch.

    Raises:
        ValueError: the mixin is not before a Trainer that it knows, or somebody else makes the loss.
    """
    trainer = import_transformers().Trainer
    order = cls.__mro__
    if trainer not in order or order.index(trainer) < order.index(mixin):
        raise ValueError(
            f"{cls.__name__} must be class {cls.__name__}(DataPlanMixin, Trainer): the mixin stands before a "
            "Trainer of transformers, or before SFTTrainer of trl"
        )
    for name, wanted in USED.items():
        found = inspect.signature(getattr(trainer, name)).parameters if hasattr(trainer, name) else ()
        if not set(wanted) <= set(found):
            raise ValueError(
                f"the Trainer of transformers {import_transformers().__version__} has no {name}"
                f"({', '.join(wanted)}), which this adapter builds on: {INSTALL} has a version that is tested"
            )

    makers = [each for each in order if "compute_loss" in vars(each)]
    first, behind = makers[0], makers[makers.index(mixin) + 1]
    if first is not mixin:
        raise ValueError(
            f"{first.__name__}.compute_loss takes the place of the plan's, which would hear nothing: {WAYS}"
        )
    if is_of_batch:
        return "batch"
    if getattr(cls, "sample_losses", None) is not getattr(mixin, "sample_losses", None):
        return "own"
    if behind is trainer:
        return "logits"
    if behind.__name__ == "SFTTrainer" and behind.__module__.startswith("trl."):
        return "fused"
    raise ValueError(
        f"{behind.__name__}.compute_loss makes its own loss, and the plan needs that of each sample: {WAYS}"
    )


def check_settings(settings: Any) -> dict[str, Any]:
    """The settings of the plan that a user gave, as a table of their own.

    Raises:
        ValueError: they are no table, one is unknown, or the Trainer says it.
    """
    if not isinstance(settings, Mapping):
        raise ValueError(
            f"plan must be a table of DataPlan's settings, plan=dict(selector='infobatch', ratio=0.5), got "
            f"{shown(settings)}; the Trainer makes the plan, since it knows epochs, batches and ranks"
        )
    for name in settings:
        if name in SAID_BY:
            raise ValueError(f"plan={{{name!r}: ...}} follows from {SAID_BY[name]}; leave it out of the plan")
        if name in ("augment", "transform"):
            raise ValueError(
                f"plan={{{name!r}: ...}} works on batches of images, and the Trainer's batches are tables of "
                "the data collator's: do it there, or use a loop of your own (docs/plan.md)"
            )
    check_keywords("plan", DataPlan, {"data": None, "epochs": 1, "batch_size": 1, **settings})
    return dict(settings)


def check_arguments(trainer: Any) -> None:
    """Check that a plan can go with what the Trainer was given.

    Args:
        trainer: after its `__init__`.

    Raises:
        ValueError: it cannot; the message says what to change.
    """
    args, config = trainer.args, trainer.args.accelerator_config
    parallel = (trainer.get_tp_size(), trainer.get_cp_size(), trainer.get_sp_size())
    is_fraction = args.max_steps <= 0 and (args.num_train_epochs < 1 or args.num_train_epochs % 1 != 0)
    order = args.train_sampling_strategy
    faults = {
        "DeepSpeed was not tested with a plan: use DDP": trainer.is_deepspeed_enabled,
        f"{args.n_gpu} GPUs in one process (DataParallel): start with torchrun or accelerate launch, or show "
        "one GPU by CUDA_VISIBLE_DEVICES": args.n_gpu > 1,
        "auto_find_batch_size=True changes the batch size after the plan was made: set False": (
            args.auto_find_batch_size
        ),
        "accelerator_config split_batches=True cuts batches apart: set False": config.split_batches,
        "accelerator_config dispatch_batches=True sends batches without their positions: leave it out": (
            bool(config.dispatch_batches)
        ),
        "dataloader_in_order=False: a resumed run would skip other batches than were trained on; leave it": (
            not args.dataloader_in_order
        ),
        f"train_sampling_strategy={order!r}: the plan decides which samples come in which order; set "
        "'random', or 'group_by_length' for batches of similar length": (
            order not in ("random", "group_by_length")
        ),
        f"num_train_epochs={args.num_train_epochs}: a plan has whole epochs; give "
        f"{max(1, round(args.num_train_epochs))}, or max_steps": is_fraction,
        "parallelism by tensors, context or sequence was not tested with a plan: use DDP": (
            max(parallel) > 1
        ),
    }
    for words in (words for words, is_met in faults.items() if is_met):
        raise ValueError(f"a plan cannot go with this Trainer: {words}")


def check_loss(trainer: Any, way: str, kind: TaskKind) -> None:
    """Check that the losses of samples are what the Trainer is set to train on.

    Args:
        trainer: after its `__init__`.
        way: to its losses, see `check_trainer`.
        kind: of the plan's task.

    Raises:
        ValueError: they are not.
    """
    args = trainer.args
    if way == "batch":
        return
    if trainer.compute_loss_func is not None:
        raise ValueError(
            f"compute_loss_func={shown(trainer.compute_loss_func)} gives one loss a batch, and the plan "
            f"needs that of each sample: leave it out and {WAYS}"
        )
    if getattr(args, "loss_type", "nll") != "nll":
        raise ValueError(
            f"loss_type={args.loss_type!r} weighs tokens by their probability, and the plan weighs samples: "
            "set loss_type='nll'"
        )
    if args.label_smoothing_factor and not (way == "logits" and isinstance(kind, Classification)):
        raise ValueError(
            f"label_smoothing_factor={args.label_smoothing_factor} works with a plan where the loss is the "
            f"Trainer's and each sample has one class; this task is of kind {kind.name!r}: set 0"
        )


def check_dataset(dataset: Any) -> None:
    """Check that samples can be chosen by position.

    Raises:
        ValueError: they come as a stream.
    """
    if isinstance(dataset, IterableDataset) or not hasattr(dataset, "__getitem__"):
        raise ValueError(
            f"train_dataset is a stream ({type(dataset).__name__}), and a plan chooses samples by position: "
            "load it with streaming=False, or make a data set of it (datasets.Dataset.from_generator)"
        )
