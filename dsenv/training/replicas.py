"""The form in which K replicas of a model run: it is chosen here, and nowhere else."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

from dsenv.errors import pick
from dsenv.tasks.dataset import subset
from dsenv.tasks.task import Task, seeded_model
from dsenv.training.base import Replicas
from dsenv.training.data import ResidentSplit
from dsenv.training.loop_replicas import LoopReplicas
from dsenv.training.modules import (
    ForwardFacts,
    can_be_copied,
    fresh_model,
    is_hooked,
    is_tied,
    observe_forward,
    streams_kept,
)
from dsenv.training.stacked import can_stack, can_stack_layer, is_plain, layers
from dsenv.training.stacked_replicas import StackedReplicas

FORMS = ("stacked", "vmap", "loop")
BATCH_STATISTICS = (nn.modules.batchnorm._BatchNorm, nn.modules.dropout._DropoutNd)


def choose_form(model: nn.Module, replicas: int, device: torch.device) -> str:
    """The fastest form by measurement (docs/benchmarks/speed.md, benchmarks/forms.py).

    Linear networks stack everywhere. Convolutions on a CPU run fastest in a loop; on a GPU they are
    grouped, or mapped where a layer has no grouped form. A GPU runs even one stacked replica several times
    faster than its module, since the step is one CUDA graph. With batch statistics a sample depends on the
    rest of its batch, padding included, so such models run in a loop.
    """
    if any(isinstance(part, BATCH_STATISTICS) for part in model.modules()):
        return "loop"
    if replicas == 1:
        return "stacked" if device.type == "cuda" and can_stack(model) else "loop"
    has_convolution = any(isinstance(layer, nn.Conv2d) for layer in model.modules())
    if has_convolution and device.type == "cpu":
        return "loop"
    return "stacked" if can_stack(model) else ("vmap" if device.type == "cuda" else "loop")


@torch.no_grad()
def _check_model(model: nn.Module, task: Task, device: torch.device) -> tuple[ForwardFacts, int]:
    """Check what a model returns in both modes, and find out what its forward does beside that.

    Returns:
        The facts, and how many numbers it gives for one sample.

    Raises:
        ValueError: it returns no logits, or has nothing to train.
    """
    if not any(value.requires_grad for value in model.parameters()):
        raise ValueError(
            f"the model {type(model).__name__} has no parameter that requires a gradient: nothing can be "
            "trained; leave requires_grad on in one layer at least"
        )

    samples = first_inputs(task, 2, device)
    if samples.is_floating_point():
        samples.zero_()
    lazy = [name for name, value in model.named_parameters() if isinstance(value, UninitializedParameter)]
    if lazy:
        raise ValueError(
            f"the model {type(model).__name__} is lazy, {lazy[0]} has no shape yet: name the sizes, or pass "
            f"samples of shape {tuple(samples.shape)} through it where it is made"
        )

    scored = model.to(device).eval()(samples.clone())
    trained, facts = observe_forward(model, samples)
    for outputs, mode in ((scored, "evaluation"), (trained, "training")):
        _check_outputs(task, outputs, mode)
    if facts.draws_elsewhere:
        raise ValueError(
            f"the forward of {type(model).__name__} draws from the global stream of {facts.draws_elsewhere}, "
            "which all training runs would share, and no seed decides: draw with torch (torch.rand, "
            "torch.nn.functional.dropout), whose stream each training run has of its own"
        )
    return facts, scored.numel() // 2 if isinstance(scored, Tensor) else 1


def _check_outputs(task: Task, outputs: Any, mode: str) -> None:
    """Check what a model gives for 2 samples.

    Raises:
        ValueError: it does not fit the kind of task.
    """
    data = task.dataset
    if task.kind.classes is None:
        try:
            task.kind.check_outputs(outputs, data.train.labels[:2].expand(2, *data.train.labels.shape[1:]))
        except ValueError as error:
            raise ValueError(f"for 2 samples of {data.name} in {mode} mode: {error}") from error
        return
    shape, wanted = (
        tuple(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__,
        (2, data.classes),
    )
    if shape != wanted:
        raise ValueError(
            f"for 2 samples of {data.name} a model must return logits of shape {wanted}, got {shape} in "
            f"{mode} mode"
        )


def first_inputs(task: Task, number: int, device: torch.device) -> Tensor:
    """Inputs of a model (number, ...): the first training samples, over again where they are few."""
    train = task.dataset.train
    place = torch.arange(number).remainder(len(train))
    split = ResidentSplit(subset(train.images, train.labels, place, "first samples"), task.dataset, device)
    return split.gather(torch.arange(number, device=device))


@torch.no_grad()
def _mixes_samples(model: nn.Module, task: Task, device: torch.device) -> bool:
    """Whether a sample's output in training depends on the rest of its batch, padding included."""
    generator = torch.Generator().manual_seed(0)
    samples = first_inputs(task, 3, device)
    if samples.is_floating_point():  # tokens stay as they are
        samples = torch.randn(3, *task.dataset.sample_shape, generator=generator).to(device)
    padded = torch.cat([samples, torch.zeros_like(samples)])
    (alone, _), (beside, _) = observe_forward(model, samples), observe_forward(model, padded)
    return not torch.allclose(alone, beside[:3], rtol=1e-3, atol=1e-4)


