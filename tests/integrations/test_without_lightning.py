"""Without lightning: what asks for it says how to install it; and what the core does for it."""

import sys
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from dsenv.plan import DataPlan
from dsenv.plan.frameworks import NEEDED, check_adapter

pytestmark = pytest.mark.fast


def new_plan(**settings: Any) -> DataPlan:
    data = torch.rand(40, 3, generator=torch.Generator().manual_seed(0)), torch.arange(40) % 4
    return DataPlan(data, epochs=2, batch_size=10, ratio=0.5, **{"selector": "small_loss", **settings})


def trained(plan: DataPlan, batches: int | None = None) -> int:
    """Train on some batches, or an epoch; returns how many."""
    number = 0
    for number, batch in enumerate(plan.batches(), 1):
        logits = batch.inputs.repeat(1, 2)[:, :4]
        plan.loss(batch, F.cross_entropy(logits, batch.labels, reduction="none"), logits=logits)
        if number == batches:
            break
    return number


def test_a_missing_lightning_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    from dsenv.integrations.lightning import PACKAGES, PlanCallback

    for name in ("lightning", *PACKAGES):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ValueError, match=r'pip install "dsenv-rl\[lightning\]"'):
        PlanCallback(new_plan())


def test_a_loop_that_needs_an_adapter_is_known_by_its_module(monkeypatch: pytest.MonkeyPatch) -> None:
    check_adapter(None)
    name = "lightning.pytorch.loops.fit_loop"
    monkeypatch.setitem(sys.modules, name, sys.modules[__name__])
    check_adapter(None)  # it is imported, and does not ask

    asks = {"__name__": name}
    exec("def ask(plan):\n    return next(iter(plan.loader()))", asks)
    plan = new_plan()
    with pytest.raises(ValueError, match="PlanCallback") as caught:
        asks["ask"](plan)  # type: ignore[operator]
    assert str(caught.value) == NEEDED[name]
    plan.epoch_sampler.adapter = "lightning"
    assert len(asks["ask"](plan).index) == 10  # type: ignore[operator]


def test_an_epoch_may_be_settled_before_it_ends() -> None:
    plan, other = new_plan(), new_plan()
    trained(plan, 1)
    plan.settle()  # nothing happens: a batch is left
    assert not plan.signals.times_trained.any()
    trained(plan)
    plan.settle()
    assert plan.signals.times_trained.sum() == 20 and plan.epoch == 0

    trained(other)
    for each in (plan, other):
        each.start_epoch(1)
    assert torch.equal(plan.signals.times_trained, other.signals.times_trained)
    assert torch.equal(plan.epoch_sampler.chosen.index, other.epoch_sampler.chosen.index)


def test_signals_keep_their_type_where_torchs_default_is_another() -> None:
    plan = new_plan()
    torch.set_default_dtype(torch.float64)  # as Lightning's precision="64-true" does in a step
    try:
        for _ in plan.epochs_left():
            trained(plan)
    finally:
        torch.set_default_dtype(torch.float32)
    assert plan.progress == 1 and plan.signals.loss.dtype == torch.float32


def test_workers_of_two_ranks_draw_from_other_streams() -> None:
    seeds = []
    for rank in range(2):
        loader = new_plan(world=(rank, 2)).loader()
        loader._epoch_sampler.record.is_agreed = True  # type: ignore[attr-defined]  # there are no ranks to ask
        next(iter(loader))
        seeds.append(loader._generator.initial_seed())
    assert seeds[0] != seeds[1]
