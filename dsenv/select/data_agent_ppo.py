"""PPO for the Data Agent, co-trained with the model whose data it chooses."""

import copy
from abc import ABC, abstractmethod
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from dsenv.select.data_agent_config import RELEASED_HIDDEN, DataAgentConfig
from dsenv.select.data_agent_policy import (
    ActorCritic,
    beta_entropy,
    beta_log_density,
    clipped_policy_loss,
    sample_beta,
    standardised,
)
from dsenv.select.data_agent_released import BatchMeanNormaliser, crossed_policy_loss, rowwise_advantage
from dsenv.select.data_agent_reward import take_reward

STATE_DECAY = 0.99  # weight of the old moments in the running scale of the features, per batch
STATE_LIMIT = 5.0  # scaled features are cut to this many deviations


class Visit(NamedTuple):
    """One batch, or the whole rollout."""

    state: Tensor  # (B, D)
    action: Tensor  # (B,)
    log_density: Tensor  # (B,) of the action
    value: Tensor  # (B,) the critic's
    reward: Tensor  # (B,)


class Learner(ABC):
    """Actor, critic, their optimiser, and the batches seen since the last update.

    Args:
        config: settings.
        features: D, length of a feature vector.
        seed: decides the initial parameters and the actions.
        device: where everything lives.
    """

    hidden: int

    def __init__(self, config: DataAgentConfig, features: int, seed: int, device: torch.device) -> None:
        self.config, self.features, self.device = config, features, device
        self.networks = ActorCritic(features, self.hidden, seed).to(device)
        self.optimizer = torch.optim.Adam(
            self.networks.parameters(), lr=config.lr, eps=1e-5, weight_decay=config.weight_decay, fused=True
        )
        self.generator = torch.Generator(device).manual_seed(seed)
        self.visits: list[Visit] = []
        self.statistics: dict[str, Tensor] = {}

    def scores(self, features: Tensor) -> Tensor:
        """Mean weight (B,) that the policy gives to samples with features (B, D)."""
        with torch.no_grad():
            alpha, beta, _ = self.networks(self.scaled(features))
            mean: Tensor = alpha / (alpha + beta)
            return mean

    def visit(self, features: Tensor, worth: Tensor) -> Tensor:
        """Act on a batch, keep what came of it, and update the policy when the rollout is full.

        Args:
            features: (B, D).
            worth: (B,) composite worth of each sample.

        Returns:
            (B,) new score of each sample.
        """
        with torch.no_grad():
            state = self.scaled(features, learn=True)
            alpha, beta, value = self.networks(state)
            action = sample_beta(alpha, beta, self.generator)
            old = beta_log_density(action, alpha, beta)
            self.visits.append(Visit(state, action, old, value, self.reward(action, worth)))
            score = self.score(action, alpha / (alpha + beta))
        if len(self.visits) >= self.config.rollout:
            self.update()
        return score

    def update(self) -> None:
        """Take all passes of one PPO update over the rollout, and empty it."""
        if not self.visits:
            return
        rollout = Visit(*(torch.cat(parts) for parts in zip(*self.visits, strict=True)))
        advantage, target = self.advantages(rollout)
        for _ in range(self.config.passes):
            alpha, beta, value = self.networks(rollout.state)
            policy_loss = self.policy_loss(alpha, beta, rollout, advantage)
            value_loss = functional.mse_loss(value, target)
            self.optimizer.zero_grad()
            (policy_loss + value_loss).backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
        self.statistics = {"policy_loss": policy_loss.detach(), "value_loss": value_loss.detach()}
        self.visits = []

    def set_lr(self, lr: float) -> None:
        """Use another step size from now on."""
        for group in self.optimizer.param_groups:
            group["lr"] = lr

    @abstractmethod
    def scaled(self, features: Tensor, learn: bool = False) -> Tensor:
        """States (B, D) of features (B, D); with `learn` the scale takes the batch in first."""

    @abstractmethod
    def reward(self, action: Tensor, worth: Tensor) -> Tensor:
        """Rewards (B,) of actions (B,)."""

    @abstractmethod
    def score(self, action: Tensor, mean: Tensor) -> Tensor:
        """Scores (B,) to remember."""

    @abstractmethod
    def advantages(self, rollout: Visit) -> tuple[Tensor, Tensor]:
        """Advantages (B,) and the critic's targets (B,) of the rollout."""

    @abstractmethod
    def policy_loss(self, alpha: Tensor, beta: Tensor, rollout: Visit, advantage: Tensor) -> Tensor:
        """The actor's loss on the rollout, from (B,) each."""

    def state_dict(self) -> dict[str, Any]:
        """A copy of everything needed to continue."""
        state = {
            "networks": self.networks.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "generator": self.generator.get_state(),
            "visits": [tuple(visit) for visit in self.visits],
        }
        return copy.deepcopy(state)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict()`."""
        self.networks.load_state_dict(state["networks"])
        self.optimizer.load_state_dict(copy.deepcopy(state["optimizer"]))
        self.generator.set_state(state["generator"].cpu())
        self.visits = [Visit(*(tensor.clone() for tensor in visit)) for visit in state["visits"]]


class BanditLearner(Learner):
    """The default: a contextual bandit, in which each sample's reward answers for its own action."""

    def __init__(self, config: DataAgentConfig, features: int, seed: int, device: torch.device) -> None:
        self.hidden = config.hidden
        super().__init__(config, features, seed, device)
        self.batches = 0
        self.mean = torch.zeros(features, device=device)
        self.variance = torch.ones(features, device=device)

    def scaled(self, features: Tensor, learn: bool = False) -> Tensor:
        """Features over their running mean and deviation."""
        if learn:
            weight = max(1 - STATE_DECAY, 1 / (self.batches + 1))  # a plain mean at first
            self.batches += 1
            shift = features - self.mean
            step = shift.mean(0)
            variance = shift.square().mean(0) - step.square()
            self.variance = torch.lerp(self.variance, variance + (1 - weight) * step.square(), weight)
            self.mean = self.mean + weight * step
        return ((features - self.mean) * (self.variance + 1e-5).rsqrt()).clamp(-STATE_LIMIT, STATE_LIMIT)

    def reward(self, action: Tensor, worth: Tensor) -> Tensor:
        """The action times the worth above the batch's mean."""
        return take_reward(action, worth)

    def score(self, action: Tensor, mean: Tensor) -> Tensor:
        """The mean of the distribution, not the draw."""
        del action
        return mean

    def advantages(self, rollout: Visit) -> tuple[Tensor, Tensor]:
        """One-step advantages, standardised; the critic learns the rewards."""
        return standardised(rollout.reward - rollout.value), rollout.reward

    def policy_loss(self, alpha: Tensor, beta: Tensor, rollout: Visit, advantage: Tensor) -> Tensor:
        """Clipped surrogate with an entropy bonus."""
        log_density = beta_log_density(rollout.action, alpha, beta)
        surrogate = clipped_policy_loss(log_density, rollout.log_density, advantage, self.config.clip)
        return surrogate - self.config.entropy * beta_entropy(alpha, beta).mean()

    def state_dict(self) -> dict[str, Any]:
        """A copy of everything needed to continue."""
        scale = {"batches": self.batches, "mean": self.mean.clone(), "variance": self.variance.clone()}
        return {**super().state_dict(), "scale": scale}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict()`."""
        super().load_state_dict(state)
        scale = state["scale"]
        self.batches = scale["batches"]
        self.mean, self.variance = scale["mean"].clone(), scale["variance"].clone()


class ReleasedLearner(Learner):
    """The published program, patched to run; see `data_agent_released` for what that means."""

    hidden = RELEASED_HIDDEN

    def __init__(self, config: DataAgentConfig, features: int, seed: int, device: torch.device) -> None:
        super().__init__(config, features, seed, device)
        self.normalise = BatchMeanNormaliser()

    def scaled(self, features: Tensor, learn: bool = False) -> Tensor:
        """The features as they are."""
        del learn
        return features

    def reward(self, action: Tensor, worth: Tensor) -> Tensor:
        """The action times the worth, normalised by the running moments of batch means."""
        return self.normalise(action * worth)

    def score(self, action: Tensor, mean: Tensor) -> Tensor:
        """The action itself, one random draw."""
        del mean
        return action

    def advantages(self, rollout: Visit) -> tuple[Tensor, Tensor]:
        """Advantages along rows of successive batches, scaled but not centred."""
        rewards, values = [visit.reward for visit in self.visits], [visit.value for visit in self.visits]
        advantage = torch.cat(rowwise_advantage(rewards, values))
        return advantage / (advantage.std() + 1e-8), advantage + rollout.value

    def policy_loss(self, alpha: Tensor, beta: Tensor, rollout: Visit, advantage: Tensor) -> Tensor:
        """Every action paired with every advantage; no entropy bonus."""
        log_density = beta_log_density(rollout.action, alpha, beta)
        return crossed_policy_loss(log_density, rollout.log_density, advantage, self.config.clip)

    def state_dict(self) -> dict[str, Any]:
        """A copy of everything needed to continue."""
        return {**super().state_dict(), "normaliser": self.normalise.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict()`."""
        super().load_state_dict(state)
        self.normalise.load_state_dict(state["normaliser"])


LEARNERS: dict[str, type[Learner]] = {"bandit": BanditLearner, "released": ReleasedLearner}
