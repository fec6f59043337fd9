"""Settings of the Data Agent."""

from dataclasses import dataclass, fields

from dsenv.errors import check_share, pick

VARIANTS = ("bandit", "released")
BANDIT_ONLY = ("hidden", "entropy", "explore", "age_decay")
RELEASED_HIDDEN = 128


@dataclass(frozen=True, kw_only=True)
class DataAgentConfig:
    """Settings of `DataAgent`, and the only place of their defaults.

    Raises:
        ValueError: a setting is out of range, or has no effect in the variant.
    """

    variant: str = "bandit"
    """The described method made to learn ("bandit"), or the published program ("released")."""
    hidden: int = 64
    """Width of both hidden layers of actor and critic; 128 in the release. Bandit only."""
    lr: float = 3e-4
    """Adam's step size for actor and critic."""
    weight_decay: float = 5e-4
    """L2 coefficient inside Adam."""
    clip: float = 0.2
    """PPO's surrogate epsilon, (0, 1)."""
    passes: int = 4
    """Gradient steps of one update, each on the whole rollout."""
    rollout: int = 10
    """Batches between two updates."""
    entropy: float = 0.02
    """Weight of the entropy bonus, >= 0, against advantages of unit deviation. Bandit only."""
    quantile: float = 0.95
    """Losses above this quantile of their batch are cut to it, (0, 1]."""
    explore: float = 0.05
    """Share of each selection drawn uniformly from the samples not chosen by rank, [0, 1]. Bandit only."""
    age_decay: float = 0.9
    """Factor by which a sample's distance from the top rank shrinks each epoch it is not trained on,
    (0, 1]; 1 for no ageing. Bandit only."""
    warmup: int = 1
    """First selections, drawn uniformly while the agent learns."""
    planned: int | None = None
    """Selections in the whole training run; needed for annealing and for the decay of `lr` to 1 %."""
    anneal: float = 0.125
    """Last share of the planned selections, drawn uniformly, [0, 1]."""

    def __post_init__(self) -> None:
        pick("variant of the Data Agent", self.variant, VARIANTS)

        for name in ("quantile", "age_decay"):
            check_share(name, getattr(self, name))
        for name in ("explore", "anneal"):
            check_share(name, getattr(self, name), zero=True)
        if not 0 < self.clip < 1:
            raise ValueError(f"clip must be in (0, 1), got {self.clip}")

        for name in ("hidden", "passes", "rollout", "planned"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        for name in ("lr", "weight_decay", "entropy", "warmup"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must be at least 0, got {getattr(self, name)}")

        self._check_released()

    def _check_released(self) -> None:
        if self.variant != "released":
            return
        for field in fields(self):
            if field.name in BANDIT_ONLY and getattr(self, field.name) != field.default:
                raise ValueError(
                    f"{field.name} has no effect in the released variant; drop it or use variant='bandit'"
                )

    def uniform(self, selection: int) -> bool:
        """Whether a selection, counted from 0, is drawn uniformly: in the warm-up or while annealing."""
        if selection < self.warmup:
            return True
        return self.planned is not None and selection >= (1 - self.anneal) * self.planned

    def lr_at(self, selection: int) -> float:
        """Step size after `selection` selections: linear from `lr` to 1 % of it, where `planned` is given."""
        if self.planned is None or self.planned == 1:
            return self.lr
        return self.lr * (1 - 0.99 * min(1.0, selection / (self.planned - 1)))
