"""Final: nothing until the end, then what the whole training gained."""

import torch
from torch import Tensor

from dsenv.env.rewards.base import Transition
from dsenv.env.rewards.validation import ValidationReward


class FinalReward(ValidationReward):
    """0 until the last interval, which pays the final value on the validation split less the initial one.

    An episode's return is that of `validation`; the agent has to find out by itself which step earned it.

    Args:
        measure: see `ValidationReward`.
    """

    def compute(self, transition: Transition) -> Tensor:
        gain = transition.after[:, 0] - transition.start[:, 0]
        return torch.where(transition.is_last, gain, 0.0)
