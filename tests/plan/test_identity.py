"""A plan knows of each chosen sample whether it was trained on; resume, refusals and warnings follow."""

import copy
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

from dsenv import DataPlan, Selection, Selector
from dsenv.plan import IndexedCollate

pytestmark = pytest.mark.fast

SIZE, BATCH = 200, 10
INPUTS, LABELS = torch.arange(SIZE).float()[:, None], torch.arange(SIZE) % 4


class Rows(torch.utils.data.Dataset[Any]):
    def __len__(self) -> int:
        return SIZE

    def __getitem__(self, place: int) -> Any:
        return INPUTS[place], int(LABELS[place])


def new_plan(data: Any = (INPUTS, LABELS), **settings: Any) -> DataPlan:
    known = {"epochs": 3, "batch_size": BATCH, "ratio": 0.5, "selector": "small_loss", "classes": 4}
    return DataPlan(data, **{**known, **settings})


def train(plan: DataPlan, batch: Any) -> list[int]:
    """Trains on a batch; its positions."""
    assert torch.equal(batch.inputs[:, 0].long(), batch.index)
    plan.loss(batch, batch.index.float() + 1)
    return list(batch.index.tolist())


def rest(plan: DataPlan, batches: Any = None) -> list[int]:
    """Trains on what is left of the epoch."""
    return [place for batch in batches or plan.batches() for place in train(plan, batch)]


def resumed(plan: DataPlan, data: Any = (INPUTS, LABELS), **settings: Any) -> DataPlan:
    other = new_plan(data, **settings)
    other.load_state_dict(copy.deepcopy(plan.state_dict()))
    return other


def test_after_a_skipped_batch_a_state_goes_on_with_what_was_not_trained_on() -> None:
    plan = new_plan()
    done: list[int] = []
    for batch in plan.batches():
        if batch.number == 2:  # a loss that is not finite, say
            continue
        done += train(plan, batch)
        if batch.number == 5:
            break
    other = resumed(plan)
    again = rest(other)
    assert sorted(done + again) == sorted(plan.epoch_sampler.chosen.index.tolist())
    assert other.epoch_sampler.is_done and other.epoch_sampler.done == 100


@pytest.mark.parametrize("order", [[3, 1, 4], [9, 8, 0], [5]])
def test_batches_may_come_in_any_order(order: list[int]) -> None:
    plan = new_plan()
    batches = list(plan.batches())
    done = [place for number in order for place in train(plan, batches[number])]
    other = resumed(plan)
    left = list(other.batches())
    assert [batch.number for batch in left] == [number for number in range(10) if number not in order]
    for batch in left:  # the same batches as they would have been
        assert torch.equal(batch.index, batches[batch.number].index)
    assert sorted(done + rest(other, left)) == sorted(plan.epoch_sampler.chosen.index.tolist())


def test_loaders_that_give_batches_as_they_come() -> None:
    plan = new_plan(Rows())
    loader = plan.loader(num_workers=2, in_order=False)
    done: list[int] = []
    for batch in loader:
        done += train(plan, batch)
        if plan.epoch_sampler.done == 40:
            break
    other = resumed(plan, Rows())
    assert sorted(done + rest(other, other.loader())) == sorted(plan.epoch_sampler.chosen.index.tolist())


@pytest.mark.parametrize("workers", [0, 1, 2, 4])
@pytest.mark.parametrize("batches", [1, 6])
def test_stateful_loaders_around_the_sampler(workers: int, batches: int) -> None:
    stateful = pytest.importorskip("torchdata.stateful_dataloader")

    def loader_of(plan: DataPlan) -> Any:
        return stateful.StatefulDataLoader(
            plan.dataset, batch_size=BATCH, sampler=plan.sampler, num_workers=workers
        )

    plan = new_plan(Rows())
    loader = loader_of(plan)
    done: list[int] = []
    for raw in loader:
        done += train(plan, plan.batch(*raw))
        if plan.epoch_sampler.done == batches * BATCH:
            break
    states = plan.state_dict(), loader.state_dict()
    assert states[0]["epoch_sampler"]["record"]["trained"].sum() == batches * BATCH

    other = new_plan(Rows())
    again = loader_of(other)
    other.load_state_dict(states[0])
    again.load_state_dict(states[1])
    done += [place for raw in again for place in train(other, other.batch(*raw))]
    assert sorted(done) == sorted(plan.epoch_sampler.chosen.index.tolist())

    fresh = new_plan(Rows())
    alone = loader_of(fresh)
    alone.load_state_dict(states[1])
    with pytest.raises(ValueError, match=r"load the plan's state first, plan\.load_state_dict"):
        next(iter(alone))