def _needs_loop(model: nn.Module, task: Task, device: torch.device, facts: ForwardFacts) -> str | None:
    """Why a model cannot be mapped by `torch.func.vmap`; None where it can."""
    if is_hooked(model):
        return "hooks on modules or parameters"
    if not can_be_copied(model):
        return "functions that hold variables from outside"
    if facts.draws:
        return "a forward pass that draws random numbers"
    if facts.changes:
        return f"a forward pass that changes {', '.join(facts.changes)}"
    if _mixes_samples(model, task, device):
        return "outputs that depend on the other samples of a batch"
    return None


def _is_tried(model: nn.Module, task: Task, form: str) -> bool:
    """Whether a form takes the layers of a model, and only a step can tell if it is right for them."""
    if form == "stacked":
        return can_stack(model) and not is_plain(model, task.dataset.sample_shape)
    return form == "vmap" and not any(isinstance(part, BATCH_STATISTICS) for part in model.modules())


def _differs(task: Task, device: torch.device, facts: ForwardFacts, chosen: str) -> str | None:
    """What goes wrong when two replicas take a step in a stacked form; None where each is as it is alone."""
    train = task.dataset.train
    place = torch.arange(6).remainder(len(train))
    data = ResidentSplit(subset(train.images, train.labels, place, "first samples"), task.dataset, device)
    index = torch.arange(6, device=device).view(2, 3)
    samples, labels = data.gather(index), data.labels[index]

    # The loss may draw from torch's global streams
    together = StackedReplicas(task, 2, device, False, facts, by_vmap=chosen == "vmap")
    alone = []
    with streams_kept(device):
        for replica in range(2):
            together.start(replica, replica)
            model = fresh_model(task, replica).to(device).train()
            with torch.no_grad():
                outputs = model(samples[replica].clone()).float()
            is_known = task.kind.classes is not None
            alone.append(outputs if is_known else task.sample_loss(outputs, labels[replica]).detach())
        try:
            weight, rates = torch.ones(2, 3, device=device), torch.zeros(2, device=device)
            step = together.step(samples, index, labels, weight, [3, 3], rates)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # noqa: BLE001  # of an operation that has no form with a replica axis
            first = str(error).partition("\n")[0]
            return f"an operation that has no such form ({type(error).__name__}: {first})"

    found = step.loss if step.logits is None else step.logits
    wanted = torch.stack(alone)
    room = 1e-2 * float(wanted.abs().amax().clamp(min=1e-3))
    is_same = found.shape == wanted.shape and torch.allclose(found, wanted, rtol=1e-2, atol=room)
    return None if is_same else "other outputs than it has alone"


def make_replicas(
    task: Task,
    replicas: int,
    device: torch.device,
    form: str = "auto",
    *,
    autocast: bool = False,
    channels_last: bool = False,
    compile: bool = False,
    threads: int = 1,
) -> Replicas:
    """Build K replicas in the named form: "auto", "stacked", "vmap" or "loop".

    Raises:
        ValueError: the form is unknown, the model has no such form or does not fit the data set.
    """
    pick("form", form, ("auto", *FORMS))
    model = seeded_model(task.model, 0)
    facts, outputs_each = _check_model(model, task, device)
    chosen = choose_form(model, replicas, device) if form == "auto" else form
    if form == "auto" and replicas == 1 and (channels_last or compile):  # settings of the loop form alone
        chosen = "loop"

    reason = _needs_loop(model, task, device, facts) if chosen == "vmap" else None
    if reason is None and _is_tried(model, task, chosen):
        reason = _differs(task, device, facts, chosen)
    if reason is not None and form == "auto":
        chosen = "loop"

    if chosen == "loop":
        settings = {"channels_last": channels_last, "compile": compile}
        loop = LoopReplicas(task, replicas, device, autocast, facts, **settings, threads=threads)
        loop.outputs_each = outputs_each
        return loop

    # The other forms do not take every model
    bad = [type(part).__name__ for part in model.modules() if isinstance(part, BATCH_STATISTICS)]
    if chosen == "stacked" and not can_stack(model):
        bad += [type(layer).__name__ for _, layer in layers(model) if not can_stack_layer(layer)]
        bad += ["hooks"] * is_hooked(model) + ["parameters in several places"] * is_tied(model)
        bad = bad or ["a container with a forward of its own"]
    bad = bad or ([] if reason is None else [reason])
    if bad:
        raise ValueError(
            f"form {chosen!r} does not fit a model with {', '.join(sorted(set(bad)))}; use form = 'loop'"
        )

    stacked = StackedReplicas(task, replicas, device, autocast, facts, by_vmap=chosen == "vmap")
    stacked.outputs_each = outputs_each
    return stacked
