"""A plan keeps its budget, feeds every method, and leaves the rest of the program alone."""

import itertools
import random
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from dsenv.augment import CONTROLLERS
from dsenv.outputs import ModelOutputs
from dsenv.plan import DataPlan
from dsenv.plan.epoch_buffer import EpochBuffer
from dsenv.plan.epoch_schedule import EpochSchedule
from dsenv.plan.forward import full_pass
from dsenv.plan.signals import PlanSignals
from dsenv.plan.source import READ, open_source
from dsenv.plan.values import ValueRecord
from dsenv.select.base import Selection, Selector
from dsenv.select.infobatch import InfoBatch
from dsenv.select.registry import SELECTORS
from dsenv.volume.base import VolumeSchedule, counts
from dsenv.volume.pods import Pods
from dsenv.volume.registry import SCHEDULES
from tests.plan.loops import (
    CHOICES,
    HELD_OUT,
    HIDDEN,
    TRAIN,
    Digits,
    Loop,
    new_plan,
    same_batches,
    scale,
)

SIZE = len(TRAIN[1])


# Selector and schedule meet in the number of samples alone: each selector once, under the next schedule.
DIAGONAL = list(zip(SELECTORS, itertools.cycle(SCHEDULES)))  # stops with the selectors


@pytest.mark.fast
@pytest.mark.parametrize(("selector", "volume"), DIAGONAL)
def test_every_selector_runs_and_every_schedule(selector: str, volume: str) -> None:
    choice = {"name": "pods", "warmup": 0} if volume == "pods" else volume
    plan = new_plan(selector=CHOICES[selector], volume=choice, ratio=0.5)
    loop = Loop(plan).run()
    paid = SIZE / 3 if plan.selector.needs_pass else 0
    assert plan.cost.trained == sum(plan.epoch_schedule.counts) == round(0.5 * SIZE * 2 - paid)
    assert plan.cost.extra_forwards == (SIZE + len(HELD_OUT[1]) if plan.selector.needs_pass else 0)
    assert len(loop.batches) == plan.total_steps
    assert plan.epoch == 2 and plan.progress == 1
    assert int(plan.signals.times_trained.sum()) == plan.cost.trained


@pytest.mark.fast
@pytest.mark.parametrize("augment", CONTROLLERS)
def test_every_controller_runs(augment: str) -> None:
    choice = {"name": augment, "features": HIDDEN} if augment == "ada_augment" else augment
    plan = new_plan(augment=choice, ratio=0.3)
    loop = Loop(plan).run()
    assert plan.cost.trained == round(0.3 * SIZE * 2)
    assert plan.cost.extra_forwards == (2 * plan.cost.trained if augment == "ada_augment" else 0)
    changed = any(not torch.equal(batch.inputs, scale(TRAIN[0][batch.index])) for batch in loop.batches)
    assert changed == (augment not in ("none", "given"))  # nobody gives "given" a strength here


# Pairs of: batches that divide the epoch or do not; resident tensors or a data set; a last batch kept or not.
@pytest.mark.fast
@pytest.mark.parametrize(
    ("resident", "batch_size", "drop_last"),
    [(True, 50, False), (False, 50, True), (True, 64, True), (False, 64, False), (False, 64, True)],
)
def test_an_epoch_ends_and_is_counted(resident: bool, batch_size: int, drop_last: bool) -> None:
    plan = DataPlan(
        TRAIN if resident else Digits(), epochs=3, batch_size=batch_size, ratio=0.35, drop_last=drop_last
    )
    loader = plan.loader()
    for epoch in plan.epochs_left():
        count = plan.epoch_schedule.counts[epoch]
        steps = count // batch_size if drop_last else -(-count // batch_size)
        assert plan.steps_in_epoch() == plan.steps_in_epoch(epoch) == len(loader) == steps
        batches = list(
            itertools.islice(loader, 1000) if epoch % 2 else itertools.islice(plan.batches(), 1000)
        )
        assert len(batches) == steps
        assert [len(batch.index) for batch in batches[:-1]] == [batch_size] * (steps - 1)
        assert sum(len(batch.index) for batch in batches) == plan.epoch_schedule.trained(count)
        for batch in batches:
            plan.loss(batch, torch.ones(len(batch.index)))
    assert plan.total_steps == sum(plan.steps_in_epoch(epoch) for epoch in range(3))
    assert plan.cost.trained == plan.epoch_schedule.total_samples
    assert plan.progress == 1


