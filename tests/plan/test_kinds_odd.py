"""What a loop hands over for other kinds of task, as users get it wrong: refused in words, never silent."""

import pytest
import torch
from torch import nn

import dsenv
from dsenv import DataPlan
from dsenv.task_kinds import TaskKind, make_kind
from dsenv.task_kinds.classification import Classification
from dsenv.tasks import from_tensors
from dsenv.tasks.dataset import Dataset
from dsenv.text import from_logits
from dsenv.tracking.names import TRAIN_ACCURACY

SIZE, BATCH = 40, 10
INPUTS = torch.rand(SIZE, 4, generator=torch.Generator().manual_seed(0))
NUMBERS = torch.randn(SIZE, generator=torch.Generator().manual_seed(1))
LABELS = (NUMBERS > 0).long()
BOXES = [(torch.rand(3, 8, 8), {"boxes": torch.zeros(0, 4), "labels": LABELS[:0]}) for _ in range(SIZE)]


class Own(TaskKind):
    """A kind of one's own with one reading."""

    guess_loss = 1.0
    gives = ("confidence",)

    def __init__(self, readings=None, **values):
        self.readings = readings
        vars(self).update(values)

    def sample_loss(self, outputs, targets):
        return (outputs - targets).square()

    def read(self, outputs, targets, loss):
        return {"confidence": torch.exp(-loss)} if self.readings is None else self.readings


