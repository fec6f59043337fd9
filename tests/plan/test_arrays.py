"""Memory-mapped arrays: the same training as with tensors, and nothing is read that is not asked for."""

from pathlib import Path

import numpy as np
import pytest
import torch

from dsenv.plan import DataPlan
from dsenv.plan.data import ArrayPair, read_ahead
from tests.plan.loops import HELD_OUT, TRAIN, Loop, new_plan, scale


@pytest.fixture
def mapped(tmp_path: Path) -> tuple[np.ndarray, np.ndarray]:
    for name, values in zip(("images", "labels"), TRAIN, strict=True):
        np.save(tmp_path / f"{name}.npy", values.numpy())
    images = np.load(tmp_path / "images.npy", mmap_mode="r")
    assert isinstance(images, np.memmap)
    return images, np.load(tmp_path / "labels.npy", mmap_mode="r")


PARTS = [
    {"selector": "small_loss", "ratio": 0.5, "volume": {"name": "pods", "warmup": 0}, "augment": "trivial"},
    {"selector": "moderate", "ratio": 0.5, "uniform_epochs": 1, "drop_last": True},
    {"selector": "infobatch"},
]


@pytest.mark.parametrize("parts", PARTS, ids=[str(part["selector"]) for part in PARTS])
def test_training_on_mapped_arrays_equals_that_on_tensors(mapped, parts) -> None:
    plans = new_plan(epochs=2, **parts), DataPlan(mapped, epochs=2, batch_size=64, transform=scale, **parts)
    assert plans[0].classes == plans[1].classes == 10
    loops = [Loop(plan) for plan in plans]
    for loop, held_out in zip(loops, (HELD_OUT, tuple(part.numpy() for part in HELD_OUT)), strict=True):
        for epoch in loop.plan.epochs_left():
            if epoch == 1 and loop.plan.selector.needs_pass:
                loop.plan.score(loop.forward, held_out)
            for batch in loop.plan.batches():
                loop.step(batch)
    for a, b in zip(*(loop.forward.model.parameters() for loop in loops), strict=True):
        assert torch.equal(a, b)
    assert torch.equal(plans[0].signals.loss, plans[1].signals.loss)


def test_it_resumes_in_the_middle_of_an_epoch(mapped) -> None:
    def made() -> DataPlan:
        return DataPlan(mapped, epochs=2, batch_size=64, selector="small_loss", ratio=0.5, transform=scale)

    plan, again = made(), made()
    loop = Loop(plan)
    next(plan.epochs_left())
    batches = plan.batches()
    for _ in range(3):
        loop.step(next(batches))
    again.load_state_dict(plan.state_dict())
    assert torch.equal(next(batches).index, next(again.batches()).index)


@pytest.mark.fast
def test_rows_are_read_in_the_order_of_the_file(mapped) -> None:
    class Watched(np.ndarray):
        asked: list = []  # noqa: RUF012

        def __getitem__(self, key):
            self.asked.append(key)
            return np.asarray(self).__getitem__(key)

    pair = ArrayPair(*mapped)
    pair.inputs = np.asarray(mapped[0]).view(Watched)
    index = torch.tensor([9, 3, 700, 5])
    assert torch.equal(pair.read(index), TRAIN[0][index])
    assert [list(key) for key in Watched.asked] == [[3, 5, 9, 700]]


@pytest.mark.fast
def test_one_batch_is_read_ahead_and_no_more(mapped) -> None:
    pair, read = ArrayPair(*mapped), []

    def indices():
        for start in range(0, 80, 10):
            read.append(start)
            yield torch.arange(start, start + 10)

    batches = read_ahead(pair, indices(), torch.device("cpu"))
    assert torch.equal(next(batches), TRAIN[0][:10]) and len(read) == 2
    assert torch.equal(next(batches), TRAIN[0][10:20]) and len(read) == 3
    batches.close()
    assert len(list(read_ahead(pair, indices(), torch.device("cpu")))) == 8
    assert list(read_ahead(pair, [], torch.device("cpu"))) == []


def test_a_loader_with_workers_reads_them_too(mapped) -> None:
    plan = DataPlan(mapped, epochs=1, batch_size=64, transform=scale)
    for batch in plan.loader(num_workers=1):
        assert torch.equal(batch.inputs, scale(TRAIN[0][batch.index]))
        assert torch.equal(batch.labels, TRAIN[1][batch.index])


def test_arrays_that_do_not_fit_are_refused(mapped) -> None:
    with pytest.raises(ValueError, match="1000 inputs and 999 labels"):
        DataPlan((mapped[0], mapped[1][1:]), epochs=1, batch_size=8)
    with pytest.raises(ValueError, match="which torch cannot hold"):
        DataPlan((np.zeros(3, "U1"), np.zeros(3)), epochs=1, batch_size=1)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_batches_arrive_on_a_gpu(mapped) -> None:
    plan = DataPlan(mapped, epochs=1, batch_size=64, device="cuda")
    for batch in plan.batches():
        assert batch.inputs.is_cuda and torch.equal(batch.inputs.cpu(), TRAIN[0][batch.index.cpu()])