@pytest.mark.fast
def test_samples_stay_with_their_labels_and_weights() -> None:
    plan = new_plan(selector="infobatch", ratio=0.5)
    loop = Loop(plan)
    seen: dict[int, list[int]] = {0: [], 1: []}
    for epoch in loop.steps():
        batch = loop.batches[-1]
        assert torch.equal(batch.labels, TRAIN[1][batch.index])
        assert torch.equal(batch.inputs, scale(TRAIN[0][batch.index]))
        assert torch.equal(plan.epoch_sampler.record.look_up(batch.index)[0], batch.weight)
        seen[epoch] += batch.index.tolist()
    assert all(len(set(indices)) == len(indices) == SIZE // 2 for indices in seen.values())
    assert seen[0] != sorted(seen[0])


@pytest.mark.fast
def test_loss_is_the_mean_of_weighted_losses() -> None:
    plan = new_plan(selector="infobatch", ratio=0.5)
    next(plan.epochs_left())
    batch = next(iter(plan.batches()))
    losses = torch.rand(len(batch.index))
    torch.testing.assert_close(plan.loss(batch, losses), (losses * batch.weight).mean())
    assert plan.cost.compute == len(losses)


@pytest.mark.fast
def test_signals_are_those_of_the_epochs_forwards() -> None:
    plan = new_plan(epochs=1)
    logits = torch.randn(SIZE, 10, generator=torch.Generator().manual_seed(0))
    losses = F.cross_entropy(logits, TRAIN[1], reduction="none")
    for _ in plan.epochs_left():
        for batch in plan.batches():
            plan.loss(batch, losses[batch.index], logits=logits[batch.index])
    torch.testing.assert_close(plan.signals.loss, losses)
    torch.testing.assert_close(plan.signals.confidence, (-losses).exp())
    ranked = plan.signals.loss[plan.signals.loss_rank.argsort()]  # over the epoch, not the batch
    assert bool((ranked.diff() >= 0).all())
    assert bool((plan.signals.times_trained == 1).all())


def test_signals_without_logits_keep_the_loss_alone() -> None:
    plan = new_plan(epochs=1)
    for _ in plan.epochs_left():
        for batch in plan.batches():
            plan.loss(batch, torch.full((len(batch.index),), 0.5))
    assert bool((plan.signals.loss == 0.5).all()) and bool(plan.signals.seen.all())
    with pytest.raises(ValueError, match=r"signal 'entropy' needs .*logits=logits"):
        _ = plan.signals.entropy


def test_pods_with_equal_levels_is_the_constant_schedule_bit_for_bit() -> None:
    off = {"name": "pods", "low": 0.4, "high": 0.4}
    one = Loop(new_plan(epochs=3, selector="infobatch", ratio=0.4, volume=off)).run()
    other = Loop(new_plan(epochs=3, selector="infobatch", ratio=0.4)).run()
    assert same_batches(one.batches, other.batches)


@pytest.mark.fast
def test_the_warm_up_is_paid_from_the_budget() -> None:
    plan = new_plan(epochs=6, ratio=0.5, volume="pods")
    assert plan.epoch_schedule.counts[0] == SIZE and sum(plan.epoch_schedule.counts) == 3 * SIZE
    assert plan.epoch_schedule.counts == tuple(counts(Pods(0.5), SIZE, 6))


def test_a_static_selector_needs_no_pass_for_an_epoch_on_all_data() -> None:
    plan = new_plan(epochs=6, selector="moderate", volume="pods", ratio=0.6)
    loop = Loop(plan)
    for epoch in plan.epochs_left():
        if epoch == 1:
            plan.score(loop.forward)
        for batch in plan.batches():
            loop.step(batch)
    assert plan.cost.trained + plan.cost.extra_forwards / 3 == pytest.approx(0.6 * 6 * SIZE, abs=1)


@pytest.mark.fast
def test_infobatch_sets_its_own_count() -> None:
    plan = new_plan(epochs=8, selector={"name": "infobatch", "keep": 0.5})
    used = []
    loop = Loop(plan)
    for epoch in plan.epochs_left():
        expected = InfoBatch(keep=0.5).own_count(plan.signals) if epoch < 7 else SIZE
        steps = plan.steps_in_epoch()
        batches = list(plan.batches())
        assert len(batches) == steps
        for batch in batches:
            loop.step(batch)
        used.append(sum(len(batch.index) for batch in batches))
        assert used[-1] == expected
        assert plan.progress == pytest.approx((epoch + 1) / 8)
    assert used[0] == used[7] == SIZE and max(used[1:7]) < SIZE
    assert loop.scheduler.get_last_lr()[0] == pytest.approx(0, abs=1e-9)
    with pytest.raises(ValueError, match=r"total is not known; give ratio="):
        _ = plan.total_steps


def test_uniform_epochs_precede_the_selector() -> None:
    plan = new_plan(epochs=3, selector="moderate", ratio=0.5, uniform_epochs=1, scoring_passes=0)
    loop = Loop(plan)
    for epoch in plan.epochs_left():
        if epoch == 1:
            plan.score(loop.forward)
        for batch in plan.batches():
            loop.step(batch)
    assert plan.cost.trained == round(1.5 * SIZE) and plan.cost.extra_forwards == SIZE


@pytest.mark.parametrize("volume", ["constant", "pods", "linear"])
def test_the_learning_rate_ends_with_the_plan(volume: str) -> None:
    plan = new_plan(epochs=6, ratio=0.5, volume=volume)
    loop = Loop(plan)
    rates = [loop.scheduler.get_last_lr()[0] for _ in loop.steps()]
    assert len(rates) == plan.total_steps
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] == pytest.approx(0, abs=1e-9) and rates[-2] > 0


