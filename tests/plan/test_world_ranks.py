"""Two ranks of one training run: they share the samples, learn the same, and resume bit for bit."""

from typing import Any

import pytest
import torch
from torch import distributed

from dsenv import DataPlan
from tests.plan import rank_cases
from tests.plan.rank_cases import RUNS, USUAL, new_run, rows_of, through
from tests.plan.ranks import launch, samples

pytestmark = pytest.mark.skipif(not distributed.is_available(), reason="torch without torch.distributed")


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: Any) -> list[dict[str, Any]]:
    """What both ranks return; one launch for all cases, because a launch takes seconds."""
    return launch(rank_cases.all_runs, tmp_path_factory.mktemp("ranks"))


def same(one: Any, other: Any) -> bool:
    """Whether two states are equal, bit for bit."""
    if isinstance(one, torch.Tensor):
        is_alike = isinstance(other, torch.Tensor) and one.shape == other.shape and one.dtype == other.dtype
        return is_alike and bool(((one == other) | ((one != one) & (other != other))).all())
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


@pytest.fixture(scope="module")
def alone() -> dict[str, Any]:
    """The same runs in one process, with the batches of both ranks one after the other."""
    found = {}
    for name, (settings, _) in RUNS.items():
        found[name] = through(new_run(name, accumulate=2 * settings.get("accumulate", 1)), name)
    return found


@pytest.mark.parametrize("name", RUNS)
def test_ranks_are_disjoint_and_together_train_what_was_planned(name: str, ranks: Any, alone: Any) -> None:
    one, two = (each[name] for each in ranks)
    plan = new_run(name, accumulate=2 * RUNS[name][0].get("accumulate", 1)).plan
    for epoch in range(plan.epochs):
        first, second, expected = rows_of(one, epoch), rows_of(two, epoch), rows_of(alone[name], epoch)
        assert len(first) == len(second) and not set(first) & set(second)
        assert sorted(first + second) == sorted(set(expected))
        if plan.epoch_schedule.counts:
            assert len(first + second) == plan.epoch_schedule.counts[epoch]

    # Each row with its weight, and every rank in the order of its numbers
    weights = {
        (row.epoch, i): w for row in alone[name]["rows"] for i, w in zip(row.index, row.weight, strict=True)
    }
    for rank, found in enumerate((one, two)):
        assert all(row.number % 2 == rank for row in found["rows"])
        for row in found["rows"]:
            assert row.weight == pytest.approx([weights[row.epoch, i] for i in row.index], rel=1e-6)


@pytest.mark.parametrize("name", RUNS)
def test_ranks_learn_the_same_as_one_process(name: str, ranks: Any, alone: Any) -> None:
    one, two = (each[name] for each in ranks)
    assert torch.equal(one["parameters"], two["parameters"])
    assert same(one["signals"], two["signals"])
    assert one["progress"] == two["progress"] == 1 and one["trained"] == two["trained"]
    assert one["steps"] == alone[name]["steps"] and one["trained"] == alone[name]["trained"]

    torch.testing.assert_close(one["parameters"], alone[name]["parameters"], rtol=0, atol=1e-5)
    for signal in ("loss", "confidence", "times_trained", "last_step"):
        torch.testing.assert_close(one["signals"][signal], alone[name]["signals"][signal], rtol=0, atol=1e-4)


def test_steps_in_one_batch_or_several_on_one_rank_or_two_are_the_same(ranks: Any, alone: Any) -> None:
    """1 x 16, 4 x 4, 2 ranks x 8, 2 ranks x 2 x 4."""
    name = "margins"
    whole = through(new_run(name, accumulate=1, whole_steps=True), name)
    for other in (alone[name], ranks[0][name], through(new_run(name, accumulate=2), name)):
        assert other["steps"] == whole["steps"]
        torch.testing.assert_close(other["parameters"], whole["parameters"], rtol=0, atol=1e-5)
        assert [sorted(rows_of(other, e)) for e in range(1)] == [
            sorted(rows_of(whole, e)) for e in range(1)
        ] or (other is ranks[0][name])


@pytest.mark.parametrize("number", range(8))
def test_a_state_saved_by_one_rank_goes_on_bit_for_bit_on_both(number: int, ranks: Any) -> None:
    one, two = (each["resumed"][number] for each in ranks)
    for found in (one, two):
        assert found["rows"][0] == found["rows"][1]
        assert torch.equal(*found["parameters"])
        assert same(*found["signals"])
    assert (one["late"] > 0) == (one["what"] == ("pods", "stream", 6))
    assert same(one["state"], two["state"])


