"""GraNd: the last layer's gradient norm by one backward pass a sample."""

import pytest
import torch
from torch import Tensor, nn

from dsenv.outputs import ModelOutputs
from dsenv.select import ranking
from dsenv.select.grand import GraNd, last_layer_grad_norm
from dsenv.signals import SampleSignals

pytestmark = pytest.mark.fast


def slow_norm(layer: nn.Linear, features: Tensor, labels: Tensor) -> Tensor:
    norms = []
    for feature, label in zip(features, labels, strict=True):
        loss = nn.functional.cross_entropy(layer(feature)[None], label[None])
        grads = torch.autograd.grad(loss, list(layer.parameters()))
        norms.append(torch.cat([grad.flatten() for grad in grads]).norm())
    return torch.stack(norms)


@pytest.mark.parametrize("bias", [True, False])
def test_norm_equals_its_definition(bias: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranking, "CHUNK", 5)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layer, features = nn.Linear(8, 5, bias=bias), torch.randn(16, 8)
    labels = torch.arange(16) % 5
    fast = last_layer_grad_norm(features, layer(features).detach(), labels, bias)
    torch.testing.assert_close(fast, slow_norm(layer, features, labels))


def test_the_largest_gradients_are_kept() -> None:
    logits = torch.stack([torch.linspace(5, -5, 10), torch.zeros(10)], 1)  # ever more wrong
    labels, features = torch.zeros(10, dtype=torch.int64), torch.ones(10, 3)
    selector = GraNd()
    selector.prepare(ModelOutputs(torch.arange(10), labels, torch.zeros(10), logits, features))
    index = selector.select(SampleSignals(10, 2), 3, torch.Generator().manual_seed(0)).index
    assert index.tolist() == [9, 8, 7]
