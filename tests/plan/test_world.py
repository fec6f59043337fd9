"""Which ranks share the steps of a plan, how an epoch becomes whole steps, and what a rank that ends does."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed
from torch.utils.data import DataLoader
from torch.utils.data.distributed import DistributedSampler

from dsenv.plan import DataPlan, IndexedCollate
from dsenv.plan.epoch_schedule import whole_counts
from dsenv.plan.world import World, unique_rows
from tests.plan.ranks import Rows, Run, samples, script_said, train

ROOT = Path(__file__).resolve().parents[2]
needs_ranks = pytest.mark.skipif(not distributed.is_available(), reason="torch without torch.distributed")


def new_plan(**settings: Any) -> DataPlan:
    return DataPlan(
        samples(), **{"epochs": 4, "batch_size": 16, "selector": "infobatch", "ratio": 0.5, **settings}
    )


# Whole steps


@pytest.mark.fast
@pytest.mark.parametrize("wanted", [[50] * 4, [100, 8, 75, 17], [3] * 40, [100] * 4, [16, 32, 48]])
def test_whole_steps_keep_the_sum_as_far_as_the_data_allow(wanted: list[int]) -> None:
    found = whole_counts(wanted, 16, 100)
    assert all(count % 16 == 0 and 16 <= count <= 96 for count in found)
    if max(wanted) < 96 and min(wanted) >= 16:
        sums = torch.tensor(found).cumsum(0) - torch.tensor(wanted).cumsum(0)
        assert int(sums.abs().max()) <= 8
    if wanted == [16, 32, 48]:
        assert list(found) == wanted


@pytest.mark.fast
@pytest.mark.parametrize("settings", [{}, {"volume": "pods"}, {"volume": "linear"}, {"ratio": None}])
def test_accumulation_makes_whole_steps_and_the_mean_ratio_stays(settings: dict[str, Any]) -> None:
    plan = new_plan(accumulate=4, **settings)
    assert plan.batch_size == 16 and plan.micro_batch_size == 4 and plan.world.size == 1
    run = Run(plan)
    train(run.epochs())
    assert run.steps * 16 == plan.cost.trained == sum(len(row.index) for row in run.rows)
    assert all(len(row.index) == 4 for row in run.rows) and plan.progress == 1
    if settings.get("ratio", 0.5):
        assert plan.total_steps == run.steps and abs(plan.cost.trained - 200) <= 8


@pytest.mark.fast
def test_one_batch_a_step_in_one_process_is_as_ever() -> None:
    plan, other = new_plan(), new_plan(accumulate=1, world=None)
    assert plan.epoch_schedule.counts == other.epoch_schedule.counts == (50, 50, 50, 50)
    assert [len(batch.index) for batch in plan.batches()] == [16, 16, 16, 2]
    assert "batches of 16" in repr(plan) and "steps of 4 batches, together of 16" in repr(
        new_plan(accumulate=4)
    )


# Which ranks


@pytest.mark.fast
@pytest.mark.parametrize(
    ("world", "words"),
    [
        ("all", "world must be 'auto'"),
        (2, "got 2"),
        ((2, 2), "rank must be"),
        ((0, 0), "world size"),
        (True, "world"),
    ],
)
def test_a_world_that_is_none_is_refused(world: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        new_plan(world=world)


@pytest.mark.fast
def test_a_told_world_deals_its_batches_without_a_group_until_it_must_talk() -> None:
    plans = [new_plan(world=(rank, 2)) for rank in range(2)]
    parts = [plan.epoch_sampler.record.left().index for plan in plans]
    assert not set(parts[0].tolist()) & set(parts[1].tolist())
    assert torch.equal(torch.cat(parts).sort().values, plans[0].epoch_sampler.chosen.index.sort().values)
    with pytest.raises(ValueError, match=r"no torch\.distributed group has begun"):
        next(plans[0].batches())


@pytest.mark.fast
def test_processes_of_a_launcher_without_a_group_are_noticed(monkeypatch: Any) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    plan = new_plan()  # may be made before the group, and printed
    assert "in epoch 0" in repr(plan)
    with pytest.raises(ValueError, match=r"a launcher started 2 processes .* DataPlan\(world=1\)"):
        next(plan.batches())
    assert len(list(new_plan(world=1).batches())) == 4


@pytest.mark.fast
@needs_ranks
def test_a_group_that_begins_after_the_first_use_is_refused(monkeypatch: Any) -> None:
    early, unused = new_plan(), new_plan()
    assert early.total_steps == 16
    for name, value in {"is_initialized": True, "get_world_size": 2, "get_rank": 1}.items():
        monkeypatch.setattr(distributed, name, lambda *_, value=value: value)
    with pytest.raises(ValueError, match=r"rank 1 of 2 .* began after the plan was used as rank 0 of 1"):
        next(early.batches())
    assert (unused.world.rank, unused.world.size, unused.micro_batch_size) == (1, 2, 8)


@pytest.mark.fast
def test_rows_are_sorted_and_of_equal_ones_the_first_stays() -> None:
    index = torch.tensor([3, 1, 3, 2, 1])
    rows, twice = unique_rows({"index": index, "value": torch.arange(5)}, "index")
    assert rows["index"].tolist() == [1, 2, 3] and rows["value"].tolist() == [1, 3, 0] and twice == 2


@pytest.mark.fast
@pytest.mark.parametrize(("count", "size"), [(10, 3), (7, 7), (3, 2), (1, 4)])
def test_shares_cover_all_and_are_of_one_length(count: int, size: int) -> None:
    shares = [World((rank, size)).share(count) for rank in range(size)]
    assert len({len(share) for share in shares}) == 1
    assert set(torch.cat(shares).tolist()) == set(range(count))


# Samplers


@pytest.mark.fast
def test_the_sampler_is_one_that_frameworks_leave_alone() -> None:
    plan = new_plan(world=(1, 2))
    sampler = plan.sampler
    assert isinstance(sampler, DistributedSampler)
    assert (sampler.num_replicas, sampler.rank, sampler.epoch, sampler.seed) == (2, 1, 0, 0)
    assert (
        len(sampler) == sampler.num_samples == sampler.total_size / 2 == len(plan.new_sampler("global")) / 2
    )
    assert not isinstance(plan.new_sampler("global"), DistributedSampler)


@pytest.mark.fast
@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"shard": "all"}, "no shard called 'all'"),
        ({"resume": "me"}, "no way to resume called 'me'"),
        ({"resume": "framework", "stream": True}, "ignore_data_skip=True"),
    ],
)
def test_settings_of_a_sampler_are_checked(settings: dict[str, Any], words: str) -> None:
    for make in (new_plan().new_sampler, new_plan().loader):
        with pytest.raises(ValueError, match=words):
            make(**settings)


@pytest.mark.fast
def test_a_stream_of_one_process_is_the_epochs_one_after_the_other() -> None:
    def new_run() -> Run:
        return Run(
            DataPlan(Rows(), epochs=4, batch_size=16, selector="infobatch", whole_steps=True, classes=4)
        )

    epochs, stream, ahead = new_run(), new_run(), new_run()
    train(epochs.epochs(epochs.plan.loader()))
    for batch in stream.plan.loader(stream=True):
        stream.take(batch)
    train(ahead.stream(3, 0))
    assert stream.rows == epochs.rows and stream.plan.progress == 1
    assert ahead.plan.progress == 1 and ahead.plan.epochs_trained == 4
    assert int(ahead.plan.signals.times_trained.sum()) == ahead.plan.cost.trained
    with pytest.raises(TypeError, match="has no length"):
        len(stream.plan.new_sampler(stream=True))


@pytest.mark.fast
def test_late_losses_count_for_their_own_epoch() -> None:
    plan = DataPlan(Rows(), epochs=3, batch_size=50, whole_steps=True, classes=4)
    batches = iter(plan.loader(stream=True))
    first, second, third, fourth = (next(batches) for _ in range(4))
    assert [first.epoch, second.epoch, third.epoch] == [0, 0, 1] and plan.epoch == 1
    for batch in (first, second):
        plan.loss(batch, torch.full((50,), 1.0 + batch.number))
    assert plan.epochs_trained == 1 and plan.progress == pytest.approx(1 / 3)
    plan.loss(third, torch.full((50,), 5.0))
    for batch in (fourth, *batches):
        plan.loss(batch, torch.full((50,), 7.0))
    assert bool((plan.signals.times_trained == 3).all()) and bool((plan.signals.last_step == 2).all())


@pytest.mark.fast
def test_an_epoch_whose_last_losses_never_came_is_said_when_later_ones_do() -> None:
    plan = DataPlan(Rows(), epochs=3, batch_size=50, whole_steps=True, classes=4)
    batches = iter(plan.loader(stream=True))
    first, _second, third = (next(batches) for _ in range(3))
    plan.loss(first, torch.ones(50))
    with pytest.warns(UserWarning, match="epoch 0 ended with 50 of its 100 chosen samples not trained on"):
        plan.loss(third, torch.ones(50))


@pytest.mark.fast
def test_a_stream_that_a_loader_cannot_cut_is_refused() -> None:
    plan = new_plan()
    with pytest.raises(ValueError, match="whole_steps=True"):
        iter(plan.new_sampler(stream=True))
    plan = new_plan(whole_steps=True)
    sampler = plan.new_sampler(stream=True)
    loader = DataLoader(
        plan.dataset, 20, sampler=sampler, collate_fn=IndexedCollate(), generator=torch.Generator()
    )
    with pytest.raises(ValueError, match="samples of epochs 0 and 1"):
        for raw in loader:
            plan.batch(*raw, partial=True)


@pytest.mark.fast
def test_a_framework_that_skips_gets_the_epoch_from_its_start() -> None:
    plan = DataPlan(Rows(), epochs=2, batch_size=20, classes=4)
    for batch, _ in zip(plan.loader(), range(2), strict=False):
        plan.loss(batch, torch.ones(20))
    other = DataPlan(Rows(), epochs=2, batch_size=20, classes=4)
    other.load_state_dict(plan.state_dict())
    whole = list(other.new_sampler(resume="framework"))
    assert len(list(other.sampler)) == 60 and whole[40:] == list(other.sampler)
    assert len(whole) == len(other.sampler) == 100
    batches = list(other.loader(resume="framework"))
    with pytest.raises(ValueError, match="was taken in before"):
        other.loss(batches[0], torch.ones(20))
    for batch in batches[2:]:
        other.loss(batch, torch.ones(20))
    assert other.epochs_trained == 1


# A rank that ends

ENDS = """
import os, sys, torch
from pathlib import Path
from tests.plan.ranks import Run, begin_group, samples, train
from dsenv import DataPlan