@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_state_of_two_ranks_goes_on_in_one_process(number: int, ranks: Any) -> None:
    """Inside an epoch, on its last batch, and on the first of the next."""
    found = ranks[0]["resumed"][number]
    name, _, stop = found["what"]
    plan = DataPlan(samples(), classes=4, **{**USUAL, **RUNS[name][0]}, accumulate=4)
    plan.load_state_dict(found["state"])
    left = []
    for epoch in plan.epochs_left():
        for batch in plan.batches():
            plan.loss(batch, torch.ones(len(batch.index)), logits=torch.zeros(len(batch.index), 4))
            left += [(epoch, position) for position in batch.index.tolist()]
    now = [(row.epoch, i) for each in ranks for row in each[name]["rows"][stop:] for i in row.index]
    first = min(epoch for epoch, _ in now)
    assert {row for row in left if row[0] == first} == {row for row in now if row[0] == first}
    assert len(left) == len(now) and plan.progress == 1


def test_batches_fetched_ahead_across_epochs_are_taken_in(ranks: Any, alone: Any) -> None:
    for (ahead, workers), one in ranks[0]["streams"].items():
        two = ranks[1]["streams"][ahead, workers]
        assert one["progress"] == 1 and one["steps"] == alone["pods"]["steps"]
        assert same(one["signals"], two["signals"])
        assert torch.equal(one["parameters"], two["parameters"])
        for epoch in range(4):
            first, second = rows_of(one, epoch), rows_of(two, epoch)
            assert len(first) == len(second) == len(rows_of(alone["pods"], epoch)) / 2
            assert len(set(first + second)) == len(first + second)
        assert int(one["signals"]["times_trained"].sum()) == one["trained"] == alone["pods"]["trained"]
    assert ranks[0]["streams"][0, 0]["rows"] == ranks[0]["pods"]["rows"]


def test_a_framework_may_deal_the_batches_out_and_skip_on_resume(ranks: Any) -> None:
    for each in ranks:
        whole, rest = each["dealt"]["whole"], each["dealt"]["rest"]
        assert whole["rows"] == each["pods"]["rows"]
        assert rest["rows"] == whole["rows"][8:] and torch.equal(rest["parameters"], whole["parameters"])


def test_uneven_numbers_of_samples_do_not_hang(ranks: Any) -> None:
    one, two = (each["left out"] for each in ranks)
    assert same(one["signals"], two["signals"])
    assert not one["said"] and len(two["said"]) == 2
    assert int(one["signals"]["times_trained"].sum()) == sum(
        len(row.index) for found in (one, two) for row in found["rows"]
    )


def test_every_tensor_is_gathered_by_itself(ranks: Any) -> None:
    for each in ranks:
        found = each["gathers"]
        assert found["first"]["index"].tolist() == [(1 << 40) + i for i in range(3)]
        assert found["first"]["half"].tolist() == [[0.5, 0.5]] * 3 and bool(found["first"]["flag"].all())
        assert found["told"] == [{"rank": 0}, {"rank": 1}]
        assert found["uneven"].tolist() == [0, 1, *range(100, 107)]


def test_controllers_learn_the_same_and_augmentation_differs_by_rank(ranks: Any) -> None:
    one, two = (each["images"] for each in ranks)
    assert same(one["memory"], two["memory"])
    assert same(one["signals"], two["signals"])
    assert one["images"].shape == two["images"].shape and not torch.equal(one["images"], two["images"])


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("seed", "seed is 0 on rank 0 and 1 on rank 1"),
        ("order", "labels is"),
        ("size", "2 ranks with 1 batches each .* give a multiple of 2, such as 1[46]"),
        ("few", "100 samples are fewer than one step of 128"),
        ("global", "the batch holds samples of rank 0"),
        ("twice", "as if a framework dealt the batches of this rank out"),
        ("told", r"says rank 0 of 2, and the torch.distributed group says rank 1 of 2"),
        ("places", "rank 0: call 0, rank 1: call 1"),
    ],
)
def test_ranks_that_cannot_train_together_say_why(name: str, words: str, ranks: Any) -> None:
    with pytest.raises(ValueError, match=words):
        raise ValueError(ranks[1]["refused"][name])
