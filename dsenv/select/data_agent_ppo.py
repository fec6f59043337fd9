"""PPO for the Data Agent, co-trained with the model whose data it chooses."""

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from dsenv import kernels
from dsenv.select.data_agent_config import RELEASED_HIDDEN, DataAgentConfig
from dsenv.select.data_agent_policy import (
    ActorCritic,
    beta_entropy,
    beta_log_density,
    clipped_policy_loss,
    sample_beta,
    standardised,
)
from dsenv.select.data_agent_released import (
    BatchMeanNormaliser,
    crossed_policy_loss,
    deviation,
    rowwise_advantage,
)
from dsenv.select.data_agent_reward import take_reward
from dsenv.states import ListOf, TensorOf, Whole, adam_state, check_state

STATE_DECAY = 0.99  # weight of the old moments in the running scale of the features, per batch
STATE_LIMIT = 5.0  # scaled features are cut to this many deviations


class Visit(NamedTuple):
    """One batch as the policy saw it."""

    state: Tensor  # (B, D)
    worth: Tensor  # (B,)


class Acts(NamedTuple):
    """What the policy did on one batch, or on the whole rollout."""

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
        self.config = config
        self.features = features
        self.device = device

        self.networks = ActorCritic(features, self.hidden, seed).to(device)
        self.optimizer = torch.optim.Adam(
            self.networks.parameters(), lr=config.lr, eps=1e-5, weight_decay=config.weight_decay, fused=True
        )

        self.generator = torch.Generator(device).manual_seed(seed)
        self.visits: list[Visit] = []
        self._room = torch.empty(0, device=device)  # the rollout's states; reused, because new memory is slow
        self.statistics: dict[str, Tensor] = {}

    def scores(self, features: Tensor) -> Tensor:
        """Mean weight (B,) that the policy gives to samples with features (B, D)."""
        with torch.no_grad():
            return self.networks.mean_action(self.scaled(features))

    def visit(self, features: Tensor, worth: Tensor) -> Tensor:
        """Score a batch, keep it, and update the policy when the rollout is full.

        Args:
            features: (B, D).
            worth: (B,) composite worth of each sample.

        Returns:
            (B,) new score of each sample.
        """
        with torch.no_grad():
            visit = Visit(self.scaled(features, learn=True), worth)
            score = self.score(visit)
            self.visits.append(visit)

        if len(self.visits) >= self.config.rollout:
            self.update()
        return score

    def update(self) -> None:
        """Take all passes of one PPO update over the rollout, and empty it."""
        if not self.visits:
            return

        states = [visit.state for visit in self.visits]
        room = self._room.resize_(sum(map(len, states)), self.features)
        state = kernels.packed(torch.cat(states, out=room))

        for number in range(self.config.passes):
            alpha, beta, value = self.networks(state)
            if number == 0:  # still the policy of the whole rollout
                acts = self.acts(alpha.detach(), beta.detach(), value.detach())
                advantage, target = self.advantages(acts)

            policy_loss = self.policy_loss(alpha, beta, acts, advantage)
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
        """States (B, D) of features (B, D); with `learn` the batch first updates the scale."""

    @abstractmethod
    def score(self, visit: Visit) -> Tensor:
        """Scores (B,) of a batch to remember."""

    @abstractmethod
    def acts(self, alpha: Tensor, beta: Tensor, value: Tensor) -> Acts:
        """What the policy with these outputs (B,) did on the rollout."""

    @abstractmethod
    def advantages(self, acts: Acts) -> tuple[Tensor, Tensor]:
        """Advantages (B,) and the critic's targets (B,) of the rollout."""

    @abstractmethod
    def policy_loss(self, alpha: Tensor, beta: Tensor, acts: Acts, advantage: Tensor) -> Tensor:
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

    def state_like(self) -> dict[str, Any]:
        """How a state must look."""
        lengths = (None, self.features), (None,)
        return {
            "networks": dict(self.networks.state_dict()),
            "optimizer": adam_state(self.optimizer),
            "generator": self.generator.get_state(),
            "visits": ListOf([TensorOf(torch.float32, length) for length in lengths]),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`.

        Raises:
            ValueError: it is no state of a learner with these settings.
        """
        check_state("DataAgent's learner", state, self.state_like())
        try:
            self.generator.set_state(state["generator"].cpu())
        except RuntimeError as error:
            raise ValueError(f"'generator' of the state is none of a torch.Generator: {error}") from error
        visits, done = state["visits"], state.get("done", [()] * len(state["visits"]))
        rows = [[*visit, *acts] for visit, acts in zip(visits, done, strict=False)]
        if len(visits) != len(done) or any(len(set(map(len, row))) != 1 for row in rows):
            raise ValueError("each batch in 'visits' (and 'done') of the state must have one length")

        self.networks.load_state_dict(state["networks"])
        self.optimizer.load_state_dict(copy.deepcopy(state["optimizer"]))
        self.visits = [Visit(*(tensor.clone() for tensor in visit)) for visit in state["visits"]]


class BanditLearner(Learner):
    """The default: a contextual bandit, in which each sample's reward is credited to its own action."""

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

            # The distance between the old mean and the new one adds to the variance
            variance = shift.square_().mean(0) - step.square()
            self.variance = torch.lerp(self.variance, variance + (1 - weight) * step.square(), weight)
            self.mean = self.mean + weight * step

        scale = (self.variance + 1e-5).rsqrt()
        return (features - self.mean).mul_(scale).clamp_(-STATE_LIMIT, STATE_LIMIT)

    def score(self, visit: Visit) -> Tensor:
        """The mean of the distribution, not a draw."""
        return self.networks.mean_action(visit.state)

    def acts(self, alpha: Tensor, beta: Tensor, value: Tensor) -> Acts:
        """Draw for the whole rollout at once: the policy did not change in it, and no step needed a draw."""
        action = sample_beta(alpha, beta, self.generator)
        worths = [visit.worth for visit in self.visits]
        parts = zip(torch.split(action, [len(worth) for worth in worths]), worths, strict=True)
        reward = torch.cat([take_reward(part, worth) for part, worth in parts])
        return Acts(action, beta_log_density(action, alpha, beta), value, reward)

    def advantages(self, acts: Acts) -> tuple[Tensor, Tensor]:
        """One-step advantages, standardised; the critic learns the rewards."""
        return standardised(acts.reward - acts.value), acts.reward

    def policy_loss(self, alpha: Tensor, beta: Tensor, acts: Acts, advantage: Tensor) -> Tensor:
        """Clipped surrogate with an entropy bonus."""
        log_density = beta_log_density(acts.action, alpha, beta)
        surrogate = clipped_policy_loss(log_density, acts.log_density, advantage, self.config.clip)
        return surrogate - self.config.entropy * beta_entropy(alpha, beta).mean()

    def state_dict(self) -> dict[str, Any]:
        """A copy of everything needed to continue."""
        scale = {"batches": self.batches, "mean": self.mean.clone(), "variance": self.variance.clone()}
        return {**super().state_dict(), "scale": scale}

    def state_like(self) -> dict[str, Any]:
        """How a state must look."""
        scale = {"batches": Whole(), "mean": self.mean, "variance": self.variance}
        return {**super().state_like(), "scale": scale}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
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
        self.done: list[Acts] = []

    def scaled(self, features: Tensor, learn: bool = False) -> Tensor:
        """The features as they are."""
        del learn
        return features

    def score(self, visit: Visit) -> Tensor:
        """The action itself, one draw; its reward is normalised by the running moments of batch means."""
        alpha, beta, value = self.networks(visit.state)
        action = sample_beta(alpha, beta, self.generator)
        reward = self.normalise(action * visit.worth)
        self.done.append(Acts(action, beta_log_density(action, alpha, beta), value, reward))
        return action

    def acts(self, alpha: Tensor, beta: Tensor, value: Tensor) -> Acts:
        """What was drawn batch by batch."""
        del alpha, beta, value
        return Acts(*map(torch.cat, zip(*self.done, strict=True)))

    def advantages(self, acts: Acts) -> tuple[Tensor, Tensor]:
        """Advantages along rows of successive batches, scaled but not centred."""
        rewards, values = [done.reward for done in self.done], [done.value for done in self.done]
        self.done = []
        advantage = torch.cat(rowwise_advantage(rewards, values))
        return advantage / (deviation(advantage) + 1e-8), advantage + acts.value

    def policy_loss(self, alpha: Tensor, beta: Tensor, acts: Acts, advantage: Tensor) -> Tensor:
        """Every action paired with every advantage; no entropy bonus."""
        log_density = beta_log_density(acts.action, alpha, beta)
        return crossed_policy_loss(log_density, acts.log_density, advantage, self.config.clip)

    def state_dict(self) -> dict[str, Any]:
        """A copy of everything needed to continue."""
        done = copy.deepcopy([tuple(acts) for acts in self.done])
        return {**super().state_dict(), "normaliser": self.normalise.state_dict(), "done": done}

    def state_like(self) -> dict[str, Any]:
        """How a state must look."""
        batch = TensorOf(torch.float32, (None,))
        moments = {name: TensorOf(torch.float32, ()) for name in ("mean", "squares", "deviation")}
        done = ListOf([batch] * len(Acts._fields))
        return {**super().state_like(), "normaliser": {"batches": Whole(), **moments}, "done": done}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`."""
        super().load_state_dict(state)
        self.done = [Acts(*(tensor.clone() for tensor in acts)) for acts in state["done"]]
        self.normalise.load_state_dict(state["normaliser"])


LEARNERS: dict[str, type[Learner]] = {"bandit": BanditLearner, "released": ReleasedLearner}
