"""WHAT, sample by sample: a score or a yes for each of a few candidates."""

import torch
from torch import Tensor

from dsenv.control.base import Actions, Control, Decision, spread
from dsenv.control.curriculum import MOST_SHARP
from dsenv.control.observation import CANDIDATE_FEATURES
from dsenv.control.state import TrainingState
from dsenv.control.trimming import trimmed
from dsenv.errors import check_count, check_flag, check_number, check_share
from dsenv.volume.budget import Counts

LEAST, MOST = 8, 256


class MaskControl(Control):
    """WHAT, sample by sample: the agent sees M candidates and says which of them to train on.

    The candidates are drawn anew for each interval, uniformly, and are all the interval offers. With
    actions = "box" a component is the score of a candidate, and the budgeted number with the largest scores
    is trained on, or, with a `sharpness`, drawn by weights that grow with the score; with "binary" it is a
    yes or no, and the number of them is the ratio of the interval, clipped by the budget: yes before no, in
    the order of the candidates, which is random.

    With `trim` and a `sharpness` the action of zeros is the rule `trim` among the candidates, from which an
    agent begins to learn: equal scores are drawn alike, and what the rule leaves out (see
    `dsenv.control.trimming`) counts as a score lower by 1.

    Args:
        bins: B of the observation; the action does not depend on it.
        target: target ratio of the environment, (0, 1].
        candidates: M, from 8 to 256. Larger actions do not learn: PPO's ratio of probabilities explodes.
        rescore: show the candidates' features as the model sees them now, by a forward pass that costs a
            third of training on them, instead of their values at their last visit.
        embedding: show the model's features of the candidates as well; implies `rescore`.
        minimum: smallest ratio of an interval with binary actions, (0, 1].
        binary: whether actions are masks: above 0 for yes.
        sharpness: log weight that a score of 1 stands for, (0, 10,000]; None to take the largest scores.
        trim: whether what the rule `trim` leaves out gets a lower score.

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
        sharpness: float | None = None,
        trim: bool = False,
    ) -> None:
        del bins
        self.size = self.candidates = check_count("control.candidates", candidates, LEAST, MOST)
        self.embedding = check_flag("control.embedding", embedding)
        self.rescores = check_flag("control.rescore", rescore) or self.embedding
        binary = check_flag("control.binary", binary)
        minimum = check_share("control.minimum", minimum)
        self.minimum = min(minimum, target) if binary else None
        self.decides_how_much = self._binary = binary
        self.trims = check_flag("control.trim", trim)
        self.sharpness = sharpness
        if sharpness is not None:
            if binary:
                raise ValueError("control.sharpness is for scores: leave it out, or set actions = 'box'")
            self.sharpness = check_number("control.sharpness", sharpness, 0, MOST_SHARP, open_low=True)
        self.draws = sharpness is not None
        self.names = tuple(f"score of candidate {m}" for m in range(self.size))

    def decode(self, actions: Actions) -> dict[str, Actions]:
        return {self.answer: actions}

    def encode(self, score: float | Actions = 0.0) -> Actions:  # type: ignore[override]
        return spread(self.answer, score, self.size, -1, 1)

    def decide(self, actions: Actions, state: TrainingState) -> Decision:
        shown = state.candidates.index
        scores = torch.from_numpy(actions).to(shown.device)
        if self.trims:
            left_out = trimmed(state).ge(0).gather(1, shown.clamp(max=state.pool.shape[1] - 1))
            scores = scores - left_out.float()
        if self.sharpness is not None:
            return Decision(log_weight=candidate_log_weight(self.sharpness * scores, shown, state.pool))
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


def candidate_log_weight(log_weight: Tensor, shown: Tensor, pool: Tensor) -> Tensor:
    """Log weights (K, N): those of the candidates, -inf for all other samples.

    Args:
        log_weight: (K, M) of the candidates.
        shown: (K, M) int64 samples; N is padding.
        pool: (K, N) bool, for its shape.
    """
    replicas, size = pool.shape
    weight = torch.full((replicas, size + 1), -torch.inf, device=log_weight.device)
    return weight.scatter_(1, shown, log_weight)[:, :size].contiguous()


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
