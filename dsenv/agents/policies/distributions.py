"""Action distributions for Stable-Baselines3 whose padding rows are fixed and count for nothing."""

import math
from typing import Any, Self

import torch
from stable_baselines3.common.distributions import Distribution
from torch import Tensor
from torch.distributions import Bernoulli, Beta

EDGE = 1e-6  # Beta variates stay this far from 0 and 1, where the log density may be infinite


class PolicyDistribution(Distribution):
    """What the distributions of this module share: the policy computes their parameters."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def proba_distribution_net(self, *args: Any, **kwargs: Any) -> Any:
        """Refuse: the policy has the network."""
        raise NotImplementedError(f"the policy computes the parameters of {type(self).__name__}")

    def actions_from_params(self, *args: Any, deterministic: bool = False, **kwargs: Any) -> Tensor:
        """Actions (K, A) for the parameters that `proba_distribution` takes."""
        return self.proba_distribution(*args, **kwargs).get_actions(deterministic)

    def log_prob_from_params(self, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """A sample (K, A) and its log density (K,), for the parameters that `proba_distribution` takes."""
        actions = self.actions_from_params(*args, **kwargs)
        return actions, self.log_prob(actions)


def directions(candidates: Tensor, here: Tensor) -> Tensor:
    """Directions in score space along which a set of candidates is explored together.

    Args:
        candidates: (K, M, F); the first feature, which says whether the row holds a candidate, is left out.
        here: (K, M) bool, rows that hold one.

    Returns:
        (K, M, F - 1) features with mean 0 and variance 1 / (F - 1) over the candidates of a set, so that
        their sum has about variance 1; 0 where a feature is constant, and for padding.
    """
    features, mask = candidates[..., 1:].detach(), here.unsqueeze(-1)
    number = mask.sum(1, keepdim=True).clamp(min=1)
    centred = torch.where(mask, features, 0)
    centred = torch.where(mask, centred - centred.sum(1, keepdim=True) / number, 0)

    deviation = (centred.square().sum(1, keepdim=True) / number).sqrt()  # (K, 1, F - 1)
    scaled: Tensor = torch.where(deviation > 1e-5, centred / deviation.clamp(min=1e-5), 0)

    rank: int = max(1, features.shape[-1])
    return scaled / math.sqrt(rank)


class StructuredNormal(PolicyDistribution):
    """Normal scores whose noise is mostly shared: N(mean, W W' + std^2 I), W = directions * direction_std.

    One draw moves all candidates along their own features, as another policy of the same form would, so the
    reward sees it; independent noise on M scores averages out. Densities are computed in the R x R space of
    the directions (Woodbury). Padding is -1, outside the density.
    """

    def proba_distribution(
        self, mean: Tensor, directions: Tensor, direction_std: Tensor, std: Tensor, here: Tensor
    ) -> Self:
        """Set the parameters.

        Args:
            mean: (K, M).
            directions: (K, M, R), 0 for padding; R = 0 gives independent noise.
            direction_std: (R,) deviation of the noise along each.
            std: () deviation of the independent noise.
            here: (K, M) bool, rows that hold a candidate.
        """
        self.mean = mean
        self.std = std
        self.here = here
        self.factor = directions * direction_std  # W (K, M, R)
        inner = self.factor.mT @ self.factor / std.square()  # (K, R, R)
        identity = torch.eye(inner.shape[-1], dtype=inner.dtype, device=inner.device)
        self.root: Tensor = torch.linalg.cholesky(identity + inner)
        return self

    def _log_determinant(self) -> Tensor:
        """(K,) of the covariance of the candidates."""
        inner = 2 * self.root.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        return inner + 2 * self.here.sum(-1) * self.std.log()

    def log_prob(self, actions: Tensor) -> Tensor:
        """Log density (K,) of scores (K, M)."""
        scaled = torch.where(self.here, actions - self.mean, 0) / self.std  # (K, M)
        along = self.factor.mT @ scaled.unsqueeze(-1) / self.std  # (K, R, 1)
        solved = torch.linalg.solve_triangular(self.root, along, upper=False).squeeze(-1)
        distance: Tensor = scaled.square().sum(-1) - solved.square().sum(-1)  # squared, of Mahalanobis
        constant = self.here.sum(-1) * math.log(2 * math.pi)
        return -0.5 * (distance + self._log_determinant() + constant)

    def entropy(self) -> Tensor:
        """Differential entropy (K,), in nats."""
        return 0.5 * (self._log_determinant() + self.here.sum(-1) * (1 + math.log(2 * math.pi)))

    def sample(self) -> Tensor:
        """Scores (K, M), not clipped."""
        shared = self.factor.new_empty(*self.factor.shape[:-2], self.factor.shape[-1], 1).normal_()
        own = torch.randn_like(self.mean) * self.std
        return self._padded(self.mean + (self.factor @ shared).squeeze(-1) + own)

    def mode(self) -> Tensor:
        """The mean scores (K, M)."""
        return self._padded(self.mean)

    def _padded(self, scores: Tensor) -> Tensor:
        return scores.masked_fill(~self.here, -1)


class MaskedBernoulli(PolicyDistribution):
    """Each candidate is taken or not, independently; padding never is."""

    def proba_distribution(self, logits: Tensor, here: Tensor) -> Self:
        """Set the log odds (K, M), and which rows (K, M) hold a candidate."""
        self.base = Bernoulli(logits=logits, validate_args=False)
        self.here = here
        return self

    def log_prob(self, actions: Tensor) -> Tensor:
        """Log probability (K,) of masks (K, M)."""
        each: Tensor = self.base.log_prob(actions)  # type: ignore[no-untyped-call]
        return torch.where(self.here, each, 0).sum(-1)

    def entropy(self) -> Tensor:
        """Entropy (K,), in nats."""
        each: Tensor = self.base.entropy()  # type: ignore[no-untyped-call]
        return torch.where(self.here, each, 0).sum(-1)

    def sample(self) -> Tensor:
        """Masks (K, M) of 0 and 1."""
        drawn: Tensor = self.base.sample()  # type: ignore[no-untyped-call]
        return drawn * self.here

    def mode(self) -> Tensor:
        """Masks (K, M): 1 where the odds are above even."""
        logits: Tensor = self.base.logits
        return (self.here & (logits > 0)).float()


class ScaledBeta(PolicyDistribution):
    """Independent Beta variates, moved from (0, 1) to a box. Padding is its low end, outside the density."""

    def proba_distribution(
        self, alpha: Tensor, beta: Tensor, low: Tensor, width: Tensor, here: Tensor | None = None
    ) -> Self:
        """Set the parameters.

        Args:
            alpha: (K, A), above 0.
            beta: (K, A), above 0.
            low: (A,) or (), lower end of the box.
            width: (A,) or (), its upper end less its lower one.
            here: (K, A) bool, components that count; all of them where None.
        """
        self.base = Beta(alpha, beta, validate_args=False)
        self.low, self.width = low, width
        self.here = torch.ones_like(alpha, dtype=torch.bool) if here is None else here
        return self

    def _sum(self, each: Tensor) -> Tensor:
        return torch.where(self.here, each, 0).sum(-1)

    def log_prob(self, actions: Tensor) -> Tensor:
        """Log density (K,) of actions (K, A) in the box."""
        share = ((actions - self.low) / self.width).clamp(EDGE, 1 - EDGE)
        each: Tensor = self.base.log_prob(share)  # type: ignore[no-untyped-call]
        return self._sum(each - self.width.log())

    def entropy(self) -> Tensor:
        """Differential entropy (K,) in the box, in nats."""
        each: Tensor = self.base.entropy()  # type: ignore[no-untyped-call]
        return self._sum(each + self.width.log())

    def sample(self) -> Tensor:
        """Actions (K, A) inside the box."""
        return self._in_box(self.base.sample().clamp(EDGE, 1 - EDGE))

    def mode(self) -> Tensor:
        """The mean actions (K, A), as Data Agent acts when it is not exploring."""
        return self._in_box(self.base.mean)

    def _in_box(self, share: Tensor) -> Tensor:
        return self.low + self.width * torch.where(self.here, share, 0)