folder, rank = Path(sys.argv[1]), int(sys.argv[2])
begin_group(folder / "store", rank, 2, 30)
run = Run(DataPlan(samples(), epochs=3, batch_size=20, selector="small_loss", ratio=0.6))
steps = run.epochs()
train(steps, 3)
torch.save(run.state_dict(), folder / f"state{rank}.pt")
if rank == 1:
    os._exit(9)
try:
    train(steps)
    print("went on")
except RuntimeError as error:
    print(error)
os._exit(0)
"""


@needs_ranks
def test_a_rank_that_is_killed_is_said_and_the_run_goes_on_from_its_state(tmp_path: Path) -> None:
    started = [
        subprocess.Popen(
            [sys.executable, "-c", ENDS, str(tmp_path), str(rank)],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        )
        for rank in range(2)
    ]
    said, _ = started[0].communicate(timeout=120)
    assert started[1].wait(timeout=120) == 9
    assert "rank 0 of 2, what was heard until the turn of epoch 0: another rank did not come" in said
    assert "go on from the last saved state" in said

    run = Run(DataPlan(samples(), epochs=3, batch_size=20, selector="small_loss", ratio=0.6, accumulate=2))
    run.load_state_dict(torch.load(tmp_path / "state0.pt", weights_only=True))
    train(run.epochs())
    assert run.plan.progress == 1 and {row.epoch for row in run.rows} == {1, 2}


# The page for users

CHECK = """
one, two = model.module.weight.detach(), sharded.weight.full_tensor().detach()
first = one.clone()
distributed.broadcast(first, 0)
print("equal on all ranks" if torch.equal(first, one) else "differ by rank")
largest = float((one - two).abs().max())
assert largest < 1e-5 and float(one.abs().max()) > 0.1, largest
print("FSDP2 and DDP differ by at most", largest)
distributed.destroy_process_group()
"""


@needs_ranks
def test_the_example_of_the_page_runs_under_torchrun_and_fsdp_is_right(tmp_path: Path) -> None:
    """The first block as a script in two processes; the second one after it, in the same processes."""
    text = (ROOT / "docs" / "frameworks.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)[:2]
    script = tmp_path / "train.py"
    script.write_text("\n".join(blocks) + CHECK, encoding="utf-8")
    for said in script_said(script, ROOT):
        assert "equal on all ranks" in said and "differ by at most" in said
