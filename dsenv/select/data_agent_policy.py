"""Networks and losses of the Data Agent's policy: a Beta distribution for each sample."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from dsenv import kernels

EDGE = 1e-6  # actions stay this far from 0 and 1, where the log density may be infinite


class ActorCritic(nn.Module):
    """Two three-layer perceptrons over the state: one for the action's distribution, one for its value.

    They share no parameters; their first layers are kept in one matrix, so that one product serves both.

    Args:
        features: D, length of a state.
        hidden: H, width of both hidden layers.
        seed: decides the initial parameters; torch's global stream is not touched.
    """

    def __init__(self, features: int, hidden: int, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)

        # One matrix for both first layers; each half is orthogonal by itself
        self.first = nn.utils.skip_init(nn.Linear, features, 2 * hidden)  # type: ignore[no-untyped-call]
        for half in self.first.weight.data.split(hidden):
            nn.init.orthogonal_(half, generator=generator)
        nn.init.zeros_(self.first.bias)

        self.actor = nn.Sequential(
            _linear(hidden, hidden, 1.0, generator), nn.ReLU(), _linear(hidden, 2, 0.01, generator)
        )
        self.critic = nn.Sequential(
            _linear(hidden, hidden, 1.0, generator), nn.ReLU(), _linear(hidden, 1, 1.0, generator)
        )

    def forward(self, states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Alpha and beta (B,) of the actions in states (B, D), at least 1, and the value (B,) of the states.

        The states may be in the layout of `kernels.packed`.
        """
        first = kernels.linear(states, self.first.weight, self.first.bias).relu_()
        for_actor, for_critic = first.chunk(2, -1)  # (B, H) each
        alpha, beta = self._shape(for_actor)
        return alpha, beta, self.critic(for_critic).squeeze(-1)

    def mean_action(self, states: Tensor) -> Tensor:
        """Mean (B,) of the actions' distributions for states (B, D), by the actor alone."""
        hidden = len(self.first.bias) // 2
        first = functional.linear(states, self.first.weight[:hidden], self.first.bias[:hidden])
        alpha, beta = self._shape(first.relu_())
        mean: Tensor = alpha / (alpha + beta)
        return mean

    def _shape(self, for_actor: Tensor) -> tuple[Tensor, ...]:
        return (1 + functional.softplus(self.actor(for_actor))).unbind(-1)


def _linear(inputs: int, outputs: int, gain: float, generator: torch.Generator) -> nn.Linear:
    """A linear layer with orthogonal weights and zero biases."""
    layer: nn.Linear = nn.utils.skip_init(nn.Linear, inputs, outputs)  # type: ignore[no-untyped-call]
    nn.init.orthogonal_(layer.weight, gain=gain, generator=generator)
    nn.init.zeros_(layer.bias)
    return layer


def sample_beta(alpha: Tensor, beta: Tensor, generator: torch.Generator) -> Tensor:
    """One draw (B,) in (0, 1) from each Beta(alpha, beta), as a ratio of Gamma variates."""
    first = torch._standard_gamma(alpha, generator=generator)
    second = torch._standard_gamma(beta, generator=generator)
    return (first / (first + second)).clamp(EDGE, 1 - EDGE)


def beta_log_density(action: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    """Log density (B,) of actions (B,) under Beta(alpha, beta)."""
    assert action.shape == alpha.shape == beta.shape, (action.shape, alpha.shape, beta.shape)
    return (alpha - 1) * action.log() + (beta - 1) * (-action).log1p() - _log_beta(alpha, beta)


def beta_entropy(alpha: Tensor, beta: Tensor) -> Tensor:
    """Differential entropy (B,) of Beta(alpha, beta), in nats; 0 for the uniform one, else negative."""
    both = alpha + beta
    return (
        _log_beta(alpha, beta)
        - (alpha - 1) * torch.digamma(alpha)
        - (beta - 1) * torch.digamma(beta)
        + (both - 2) * torch.digamma(both)
    )


def _log_beta(alpha: Tensor, beta: Tensor) -> Tensor:
    return torch.lgamma(alpha) + torch.lgamma(beta) - torch.lgamma(alpha + beta)


def clipped_policy_loss(log_density: Tensor, old: Tensor, advantage: Tensor, clip: float) -> Tensor:
    """PPO's clipped surrogate (arXiv 1707.06347, eq. 7), as a loss.

    Args:
        log_density: (B,) of the actions, under the policy that learns.
        old: (B,) of the same actions, under the policy that took them.
        advantage: (B,).
        clip: epsilon, (0, 1).

    Returns:
        A scalar.
    """
    assert log_density.shape == old.shape == advantage.shape, (log_density.shape, old.shape, advantage.shape)
    ratio = (log_density - old).exp()
    return -torch.minimum(ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage).mean()


def standardised(values: Tensor) -> Tensor:
    """Values (B,) moved to mean 0 and scaled to deviation 1."""
    return (values - values.mean()) / (values.std(correction=0) + 1e-8)
