"""AdaAugment: learns a toy task with a known answer; parts against their definitions."""

import pytest
import torch
from torch import Tensor

from dsenv.augment import AdaAugment
from dsenv.augment.ada_augment import _beta_log_density, _sample_beta, view_reward
from dsenv.outputs import ModelOutputs
from dsenv.signals import SampleSignals

SIZE, FEATURES = 64, 4


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def states(seed: int) -> Tensor:
    """Features; the sign of the first one says what the sample wants."""
    return torch.randn(SIZE, FEATURES, generator=rng(seed))


def forward(loss: Tensor, features: Tensor | None = None) -> ModelOutputs:
    index = torch.arange(SIZE)
    return ModelOutputs(index, index, loss, features=features)


@pytest.mark.fast
def test_reward_asks_for_mild_then_for_strong() -> None:
    plain, current, full = (torch.tensor([value]) for value in (1.0, 1.5, 4.0))
    assert float(view_reward(plain, current, full, 1.0)) == 2.5
    assert float(view_reward(plain, current, full, 0.0)) == 0.5
    assert float(view_reward(plain, current, full, 0.25)) == pytest.approx(0.75 * 0.5 + 0.25 * 2.5)


@pytest.mark.fast
def test_balance_falls_linearly_over_the_training() -> None:
    controller, seen = AdaAugment(SIZE, features=FEATURES, epochs=4), []
    for _ in range(6):
        seen.append(controller.balance)
        controller.end_epoch()
    assert seen == [1, 0.75, 0.5, 0.25, 0, 0]


@pytest.mark.fast
def test_beta_density_and_draws_equal_torch_distributions() -> None:
    shape, action = torch.tensor([[1.0, 1.0], [2.5, 1.3], [4.0, 9.0]]), torch.tensor([0.2, 0.9, 0.4])
    beta = torch.distributions.Beta(shape[:, 0], shape[:, 1])
    torch.testing.assert_close(_beta_log_density(shape, action), beta.log_prob(action))
    assert _beta_log_density(shape, torch.tensor([0.0, 1.0, 1.0])).isfinite().all()  # the ends
    draws = torch.stack([_sample_beta(shape, rng(seed)) for seed in range(2000)])
    # 2,000 draws: a mean is off by 0.0065 (one standard error) at most, a deviation by less
    torch.testing.assert_close(draws.mean(0), beta.mean, atol=0.03, rtol=0)
    torch.testing.assert_close(draws.std(0), beta.stddev, atol=0.03, rtol=0)


def test_it_learns_who_wants_strong_augmentation() -> None:
    """The loss gap is strength where the first feature is positive, else -strength: best are 1 and 0."""
    controller = AdaAugment(SIZE, features=FEATURES, epochs=1, learning_rate=6e-3)
    controller.end_epoch()  # balance 0: the reward is loss_current - loss_plain
    generator, zero, index = rng(), torch.zeros(SIZE), torch.arange(SIZE)
    features = states(1)
    wants = features[:, 0].sign()
    for _ in range(200):
        strength = controller.strengths(SampleSignals(SIZE, 2), index, generator)
        current = forward(wants * strength, features)
        controller.observe_views(current, (forward(zero, features), forward(zero)), generator)
    strength = controller.strengths(SampleSignals(SIZE, 2), index, generator)
    assert strength[wants > 0].mean() > 0.75 and strength[wants < 0].mean() < 0.25


@pytest.mark.fast
def test_views_use_the_sample_strengths(make_images) -> None:
    images, index = make_images(SIZE, 3, 12, 12), torch.arange(SIZE)
    controller = AdaAugment(SIZE, features=FEATURES, epochs=3, ops=("posterize",))
    controller._memory["strength"].copy_((index % 2).float())
    current, plain, full = controller.views(images, SampleSignals(SIZE, 2), index, rng())
    assert plain is images and controller.extra_views == 2
    assert torch.equal(current[::2], images[::2]) and torch.equal(current[1::2], full[1::2])
    assert not torch.equal(full[::2], images[::2])


@pytest.mark.fast
def test_same_seed_same_agent_and_global_stream_untouched() -> None:
    before = torch.random.get_rng_state()
    first, second, third = (AdaAugment(SIZE, features=FEATURES, epochs=3, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first.actor[0].weight, second.actor[0].weight)
    assert not torch.equal(first.actor[0].weight, third.actor[0].weight)
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.fast
def test_features_are_needed() -> None:
    zero = forward(torch.zeros(SIZE))
    with pytest.raises(ValueError, match=r"ModelOutputs\.features"):
        AdaAugment(SIZE, features=FEATURES, epochs=3).observe_views(zero, (zero, zero), rng())
    with pytest.raises(ValueError, match="features must be a whole number of at least 1, got 0"):
        AdaAugment(SIZE, features=0, epochs=3)
