"""Settings, data and labels are looked at once, at the constructor; schedules of the rate are looked into."""

import warnings
from collections.abc import Iterator
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch.optim import lr_scheduler as rates
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from dsenv import DataPlan

pytestmark = pytest.mark.fast

X, Y = torch.rand(100, 3), torch.arange(100) % 4


def new_plan(data: Any = (X, Y), **settings: Any) -> DataPlan:
    return DataPlan(data, **{"epochs": 4, "batch_size": 10, **settings})


NONE_OF_THEM = ["2", None, True, 2.5, float("nan"), -1, [2], {}, b"2", 1j]


@pytest.mark.parametrize("value", [*NONE_OF_THEM, 0, 10**12], ids=repr)
def test_epochs(value: Any) -> None:
    with pytest.raises(ValueError, match="epochs must be a whole number from 1 to 1000000, got"):
        new_plan(epochs=value)


@pytest.mark.parametrize("name", ["batch_size", "uniform_epochs", "scoring_passes", "seed", "classes"])
@pytest.mark.parametrize("value", NONE_OF_THEM, ids=repr)
def test_whole_numbers(name: str, value: Any) -> None:
    if value is None and name in ("scoring_passes", "classes"):
        new_plan(**{name: None})
        return
    with pytest.raises(ValueError, match=f"{name} must be a whole number"):
        new_plan(**{name: value})


@pytest.mark.parametrize("name", ["ratio", "tail"])
@pytest.mark.parametrize("value", ["2", True, float("nan"), -1, [0.5], {}, 1j, 1.5], ids=repr)
def test_shares(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"{name} must be in"):
        new_plan(**{name: value})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"drop_last": 1}, "drop_last must be True or False, got 1"),
        ({"drop_last": None}, "drop_last must be True or False"),
        ({"transform": 3}, "transform must be a function or None, got 3"),
        ({"transform": "normalise"}, "transform must be a function"),
        ({"device": "gpu"}, "device 'gpu' cannot be used"),
        ({"device": 3.5}, "device 3.5 cannot be used"),
        ({"selector": 3}, "selector must be a name"),
        ({"selector": object()}, "selector must be a name"),
        ({"augment": ["trivial"]}, "augment must be a name"),
        ({"volume": 0.5, "ratio": 0.5}, "volume must be a name"),
        ({"policy": 3}, "policy"),
        ({"classes": 1}, "classes must be a whole number of at least 2, got 1"),
        ({"classes": 3}, "labels must be classes, 0 to 2; got 3 at position 3"),
    ],
)
def test_other_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        new_plan(**settings)


def with_label(value: int, place: int) -> torch.Tensor:
    labels = Y.clone()
    labels[place] = value
    return labels


@pytest.mark.parametrize(
    ("labels", "settings", "message"),
    [
        (with_label(-100, 7), {}, "got -100 at position 7: leave such samples out"),
        (with_label(-100, 7), {"classes": 4}, "0 to 3; got -100 at position 7"),
        (with_label(-1, 9), {"classes": 4}, "0 to 3; got -1 at position 9"),
        (with_label(4, 11), {"classes": 4}, "0 to 3; got 4 at position 11"),
        (Y + 1, {"classes": 4}, "0 to 3; got 4 at position 3"),
    ],
)
@pytest.mark.parametrize("kind", ["tensors", "arrays", "TensorDataset"])
def test_labels_that_are_no_classes(labels: torch.Tensor, settings: Any, message: str, kind: str) -> None:
    data: Any = {
        "tensors": (X, labels),
        "arrays": (X.numpy(), labels.numpy()),
        "TensorDataset": TensorDataset(X, labels),
    }[kind]
    with pytest.raises(ValueError, match=message):
        new_plan(data, **settings)


@pytest.mark.parametrize("label", [4, -1, -100])
def test_labels_of_a_loader_are_looked_at_batch_by_batch(label: int) -> None:
    rows = [(X[place], label if place == 42 else int(Y[place])) for place in range(100)]
    plan = new_plan(rows, classes=4)
    with pytest.raises(ValueError, match=f"labels must be classes, 0 to 3; got {label} at position 42"):
        for batch in plan.loader():
            plan.loss(batch, torch.ones(len(batch.index)))


def test_labels_that_a_loop_puts_in_are_left_out_and_said() -> None:
    plan = new_plan(classes=4)
    for batch in plan.batches():
        labels = torch.where(batch.index == 42, 9, batch.labels)
        logits = torch.randn(len(labels), 4)
        plan.loss(batch._replace(labels=labels), logits.logsumexp(1), logits=logits)
    with pytest.warns(UserWarning, match=r"no class: label of 1 sample \(positions 42\)"):
        plan.start_epoch(1)


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        return iter([])

    def __len__(self) -> int:
        return 10


