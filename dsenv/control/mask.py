"""WHAT, sample by sample: a score or a yes for each of a few candidates."""

import torch
from torch import Tensor

from dsenv.control.base import Actions, Control, Decision, spread
from dsenv.control.observation import CANDIDATE_FEATURES
from dsenv.control.state import TrainingState
from dsenv.errors import check_count, check_flag, check_share
from dsenv.volume.budget import Counts

LEAST, MOST = 8, 256


class MaskControl(Control):
    """WHAT, sample by sample: the agent sees M candidates and says which of them to train on.

    The candidates are drawn anew for each interval, uniformly, and are all the interval offers. With
    actions = "box" a component is the score of a candidate, and the budgeted number with the largest scores
    is trained on; with "binary" it is a yes or no, and the number of them is the ratio of the interval,
    clipped by the budget: yes before no, in the order of the candidates, which is random.

    Args:
        bins: B of the observation; the action does not depend on it.
        target: target ratio of the environment, (0, 1].
        candidates: M, from 8 to 256. Larger actions do not learn: PPO's ratio of probabilities explodes.
        rescore: show the candidates' features as the model sees them now, by a forward pass that costs a
            third of training on them, instead of their values at their last visit.
        embedding: show the model's features of the candidates as well; implies `rescore`.
        minimum: smallest ratio of an interval with binary actions, (0, 1].
        binary: whether actions are masks: above 0 for yes.

    Raises:
        ValueError: a setting is out of range.
    """

    decides_what = True
    shows_action = False
    kinds = ("box", "binary")
    answer = "score"

    def __init__(
        self,
        bins: int,
        target: float,
        candidates: int = 128,
        rescore: bool = False,
        embedding: bool = False,
        minimum: float = 0.1,
        binary: bool = False,
    ) -> None:
        del bins
        self.size = self.candidates = check_count("control.candidates", candidates, LEAST, MOST)
        self.embedding = check_flag("control.embedding", embedding)
        self.rescores = check_flag("control.rescore", rescore) or self.embedding
        binary = check_flag("control.binary", binary)
        minimum = check_share("control.minimum", minimum)
        self.minimum = min(minimum, target) if binary else None
        self.decides_how_much = self._binary = binary
        self.names = tuple(f"score of candidate {m}" for m in range(self.size))

    def decode(self, actions: Actions) -> dict[str, Actions]:
        return {self.answer: actions}

    def encode(self, score: float | Actions = 0.0) -> Actions:  # type: ignore[override]
        return spread(self.answer, score, self.size, -1, 1)

    def decide(self, actions: Actions, state: TrainingState) -> Decision:
        shown = state.candidates.index
        scores = torch.from_numpy(actions).to(shown.device)
        if not self._binary:
            return Decision(log_weight=chosen_log_weight(scores, shown, state.planned, state.pool))
        wanted = ((scores > 0) & (shown < state.pool.shape[1])).sum(1).cpu().numpy()
        counts = state.budget.grant(wanted, state.interval)
        scores = (scores > 0).float()
        return Decision(counts, chosen_log_weight(scores, shown, counts, state.pool))

    def shown(self, observation: Actions) -> Actions:
        """The features (M, F) of the candidates, which an observation (O,) ends with.

        Raises:
            ValueError: the model's features are shown too, so that F is not known.
        """
        if self.embedding:
            raise ValueError(
                "a rule cannot read candidates with model features: set control.embedding = false"
            )
        count = len(CANDIDATE_FEATURES)
        return observation[-self.size * count :].reshape(self.size, count)

    def choices(self) -> Actions:
        raise ValueError("control 'mask' has no discrete actions; set actions = 'box' or 'binary'")


def chosen_log_weight(scores: Tensor, shown: Tensor, counts: Counts, pool: Tensor) -> Tensor:
    """Log weights (K, N): 0 for the `counts` candidates with the largest scores, -inf for all others.

    Args:
        scores: (K, M).
        shown: (K, M) int64 samples; N is padding and never chosen. Equal scores go by position.
        counts: (K,) how many.
        pool: (K, N) bool, for its shape.
    """
    replicas, size = pool.shape
    place = torch.arange(scores.shape[1], device=scores.device)
    scores = scores.masked_fill(shown >= size, -torch.inf)
    order = scores.argsort(dim=1, descending=True, stable=True)
    chosen = place < torch.from_numpy(counts).to(scores.device)[:, None]
    weight = torch.full((replicas, size + 1), -torch.inf, device=scores.device)
    best = shown.gather(1, order)
    weight.scatter_(1, best.masked_fill(~chosen, size), 0.0)
    return weight[:, :size].contiguous()
