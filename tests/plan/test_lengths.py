"""Batches of similar lengths, and a budget of tokens, in plans of a language model."""

import copy
import itertools

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from dsenv import DataPlan
from dsenv.plan.lengths import POOL, affordable, batches_by_length
from dsenv.select.base import Selection, Selector
from dsenv.text import Collate, TokenFile, from_logits, token_losses, write_tokens
from tests.waits import stand_in, watching

pytestmark = pytest.mark.fast

N, V, BATCH, EPOCHS = 200, 20, 8, 6
LENGTHS = torch.randint(3, 30, (N,), generator=torch.Generator().manual_seed(0))
KIND = {"name": "language", "vocabulary": V}


class ByLength(Selector):
    """Prefers short samples, or long ones.

    Source: a test.
    """

    def __init__(self, long=False):
        self.long = long

    def select(self, signals, count, generator):
        index = LENGTHS.argsort(descending=self.long, stable=True)[:count]
        return Selection(index, torch.ones(len(index)))


def sample(number):
    tokens = torch.full((int(LENGTHS[number]),), number % V)
    return {"input_ids": tokens, "labels": tokens}


DATA = [sample(number) for number in range(N)]


def new_plan(**settings):
    given = {"epochs": EPOCHS, "batch_size": BATCH, "lengths": LENGTHS, "kind": KIND, "seed": 3, **settings}
    return DataPlan(DATA, **given)


def nothing(_):
    pass


def train_epoch(plan, visit=nothing, loader=None):
    """Losses that any batch has, taken in; what `visit` is told."""
    for batch in loader or plan.loader(collate_fn=Collate(0)):
        tokens = (batch.labels >= 0).sum(1)
        losses = torch.ones(len(tokens), requires_grad=True)
        plan.loss(batch, losses, tokens=tokens)
        visit(batch)


# Batches


def test_batches_hold_similar_lengths_in_random_order():
    lengths = torch.randint(1, 1000, (POOL * BATCH * 3 + 37,), generator=torch.Generator().manual_seed(1))
    order = batches_by_length(lengths, BATCH, torch.Generator().manual_seed(2))
    assert order.sort().values.equal(torch.arange(len(lengths)))
    whole = len(lengths) // BATCH * BATCH
    batches = lengths[order[:whole]].view(-1, BATCH).float()
    usual = lengths[:whole].view(-1, BATCH).float()
    assert (batches.amax(1) - batches.amin(1)).mean() < 0.1 * (usual.amax(1) - usual.amin(1)).mean()
    assert order[whole:].equal(torch.arange(whole, len(lengths)))  # the rest, of any length
    means = batches.mean(1)  # in random order: neighbours are not alike
    assert abs(float(np.corrcoef(means[:-1], means[1:])[0, 1])) < 0.25

    pools = order[:whole].view(-1, BATCH) // (POOL * BATCH)
    assert bool((pools == pools[:, :1]).all())  # sorted in pools, so batches are mixed anew each time
    again = batches_by_length(lengths, BATCH, torch.Generator().manual_seed(2))
    assert order.equal(again)


def test_fewer_samples_than_a_batch_stay_as_they_are():
    order = batches_by_length(torch.tensor([5, 2, 9]), BATCH, torch.Generator())
    assert order.tolist() == [0, 1, 2]


