"""RHO-LOSS: learnable samples before hopeless ones."""

import pytest
import torch

from dsenv.select.rho_loss import RhoLoss
from dsenv.signals import SampleSignals


def test_the_largest_difference_is_kept() -> None:
    generator = torch.Generator().manual_seed(0)
    loss, irreducible = torch.rand(30, generator=generator), torch.rand(30, generator=generator)
    signals, index = SampleSignals(30, 2), torch.arange(30)
    signals.update(index, loss, torch.zeros(30, 2), torch.zeros_like(index), 0)
    found = RhoLoss(irreducible).select(signals, 10, generator).index.tolist()
    by_hand = sorted(range(30), key=lambda i: float(irreducible[i]) - float(loss[i]))
    assert found == by_hand[:10]


def test_wrong_labels_with_high_losses_stay_out() -> None:
    signals, index = SampleSignals(3, 2), torch.arange(3)
    signals.update(index, torch.tensor([5.0, 2.0, 0.1]), torch.zeros(3, 2), torch.zeros_like(index), 0)
    selector = RhoLoss(torch.tensor([5.5, 0.5, 0.1]))  # hopeless, learnable, learnt
    assert selector.select(signals, 1, torch.Generator().manual_seed(0)).index.tolist() == [1]


def test_losses_of_other_data_are_an_error() -> None:
    with pytest.raises(ValueError, match="irreducible holds 3 losses, the signals 4 samples"):
        RhoLoss(torch.zeros(3)).select(SampleSignals(4, 2), 2, torch.Generator())
    with pytest.raises(ValueError, match=r"shape \(N,\), got \(3, 1\)"):
        RhoLoss(torch.zeros(3, 1))
