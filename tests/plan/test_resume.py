"""A training stopped anywhere goes on as if it had not been."""

from typing import Any

import pytest
import torch

from dsenv.plan import DataPlan
from dsenv.select.registry import SELECTORS
from tests.plan.loops import (
    CHOICES,
    HIDDEN,
    Digits,
    Loop,
    new_plan,
    same_batches,
    same_weights,
    scale,
)


def resumed(make: Any, stop: int, path: Any) -> tuple[Loop, Loop]:
    """A run, and one that was stopped after `stop` steps and went on in a new process's objects."""
    whole = make().run()
    stopped = make()
    for number, _ in enumerate(stopped.steps(), 1):
        if number == stop:
            torch.save(stopped.state_dict(), path / "state.pt")
            break
    later = make()
    later.load_state_dict(torch.load(path / "state.pt", weights_only=True))
    later.run()
    later.batches = stopped.batches + later.batches
    return whole, later


@pytest.mark.parametrize("selector", SELECTORS)
def test_mid_epoch_bit_for_bit(selector: str, tmp_path: Any) -> None:
    def make() -> Loop:
        settings = {"volume": {"name": "pods", "warmup": 0}, "ratio": 0.5, "batch_size": 100}
        return Loop(new_plan(epochs=3, selector=CHOICES[selector], **settings))

    steps = make().plan.epoch_schedule.steps_in
    stop = steps(0) + 2
    assert stop < steps(0) + steps(1)
    whole, later = resumed(make, stop, tmp_path)
    assert same_batches(whole.batches, later.batches) and same_weights(whole, later)
    assert later.plan.cost.trained == whole.plan.cost.trained and later.plan.progress == 1


@pytest.mark.parametrize("augment", ["trivial", "ent_augment", "sada", "ada_augment"])
def test_with_augmentation(augment: str, tmp_path: Any) -> None:
    settings = {"ent_augment": {"warm_up": 1}, "ada_augment": {"features": HIDDEN}}.get(augment, {})

    def make() -> Loop:
        choice = {"selector": "infobatch", "augment": {"name": augment, **settings}}
        return Loop(new_plan(epochs=3, batch_size=250, **choice))

    whole, later = resumed(make, 6, tmp_path)  # after 4 steps on all data, in the second epoch
    assert same_batches(whole.batches, later.batches) and same_weights(whole, later)


@pytest.mark.parametrize("workers", [0, 2])
def test_with_a_loader(workers: int, tmp_path: Any) -> None:
    def make() -> Loop:
        plan = DataPlan(
            Digits(),
            epochs=2,
            batch_size=64,
            selector="infobatch",
            ratio=0.5,
            augment="sada",
            transform=scale,
        )
        return Loop(plan, plan.loader(num_workers=workers, persistent_workers=workers > 0))

    whole, later = resumed(make, 11, tmp_path)
    assert same_batches(whole.batches, later.batches) and same_weights(whole, later)


@pytest.mark.fast
@pytest.mark.parametrize("stop", [1, 7, 8, 9, 16])
def test_at_any_step_of_the_epoch_and_after_its_last(stop: int, tmp_path: Any) -> None:
    def make() -> Loop:
        return Loop(new_plan(epochs=3, selector="small_loss", ratio=0.5))

    assert make().plan.steps_in_epoch(0) == 8
    whole, later = resumed(make, stop, tmp_path)
    assert same_batches(whole.batches, later.batches) and same_weights(whole, later)
    assert later.scheduler.get_last_lr()[0] == pytest.approx(0, abs=1e-9)


def test_the_sampler_keeps_no_state_and_has_the_length_of_the_epoch() -> None:
    plan, other = (DataPlan(Digits(), epochs=2, batch_size=64, ratio=0.5) for _ in range(2))
    for batch in list(plan.loader())[:3]:
        plan.loss(batch, torch.rand(64))
    assert not hasattr(plan.sampler, "state_dict")
    other.load_state_dict(plan.state_dict())
    assert list(other.sampler) == list(plan.sampler) and len(list(other.sampler)) == 500 - 192
    assert len(other.sampler) == len(plan.sampler) == 500
    assert len(plan.loader()) == len(other.loader()) == 8


@pytest.mark.fast
def test_a_state_of_another_plan_is_refused() -> None:
    state = new_plan(ratio=0.5).state_dict()
    for settings, message in (
        ({"ratio": 0.5, "epochs": 3}, "epochs=2, this one has 3"),
        ({"ratio": 0.4}, r"counts\[0\]=500, this one has 400"),
        ({"ratio": 0.5, "selector": "ucb"}, "selector=random, this one has ucb"),
        (
            {"ratio": 0.5, "selector": {"name": "infobatch", "keep": 0.1}},
            "this one has infobatch {'keep': 0.1}",
        ),
        ({"ratio": 0.5, "augment": "trivial"}, "augment=none, this one has trivial"),
        ({"ratio": 0.5, "batch_size": 32}, "batch_size=64, this one has 32"),
        ({"ratio": 0.5, "uniform_epochs": 1}, "uniform_epochs=0, this one has 1"),
        ({"ratio": 0.5, "tail": 0.5}, "tail=0.125, this one has 0.5"),
    ):
        with pytest.raises(ValueError, match=message):
            new_plan(**settings).load_state_dict(state)


def test_a_state_is_a_copy() -> None:
    loop = Loop(new_plan(epochs=3, selector="ucb", ratio=0.5))
    steps = loop.steps()
    for _ in range(10):
        next(steps)
    state = loop.plan.state_dict()
    kept = str(state)
    for _ in steps:
        pass
    assert str(state) == kept


@pytest.mark.gpu
@pytest.mark.parametrize("selector", ["data_agent", "ucb", "moderate"])
def test_a_state_read_on_the_cpu_goes_on_at_the_device(selector: str, tmp_path: Any) -> None:
    def loop() -> Loop:
        made = Loop(new_plan(epochs=3, selector=selector, ratio=0.5, device="cuda"))
        made.forward.model.cuda()
        return made

    first = loop()
    for number, _ in enumerate(first.steps()):
        if number == 10:
            torch.save(first.state_dict(), tmp_path / "state.pt")
            break
    later = loop()
    later.load_state_dict(torch.load(tmp_path / "state.pt", map_location="cpu", weights_only=True))
    assert later.run().plan.progress == 1
