"""Loops as users write them, tried on a plan from outside: what is wrong today."""

import os
import random
import subprocess
import sys
import warnings
from collections import defaultdict

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.optim import lr_scheduler
from torch.utils.data import DataLoader, Dataset, default_collate

from dsenv import DataPlan
from dsenv.plan import IndexedCollate

SIZE = 60
LABELS = torch.randint(0, 3, (SIZE,), generator=torch.Generator().manual_seed(0))
PAIR = (torch.rand(200, 8), torch.arange(200) % 4)


class Samples(Dataset):
    """A data set of samples that a function of the position makes."""

    def __init__(self, make):
        self.make = make

    def __len__(self):
        return SIZE

    def __getitem__(self, index):
        return self.make(index)


def pair(index):
    """Inputs that say which sample they are, and a label."""
    return torch.full((4,), float(index)), int(LABELS[index])


def wrong_rows(collate, make=pair, batch_size=12, rows=lambda batch: batch.inputs[:, 0]):
    """Rows of an epoch whose position is not that of their sample."""
    plan = DataPlan(Samples(make), epochs=1, batch_size=batch_size, classes=3)
    wrong = 0
    for _ in plan.epochs_left():
        for batch in plan.loader(collate_fn=collate):
            wrong += int((rows(batch).long() != batch.index).sum())
            plan.loss(batch, torch.ones(len(batch.index)))
    return wrong


# Positions


def positives_first(samples):
    """Those of class 1, then the others."""
    return default_collate([s for s in samples if s[1] == 1] + [s for s in samples if s[1] != 1])


def grouped(samples):
    """By class, in the order in which classes come."""
    groups = defaultdict(list)
    for sample in samples:
        groups[sample[1]].append(sample)
    return default_collate([sample for group in groups.values() for sample in group])


def zeros_last(samples):
    """Background after objects."""
    return default_collate(sorted(samples, key=lambda sample: sample[1] == 0))


@pytest.mark.parametrize("collate", [positives_first, grouped, zeros_last])
def test_order_by_the_value_of_a_label(collate):
    """The marks change what these functions do; then another value must tell, or they are refused."""
    try:
        assert wrong_rows(collate) == 0
    except ValueError as error:
        assert "could not be followed" in str(error)


class SometimesShuffled:
    """Shuffles one batch in three, by a stream of its own, and adds a mask of ones."""

    def __init__(self):
        self.random = random.Random(0)

    def __call__(self, samples):
        samples = list(samples)
        if self.random.random() < 0.3:
            self.random.shuffle(samples)
        return (*default_collate(samples), torch.ones(len(samples)))


def test_collate_with_a_random_stream_of_its_own():
    """A constant array confirms no order."""
    try:
        assert wrong_rows(SometimesShuffled(), batch_size=6, rows=lambda b: b.inputs[0][:, 0]) == 0
    except ValueError as error:
        assert "could not be followed" in str(error)


def test_a_length_is_no_place_for_a_large_mark():
    """A function that pads to the length of a sample must not be made to pad to 2**30."""
    most = 0

    def speech(index):
        return torch.full((4,), float(index)), int(LABELS[index]), 4

    def padded(samples):
        nonlocal most
        most = max(most, *(sample[2] for sample in samples))
        return torch.stack([s[0] for s in samples]), torch.tensor([s[1] for s in samples])

    assert wrong_rows(padded, speech) == 0
    assert most < 1 << 20


def popped(samples):
    """Labels taken out of the samples, as transformers' collators do."""
    labels = [sample.pop("label") for sample in samples]
    return {**default_collate(samples), "labels": torch.tensor(labels)}


def test_a_function_that_takes_keys_out_of_samples():
    """The samples that are marked must be whole."""

    def make(index):
        inputs, label = pair(index)
        return {"x": inputs, "label": label}

    assert wrong_rows(popped, make, rows=lambda batch: batch.inputs["x"][:, 0]) == 0