def test_a_scheduler_of_another_length_is_warned_about() -> None:
    plan = new_plan(epochs=6, ratio=0.5, volume="pods")
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], 0.1)
    one_cycle = torch.optim.lr_scheduler.OneCycleLR
    full = 6 * (SIZE // 64)
    with pytest.warns(UserWarning, match=rf"made for {full} steps, the plan has {plan.total_steps} steps"):
        plan.check_scheduler(one_cycle(optimizer, 0.1, total_steps=full))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plan.check_scheduler(one_cycle(optimizer, 0.1, total_steps=plan.total_steps))
        plan.check_scheduler(torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=6))


def test_one_seed_one_run_and_another_seed_another() -> None:
    runs = [
        Loop(new_plan(selector="data_agent", ratio=0.5, augment="trivial", seed=seed)).run()
        for seed in (3, 3, 4)
    ]
    assert same_batches(runs[0].batches, runs[1].batches)
    assert not same_batches(runs[0].batches, runs[2].batches)


def test_every_batch_has_a_random_stream_of_its_own() -> None:
    epoch_sampler = new_plan(epochs=3).epoch_sampler
    seeds = []
    for _ in range(3):
        seeds += [
            epoch_sampler.seed_for(stream, number) for stream in ("augment", "views") for number in range(9)
        ]
        epoch_sampler.finish()
    assert len(set(seeds)) == len(seeds)
    assert new_plan(epochs=3, seed=1).epoch_sampler.seed_for("augment") not in seeds


