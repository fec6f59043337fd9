import pytest
import torch
from torch import nn

from dsenv.tasks.task import Recipe
from dsenv.training.optim import make_optimizer

pytestmark = pytest.mark.fast

RECIPES = [
    Recipe(optimizer="sgd", momentum=0.0),
    Recipe(optimizer="sgd", momentum=0.9, nesterov=False, weight_decay=0.01),
    Recipe(optimizer="sgd", momentum=0.9, nesterov=True),
    Recipe(optimizer="adamw", weight_decay=0.05),
    Recipe(optimizer="adam", weight_decay=0.05, momentum=0.8),
    Recipe(optimizer="adam"),
]


@pytest.mark.parametrize("recipe", RECIPES)
def test_each_replica_moves_as_by_torchs_own_optimiser(recipe):
    """Replicas at different rates that sit out different steps, against one torch.optim each."""
    torch.manual_seed(0)
    start = [torch.randn(3, 4, 2).double(), torch.randn(3, 2).double()]
    stacked = [nn.Parameter(value.clone()) for value in start]
    optimizer = make_optimizer(recipe, stacked, stacked=True)
    alone = [[nn.Parameter(value[k].clone()) for value in start] for k in range(3)]
    plain = [make_optimizer(recipe, parameters, stacked=False) for parameters in alone]
    for step in range(8):
        gradients = [torch.randn_like(value) for value in start]
        rates = torch.tensor([0.1, 0.01 * (step + 1), 0.3], dtype=torch.float64)
        active = torch.tensor([True, step % 3 != 1, step < 4])
        for parameter, gradient in zip(stacked, gradients, strict=True):
            parameter.grad = gradient
        optimizer.lr_K, optimizer.active_K = rates, None if active.all() else active
        optimizer.step()
        for k in torch.nonzero(active).flatten().tolist():
            for parameter, gradient in zip(alone[k], gradients, strict=True):
                parameter.grad = gradient[k].clone()
            plain[k].param_groups[0]["lr"] = float(rates[k])
            plain[k].step()
    for k in range(3):
        for parameter, own in zip(stacked, alone[k], strict=True):
            torch.testing.assert_close(parameter[k], own, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("recipe", RECIPES[1:])
def test_a_replica_that_sits_out_stays_bit_for_bit_the_same(recipe):
    parameter = nn.Parameter(torch.randn(2, 5))
    optimizer = make_optimizer(recipe, [parameter], stacked=True)
    optimizer.lr_K = torch.tensor([0.1, 0.1])
    parameter.grad = torch.randn(2, 5)
    optimizer.step()
    held = parameter[1].detach().clone()
    state = [value[1].clone() for value in optimizer.state[parameter].values()]
    optimizer.active_K = torch.tensor([True, False])
    for gradient in (torch.randn(2, 5), torch.full((2, 5), torch.nan)):
        parameter.grad = gradient
        optimizer.step()
    assert torch.equal(parameter[1], held)
    now = [value[1] for value in optimizer.state[parameter].values()]
    assert all(torch.equal(a, b) for a, b in zip(state, now, strict=True))
    assert parameter[0].isnan().all()  # a diverged replica harms itself alone


@pytest.mark.parametrize("recipe", RECIPES[3:])
def test_reset_forgets_one_replica(recipe):
    parameter = nn.Parameter(torch.randn(2, 5))
    optimizer = make_optimizer(recipe, [parameter], stacked=True)
    optimizer.lr_K = torch.tensor([0.1, 0.1])
    parameter.grad = torch.randn(2, 5)
    optimizer.step()
    optimizer.reset(0)
    for value in optimizer.state[parameter].values():
        assert not value[0].any() and value[1].any()
