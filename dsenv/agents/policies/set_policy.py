"""Policies that score the candidates of a set, for PPO and A2C of Stable-Baselines3."""

import copy
import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.type_aliases import Schedule
from torch import Tensor, nn

from dsenv.agents.policies.distributions import (
    MaskedBernoulli,
    PolicyDistribution,
    StructuredNormal,
    directions,
)
from dsenv.policy.networks import SetNetwork, exists

LEAST_STD = 0.01  # added to learned deviations: densities stay exact in float32


class CandidatePolicy(ActorCriticPolicy):
    """An actor-critic over a set of M candidates with F features each, permutation-equivariant.

    The observation is flat (G + M * F,): G features of the training run, then the candidates row by row; the
    first feature of a candidate is 1 where the row holds one and 0 where it is padding. Padding is never
    read; its action is the lowest.

    Args:
        observation_space: Box (G + M * F,).
        action_space: Box(-1, 1, (M,)), a score for each candidate, or what the subclass takes beside it.
        lr_schedule: learning rate by the share of the training run that is left.
        candidates: (M, F).
        hidden: width of the network's layers.
        use_sde: SB3 passes it; must be False.
        optimizer_class: of the parameters.
        optimizer_kwargs: its settings.

    Raises:
        ValueError: the spaces do not fit `candidates`, or use_sde is set.
    """

    network_class = SetNetwork
    network: SetNetwork

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        lr_schedule: Schedule,
        candidates: Sequence[int],
        hidden: int = 64,
        use_sde: bool = False,
        optimizer_class: type[torch.optim.Optimizer] = torch.optim.Adam,
        optimizer_kwargs: dict[str, Any] | None = None,
    ) -> None:
        name = type(self).__name__
        if use_sde:
            raise ValueError(f"{name} has its own exploration: leave use_sde at False")

        number, features = candidates
        self.candidates, self.hidden = (int(number), int(features)), hidden
        size = observation_space.shape[0] if len(observation_space.shape or ()) == 1 else 0  # type: ignore[index]
        if not isinstance(observation_space, spaces.Box) or size <= number * features:
            raise ValueError(
                f"{name} with candidates = {self.candidates} needs a flat Box observation longer than "
                f"M * F = {number * features}, got {observation_space}"
            )

        if not self.takes(action_space, self.candidates[0]):
            raise ValueError(
                f"{name} with candidates = {self.candidates} cannot act in {action_space}: one score in "
                f"[-1, 1] for each candidate, Box(-1, 1, ({number},)), is what every such policy gives"
            )

        super().__init__(
            observation_space,
            action_space,
            lr_schedule,
            optimizer_class=optimizer_class,
            optimizer_kwargs=optimizer_kwargs,
        )

    @staticmethod
    def takes(action_space: spaces.Space[Any], number: int) -> bool:
        """Whether the policy can act in this space, for `number` candidates."""
        return (
            isinstance(action_space, spaces.Box)
            and action_space.shape == (number,)
            and bool(np.all(action_space.low == -1) and np.all(action_space.high == 1))
        )

    def _build(self, lr_schedule: Schedule) -> None:
        number, features = self.candidates
        assert self.observation_space.shape is not None
        self.network = self.network_class(
            self.observation_space.shape[0] - number * features, features, self.hidden
        )
        self._add_parameters()

        settings: dict[str, Any] = {"lr": lr_schedule(1), **self.optimizer_kwargs}
        self.optimizer = self.optimizer_class(self.parameters(), **settings)

    def _add_parameters(self) -> None:
        """Make parameters beside the network's."""

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return {
            "observation_space": self.observation_space,
            "action_space": self.action_space,
            "lr_schedule": self._dummy_schedule,
            "candidates": self.candidates,
            "hidden": self.hidden,
            "optimizer_class": self.optimizer_class,
            "optimizer_kwargs": self.optimizer_kwargs,
        }

    def for_candidates(self, number: int) -> Self:
        """This policy for sets of `number` candidates; the parameters are shared, not copied.

        It is for acting: its optimiser is that of the original.
        """
        features = self.candidates[1]
        other = copy.copy(self)
        other.candidates = (number, features)
        other.observation_space = spaces.Box(
            -np.inf, np.inf, (self.network.sizes[0] + number * features,), np.float32
        )

        is_box = isinstance(self.action_space, spaces.Box)
        other.action_space = (
            spaces.Box(-1, 1, (number,), np.float32) if is_box else spaces.MultiBinary(number)
        )

        return other

    def split(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        """State (K, G) and candidates (K, M, F) of observations (K, G + M * F)."""
        number, features = self.candidates
        own, rows = obs[:, : -number * features].float(), obs[:, -number * features :].float()
        return own, rows.reshape(-1, number, features)

    @abstractmethod
    def distribution(self, raw: Tensor, candidates: Tensor) -> PolicyDistribution:
        """Of actions (K, M), from the network's raw outputs (K, M, P) and the candidates (K, M, F)."""

    def _both(self, obs: Any) -> tuple[PolicyDistribution, Tensor]:
        """The actions' distribution and the values (K, 1) of observations (K, G + M * F)."""
        own, candidates = self.split(obs)
        raw, value = self.network.heads(own, candidates)
        return self.distribution(raw, candidates), value.unsqueeze(-1)

    def forward(self, obs: Tensor, deterministic: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        """Actions (K, M), values (K, 1) and log densities (K,) of observations (K, G + M * F)."""
        distribution, value = self._both(obs)
        actions = distribution.get_actions(deterministic)
        return actions, value, distribution.log_prob(actions)

    def evaluate_actions(self, obs: Any, actions: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Values (K, 1), log densities (K,) and entropies (K,) of actions (K, M)."""
        distribution, value = self._both(obs)
        return value, distribution.log_prob(actions), distribution.entropy()

    def get_distribution(self, obs: Any) -> PolicyDistribution:
        """Of the actions, for observations (K, G + M * F)."""
        return self._both(obs)[0]

    def predict_values(self, obs: Any) -> Tensor:
        """Values (K, 1)."""
        return self._both(obs)[1]


class SetPolicy(CandidatePolicy):
    """Scores with structured exploration, or masks: a `CandidatePolicy` for Box and for MultiBinary(M).

    Scores are normal round a mean in (-0.5, 0.5); see `StructuredNormal` for their noise. A mask is drawn
    candidate by candidate.

    Args:
        observation_space: Box (G + M * F,).
        action_space: Box(-1, 1, (M,)) or MultiBinary(M).
        lr_schedule: learning rate by the share of the training run that is left.
        candidates: (M, F).
        hidden: width of the network's layers.
        shared_std: deviation of a score at first, by noise along the candidates' features; 0 for none.
        own_std: deviation of a score at first, by noise of its own. Both are learned.
        use_sde: SB3 passes it; must be False.
        optimizer_class: of the parameters.
        optimizer_kwargs: its settings.

    Raises:
        ValueError: the spaces do not fit `candidates`, a deviation is out of range, or use_sde is set.
    """

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        lr_schedule: Schedule,
        candidates: Sequence[int],
        hidden: int = 64,
        shared_std: float = 0.2,
        own_std: float = 0.1,
        use_sde: bool = False,
        optimizer_class: type[torch.optim.Optimizer] = torch.optim.Adam,
        optimizer_kwargs: dict[str, Any] | None = None,
    ) -> None:
        if own_std <= LEAST_STD or shared_std < 0 or 0 < shared_std <= LEAST_STD:
            raise ValueError(
                f"own_std must be above {LEAST_STD}, shared_std too or 0, got {own_std} and {shared_std}"
            )

        self.shared_std, self.own_std = shared_std, own_std
        super().__init__(
            observation_space,
            action_space,
            lr_schedule,
            candidates,
            hidden,
            use_sde,
            optimizer_class,
            optimizer_kwargs,
        )

    @staticmethod
    def takes(action_space: spaces.Space[Any], number: int) -> bool:
        is_mask = isinstance(action_space, spaces.MultiBinary) and action_space.shape == (number,)
        return is_mask or CandidatePolicy.takes(action_space, number)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        own = {"shared_std": self.shared_std, "own_std": self.own_std}
        return super()._get_constructor_parameters() | own

    def _add_parameters(self) -> None:
        if isinstance(self.action_space, spaces.MultiBinary):
            return

        rank = self.candidates[1] - 1 if self.shared_std else 0
        self.log_own_std = nn.Parameter(torch.tensor(math.log(self.own_std - LEAST_STD)))
        if rank:
            self.log_shared_std = nn.Parameter(torch.full((rank,), math.log(self.shared_std - LEAST_STD)))
        else:
            self.register_buffer("log_shared_std", torch.empty(0), persistent=False)

    def distribution(self, raw: Tensor, candidates: Tensor) -> PolicyDistribution:
        here = exists(candidates)
        if isinstance(self.action_space, spaces.MultiBinary):
            return MaskedBernoulli().proba_distribution(raw.squeeze(-1), here)

        along = directions(candidates, here)[..., : len(self.log_shared_std)]  # (K, M, R), R = F - 1 or 0
        return StructuredNormal().proba_distribution(
            self.network.scores(raw),
            along,
            LEAST_STD + self.log_shared_std.exp(),
            LEAST_STD + self.log_own_std.exp(),
            here,
        )
