"""Settings of the Data Agent."""

from dataclasses import dataclass, fields

from dsenv.errors import check_count, check_number, check_share, pick
from dsenv.select.infobatch import pruning_is_on

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
    """Last share of the planned selections, drawn uniformly, [0, 1]; at least one where it is above 0."""

    def __post_init__(self) -> None:
        pick("variant of the Data Agent", self.variant, VARIANTS)

        checked: dict[str, float | None] = {
            "clip": check_number("clip", self.clip, 0, 1, open_low=True, open_high=True),
            "warmup": check_count("warmup", self.warmup, 0),
            "planned": None if self.planned is None else check_count("planned", self.planned),
        }
        for name in ("quantile", "age_decay", "explore", "anneal"):
            checked[name] = check_share(name, getattr(self, name), zero=name in ("explore", "anneal"))
        for name in ("hidden", "passes", "rollout"):
            checked[name] = check_count(name, getattr(self, name))
        for name in ("lr", "weight_decay", "entropy"):
            checked[name] = check_number(name, getattr(self, name), 0)
        for name, value in checked.items():
            object.__setattr__(self, name, value)

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
        share = round(1 - self.anneal, 12)  # 1 - 0.9 is below 0.1
        return self.planned is not None and not pruning_is_on(selection, self.planned, share)

    def lr_at(self, selection: int) -> float:
        """Step size after `selection` selections: linear from `lr` to 1 % of it, where `planned` is given.

        The release lowers it at the end of an epoch, by the number of the epoch that has ended: its second
        epoch still has `lr`, and its last one a little more than 1 % of it.
        """
        if self.planned is None or self.planned == 1:
            return self.lr
        done = max(0, selection - 1) if self.variant == "released" else selection
        return self.lr * (1 - 0.99 * min(1.0, done / (self.planned - 1)))
