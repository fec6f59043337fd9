"""A good selector, and how the checks' tests ask for a message."""

import pytest
import torch

from dsenv import Selection, Selector


def refused(check, part, message, **settings):
    with pytest.raises(ValueError, match=message):
        check(part, **settings)


class LargestLoss(Selector):
    """Good: a pure function of the signals."""

    def select(self, signals, count, generator):
        index = (signals.loss + 1e-3 * torch.rand(signals.size, generator=generator)).topk(count).indices
        return Selection(index, torch.ones(count))
