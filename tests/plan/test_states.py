"""A state says what it is of; it is looked at as a whole, and a refused one changes nothing."""

import copy
import io
from typing import Any

import numpy as np
import pytest
import torch

from dsenv import DataPlan, Selection, Selector
from tests.plan.loops import CHOICES

pytestmark = pytest.mark.fast

SIZE, BATCH = 80, 8
IMAGES = torch.rand(SIZE, 1, 4, 4, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(SIZE) % 4


def new_plan(labels: Any = LABELS, **settings: Any) -> DataPlan:
    known = {"epochs": 3, "batch_size": BATCH, "ratio": 0.5, "classes": 4}
    return DataPlan((IMAGES[: len(labels)], labels), **{**known, **settings})


def trained(batches: int = 7, **settings: Any) -> DataPlan:
    """A plan in its second epoch."""
    plan = new_plan(**settings)
    for epoch in plan.epochs_left():
        for batch in plan.batches():
            if epoch == 1 and batch.number == batches - 5:
                return plan
            logits = torch.randn(len(batch.index), 4, generator=torch.Generator().manual_seed(batch.number))
            plan.loss(batch, logits.logsumexp(1), logits=logits)
    return plan


def assert_unchanged(plan: DataPlan, state: Any) -> None:
    """The plan refuses the state and stays as it was."""
    before = copy.deepcopy(plan.state_dict())
    with pytest.raises(ValueError) as refused:
        plan.load_state_dict(state)
    assert "state" in str(refused.value)
    after = plan.state_dict()
    assert str(before) == str(after)


class Weighted(Selector):
    """Of a user's own, with settings of every kind."""

    def __init__(self, weights: Any = None, tables: Any = (), other: Any = None) -> None:
        self.weights, self.tables, self.other = weights, tables, other

    def select(self, signals: Any, count: int, generator: torch.Generator) -> Selection:
        index = torch.randperm(signals.size, generator=generator)[:count]
        return Selection(index, torch.ones(count))


class Setting:
    def __init__(self, value: float) -> None:
        self.value = value


OTHERS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "relabelled": ({}, {"labels": LABELS.flip(0)}),
    "one label": ({}, {"labels": torch.where(torch.arange(SIZE) == 7, (LABELS + 1) % 4, LABELS)}),
    "fewer": ({}, {"labels": LABELS[:-8], "ratio": 5 / 9}),
    "epochs": ({}, {"epochs": 4}),
    "classes": ({}, {"classes": 5}),
    "setting of an object": (
        {"selector": {"name": "infobatch", "keep": 0.4}},
        {"selector": {"name": "infobatch", "keep": 0.3}},
    ),
    "tensor": ({"selector": Weighted(torch.ones(3))}, {"selector": Weighted(torch.zeros(3))}),
    "array": ({"selector": Weighted(np.ones(3))}, {"selector": Weighted(np.zeros(3))}),
    "list": ({"selector": Weighted(tables=[1, 2])}, {"selector": Weighted(tables=[1, 3])}),
    "object": ({"selector": Weighted(other=Setting(1))}, {"selector": Weighted(other=Setting(2))}),
    "table": ({"selector": Weighted(other={"a": [1]})}, {"selector": Weighted(other={"a": [2]})}),
    "class": ({"selector": Weighted()}, {"selector": "random"}),
    "ops": ({"augment": {"name": "trivial"}}, {"augment": {"name": "trivial", "ops": ["rotate"]}}),
    "volume": ({"volume": "pods"}, {"volume": "linear"}),
}


@pytest.mark.parametrize("name", OTHERS)
def test_a_state_of_something_else_is_refused(name: str) -> None:
    one, other = OTHERS[name]
    assert_unchanged(new_plan(**other), trained(**one).state_dict())


def test_equal_settings_in_other_objects_fit() -> None:
    state = trained(selector=Weighted(torch.ones(3), [1, {"a": 2}], Setting(1))).state_dict()
    plan = new_plan(selector=Weighted(torch.ones(3), [1, {"a": 2}], Setting(1)))
    plan.load_state_dict(state)
    assert plan.epoch == 1