@pytest.mark.parametrize("workers", [0, 2])
def test_who_is_who_and_every_chosen_sample_comes_once(workers):
    plan = new_plan(selector="random", ratio=0.5)
    loader = plan.loader(collate_fn=Collate(0), num_workers=workers)
    for _ in plan.epochs_left():
        if plan.epoch == 2:
            break
        chosen = plan.epoch_sampler.chosen.index.sort().values
        seen, spread = [], []

        def visit(batch, seen=seen, spread=spread):
            lengths = batch.inputs["attention_mask"].sum(1)
            assert lengths.equal(LENGTHS[batch.index])
            assert batch.inputs["input_ids"][:, 0].equal(batch.index % V)
            seen.append(batch.index)
            spread.append(int(lengths.max() - lengths.min()))

        train_epoch(plan, visit, loader)
        assert torch.cat(seen).sort().values.equal(chosen)
        assert sorted(spread)[len(spread) // 2] <= 4


@pytest.mark.parametrize("settings", [{"ratio": 0.5}, {"ratio": 0.5, "ratio_of": "tokens"}])
def test_a_run_that_stops_in_an_epoch_goes_on_bit_for_bit(settings):
    whole, stopped = [], []
    plan = new_plan(**settings)
    for _ in plan.epochs_left():
        train_epoch(plan, lambda batch: whole.append(batch.index.tolist()))

    first = new_plan(**settings)
    batches = (batch for _ in first.epochs_left() for batch in first.loader(collate_fn=Collate(0)))
    for batch in itertools.islice(batches, len(whole) // 3):
        first.loss(batch, torch.ones(len(batch.index)), tokens=(batch.labels >= 0).sum(1))
        stopped.append(batch.index.tolist())
    state = copy.deepcopy(first.state_dict())

    resumed = new_plan(**settings)
    resumed.load_state_dict(state)
    assert resumed.cost.tokens == first.cost.tokens > 0
    for _ in resumed.epochs_left():
        train_epoch(resumed, lambda batch: stopped.append(batch.index.tolist()))
    assert stopped == whole
    assert resumed.cost.tokens == plan.cost.tokens


# A budget of tokens


@pytest.mark.parametrize("volume", [None, {"name": "linear", "swing": 0.3}])
@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("choice", ["short", "long", "random"])
def test_the_budget_is_kept_and_nearly_all_of_it_is_spent(choice, drop_last, volume):
    selector = "random" if choice == "random" else ByLength(long=choice == "long")
    plan = new_plan(selector=selector, ratio=0.4, ratio_of="tokens", drop_last=drop_last, volume=volume)
    shares = plan.epoch_schedule.shares
    total = int(LENGTHS.sum())
    spent, counts = 0, []
    for epoch in plan.epochs_left():
        counts.append(plan.epoch_sampler.end)
        chosen = plan.epoch_sampler.chosen.index
        train_epoch(plan)
        spent = plan.cost.tokens
        assert spent <= sum(shares[: epoch + 1]) * total / N  # at no time more than was allowed
        assert spent == plan.epoch_sampler.lengths.spent  # what was dropped is left to later epochs
    if choice != "random":  # few of those that it prefers were left out to keep the budget
        own = set(LENGTHS.argsort(descending=choice == "long", stable=True)[: len(chosen)].tolist())
        assert len(own & set(chosen.tolist())) > 0.95 * len(chosen)

    # The first epoch does not know yet how long the chosen ones are, and later ones make up for it
    budget = 0.4 * total * EPOCHS
    slack = 30 * (BATCH + 1)  # a batch that was dropped, and a sample that did not fit
    assert budget - slack - 0.03 * budget < spent <= budget
    mean = sum(counts) / EPOCHS / N
    assert (
        (mean > 0.5) if choice == "short" else (mean < 0.35) if choice == "long" else abs(mean - 0.4) < 0.03
    )


def test_how_many_samples_tokens_pay_for():
    lengths = np.arange(1, 101)  # a selector that takes the shortest first pays n (n + 1) / 2 for n of them
    for chosen, allowed in ((20, 1275), (80, 1275), (50, 210), (99, 5050), (100, 5049)):
        found = affordable(allowed, 100, int(lengths.sum()), chosen, int(lengths[:chosen].sum()))
        wanted = int((lengths.cumsum() <= allowed).sum())
        assert found == wanted
    assert affordable(5, 10, 100, 10, 100) == 0 and affordable(10**9, 10, 100, 3, 90) == 10
    assert affordable(50, 10, 100, 5, 50) == 5


@pytest.mark.parametrize("kind", [np.uint16, ">i4", np.int64])
def test_lengths_of_any_whole_type_are_taken(kind):
    plan = new_plan(lengths=LENGTHS.numpy().astype(kind))
    assert plan.epoch_sampler.chosen.index.equal(new_plan().epoch_sampler.chosen.index)


def test_samples_alone_would_miss_it():
    for long in (False, True):
        plan = new_plan(selector=ByLength(long), ratio=0.4)
        for _ in plan.epochs_left():
            train_epoch(plan)
        share = plan.cost.tokens / (int(LENGTHS.sum()) * EPOCHS)
        assert share < 0.25 if not long else share > 0.55


def test_progress_and_rate_end_where_they_should():
    plan = new_plan(selector=ByLength(), ratio=0.5, ratio_of="tokens")
    optimizer = torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=1.0)
    rate = plan.lr_scheduler(optimizer, lambda progress: 1 - progress)
    with pytest.raises(ValueError, match="the ratio is one of tokens"):
        _ = plan.total_steps
    before = []

    def step(_):
        before.append(plan.progress)
        optimizer.step()
        rate.step()

    for _ in plan.epochs_left():
        train_epoch(plan, step)
    assert before == sorted(before) and before[0] > 0 and before[-1] == pytest.approx(1)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0, abs=1e-12)
    assert before[len(before) // 2] == pytest.approx(0.5, abs=0.15)
    assert "tokens" in repr(plan)


def test_all_tokens_are_all_samples():
    plan = new_plan(ratio_of="tokens", ratio=1.0)
    for _ in plan.epochs_left():
        train_epoch(plan)
    assert plan.cost.trained == N * EPOCHS and plan.cost.tokens == int(LENGTHS.sum()) * EPOCHS


def test_the_data_set_may_say_the_lengths(tmp_path):
    data = write_tokens(tmp_path / "a", ((each["input_ids"], 1) for each in DATA), vocabulary=V)
    plan = DataPlan(data, epochs=2, batch_size=8, ratio=0.5, ratio_of="tokens", kind=KIND)
    for _ in plan.epochs_left():
        for batch in plan.loader(collate_fn=Collate(0), num_workers=1):
            assert batch.inputs["attention_mask"].sum(1).equal(LENGTHS[batch.index])
            plan.loss(batch, torch.ones(len(batch.index)))
    assert 0.93 * data.lengths.sum() < plan.cost.tokens <= data.lengths.sum()
    assert isinstance(data, TokenFile)


# The loss


def test_a_loss_by_tokens_is_that_of_the_whole_batch():
    plan = new_plan(selector="infobatch", ratio=0.5)
    head = nn.Linear(4, V)
    for _ in plan.epochs_left():
        batch = next(iter(plan.loader(collate_fn=Collate(0))))
        hidden = torch.randn(*batch.labels.shape, 4)
        found = token_losses(hidden, head.weight, batch.labels)
        weight = batch.weight
        wanted = (found.sums * weight).sum() / found.tokens.sum()
        again = plan.weighted(batch, found.loss, tokens=found.tokens)
        loss = plan.loss(batch, found.loss, signals=found.signals, tokens=found.tokens)
        torch.testing.assert_close(loss, wanted)
        torch.testing.assert_close(again, wanted)
        loss.backward()
        break
    assert plan.cost.tokens == int(LENGTHS[batch.index].sum())


def test_tokens_are_counted_without_lengths():
    plan = new_plan(lengths=None)
    batch = next(iter(plan.loader(collate_fn=Collate(0))))
    tokens = (batch.labels[:, 1:] >= 0).sum(1)
    plan.weighted(batch, torch.ones(len(tokens)), tokens=tokens)  # takes nothing in
    assert plan.cost.tokens == 0
    plan.observe(batch, torch.ones(len(tokens)), tokens=tokens)
    assert plan.cost.tokens == int(tokens.sum()) and f"tokens={int(tokens.sum())}" in repr(plan.cost)
    assert plan.metrics()["cost/tokens seen"] == int(tokens.sum())


def test_rows_without_padding_go_through_a_plan():
    plan = new_plan(ratio=0.5)
    head = nn.Linear(4, V)
    for batch in plan.loader(collate_fn=Collate(flat=True)):
        hidden = nn.functional.one_hot(batch.inputs["position_ids"] % 4, 4).float()
        found = token_losses(hidden, head.weight, batch.labels, lengths=batch.inputs["lengths"])
        assert (found.tokens + 1).equal(LENGTHS[batch.index])
        plan.loss(batch, found.loss, signals=found.signals, tokens=found.tokens)
    assert plan.cost.trained == N // 2


# Bad input


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"lengths": LENGTHS[:-1]}, "(200,), the tokens of each sample"),
        ({"lengths": LENGTHS.float()}, "whole numbers"),
        ({"lengths": "long"}, "whole numbers"),
        ({"lengths": LENGTHS.to_sparse()}, "whole numbers"),
        ({"lengths": LENGTHS > 5}, "whole numbers"),
        ({"lengths": np.ma.masked_less(LENGTHS.numpy(), 5)}, "whole numbers"),
        ({"lengths": np.full(N, 2**63, np.uint64)}, "got 9223372036854775808 at position 0"),
        ({"lengths": LENGTHS.clone().index_fill(0, torch.tensor([7]), 0)}, "got 0 at position 7"),
        ({"ratio_of": "words", "ratio": 0.5}, "no ratio_of called 'words'"),
        ({"ratio_of": "tokens", "lengths": None, "ratio": 0.5}, "lengths=(N,)"),
        ({"ratio_of": "tokens", "selector": "infobatch"}, "needs ratio=..."),
        ({"ratio_of": "tokens", "ratio": 0.005}, "raise the ratio"),
        ({"ratio_of": "tokens", "ratio": 0.02, "drop_last": True}, "a batch of the 8 longest samples"),
        ({"ratio_of": "tokens", "policy": "curriculum"}, "counts samples"),
        ({"ratio_of": "tokens", "ratio": 0.5, "selector": "small_loss", "guard": True}, "counts samples"),
    ],
)
def test_bad_settings_are_named(settings, words):
    with pytest.raises(ValueError) as error:
        new_plan(**settings)
    assert words in str(error.value)


