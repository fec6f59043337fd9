"""K replicas of one model, trained side by side, in the form that is fastest for device and model."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from dsenv.errors import pick
from dsenv.tasks.task import Task, seeded_model
from dsenv.training.optim import StackedOptimizer, make_optimizer
from dsenv.training.stacked import can_stack, can_stack_layer, layers, stacked_forward

FORMS = ("stacked", "vmap", "loop")
BATCH_STATISTICS = (nn.modules.batchnorm._BatchNorm, nn.modules.dropout._DropoutNd)
State = dict[str, Any]


class Replicas(ABC):
    """Parameters and optimisers of K replicas of the task's model.

    Replica k never depends on the others: not its initial parameters, not its steps.
    """

    def __init__(self, task: Task, replicas: int, device: torch.device, autocast: bool) -> None:
        self.task, self.count, self.device = task, replicas, device
        self._autocast = autocast
        self.lr_device = device  # where `step` wants its learning rates

    @abstractmethod
    def start(self, replica: int, seed: int) -> None:
        """Give one replica fresh parameters and a fresh optimiser; both follow from `seed`."""

    @abstractmethod
    def step(
        self, samples: Tensor, labels: Tensor, weight: Tensor, sizes: Sequence[int], lr: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Take one optimiser step in every replica whose batch is not empty; the others stay as they are.

        Args:
            samples: (K, B, ...) float inputs.
            labels: (K, B) int64.
            weight: (K, B) factor on the loss of each sample; the batch loss is the mean over its samples.
            sizes: samples in the batch of each replica, 0..B; what is behind them is padding.
            lr: (K,) learning rates, on `lr_device`.

        Returns:
            loss: (K, B) unweighted loss of each sample.
            logits: (K, B, C) what the model said before the step. Both hold anything on padding.
        """

    @abstractmethod
    def predict(self, samples: Tensor) -> Tensor:
        """Logits (K, B, C) of all replicas for the same samples (B, ...), in evaluation mode."""

    @abstractmethod
    def parameters_of(self, replica: int) -> dict[str, Tensor]:
        """Copies of one replica's parameters and buffers, by their names in the model."""

    @abstractmethod
    def optimizer_state_of(self, replica: int) -> list[Tensor]:
        """Copies of the tensors in one replica's optimiser state."""

    @abstractmethod
    def state_dict(self) -> State:
        """Everything needed to continue, of all replicas."""

    @abstractmethod
    def load_state_dict(self, state: State) -> None:
        """Continue from `state_dict()`."""

    def _precision(self) -> AbstractContextManager[Any]:
        return torch.autocast(self.device.type, torch.bfloat16) if self._autocast else nullcontext()


