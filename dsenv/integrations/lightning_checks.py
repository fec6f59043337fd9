"""What of a Lightning Trainer does not fit a plan, said before anything is trained."""

from multiprocessing.context import get_spawning_popen
from typing import Any

import torch

from dsenv.plan import DataPlan
from dsenv.plan.frameworks import check_place

STRATEGIES = ("SingleDeviceStrategy", "DDPStrategy", "ModelParallelStrategy")
"""Those that were tested."""


def check_trainer(trainer: Any, module: Any, plan: DataPlan) -> None:
    """Check a Trainer's settings against the plan.

    Raises:
        ValueError: one does not fit; the message names it.
    """
    strategy = type(trainer.strategy).__name__
    if strategy not in STRATEGIES:
        raise ValueError(
            f"PlanCallback was not tested with strategy {strategy}, which may deal batches out or accumulate "
            "in its own way: use 'auto' or 'ddp', or ModelParallelStrategy for FSDP2"
        )
    if trainer.overfit_batches:
        raise ValueError(
            f"overfit_batches={trainer.overfit_batches} asks for the same batches in every epoch, and a plan "
            "chooses new ones: leave it out, or fit without the plan; limit_train_batches shortens epochs"
        )
    if "GradientAccumulationScheduler" in [type(callback).__name__ for callback in trainer.callbacks]:
        raise ValueError(
            "GradientAccumulationScheduler changes the samples of a step during the training, and a plan has "
            "one number: give DataPlan(accumulate=...) and Trainer(accumulate_grad_batches=...)"
        )

    own, wanted = plan.signals.loss.device, trainer.strategy.root_device
    if own.type != wanted.type or (None not in (own.index, wanted.index) and own != wanted):
        raise ValueError(
            f"Lightning moves batches to {wanted}, the plan is on {own}: give DataPlan(device='{wanted}'); "
            "of several GPUs each process has its own, f\"cuda:{os.environ.get('LOCAL_RANK', 0)}\""
        )
    given = trainer.accumulate_grad_batches
    if module.automatic_optimization and given != plan.accumulate:
        raise ValueError(
            f"Trainer(accumulate_grad_batches={given}) and DataPlan(accumulate={plan.accumulate}) differ: "
            f"give the plan accumulate={given}, and batch_size= the samples of one step of the optimiser"
        )
    shared = trainer.distributed_sampler_kwargs
    ranks = 1 if shared is None else shared["num_replicas"]
    if plan.world.size != ranks:
        raise ValueError(
            f"Lightning deals data out to {ranks} processes, and the plan to {plan.world.size} "
            f"({plan.world!r}): leave DataPlan(world=...) out, or give the group of the data-parallel ranks"
        )


def check_resumed(plan: DataPlan, module: Any) -> None:
    """Warn where a checkpoint was saved between the batches of one step."""
    if module.automatic_optimization:
        check_place(
            plan,
            "Save at an epoch's end or by ModelCheckpoint(every_n_train_steps=...); a validation inside an "
            "epoch (val_check_interval) should come after a multiple of accumulate batches",
        )


def check_interval(trainer: Any, epoch: int, batches: int) -> None:
    """Check that an epoch is not too short for a validation after a number of batches.

    Args:
        trainer: of Lightning.
        epoch: of the plan.
        batches: of that epoch.

    Raises:
        ValueError: it is; it would end without a validation.
    """
    if trainer._val_check_time_interval is not None:
        return
    interval = trainer.val_check_interval
    is_by_epoch = trainer.check_val_every_n_epoch is not None and trainer.enable_validation
    if isinstance(interval, int) and is_by_epoch and interval > batches:
        raise ValueError(
            f"val_check_interval={interval} batches, and epoch {epoch} of the plan has {batches}: give a "
            "share such as val_check_interval=0.5, or check_val_every_n_epoch=None to count over epochs"
        )


def check_batch(batch: Any, trainer: Any) -> None:
    """Check that a batch's weights are what the plan gave.

    Raises:
        ValueError: Lightning has rounded them.
    """
    weight = getattr(batch, "weight", None)
    if isinstance(weight, torch.Tensor) and weight.dtype in (torch.float16, torch.bfloat16):
        raise ValueError(
            f"precision={trainer.precision!r} rounds the weights of the samples to {weight.dtype}: use "
            "'bf16-mixed' or '16-mixed'"
        )


def check_not_spawned() -> None:
    """Check that no process is being spawned, to which a callback would be sent.

    Raises:
        ValueError: one is; torch cannot send the tensors of a plan there.
    """
    if get_spawning_popen() is not None:
        raise ValueError(
            "a plan cannot be sent to processes that are spawned: take strategy='ddp', which starts the "
            "script once for each process, or 'ddp_fork' and 'ddp_notebook', which fork"
        )
