"""Losses of batches in the place of those of samples: averages, weights, refusals, states."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from dsenv import DataPlan, Guard, Selection, Selector
from dsenv.plan import BatchLoss, FeatureForward
from dsenv.select.rho_loss import RhoLoss

pytestmark = pytest.mark.fast
SIZE, BATCH = 60, 20
INPUTS = torch.randn(SIZE, 5, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(SIZE) % 3


def new_plan(**settings: Any) -> DataPlan:
    return DataPlan(
        (INPUTS, LABELS), **{"epochs": 4, "batch_size": BATCH, "loss_of": "batch", "seed": 1, **settings}
    )


def literal(losses: list[float], decay: float) -> float:
    """The average by the book: a sum from 0 on, divided by what its weights sum to."""
    found = 0.0
    for loss in losses:
        found = decay * found + (1 - decay) * loss
    return found / (1 - decay ** len(losses))


def test_the_signal_is_the_corrected_average_of_the_losses_of_its_batches() -> None:
    for decay in (0.9, 0.7, 0.0):
        plan = new_plan(loss_of={"name": "batch", "decay": decay}, ratio=0.5, epochs=6)
        met: list[list[float]] = [[] for _ in range(SIZE)]
        value = 0.0
        for epoch in plan.epochs_left():
            for batch in plan.batches():
                value += 1.0
                plan.loss(batch, torch.tensor(math.sin(value)))
                for position in batch.index.tolist():
                    met[position].append(math.sin(value))
            if epoch == 5:
                break
        plan.start_epoch(6)
        wanted = torch.tensor([literal(each, decay) if each else 0.0 for each in met])
        seen = plan.signals.seen
        assert torch.allclose(plan.signals.loss[seen], wanted[seen], atol=1e-5) and seen.sum() > 50
        assert plan.signals.times_trained.tolist() == [len(each) for each in met]
        assert plan.cost.trained == 180


class Doubled(Selector):
    """All samples; the first half weighs 3, the others 1."""

    def select(self, signals: Any, count: int, generator: torch.Generator) -> Selection:
        index = torch.randperm(signals.size, generator=generator)[:count]
        return Selection(index, torch.where(index < SIZE // 2, 3.0, 1.0))


def test_the_objective_is_the_mean_times_the_mean_weight_with_its_graph() -> None:
    plan = new_plan(selector=Doubled())
    scale = torch.ones((), requires_grad=True)
    for batch in plan.batches():
        scale.grad = None
        mean = (scale * batch.inputs.square().mean(1)).mean()
        loss = plan.loss(batch, mean)
        loss.backward()
        weight = batch.weight.mean()
        assert 1 < weight < 3 and loss.shape == () and torch.allclose(loss, mean * weight)
        assert torch.allclose(scale.grad, mean.detach() * weight)
        assert torch.equal(plan.weighted(batch, mean[None]), loss)  # as some libraries give a scalar


def train(plan: DataPlan, epochs: int | None = None) -> list[Tensor]:
    """The positions of each batch."""
    model = torch.nn.Linear(5, 3)
    torch.nn.init.zeros_(model.weight)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    met = []
    for epoch in plan.epochs_left():
        for batch in plan.batches():
            met.append(batch.index)
            loss = plan.loss(batch, F.cross_entropy(model(batch.inputs), batch.labels))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        if epoch + 1 == epochs:
            break
    return met


@pytest.mark.parametrize("selector", ["random", "infobatch", "small_loss", "order_dp", "ranked"])
def test_rules_that_need_a_loss_alone_choose_as_many_as_asked(selector: str) -> None:
    plan = new_plan(selector=selector, ratio=0.5)
    assert sum(map(len, train(plan))) == plan.cost.trained == 120
    assert {"loss", "loss_ema"} <= set(plan.signals.state_dict())
    with pytest.raises(ValueError, match="'entropy' needs the model's outputs"):
        _ = plan.signals.entropy


def test_a_static_selector_works_after_its_pass() -> None:
    plan = new_plan(selector="moderate", ratio=0.5, uniform_epochs=1)
    model = torch.nn.Sequential(torch.nn.Linear(5, 4), torch.nn.Linear(4, 3))
    for epoch in plan.epochs_left():
        if epoch == 1:
            plan.score(FeatureForward(model, model[1]))
        for batch in plan.batches():
            plan.loss(batch, F.cross_entropy(model(batch.inputs), batch.labels))
    assert plan.signals.times_trained.sum() == plan.cost.trained


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"selector": "trim"}, "Trim .* reads the logits"),
        ({"selector": "data_agent"}, "DataAgent .* reads the logits"),
        ({"selector": "ucb"}, "UCB .* learns from the loss of each sample"),
        ({"selector": {"name": "ranked", "by": "entropy"}}, "Ranked .* reads the logits"),
        ({"selector": RhoLoss(torch.zeros(SIZE))}, "RhoLoss .* compares the loss of a sample with another"),
        ({"policy": "curriculum", "guard": False}, "LearnedSelector .* reads the logits"),
        ({"selector": "infobatch", "guard": Guard()}, "PlanGuard .* reads the logits"),
    ],
)
def test_parts_that_need_more_are_refused_with_the_reason(settings: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=f"{reason}.*one number a batch"):
        new_plan(ratio=0.5, epochs=20, **settings)


def test_controllers_that_look_at_samples_are_refused() -> None:
    images = torch.rand(SIZE, 3, 8, 8)
    for augment, reason in [
        ("sada", "reads the logits"),
        ("ent_augment", "reads the logits"),
        ({"name": "sada", "estimator": "loss"}, "learns from the loss"),
    ]:
        with pytest.raises(ValueError, match=f"cannot work with loss_of='batch': it {reason}"):
            DataPlan((images, LABELS), epochs=30, batch_size=BATCH, loss_of="batch", augment=augment)
    plan = DataPlan((images, LABELS), epochs=2, batch_size=BATCH, loss_of="batch", augment="trivial")
    plan.loss(next(iter(plan.batches())), torch.tensor(1.0))


@pytest.mark.parametrize(
    ("loss", "more", "message"),
    [
        (torch.zeros(BATCH), {}, r"a scalar, got shape \(20,\); losses of samples, \(20,\)"),
        (torch.zeros(2, 2), {}, r"a scalar, got shape \(2, 2\)"),
        (0.5, {}, r"scalar tensor, with its graph, got float 0\.5; leave \.item\(\) out"),
        (torch.tensor(1), {}, "dense, floating loss, got torch.int64"),
        (torch.zeros((), device="meta"), {}, "the loss is on meta"),
        (torch.tensor(1.0), {"logits": torch.zeros(BATCH, 3)}, "loss alone, got logits too"),
        (torch.tensor(1.0), {"features": torch.zeros(BATCH, 3)}, "loss alone, got features too"),
        (torch.tensor(1.0), {"signals": {"entropy": torch.zeros(BATCH)}}, "loss alone, got signals too"),
    ],
)
def test_what_is_no_loss_of_a_batch_is_refused(loss: Any, more: dict[str, Any], message: str) -> None:
    plan = new_plan()
    batch = next(iter(plan.batches()))
    with pytest.raises(ValueError, match=message):
        plan.loss(batch, loss, **more)
    assert plan.cost.trained == 0
    plan.loss(batch, torch.tensor(1.0))  # nothing was taken in


def test_a_scalar_without_the_mode_is_refused_and_the_mode_named() -> None:
    plan = new_plan(loss_of="sample")
    with pytest.raises(ValueError, match=r"got a scalar; .*reduction='none'.*DataPlan\(loss_of='batch'\)"):
        plan.loss(next(iter(plan.batches())), torch.tensor(1.0))


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ("bacth", r"no loss_of called 'bacth'\. Did you mean 'batch'"),
        ({"name": "batch", "decay": 1}, r"decay .*1"),
        ({"name": "batch", "deca": 0.5}, "Did you mean 'decay'"),
        (None, "loss_of"),
    ],
)
def test_a_mode_that_is_none_is_refused(choice: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        new_plan(loss_of=choice)


def test_a_loss_that_is_not_finite_is_left_out_and_the_average_goes_on() -> None:
    plan = new_plan(loss_of=BatchLoss(0.5))
    values = iter([1.0, 2.0, math.nan, 4.0, 5.0, 6.0])
    met: list[list[float]] = [[] for _ in range(SIZE)]
    with pytest.warns(UserWarning, match="not finite: loss of 20 samples"):
        for epoch in plan.epochs_left():
            for batch in plan.batches():
                value = next(values)
                plan.loss(batch, torch.tensor(value))
                for position in batch.index.tolist():
                    met[position] += [value] if math.isfinite(value) else []
            if epoch == 1:
                break
        plan.start_epoch(2)
    assert plan.nonfinite.sum() == BATCH
    wanted = torch.tensor([literal(each, 0.5) for each in met])
    assert torch.allclose(plan.signals.loss, wanted)


def test_a_state_goes_on_exactly_and_is_of_its_mode() -> None:
    torch.manual_seed(3)
    plan = new_plan(selector="infobatch", ratio=0.5, loss_of={"name": "batch", "decay": 0.7})
    train(plan, 2)
    state = plan.state_dict()
    twin = new_plan(selector="infobatch", ratio=0.5, loss_of={"name": "batch", "decay": 0.7})
    twin.load_state_dict(state)
    for each in (plan, twin):
        each.start_epoch(2)
    assert torch.equal(plan.signals.loss, twin.signals.loss)
    one, other = ([batch.index.tolist() for batch in each.batches()] for each in (plan, twin))
    assert one == other
    for mode in ("sample", "batch"):
        with pytest.raises(ValueError, match=r"plan with loss_of"):
            new_plan(selector="infobatch", ratio=0.5, loss_of=mode).load_state_dict(state)
    sample = new_plan(selector="infobatch", ratio=0.5, loss_of="sample").state_dict()
    with pytest.raises(ValueError, match=r"plan with loss_of=None"):
        twin.load_state_dict(sample)