@pytest.mark.parametrize(
    ("losses", "tokens", "words"),
    [
        (torch.ones(BATCH, 12), None, "tokens="),
        (torch.ones(BATCH), torch.ones(BATCH + 1), f"tokens must be numbers of shape ({BATCH},)"),
        (torch.ones(BATCH), torch.ones(BATCH, dtype=torch.bool), "tokens must be numbers"),
        (torch.ones(BATCH), 5, "tokens must be numbers"),
        (torch.ones(BATCH), torch.zeros(BATCH, dtype=torch.int64), "at least 1"),
    ],
)
def test_bad_losses_and_tokens_are_named(losses, tokens, words):
    plan = new_plan()
    batch = next(iter(plan.loader(collate_fn=Collate(0))))
    with pytest.raises(ValueError) as error:
        plan.loss(batch, losses, tokens=tokens)
    assert words in str(error.value)
    assert plan.cost.trained == 0


def test_a_state_of_other_lengths_is_refused():
    state = new_plan(ratio=0.5, ratio_of="tokens").state_dict()
    with pytest.raises(ValueError, match="lengths"):
        new_plan(ratio=0.5, ratio_of="tokens", lengths=LENGTHS.flip(0)).load_state_dict(state)
    with pytest.raises(ValueError, match="the state is of a plan with"):
        new_plan(ratio=0.5).load_state_dict(state)
    state["epoch_sampler"]["lengths"]["spent"] = -5
    with pytest.raises(ValueError, match="spent"):
        new_plan(ratio=0.5, ratio_of="tokens").load_state_dict(state)


