"""Epsilon-greedy: the greedy part, the random part and the running mean."""

import pytest
import torch

from dsenv.outputs import ModelOutputs
from dsenv.select.epsilon_greedy import EpsilonGreedy, epsilon_greedy


@pytest.mark.parametrize("epsilon", [0.0, 0.5, 1.0])
def test_so_many_are_the_best_and_the_others_come_from_the_rest(epsilon: float) -> None:
    generator, score = torch.Generator().manual_seed(0), torch.arange(100.0)
    greedy, hits = 40 - round(40 * epsilon), torch.zeros(100)
    for _ in range(600):
        index = epsilon_greedy(score, 40, epsilon, generator)
        assert sorted(index[:greedy].tolist()) == list(range(100 - greedy, 100))
        hits[index] += 1
    rest = hits[: 100 - greedy] / 600
    expected = (40 - greedy) / (100 - greedy)
    assert bool(((rest - expected).abs() < 4.5 * (expected * (1 - expected) / 600) ** 0.5 + 1e-6).all())


@pytest.mark.fast
def test_ties_are_broken_at_random() -> None:
    generator, hits = torch.Generator().manual_seed(0), torch.zeros(20)
    for _ in range(500):
        hits[epsilon_greedy(torch.zeros(20), 5, 0.0, generator)] += 1
    assert float((hits / 500 - 0.25).abs().max()) < 0.09


@pytest.mark.fast
def test_the_mean_equals_a_loop() -> None:
    generator, selector = torch.Generator().manual_seed(0), EpsilonGreedy(alpha=0.3)
    mean: dict[int, float] = {}
    for _ in range(15):
        index = torch.randperm(8, generator=generator)[:3]
        loss = torch.rand(3, generator=generator)
        selector.observe(ModelOutputs(index, torch.zeros_like(index), loss))
        for i, value in zip(index.tolist(), loss.tolist(), strict=True):
            mean[i] = 0.7 * mean[i] + 0.3 * value if i in mean else value
    for i, value in mean.items():
        assert float(selector.state_dict()["mean"][i]) == pytest.approx(value, rel=1e-4)


@pytest.mark.fast
def test_epsilon_out_of_range_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"epsilon must be in \[0, 1\], got 1.5"):
        EpsilonGreedy(epsilon=1.5)
