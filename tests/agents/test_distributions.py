import math

import pytest
import torch
from torch.distributions import Beta, MultivariateNormal

from dsenv.agents.policies.distributions import (
    EDGE,
    MaskedBernoulli,
    ScaledBeta,
    StructuredNormal,
    directions,
)

pytestmark = pytest.mark.fast


def candidate_sets(sets=3, number=7, features=4, padding=(0, 2, 6)):
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(sets, number, features, generator=generator, dtype=torch.float64)
    here = torch.arange(number) < number - torch.tensor(padding).unsqueeze(1)
    rows[..., 0] = here.double()
    return rows, here


def structured(dtype=torch.float64, std=0.1, direction_std=(0.2, 0.4, 0.3)):
    torch.manual_seed(0)  # of the samples that a test draws
    rows, here = candidate_sets()
    mean = torch.linspace(-0.4, 0.4, 21, dtype=torch.float64).reshape(3, 7)
    parts = (mean, directions(rows, here), torch.tensor(direction_std), torch.tensor(std))
    return StructuredNormal().proba_distribution(*(part.to(dtype) for part in parts), here), parts, here


def dense(parts, here, k):
    """The definition, over the candidates of set k alone."""
    mean, along, direction_std, std = (part.double() for part in parts)
    factor = along[k][here[k]] * direction_std
    covariance = factor @ factor.T + std**2 * torch.eye(int(here[k].sum()), dtype=torch.float64)
    return MultivariateNormal(mean[k][here[k]], covariance)


def test_structured_density_and_entropy_equal_those_of_a_dense_normal():
    found, parts, here = structured()
    actions = found.sample()
    near = {"rtol": 1e-6, "atol": 1e-6}  # the constant of the density, log 2 pi a candidate, is a float32
    for k in range(3):
        slow = dense(parts, here, k)
        torch.testing.assert_close(found.log_prob(actions)[k], slow.log_prob(actions[k][here[k]]), **near)
        torch.testing.assert_close(found.entropy()[k], slow.entropy(), **near)


def test_structured_density_is_exact_in_float32_with_little_independent_noise():
    found, parts, here = structured(torch.float32, std=0.02)
    actions = found.sample()
    for k in range(3):
        slow = dense(parts, here, k).log_prob(actions[k][here[k]].double())
        assert found.log_prob(actions)[k].item() == pytest.approx(slow.item(), abs=0.02)


def test_structured_samples_have_the_covariance_of_the_density():
    _, parts, here = structured()
    wide = [parts[0].expand(40_000, 3, 7), parts[1].expand(40_000, 3, 7, 3), *parts[2:]]
    torch.manual_seed(0)
    drawn = StructuredNormal().proba_distribution(*wide, here.expand(40_000, 3, 7)).sample()
    for k in range(2):
        slow = dense(parts, here, k)
        own = drawn[:, k][:, here[k]]
        torch.testing.assert_close(own.T.cov(), slow.covariance_matrix, atol=0.006, rtol=0)
        torch.testing.assert_close(own.mean(0), slow.mean, atol=0.01, rtol=0)


def test_without_directions_the_noise_is_independent():
    _, (mean, along, direction_std, std), here = structured()
    found = StructuredNormal().proba_distribution(mean, along[..., :0], direction_std[:0], std, here)
    actions = found.sample()
    each = torch.distributions.Normal(mean, std).log_prob(actions)
    near = {"rtol": 1e-5, "atol": 1e-5}  # `std` is a float32
    torch.testing.assert_close(found.log_prob(actions), (each * here).sum(1), **near)


