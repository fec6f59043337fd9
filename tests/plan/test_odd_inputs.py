"""Outputs, positions and schedules that are none are refused by name, and change nothing."""

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from torch.optim import SGD, lr_scheduler

from dsenv.plan import DataPlan

pytestmark = pytest.mark.fast


def made(**settings: Any) -> DataPlan:
    data = torch.arange(40.0)[:, None], torch.arange(40) % 3
    return DataPlan(data, **{"epochs": 2, "batch_size": 10, "ratio": 0.5, **settings})


@pytest.mark.parametrize("name", ["logits", "features"])
@pytest.mark.parametrize(
    "change",
    [torch.Tensor.to_sparse, torch.Tensor.long, lambda x: x.to("meta"), lambda x: x.to(torch.complex64)],
)
def test_outputs_of_another_kind_change_nothing(name: str, change: Any) -> None:
    plan = made(selector={"name": "ranked", "by": "margin"})
    batch = next(iter(plan.batches()))
    outputs = {"logits": torch.rand(10, 3), "features": torch.rand(10, 5)}
    outputs[name] = change(outputs[name])
    with pytest.raises(ValueError, match=f"{name} (must be .* dense and floating|are on meta)"):
        plan.loss(batch, torch.rand(10), **outputs)

    plan.start_epoch(0)
    state = plan.state_dict()["feedback"]
    assert (
        plan.cost.trained == 0 and not state["buffer"]["parts"] and not bool(state["values"]["codes"].any())
    )


def test_losses_are_dense() -> None:
    plan = made()
    with pytest.raises(ValueError, match="dense, floating losses"):
        plan.loss(next(iter(plan.batches())), torch.rand(10).to_sparse())


@pytest.mark.parametrize(
    "change", [torch.Tensor.tolist, torch.Tensor.numpy, torch.Tensor.to_sparse, lambda _: "x", lambda _: None]
)
def test_positions_are_a_dense_tensor(change: Any) -> None:
    plan = made()
    index = plan.epoch_sampler.chosen.index[:10]
    with pytest.raises(ValueError, match="a batch needs int64 positions"):
        plan.batch(change(index), [index[:, None], index % 3])


def test_positions_somewhere_else() -> None:
    plan = made()
    index = plan.epoch_sampler.chosen.index[:10]
    with pytest.raises(ValueError, match="the positions are on meta, and the plan is on cpu"):
        plan.batch(index.to("meta"), [index[:, None], index % 3])


def test_a_device_without_values() -> None:
    with pytest.raises(ValueError, match="device 'meta' cannot be used"):
        made(device="meta")


@pytest.mark.parametrize("scheduler", [None, 5, "cosine", lr_scheduler.StepLR, SGD([torch.ones(1)], 0.1)])
def test_what_is_no_scheduler(scheduler: Any) -> None:
    with pytest.raises(ValueError, match=r"scheduler must be a learning-rate schedule with a step\(\)"):
        made().check_scheduler(scheduler)


def test_a_length_of_numpy_is_a_length() -> None:
    plan = made()
    scheduler = lr_scheduler.CosineAnnealingLR(SGD([torch.ones(1)], 0.1), np.int64(plan.total_steps))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plan.check_scheduler(scheduler)


@pytest.mark.parametrize("forward", [None, 5, "model", lambda x: torch.rand(len(x), 3).to_sparse()])
def test_a_scoring_pass_needs_a_model(forward: Any) -> None:
    plan = made()
    with pytest.raises(ValueError, match=r"forward must be a model|logits must be .* dense and floating"):
        plan.score(forward)
    assert plan.cost.extra_forwards == 0


@pytest.mark.parametrize("accuracy", [None, "x", 2.0, float("nan"), torch.ones(2)])
def test_an_accuracy_is_a_share(accuracy: Any) -> None:
    with pytest.raises(ValueError, match="validation accuracy must be in"):
        made().report_validation(accuracy)


def test_an_accuracy_may_be_a_tensor() -> None:
    def second_epoch(accuracy: Any) -> list[int]:
        plan = made(policy="curriculum")
        for batch in plan.batches():
            plan.loss(batch, batch.inputs[:, 0], logits=torch.eye(3)[batch.labels])
        plan.report_validation(accuracy)
        plan.start_epoch(1)
        return plan.epoch_sampler.chosen.index.tolist()

    assert second_epoch(torch.tensor(0.5)) == second_epoch(np.float32(0.5)) == second_epoch(0.5)


@pytest.mark.parametrize("epoch", ["1", 1.0, -1, True])
def test_an_epoch_is_a_whole_number(epoch: Any) -> None:
    for call in (made().start_epoch, made().steps_in_epoch):
        with pytest.raises(ValueError, match="epoch must be a whole number"):
            call(epoch)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"num_worker": 1}, "Did you mean 'num_workers'"),
        ({"num_workers": "2"}, "num_workers must be a whole number"),
        ({"num_workers": -1}, "num_workers must be a whole number"),
        ({"collate_fn": 5}, "collate_fn must be a function"),
        ({"indexed": 5}, "indexed must be True or False"),
        ({"indexed": True}, "indexed=True needs a collate_fn"),
        ({"timeout": -1}, "DataLoader cannot take these settings: timeout"),
        ({"prefetch_factor": 2}, "DataLoader cannot take these settings: prefetch_factor"),
    ],
)
def test_settings_of_the_loader(settings: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        made().loader(**settings)


@pytest.mark.parametrize("change", [torch.Tensor.to_sparse, lambda x: x.to("meta")])
def test_a_state_holds_values(change: Any) -> None:
    plan = made()
    plan.loss(batch := next(iter(plan.batches())), torch.rand(len(batch.index)))
    state = plan.state_dict()
    state["feedback"]["buffer"]["parts"][0]["loss"] = change(state["feedback"]["buffer"]["parts"][0]["loss"])
    with pytest.raises(ValueError, match=r"batch 0 of 'feedback.buffer' is none"):
        made().load_state_dict(state)

    state = plan.state_dict()
    state["feedback"]["signals"]["loss"] = change(state["feedback"]["signals"]["loss"])
    with pytest.raises(ValueError, match=r"feedback.signals.loss' is"):
        made().load_state_dict(state)