def run(plan, given=None, loss=None):
    """Train an epoch; `given` makes what is handed over of outputs and losses."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 1), nn.Flatten(0))
    for batch in plan.batches():
        outputs = model(batch.inputs)
        losses = (outputs - batch.labels).square() if loss is None else loss(outputs)
        plan.loss(batch, losses, **({"outputs": outputs} if given is None else given(losses.detach())))
    plan.start_epoch(1)
    return plan


def plan_of(kind="regression", data=(INPUTS, NUMBERS), **settings):
    return DataPlan(data, epochs=3, batch_size=BATCH, kind=kind, **settings)


@pytest.mark.parametrize(
    ("readings", "words"),
    [
        ({}, "must give a table of confidence, .* got nothing"),
        ({"confidence": torch.ones(BATCH), "foo": torch.ones(BATCH)}, "got confidence, foo"),
        ([torch.ones(BATCH)], "got list"),
        ({"confidence": 0.5}, "confidence as float"),
        ({"confidence": torch.ones(BATCH, 1)}, r"of shape \(10, 1\)"),
    ],
)
def test_a_kind_of_ones_own_reads_what_it_says(readings, words):
    with pytest.raises(ValueError, match=words):
        run(plan_of(Own(readings)))
    with pytest.raises(ValueError, match=words):
        plan_of(Own(readings), selector="k_center", ratio=0.5).score(lambda x: (x[:, 0], x), batch_size=BATCH)


@pytest.mark.parametrize("values", [{"guess_loss": 0.0}, {"guess_loss": None}, {"guess_confidence": 2.0}])
def test_a_kind_of_ones_own_says_what_a_guess_is(values):
    with pytest.raises(ValueError, match=f"Own.{next(iter(values))} must be"):
        plan_of(Own(**values))


@pytest.mark.parametrize(
    ("signals", "words"),
    [
        (lambda loss: {"confidence": loss + 7}, r"must be in \[0, 1\], got"),
        (lambda loss: {"margin": -loss - 2}, r"must be in \[-1, 1\], got"),
        (lambda loss: {"error": -loss - 1}, r"must be in \[0, inf\], got"),
    ],
)
def test_signals_lie_where_they_have_to(signals, words):
    with pytest.raises(ValueError, match=words):
        run(plan_of(), lambda loss: {"signals": signals(loss)})


def test_signals_that_were_not_given_are_unknown_and_no_number():
    plan = run(plan_of(), lambda loss: {"signals": {"confidence": torch.exp(-loss)}})
    assert plan.signals.confidence.min() < 1
    assert TRAIN_ACCURACY not in plan.metrics()
    with pytest.raises(ValueError, match="needs the correct of each sample"):
        _ = plan.signals.correct

    plan = run(plan_of(), lambda loss: {"signals": {"correct": (loss < 1).float()}})
    assert plan.metrics()[TRAIN_ACCURACY] == pytest.approx(float(plan.signals.correct.mean()))


def test_a_policy_is_not_shown_what_nobody_gave():
    plan = plan_of(policy="curriculum", guard=False)
    with pytest.raises(ValueError, match="reads the margin of every training batch"):
        run(plan, lambda loss: {"signals": {"confidence": torch.exp(-loss)}})


def test_a_guard_is_refused_where_the_kind_gives_nothing_to_measure():
    with pytest.raises(ValueError, match=r"a guard reads .* gives no confidence: .*; give guard=False"):
        plan_of("detection", BOXES, selector="small_loss", ratio=0.5, guard=True)
    plan_of("regression", selector="small_loss", ratio=0.5, guard=True)


class Writer:
    """Takes what a log writes."""

    def __init__(self):
        self.histograms = []

    def add_scalar(self, *_):
        pass

    def add_histogram(self, name, *_):
        self.histograms.append(name)

    def add_image(self, *_, **__):
        pass

    def add_custom_scalars(self, _):
        pass


def test_a_log_has_no_confidences_where_nothing_is_known_of_them():
    plan, writer = plan_of("detection", BOXES), Writer()
    plan.log_to(writer)
    for batch in plan.loader(collate_fn=lambda samples: tuple(zip(*samples, strict=True))):
        parts = {"classes": torch.rand(len(batch.index)), "boxes": torch.rand(len(batch.index))}
        plan.loss(batch, sum(parts.values()), outputs=parts)
    plan.start_epoch(1)
    assert writer.histograms == ["pool/losses"]


@pytest.mark.parametrize("tokens", [torch.nan, torch.inf, 0.0])
def test_tokens_are_finite_and_at_least_one(tokens):
    with pytest.raises(ValueError, match="tokens must be at least 1 for each sample, and finite"):
        run(plan_of(), lambda loss: {"tokens": torch.full_like(loss, tokens)})


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_the_loss_of_a_batch_may_have_any_floating_type(dtype):
    plan = plan_of(loss_of="batch")
    run(plan, lambda _: {}, lambda outputs: outputs.square().mean().to(dtype))
    assert plan.signals.loss.dtype == torch.float32
    assert bool((plan.signals.times_trained == 1).all())


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        (Classification(4), (INPUTS, LABELS)),
        ({"name": "multilabel", "labels": 2}, (INPUTS, LABELS[:, None].expand(-1, 2))),
    ],
)
def test_two_numbers_of_classes_are_refused(kind, data):
    with pytest.raises(ValueError, match="classes=5 was given"):
        plan_of(kind, data, classes=5)
    with pytest.raises(ValueError, match="classes=5 was given"):
        from_tensors(*data, kind=kind, classes=5)


def test_held_out_targets_of_a_pass_are_no_classes():
    plan = plan_of(selector="k_center", ratio=0.5)
    held_out = INPUTS[:5], torch.arange(5) - 100
    plan.score(lambda x: (x[:, 0], x), validation=held_out)
    assert plan.cost.extra_forwards == len(INPUTS) + 5


def test_data_sets_take_a_kind_in_any_form():
    for kind in (None, "classification", Classification(3), {"name": "classification", "classes": 3}):
        data = from_tensors(INPUTS, LABELS, kind=kind, validation=8, test=8)
        assert data.classes == (2 if kind in (None, "classification") else 3)
    data = from_tensors(INPUTS, NUMBERS, kind="regression", validation=8, test=8)
    splits = (data.train, data.validation, data.test)
    assert repr(Dataset("mine", *splits, kind=make_kind("regression")).kind) == repr(data.kind)
    with pytest.raises(ValueError, match="must be a TaskKind, got 'regression'"):
        Dataset("mine", *splits, kind="regression")


def test_a_rehearsal_of_another_kind_is_refused():
    for targets in (NUMBERS, LABELS[:, None].expand(-1, 2)):
        with pytest.raises(ValueError, match="needs classes"):
            dsenv.rehearse((INPUTS, targets))
    data = from_tensors(INPUTS, NUMBERS, kind="regression", validation=8, test=8)
    with pytest.raises(ValueError, match="needs classes, and tensors is a task of kind regression"):
        dsenv.rehearse(data)


def test_losses_of_no_tokens_are_refused():
    with pytest.raises(ValueError, match="the batch is empty"):
        from_logits(torch.rand(0, 9, 5), torch.zeros(0, 9, dtype=torch.int64))