def test_a_batch_of_broken_samples_only():
    """All of a batch left out, as `return None` says, is no order that cannot be followed."""

    def kept(samples):
        samples = [sample for sample in samples if sample is not None]
        return default_collate(samples) if samples else None

    plan = DataPlan(Samples(lambda i: None if i < 36 else pair(i)), epochs=1, batch_size=2, classes=3)
    seen = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in plan.epochs_left():
            for batch in plan.loader(collate_fn=kept):
                if batch is not None and len(batch.index):
                    seen += batch.index.tolist()
                    plan.loss(batch, torch.ones(len(batch.index)))
    assert sorted(seen) == list(range(36, SIZE))


def test_positions_that_were_not_chosen_are_refused():
    """Positions within the batch in place of those in the data: a state of that could not be loaded."""
    plan = DataPlan(PAIR, epochs=2, batch_size=50, ratio=0.5)
    batch = next(plan.batches())
    with pytest.raises(ValueError, match="not among"):
        plan.loss(batch._replace(index=torch.arange(50)), torch.rand(50))


# Epochs


def test_the_last_epoch_of_a_loop_that_counts_itself_is_reported():
    """NaN in the last epoch is said, and its visits are in the table."""
    plan = DataPlan(PAIR, epochs=2, batch_size=50)
    with pytest.warns(UserWarning, match="not finite"):
        for epoch in range(2):
            plan.start_epoch(epoch)
            for batch in plan.batches():
                losses = torch.rand(50)
                losses[0] = float("nan") if epoch == 1 else 0.5
                plan.loss(batch, losses, logits=torch.randn(50, 4))
        assert int(plan.nonfinite.sum()) == 4


# Values


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_one_nan_among_large_half_losses(dtype):
    """The mean that stands in for it does not overflow."""
    size = 4000
    plan = DataPlan((torch.zeros(size, 1), torch.zeros(size).long()), epochs=2, batch_size=500)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for epoch in plan.epochs_left():
            for batch in plan.batches():
                losses = torch.full((500,), 100.0).to(dtype)
                if epoch == batch.number == 0:
                    losses[0] = float("nan")
                plan.loss(batch, losses)
            if epoch == 1:
                assert bool(plan.signals.loss_ema.isfinite().all())
                assert bool(plan.signals.loss.isfinite().all())


@pytest.mark.parametrize("label", [-100, 99])
def test_labels_that_are_no_classes_with_a_selector_that_observes(label):
    """They are left out, as without such a selector, or refused by name."""
    plan = DataPlan(PAIR, epochs=1, batch_size=50, selector="el2n")
    batch = next(plan.batches())
    labels = batch.labels.clone()
    labels[0] = label
    try:
        plan.loss(batch._replace(labels=labels), torch.rand(50), logits=torch.randn(50, 4))
    except ValueError as error:
        assert str(label) in str(error)


# Scoring passes


class Noisy(nn.Module):
    """Has dropout by function, which looks at the mode of the module itself."""

    def __init__(self):
        super().__init__()
        self.line, self.modes = nn.Linear(8, 4), set()

    def forward(self, inputs):
        """Logits and features."""
        self.modes.add(self.training)
        return F.dropout(self.line(inputs), 0.5, self.training), inputs


@pytest.mark.parametrize("how", ["bound", "lambda"])
def test_a_pass_by_the_forward_method_is_in_evaluation_mode(how):
    """`model.forward` does not go through the hooks of the model."""
    model = Noisy()
    plan = DataPlan(PAIR, epochs=3, batch_size=50, selector="grand", ratio=0.6)
    forward = model.forward if how == "bound" else lambda inputs: model.forward(inputs)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        plan.score(forward)
    assert model.modes == {False} or said


# Parts, settings, schedules, states


def test_a_selector_given_to_a_plan_that_could_not_be_made_is_free():
    """After a mistake in another setting the same object may be given again."""
    from dsenv.select.ranked import EL2N

    selector = EL2N(size=200)
    with pytest.raises(ValueError, match="no full batch"):
        DataPlan(PAIR, epochs=3, batch_size=50, selector=selector, ratio=0.01, drop_last=True)
    DataPlan(PAIR, epochs=3, batch_size=50, selector=selector)


