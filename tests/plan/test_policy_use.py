"""A policy in the hands of users: data in many forms, mixed precision, paths that lead elsewhere."""

from typing import Any

import numpy as np
import pytest
import torch

from dsenv.plan import DataPlan
from dsenv.policy import Policy
from tests.plan.loops import TRAIN, Loop, new_plan, same_batches, scale
from tests.policy.policies import new_policy

POLICY = new_policy(validation_shown=0.5)
IMAGES, LABELS = TRAIN


def trained(pair: Any) -> Loop:
    return Loop(DataPlan(pair, epochs=2, batch_size=64, policy=POLICY, ratio=0.5, transform=scale)).run()


@pytest.fixture(scope="module")
def of_tensors() -> Loop:
    return trained(TRAIN)


@pytest.mark.parametrize(
    "data",
    [
        (IMAGES, LABELS.numpy()),
        [IMAGES, LABELS.numpy().astype(np.int32)],
        (IMAGES.numpy(), LABELS),
        (IMAGES.numpy(), LABELS.tolist()),
    ],
    ids=["tensor, array", "list of both", "array, tensor", "array, list"],
)
def test_pairs_of_tensors_and_arrays_are_the_same_data(data: Any, of_tensors: Loop) -> None:
    assert same_batches(trained(data).batches, of_tensors.batches)


@pytest.mark.parametrize("labels", [LABELS.int(), LABELS[:, None], LABELS > 4, LABELS.numpy() > 4])
def test_labels_that_do_not_tell_the_classes_say_so(labels: Any) -> None:
    with pytest.raises(ValueError, match=r"number of classes; .* or labels that tell: int64 of shape \(N,\)"):
        DataPlan((IMAGES, labels), epochs=2, batch_size=64, policy=POLICY)


@pytest.mark.parametrize("name", ["curriculum", "ratio", "joint", "strength"])
def test_batches_may_be_asked_for_within_autocast(name: str) -> None:
    policy = new_policy(name, validation_shown=0.0, scale=5.0)
    plans = [new_plan(policy=policy, ratio=0.5, epochs=3) for _ in range(2)]
    chosen: list[list[Any]] = [[], []]
    for number, plan in enumerate(plans):
        for _ in plan.epochs_left():
            with torch.autocast("cpu", torch.bfloat16, enabled=number == 1):
                for batch in plan.batches():
                    logits = torch.linspace(-1, 1, 10) * batch.labels[:, None]
                    plan.loss(batch, batch.labels.float(), logits=logits)
                    chosen[number].append(batch)
    assert same_batches(*chosen)


def test_what_is_no_policy_says_what_is(tmp_path: Any) -> None:
    for strange in (3, {"name": "learned", "policy": "curriculum"}, b"curriculum"):
        with pytest.raises(
            ValueError, match=r"a policy is a dsenv\.Policy, the path of its file or the name"
        ):
            new_plan(policy=strange)
    for path in ("runs/RUN/best_model", "best_model.zip", "./curriculum"):
        with pytest.raises(FileNotFoundError, match=r"no policy at .*looked from"):
            new_plan(policy=path)
    with pytest.raises(ValueError, match="it is a folder"):
        new_plan(policy=str(tmp_path))
    with pytest.raises(ValueError, match=r"\.zip, \.pt, \.pkl\) are never opened"):
        (tmp_path / "best_model.zip").write_bytes(b"PK\x03\x04")
        new_plan(policy=str(tmp_path / "best_model.zip"))


def test_odd_names_and_links(tmp_path: Any) -> None:
    path = POLICY.save(tmp_path / "pölicy mit Leer\N{GRINNING FACE}.safetensors")
    link = tmp_path / "link.safetensors"
    link.symlink_to(path)
    assert Policy.load(link).digest == Policy.load(str(path)).digest == POLICY.digest
    link.unlink()
    link.symlink_to(tmp_path / "gone.safetensors")
    with pytest.raises(FileNotFoundError, match="no policy at"):
        Policy.load(link)


@pytest.mark.parametrize(("size", "epochs"), [(2, 6), (30, 1), (30, 9)])
def test_few_samples_and_another_length_than_trained(size: int, epochs: int) -> None:
    data = (IMAGES[:size], LABELS[:size] % 2)
    for name in ("curriculum", "ratio", "joint"):
        policy = new_policy(name, validation_shown=0.5, scale=20.0)
        plan = DataPlan(data, epochs=epochs, batch_size=8, policy=policy, classes=10, transform=scale)
        Loop(plan).run()
        assert plan.cost.trained == round(0.5 * size * epochs) and plan.progress == 1


@pytest.mark.parametrize("name", ["curriculum", "ratio", "joint"])
def test_losses_that_are_not_finite_leave_the_budget_alone(name: str) -> None:
    policy = new_policy(name, validation_shown=0.0)
    plan = new_plan(policy=policy, ratio=0.5, epochs=3)
    for _ in plan.epochs_left():
        for batch in plan.batches():
            nothing = torch.full((len(batch.index),), torch.nan)
            plan.loss(batch, nothing, logits=nothing[:, None].expand(-1, 10))
        assert len(plan.epoch_sampler.chosen.index.unique()) == len(plan.epoch_sampler.chosen.index)
        (runner,) = plan.epoch_sampler.policies.runners
        assert bool(runner.state.selected.isfinite().all())
    assert plan.cost.trained == round(0.5 * 3 * len(LABELS))
