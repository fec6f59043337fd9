"""Policy networks: over the candidates of a set, whatever their number and order, and over a flat vector."""

import itertools
from collections.abc import Callable, Sequence
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from dsenv.errors import pick

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"tanh": torch.tanh, "relu": torch.relu}

LIMIT = 0.5  # scores stay in (-LIMIT, LIMIT), so that exploration noise rarely leaves [-1, 1]
PADDING = -1.0  # the score of a row that holds no candidate


def exists(candidates: Tensor) -> Tensor:
    """Which rows (K, M) of candidates (K, M, F) hold one: those whose first feature is 1, not 0."""
    return candidates[..., 0] > 0.5


class SetNetwork(nn.Module):
    """Scores each candidate of a set by its features, the whole set and the state of the training run.

    One small network is shared by all candidates, after Deep Sets (Zaheer et al., 2017, arXiv 1703.06114):
    permuting the candidates permutes the scores, and rows of padding change nothing. The number of
    candidates M is that of each call. Parameters are drawn from torch's global stream.

    Args:
        global_features: G, features of the training run's state.
        candidate_features: F, features of a candidate; the first is 1 where the row holds one, else 0.
        hidden: H, width of every layer.

    Raises:
        ValueError: a size is below 1.
    """

    outputs = 1
    """P, raw outputs for each candidate."""

    def __init__(self, global_features: int, candidate_features: int, hidden: int = 64) -> None:
        super().__init__()
        sizes = (global_features, candidate_features, hidden)
        if min(sizes) < 1:
            raise ValueError(f"global_features, candidate_features and hidden must be >= 1, got {sizes}")

        self.sizes = sizes
        self.encode_global = nn.Linear(global_features, hidden)
        self.encode_candidate = nn.Linear(candidate_features, hidden)
        self.encode = nn.Linear(hidden, hidden)
        self.context = nn.Linear(3 * hidden, hidden)
        self.score = nn.Linear(2 * hidden, hidden)
        self.score_head = nn.Linear(hidden, self.outputs)
        self.value = nn.Linear(3 * hidden, hidden)
        self.value_head = nn.Linear(hidden, 1)

        for layer in self.children():
            assert isinstance(layer, nn.Linear)
            gain = {self.score_head: 0.01, self.value_head: 1.0}.get(layer, 2**0.5)
            nn.init.orthogonal_(layer.weight, gain)
            nn.init.zeros_(layer.bias)

    @classmethod
    def from_state_dict(cls, state: dict[str, Tensor]) -> Self:
        """The network whose `state_dict` this is; its sizes are read from the shapes."""
        hidden, global_features = state["encode_global.weight"].shape
        with torch.random.fork_rng(devices=[]):
            network = cls(global_features, state["encode_candidate.weight"].shape[1], hidden)
        network.load_state_dict(state)
        return network

    def heads(self, globals: Tensor, candidates: Tensor) -> tuple[Tensor, Tensor]:
        """Raw outputs (K, M, P) and values (K,); see `forward`."""
        here = exists(candidates).unsqueeze(-1)  # (K, M, 1)
        candidates = candidates * here  # what stands in a padding row is never read

        state = self.encode_global(globals)  # (K, H)
        each = (self.encode_candidate(candidates) + state.unsqueeze(1)).tanh()  # (K, M, H)
        each = self.encode(each).tanh()

        mean = (each * here).sum(1) / here.sum(1).clamp(min=1)  # (K, H)
        most = each.masked_fill(~here, -1).amax(1)  # (K, H); -1 is the least a tanh can be
        pooled = torch.cat([mean, most, state.tanh()], -1)  # (K, 3H)

        context = self.context(pooled).tanh().unsqueeze(1).expand_as(each)
        raw = self.score_head(self.score(torch.cat([each, context], -1)).tanh())  # (K, M, P)
        return raw, self.value_head(self.value(pooled).tanh()).squeeze(-1)

    def scores(self, raw: Tensor) -> Tensor:
        """Scores (K, M) in (-LIMIT, LIMIT) of raw outputs (K, M, P)."""
        return LIMIT * raw.squeeze(-1).tanh()

    def forward(self, globals: Tensor, candidates: Tensor) -> tuple[Tensor, Tensor]:
        """Scores, as the trained policy gives them without exploration, and values.

        Args:
            globals: (K, G) state of each training run.
            candidates: (K, M, F) candidates of each, any M >= 1.

        Returns:
            scores: (K, M), higher is better to train on; -1 for padding.
            value: (K,) rewards expected from here on.
        """
        raw, value = self.heads(globals, candidates)
        return self.scores(raw).masked_fill(~exists(candidates), PADDING), value


class SetBetaNetwork(SetNetwork):
    """A Beta distribution for each candidate; its mean, moved to (-1, 1), is the score.

    Form: Beta(1 + softplus(.), 1 + softplus(.)), after Data Agent (arXiv 2603.07433).
    """

    outputs = 2

    def scores(self, raw: Tensor) -> Tensor:
        """Scores (K, M) in (-1, 1) of raw outputs (K, M, 2)."""
        alpha, beta = beta_parameters(raw)
        return (alpha - beta) / (alpha + beta)


def beta_parameters(raw: Tensor) -> tuple[Tensor, Tensor]:
    """The two parameters (...), each above 1, of raw outputs (..., 2)."""
    alpha, beta = (1 + functional.softplus(raw)).unbind(-1)
    return alpha, beta


class MlpNetwork(nn.Module):
    """Fully connected layers over a flat observation, as the actor of Stable-Baselines3's MlpPolicy.

    Args:
        inputs: O, entries of the observation.
        hidden: widths of the hidden layers; none for a linear network.
        outputs: P, raw outputs.
        activation: after each hidden layer, a key of `ACTIVATIONS`.

    Raises:
        ValueError: a size is below 1, or the activation is unknown.
    """

    def __init__(self, inputs: int, hidden: Sequence[int], outputs: int, activation: str = "tanh") -> None:
        super().__init__()
        sizes = [inputs, *hidden, outputs]
        if min(sizes) < 1:
            raise ValueError(f"inputs, hidden and outputs must be >= 1, got {sizes}")
        self.activation = ACTIVATIONS[pick("activation", activation, ACTIVATIONS)]
        self.layers = nn.ModuleList(nn.Linear(m, n) for m, n in itertools.pairwise(sizes))

    def forward(self, observation: Tensor) -> Tensor:
        """Raw outputs (K, P) of observations (K, O)."""
        *hidden, last = self.layers
        for layer in hidden:
            observation = self.activation(layer(observation))
        raw: Tensor = last(observation)
        return raw