def damaged(state: dict[str, Any]) -> dict[str, Any]:
    """States that are wrong in one place each, by what is wrong."""

    def at(*path: str) -> Any:
        def change(value: Any) -> dict[str, Any]:
            twin = copy.deepcopy(state)
            place: Any = twin
            for key in path[:-1]:
                place = place[key]
            if value is KeyError:
                del place[path[-1]]
            else:
                place[path[-1]] = value
            return twin

        return change

    sampler, record = at("epoch_sampler", "epoch"), state["epoch_sampler"]["record"]
    index = record["index"]
    return {
        "empty": {},
        "list": [],
        "text": "state",
        "None": None,
        "no version": at("version")(KeyError),
        "version": at("version")(1),
        "flag as version": at("version")(True),
        "unknown key": {**state, "more": 1},
        "no data": at("data")(KeyError),
        "no plan": at("plan")(KeyError),
        "no sampler": at("epoch_sampler")(KeyError),
        "no feedback": at("feedback")(KeyError),
        "epoch -1": sampler(-1),
        "epoch 4": sampler(4),
        "epoch text": sampler("1"),
        "epoch None": sampler(None),
        "epoch 0.5": sampler(0.5),
        "over, with samples": sampler(3),
        "generator": at("epoch_sampler", "generator")(torch.zeros(3)),
        "no generator": at("epoch_sampler", "generator")(KeyError),
        "record": at("epoch_sampler", "record")({}),
        "too few": at("epoch_sampler", "record", "index")(index[:-1]),
        "twice": at("epoch_sampler", "record", "index")(torch.cat([index[:-1], index[:1]])),
        "beyond": at("epoch_sampler", "record", "index")(torch.cat([index[:-1], torch.tensor([SIZE])])),
        "floats": at("epoch_sampler", "record", "index")(index.float()),
        "weights": at("epoch_sampler", "record", "weight")(record["weight"][:-1]),
        "weight nan": at("epoch_sampler", "record", "weight")(record["weight"] * float("nan")),
        "weight 0": at("epoch_sampler", "record", "weight")(record["weight"] * 0),
        "all trained": at("epoch_sampler", "record", "trained")(torch.ones(SIZE, dtype=torch.bool)),
        "trained of another size": at("epoch_sampler", "record", "trained")(record["trained"][:-1]),
        "left out": at("epoch_sampler", "record", "left_out")([SIZE]),
        "signals": at("feedback", "signals", "loss")(torch.zeros(3)),
        "no signal": at("feedback", "signals", "loss")(KeyError),
        "blind": at("feedback", "blind")(3),
        "selector": at("feedback", "selector")({"x": 1}),
        "selector None": at("feedback", "selector")(None),
        "cost": at("feedback", "cost", "trained")(-5),
        "seconds": at("feedback", "cost", "seconds")({}),
        "values": at("feedback", "values")({}),
        "buffer": at("feedback", "buffer", "elements")("many"),
        "buffer of text": at("feedback", "buffer", "parts")([["a", "b"]]),
        "buffer of one": at("feedback", "buffer", "parts")([[torch.ones(2)]]),
        "buffer out of range": at("feedback", "buffer", "parts")([[torch.tensor([SIZE + 5]), torch.ones(1)]]),
    }


NAMES = list(damaged(trained().state_dict()))


@pytest.mark.parametrize("name", NAMES)
def test_a_damaged_state_changes_nothing(name: str) -> None:
    state = damaged(trained().state_dict())[name]
    assert_unchanged(trained(6), state)


UNTRAINED = ("el2n", "data_agent")  # they need more than this loop gives


@pytest.mark.parametrize("name", ["ucb", "fixed_random", *UNTRAINED])
def test_a_damaged_state_of_a_part_changes_nothing(name: str) -> None:
    plan = new_plan(selector=name) if name in UNTRAINED else trained(selector=name)
    state = copy.deepcopy(plan.state_dict())
    part = state["feedback"]["selector"]
    cases = [{}, {**part, "more": 1}, None, []]
    cases += [{**part, key: value} for key in part for value in ("text", torch.zeros(2, 2, 2), -3.5)]
    for case in cases:
        state["feedback"]["selector"] = case
        assert_unchanged(new_plan(selector=name), state)


class Refusing(Weighted):
    """Its state cannot be loaded."""

    def state_dict(self) -> dict[str, Any]:
        return {"x": 1}

    def load_state_dict(self, state: Any) -> None:
        raise KeyError("mine")


def test_a_part_that_raises_leaves_the_plan_as_it_was() -> None:
    state = trained(selector=Refusing()).state_dict()
    plan = new_plan(selector=Refusing())
    before = str(plan.state_dict())
    with pytest.raises(ValueError, match=r"could not be loaded, and nothing of it was: KeyError\('mine'\)"):
        plan.load_state_dict(state)
    assert str(plan.state_dict()) == before


@pytest.mark.parametrize("name", CHOICES)
def test_states_are_tensors_and_plain_data(name: str) -> None:
    choice = {"name": name, "irreducible": torch.linspace(0, 1, SIZE)} if name == "rho_loss" else name
    is_untrained = name in UNTRAINED or new_plan(selector=choice).selector.needs_pass
    plan = new_plan(selector=choice) if is_untrained else trained(selector=choice)
    file = io.BytesIO()
    torch.save(plan.state_dict(), file)
    file.seek(0)
    other = new_plan(selector=choice)
    other.load_state_dict(torch.load(file, weights_only=True))
    assert str(other.state_dict()) == str(plan.state_dict())


def test_numpy_numbers_as_settings_give_states_that_load() -> None:
    numbers = {
        "epochs": np.int64(3),
        "batch_size": np.int32(8),
        "ratio": np.float32(0.5),
        "seed": np.uint8(1),
    }
    plan = trained(**numbers, tail=np.float64(0), drop_last=np.bool_(True), uniform_epochs=np.int16(1))
    file = io.BytesIO()
    torch.save(plan.state_dict(), file)
    file.seek(0)
    other = new_plan(epochs=3, seed=1, tail=0.0, drop_last=True, uniform_epochs=1)
    other.load_state_dict(torch.load(file, weights_only=True))
    assert other.epoch == 1 and type(other.epochs) is int