@pytest.mark.parametrize("ratio_of", ["samples", "tokens"])
def test_no_step_waits_for_a_device(ratio_of):
    with stand_in() as device:
        tokens = (torch.arange(40)[:, None] % V).repeat(1, 6).to(device)
        model = nn.Embedding(V, V).to(device)
        lengths = 3 + torch.arange(40) % 4
        settings = {"lengths": lengths, "ratio": 0.5, "ratio_of": ratio_of, "kind": KIND}
        plan = DataPlan((tokens, tokens), epochs=2, batch_size=8, selector="infobatch", **settings)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for _ in plan.epochs_left():
            batches = plan.batches()
            for _ in range(plan.steps_in_epoch()):
                with watching("making a batch"):
                    batch = next(batches)
                with watching("a step"):
                    found = from_logits(model(batch.inputs), batch.labels)
                    loss = plan.loss(batch, found.loss, signals=found.signals, tokens=found.tokens)
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
                    _ = plan.progress
        budget = int(lengths.sum())
        assert plan.cost.tokens <= budget if ratio_of == "tokens" else plan.cost.trained == 40
        assert plan.cost.tokens > 0.7 * budget


def test_lengths_may_be_an_attribute_of_tensors_too():
    rows = torch.randint(V, (N, 30))
    data = TensorDataset(rows, rows)
    settings = {"epochs": EPOCHS, "batch_size": BATCH, "kind": KIND, "ratio": 0.5, "ratio_of": "tokens"}
    with pytest.raises(ValueError, match="needs the tokens of each sample"):
        DataPlan(data, **settings)

    data.lengths = LENGTHS
    plan = DataPlan(data, **settings)
    assert int(LENGTHS[plan.epoch_sampler.chosen.index].sum()) <= LENGTHS.sum() // 2
