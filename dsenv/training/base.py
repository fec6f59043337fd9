"""Replicas: parameters and optimisers of K training runs of one model, behind one interface."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from dsenv.outputs import ModelOutputs
from dsenv.tasks.task import Task

State = dict[str, Any]


class Replicas(ABC):
    """Parameters and optimisers of K replicas of the task's model.

    Replica k never depends on the others: not its initial parameters, not its steps.
    """

    def __init__(self, task: Task, replicas: int, device: torch.device, autocast: bool) -> None:
        self.task = task
        self.count = replicas
        self.device = device
        self._autocast = autocast

        self.form = ""
        """"stacked", "vmap" or "loop"."""
        self.needs_company = False
        """Whether a batch of one sample cannot be trained on, because batch statistics need two."""
        self.features_wanted = False
        """Whether the inputs of the last linear layer are returned too."""
        self.stacked = False
        """Whether one pass serves all replicas."""
        self.lr_device = device
        """Where `step` wants its learning rates."""
        self.outputs_each = 1
        """Numbers that the model gives for one sample."""

    @abstractmethod
    def start(self, replica: int, seed: int, width: float = 1.0) -> None:
        """Give one replica fresh parameters and a fresh optimiser.

        Args:
            replica: which one.
            seed: decides its parameters.
            width: share of the model's hidden units, (0, 1]; the others are zero and stay so.
        """

    @abstractmethod
    def step(
        self,
        samples: Tensor,
        index: Tensor,
        labels: Tensor,
        weight: Tensor,
        sizes: Sequence[int],
        lr: Tensor,
    ) -> ModelOutputs:
        """Take one optimiser step in every replica whose batch is not empty; the others stay as they are.

        Args:
            samples: (K, B, ...) float inputs.
            index: (K, B) int64 positions of the samples, returned as they are.
            labels: (K, B) int64; targets (K, B, ...) for other kinds of task than classification.
            weight: (K, B) factor on the loss of each sample; the batch loss is the mean over its samples.
            sizes: samples in the batch of each replica, 0..B; the rest of the row is padding.
            lr: (K,) learning rates, on `lr_device`.

        Returns:
            Outputs of the models before the step, with logits, or with readings where they are no logits of
            classes; with features where `features_wanted` is set.
        """

    @abstractmethod
    def predict(self, samples: Tensor) -> tuple[Tensor, Tensor | None]:
        """Outputs of samples (K, B, ...) in evaluation mode, and features (K, B, D) where wanted.

        Outputs are logits (K, B, C) for classification.
        """

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

    def read(
        self, outputs: Tensor, targets: Tensor, loss: Tensor
    ) -> tuple[Tensor | None, dict[str, Tensor] | None]:
        """What is kept of outputs (..., B, ...): logits of classes, or what the kind reads of others."""
        kind = self.task.kind
        if kind.classes is not None:
            return outputs, None
        return None, {
            name: value.view(loss.shape)
            for name, value in kind.read(*flat(loss.dim(), outputs, targets, loss)).items()
        }

    def _precision(self) -> AbstractContextManager[Any]:
        return torch.autocast(self.device.type, torch.bfloat16) if self._autocast else nullcontext()


def flat(axes: int, *tensors: Tensor) -> list[Tensor]:
    """Tensors with their first `axes` axes as one: rows of all replicas."""
    return [tensor.flatten(0, axes - 1) for tensor in tensors]


def no_features(model: nn.Module) -> str:
    """Error message for a model that has no layer to take features from."""
    name = type(model).__name__
    return f"the method needs features, and the model {name} has no linear layer to take them from"


def cloned(state: Any) -> Any:
    """A deep copy of nested dicts and lists, tensors cloned."""
    if isinstance(state, Tensor):
        return state.detach().clone()
    if isinstance(state, Mapping):
        return {key: cloned(value) for key, value in state.items()}
    if isinstance(state, list | tuple):
        return type(state)(cloned(value) for value in state)
    return state