class NoItems(Dataset[Any]):
    def __len__(self) -> int:
        return 10


class NoLength(Dataset[Any]):
    def __getitem__(self, place: int) -> Any:
        return place


class Broken(NoLength):
    def __len__(self) -> int:
        raise NotImplementedError


class Frame:
    """What a data frame looks like."""

    columns = ("a", "b")
    iloc = dtypes = None

    def __len__(self) -> int:
        return 10

    def __getitem__(self, name: str) -> Any:
        raise KeyError(name)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (Stream(), "got Stream: a stream has no samples to choose from"),
        (NoItems(), "NoItems defines no __getitem__"),
        (NoLength(), "got NoLength: a stream has no samples"),
        (Broken(), "Broken has no length"),
        ({"x": X, "y": Y}, "got dict: columns by name are no samples.*'x', 'y'"),
        (Frame(), "got Frame: of a table pass a pair of arrays"),
        ("data", "got str"),
        (b"data", "got bytes"),
        (None, "got NoneType"),
        (3, "got int"),
        ({1, 2}, "got set"),
        (np.ones((10, 3)), "got ndarray: of arrays pass a pair"),
        ((X,), "got tuple"),
        ((X, Y, Y), "got tuple"),
        ((X, None), "these are Tensor and NoneType"),
        ((X, "labels"), "these are Tensor and str"),
        ([list(range(9)), list(range(9))], "look like inputs and labels"),
        ((X, Y[:-1]), "100 inputs and 99 labels"),
        ((X.numpy(), Y[:-1].numpy()), "100 inputs and 99 labels"),
        ((torch.tensor(1.0), torch.tensor(1)), "a single number as inputs"),
        ((X[:0], Y[:0]), "data is empty"),
        ((X[:0].numpy(), Y[:0].numpy()), "data is empty"),
        ([], "list is empty"),
        ((X, [["a"]] * 100), "labels must be an array of numbers"),
        ((X, [[1], [1, 2]] * 50), "labels must be an array of numbers"),
        (iter([1]), "a stream"),
        (range(0), "range is empty"),
    ],
)
def test_what_is_no_data(data: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        new_plan(data)


def test_labels_as_a_list() -> None:
    plan = new_plan((X, Y.tolist()))
    assert plan.classes == 4 and next(plan.batches()).labels.dtype == torch.int64


# Augmentation and labels that lie on images


MASKS = torch.randint(0, 2, (20, 16, 16))
IMAGES = torch.rand(20, 3, 16, 16)


@pytest.mark.parametrize("labels", [MASKS, MASKS[:, None], MASKS[:, None].expand(20, 2, 16, 16)])
def test_masks_as_labels_are_refused_for_ops_that_move_images(labels: torch.Tensor) -> None:
    plan = DataPlan((IMAGES, labels), epochs=2, batch_size=5, augment="trivial")
    with pytest.raises(
        ValueError,
        match=r"augment moves images \(shear_x.*are masks or other places that would not move along",
    ):
        next(plan.batches())
    ops = ["brightness", "contrast"]
    plan = DataPlan((IMAGES, labels), epochs=2, batch_size=5, augment={"name": "trivial", "ops": ops})
    next(plan.batches())


def test_boxes_as_targets_are_refused_too() -> None:
    rows = [(IMAGES[place], {"boxes": torch.zeros(1, 4), "labels": torch.tensor([1])}) for place in range(20)]
    plan = DataPlan(rows, epochs=2, batch_size=5, augment="trivial")

    def collate(items: Any) -> Any:
        places, samples = zip(*items, strict=True)
        return places, (torch.stack([x for x, _ in samples]), [target for _, target in samples])

    with pytest.raises(ValueError, match="targets with boxes that would not move along"):
        next(iter(plan.loader(collate_fn=collate, indexed=True)))


# Learning-rate schedules


def optimizer() -> torch.optim.Optimizer:
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], 0.1)


FULL, PLANNED = 40, 20  # steps on all data, and on half of them


def warm_up(total: int) -> Any:
    inner = optimizer()
    parts = [rates.LinearLR(inner, 0.1, total_iters=5), rates.CosineAnnealingLR(inner, total - 5)]
    return rates.SequentialLR(inner, parts, milestones=[5])


