"""The plan under DataLoaders, with workers and without."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, default_collate

from dsenv.plan import DataPlan
from dsenv.plan.collate import IndexedCollate
from tests.plan.loops import TRAIN, Digits, Loop, new_plan, same_batches, same_weights, scale


class Numbers:
    """Sample i is (i, i squared)."""

    def __len__(self) -> int:
        return 300

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return torch.tensor([float(index)]), index * index


class FetchesTogether(Numbers):
    def __getitems__(self, indices: list[int]) -> list[Any]:
        return [self[index] for index in indices]


SETTINGS = [
    {"num_workers": 0},
    {"num_workers": 2},
    {"num_workers": 2, "persistent_workers": True, "prefetch_factor": 4},
]


# Every process fetches samples alike, so each kind of loader meets one kind of data.
@pytest.mark.parametrize(
    ("data", "settings"),
    [(FetchesTogether(), SETTINGS[0]), (Numbers(), SETTINGS[1]), (FetchesTogether(), SETTINGS[2])],
)
def test_indices_belong_to_their_samples_while_the_selection_changes(
    data: Any, settings: dict[str, Any]
) -> None:
    plan = DataPlan(data, epochs=4, batch_size=32, selector="infobatch", ratio=0.5, volume="pods", seed=1)
    loader = plan.loader(**settings)
    epochs = []
    for epoch in plan.epochs_left():
        seen = []
        assert len(loader) == plan.steps_in_epoch(epoch)
        for batch in loader:
            assert torch.equal(batch.inputs[:, 0].long(), batch.index)
            assert torch.equal(batch.labels, batch.index**2)
            plan.loss(batch, (batch.index % 7).float())
            seen += batch.index.tolist()
        assert len(set(seen)) == len(seen) == plan.epoch_schedule.counts[epoch]
        epochs.append(frozenset(seen))
    assert len(set(epochs)) == 4 and plan.cost.trained == 600


CHOICE = {"selector": "infobatch", "ratio": 0.5, "augment": "sada"}


@pytest.fixture(scope="module")
def resident() -> Loop:
    return Loop(new_plan(**CHOICE)).run()


@pytest.mark.parametrize("settings", [SETTINGS[0], SETTINGS[2]])
def test_a_loader_gives_what_resident_tensors_give(settings: dict[str, Any], resident: Loop) -> None:
    plan = DataPlan(Digits(), epochs=2, batch_size=64, transform=scale, **CHOICE)
    loaded = Loop(plan, plan.loader(**settings)).run()
    assert same_batches(resident.batches, loaded.batches)
    assert same_weights(resident, loaded)


@pytest.mark.fast
def test_a_dataloader_of_ones_own_with_the_sampler() -> None:
    plan = DataPlan(Digits(), epochs=3, batch_size=64, selector="infobatch", ratio=0.5)
    loader = DataLoader(plan.dataset, batch_size=64, sampler=plan.sampler)
    for epoch in range(3):
        plan.sampler.set_epoch(epoch)
        assert len(plan.sampler) == plan.epoch_schedule.counts[epoch] and len(loader) == plan.steps_in_epoch()
        for raw in loader:
            batch = plan.batch(*raw)
            assert torch.equal(batch.labels, TRAIN[1][batch.index])
            plan.loss(batch, torch.rand(len(batch.index)))
    assert plan.progress == 1


def test_one_batch_fetched_ahead_does_no_harm() -> None:
    """As Accelerate does: the next batch is fetched before the present one is trained on."""
    plan = DataPlan(
        Digits(), epochs=2, batch_size=64, selector="ucb", ratio=0.5, augment="trivial", transform=scale
    )
    plain = DataPlan(
        Digits(), epochs=2, batch_size=64, selector="ucb", ratio=0.5, augment="trivial", transform=scale
    )
    expected = Loop(plain, plain.loader()).run()
    ahead = Loop(plan)
    loader = plan.loader()
    for _ in plan.epochs_left():
        batches = iter(loader)
        batch = next(batches)
        while batch is not None:
            following = next(batches, None)
            ahead.step(batch)
            batch = following
    assert same_batches(expected.batches, ahead.batches) and same_weights(expected, ahead)


@pytest.mark.fast
def test_another_sampler_is_noticed() -> None:
    plan = DataPlan(Digits(), epochs=3, batch_size=64, ratio=0.2)
    loader = DataLoader(
        plan.dataset, batch_size=64, shuffle=True, generator=torch.Generator(), collate_fn=IndexedCollate()
    )
    plan.start_epoch(0)
    _ = plan.epoch_sampler.chosen
    with pytest.raises(ValueError, match=r"not among those of epoch 0: another sampler made it"):
        for raw in loader:
            plan.batch(*raw)


def test_collate_functions_see_samples_alone() -> None:
    def collate(samples: list[Any]) -> Any:
        inputs, labels = default_collate(samples)
        return {"pixels": inputs, "labels": labels}

    plan = DataPlan(Digits(), epochs=1, batch_size=50)
    batch = next(iter(plan.loader(collate_fn=collate)))
    assert torch.equal(batch.inputs["pixels"], TRAIN[0][batch.index])
    assert torch.equal(batch.labels, TRAIN[1][batch.index])


@pytest.mark.parametrize(
    "name", ["batch_size", "shuffle", "sampler", "batch_sampler", "drop_last", "generator"]
)
def test_what_the_plan_decides_is_not_the_loaders_to_set(name: str) -> None:
    with pytest.raises(ValueError, match=rf"the plan decides {name}"):
        new_plan().loader(**{name: True})


@pytest.mark.fast
def test_a_fresh_iterator_begins_at_the_first_batch_not_trained_on() -> None:
    plan = new_plan()
    loader = plan.loader()
    first = next(iter(loader))
    again = next(iter(loader))
    assert torch.equal(first.index, again.index)
    plan.loss(first, torch.rand(64))
    assert torch.equal(next(iter(loader)).index, plan.epoch_sampler.chosen.index[64:128])
    assert torch.equal(next(iter(plan.batches())).index, plan.epoch_sampler.chosen.index[64:128])


def test_a_look_takes_the_arguments_of_a_loader() -> None:
    """As samples of different lengths need them: a collate function, and smaller batches."""
    tokens = [{"ids": torch.arange(1 + i % 3), "labels": i % 2} for i in range(40)]

    def pad(samples: list[Any]) -> dict[str, torch.Tensor]:
        ids = torch.nn.utils.rnn.pad_sequence([sample["ids"] for sample in samples], batch_first=True)
        return {"ids": ids, "labels": torch.tensor([sample["labels"] for sample in samples])}

    sizes = []

    def forward(inputs: Any) -> torch.Tensor:
        sizes.append(len(inputs["ids"]))
        return torch.rand(len(inputs["ids"]), 2)

    plan = DataPlan(tokens, epochs=4, batch_size=10, selector="ccs", ratio=0.5, classes=2)
    plan.score(forward, batch_size=16, collate_fn=pad)
    assert sizes == [16, 16, 8]
    batches = list(plan.loader(collate_fn=pad))
    assert sum(len(batch.index) for batch in batches) == plan.epoch_schedule.counts[0]