class StackedReplicas(Replicas):
    """Parameters stacked to (K, ...), one forward and one backward pass for all replicas.

    With `by_vmap` the passes come from `torch.func.vmap`, else from the layers of `stacked.py`.
    """

    def __init__(
        self, task: Task, replicas: int, device: torch.device, autocast: bool, *, by_vmap: bool
    ) -> None:
        super().__init__(task, replicas, device, autocast)
        self._model = seeded_model(task.model, 0).to(device)
        self._by_vmap = by_vmap
        self._parameters = {
            name: nn.Parameter(value.detach().expand(replicas, *value.shape).clone())
            for name, value in self._model.named_parameters()
        }
        optimizer = make_optimizer(task.recipe, self._parameters.values(), stacked=True)
        assert isinstance(optimizer, StackedOptimizer)
        self._optimizer = optimizer

    def start(self, replica: int, seed: int) -> None:
        fresh = seeded_model(self.task.model, seed).state_dict()
        with torch.no_grad():
            for name, parameter in self._parameters.items():
                parameter[replica] = fresh[name].to(self.device)
        self._optimizer.reset(replica)

    def _forward(self, parameters: Mapping[str, Tensor], samples: Tensor) -> Tensor:
        with self._precision():
            if not self._by_vmap:
                return stacked_forward(self._model, parameters, samples).float()

            def call(own: dict[str, Tensor], inputs: Tensor) -> Tensor:
                logits: Tensor = functional_call(self._model, own, (inputs,))
                return logits

            return torch.vmap(call)(dict(parameters), samples).float()

    def step(
        self, samples: Tensor, labels: Tensor, weight: Tensor, sizes: Sequence[int], lr: Tensor
    ) -> tuple[Tensor, Tensor]:
        logits = self._forward(self._parameters, samples)  # (K, B, C)
        loss = self.task.sample_loss(logits.flatten(0, 1), labels.flatten()).view(labels.shape)
        objective, active = self._objective(loss, weight, sizes)
        gradients = torch.autograd.grad(objective, list(self._parameters.values()))
        for parameter, gradient in zip(self._parameters.values(), gradients, strict=True):
            parameter.grad = gradient
        self._optimizer.lr_K, self._optimizer.active_K = lr, active
        self._optimizer.step()
        return loss.detach(), logits.detach()

    def _objective(self, loss: Tensor, weight: Tensor, sizes: Sequence[int]) -> tuple[Tensor, Tensor | None]:
        """Sum over replicas of the weighted mean loss of their batches, and who takes the step."""
        batch = loss.shape[1]
        if all(size == batch for size in sizes):
            return (loss * weight).sum() / batch, None
        size = torch.tensor(sizes, device=self.device)
        is_sample = torch.arange(batch, device=self.device) < size[:, None]
        weighted = torch.where(is_sample, loss * weight, torch.zeros_like(loss)).sum(1)
        return (weighted / size.clamp(min=1)).sum(), None if min(sizes) > 0 else size > 0

    @torch.no_grad()
    def predict(self, samples: Tensor) -> Tensor:
        return self._forward(self._parameters, samples.expand(self.count, *samples.shape))

    def parameters_of(self, replica: int) -> dict[str, Tensor]:
        return {name: value[replica].detach().clone() for name, value in self._parameters.items()}

    def optimizer_state_of(self, replica: int) -> list[Tensor]:
        return [
            value[replica].clone() for state in self._optimizer.state.values() for value in state.values()
        ]

    def state_dict(self) -> State:
        return {
            "parameters": {name: value.detach().clone() for name, value in self._parameters.items()},
            "optimizer": _cloned(self._optimizer.state_dict()),
        }

    def load_state_dict(self, state: State) -> None:
        with torch.no_grad():
            for name, parameter in self._parameters.items():
                parameter.copy_(state["parameters"][name])
        self._optimizer.load_state_dict(_cloned(state["optimizer"]))


