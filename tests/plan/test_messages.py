"""What goes wrong says what to do instead."""

import re
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from dsenv.plan import DataPlan, FeatureForward
from dsenv.volume.constant import Constant
from tests.plan.loops import HIDDEN, TRAIN, Loop, new_model, new_plan


def first_batch(plan: DataPlan) -> Any:
    return next(iter(plan.batches()))


@pytest.mark.parametrize("loss", [torch.tensor(0.7), torch.tensor(0.7, dtype=torch.float64)])
def test_a_scalar_loss_is_refused_with_the_fix(loss: Any) -> None:
    plan = new_plan()
    with pytest.raises(ValueError, match=r"loss of each sample, got a scalar; .*reduction='none'"):
        plan.loss(first_batch(plan), loss)


def test_losses_of_another_shape() -> None:
    plan = new_plan()
    with pytest.raises(ValueError, match=r"shape \(64,\), one value a sample, got \(64, 12\).*mean\(1\)"):
        plan.loss(first_batch(plan), torch.rand(64, 12))


def test_losses_on_another_device() -> None:
    plan = new_plan()
    with pytest.raises(ValueError, match=r"losses are on meta, .* on cpu; give DataPlan\(device='meta'"):
        plan.loss(first_batch(plan), torch.rand(64, device="meta"))


def test_a_loader_with_another_batch_size() -> None:
    plan = new_plan(augment="trivial")
    loader = DataLoader(plan.dataset, batch_size=16, sampler=plan.sampler)
    with pytest.raises(ValueError, match=r"16 samples, the plan makes steps of 64: .*plan.batch_size"):
        plan.batch(*next(iter(loader)))


def test_an_epoch_without_losses_is_noticed() -> None:
    plan = new_plan()
    with pytest.warns(UserWarning, match=r"epoch 0 ended without plan\.loss") as caught:
        for epoch in plan.epochs_left():
            for batch in plan.batches():
                if epoch:
                    plan.loss(batch, torch.rand(len(batch.index)))
    assert len(caught) == 1 and caught[0].filename == __file__


def test_fewer_classes_in_the_labels_than_outputs() -> None:
    plan = DataPlan((TRAIN[0], TRAIN[1].clamp(max=8)), epochs=2, batch_size=64)
    with pytest.raises(ValueError, match=r"shape \(64, 9\), got \(64, 10\); .*set DataPlan\(classes=...\)"):
        plan.loss(first_batch(plan), torch.rand(64), logits=torch.rand(64, 10))


def test_a_pass_over_labels_that_are_no_classes() -> None:
    plan = DataPlan((TRAIN[0].float(), TRAIN[1].int()), epochs=2, batch_size=64, selector="grand", ratio=0.5)
    with pytest.raises(ValueError, match=r"int64 class labels, one a sample, got torch.int32"):
        plan.score(new_model())


def test_a_model_compiled_without_the_hook() -> None:
    forward = new_model()
    compiled = torch.compile(forward.model, backend="eager")
    compiled(torch.rand(4, 64))
    with pytest.raises(ValueError, match=r"compiled model that ran before goes on without the hook"):
        FeatureForward(compiled, forward.head)(torch.rand(4, 64))


@pytest.mark.fast
@pytest.mark.parametrize(
    ("settings", "missing"),
    [
        ({"selector": "el2n"}, "EL2N needs the logits"),
        ({"selector": "forgetting"}, "Forgetting needs the logits"),
        ({"selector": {"name": "ranked", "by": "entropy"}}, "Ranked needs the logits"),
        ({"selector": "data_agent"}, "DataAgent needs the logits"),
        ({"augment": "sada"}, "SADA needs the logits"),
        ({"augment": "ent_augment"}, "EntAugment needs the logits"),
        ({"augment": {"name": "ada_augment", "features": 3}}, "AdaAugment needs the features"),
    ],
)
def test_missing_outputs_are_named(settings: dict[str, Any], missing: str) -> None:
    plan = new_plan(ratio=0.5, **settings)
    with pytest.raises(ValueError, match=missing + r" of every training batch: plan.loss\(batch, losses, "):
        plan.loss(first_batch(plan), torch.rand(64))


