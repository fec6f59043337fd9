"""A plan in a loop of Accelerate: the loader is made, the plan registered, and checked what both assume."""

import functools
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import IterableDataset

from dsenv.errors import shown
from dsenv.plan import DataPlan
from dsenv.plan.data import Batch
from dsenv.plan.frameworks import check_place
from dsenv.plan.loader import PlanLoader
from dsenv.plan.rates import planned_steps

INSTALL = 'pip install "dsenv-rl[accelerate]", or in a checkout pip install -e ".[accelerate]"'
PLAIN = "a loop that does without what Accelerate knows of loaders may take plan.loader()"
UNTRIED = ("DEEPSPEED", "MEGATRON_LM", "XLA")
"""Kinds of distribution that take steps, accumulation or loaders into their own hands."""
OF_A_MODEL = ("tp_size", "cp_size", "sp_size")
"""Sizes of Accelerate's mesh whose processes share a sample."""


def plan_loader(plan: DataPlan, accelerator: Any, **settings: Any) -> Any:
    """A prepared loader of the plan's batches; the plan is registered for checkpoints.

    Use::

        import torch
        import torch.nn.functional as F
        from accelerate import Accelerator
        from dsenv import DataPlan
        from dsenv.integrations.accelerate import plan_loader

        accelerator = Accelerator(cpu=True)  # first: it begins the group of processes
        inputs, labels = torch.rand(500, 20), torch.randint(0, 4, (500,))
        model = torch.nn.Linear(20, 4)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        model, optimizer = accelerator.prepare(model, optimizer)

        plan = DataPlan((inputs, labels), epochs=4, batch_size=50, selector="infobatch", ratio=0.5,
                        accumulate=accelerator.gradient_accumulation_steps, device=accelerator.device)
        loader = plan_loader(plan, accelerator)
        for epoch in plan.epochs_left():
            for batch in loader:
                with accelerator.accumulate(model):
                    logits = model(batch.inputs)
                    losses = F.cross_entropy(logits, batch.labels, reduction="none")
                    accelerator.backward(plan.loss(batch, losses, logits=logits))
                    optimizer.step()
                    optimizer.zero_grad()

    The plan deals its samples out to the processes itself: `even_batches`, `split_batches` and
    `use_stateful_dataloader` change nothing for this loader, and no batch is padded. After
    `accelerator.load_state` it goes on with what the plan says is left of the epoch.
    `accelerator.skip_first_batches(loader, n)` begins the epoch anew and throws n batches away; a resume does
    not need it.

    Args:
        plan: built alike on all processes, and used after the `Accelerator` was made.
        accelerator: an `accelerate.Accelerator`.
        settings: as for `DataPlan.loader`: num_workers, collate_fn, ...

    Returns:
        An `accelerate.data_loader.DataLoaderShard` of `Batch`es on the plan's device, one loader for all
        epochs; `accelerator.prepare` leaves it as it is.

    Raises:
        ValueError: Accelerate is not installed; plan and accelerator differ in processes, accumulation or
            device; or the accelerator is set up for something that the plan does not know.
    """
    kind = loader_class()
    check_accelerator(plan, accelerator)
    for name in ("shard", "resume", "stream"):
        if name in settings:
            raise ValueError(f"plan_loader decides {name}; {PLAIN}")

    # What goes on where the plan stands, and what Accelerate skips batches of
    left = PlanBatches(plan, accelerator, plan.loader(**settings))
    whole = PlanBatches(plan, accelerator, plan.loader(resume="framework", **settings))
    if all(known is not plan for known in accelerator._custom_objects):
        accelerator.register_for_checkpointing(plan)
    return kind(left, whole)


@functools.cache
def loader_class() -> Any:
    """The class of the loaders that `plan_loader` makes.

    Raises:
        ValueError: Accelerate is not installed.
    """
    try:
        from accelerate.data_loader import DataLoaderShard
    except ImportError as error:
        raise ValueError(f"plan_loader needs accelerate: {INSTALL} ({error})") from error

    class PlanLoaderShard(DataLoaderShard):  # type: ignore[misc]  # of a package without types
        """A loader that Accelerate knows as one of its own, over batches that are dealt out already.

        Args:
            left: batches that are left of the current epoch.
            whole: all batches of the epoch, for `skip_first_batches`.
        """

        _is_accelerate_prepared = True

        def __init__(self, left: "PlanBatches", whole: "PlanBatches") -> None:
            # A generator of its own: torch's loader would draw from the global stream
            super().__init__(left, batch_size=None, collate_fn=as_it_is, generator=torch.Generator())
            self.left, self.whole = left, whole

        @property
        def dataset(self) -> "PlanBatches":
            """All batches of the epoch: `skip_first_batches` makes another loader of them."""
            return self.whole

        def begin(self) -> None:
            """Tell Accelerate that this loader is gone through; no batch holds samples that were added."""
            super().begin()
            self.remainder = 0

        def __len__(self) -> int:
            return len(self.left)

        @property
        def total_batch_size(self) -> int:
            """Samples of one batch of every process."""
            return self.left.plan.batch_size // self.left.plan.accumulate

        @property
        def total_dataset_length(self) -> int:
            """Samples of the data set."""
            return len(self.left.plan.dataset)

    return PlanLoaderShard


