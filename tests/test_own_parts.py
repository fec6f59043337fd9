"""A selector, a schedule, a controller and a reward of a user's own: by name, as a class and as an object."""

import sys
from types import ModuleType

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import dsenv

pytestmark = pytest.mark.fast

SIZE = 40


class Largest(dsenv.Selector):
    """The largest losses."""

    def select(self, signals, count, generator):
        index = signals.loss.topk(count).indices
        return dsenv.Selection(index, torch.ones(count))


class Halving(dsenv.VolumeSchedule):
    """Three halves of the target in the first half, and one half after it."""

    def __init__(self, target):
        super().__init__(target)

    def _ratio(self, step, total):
        return self.target * (1.5 if step < total / 2 else 0.5)


class Mild(dsenv.AugmentationController):
    """A fifth of the strength for all."""

    def strengths(self, signals, index, generator):
        return torch.full(index.shape, 0.2, device=index.device)


class LossReward(dsenv.Reward):
    """The fall of the mean training loss."""

    def measure(self, inputs):
        return inputs.signals.loss.mean(1, keepdim=True)

    def compute(self, transition):
        return (transition.before - transition.after)[:, 0]


class Counting(Largest):
    """Remembers how many batches it saw."""

    def __init__(self):
        self.batches = 0

    def observe(self, batch):
        self.batches += 1


@pytest.fixture(autouse=True)
def module(monkeypatch):
    """The classes as a module of the user's own on the path."""
    own = ModuleType("own_parts")
    for kind in (Largest, Halving, Mild, LossReward, Counting):
        setattr(own, kind.__name__, kind)
    monkeypatch.setitem(sys.modules, "own_parts", own)


def forms(kind, *arguments):
    """The three forms in which a part may be given."""
    return {"name": f"own_parts:{kind.__name__}", "class": kind, "object": kind(*arguments)}


FORMS = ("name", "class", "object")


def train(**choice):
    """A plan of four epochs with these parts; returns it and the samples of each epoch."""
    images = torch.randint(0, 256, (SIZE, 1, 4, 4), generator=torch.Generator().manual_seed(0)).byte()
    labels = torch.arange(SIZE) % 2
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 2))
    plan = dsenv.DataPlan((images, labels), epochs=4, batch_size=10, transform=lambda x: x / 255, **choice)
    counts = []
    for _ in plan.epochs_left():
        counts.append(0)
        for batch in plan.batches():
            logits = model(batch.inputs)
            loss = plan.loss(batch, F.cross_entropy(logits, batch.labels, reduction="none"), logits=logits)
            loss.backward()
            counts[-1] += len(batch.index)
    return plan, counts


@pytest.mark.parametrize("form", FORMS)
def test_a_selector_in_a_plan_and_in_an_environment(form):
    plan, counts = train(selector=forms(Largest)[form], ratio=0.5)
    assert isinstance(plan.selector, Largest) and counts == [20] * 4
    env = dsenv.load("envs", "Tiny-Ratio-v0", device="cpu", selector=forms(Largest)[form])
    env.reset(seed=0)
    signals = env.episodes.sessions()[0].trainer.signals
    before = signals.loss[0].clone()
    *_, info = env.step(env.control.encode(ratio=0.5))
    trained = signals.times_trained[0] > 0
    assert int(trained.sum()) == info["samples_used"]
    assert before[trained].min() >= before[~trained].max()


@pytest.mark.parametrize("form", FORMS)
def test_a_schedule_in_a_plan_and_in_an_environment(form):
    given = forms(Halving, 0.5)[form]
    _, counts = train(volume=given, **({} if form == "object" else {"ratio": 0.5}))
    assert counts == [30, 30, 10, 10]
    env = dsenv.load("envs", "Tiny-Curriculum-v0", device="cpu", volume=given)
    env.reset(seed=0)
    *_, first = env.step(env.action_space.sample())
    assert first["ratio"] == pytest.approx(0.75)