def test_missing_features_say_how_to_get_them() -> None:
    plan = new_plan(selector="data_agent", ratio=0.5)
    with pytest.raises(ValueError, match=r"needs the features .*FeatureForward\(model, head\)"):
        plan.loss(first_batch(plan), torch.rand(64), logits=torch.rand(64, 10))


def test_missing_views_are_named() -> None:
    plan = new_plan(augment={"name": "ada_augment", "features": HIDDEN})
    batch = first_batch(plan)
    with pytest.raises(ValueError, match=r"AdaAugment compares the losses of 3 views: .*forward=forward"):
        plan.loss(batch, torch.rand(64), features=torch.rand(64, HIDDEN))


@pytest.mark.parametrize("selector", ["moderate", "grand", "glister", "divbs"])
def test_a_missing_pass_is_named(selector: str) -> None:
    with pytest.raises(ValueError, match=r"call plan\.score\(forward\) before the first batch of epoch 0"):
        new_plan(selector=selector, ratio=0.5).batches()


def test_a_pass_without_features_or_validation_is_named() -> None:
    forward = new_model()
    with pytest.raises(ValueError, match="Moderate needs the features of the pass"):
        new_plan(selector="moderate", ratio=0.5).score(forward.model)
    with pytest.raises(ValueError, match="Glister needs a pass over a validation split"):
        new_plan(selector="glister", ratio=0.5).score(forward)
    with pytest.raises(ValueError, match=r"must give logits, or a pair .*got dict"):
        new_plan(selector="moderate", ratio=0.5).score(lambda inputs: {"logits": inputs})


@pytest.mark.fast
def test_an_epoch_that_is_over_says_so() -> None:
    plan = new_plan()
    for batch in plan.batches():
        plan.loss(batch, torch.rand(len(batch.index)))
    for again in (plan.batches, lambda: iter(plan.loader()), lambda: iter(plan.sampler)):
        with pytest.raises(ValueError, match=r"epoch 0 is over; go on with .*plan.start_epoch\(1\)"):
            again()
    with pytest.raises(ValueError, match=r"taken in before.*a sample counts once an epoch.*plan.weighted"):
        plan.loss(batch, torch.rand(len(batch.index)))


@pytest.mark.fast
def test_epochs_cannot_be_skipped_and_end() -> None:
    plan = new_plan(epochs=2)
    with pytest.raises(ValueError, match="in epoch 0 and can go on to 1, not to 5"):
        plan.start_epoch(5)
    for epoch in (1, 2):
        with pytest.warns(UserWarning, match="ended without plan.loss"):
            plan.start_epoch(epoch)
    with pytest.raises(ValueError, match="2 epochs are over"):
        plan.batches()


@pytest.mark.fast
def test_names_and_settings() -> None:
    for settings, message in (
        ({"selector": "infobach"}, "no selector called 'infobach'. Did you mean 'infobatch'"),
        ({"volume": "pod", "ratio": 0.5}, "no volume called 'pod'. Did you mean 'pods'"),
        ({"augment": "sad"}, "no augment called 'sad'. Did you mean 'sada'"),
        (
            {"selector": {"name": "infobatch", "kep": 0.3}},
            "setting of selector infobatch called 'kep'. Did you mean 'keep'",
        ),
        ({"selector": "rho_loss"}, r"needs the setting 'irreducible'; give selector="),
        ({"augment": "ada_augment"}, r"needs the setting 'features'; give augment="),
        ({"selector": {"keep": 0.3}}, "selector needs a name"),
        ({"selector": "torch.nn:ReLU"}, "selector 'torch.nn:ReLU' must be a Selector, got ReLU"),
        ({"volume": "pods"}, "needs ratio=..., the mean share"),
        ({"volume": Constant(0.5), "ratio": 0.4}, "ratio 0.4 differs from the schedule's target 0.5"),
        ({"ratio": 1.5}, r"ratio must be in \(0, 1\], got 1.5"),
        ({"ratio": 0.1, "selector": "moderate"}, "does not pay for 1 passes"),
        ({"ratio": 0.05, "drop_last": True}, "no full batch of 64; lower batch_size"),
        ({"batch_size": 0}, "batch_size must be a whole number of at least 1"),
        ({"seed": -1}, "seed must be a whole number from 0"),
    ):
        with pytest.raises(ValueError, match=message):
            new_plan(**settings)


