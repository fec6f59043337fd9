"""UCB: its running moments, and which end it takes."""

import pytest
import torch

from dsenv.outputs import ModelOutputs
from dsenv.select.ucb import UCB, ucb_score
from dsenv.signals import SampleSignals

pytestmark = pytest.mark.fast


def feed(selector: UCB, signals: SampleSignals, index: torch.Tensor, loss: torch.Tensor) -> None:
    labels, logits = torch.zeros_like(index), torch.zeros(len(index), 2)
    selector.observe(ModelOutputs(index, labels, loss))
    signals.update(index, loss, logits, labels, 0)


def test_moments_equal_a_loop_over_samples() -> None:
    generator = torch.Generator().manual_seed(0)
    selector, signals, alpha = UCB(alpha=0.6), SampleSignals(12, 2), 0.6
    mean: dict[int, float] = {}
    variance: dict[int, float] = {}
    for _ in range(20):
        index = torch.randperm(12, generator=generator)[:5]
        loss = torch.rand(5, generator=generator) * 3
        feed(selector, signals, index, loss)
        for i, value in zip(index.tolist(), loss.tolist(), strict=True):
            if i not in mean:
                mean[i], variance[i] = value, 0.0
            else:
                variance[i] = (1 - alpha) * variance[i] + alpha * (value - mean[i]) ** 2
                mean[i] = (1 - alpha) * mean[i] + alpha * value
    state = selector.state_dict()
    for i in mean:
        assert float(state["mean"][i]) == pytest.approx(mean[i], rel=1e-4)
        assert float(state["variance"][i]) == pytest.approx(variance[i], rel=1e-4, abs=1e-7)


def test_high_means_and_restless_losses_come_first() -> None:
    selector, signals = UCB(c=1.0), SampleSignals(4, 2)
    everyone = torch.arange(4)
    for step in range(6):
        swing = 0.5 if step % 2 else -0.5
        feed(selector, signals, everyone, torch.tensor([0.1, 1.0, 1.0 + swing * 1.5, 4.0]))
    index = selector.select(signals, 4, torch.Generator().manual_seed(0)).index
    assert index.tolist() == [3, 2, 1, 0]


def test_c_weighs_the_deviation() -> None:
    mean, variance = torch.tensor([1.0, 2.0]), torch.tensor([4.0, 0.0])
    seen = torch.ones(2, dtype=torch.bool)
    assert ucb_score(mean, variance, seen, 0.0).tolist() == [1.0, 2.0]
    assert ucb_score(mean, variance, seen, 1.0).tolist() == [3.0, 2.0]
    assert ucb_score(mean, variance, ~seen, 1.0).tolist() == [torch.inf, torch.inf]


def test_settings_out_of_range_are_errors() -> None:
    with pytest.raises(ValueError, match=r"alpha must be in \(0, 1\], got 0"):
        UCB(alpha=0)
    with pytest.raises(ValueError, match="c must be a number of at least 0, got -1"):
        UCB(c=-1)


def test_a_known_size_makes_room_at_once_and_survives_a_resume():
    selector = UCB(size=9)
    batch = ModelOutputs(torch.tensor([1, 4]), torch.zeros(2, dtype=torch.int64), torch.tensor([0.5, 2.0]))
    selector.observe(batch)
    assert all(len(selector.state_dict()[name]) == 9 for name in ("visits", "mean", "variance"))
    other = UCB(size=9)
    other.load_state_dict(selector.state_dict())
    for one in (selector, other):
        one.observe(batch)
    for name in ("visits", "mean", "variance"):
        assert torch.equal(selector.state_dict()[name], other.state_dict()[name])
