import pytest
import torch
from torch.nn import functional

from dsenv import kernels


@pytest.mark.parametrize("shape", [(7,), (5, 3), (2, 5, 10), (1, 1, 2)])
def test_log_softmax(shape):
    logits = 10 * torch.randn(shape)
    torch.testing.assert_close(kernels.log_softmax(logits), logits.log_softmax(-1))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_and_its_gradient(smoothing):
    logits = torch.randn(9, 4, requires_grad=True)
    labels = torch.arange(9) % 4
    fast = kernels.cross_entropy(logits, labels, smoothing)
    slow = functional.cross_entropy(logits, labels, reduction="none", label_smoothing=smoothing)
    torch.testing.assert_close(fast, slow)
    weight = torch.rand(9)
    gradients = [torch.autograd.grad((weight * loss).sum(), logits)[0] for loss in (fast, slow)]
    torch.testing.assert_close(*gradients)


def test_sort_and_argsort_with_infinities():
    values = torch.randn(4, 50)
    values[1, 7], values[2, 3] = torch.inf, -torch.inf
    torch.testing.assert_close(kernels.sort(values), values.sort(-1).values)
    torch.testing.assert_close(values.gather(1, kernels.argsort(values)), values.sort(-1).values)
    down = values.gather(1, kernels.argsort(values, descending=True))
    torch.testing.assert_close(down, values.sort(-1, descending=True).values)