def chained(total: int) -> Any:
    inner = optimizer()
    parts = [rates.LinearLR(inner, 0.1, total_iters=5), rates.CosineAnnealingLR(inner, total)]
    return rates.ChainedScheduler(parts)


def nested(total: int) -> Any:
    inner = optimizer()
    first = [rates.ConstantLR(inner, 0.1, total_iters=2), rates.LinearLR(inner, 0.1, total_iters=2)]
    last = rates.ChainedScheduler(
        [rates.PolynomialLR(inner, total_iters=total - 4), rates.ExponentialLR(inner, 0.9)]
    )
    return rates.SequentialLR(inner, [rates.SequentialLR(inner, first, [2]), last], milestones=[4])


def as_hugging_face(total: int) -> Any:
    def shape(step: int, *, num_warmup_steps: int, num_training_steps: int) -> float:
        return 1 - step / num_training_steps

    return rates.LambdaLR(optimizer(), partial(shape, num_warmup_steps=5, num_training_steps=total))


SCHEDULES: dict[str, Any] = {
    "OneCycleLR": lambda total: rates.OneCycleLR(optimizer(), 0.1, total_steps=total),
    "CosineAnnealingLR": lambda total: rates.CosineAnnealingLR(optimizer(), total),
    "PolynomialLR": lambda total: rates.PolynomialLR(optimizer(), total_iters=total),
    "falling LinearLR": lambda total: rates.LinearLR(optimizer(), 1.0, 0.1, total_iters=total),
    "SequentialLR": warm_up,
    "ChainedScheduler": chained,
    "nested": nested,
    "LambdaLR": as_hugging_face,
}


def said(plan: DataPlan, scheduler: Any, **settings: Any) -> list[str]:
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        plan.check_scheduler(scheduler, **settings)
    return [str(warning.message) for warning in found]


@pytest.mark.filterwarnings("ignore::UserWarning")  # of torch: steps of schedules that were never stepped
@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_are_looked_into(name: str) -> None:
    plan, make = new_plan(ratio=0.5), SCHEDULES[name]
    assert plan.total_steps == PLANNED
    assert said(plan, make(PLANNED)) == []
    (message,) = said(plan, make(FULL))
    assert "is made for 40 steps, the plan has 20 steps in 4 epochs" in message


def test_gradient_accumulation() -> None:
    plan = new_plan(ratio=0.5)  # five batches an epoch
    make = SCHEDULES["CosineAnnealingLR"]
    for total in (12, 10, 8):  # the rest of an epoch makes a step, goes into the next epoch, is dropped
        assert said(plan, make(total), accumulate=2) == []
    for total in (20, 40):
        (message,) = said(plan, make(total), accumulate=2)
        assert f"made for {total} steps, the plan has 12 steps" in message and "steps of 2 batches" in message
    for value in (0, 1.5, "2", True):
        with pytest.raises(ValueError, match="accumulate must be a whole number"):
            plan.check_scheduler(make(20), accumulate=value)


def test_schedules_without_an_end_and_those_that_do_not_tell() -> None:
    plan = new_plan(ratio=0.5)
    endless = [
        rates.StepLR(optimizer(), 5),
        rates.ExponentialLR(optimizer(), 0.9),
        rates.ReduceLROnPlateau(optimizer()),
        rates.CosineAnnealingWarmRestarts(optimizer(), 5),
        rates.MultiStepLR(optimizer(), [10, 15]),
        rates.LinearLR(optimizer(), 0.1, total_iters=5),
        plan.lr_scheduler(optimizer(), lambda progress: 1 - progress),
        SCHEDULES["CosineAnnealingLR"](4),  # steps once an epoch
    ]
    for scheduler in endless:
        assert said(plan, scheduler) == [], scheduler
    for scheduler in (rates.LambdaLR(optimizer(), lambda step: 0.9**step), SimpleNamespace(step=print)):
        (message,) = said(plan, scheduler)
        assert "does not tell for how many steps it is made; see to it that they are 20" in message
    (message,) = said(plan, rates.MultiStepLR(optimizer(), [10, 30]))
    assert "is made for 30 steps" in message


def test_a_plan_reads_its_own_data_with_loaders_of_any_setting() -> None:
    rows = [(X[place], int(Y[place])) for place in range(100)]
    plan = new_plan(rows, classes=4)
    for name in ("batch_size", "sampler", "shuffle", "drop_last", "generator", "batch_sampler"):
        with pytest.raises(ValueError, match=f"the plan decides {name}"):
            plan.loader(**{name: 1})
    assert isinstance(plan.loader(num_workers=0).loader, DataLoader)