class LoopReplicas(Replicas):
    """One module and one optimiser a replica, stepped one after another: any `nn.Module`."""

    def __init__(
        self,
        task: Task,
        replicas: int,
        device: torch.device,
        autocast: bool,
        *,
        channels_last: bool,
        compile: bool,
    ) -> None:
        super().__init__(task, replicas, device, autocast)
        self._format = torch.channels_last if channels_last else torch.contiguous_format
        self.lr_device = torch.device(
            "cpu"
        )  # plain optimisers take numbers; reading them must not wait for a GPU
        self._models: list[nn.Module] = []
        self._optimizers: list[torch.optim.Optimizer] = []
        for replica in range(replicas):
            self.start(replica, replica)
        self._calls: list[Any] = [torch.compile(model) if compile else model for model in self._models]

    def start(self, replica: int, seed: int) -> None:
        model = seeded_model(self.task.model, seed).to(self.device)
        if len(self._models) <= replica:
            self._models.append(model.to(memory_format=self._format))
            self._optimizers.append(self._fresh_optimizer(replica))
        else:
            self._models[replica].load_state_dict(model.state_dict())
            self._optimizers[replica] = self._fresh_optimizer(replica)

    def _fresh_optimizer(self, replica: int) -> torch.optim.Optimizer:
        return make_optimizer(self.task.recipe, self._models[replica].parameters(), stacked=False)

    def _call(self, replica: int, samples: Tensor) -> Tensor:
        with self._precision():
            inputs = samples.contiguous(memory_format=self._format) if samples.ndim == 4 else samples
            logits: Tensor = self._calls[replica](inputs)
            return logits.float()

    def step(
        self, samples: Tensor, labels: Tensor, weight: Tensor, sizes: Sequence[int], lr: Tensor
    ) -> tuple[Tensor, Tensor]:
        losses = torch.zeros_like(weight)
        logits = weight.new_zeros(*weight.shape, self.task.dataset.classes)
        for replica, (size, rate) in enumerate(zip(sizes, lr.tolist(), strict=True)):
            if size == 0:
                continue
            model, optimizer = self._models[replica], self._optimizers[replica]
            model.train()
            outputs = self._call(replica, samples[replica, :size])
            loss = self.task.sample_loss(outputs, labels[replica, :size])
            optimizer.zero_grad()
            torch.autograd.backward((loss * weight[replica, :size]).mean())
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.step()
            losses[replica, :size], logits[replica, :size] = loss.detach(), outputs.detach()
        return losses, logits

    @torch.no_grad()
    def predict(self, samples: Tensor) -> Tensor:
        for model in self._models:
            model.eval()
        return torch.stack([self._call(replica, samples) for replica in range(self.count)])

    def parameters_of(self, replica: int) -> dict[str, Tensor]:
        return {name: value.detach().clone() for name, value in self._models[replica].state_dict().items()}

    def optimizer_state_of(self, replica: int) -> list[Tensor]:
        states = self._optimizers[replica].state.values()
        return [value.clone() for state in states for value in state.values() if isinstance(value, Tensor)]

    def state_dict(self) -> State:
        return {
            "models": [_cloned(model.state_dict()) for model in self._models],
            "optimizers": [_cloned(optimizer.state_dict()) for optimizer in self._optimizers],
        }

    def load_state_dict(self, state: State) -> None:
        for model, saved in zip(self._models, state["models"], strict=True):
            model.load_state_dict(saved)
        for optimizer, saved in zip(self._optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(_cloned(saved))


def _cloned(state: Any) -> Any:
    """A deep copy of nested dicts and lists, tensors cloned."""
    if isinstance(state, Tensor):
        return state.detach().clone()
    if isinstance(state, Mapping):
        return {key: _cloned(value) for key, value in state.items()}
    if isinstance(state, list | tuple):
        return type(state)(_cloned(value) for value in state)
    return state


def choose_form(model: nn.Module, replicas: int, device: torch.device) -> str:
    """The fastest form by measurement (docs/benchmarks.md, benchmarks/forms.py).

    Linear networks stack everywhere. Convolutions on a CPU run fastest in a loop; on a GPU they are
    grouped, or mapped where a layer has no grouped form. Batch statistics tie a sample to the rest of
    its batch, padding included, so such models keep a loop.
    """
    if replicas == 1 or any(isinstance(part, BATCH_STATISTICS) for part in model.modules()):
        return "loop"
    has_convolution = any(isinstance(layer, nn.Conv2d) for layer in model.modules())
    if has_convolution and device.type == "cpu":
        return "loop"
    return "stacked" if can_stack(model) else ("vmap" if device.type == "cuda" else "loop")


def make_replicas(
    task: Task,
    replicas: int,
    device: torch.device,
    form: str = "auto",
    *,
    autocast: bool = False,
    channels_last: bool = False,
    compile: bool = False,
) -> Replicas:
    """Build K replicas in the named form: "auto", "stacked", "vmap" or "loop".

    Raises:
        ValueError: the form is unknown, or the model has no such form.
    """
    model = seeded_model(task.model, 0)
    pick("form", form, ("auto", *FORMS))
    chosen = choose_form(model, replicas, device) if form == "auto" else form
    if chosen == "loop":
        return LoopReplicas(task, replicas, device, autocast, channels_last=channels_last, compile=compile)
    bad = [type(part).__name__ for part in model.modules() if isinstance(part, BATCH_STATISTICS)]
    if chosen == "stacked" and not can_stack(model):
        bad += [type(layer).__name__ for _, layer in layers(model) if not can_stack_layer(layer)]
    if bad:
        raise ValueError(
            f"form {chosen!r} does not fit a model with {', '.join(sorted(set(bad)))}; use form = 'loop'"
        )
    return StackedReplicas(task, replicas, device, autocast, by_vmap=chosen == "vmap")