@pytest.mark.parametrize("form", FORMS)
def test_a_controller_in_a_plan_and_in_an_environment(form):
    plan, _ = train(augment=forms(Mild)[form])
    assert isinstance(plan.controller, Mild) and plan.cost.seconds["augment"] > 0
    env = dsenv.load("envs", "Tiny-Ratio-v0", device="cpu", augment=forms(Mild)[form])
    env.reset(seed=0)
    env.step(env.action_space.sample())
    (controller,) = env.episodes.sessions()[0].controllers
    assert isinstance(controller, Mild) and controller.epoch == 1


@pytest.mark.parametrize("form", FORMS)
def test_a_reward_in_an_environment(form):
    env = dsenv.load("envs", "Tiny-Curriculum-v0", device="cpu", reward=forms(LossReward)[form])
    env.reset(seed=0)
    signals = env.episodes.sessions()[0].trainer.signals
    before = float(signals.loss.mean())
    _, reward, *_ = env.step(env.action_space.sample())
    assert reward == pytest.approx(10 * (before - float(signals.loss.mean())), rel=1e-4)


def test_an_object_is_copied_for_every_episode_of_an_environment():
    given = Counting()
    env = dsenv.catalogue.load_vector("Tiny-Ratio-v0", 2, device="cpu", selector=given)
    env.reset(seed=0)
    env.step(env.action_space.sample())
    first, second = env.episodes.sessions()[0].stacked_selector.selectors
    assert first is not second and first.batches > 0 and given.batches == 0
    env.reset(seed=0)
    assert env.episodes.sessions()[0].stacked_selector.selectors[0].batches == 0


class Told(dsenv.AugmentationController):
    """Half of the strength that somebody else decides."""

    takes_strengths = True

    def __init__(self, size):
        super().__init__()
        self.strength = torch.zeros(size)

    def strengths(self, signals, index, generator):
        return self.strength[index] / 2


def test_a_controller_that_takes_strengths_gets_those_of_the_control():
    env = dsenv.load("envs", "Tiny-Strength-v0", device="cpu", augment=Told)
    env.reset(seed=0)
    env.step(env.action_space.high)
    (controller,) = env.episodes.sessions()[0].controllers
    assert isinstance(controller, Told) and (controller.strength == 1).all()
    with pytest.raises(ValueError, match="leaves strengths to the control"):
        dsenv.load("envs", "Tiny-Ratio-v0", device="cpu", augment=Told)


def test_a_selector_that_observes_sees_the_batches_of_a_plan_without_saying_so():
    assert Counting.observes and not Largest.observes
    plan, counts = train(selector=Counting, ratio=0.5)
    assert plan.selector.batches == sum(counts) / 10


@pytest.mark.parametrize("form", FORMS)
def test_the_checks_find_nothing_wrong(form):
    dsenv.check_selector(forms(Largest)[form])
    dsenv.check_schedule(forms(Halving, 0.5)[form])
    dsenv.check_controller(forms(Mild)[form])
    dsenv.check_reward(forms(LossReward)[form])


