"""AdaAugment: an actor-critic that learns the strength of each sample."""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dsenv.augment.base import AugmentationController, checked_device
from dsenv.augment.draw import Draw, draw_parameters
from dsenv.augment.ops import apply_drawn, draw_ops
from dsenv.errors import check_count, check_positive, check_seed
from dsenv.kernels import sent
from dsenv.outputs import ModelOutputs
from dsenv.signals import SampleSignals
from dsenv.states import adam_state

EDGE = 1e-3  # actions are kept this far from 0 and 1, where the density of a Beta is 0
DISCOUNT = 0.99
WEIGHT_DECAY = 5e-4
HEAD_GAIN = 0.01  # a small gain makes the first Beta the same for all samples


class AdaAugment(AugmentationController):
    """An agent chooses each sample's strength from its features, rewarded by the losses of three views.

    What it does: keeps a strength for each sample. Each step compares the plain, the currently augmented and
    the fully augmented view; the reward (1 - b)(loss_current - loss_plain) + b (loss_full - loss_current),
    with b falling from 1 to 0 over training, asks for mild augmentation early and for strong augmentation
    late. A Beta actor and a critic on the plain view's features learn from it by one-step advantage, and the
    actor draws the sample's next strength.

    When it helps: long training runs of networks that overfit. Its published logs drift to strengths near 1,
    so compare it with `FixedStrength(1.0, ramp_epochs=...)`.

    Settings: as published (learning rate 3e-4, discount 0.99), 300 epochs; in short training runs the
    actor stays near its start.

    Cost: two more forwards and one more augmented batch a step, which count against a compute budget. As in
    the published code they run in the model's training mode, so batch-norm statistics see all three views.

    Use::

        current, plain, full = controller.views(images, signals, index, generator)
        ...three forwards; train on `current`...
        controller.observe_views(current_outputs, (plain_outputs, full_outputs), generator)

    Source: Yang et al., "AdaAugment", IEEE TIP 2025; github.com/Jackbrocp/AdaAugment.

    Differences from published code (at d854af1): the reward is credited to the strength that earned it (there
    to the one just drawn for the next visit); the next strength is drawn after the update (there before); b
    runs one epoch later, from 1 in the first epoch to 1 / epochs in the last (there from 1 - 1 / epochs to
    0); the actor's loss is a mean, not a sum; the current and the full view share the op; no reward
    normalizer, which is an option there and off; learning rates stay constant (there they fall linearly to
    1 %); strengths start at 0.5 (there at a first draw of the actor for every sample). The tanh in the
    published actor has no effect: its result is overwritten two lines later.

    Args:
        size: N, the number of training samples.
        features: D, the width of `ModelOutputs.features`.
        epochs: length of the training run, over which b falls to 0.
        device: where the memory and the agent live.
        learning_rate: Adam's step size for actor and critic.
        seed: decides the agent's initial parameters.
        settings: `ops` and `magnitudes` of `AugmentationController`.
    """

    needs_features = True
    extra_views = 2

    def __init__(
        self,
        size: int,
        device: torch.device | str = "cpu",
        *,
        features: int,
        epochs: int,
        learning_rate: float = 3e-4,
        seed: int = 0,
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        self.size = check_count("size", size)
        self.features = check_count("features", features)
        self.epochs = check_count("epochs", epochs)
        self.learning_rate = check_positive("learning_rate", learning_rate)
        self.seed = check_seed("seed", seed)

        device = checked_device(device)
        self._memory = {"strength": torch.full((self.size,), 0.5, device=device)}

        generator = torch.Generator().manual_seed(self.seed)
        self.actor = _network((self.features, 128, 64, 2), HEAD_GAIN, generator).to(device)
        self.critic = _network((self.features, 128, 128, 1), 1.0, generator).to(device)
        self._optimizer = torch.optim.Adam(
            [*self.actor.parameters(), *self.critic.parameters()],
            self.learning_rate,
            eps=1e-5,
            weight_decay=WEIGHT_DECAY,
        )

    @property
    def balance(self) -> float:
        """Weight b in [0, 1] of the reward's second term."""
        return max(0.0, 1 - self.epoch / self.epochs)

    def strengths(self, signals: SampleSignals, index: Tensor, generator: torch.Generator) -> Tensor:
        """The strengths the actor chose at the samples' last visits."""
        del signals, generator
        return self._memory["strength"][index]

    def views(
        self, images: Tensor, signals: SampleSignals, index: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, ...]:
        """The current, the plain and the full view (B, C, H, W); current and full are under the same op."""
        [current], _, [full] = self.view_draws(signals, index, generator)
        trained = apply_drawn(images, current, self.magnitudes)
        return trained, images, apply_drawn(images, full, self.magnitudes)

    def view_draws(
        self, signals: SampleSignals, index: Tensor, generator: torch.Generator
    ) -> tuple[list[Draw], ...]:
        """Draws of the current, the plain and the full view: one, none, and one of the same op."""
        del signals
        self._codes = sent(self._codes, index.device)
        op = draw_ops(self._codes, len(index), generator)
        strength = self._memory["strength"][index]

        current = draw_parameters(op, strength, generator)
        full = draw_parameters(op, torch.ones_like(strength), generator)
        self._note(index, strength)
        return [current], [], [full]

    def observe_views(
        self, trained: ModelOutputs, views: Sequence[ModelOutputs], generator: torch.Generator
    ) -> None:
        """Learn from the three views of one batch, and choose its samples' next strengths.

        Args:
            trained: outputs for the current view, with features.
            views: outputs for the plain view, with features, and for the full one.
            generator: draws the next strengths.
        """
        current, (plain, full) = trained, views
        if plain.features is None or current.features is None:
            raise ValueError("AdaAugment needs ModelOutputs.features of the plain and the current view")

        state, next_state = plain.features.detach().float(), current.features.detach().float()
        reward = view_reward(plain.loss, current.loss, full.loss, self.balance).detach()
        loss = self._loss(state, self._memory["strength"][plain.index], reward, next_state)

        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()

        with torch.no_grad():
            self._memory["strength"][plain.index] = _sample_beta(self._shape(state), generator)

    def state_dict(self) -> dict[str, Any]:
        """Strengths, networks and optimizer."""
        agent: dict[str, Any] = {"actor": self.actor, "critic": self.critic, "optimizer": self._optimizer}
        return {**super().state_dict(), **{name: deepcopy(part.state_dict()) for name, part in agent.items()}}

    def state_like(self) -> dict[str, Any]:
        """How a state must look."""
        networks = {"actor": dict(self.actor.state_dict()), "critic": dict(self.critic.state_dict())}
        return {**super().state_like(), **networks, "optimizer": adam_state(self._optimizer)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`; errors as in the base class."""
        super().load_state_dict(state)  # checks all of it
        self.actor.load_state_dict(state["actor"])
        self.critic.load_state_dict(state["critic"])
        self._optimizer.load_state_dict(deepcopy(state["optimizer"]))

    def _loss(self, state: Tensor, action: Tensor, reward: Tensor, next_state: Tensor) -> Tensor:
        """Actor's and critic's loss for states (B, D), actions (B,), rewards (B,) and next states (B, D)."""
        value: Tensor = self.critic(state).squeeze(-1)  # (B,)
        with torch.no_grad():
            target = reward + DISCOUNT * self.critic(next_state).squeeze(-1)
        assert value.shape == target.shape == action.shape, (value.shape, target.shape, action.shape)

        density = _beta_log_density(self._shape(state), action)
        actor_loss: Tensor = -(density * (target - value.detach())).mean()
        critic_loss: Tensor = F.mse_loss(value, target)
        return actor_loss + critic_loss

    def _shape(self, state: Tensor) -> Tensor:
        """Beta parameters (B, 2) >= 1 for states (B, D)."""
        shape: Tensor = F.softplus(self.actor(state)) + 1
        return shape


def view_reward(plain: Tensor, current: Tensor, full: Tensor, balance: float) -> Tensor:
    """Reward (B,) for losses (B,) of the three views, in nats; `balance` in [0, 1] favours mild strengths."""
    return (1 - balance) * (current - plain) + balance * (full - current)


def _network(widths: tuple[int, ...], gain: float, generator: torch.Generator) -> nn.Sequential:
    """ReLU network with orthogonal weights, drawn from the generator alone."""
    layers: list[nn.Module] = []
    for number, (inputs, outputs) in enumerate(pairwise(widths)):
        layer = nn.utils.skip_init(nn.Linear, inputs, outputs)  # type: ignore[no-untyped-call]
        is_head = number == len(widths) - 2
        nn.init.orthogonal_(layer.weight, gain if is_head else 1.0, generator=generator)
        nn.init.zeros_(layer.bias)
        layers += [layer] if is_head else [layer, nn.ReLU()]

    return nn.Sequential(*layers)


def _beta_log_density(shape: Tensor, action: Tensor) -> Tensor:
    """Log density (B,) of Beta distributions with parameters (B, 2)."""
    point = action.clamp(EDGE, 1 - EDGE)
    kernel = ((shape - 1) * torch.stack([point.log(), (1 - point).log()], -1)).sum(-1)
    return kernel + shape.sum(-1).lgamma() - shape.lgamma().sum(-1)


def _sample_beta(shape: Tensor, generator: torch.Generator) -> Tensor:
    """One draw (B,) from each Beta; `torch.distributions` takes no generator."""
    gamma = torch._standard_gamma(shape.to(generator.device), generator=generator).to(shape.device)
    return (gamma[:, 0] / gamma.sum(-1)).clamp(EDGE, 1 - EDGE)
