"""Beta policies for bounded actions, for PPO and A2C of Stable-Baselines3."""

from typing import Any

import torch
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.type_aliases import Schedule
from torch import Tensor, nn

from dsenv.agents.policies.distributions import PolicyDistribution, ScaledBeta
from dsenv.agents.policies.set_policy import CandidatePolicy
from dsenv.policy.networks import SetBetaNetwork, beta_parameters, exists


class BetaPolicy(ActorCriticPolicy):
    """SB3's `MlpPolicy` with a Beta distribution for each action component, so that none is ever clipped.

    Form: Beta(1 + softplus(.), 1 + softplus(.)), moved to the box, after Data Agent (arXiv 2603.07433);
    without exploration it acts by the mean. Both parameters are above 1, so the density has one mode and
    is 0 at the ends of the box.

    Args:
        observation_space: as MlpPolicy's.
        action_space: a Box with finite ends.
        lr_schedule: learning rate by the share of the training run that is left.
        settings: further arguments of MlpPolicy, such as net_arch.

    Raises:
        ValueError: the actions are not a finite Box, or use_sde is set.
    """

    low: Tensor
    width: Tensor

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        lr_schedule: Schedule,
        **settings: Any,
    ) -> None:
        if not (isinstance(action_space, spaces.Box) and action_space.is_bounded()):
            raise ValueError(f"BetaPolicy needs a Box with finite ends as action space, got {action_space}")
        if settings.get("use_sde"):
            raise ValueError("BetaPolicy has its own exploration: leave use_sde at False")
        super().__init__(observation_space, action_space, lr_schedule, **settings)

    def _build(self, lr_schedule: Schedule) -> None:
        super()._build(lr_schedule)  # for a Gaussian, whose parts are replaced here
        assert isinstance(self.action_space, spaces.Box)

        low = torch.as_tensor(self.action_space.low.reshape(-1), dtype=torch.float32)
        high = torch.as_tensor(self.action_space.high.reshape(-1), dtype=torch.float32)
        self.register_buffer("low", low, persistent=False)
        self.register_buffer("width", high - low, persistent=False)

        # A Beta distribution in place of the Gaussian
        del self.log_std
        self.action_net = nn.Linear(self.mlp_extractor.latent_dim_pi, 2 * len(low))
        self.init_weights(self.action_net, gain=0.01)

        settings: dict[str, Any] = {"lr": lr_schedule(1), **self.optimizer_kwargs}
        self.optimizer = self.optimizer_class(self.parameters(), **settings)

    def _get_action_dist_from_latent(self, latent_pi: Tensor) -> PolicyDistribution:
        raw = self.action_net(latent_pi).unflatten(-1, (-1, 2))  # (K, A, 2)
        alpha, beta = beta_parameters(raw)
        return ScaledBeta().proba_distribution(alpha, beta, self.low, self.width)


class SetBetaPolicy(CandidatePolicy):
    """A Beta distribution for the score of each candidate: the form of Data Agent's policy.

    Data Agent (arXiv 2603.07433) sees each sample by itself; here the rest of the set is seen as well.
    Exploration is independent from candidate to candidate, so the reward of a step sees little of any one
    direction when the candidates are many; `SetPolicy` shares its noise.
    """

    network_class = SetBetaNetwork

    def distribution(self, raw: Tensor, candidates: Tensor) -> PolicyDistribution:
        alpha, beta = beta_parameters(raw)
        low, width = alpha.new_tensor(-1.0), alpha.new_tensor(2.0)
        return ScaledBeta().proba_distribution(alpha, beta, low, width, exists(candidates))
