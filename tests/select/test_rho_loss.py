"""RHO-LOSS: learnable samples before hopeless ones."""

import pytest
import torch

from dsenv.select.rho_loss import RhoLoss
from dsenv.signals import SampleSignals

pytestmark = pytest.mark.fast


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


def test_the_share_says_how_large_the_pool_is() -> None:
    signals, index = SampleSignals(30, 2), torch.arange(30)
    signals.update(index, torch.arange(30.0), torch.zeros(30, 2), torch.zeros_like(index), 0)
    generator, nothing = torch.Generator().manual_seed(0), torch.zeros(30)
    ranked = RhoLoss(nothing, share=10 / 30).select(signals, 10, generator).index
    assert set(ranked.tolist()) == set(range(20, 30))  # a pool of all
    lowest = [int(RhoLoss(nothing, share=0.5).select(signals, 10, generator).index.min()) for _ in range(40)]
    assert 13.5 < sum(lowest) / 40 < 17  # 10th largest of a pool of 20: mean 15.2, standard error 0.3
    uniform = RhoLoss(nothing, share=1.0)
    drawn = {int(i) for _ in range(40) for i in uniform.select(signals, 10, generator).index}
    assert drawn == set(range(30))  # the whole pool: one is missed with a chance of 30 (2 / 3)^40 < 1e-5


def test_losses_of_other_data_are_an_error() -> None:
    with pytest.raises(ValueError, match="irreducible holds 3 losses, the signals 4 samples"):
        RhoLoss(torch.zeros(3)).select(SampleSignals(4, 2), 2, torch.Generator())
    with pytest.raises(ValueError, match=r"shape \(N,\), one loss a sample, got shape \(3, 1\)"):
        RhoLoss(torch.zeros(3, 1))
