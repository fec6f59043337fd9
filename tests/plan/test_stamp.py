"""Batches that say where they belong, outputs taken in once, and epochs that end early."""

import warnings

import pytest
import torch

from dsenv.plan import DataPlan
from tests.plan.loops import Digits, new_plan

pytestmark = pytest.mark.fast


def first_epoch(plan):
    next(plan.epochs_left())
    return list(plan.batches())


def test_a_batch_bears_its_plan_epoch_and_number():
    one, other = new_plan(ratio=0.5), new_plan(ratio=0.5)
    numbers = []
    for epoch in one.epochs_left():
        for batch in one.batches():
            numbers.append((batch.epoch, batch.number))
            one.loss(batch, torch.rand(len(batch.index)))
        assert batch.epoch == epoch
    steps = one.epoch_schedule.steps_in(0)
    assert numbers == [(epoch, number) for epoch in range(2) for number in range(steps)]
    assert batch.plan != first_epoch(other)[0].plan and batch.views == ()


def test_numbers_go_on_in_the_middle_of_an_epoch_with_a_loader_too():
    plan = DataPlan(Digits(), epochs=2, batch_size=64, ratio=0.5)
    next(plan.epochs_left())
    loader = plan.loader()
    for batch, _ in zip(loader, range(3), strict=False):
        plan.loss(batch, torch.rand(64))
    assert [batch.number for batch in loader] == [3, 4, 5, 6, 7]
    raw = next(iter(torch.utils.data.DataLoader(plan.dataset, 64, sampler=plan.sampler)))
    assert plan.batch(*raw).number == 3 and plan.batch(*raw, number=5).number == 5


def test_batches_fetched_ahead_bear_their_own_numbers():
    plan = DataPlan(Digits(), epochs=2, batch_size=64, ratio=0.5)
    raw = list(torch.utils.data.DataLoader(plan.dataset, 64, sampler=plan.sampler))
    assert [plan.batch(*batch).number for batch in raw] == list(range(8))
    ahead = [plan.batch(index.flip(0), [part.flip(0) for part in sample]) for index, sample in raw]
    assert [batch.number for batch in reversed(ahead)] == list(range(7, -1, -1))


def test_a_loader_with_batches_of_another_size_is_refused_from_the_first_on():
    plan = DataPlan(Digits(), epochs=2, batch_size=100, ratio=0.55)  # the last batch has 50 samples
    raw = next(iter(torch.utils.data.DataLoader(plan.dataset, 50, sampler=plan.sampler)))
    with pytest.raises(ValueError, match="the batch holds 50 samples, the plan makes steps of 100"):
        plan.batch(*raw)


def test_a_batch_of_another_plan_or_epoch_is_refused():
    plan, other = new_plan(ratio=0.5), new_plan(ratio=0.5)
    batch = first_epoch(plan)[0]
    with pytest.raises(ValueError, match="the batch is of another plan"):
        other.loss(first_epoch(plan)[0], torch.rand(64))
    for each in plan.batches():
        plan.loss(each, torch.rand(len(each.index)))
    plan.start_epoch(1)
    next(iter(plan.batches()))
    with pytest.raises(ValueError, match="the batch is of epoch 0, the plan is in epoch 1"):
        plan.observe(batch, torch.rand(64))
    assert other.cost.trained == 0


def test_loss_is_observe_and_weighted():
    plan, twin = new_plan(selector="infobatch", ratio=0.5), new_plan(selector="infobatch", ratio=0.5)
    batch, same = first_epoch(plan)[0], first_epoch(twin)[0]
    losses = torch.rand(len(batch.index), requires_grad=True)
    loss = plan.loss(batch, losses)
    assert twin.observe(same, losses.detach()) is None
    assert torch.equal(loss, twin.weighted(same, losses)) and loss.requires_grad
    assert plan.cost.trained == twin.cost.trained == len(losses)
    assert plan.progress == twin.progress > 0


def test_weighted_takes_nothing_in():
    plan = new_plan(selector="infobatch", ratio=0.5)
    batch = first_epoch(plan)[0]
    before = plan.state_dict()
    for _ in range(3):
        plan.weighted(batch, torch.rand(len(batch.index)))
    assert plan.progress == 0 and plan.cost.trained == 0
    assert plan.state_dict()["feedback"]["buffer"] == before["feedback"]["buffer"]
    with pytest.raises(ValueError, match="one value a sample"):
        plan.weighted(batch, torch.rand(3))


@pytest.mark.parametrize(("stop", "left"), [(1, 436), (7, 52)])
def test_an_epoch_that_ends_early_warns_with_the_number(stop, left):
    plan = new_plan(ratio=0.5)
    with pytest.warns(UserWarning, match=rf"epoch 0 ended with {left} of its 500 chosen samples"):
        for epoch in plan.epochs_left():
            for number, batch in enumerate(plan.batches()):
                if epoch == 0 and number == stop:
                    break
                plan.loss(batch, torch.rand(len(batch.index)))


def test_skipped_batches_and_a_loop_that_counts_by_itself_are_found_too():
    plan = new_plan(ratio=0.5)
    for batch in list(plan.batches())[::2]:
        plan.observe(batch, torch.rand(len(batch.index)))
    with pytest.warns(UserWarning, match="epoch 0 ended with 244 of its 500"):
        plan.start_epoch(1)


def test_a_whole_epoch_does_not_warn():
    plan = new_plan(ratio=0.5, drop_last=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in plan.epochs_left():
            for batch in plan.batches():
                plan.loss(batch, torch.rand(len(batch.index)))
    assert plan.progress == 1
