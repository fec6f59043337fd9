"""Small loss: the small end, after all unseen samples."""

import pytest
import torch

from dsenv.select.small_loss import SmallLoss, small_loss
from dsenv.signals import SampleSignals

pytestmark = pytest.mark.fast


def test_the_smallest_losses_are_kept_after_the_unseen() -> None:
    generator = torch.Generator().manual_seed(0)
    loss, seen = torch.rand(30, generator=generator), torch.arange(30) < 25
    found = small_loss(loss, seen, 12, generator).tolist()
    assert set(found[:5]) == set(range(25, 30))
    assert found[5:] == sorted(range(25), key=lambda i: float(loss[i]))[:7]


@pytest.mark.parametrize(("by", "expected"), [("loss", 1), ("loss_ema", 0)])
def test_last_loss_or_running_mean(by: str, expected: int) -> None:
    signals, index = SampleSignals(2, 2), torch.arange(2)
    for step, losses in enumerate(([0.1, 5.0], [0.3, 0.2])):
        signals.update(index, torch.tensor(losses), torch.zeros(2, 2), torch.zeros_like(index), step)
    assert SmallLoss(by).select(signals, 1, torch.Generator().manual_seed(0)).index.tolist() == [expected]


def test_an_unknown_loss_is_an_error() -> None:
    with pytest.raises(ValueError, match="no loss to rank by called 'margin'"):
        SmallLoss("margin")
