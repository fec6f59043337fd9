"""Validation: the gain on the validation split."""

from torch import Tensor

from dsenv.env.rewards.base import Reward, RewardInputs, Transition, check_measure, quality


class ValidationReward(Reward):
    """Gain on the validation split over the interval; positive when the model got better.

    Undiscounted, the rewards of an episode add up to the final value less the initial one.

    Args:
        measure: "accuracy", in [0, 1]; "log_likelihood", 1 + mean log-likelihood / log C in [-1, 1], which
            changes smoothly where accuracy moves by whole samples; or "log_error", -log(error + 0.01) / 10 in
            [0, 0.46], which makes contexts with few errors count as much as those with many.
    """

    def __init__(self, measure: str = "accuracy") -> None:
        self.by = check_measure(measure)

    def measure(self, inputs: RewardInputs) -> Tensor:
        return quality(inputs.validation, self.by, inputs.signals.guess_loss)[:, None]

    def compute(self, transition: Transition) -> Tensor:
        return transition.after[:, 0] - transition.before[:, 0]