def test_a_state_between_two_halves_of_a_batch() -> None:
    plan = new_plan()
    whole = next(plan.batches())
    halves = [
        whole._replace(index=whole.index[part], weight=whole.weight[part], labels=whole.labels[part])
        for part in (slice(0, 5), slice(5, 10))
    ]
    plan.loss(halves[0], torch.ones(5))
    with pytest.raises(ValueError, match="was taken in before"):
        plan.loss(halves[0], torch.ones(5))
    other = resumed(plan)
    assert next(other.batches()).index.tolist() == halves[1].index.tolist()
    other.loss(halves[1]._replace(plan=next(other.batches()).plan), torch.ones(5))
    assert other.epoch_sampler.done == 10


REFUSED = r"of epoch 0 was taken in before, by plan.loss or plan.observe.*plan.weighted\(batch, losses\)"


def test_a_second_loss_of_a_batch_is_refused_at_once() -> None:
    plan = new_plan()
    batches = plan.batches()
    first, second = next(batches), next(batches)
    plan.loss(first, torch.ones(BATCH))
    for call in (plan.loss, plan.observe):
        with pytest.raises(ValueError, match=REFUSED):
            call(first, torch.ones(BATCH))
    loss = torch.rand(BATCH, requires_grad=True)
    assert torch.equal(plan.weighted(first, loss), (loss * first.weight).mean())
    plan.loss(second, torch.ones(BATCH))
    assert plan.epoch_sampler.done == 20 and plan.cost.trained == 20


def test_the_same_batch_all_epoch_long_is_refused() -> None:
    plan = new_plan()
    batch = next(plan.batches())
    plan.loss(batch, torch.ones(BATCH))
    for _ in range(9):
        with pytest.raises(ValueError, match=REFUSED):
            plan.loss(batch, torch.ones(BATCH))
    assert plan.progress == pytest.approx(BATCH / 300)


def test_a_refused_batch_leaves_the_plan_as_it_was() -> None:
    plan = new_plan(selector="ucb")
    batch = next(plan.batches())
    before = copy.deepcopy(plan.state_dict())
    for losses in (torch.ones(3), torch.ones(()), torch.ones(BATCH, 2)):
        with pytest.raises(ValueError, match=r"plan\.loss needs"):
            plan.loss(batch, losses)
    assert str(before) == str({**plan.state_dict(), "feedback": before["feedback"]})
    plan.loss(batch, torch.ones(BATCH))


def sessions(count: int, stop: int) -> Iterator[DataPlan]:
    for _ in range(count):
        plan = new_plan()
        for batch in plan.batches():
            if batch.number == stop:
                break
            train(plan, batch)
        yield plan


def test_a_break_and_skipped_batches_are_said_with_their_number() -> None:
    for plan in sessions(1, 4):
        with pytest.warns(
            UserWarning, match="epoch 0 ended with 60 of its 100 chosen samples not trained on"
        ):
            plan.start_epoch(1)
        assert plan.epoch == 1
    plan = new_plan()
    for batch in plan.batches():
        if batch.number % 2:
            train(plan, batch)
    with pytest.warns(UserWarning, match="epoch 0 ended with 50 of its 100 chosen samples not trained on"):
        plan.start_epoch(1)


def test_samples_that_a_collate_function_leaves_out_are_said_and_not_offered_again() -> None:
    def collate(samples: list[Any]) -> Any:
        return torch.utils.data.default_collate([sample for sample in samples if int(sample[0]) % 10 != 3])

    plan = new_plan(Rows(), ratio=1.0)
    loader = plan.loader(collate_fn=collate)
    batches = iter(loader)
    done = [place for _ in range(8) for place in train(plan, next(batches))]
    other = resumed(plan, Rows(), ratio=1.0)
    done += rest(other, other.loader(collate_fn=collate))
    assert sorted(done) == [place for place in range(SIZE) if place % 10 != 3]
    assert other.epoch_sampler.is_done
    with pytest.warns(
        UserWarning, match=r"collate function left out 20 of 200 chosen samples \(positions \[3, 13"
    ):
        other.start_epoch(1)