def as_it_is(batch: Batch) -> Batch:
    """What collates the plan's batches, which are collated already."""
    return batch


class PlanBatches(IterableDataset[Batch]):
    """Batches of this process in the current epoch, made in the main process; `len` is that of all of them.

    Args:
        plan: whose epochs they are.
        accelerator: looked at before each epoch.
        loader: gives them.
    """

    def __init__(self, plan: DataPlan, accelerator: Any, loader: PlanLoader) -> None:
        self.plan, self.accelerator, self.loader = plan, accelerator, loader
        self._is_first = True

    def __iter__(self) -> Iterator[Batch]:
        check_accelerator(self.plan, self.accelerator)
        if self._is_first:
            self._is_first = False
            check_schedulers(self.plan, self.accelerator)
            check_place(self.plan, "Save where accelerator.sync_gradients is True")
        return iter(self.loader)

    def __len__(self) -> int:
        return len(self.loader)


def check_accelerator(plan: Any, accelerator: Any) -> None:
    """Check that an accelerator and a plan assume the same of a step.

    Raises:
        ValueError: they do not, or Accelerate is to do something that was not tried with a plan.
    """
    if not isinstance(plan, DataPlan):
        raise ValueError(f"plan_loader takes a DataPlan and an Accelerator, got {shown(plan)} first")
    if not all(hasattr(accelerator, name) for name in ("distributed_type", "gradient_accumulation_steps")):
        raise ValueError(f"plan_loader takes a DataPlan and an Accelerator, got {shown(accelerator)} second")

    # What was not tried, or makes no sense
    kind = accelerator.distributed_type.value
    if kind in UNTRIED:
        raise ValueError(
            f"plan_loader was not tried with Accelerate's {kind}, which takes steps or loaders into its own "
            "hands: use Accelerate with DDP or FSDP"
        )
    mesh = getattr(accelerator, "parallelism_config", None)
    shares = {name: getattr(mesh, name, 1) for name in OF_A_MODEL if getattr(mesh, name, 1) > 1}
    if shares:
        raise ValueError(
            f"Accelerate's parallelism_config has {shares}: several processes would share each sample, which "
            "plan_loader was not tried with; use dp_replicate_size and dp_shard_size alone"
        )
    if accelerator.dispatch_batches:
        raise ValueError(
            "dispatch_batches=True has one process read the batches of all, and with plan_loader each reads "
            "its own: leave it out of DataLoaderConfiguration, or let Accelerate deal out a loader over "
            "plan.new_sampler(shard='global'), see docs/accelerate.md"
        )
    _check_same_step(plan, accelerator)


def _check_same_step(plan: DataPlan, accelerator: Any) -> None:
    """Check that ranks, accumulation and device are the same."""
    own = plan.world.rank, plan.world.size
    its = accelerator.process_index, accelerator.num_processes
    if own != its:
        raise ValueError(
            f"the plan is for rank {own[0]} of {own[1]}, and this is process {its[0]} of {its[1]} of "
            "Accelerate: make the Accelerator before the plan is used, and leave world out of DataPlan(...)"
        )
    steps = accelerator.gradient_accumulation_steps
    if steps != plan.accumulate:
        raise ValueError(
            f"Accelerate accumulates {steps} batches a step (gradient_accumulation_steps), and the plan "
            f"counts {plan.accumulate}: DataPlan(accumulate=accelerator.gradient_accumulation_steps). Where "
            "the loop accumulates by itself, take plan.loader() in the place of plan_loader"
        )
    device = torch.device(accelerator.device)
    is_there = plan.device.type == device.type and plan.device.index in (device.index, None)
    if accelerator.device_placement and not is_there:
        raise ValueError(
            f"the plan's batches are on {plan.device}, and Accelerate puts the model on {device}: "
            "DataPlan(device=accelerator.device)"
        )


def check_schedulers(plan: DataPlan, accelerator: Any) -> None:
    """Warn of prepared learning-rate schedules that will not end where the plan does.

    A prepared schedule steps once for each process at every step, unless the accelerator has
    `split_batches=True` or `step_scheduler_with_optimizer=False`. Schedules that do not tell their length are
    passed over, and so are those of `DataPlan.lr_scheduler`, which follow the plan whatever they count.
    """
    if plan.epoch_schedule.counts is None:  # decided during the training run
        return
    for prepared in accelerator._schedulers:
        inner = getattr(prepared, "scheduler", prepared)
        is_once = getattr(prepared, "split_batches", True) or not prepared.step_with_optimizer
        each = 1 if is_once else accelerator.num_processes
        wanted, name = plan.total_steps * each, type(inner).__name__
        how = "plan.total_steps" if each == 1 else "plan.total_steps * accelerator.num_processes"

        planned = planned_steps(inner, {wanted, plan.epochs * each})
        if planned and planned not in (wanted, plan.epochs * each):
            warnings.warn(
                f"{name} is made for {planned} steps, and Accelerate will make {wanted} of it ({how}): the "
                "learning rate will not end where it should; make it for so many, or follow the plan by "
                "plan.lr_scheduler(optimizer, shape)",
                stacklevel=2,
            )