RESUME = """
import sys, torch, dsenv
class Mine(dsenv.Selector):
    def __init__(self, key):
        self.key = key
    def select(self, signals, count, generator):
        return dsenv.Selection(torch.arange(count), torch.ones(count))
data = (torch.zeros(40, 2), torch.arange(40) % 4)
selector = Mine(lambda name: name in {"a", "b", "cc", "dd", "e"})
plan = dsenv.DataPlan(data, epochs=2, batch_size=10, ratio=0.5, selector=selector)
if sys.argv[1] == "save":
    torch.save(plan.state_dict(), sys.argv[2])
else:
    plan.load_state_dict(torch.load(sys.argv[2], weights_only=True))
"""


def test_a_state_is_loaded_in_another_process(tmp_path):
    """A function with a set among its constants is described alike, whatever the order of hashes."""
    for seed, what in (("1", "save"), ("2", "load"), ("3", "load")):
        arguments = [sys.executable, "-c", RESUME, what, str(tmp_path / "state.pt")]
        subprocess.run(arguments, check=True, env={**os.environ, "PYTHONHASHSEED": seed})


def optimizer():
    """An optimiser with a rate of 0.1."""
    return torch.optim.SGD(nn.Linear(2, 2).parameters(), lr=0.1)


def schedules():
    """Schedules, and whether they end where a plan of 20 steps does."""
    rate = optimizer()
    warm, cut = lr_scheduler.LinearLR(rate, 0.1, 1.0, 5), lr_scheduler.CosineAnnealingLR(rate, 35)
    rest = lr_scheduler.ConstantLR(rate, 1.0, 1)
    return {
        "numpy": (lr_scheduler.CosineAnnealingLR(rate, np.int64(20)), True),
        "float": (lr_scheduler.CosineAnnealingLR(rate, 20.0), True),
        "past the end": (lr_scheduler.SequentialLR(rate, [warm, cut, rest], [5, 40]), False),
        "long warm-up": (lr_scheduler.LinearLR(rate, 0.01, 1.0, 100), False),
        "long restart": (lr_scheduler.CosineAnnealingWarmRestarts(rate, 40), False),
    }


@pytest.mark.parametrize("name", ["numpy", "float", "past the end", "long warm-up", "long restart"])
def test_schedules(name):
    """A warning where, and only where, a schedule does not end with the plan."""
    schedule, ends_well = schedules()[name]
    plan = DataPlan(PAIR, epochs=10, batch_size=50, ratio=0.5)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        plan.check_scheduler(schedule)
    assert bool(said) != ends_well


@pytest.mark.parametrize(
    "path",
    [("version",), ("plan", "counts", 0), ("data", "labels", "shape", 0), ("epoch_sampler", "generator")],
)
def test_tensors_in_place_of_numbers_in_a_state(path):
    """Refused by name, not by torch."""
    plan = DataPlan(PAIR, epochs=2, batch_size=50, ratio=0.5)
    state = plan.state_dict()
    inner = state
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = torch.zeros(5056, dtype=torch.uint8)
    with pytest.raises(ValueError, match="state"):
        plan.load_state_dict(state)


# Data and labels


@pytest.mark.parametrize("shape", [(4, 4), (64,), (4,), (5, 2), (3, 16, 16)])
def test_geometry_of_labels_that_lie_on_images(shape):
    """Masks of another size, boxes and points do not move along either."""
    plan = DataPlan(
        (torch.rand(50, 3, 8, 8), torch.rand(50, *shape)), epochs=1, batch_size=50, augment="trivial"
    )
    with pytest.raises(ValueError, match="move"):
        next(plan.batches())


@pytest.mark.parametrize("data", [Samples, torch.rand(60, 4).to_sparse()], ids=["class", "sparse"])
def test_data_that_are_none(data):
    """Named at the constructor."""
    with pytest.raises(ValueError, match="data"):
        DataPlan(data if isinstance(data, type) else (data, torch.arange(60) % 3), epochs=1, batch_size=20)


def test_a_loader_of_ones_own_still_works():
    """The usual loop, so that the mends leave it alone."""
    plan = DataPlan(Samples(pair), epochs=2, batch_size=12, classes=3, ratio=0.5)
    loader = DataLoader(plan.dataset, 12, sampler=plan.sampler, collate_fn=IndexedCollate())
    for _ in plan.epochs_left():
        for raw in loader:
            batch = plan.batch(*raw)
            plan.loss(batch, torch.rand(len(batch.index)))
    assert plan.progress == 1.0