@pytest.mark.fast
def test_a_timetable_counts_steps_and_progress() -> None:
    known = EpochSchedule(100, 2, 8, False, (40, 60))
    assert [known.steps_in(epoch) for epoch in range(2)] == [5, 8] and known.total_steps == 13
    assert known.most_steps == 13 and known.total_samples == 100
    places = ((0, 0, 40), (0, 10, 40), (1, 30, 60), (2, 0, 1))
    assert [known.progress(*at) for at in places] == [0, 0.1, 0.7, 1]
    cut = EpochSchedule(100, 2, 8, True, (44, 60))
    assert (cut.trained(44), cut.trained(60), cut.total_samples, cut.total_steps) == (40, 56, 96, 12)
    assert cut.progress(1, 28, 60) == pytest.approx((40 + 28) / 96)
    open_ended = EpochSchedule(100, 4, 8, False, None)  # the selector sets the counts
    assert open_ended.most_steps == 4 * 13 and open_ended.progress(1, 10, 40) == (1 + 0.25) / 4
    decided = EpochSchedule(100, 4, 8, False, None, total=200)  # a policy does
    assert decided.total_samples == 200 and decided.progress(2, 15, 60, before=110) == (110 + 15) / 200
    for epoch in (-1, 2):
        with pytest.raises(ValueError, match=f"the epochs 0 to 1, got {epoch}"):
            known.steps_in(epoch)
    with pytest.raises(ValueError, match="must be at least 1, got 100, 0 and 8"):
        EpochSchedule(100, 0, 8, False, ())


@pytest.mark.parametrize("workers", [0, 2])
def test_global_streams_and_torch_stay_as_they_were(workers: int) -> None:
    def state() -> list[Any]:
        numbers = np.random.get_state()  # noqa: NPY002
        return [torch.random.get_rng_state().tolist(), numbers[1].tolist(), numbers[2], random.getstate()]

    def patched() -> dict[str, Any]:
        return {**vars(DataLoader), **vars(torch.utils.data.dataloader._BaseDataLoaderIter)}

    before, code = state(), patched()
    plan = DataPlan(
        Digits(), epochs=2, batch_size=64, selector="moderate", ratio=0.5, augment="sada", transform=scale
    )
    Loop(plan, plan.loader(num_workers=workers)).run()
    if not workers:
        features = {"name": "ada_augment", "features": HIDDEN}
        Loop(new_plan(selector="data_agent", ratio=0.5, augment=features)).run()
    assert state() == before
    assert patched() == code


def test_a_learning_loop_learns() -> None:
    for settings in (
        {"selector": "infobatch"},
        {"selector": "small_loss", "ratio": 0.7, "volume": "linear", "augment": "ent_augment"},
    ):
        loop = Loop(new_plan(epochs=12, **settings), lr=0.1).run()
        assert loop.accuracy() > 0.85, settings  # 0.90 or more with both of 2 seeds


def test_parts_may_be_objects_and_data_a_tensor_dataset() -> None:
    class FirstOnes(Selector):
        def select(self, signals: Any, count: int, generator: torch.Generator) -> Selection:
            del signals, generator
            return Selection(torch.arange(count), torch.full((count,), 2.0))

    class Falling(VolumeSchedule):
        def _ratio(self, step: int, total: int) -> float:
            return 2 * self.target * (1 - (step + 0.5) / total)

    plan = DataPlan(TensorDataset(*TRAIN), epochs=4, batch_size=64, selector=FirstOnes(), volume=Falling(0.5))
    assert plan.epoch_schedule.counts == (875, 625, 375, 125)
    batch = next(iter(plan.batches()))
    assert int(batch.index.max()) < 875 and bool((batch.weight == 2).all())