def test_a_loader_of_ones_own_with_left_out_samples() -> None:
    plan = new_plan(Rows(), ratio=1.0)

    def collate(samples: list[Any]) -> Any:
        return torch.utils.data.default_collate([sample for sample in samples if int(sample[0]) != 3])

    def loader(plan: DataPlan, function: Any) -> Any:
        return DataLoader(plan.dataset, BATCH, sampler=plan.sampler, collate_fn=function)

    batches = loader(plan, IndexedCollate(collate))
    raw = next((index, sample) for index, sample in batches if len(index) == BATCH - 1)
    with pytest.raises(ValueError, match=r"holds 9 samples, the plan makes steps of 10.*partial=True"):
        plan.batch(*raw)
    train(plan, plan.batch(*raw, partial=True))
    assert plan.epoch_sampler.record.left_out == [3]

    def forgets(items: list[Any]) -> Any:
        index, samples = zip(*items, strict=True)
        return torch.tensor(index), collate(list(samples))

    plan = new_plan(Rows(), ratio=1.0)
    raw = next((index, sample) for index, sample in loader(plan, forgets) if len(sample[1]) == BATCH - 1)
    with pytest.raises(ValueError, match=r"10 positions and labels of shape \(9,\).*IndexedCollate"):
        plan.batch(*raw)


def test_what_another_sampler_gives_is_named() -> None:
    plan = new_plan(Rows())
    out = next(place for place in range(SIZE) if place not in plan.epoch_sampler.chosen.index.tolist())
    chosen = plan.epoch_sampler.chosen.index
    sample = (torch.zeros(BATCH, 1), torch.zeros(BATCH, dtype=torch.int64))
    cases = [
        (torch.cat([chosen[:9], torch.tensor([out])]), f"sample {out}, which is not among those of epoch 0"),
        (torch.cat([chosen[:9], torch.tensor([SIZE])]), f"sample {SIZE}, which is not among"),
        (torch.cat([chosen[:9], torch.tensor([-1])]), "sample -1, which is not among"),
        (torch.cat([chosen[:9], chosen[:1]]), f"sample {int(chosen[0])} twice"),
        (chosen[:10].int(), "needs int64 positions"),
        (chosen[:10, None], "needs int64 positions"),
        (chosen[:0], "needs int64 positions"),
    ]
    for index, message in cases:
        with pytest.raises(ValueError, match=message):
            plan.batch(index, sample)


def test_a_whole_training_run_warns_of_nothing() -> None:
    plan = new_plan(Rows(), volume="pods")
    loader = plan.loader(num_workers=2, prefetch_factor=4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in plan.epochs_left():
            rest(plan, loader)
    assert plan.progress == 1 and plan.cost.trained == 300


# A part belongs to one plan


class Counting(Selector):
    """Keeps something, and says nothing of it."""

    seen = 0

    def select(self, signals: Any, count: int, generator: torch.Generator) -> Selection:
        self.seen += count
        return Selection(torch.arange(count), torch.ones(count))


@pytest.mark.parametrize("name", ["ucb", "epsilon_greedy", "el2n", "data_agent", "fixed_random", "own"])
def test_one_selector_object_in_two_plans_is_refused(name: str) -> None:
    part: Any = new_plan(selector=Counting() if name == "own" else name).selector
    kind = type(part).__name__
    for given in (part, copy.deepcopy(part), lambda: part):
        with pytest.raises(
            ValueError, match=f"this {kind} was given to a plan before and keeps what it learnt"
        ):
            new_plan(selector=given)


@pytest.mark.parametrize("name", ["sada", "ent_augment"])
def test_one_controller_object_in_two_plans_is_refused(name: str) -> None:
    data = torch.rand(SIZE, 1, 4, 4), LABELS
    part = new_plan(data, augment=name).controller
    with pytest.raises(ValueError, match="was given to a plan before"):
        new_plan(data, augment=part)


WRONG: list[dict[str, Any]] = [{"ratio": 2}, {"transform": 5}, {"uniform_epochs": -1}, {"volume": "podz"}]


def test_a_part_is_free_after_a_plan_that_could_not_be_built() -> None:
    part = Counting()
    for wrong in WRONG:
        with pytest.raises(ValueError, match=next(iter(wrong))):
            new_plan(selector=part, **wrong)
    new_plan(selector=part)


@pytest.mark.parametrize("name", ["random", "small_loss", "infobatch"])
def test_a_rule_that_remembers_nothing_may_be_shared(name: str) -> None:
    part = new_plan(selector=name).selector
    plans = [new_plan(selector=part) for _ in range(2)]
    assert all(plan.selector is part for plan in plans)


@pytest.mark.parametrize("shuffles", [False, True])
def test_a_sampler_of_ones_own_may_mix_the_chosen_samples(shuffles: bool) -> None:
    plan = new_plan(Rows(), ratio=0.47)
    for _ in plan.epochs_left():
        order = list(plan.sampler)
        order = torch.tensor(order)[torch.randperm(len(order))].tolist() if shuffles else sorted(order)
        batches = [plan.batch(*raw) for raw in DataLoader(plan.dataset, BATCH, sampler=order)]
        assert len({batch.number for batch in batches}) == len(batches) == 10
        assert sorted(rest(plan, batches)) == sorted(order)