BAD = {
    "a list": (lambda n: list(range(n)), "must return a dsenv.Selection, got list"),
    "text": (lambda n: "all" * n, "must return a dsenv.Selection, got str"),
    "too few": (lambda n: (torch.arange(n // 2), torch.ones(n // 2)), "must choose int64 positions of shape"),
    "elsewhere": (
        lambda n: (torch.arange(n, device="meta"), torch.ones(n)),
        "must choose on the signals' device cpu, got positions on meta and weights on cpu",
    ),
    "too many": (lambda n: (torch.arange(n + 1), torch.ones(n + 1)), "must choose int64 positions of shape"),
    "twice": (lambda n: (torch.zeros(n).long(), torch.ones(n)), "a sample more than once"),
    "outside": (lambda n: (torch.arange(n) - 1, torch.ones(n)), "positions outside 0"),
    "floats": (lambda n: (torch.arange(n).float(), torch.ones(n)), "int64 positions of shape"),
    "a mask": (lambda n: (torch.ones(n).bool(), torch.ones(n)), "int64 positions of shape"),
    "NaN weights": (lambda n: (torch.arange(n), torch.full((n,), torch.nan)), "not finite and above 0"),
    "no weight": (lambda n: (torch.arange(n), torch.zeros(n)), "not finite and above 0"),
    "whole weights": (lambda n: (torch.arange(n), torch.ones(n).long()), "a floating weight"),
}


@pytest.mark.parametrize(("make", "message"), BAD.values(), ids=BAD)
def test_a_bad_selection_is_named_in_a_plan_and_in_an_environment(make, message):
    class Bad(dsenv.Selector):
        def select(self, signals, count, generator):
            found = make(count)
            return dsenv.Selection(*found) if isinstance(found, tuple) else found

    with pytest.raises(ValueError, match=rf"Bad\.select .*{message}"):
        train(selector=Bad, ratio=0.5)
    env = dsenv.load("envs", "Tiny-Ratio-v0", device="cpu", selector=Bad)
    env.reset(seed=0)
    with pytest.raises(ValueError, match=rf"Bad\.select .*{message}"):
        env.step(env.action_space.sample())


@pytest.mark.parametrize(
    ("weight", "got"),
    [
        ([1.0, 1.0], "list"),
        (np.ones(2), "ndarray"),
        (torch.ones(3), r"torch.float32 \(3,\)"),
        (torch.ones(2, 1), r"torch.float32 \(2, 1\)"),
        (None, "NoneType"),
    ],
)
def test_a_selection_of_no_tensors_or_of_two_shapes_is_refused(weight, got):
    with pytest.raises(ValueError, match=rf"index torch.int64 \(2,\) and weight {got}"):
        dsenv.Selection(torch.arange(2), weight)


def test_double_precision_weights_are_taken():
    class Double(Largest):
        def select(self, signals, count, generator):
            return dsenv.Selection(signals.loss.topk(count).indices, torch.ones(count, dtype=torch.float64))

    assert train(selector=Double, ratio=0.5)[1] == [20] * 4


@pytest.mark.parametrize("empty", ["", {}, []])
def test_an_empty_choice_is_not_taken_for_the_default(empty):
    with pytest.raises(ValueError, match="selector"):
        train(selector=empty, ratio=0.5)


def test_data_sets_of_an_environment_take_names_and_functions():
    env = dsenv.load("envs", "Tiny-Curriculum-v0", device="cpu", datasets=[{"dataset": "wine"}])
    assert env.config.dataset_names() == ["wine"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model": "mlp"}, "model of a Task must be a function that builds one, got 'mlp'"),
        ({"model": torch.nn.Linear(2, 2)}, "model of a Task must be a function that builds one, got Linear"),
        ({"dataset": "digits"}, "dataset of a Task must be a Dataset, got 'digits'; Task.from_config takes"),
        ({"recipe": {"lr": 0.1}}, "recipe of a Task must be a Recipe, got {'lr': 0.1}"),
    ],
)
def test_a_task_that_cannot_be_is_refused_at_once(settings, message):
    good = dsenv.Task.from_config(dataset="digits", model="mlp")
    parts = {"dataset": good.dataset, "model": good.model, "recipe": good.recipe}
    with pytest.raises(ValueError, match=message):
        dsenv.Task(**{**parts, **settings})


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"selector": Mild}, "must be a Selector, got Mild"),
        ({"selector": "own_parts:Largst"}, "Did you mean 'Largest'"),
        ({"augment": Largest}, "must be a AugmentationController, got Largest"),
        (
            {"selector": 3},
            "must be a name, a table with a name, a class, a factory or the part itself, got 3",
        ),
        ({"selector": {"name": Largest, "keep": 1}}, "no setting of selector .*Largest called 'keep'"),
    ],
)
def test_what_is_no_part_is_named(choice, message):
    with pytest.raises(ValueError, match=message):
        train(ratio=0.5, **choice)
