"""Cost-aware: the gain on the validation split, less a price for every sample seen."""

from torch import Tensor

from dsenv.env.rewards.base import Transition
from dsenv.env.rewards.validation import ValidationReward
from dsenv.errors import check_positive

POINTS = 100  # points of accuracy in an accuracy of 1


class CostAwareReward(ValidationReward):
    """Gain on the validation split over the interval, less the price of the samples it saw.

    It takes `spend_all = false` and a control that decides how much: where a budget is spent to the end
    whatever the agent does, a price is the same for every agent.

    Args:
        price: points of accuracy (hundredths) for seeing every training sample that exists once, > 0. At 1,
            an interval on half of them has to gain half a point to pay for itself.
        measure: see `ValidationReward`.

    Raises:
        ValueError: the price is not positive.
    """

    prices_samples = True

    def __init__(self, price: float = 1.0, measure: str = "accuracy") -> None:
        super().__init__(measure)
        self.price = check_positive("reward.price", price)

    def compute(self, transition: Transition) -> Tensor:
        return super().compute(transition) - self.price / POINTS * transition.samples_seen
