"""Glister: greedy gains from autograd, and that the right samples gain."""

import pytest
import torch
from torch import Tensor

from dsenv.outputs import ModelOutputs
from dsenv.select import ranking
from dsenv.select.glister import Glister, LastLayer, glister
from dsenv.signals import SampleSignals
from dsenv.task_kinds.classification import label_errors

pytestmark = pytest.mark.fast


def made_up(size: int, seed: int) -> tuple[ModelOutputs, Tensor]:
    """A pass of a linear layer and its weight with the bias as last column (C, D + 1)."""
    generator = torch.Generator().manual_seed(seed)
    layer = torch.randn(3, 5, generator=torch.Generator().manual_seed(99))
    features = torch.randn(size, 4, generator=generator)
    labels = torch.randint(3, (size,), generator=generator)
    logits = features @ layer[:, :4].T + layer[:, 4]
    loss = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
    return ModelOutputs(torch.arange(size), labels, loss, logits, features), layer


def gradient(layer: Tensor, features: Tensor, labels: Tensor) -> Tensor:
    """Gradient of the mean loss by the layer, from autograd."""
    weight = layer.clone().requires_grad_()
    logits = features @ weight[:, :4].T + weight[:, 4]
    return torch.autograd.grad(torch.nn.functional.cross_entropy(logits, labels), weight)[0]


def slow_glister(
    train: ModelOutputs, validation: ModelOutputs, layer: Tensor, picks: int, eta: float
) -> list[int]:
    """The definition: one gradient a sample, and a real step of the layer before each pick."""
    assert train.features is not None and validation.features is not None
    own = [gradient(layer, f[None], y[None]) for f, y in zip(train.features, train.labels, strict=True)]
    chosen: list[int] = []
    for _ in range(picks):
        step = torch.stack([own[i] for i in chosen]).sum(0) if chosen else torch.zeros_like(layer)
        target = gradient(layer - eta * step, validation.features, validation.labels)
        gains = [-torch.inf if i in chosen else float((g * target).sum()) for i, g in enumerate(own)]
        chosen.append(gains.index(max(gains)))
    return chosen


@pytest.mark.parametrize(("seed", "eta"), [(0, 0.1), (0, 3.0), (1, 3.0), (2, 3.0)])
def test_equals_its_definition(seed: int, eta: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranking, "CHUNK", 7)
    (train, layer), (validation, _) = made_up(30, seed), made_up(12, seed + 50)
    assert train.features is not None and train.logits is not None
    parts = LastLayer(train.features, label_errors(train.logits, train.labels))
    order = glister(parts, validation, picks=10, group=1, eta=eta).tolist()
    assert order[:10] == slow_glister(train, validation, layer, 10, eta)
    assert sorted(order) == list(range(30))
    plain = glister(parts, validation, picks=0, group=1, eta=eta).tolist()
    grouped = glister(parts, validation, picks=10, group=4, eta=eta).tolist()
    assert grouped[:4] == plain[:4] and sorted(grouped) == list(range(30))
    assert glister(parts, validation, picks=30, group=1, eta=eta).tolist()[:10] == order[:10]


def test_samples_that_help_validation_come_first() -> None:
    """Half of the training labels contradict those of the validation split."""
    features = torch.ones(20, 4)
    labels = torch.arange(20) % 2
    train = ModelOutputs(torch.arange(20), labels, torch.ones(20), torch.zeros(20, 2), features)
    right = torch.ones(5, dtype=torch.int64)
    validation = ModelOutputs(torch.arange(5), right, torch.ones(5), torch.zeros(5, 2), torch.ones(5, 4))
    selector = Glister(budget=0.5)
    selector.prepare(train, validation)
    chosen = selector.select(SampleSignals(20, 2), 10, torch.Generator().manual_seed(0)).index
    assert bool((labels[chosen] == 1).all())


def test_the_step_is_on_the_sum_of_the_picks_gradients() -> None:
    """A step on their mean takes ten of the first kind, because it never grows."""
    features = torch.tensor([[1.0, 0.0]] * 10 + [[0.0, 0.8]] * 10)
    labels, zero = torch.zeros(20, dtype=torch.int64), torch.zeros(20, 2)
    train = ModelOutputs(torch.arange(20), labels, torch.ones(20), zero, features)
    validation = ModelOutputs(torch.arange(2), labels[:2], torch.ones(2), zero[:2], torch.eye(2))
    selector = Glister(budget=0.5, eta=0.1)
    selector.prepare(train, validation)
    chosen = selector.select(SampleSignals(20, 2), 10, torch.Generator().manual_seed(0)).index
    assert (int((chosen < 10).sum()), int((chosen >= 10).sum())) == (6, 4)


@pytest.mark.parametrize("settings", [{"group": 0}, {"eta": 0.0}, {"budget": 2.0}])
def test_settings_out_of_range_are_errors(settings: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"must be .* got"):
        Glister(**settings)  # type: ignore[arg-type]
