"""K replicas as one tensor program: stacked layers, or `torch.func.vmap`."""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.func import functional_call

from dsenv.outputs import ModelOutputs, of_classes
from dsenv.states import fitted
from dsenv.tasks.narrow import narrow_parameters
from dsenv.tasks.task import Task, seeded_model
from dsenv.training.base import Replicas, State, cloned, flat, no_features
from dsenv.training.graphs import StepGraphs
from dsenv.training.modules import ForwardFacts, fresh_model
from dsenv.training.optim import StackedOptimizer, make_optimizer
from dsenv.training.stacked import stacked_forward


class StackedReplicas(Replicas):
    """Parameters stacked to (K, ...), one forward and one backward pass for all replicas.

    With `by_vmap` the passes come from `torch.func.vmap`, else from the layers of `stacked.py`.
    """

    def __init__(
        self,
        task: Task,
        replicas: int,
        device: torch.device,
        autocast: bool,
        facts: ForwardFacts,
        *,
        by_vmap: bool,
    ) -> None:
        super().__init__(task, replicas, device, autocast)
        self._model = seeded_model(task.model, 0).to(device)
        self.form = "vmap" if by_vmap else "stacked"
        self._by_vmap, self.stacked, self._facts = by_vmap, True, facts
        self._parameters = {
            name: nn.Parameter(_repeated(value, replicas), value.requires_grad)
            for name, value in self._model.named_parameters()
        }
        self._buffers = {name: _repeated(value, replicas) for name, value in self._model.named_buffers()}
        """(K, ...) by name; a forward that changes them runs in a loop."""

        self._places = _places(self._model)
        optimizer = make_optimizer(task.recipe, self._parameters.values(), stacked=True)
        assert isinstance(optimizer, StackedOptimizer)
        self._optimizer = optimizer
        self._graphs = StepGraphs()
        is_known = task.loss is None and task.kind.classes is not None
        self._can_capture = device.type == "cuda" and not by_vmap and is_known
        """Whether a step is made of known operations, none of which waits."""

    def start(self, replica: int, seed: int, width: float = 1.0) -> None:
        if width != 1 and not self._buffers:  # the full model gives the shapes alone
            fresh = narrow_parameters(self.task, seed, width, self._model)
        else:
            model = fresh_model(self.task, seed, width)
            fresh = dict(model.named_parameters()) | dict(model.named_buffers())
        with torch.no_grad():
            for name, stacked in self._all().items():
                stacked[replica] = fresh[name].to(self.device)
        self._optimizer.reset(replica)

    def _all(self) -> dict[str, Tensor]:
        """Parameters and buffers (K, ...) by name."""
        return {**self._parameters, **self._buffers}

    def _forward(self, samples: Tensor) -> tuple[Tensor, Tensor | None]:
        """Logits and features."""
        if self._facts.changes_input:
            samples = samples.clone()
        with self._precision():
            if not self._by_vmap:
                logits, features = stacked_forward(self._model, self._parameters, samples)
                if self.features_wanted and features is None:
                    raise ValueError(no_features(self._model))
                return logits.float(), features if self.features_wanted else None

            def call(own: dict[str, Tensor], inputs: Tensor) -> Tensor:
                everywhere = {name: own[first] for name, first in self._places.items()}
                logits: Tensor = functional_call(self._model, everywhere, (inputs,), tie_weights=False)
                return logits

            if self.features_wanted:
                raise ValueError("form 'vmap' gives no features; use form = 'loop' or 'stacked'")
            return torch.vmap(call)(self._all(), samples).float(), None

    def step(
        self,
        samples: Tensor,
        index: Tensor,
        labels: Tensor,
        weight: Tensor,
        sizes: Sequence[int],
        lr: Tensor,
    ) -> ModelOutputs:
        # What decides the sequence of operations: whether batches are padded, and whether some are empty
        inputs = [samples, labels, weight, lr]
        if any(size != index.shape[1] for size in sizes):
            is_on_gpu = self.device.type == "cuda"  # a copy from pinned memory does not wait
            inputs.append(torch.tensor(sizes, pin_memory=is_on_gpu).to(self.device, non_blocking=True))
        step = partial(self._step, all_step=min(sizes) > 0)
        kind = (min(sizes) > 0, self.features_wanted)
        found = self._graphs.call(kind, step, inputs) if self._can_capture else step(*inputs)

        loss, outputs, features = found
        assert loss is not None
        assert outputs is not None
        logits, readings = self.read(outputs, labels, loss)
        return ModelOutputs(index, of_classes(labels, index, logits), loss, logits, features, readings)

    def _step(
        self,
        samples: Tensor,
        labels: Tensor,
        weight: Tensor,
        lr: Tensor,
        size: Tensor | None = None,
        *,
        all_step: bool,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """One step in all replicas, or in those whose `size` (K,) is not 0: losses, logits and features."""
        # Forward and backward of all replicas at once; what is frozen or unused gets no gradient
        if not self._model.training:
            self._model.train()
        trained = [parameter for parameter in self._parameters.values() if parameter.requires_grad]
        logits, features = self._forward(samples)
        loss = self.task.sample_loss(*flat(2, logits, labels)).view(weight.shape)
        gradients = torch.autograd.grad(_objective(loss, weight, size), trained, allow_unused=True)
        for parameter, gradient in zip(trained, gradients, strict=True):
            parameter.grad = gradient

        self._optimizer.lr_K = lr
        self._optimizer.active_K = None if size is None or all_step else size > 0
        self._optimizer.advance()
        return loss.detach(), logits.detach(), None if features is None else features.detach()

    @torch.no_grad()
    def predict(self, samples: Tensor) -> tuple[Tensor, Tensor | None]:
        self._model.eval()
        return self._forward(samples)

    def parameters_of(self, replica: int) -> dict[str, Tensor]:
        return {name: value[replica].detach().clone() for name, value in self._all().items()}

    def optimizer_state_of(self, replica: int) -> list[Tensor]:
        return [
            value[replica].clone() for state in self._optimizer.state.values() for value in state.values()
        ]

    def state_dict(self) -> State:
        return {"parameters": cloned(self._all()), "optimizer": cloned(self._optimizer.state_dict())}

    def load_state_dict(self, state: State) -> None:
        """Continue from `state_dict()`.

        Raises:
            ValueError: the state is of other models.
        """
        own, saved = self._all(), state["parameters"]
        if own.keys() != saved.keys():
            raise ValueError(f"the state has the parameters {sorted(saved)}, this model has {sorted(own)}")
        found = {name: fitted(name, saved[name], value) for name, value in own.items()}

        self._optimizer.load_state_dict(cloned(state["optimizer"]))
        self._graphs.forget()
        with torch.no_grad():
            for name, value in own.items():
                value.copy_(found[name])


def _objective(loss: Tensor, weight: Tensor, size: Tensor | None) -> Tensor:
    """Sum over replicas of the weighted mean loss (K, B) of their batches; of `size` (K,), or all of B."""
    if size is None:
        return (loss * weight).sum() / loss.shape[1]

    # Padding counts neither in a sum nor in the size that divides it
    is_sample = torch.arange(loss.shape[1], device=loss.device) < size[:, None]
    weighted = torch.where(is_sample, loss * weight, torch.zeros_like(loss)).sum(1)
    return (weighted / size.clamp(min=1)).sum()


def _places(model: nn.Module) -> dict[str, str]:
    """Every place of a parameter or buffer, by its name, with the name under which its value is kept.

    A module that stands in two places is named once: `functional_call` would not put it back as it was.
    """
    named = [*model.named_parameters(), *model.named_buffers()]
    first = {id(value): name for name, value in named}
    return {
        f"{prefix}.{key}" if prefix else key: first[id(value)]
        for prefix, part in model.named_modules()
        for key, value in [*part._parameters.items(), *part._buffers.items()]
        if value is not None
    }


def _repeated(value: Tensor, replicas: int) -> Tensor:
    return value.detach().expand(replicas, *value.shape).clone()
