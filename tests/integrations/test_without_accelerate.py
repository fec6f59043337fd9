"""Without accelerate: what asks for it says how to install it; what an accelerator must be is checked."""

import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from dsenv.integrations import accelerate
from dsenv.plan import DataPlan
from dsenv.plan.frameworks import check_place

pytestmark = pytest.mark.fast


def new_plan(**settings: Any) -> DataPlan:
    data = torch.rand(40, 3), torch.arange(40) % 2
    return DataPlan(data, epochs=2, batch_size=10, **settings)


def new_accelerator(**facts: Any) -> Any:
    """What `check_accelerator` looks at."""
    usual = {
        "distributed_type": SimpleNamespace(value="NO"),
        "gradient_accumulation_steps": 1,
        "dispatch_batches": None,
        "process_index": 0,
        "num_processes": 1,
        "device": torch.device("cpu"),
        "device_placement": True,
    }
    return SimpleNamespace(**{**usual, **facts})


def test_a_missing_accelerate_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "accelerate", None)
    monkeypatch.setitem(sys.modules, "accelerate.data_loader", None)
    accelerate.loader_class.cache_clear()
    with pytest.raises(ValueError, match=r'pip install "dsenv-rl\[accelerate\]"'):
        accelerate.plan_loader(new_plan(), new_accelerator())


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"distributed_type": SimpleNamespace(value="DEEPSPEED")}, "not tried with Accelerate's DEEPSPEED"),
        ({"distributed_type": SimpleNamespace(value="MEGATRON_LM")}, r"not tried .* MEGATRON_LM"),
        ({"parallelism_config": SimpleNamespace(tp_size=2, cp_size=1)}, r"has \{'tp_size': 2\}"),
        ({"dispatch_batches": True}, "dispatch_batches=True has one process"),
        ({"num_processes": 2}, "is for rank 0 of 1, and this is process 0 of 2"),
        ({"gradient_accumulation_steps": 2}, r"accumulates 2 batches .* counts 1: DataPlan\(accumulate="),
        (
            {"device": torch.device("cuda", 0)},
            r"on cpu, .* on cuda:0: DataPlan\(device=accelerator\.",
        ),
    ],
)
def test_an_accelerator_that_does_not_fit_is_refused(facts: dict[str, Any], words: str) -> None:
    plan = new_plan()
    accelerate.check_accelerator(plan, new_accelerator())
    with pytest.raises(ValueError, match=words):
        accelerate.check_accelerator(plan, new_accelerator(**facts))


def test_devices_may_be_the_users_to_place() -> None:
    far = new_accelerator(device=torch.device("cuda", 0), device_placement=False)
    accelerate.check_accelerator(new_plan(), far)


def test_arguments_in_the_wrong_order_are_said() -> None:
    with pytest.raises(ValueError, match=r"takes a DataPlan and an Accelerator, got .* first"):
        accelerate.check_accelerator(new_accelerator(), new_plan())
    with pytest.raises(ValueError, match="takes a DataPlan and an Accelerator, got 3 second"):
        accelerate.check_accelerator(new_plan(), 3)


@pytest.mark.parametrize(("batches", "is_said"), [(2, False), (3, True), (4, False)])
def test_a_state_between_the_batches_of_a_step_is_said(batches: int, is_said: bool) -> None:
    plan, other = new_plan(accumulate=2), new_plan(accumulate=2)
    for batch, _ in zip(plan.batches(), range(batches), strict=False):
        plan.loss(batch, torch.ones(5))
    other.load_state_dict(plan.state_dict())
    if not is_said:
        check_place(other, "Save after steps")
        return
    with pytest.warns(UserWarning, match="saved after 1 of the 2 batches of a step.* Save after steps"):
        check_place(other, "Save after steps")


def test_another_accumulation_than_the_plans_is_said_once(monkeypatch: pytest.MonkeyPatch) -> None:
    state = SimpleNamespace(_shared_state={"plugin_kwargs": {"num_steps": 4}})
    monkeypatch.setitem(sys.modules, "accelerate.state", SimpleNamespace(GradientState=state))
    plan = new_plan(accumulate=2)
    with pytest.warns(
        UserWarning, match=r"accumulates 4 batches .* counts 2.* DataPlan\(accumulate=4\)"
    ) as said:
        next(iter(plan.loader()))
        next(iter(plan.loader()))
    assert len(said) == 1
