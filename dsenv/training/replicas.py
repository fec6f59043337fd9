"""The form in which K replicas of a model run: it is chosen here, and nowhere else."""

import torch
from torch import nn

from dsenv.errors import pick
from dsenv.tasks.task import Task, seeded_model
from dsenv.training.base import Replicas
from dsenv.training.loop_replicas import LoopReplicas
from dsenv.training.stacked import can_stack, can_stack_layer, layers
from dsenv.training.stacked_replicas import StackedReplicas

FORMS = ("stacked", "vmap", "loop")
BATCH_STATISTICS = (nn.modules.batchnorm._BatchNorm, nn.modules.dropout._DropoutNd)


def choose_form(model: nn.Module, replicas: int, device: torch.device) -> str:
    """The fastest form by measurement (docs/benchmarks.md, benchmarks/forms.py).

    Linear networks stack everywhere. Convolutions on a CPU run fastest in a loop; on a GPU they are
    grouped, or mapped where a layer has no grouped form. With batch statistics a sample depends on the
    rest of its batch, padding included, so such models run in a loop.
    """
    if replicas == 1 or any(isinstance(part, BATCH_STATISTICS) for part in model.modules()):
        return "loop"
    has_convolution = any(isinstance(layer, nn.Conv2d) for layer in model.modules())
    if has_convolution and device.type == "cpu":
        return "loop"
    return "stacked" if can_stack(model) else ("vmap" if device.type == "cuda" else "loop")


@torch.no_grad()
def _check_outputs(model: nn.Module, task: Task, device: torch.device) -> None:
    samples = torch.zeros(2, *task.dataset.sample_shape, device=device)
    logits, wanted = model.eval().to(device)(samples), (2, task.dataset.classes)
    shape = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
    if shape != wanted:
        raise ValueError(
            f"for 2 samples of {task.dataset.name} a model must return logits of shape {wanted}, got {shape}"
        )


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
    model = seeded_model(task.model, 0)
    _check_outputs(model, task, device)
    pick("form", form, ("auto", *FORMS))
    chosen = choose_form(model, replicas, device) if form == "auto" else form

    if chosen == "loop":
        settings = {"channels_last": channels_last, "compile": compile}
        return LoopReplicas(task, replicas, device, autocast, **settings, threads=threads)

    # The other forms do not take every model
    bad = [type(part).__name__ for part in model.modules() if isinstance(part, BATCH_STATISTICS)]
    if chosen == "stacked" and not can_stack(model):
        bad += [type(layer).__name__ for _, layer in layers(model) if not can_stack_layer(layer)]
    if bad:
        raise ValueError(
            f"form {chosen!r} does not fit a model with {', '.join(sorted(set(bad)))}; use form = 'loop'"
        )

    return StackedReplicas(task, replicas, device, autocast, by_vmap=chosen == "vmap")