@pytest.mark.fast
def test_regression_and_samples_without_labels() -> None:
    targets = torch.rand(200)
    plan = DataPlan((torch.rand(200, 3), targets), epochs=2, batch_size=20, selector="small_loss", ratio=0.5)
    for _ in plan.epochs_left():
        for batch in plan.batches():
            assert torch.equal(batch.labels, targets[batch.index])
            plan.loss(batch, batch.labels.square())
    bare = DataPlan([torch.rand(3) for _ in range(40)], epochs=1, batch_size=10)
    batch = next(iter(bare.batches()))
    assert batch.labels is None and batch.inputs.shape == (10, 3)
    tokens = [{"ids": torch.full((2,), i), "labels": i % 2} for i in range(40)]
    batch = next(iter(DataPlan(tokens, epochs=1, batch_size=10).batches()))
    assert torch.equal(batch.inputs["ids"][:, 0], batch.index) and torch.equal(batch.labels, batch.index % 2)


@pytest.mark.fast
def test_losses_without_logits_take_no_room_for_logits_of_a_whole_epoch(monkeypatch: Any) -> None:
    monkeypatch.setattr("dsenv.plan.epoch_buffer.FLUSH_ELEMENTS", 30)
    signals, inbox = PlanSignals(64, classes=100), EpochBuffer()
    record = ValueRecord(64, signals.device)
    for first in range(0, 64, 8):
        index = torch.arange(first, first + 8)
        inbox.add(ModelOutputs(index, index, torch.rand(8)))
        if inbox.is_full:
            inbox.flush(signals, 0, record)
        assert sum(len(part["index"]) for part in inbox.state_dict()["parts"]) <= 32
    assert int(signals.seen.sum()) >= 32


def test_a_list_of_two_tensors_is_a_pair() -> None:
    assert len(DataPlan(list(TRAIN), epochs=2, batch_size=64).dataset) == SIZE


@pytest.mark.fast
def test_a_pass_keeps_no_more_than_it_hands_on() -> None:
    sizes = []

    def sample_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        sizes.append(len(labels))
        return F.cross_entropy(logits, labels, reduction="none")

    inputs, labels = torch.rand(READ + 5, 3), torch.randint(3, (READ + 5,))
    source = open_source((inputs, labels), None)
    found = full_pass(lambda batch: batch, source.batches(), len(labels), sample_loss)
    assert sizes == [READ, 5]
    torch.testing.assert_close(found.loss, F.cross_entropy(inputs, labels, reduction="none"))  # in two parts
    assert torch.equal(found.logits, inputs) and torch.equal(found.index, torch.arange(READ + 5))


def test_a_pass_puts_each_output_at_its_place_and_holds_it_once() -> None:
    order = torch.randperm(9, generator=torch.Generator().manual_seed(0))
    inputs, labels = torch.rand(9, 4), torch.arange(9) % 4
    batches = [(part, inputs[part], labels[part]) for part in order.split(4)]
    found = full_pass(lambda batch: (batch, 2 * batch[:, :3]), batches, 9)
    assert torch.equal(found.logits, inputs) and torch.equal(found.features, 2 * inputs[:, :3])
    assert torch.equal(found.labels, labels) and found.readings is None

    with pytest.raises(ValueError, match="sample 3 came 0 times, 1 such in all"):
        full_pass(
            lambda batch: batch,
            [(p[p != 3], inputs[p[p != 3]], labels[p[p != 3]]) for p in order.split(9)],
            9,
        )
    with pytest.raises(ValueError, match="features of a pass over the data had shape"):
        full_pass(lambda batch: (batch, batch[:, : len(batch)]), batches, 9)  # one column in the last batch


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_pass_takes_the_memory_of_its_outputs_once() -> None:
    rows, classes = 40_000, 200  # 32 MB of logits

    def resident(field: str) -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return 1024 * int(next(line for line in lines if line.startswith(field)).split()[1])

    labels = torch.arange(rows) % classes
    batches = ((part, part, labels[part]) for part in torch.arange(rows).split(500))
    try:
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    except OSError:
        pytest.skip("the peak of this process cannot be set back")
    before = resident("VmRSS")
    found = full_pass(lambda batch: torch.ones(len(batch), classes), batches, rows)
    assert found.logits is not None
    assert resident("VmHWM") - before < 1.7 * found.logits.nbytes
