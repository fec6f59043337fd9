"""Actors: a network and what its raw outputs mean, by names that a file may give."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from dsenv.errors import check_keywords, pick
from dsenv.policy.networks import MlpNetwork, SetBetaNetwork, SetNetwork, beta_parameters, exists

LARGEST = 1 << 16  # size of a layer; a card that asks for more is refused
LAYERS = 64  # most hidden layers


class Actor(nn.Module):
    """Maps observations to actions, without exploration, as the algorithm that trained it does.

    Args:
        head: how raw outputs become actions, one of `heads`.
    """

    heads: ClassVar[tuple[str, ...]]
    kind: ClassVar[str]
    network: nn.Module

    def __init__(self, head: str) -> None:
        super().__init__()
        self.head = pick(f"head of a {self.kind} network", head, self.heads)

    @property
    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """Arguments that build the actor."""

    @abstractmethod
    def size(self, observation: int) -> int:
        """Action components (choices, with the head "categorical") for observations of that many entries.

        Raises:
            ValueError: the network takes no such observation.
        """

    @abstractmethod
    def forward(self, observation: Tensor) -> Tensor:
        """Actions of observations (K, O): (K, A) in [-1, 1], 0 or 1 with "binary", (K,) if categorical."""


class MlpActor(Actor):
    """Fully connected layers.

    Heads: "gaussian" clips the mean; "squashed" is tanh (SAC, TD3, DDPG, TQC); "beta" the mean of
    Beta(1 + softplus, 1 + softplus), moved to [-1, 1]; "categorical" the best choice (DQN, PPO); "binary" a
    yes where the odds are above even.

    Args:
        inputs: see `MlpNetwork`.
        hidden: see `MlpNetwork`.
        outputs: see `MlpNetwork`.
        activation: see `MlpNetwork`.
        head: one of the above.
    """

    kind = "mlp"
    heads = ("gaussian", "squashed", "beta", "categorical", "binary")

    def __init__(
        self, inputs: int, hidden: Sequence[int], outputs: int, activation: str, head: str = "gaussian"
    ) -> None:
        super().__init__(head)
        self.settings_ = {"inputs": inputs, "hidden": list(hidden), "outputs": outputs}
        self.activation = activation
        self.network = MlpNetwork(inputs, hidden, outputs, activation)

    @property
    def settings(self) -> dict[str, Any]:
        return {**self.settings_, "activation": self.activation, "head": self.head}

    def size(self, observation: int) -> int:
        inputs, outputs = self.settings_["inputs"], self.settings_["outputs"]
        if inputs != observation:
            raise ValueError(f"the network takes {inputs} entries, the observation has {observation}")
        assert isinstance(outputs, int)
        return outputs // 2 if self.head == "beta" else outputs

    def forward(self, observation: Tensor) -> Tensor:
        raw: Tensor = self.network(observation)

        if self.head == "categorical":
            return raw.argmax(1)
        if self.head == "binary":
            return raw.sigmoid().round()
        if self.head == "squashed":
            return -1 + 0.5 * (raw.tanh() + 1) * 2  # in SB3's order of operations
        if self.head == "beta":
            return mean_of_beta(raw.view(len(raw), -1, 2)).clamp(-1, 1)
        return raw.clamp(-1, 1)


class SetActor(Actor):
    """A score for each candidate, for any number of them; see `SetNetwork`.

    Heads: "gaussian" takes the mean score, "beta" the mean of a Beta distribution, "binary" says yes where
    the odds are above even.

    Args:
        state: G, entries of the observation before the candidates.
        features: F, features of a candidate.
        hidden: width of the layers.
        head: one of the above.
    """

    kind = "set"
    heads = ("gaussian", "beta", "binary")
    network: SetNetwork

    def __init__(self, state: int, features: int, hidden: int, head: str = "gaussian") -> None:
        super().__init__(head)
        network = SetBetaNetwork if head == "beta" else SetNetwork
        self.network = network(state, features, hidden)

    @property
    def settings(self) -> dict[str, Any]:
        state, features, hidden = self.network.sizes
        return {"state": state, "features": features, "hidden": hidden, "head": self.head}

    def size(self, observation: int) -> int:
        state, features, _ = self.network.sizes
        number, rest = divmod(observation - state, features)
        if number < 1 or rest:
            raise ValueError(
                f"the network takes {state} entries and {features} for each candidate, the observation has "
                f"{observation}"
            )

        return number

    def forward(self, observation: Tensor) -> Tensor:
        state, features, _ = self.network.sizes
        candidates = observation[:, state:].reshape(len(observation), -1, features)  # (K, M, F)
        here = exists(candidates)
        raw, _ = self.network.heads(observation[:, :state], candidates)

        if self.head == "binary":
            return (here & (raw.squeeze(-1) > 0)).float()
        scores = mean_of_beta(raw) if self.head == "beta" else self.network.scores(raw)
        return scores.masked_fill(~here, -1).clamp(-1, 1)


def mean_of_beta(raw: Tensor) -> Tensor:
    """Means (...) in (-1, 1) of the Beta distributions of raw outputs (..., 2)."""
    alpha, beta = beta_parameters(raw)
    return -1 + 2 * (alpha / (alpha + beta))


ACTORS: dict[str, type[Actor]] = {actor.kind: actor for actor in (MlpActor, SetActor)}


def build_actor(description: Mapping[str, Any], weights: Mapping[str, Tensor]) -> Actor:
    """An actor from its description and the weights of its network; no random number is drawn.

    Args:
        description: `kind` and the settings of one of `ACTORS`.
        weights: float32 tensors by name.

    Raises:
        ValueError: the description is unknown or out of range, or the weights do not fit it.
    """
    settings = dict(description)
    kind = settings.pop("kind", None)
    if not isinstance(kind, str):
        raise ValueError(f"network.kind must be text, got {kind!r}")
    found = ACTORS[pick("kind of network", kind, ACTORS)]
    check_keywords(f"network {kind}", found, settings)
    _check_sizes(found, settings)

    with torch.device("meta"):  # only shapes: nothing is drawn, and nothing is allocated for a wrong card
        actor = found(**settings)

    # The weights fit
    expected = {name: tuple(value.shape) for name, value in actor.network.state_dict().items()}
    given = {name: tuple(value.shape) for name, value in weights.items()}
    for name in sorted(expected.keys() | given.keys()):
        if expected.get(name) != given.get(name):
            raise ValueError(
                f"tensor {name!r} has shape {given.get(name, 'none: it is missing')}, a network as the card "
                f"describes it has {expected.get(name, 'no such tensor')}"
            )

    broken = [name for name, value in weights.items() if not bool(value.isfinite().all())]
    if broken:
        raise ValueError(
            f"tensor {broken[0]!r} holds numbers that are not finite; has the training run diverged?"
        )

    actor.network.load_state_dict(dict(weights), assign=True)
    return actor.requires_grad_(False).eval()


def _check_sizes(actor: type[Actor], settings: Mapping[str, Any]) -> None:
    """Sizes come from a file: whole numbers in range, and few of them."""
    for name, value in settings.items():
        if name in ("activation", "head"):
            if not isinstance(value, str):
                raise ValueError(f"network.{name} must be text, got {value!r}")
            continue

        is_list = name == "hidden" and actor is MlpActor
        numbers = value if is_list and isinstance(value, list) else [value]
        is_right = isinstance(value, list) == is_list and len(numbers) <= LAYERS
        if not is_right or not all(type(n) is int and 1 <= n <= LARGEST for n in numbers):
            kind = f"a list of at most {LAYERS} numbers" if is_list else "a number"
            raise ValueError(f"network.{name} must be {kind} from 1 to {LARGEST}, got {value!r}")
