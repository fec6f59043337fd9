"""K replicas as K modules, stepped one after another: any `nn.Module`."""

import copy
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from dsenv.errors import check_count
from dsenv.outputs import ModelOutputs, of_classes
from dsenv.states import listed
from dsenv.tasks.task import Task
from dsenv.training.base import Replicas, State, cloned, no_features
from dsenv.training.modules import (
    ForwardFacts,
    can_be_copied,
    fresh_model,
    hidden_buffers,
    load_model,
)
from dsenv.training.optim import make_optimizer

BATCH_NORM = nn.modules.batchnorm._BatchNorm
Found = TypeVar("Found")
Readings = dict[str, Tensor]


@lru_cache(maxsize=4)
def _pool(threads: int, process: int) -> ThreadPoolExecutor:
    """Threads that all replicas of a process share; a forked process gets its own."""
    del process
    return ThreadPoolExecutor(threads, thread_name_prefix="dsenv-replica")


class LoopReplicas(Replicas):
    """One module and one optimiser a replica, stepped one after another: any `nn.Module`.

    `threads` replicas run at the same time. A step of a replica is the same sequence of operations for any
    number of threads, so its numbers are the same.

    Raises:
        ValueError: `threads` is above 1, and the device is no CPU or the model has dropout, which draws from
            torch's global stream that threads cannot share.
    """

    def __init__(
        self,
        task: Task,
        replicas: int,
        device: torch.device,
        autocast: bool,
        facts: ForwardFacts,
        *,
        channels_last: bool,
        compile: bool,
        threads: int = 1,
    ) -> None:
        super().__init__(task, replicas, device, autocast)
        self._threads = check_count("threads", threads)
        self.form = "loop"
        self._facts, self._compile = facts, compile
        self._format = torch.channels_last if channels_last else torch.contiguous_format
        self.lr_device = torch.device("cpu")  # plain optimisers read numbers; that must not wait for a GPU

        self._models: list[nn.Module] = []
        self._optimizers: list[torch.optim.Optimizer] = []
        self._noise: list[Tensor] = []  # states of the replicas' random streams, for dropout
        self._build()
        self._check_threads()
        self.needs_company = any(isinstance(part, BATCH_NORM) for part in self._models[0].modules())

    def _build(self) -> None:
        """Models of all replicas, optimisers and random streams, each from the replica's number."""
        for replica in range(self.count):
            self._models.append(self._placed(fresh_model(self.task, replica)))
            self._optimizers.append(self._fresh_optimizer(replica))
            self._noise.append(torch.Generator(self.device).manual_seed(replica).get_state())
        self._calls: list[Any] = [torch.compile(m) if self._compile else m for m in self._models]

    def start(self, replica: int, seed: int, width: float = 1.0) -> None:
        fresh = fresh_model(self.task, seed, width)
        if self._compile:  # the compiled module stays
            load_model(self._models[replica], fresh.state_dict(), hidden_buffers(fresh))
        else:  # the module as its factory makes it, with all that is no parameter
            self._models[replica] = self._calls[replica] = self._placed(fresh)
        self._optimizers[replica] = self._fresh_optimizer(replica)
        self._noise[replica] = torch.Generator(self.device).manual_seed(seed).get_state()

    def _placed(self, model: nn.Module) -> nn.Module:
        return model.to(self.device).to(memory_format=self._format)

    def __deepcopy__(self, memo: dict[int, Any]) -> "LoopReplicas":
        """A copy; models are built anew where `copy.deepcopy` would not give ones of their own."""
        twin = object.__new__(type(self))
        memo[id(self)] = twin
        rebuilt = ("_models", "_optimizers", "_noise", "_calls")
        is_rebuilt = not all(can_be_copied(model) for model in self._models)
        for name, value in vars(self).items():
            setattr(twin, name, [] if is_rebuilt and name in rebuilt else copy.deepcopy(value, memo))

        if is_rebuilt:
            twin._build()
            twin.load_state_dict(self.state_dict())
        return twin

    def _fresh_optimizer(self, replica: int) -> torch.optim.Optimizer:
        return make_optimizer(self.task.recipe, self._models[replica].parameters(), stacked=False)

    def _check_threads(self) -> None:
        draws = any(isinstance(part, nn.modules.dropout._DropoutNd) for part in self._models[0].modules())
        draws = draws or self._facts.draws
        if self._threads > 1 and (draws or self.device.type != "cpu"):
            reason = "a model with dropout" if draws else f"the device {self.device}"
            raise ValueError(f"threads = {self._threads} does not fit {reason}; leave it at 1")

    def _each(self, work: Callable[[int], Found], replicas: Sequence[int]) -> list[Found]:
        """Result of `work` for each of the replicas, in their order."""
        count = min(self._threads, len(replicas))
        if count <= 1:
            return [work(replica) for replica in replicas]

        def share(first: int) -> list[Found]:
            return [work(replica) for replica in replicas[first::count]]

        shares = list(_pool(self._threads, os.getpid()).map(share, range(count)))
        return [shares[place % count][place // count] for place in range(len(replicas))]

    @contextmanager
    def _own_stream(self, replica: int) -> Iterator[None]:
        """Let dropout draw from the replica's own stream; the global one is left as it was."""
        if self._threads > 1:  # nothing is drawn
            yield
            return
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

    @contextmanager
    def _explained(self, size: int) -> Iterator[None]:
        """Say what to do where batch normalisation refuses a batch of one sample."""
        try:
            yield
        except ValueError as error:
            if size > 1 or not self.needs_company:
                raise
            raise ValueError(
                f"{type(self._models[0]).__name__} has batch normalisation, which cannot train on a single "
                "sample, and a batch has only one: raise recipe.batch_size, interval or ratio, or "
                f"take a model without it (small_cnn: norm = 'group'). torch says: {error}"
            ) from error

    def _call(self, replica: int, samples: Tensor) -> tuple[Tensor, Tensor | None]:
        """Logits and features of one replica."""
        caught: list[Tensor] = []
        hook = self._catch_features(replica, caught) if self.features_wanted else None
        if self._facts.changes_input:
            samples = samples.clone()
        try:
            with self._precision():
                inputs = samples.contiguous(memory_format=self._format) if samples.ndim == 4 else samples
                logits: Tensor = self._calls[replica](inputs)
        finally:
            if hook is not None:
                hook.remove()

        return logits.float(), caught[-1].detach() if caught else None

    def _catch_features(self, replica: int, caught: list[Tensor]) -> RemovableHandle:
        """Keep the inputs of the last linear layer of a replica, until the handle is removed."""
        linear = [layer for layer in self._models[replica].modules() if isinstance(layer, nn.Linear)]
        if not linear:
            raise ValueError(no_features(self._models[replica]))
        return linear[-1].register_forward_pre_hook(lambda _, arguments: caught.append(arguments[0]))

    def step(
        self,
        samples: Tensor,
        index: Tensor,
        labels: Tensor,
        weight: Tensor,
        sizes: Sequence[int],
        lr: Tensor,
    ) -> ModelOutputs:
        rates = lr.tolist()

        def one(replica: int) -> tuple[Tensor, Tensor | None, Readings | None, Tensor | None]:
            size = sizes[replica]
            self._models[replica].train()
            with self._own_stream(replica), self._explained(size):
                outputs, seen = self._call(replica, samples[replica, :size])
            loss = self.task.sample_loss(outputs, labels[replica, :size])
            self._descend(replica, (loss * weight[replica, :size]).mean(), rates[replica])
            loss = loss.detach()
            return loss, *self.read(outputs.detach(), labels[replica, :size], loss), seen

        # One step in every replica that has samples; padding keeps zeros
        kind = self.task.kind
        losses, features = torch.zeros_like(weight), None
        logits = None if kind.classes is None else weight.new_zeros(*weight.shape, kind.classes)
        readings = None if kind.classes else {name: torch.zeros_like(weight) for name in kind.gives}
        active = [replica for replica, size in enumerate(sizes) if size]
        for replica, (loss, outputs, said, seen) in zip(active, self._each(one, active), strict=True):
            own = (replica, slice(sizes[replica]))
            losses[own] = loss
            if logits is not None and outputs is not None:
                logits[own] = outputs
            for name, value in (said or {}).items():
                assert readings is not None
                readings[name][own] = value
            if seen is not None:
                features = weight.new_zeros(*weight.shape, seen.shape[1]) if features is None else features
                features[own] = seen.float()
        return ModelOutputs(index, of_classes(labels, index, logits), losses, logits, features, readings)

    def _descend(self, replica: int, objective: Tensor, rate: float) -> None:
        """One optimiser step of one replica."""
        optimizer = self._optimizers[replica]
        optimizer.zero_grad()
        torch.autograd.backward(objective)
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()

    @torch.no_grad()
    def predict(self, samples: Tensor) -> tuple[Tensor, Tensor | None]:
        for model in self._models:
            model.eval()

        @torch.no_grad()  # every thread has its own gradient mode
        def one(replica: int) -> tuple[Tensor, Tensor | None]:
            with self._own_stream(replica):
                return self._call(replica, samples[replica])

        pairs = self._each(one, range(self.count))
        features = [feature.float() for _, feature in pairs if feature is not None]
        return torch.stack([logits for logits, _ in pairs]), torch.stack(features) if features else None

    def parameters_of(self, replica: int) -> dict[str, Tensor]:
        return {name: value.detach().clone() for name, value in self._models[replica].state_dict().items()}

    def optimizer_state_of(self, replica: int) -> list[Tensor]:
        states = self._optimizers[replica].state.values()
        return [value.clone() for state in states for value in state.values() if isinstance(value, Tensor)]

    def state_dict(self) -> State:
        """Everything needed to continue, of all replicas.

        Raises:
            ValueError: the model's forward changes what neither its `state_dict` nor its buffers hold.
        """
        if self._facts.forgets:
            raise ValueError(
                f"the forward of {type(self._models[0]).__name__} changes {', '.join(self._facts.forgets)}, "
                "which its state_dict does not hold, so no state of this training run is whole: register it "
                "as a buffer (register_buffer), or keep it outside of the model"
            )
        return {
            "models": [cloned(dict(model.state_dict())) for model in self._models],
            "hidden": [cloned(hidden_buffers(model)) for model in self._models],
            "optimizers": [cloned(optimizer.state_dict()) for optimizer in self._optimizers],
            "noise": cloned(self._noise),
        }

    def load_state_dict(self, state: State) -> None:
        """Continue from `state_dict()`.

        Raises:
            ValueError: the state is of other models.
        """
        parts = [
            listed(name, state[name], self.count) for name in ("models", "hidden", "optimizers", "noise")
        ]
        for replica, (model, hidden, optimizer, noise) in enumerate(zip(*parts, strict=True)):
            load_model(self._models[replica], model, hidden)
            self._optimizers[replica].load_state_dict(cloned(optimizer))
            self._noise[replica] = noise.cpu().clone()
