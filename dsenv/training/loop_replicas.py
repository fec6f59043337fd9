"""K replicas as K modules, stepped one after another: any `nn.Module`."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from dsenv.tasks.task import Task, seeded_model
from dsenv.training.base import Outputs, Replicas, State, cloned
from dsenv.training.optim import make_optimizer


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
        self._noise: list[Tensor] = []  # states of the replicas' random streams, for dropout
        for replica in range(replicas):
            self.start(replica, replica)
        self._calls: list[Any] = [torch.compile(model) if compile else model for model in self._models]

    def start(self, replica: int, seed: int) -> None:
        model = seeded_model(self.task.model, seed).to(self.device)
        if len(self._models) <= replica:
            self._models.append(model.to(memory_format=self._format))
            self._noise.append(torch.empty(0))
            self._optimizers.append(self._fresh_optimizer(replica))
        else:
            self._models[replica].load_state_dict(model.state_dict())
            self._optimizers[replica] = self._fresh_optimizer(replica)
        self._noise[replica] = torch.Generator(self.device).manual_seed(seed).get_state()

    def _fresh_optimizer(self, replica: int) -> torch.optim.Optimizer:
        return make_optimizer(self.task.recipe, self._models[replica].parameters(), stacked=False)

    @contextmanager
    def _own_stream(self, replica: int) -> Iterator[None]:
        """Let dropout draw from the replica's own stream; the global one is left as it was."""
        if self.device.type == "cuda":
            index = torch.cuda.current_device() if self.device.index is None else self.device.index
            stream = torch.cuda.default_generators[index]
        else:
            stream = torch.default_generator
        before = stream.get_state()
        stream.set_state(self._noise[replica])
        try:
            yield
        finally:
            self._noise[replica] = stream.get_state()
            stream.set_state(before)

    def _call(self, replica: int, samples: Tensor) -> tuple[Tensor, Tensor | None]:
        """Logits and features of one replica."""
        caught: list[Tensor] = []
        hook = self._catch_features(replica, caught) if self.features_wanted else None
        try:
            with self._precision():
                inputs = samples.contiguous(memory_format=self._format) if samples.ndim == 4 else samples
                logits: Tensor = self._calls[replica](inputs)
        finally:
            if hook is not None:
                hook.remove()
        return logits.float(), caught[-1].detach() if caught else None

    def _catch_features(self, replica: int, caught: list[Tensor]) -> RemovableHandle:
        """Note what the last linear layer of a replica is given, until the handle is removed."""
        linear = [layer for layer in self._models[replica].modules() if isinstance(layer, nn.Linear)]
        if not linear:
            name = type(self._models[replica]).__name__
            raise ValueError(
                f"the method needs features, and the model {name} has no linear layer to take them from"
            )
        return linear[-1].register_forward_pre_hook(lambda _, arguments: caught.append(arguments[0]))

    def step(
        self, samples: Tensor, labels: Tensor, weight: Tensor, sizes: Sequence[int], lr: Tensor
    ) -> Outputs:
        losses = torch.zeros_like(weight)
        logits = weight.new_zeros(*weight.shape, self.task.dataset.classes)
        features: Tensor | None = None
        for replica, (size, rate) in enumerate(zip(sizes, lr.tolist(), strict=True)):
            if size == 0:
                continue
            self._models[replica].train()
            with self._own_stream(replica):
                outputs, seen = self._call(replica, samples[replica, :size])
            loss = self.task.sample_loss(outputs, labels[replica, :size])
            self._descend(replica, (loss * weight[replica, :size]).mean(), rate)
            losses[replica, :size], logits[replica, :size] = loss.detach(), outputs.detach()
            if seen is not None:
                features = weight.new_zeros(*weight.shape, seen.shape[1]) if features is None else features
                features[replica, :size] = seen.float()
        return Outputs(logits, losses, features)

    def _descend(self, replica: int, objective: Tensor, rate: float) -> None:
        """One optimiser step of one replica."""
        optimizer = self._optimizers[replica]
        optimizer.zero_grad()
        torch.autograd.backward(objective)
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()

    @torch.no_grad()
    def predict(self, samples: Tensor) -> Outputs:
        for model in self._models:
            model.eval()
        pairs = [self._call(replica, samples[replica]) for replica in range(self.count)]
        features = [feature.float() for _, feature in pairs if feature is not None]
        return Outputs(
            torch.stack([logits for logits, _ in pairs]), features=torch.stack(features) if features else None
        )

    def parameters_of(self, replica: int) -> dict[str, Tensor]:
        return {name: value.detach().clone() for name, value in self._models[replica].state_dict().items()}

    def optimizer_state_of(self, replica: int) -> list[Tensor]:
        states = self._optimizers[replica].state.values()
        return [value.clone() for state in states for value in state.values() if isinstance(value, Tensor)]

    def state_dict(self) -> State:
        return {
            "models": [cloned(model.state_dict()) for model in self._models],
            "optimizers": [cloned(optimizer.state_dict()) for optimizer in self._optimizers],
            "noise": cloned(self._noise),
        }

    def load_state_dict(self, state: State) -> None:
        for model, saved in zip(self._models, state["models"], strict=True):
            model.load_state_dict(saved)
        for optimizer, saved in zip(self._optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(cloned(saved))
        self._noise = cloned(state["noise"])
