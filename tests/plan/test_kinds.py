"""Plans for tasks that are no classification: what they take, what they learn from, what they refuse."""

import copy

import pytest
import torch
from torch import nn

import dsenv
from dsenv import DataPlan
from dsenv.tracking.names import TRAIN_ACCURACY

SIZE, BATCH, EPOCHS = 120, 20, 4


def regression_data():
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(SIZE, 5, generator=generator)
    targets = inputs @ torch.arange(1.0, 6.0)[:, None] + 2
    return inputs, targets


def labels_data():
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(SIZE, 6, generator=generator)
    return inputs, (inputs @ torch.randn(6, 3, generator=generator) > 0).long()


DATA = {"regression": regression_data, "multilabel": labels_data}


def model_for(data):
    torch.manual_seed(0)
    return nn.Linear(data[0].shape[1], data[1].shape[1])


def run(plan, model, seen=None, **how):
    """Train to the end of the plan; `seen` collects (epoch, positions)."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    for epoch in plan.epochs_left():
        for batch in plan.batches():
            outputs = model(batch.inputs)
            losses = plan.kind.sample_loss(outputs, batch.labels)
            given = {name: value(outputs, batch, losses) for name, value in how.items()} or {
                "outputs": outputs
            }
            if plan.selector.needs_features:
                given["features"] = batch.inputs
            loss = plan.loss(batch, losses, **given)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if seen is not None:
                seen.append((epoch, batch.index.tolist()))
    return plan


@pytest.mark.parametrize("kind", DATA)
@pytest.mark.parametrize(
    "selector", ["random", "infobatch", "small_loss", "ucb", "trim", "el2n", "forgetting"]
)
def test_a_plan_trains_on_each_kind(kind, selector):
    data = DATA[kind]()
    plan = run(
        DataPlan(data, epochs=EPOCHS, batch_size=BATCH, selector=selector, ratio=0.5, kind=kind),
        model_for(data),
    )
    assert plan.cost.trained == SIZE * EPOCHS // 2
    assert plan.signals.loss[plan.signals.seen].mean() < plan.kind.guess_loss * 2
    margin = plan.signals.margin
    assert ((margin > 0) == (plan.signals.correct > 0))[plan.signals.seen & (margin.abs() > 0.99)].all()


def test_signals_are_those_that_the_kind_reads():
    data = labels_data()
    model = model_for(data)
    plan = DataPlan(data, epochs=1, batch_size=SIZE, kind="multilabel")
    batch = next(iter(plan.batches()))
    with torch.no_grad():
        outputs = model(batch.inputs)
    losses = plan.kind.sample_loss(outputs, batch.labels)
    plan.observe(batch, losses, outputs=outputs)
    for _ in plan.epochs_left():
        pass

    wanted = plan.kind.read(outputs, batch.labels, losses)
    for name in ("confidence", "entropy", "margin", "correct"):
        torch.testing.assert_close(getattr(plan.signals, name)[batch.index], wanted[name])


def test_what_the_loop_has_read_itself_takes_the_place_of_outputs():
    data = labels_data()
    read = {"signals": lambda outputs, batch, losses: plan.kind.read(outputs, batch.labels, losses)}
    plan = DataPlan(data, epochs=EPOCHS, batch_size=BATCH, selector="trim", ratio=0.5, kind="multilabel")
    other = DataPlan(data, epochs=EPOCHS, batch_size=BATCH, selector="trim", ratio=0.5, kind="multilabel")
    mine, theirs = [], []
    run(plan, model_for(data), mine, **read)
    run(other, model_for(data), theirs)
    assert mine == theirs


def test_data_agent_learns_from_the_entropy_of_any_kind():
    data = labels_data()
    plan = DataPlan(
        data, epochs=EPOCHS, batch_size=BATCH, selector="data_agent", ratio=0.5, kind="multilabel"
    )
    run(plan, model_for(data))
    assert plan.selector.score.std() > 0


REFUSED = {
    "grand": "needs the logits of classes, and a task of kind multilabel has none",
    "moderate": "needs labels that are classes",
    "glister": "needs the logits of classes",
}


@pytest.mark.parametrize("selector", REFUSED)
def test_parts_that_need_classes_are_refused(selector):
    with pytest.raises(ValueError, match=REFUSED[selector]):
        DataPlan(labels_data(), epochs=2, batch_size=BATCH, selector=selector, ratio=0.5, kind="multilabel")


@pytest.mark.parametrize("selector", [{"name": "ranked", "by": "entropy"}, "data_agent"])
def test_a_part_that_reads_what_a_kind_does_not_give_is_refused_with_the_reason(selector):
    with pytest.raises(ValueError, match="gives no entropy: a point prediction has no distribution"):
        DataPlan(
            regression_data(), epochs=2, batch_size=BATCH, selector=selector, ratio=0.5, kind="regression"
        )


@pytest.mark.parametrize("kind", DATA)
def test_a_policy_of_classification_runs_on_other_kinds(kind):
    data = DATA[kind]()
    policy = dsenv.pretrained("curriculum")
    with pytest.warns(
        UserWarning, match=f"trained on classification, and this plan is of {kind}: it may do harm"
    ):
        plan = DataPlan(
            data, epochs=EPOCHS, batch_size=BATCH, policy=policy, ratio=0.5, kind=kind, guard=True
        )
    run(plan, model_for(data))
    assert 0 <= plan.metrics()[TRAIN_ACCURACY] <= 1
    assert plan.guard.agreement() >= 0 or len(plan.guard.reserve) == 0
    assert plan.cost.trained == SIZE * EPOCHS // 2


@pytest.mark.parametrize("kind", DATA)
def test_a_state_in_the_middle_of_an_epoch_goes_on_bit_for_bit(kind):
    data, settings = DATA[kind](), {"epochs": EPOCHS, "batch_size": BATCH, "selector": "trim", "ratio": 0.5}
    plan, model = DataPlan(data, kind=kind, **settings), model_for(data)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    batches = iter(plan.batches())
    for _ in range(2):
        batch = next(batches)
        outputs = model(batch.inputs)
        plan.loss(batch, plan.kind.sample_loss(outputs, batch.labels), outputs=outputs).backward()
        optimizer.step()
        optimizer.zero_grad()

    again, twin = DataPlan(data, kind=kind, **settings), copy.deepcopy(model)
    again.load_state_dict(plan.state_dict())
    mine, theirs = [], []
    run(plan, model, mine)
    run(again, twin, theirs)
    assert mine == theirs
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), twin.parameters(), strict=True))


def test_a_state_of_another_kind_is_refused():
    inputs, targets = regression_data()
    plan = DataPlan((inputs, targets), epochs=2, batch_size=BATCH, kind={"name": "regression", "scale": 1.0})
    other = DataPlan((inputs, targets), epochs=2, batch_size=BATCH, kind={"name": "regression", "scale": 2.0})
    with pytest.raises(ValueError, match="kind"):
        other.load_state_dict(plan.state_dict())


def test_outputs_that_are_not_finite_are_left_out_and_named():
    data = regression_data()
    plan = DataPlan(data, epochs=2, batch_size=SIZE, kind="regression")
    for _ in plan.epochs_left():
        batch = next(iter(plan.batches()))
        outputs = torch.zeros(SIZE, 1)
        outputs[batch.index == 7] = torch.nan
        losses = plan.kind.sample_loss(outputs, batch.labels).nan_to_num(1.0)
        if plan.epoch == 1:
            plan.observe(batch, losses, outputs=torch.zeros(SIZE, 1))
            continue
        plan.observe(batch, losses, outputs=outputs)
        with pytest.warns(UserWarning, match=r"not finite: outputs of 1 sample \(positions 7\)"):
            plan.start_epoch(1)
        assert plan.signals.times_trained[7] == 1
        assert plan.nonfinite[7] == 1


BAD = {
    "logits for another kind": ({"logits": torch.zeros(BATCH, 1)}, r"no logits of classes.*outputs=outputs"),
    "outputs of another shape": ({"outputs": torch.zeros(BATCH)}, r"must have the shape of the targets"),
    "an unknown reading": ({"signals": {"colour": torch.zeros(BATCH)}}, "colour"),
    "a reading the kind has not": ({"signals": {"entropy": torch.zeros(BATCH)}}, "a point prediction"),
    "readings that are no table": ({"signals": torch.zeros(BATCH)}, "tensors by name"),
    "a reading of another shape": ({"signals": {"margin": torch.zeros(3)}}, r"must be floating, \(20,\)"),
    "both": (
        {"outputs": torch.zeros(BATCH, 1), "signals": {"margin": torch.zeros(BATCH)}},
        "give one of them",
    ),
    "nothing": ({}, r"needs the outputs of every training batch: plan.loss\(batch, losses, outputs="),
}


@pytest.mark.parametrize("name", BAD)
def test_what_does_not_fit_the_kind_is_named(name):
    given, message = BAD[name]
    plan = DataPlan(
        regression_data(), epochs=2, batch_size=BATCH, selector="trim", ratio=0.5, kind="regression"
    )
    batch = next(iter(plan.batches()))
    with pytest.raises(ValueError, match=message):
        plan.loss(batch, torch.zeros(BATCH), **given)


def test_suspects_are_for_classes():
    plan = DataPlan(regression_data(), epochs=2, batch_size=BATCH, kind="regression")
    with pytest.raises(ValueError, match="kind regression has no classes"):
        plan.suspects()


def test_regression_without_targets_at_hand_needs_their_scale():
    samples = [(torch.zeros(3), torch.zeros(1)) for _ in range(20)]
    with pytest.raises(ValueError, match="standard deviation of the targets"):
        DataPlan(samples, epochs=2, batch_size=5, kind="regression")
    plan = DataPlan(samples, epochs=2, batch_size=5, kind={"name": "regression", "scale": 2.0})
    assert plan.kind.scale == 2
