"""The exact projection against per-sample gradients, and the cheap estimators against it."""

import importlib.util
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dsenv.augment import gradient_projection, influence_by_projection, parameter_snapshot, parameter_update
from dsenv.augment.influence import evaluation_mode, kl_change, tdds_change


def seeded(model: nn.Module, seed: int = 0) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in model.parameters():
            value.normal_(0, 0.3, generator=generator)
    return model


def conv_net() -> nn.Module:
    layers = (
        nn.Conv2d(1, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Flatten(),
        nn.Linear(4 * 36, 5),
    )
    return seeded(nn.Sequential(*layers))


def mlp() -> nn.Module:
    return seeded(nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.Tanh(), nn.Linear(16, 5)))


def batch(seed: int = 1) -> tuple[Tensor, Tensor]:
    return torch.randn(12, 1, 8, 8, generator=torch.Generator().manual_seed(seed)), torch.arange(12) % 5


def slow_projection(model: nn.Module, update: dict[str, Tensor], images: Tensor, labels: Tensor) -> Tensor:
    """The definition: one backward pass a sample, in evaluation mode."""
    result = []
    parameters = dict(model.named_parameters())
    with evaluation_mode(model):
        for image, label in zip(images, labels, strict=True):
            loss = F.cross_entropy(model(image[None]), label[None])
            gradients = torch.autograd.grad(loss, [parameters[name] for name in update])
            result.append(sum((g * update[n]).sum() for n, g in zip(update, gradients, strict=True)))
    return torch.stack(result)


@pytest.mark.fast
@pytest.mark.parametrize("build", [mlp, conv_net])
def test_projection_equals_per_sample_gradients(build) -> None:
    model, (images, labels) = build(), batch()
    before = parameter_snapshot(model)
    optimizer = torch.optim.SGD(model.parameters(), 0.05, 0.9)
    with torch.random.fork_rng():
        torch.manual_seed(0)  # what dropout takes out decides how small the least projection is
        for _ in range(3):
            optimizer.zero_grad()
            F.cross_entropy(model(images), labels).backward()
            optimizer.step()
    update = parameter_update(before, model)
    expected = slow_projection(model, update, images, labels)
    result = gradient_projection(model, update, images, labels)
    torch.testing.assert_close(result, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(influence_by_projection(model, update, images, labels), expected.abs())
    assert expected.abs().min() > 1e-3 and not result.requires_grad


@pytest.mark.fast
def test_projection_takes_part_of_the_parameters() -> None:
    model, (images, labels) = mlp(), batch()
    update = {"3.bias": torch.ones(5), "1.weight": torch.full((16, 64), 0.1)}
    expected = slow_projection(model, update, images, labels)
    torch.testing.assert_close(gradient_projection(model, update, images, labels), expected)
    with pytest.raises(ValueError, match=r"no parameter called '3\.bas'. Did you mean '3\.bias'"):
        gradient_projection(model, {"3.bas": torch.ones(5)}, images, labels)


@pytest.mark.fast
def test_a_small_step_downhill_has_positive_projection_equal_to_the_loss_change() -> None:
    model, (images, labels) = mlp(), batch()
    before = parameter_snapshot(model)
    old = F.cross_entropy(model(images), labels, reduction="none")
    old.mean().backward()
    torch.optim.SGD(model.parameters(), 1e-3).step()
    change = old - F.cross_entropy(model(images), labels, reduction="none")
    projection = gradient_projection(model, parameter_update(before, model), images, labels)
    assert projection.mean() > 0
    torch.testing.assert_close(projection, change.detach(), atol=1e-4, rtol=0.05)


@pytest.mark.fast
def test_model_is_left_as_it_was() -> None:
    model, (images, labels) = conv_net(), batch()
    model.train()
    model[1].eval()  # a frozen BatchNorm stays frozen
    before = {name: value.clone() for name, value in model.state_dict().items()}
    influence_by_projection(model, parameter_snapshot(model), images, labels)
    assert [module.training for module in model] == [True, False, True, True, True, True] and model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(value.grad is None for value in model.parameters())


@pytest.mark.fast
def test_cheap_changes_equal_their_definitions() -> None:
    generator = torch.Generator().manual_seed(0)
    now, then = torch.randn(2, 9, 4, generator=generator).log_softmax(-1)
    torch.testing.assert_close(
        kl_change(now, then), F.kl_div(then, now, log_target=True, reduction="none").sum(1)
    )
    torch.testing.assert_close(
        tdds_change(now, then), (now.exp() * (now - then)).abs().sum(1), atol=1e-6, rtol=1e-5
    )
    assert (tdds_change(now, then) >= kl_change(now, then)).all() and (kl_change(now, then) >= 0).all()
    assert (kl_change(now, now) == 0).all() and (tdds_change(now, now) == 0).all()


def test_rank_correlations_of_the_benchmark() -> None:
    """A short run of benchmarks/influence.py: what its table shows holds."""
    path = Path(__file__).parents[2] / "benchmarks" / "influence.py"
    spec = importlib.util.spec_from_file_location("influence_benchmark", path)
    assert spec is not None and spec.loader is not None
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    assert benchmark.rank_correlation(torch.arange(9.0), torch.arange(9.0) ** 3) == pytest.approx(1)
    assert benchmark.rank_correlation(torch.arange(9.0), -torch.arange(9.0)) == pytest.approx(-1)
    last = benchmark.measure(seed=0, epochs=5, noise=0.0)[-1]
    own_step = {name: benchmark.rank_correlation(last[name], last[benchmark.STEP]) for name in benchmark.ROWS}
    assert own_step[benchmark.STEP_CHANGE] > 0.95
    assert own_step[benchmark.LOSS] > own_step[benchmark.KL] > 0.5