def test_gradients_of_the_structured_density_equal_those_of_the_dense_one():
    found, parts, here = structured()
    actions = found.sample()
    learned = [part.double().requires_grad_() for part in (parts[0], *parts[2:])]
    mean, direction_std, std = learned
    again = StructuredNormal().proba_distribution(mean, parts[1], direction_std, std, here)
    fast = torch.autograd.grad(again.log_prob(actions).sum() + again.entropy().sum(), learned)
    total = torch.zeros((), dtype=torch.float64)
    for k in range(3):
        slow = dense((mean, parts[1], direction_std, std), here, k)
        total = total + slow.log_prob(actions[k][here[k]]) + slow.entropy()
    for ours, theirs in zip(fast, torch.autograd.grad(total, learned), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_directions_are_standardised_within_each_set():
    rows, here = candidate_sets()
    rows[1, :, 2] = 3.0  # constant: no direction
    rows[~here] = 99.0
    found = directions(rows, here)
    assert found.shape == (3, 7, 3) and (found[~here] == 0).all() and (found[1, :, 1] == 0).all()
    assert (found[2] == 0).all()  # a single candidate
    torch.testing.assert_close(found.sum(1), torch.zeros(3, 3, dtype=torch.float64))
    torch.testing.assert_close(found[0].square().mean(0), torch.full((3,), 1 / 3, dtype=torch.float64))


@pytest.mark.parametrize(("alpha", "beta"), [(1.0, 1.0), (1.7, 1.7), (1.01, 6.0), (40.0, 3.0)])
def test_beta_density_integrates_to_one_over_the_box(alpha, beta):
    low, width = torch.tensor(-2.0), torch.tensor(5.0)
    cells = 20_000
    at = -2 + 5 * (torch.arange(cells) + 0.5) / cells
    parameters = torch.full((cells, 1), alpha), torch.full((cells, 1), beta)
    found = ScaledBeta().proba_distribution(*parameters, low, width)
    density = found.log_prob(at.unsqueeze(1)).exp()
    assert (density.sum() * 5 / cells).item() == pytest.approx(1, abs=2e-3)
    slow = -(density * density.clamp(min=1e-30).log()).sum() * 5 / cells
    assert found.entropy()[0].item() == pytest.approx(slow.item(), abs=5e-3)
    mean = (density * at).sum() * 5 / cells
    assert found.mode()[0].item() == pytest.approx(mean.item(), abs=5e-3)


def test_beta_components_add_up_and_masked_ones_do_not_count():
    alpha, beta = torch.tensor([[1.5, 2.0, 3.0]]), torch.tensor([[2.5, 1.2, 9.0]])
    low, width = torch.tensor([-1.0, 0.0, 2.0]), torch.tensor([2.0, 1.0, 4.0])
    here = torch.tensor([[True, True, False]])
    found = ScaledBeta().proba_distribution(alpha, beta, low, width, here)
    actions = found.sample()
    slow = Beta(alpha, beta).log_prob((actions - low) / width) - width.log()
    torch.testing.assert_close(found.log_prob(actions), slow[:, :2].sum(1))
    assert actions[0, 2] == found.mode()[0, 2] == 2


def test_beta_samples_and_gradients_are_finite_at_the_edges():
    raw = torch.tensor([-200.0, -5.0, 0.0, 5.0, 200.0]).requires_grad_()
    alpha = (1 + torch.nn.functional.softplus(raw)).expand(5, 5)
    for action in (-1.0, -1 + 1e-9, 0.0, 1.0):
        found = ScaledBeta().proba_distribution(alpha, alpha.T, torch.tensor(-1.0), torch.tensor(2.0))
        both = found.log_prob(torch.full((5, 5), action)).sum() + found.entropy().sum()
        (gradient,) = torch.autograd.grad(both, raw, retain_graph=True)
        assert both.isfinite() and gradient.isfinite().all()
    drawn = torch.stack([found.sample() for _ in range(200)])
    assert (drawn >= -1 + EDGE).all() and (drawn <= 1 - EDGE).all()
    assert found.log_prob(drawn[0]).isfinite().all()


def test_masks_have_the_probability_of_their_odds_and_never_take_padding():
    logits = torch.tensor([[2.0, -1.0, 9.0]])
    found = MaskedBernoulli().proba_distribution(logits, torch.tensor([[True, True, False]]))
    p, q = 1 / (1 + math.exp(-2)), 1 / (1 + math.exp(1))
    assert found.log_prob(torch.tensor([[1.0, 0.0, 0.0]])).item() == pytest.approx(math.log(p * (1 - q)))
    slow = -sum(x * math.log(x) for x in (p, 1 - p, q, 1 - q))
    assert found.entropy().item() == pytest.approx(slow)
    assert found.mode().tolist() == [[1, 0, 0]]
    assert all(found.sample()[0, 2] == 0 for _ in range(20))
