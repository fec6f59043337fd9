"""torch.optim's SGD, Adam and AdamW with a replica axis.

The parameters of K replicas are stacked, so one tensor holds K networks' worth of a weight. Replicas
may have different learning rates and different numbers of steps, or take no part in this step because
their interval is over. torch.optim knows one learning rate and one step count for each tensor;
these subclasses keep its settings and state, and extend the update rule to K of them.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from dsenv.tasks.task import Recipe


class StackedOptimizer(torch.optim.Optimizer):
    """What the stacked optimisers share: per-replica learning rate, activity and reset."""

    lr_K: Tensor
    """(K,) learning rate of each replica in the coming step."""
    active_K: Tensor | None = None
    """(K,) bool, the replicas that take the coming step; None for all."""

    def reset(self, replica: int) -> None:
        """Forget the state of one replica, as in a new optimiser."""
        for state in self.state.values():
            for value in state.values():
                value[replica] = 0

    def _parameters(self) -> Iterable[tuple[dict[str, Any], Tensor, Tensor]]:
        """Settings, parameter and gradient of every tensor; zero gradients where a replica takes no step."""
        for group in self.param_groups:
            for parameter in group["params"]:
                grad = parameter.grad
                if grad is None:  # frozen or unused, which torch.optim leaves as it is too
                    continue
                if self.active_K is not None:
                    grad = torch.where(_along(self.active_K, grad), grad, torch.zeros_like(grad))
                yield group, parameter, grad

    def _hold(self, new: Tensor, old: Tensor) -> Tensor:
        """`new` for replicas that take the step, `old` for the others."""
        return new if self.active_K is None else torch.where(_along(self.active_K, new), new, old)


def _along(values_K: Tensor, like: Tensor) -> Tensor:
    """(K,) as (K, 1, ..., 1) with the dimensions of `like`."""
    return values_K.view(-1, *[1] * (like.ndim - 1))


class StackedSGD(StackedOptimizer, torch.optim.SGD):
    """SGD with momentum over stacked parameters (K, ...); each replica as by `torch.optim.SGD`."""

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # no closure
        """Take one step with learning rates `lr_K` for the replicas in `active_K`."""
        assert closure is None
        for group, parameter, grad in self._parameters():
            if group["weight_decay"]:
                grad = grad.add(parameter, alpha=group["weight_decay"])
            if group["momentum"]:
                momentum = self._momentum(parameter, group["momentum"], grad)
                grad = grad.add(momentum, alpha=group["momentum"]) if group["nesterov"] else momentum

            if self.active_K is None:
                parameter.addcmul_(grad, _along(-self.lr_K, grad))
            else:
                parameter.copy_(self._hold(parameter.addcmul(grad, _along(-self.lr_K, grad)), parameter))

    def _momentum(self, parameter: Tensor, decay: float, grad: Tensor) -> Tensor:
        """The tensor's momentum after taking in its gradient."""
        state = self.state[parameter]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        momentum: Tensor = state["momentum_buffer"]
        if self.active_K is None:
            return momentum.mul_(decay).add_(grad)
        return momentum.copy_(self._hold(momentum * decay + grad, momentum))


class StackedAdam(StackedOptimizer, torch.optim.Adam):
    """Adam over stacked parameters (K, ...); each replica as by `torch.optim.Adam`."""

    decoupled = False
    """Whether weight decay acts on the parameters, not on the gradient."""

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # no closure
        """Take one step with learning rates `lr_K` for the replicas in `active_K`."""
        assert closure is None
        for group, parameter, grad in self._parameters():
            beta1, beta2 = group["betas"]
            decay = group["weight_decay"]
            if decay and not self.decoupled:
                grad = grad.add(parameter, alpha=decay)
            state = self.state[parameter]
            if not state:
                state["step"] = torch.zeros_like(self.lr_K)
                state["exp_avg"] = torch.zeros_like(parameter)
                state["exp_avg_sq"] = torch.zeros_like(parameter)

            mean = state["exp_avg"]
            square = state["exp_avg_sq"]
            lr = _along(self.lr_K, grad)
            state["step"].copy_(self._hold(state["step"] + 1, state["step"]))
            mean.copy_(self._hold(mean.lerp(grad, 1 - beta1), mean))
            square.copy_(self._hold(square * beta2 + (1 - beta2) * grad * grad, square))

            steps = _along(state["step"], grad).clamp(min=1)
            denominator = (square / (1 - beta2**steps)).sqrt_().add_(group["eps"])
            moved = parameter * (1 - lr * decay) if self.decoupled else parameter.clone()
            moved -= lr / (1 - beta1**steps) * mean / denominator
            parameter.copy_(self._hold(moved, parameter))


class StackedAdamW(StackedAdam, torch.optim.AdamW):
    """AdamW over stacked parameters (K, ...); each replica as by `torch.optim.AdamW`."""

    decoupled = True


def make_optimizer(
    recipe: Recipe, parameters: Iterable[nn.Parameter], *, stacked: bool
) -> torch.optim.Optimizer:
    """The recipe's optimiser, plain or with a replica axis."""
    settings: dict[str, Any] = {"lr": recipe.lr, "weight_decay": recipe.weight_decay}
    if recipe.optimizer == "sgd":
        settings |= {"momentum": recipe.momentum, "nesterov": recipe.nesterov and recipe.momentum > 0}
        return (StackedSGD if stacked else torch.optim.SGD)(parameters, **settings)
    settings["betas"] = (recipe.momentum, 0.999)
    if recipe.optimizer == "adam":
        return (StackedAdam if stacked else torch.optim.Adam)(parameters, **settings)
    return (StackedAdamW if stacked else torch.optim.AdamW)(parameters, **settings)