def test_data_of_the_wrong_kind() -> None:
    with pytest.raises(ValueError, match="1000 inputs and 3 labels"):
        DataPlan((TRAIN[0], TRAIN[1][:3]), epochs=1, batch_size=4)
    with pytest.raises(ValueError, match=r"map-style data set .* got generator: a stream"):
        DataPlan((i for i in range(3)), epochs=1, batch_size=4)


def test_logits_labels_and_classes() -> None:
    plan = new_plan()
    batch = first_batch(plan)
    with pytest.raises(ValueError, match=r"logits must have shape \(64, 10\), got \(64, 7\)"):
        plan.loss(batch, torch.rand(64), logits=torch.rand(64, 7))
    with pytest.raises(ValueError, match=r"batch.labels must be int64 classes of shape \(64,\)"):
        plan.loss(batch._replace(labels=None), torch.rand(64), logits=torch.rand(64, 10))
    with pytest.raises(ValueError, match=r"got torch.int32 \(64,\); give the plan labels.long\(\)"):
        plan.loss(batch._replace(labels=batch.labels.int()), torch.rand(64), logits=torch.rand(64, 10))
    regression = DataPlan((TRAIN[0], torch.rand(1000)), epochs=1, batch_size=64)
    with pytest.raises(ValueError, match=r"set DataPlan\(classes=...\)"):
        regression.loss(first_batch(regression), torch.rand(64), logits=torch.rand(64, 10))
    with pytest.raises(ValueError, match=r"'sada' needs the setting 'classes'; give classes=\.\.\."):
        DataPlan((TRAIN[0], torch.rand(1000)), epochs=1, batch_size=64, augment="sada")


@pytest.mark.fast
@pytest.mark.parametrize("shape", [(65, 3), (64, 3, 1), (64,)])
def test_features_of_another_shape(shape: tuple[int, ...]) -> None:
    plan = new_plan()
    with pytest.raises(ValueError, match=rf"features must have shape \(64, D\), got {re.escape(str(shape))}"):
        plan.loss(first_batch(plan), torch.rand(64), features=torch.rand(shape))


def test_logits_now_and_then_are_refused() -> None:
    plan = new_plan()
    batches = plan.batches()
    plan.loss(next(batches), torch.rand(64), logits=torch.rand(64, 10))
    with pytest.raises(ValueError, match="some batches of this epoch came with logits and some without"):
        plan.loss(next(batches), torch.rand(64))


@pytest.mark.fast
def test_features_are_what_the_head_is_given() -> None:
    forward = new_model()
    logits, features = forward(torch.rand(5, 1, 8, 8))
    torch.testing.assert_close(forward.head(features), logits)
    assert not forward.head._forward_pre_hooks
    with pytest.raises(ValueError, match="not a module of the model"):
        FeatureForward(forward.model, nn.Linear(2, 2))


def test_look_leaves_the_model_in_training_mode() -> None:
    loop = Loop(new_plan(selector="moderate", ratio=0.5))
    loop.forward.model.train()
    loop.plan.score(loop.forward)
    assert all(module.training for module in loop.forward.model.modules())
