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

    def step(self, closure: None = None) -> None:  # type: ignore[override]  # no closure
        """Take one step with learning rates `lr_K` for the replicas in `active_K`."""
        assert closure is None
        self.advance()

    @torch.no_grad()
    def advance(self) -> None:
        """`step`, without the hooks and the profiling that torch puts around it: they take longer than it."""
        self._advance()

    def _advance(self) -> None:
        """Take the step."""
        raise NotImplementedError

    def _parameters(self) -> Iterable[tuple[dict[str, Any], Tensor, Tensor]]:
        """Settings, parameter and gradient of every tensor; zero gradients where a replica takes no step."""
        for group in self.param_groups:
            for parameter in group["params"]:
                grad = parameter.grad
                if grad is None:  # frozen or unused, which torch.optim leaves as it is too
                    continue
                yield group, parameter, self._at_rest(grad)

    def _at_rest(self, grad: Tensor) -> Tensor:
        """A gradient that is 0 for replicas that take no step."""
        if self.active_K is None:
            return grad
        return torch.where(_along(self.active_K, grad), grad, 0.0)

    def _rates(self) -> Tensor:
        """(K,) learning rates; 0 for replicas that take no step, so that they stay as they are."""
        return self.lr_K if self.active_K is None else torch.where(self.active_K, self.lr_K, 0.0)

    def _factor(self, moving: float, resting: float, like: Tensor) -> float | Tensor:
        """A factor for replicas that take the step, and another for those that rest; along `like`."""
        if self.active_K is None:
            return moving
        own = torch.full_like(self.lr_K, moving)
        return _along(own.masked_fill_(~self.active_K, resting), like)


def _along(values_K: Tensor, like: Tensor) -> Tensor:
    """(K,) as (K, 1, ..., 1) with the dimensions of `like`."""
    return values_K.view(-1, *[1] * (like.ndim - 1))


class StackedSGD(StackedOptimizer, torch.optim.SGD):
    """SGD with momentum over stacked parameters (K, ...); each replica as by `torch.optim.SGD`."""

    def _advance(self) -> None:
        rates = self._rates()
        for group, parameter, grad in self._parameters():
            if group["weight_decay"]:
                grad = self._at_rest(grad.add(parameter, alpha=group["weight_decay"]))
            if group["momentum"]:
                momentum = self._momentum(parameter, group["momentum"], grad)
                grad = grad.add(momentum, alpha=group["momentum"]) if group["nesterov"] else momentum
            parameter.addcmul_(grad, _along(-rates, grad))

    def _momentum(self, parameter: Tensor, decay: float, grad: Tensor) -> Tensor:
        """The tensor's momentum after taking in its gradient."""
        state = self.state[parameter]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        momentum: Tensor = state["momentum_buffer"]
        return momentum.mul_(self._factor(decay, 1.0, grad)).add_(grad)


class StackedAdam(StackedOptimizer, torch.optim.Adam):
    """Adam over stacked parameters (K, ...); each replica as by `torch.optim.Adam`."""

    decoupled = False
    """Whether weight decay acts on the parameters, not on the gradient."""

    def _advance(self) -> None:
        rates = self._rates()
        for group, parameter, grad in self._parameters():
            beta1, beta2 = group["betas"]
            decay = group["weight_decay"]
            if decay and not self.decoupled:
                grad = self._at_rest(grad.add(parameter, alpha=decay))
            state = self.state[parameter]
            if not state:
                state["step"] = torch.zeros_like(self.lr_K)
                state["exp_avg"] = torch.zeros_like(parameter)
                state["exp_avg_sq"] = torch.zeros_like(parameter)

            # Replicas that rest have a gradient of 0, and factors that leave all as it is
            mean, square = state["exp_avg"], state["exp_avg_sq"]
            state["step"].add_(1.0 if self.active_K is None else self.active_K)
            mean.mul_(self._factor(beta1, 1.0, grad)).add_(grad, alpha=1 - beta1)
            square.mul_(self._factor(beta2, 1.0, grad)).addcmul_(grad, grad, value=1 - beta2)

            steps = state["step"].clamp(min=1)
            root = _along((1 - beta2**steps).sqrt(), grad)
            moved = mean / square.sqrt().div_(root).add_(group["eps"])
            if decay and self.decoupled:
                parameter.mul_(_along(1 - rates * decay, grad))
            parameter.addcmul_(moved, _along(-rates / (1 - beta1**steps), grad))


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
