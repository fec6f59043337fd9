"""Contexts: what is drawn, what is held out, and what each value does to a training."""

import numpy as np
import pytest
import torch

import dsenv
from dsenv.catalogue import load_vector
from dsenv.env.context import Context, realise
from dsenv.env.context_space import ContextSpace
from dsenv.evaluation.compare import contexts_of
from dsenv.evaluation.labels import context_label
from tests.sessions import noughts, only

ENV = "Tiny-Curriculum-v0"


def drawn(space, number=400, seed=0):
    rng = np.random.default_rng(seed)
    return [space.draw(rng) for _ in range(number)]


@pytest.mark.fast
def test_numbers_ranges_and_choices():
    space = ContextSpace(label_noise=[0.1, 0.3], width={"choices": [0.25, 0.5]}, subset=0.7, lr=[0.1, 10.0])
    found = drawn(space)
    assert 0.1 <= min(c.label_noise for c in found) < 0.12 < 0.28 < max(c.label_noise for c in found) <= 0.3
    assert {c.width for c in found} == {0.25, 0.5} and {c.subset for c in found} == {0.7}
    rates = np.array([c.lr for c in found])
    assert rates.min() >= 0.1 and rates.max() <= 10 and 0.4 < (rates < 1).mean() < 0.6  # by its logarithm
    assert {c.imbalance for c in found} == {1.0}


def test_one_seed_draws_one_context_whatever_the_order_of_the_table():
    one, other = {"label_noise": [0, 1], "width": [0.1, 1]}, {"width": [0.1, 1], "label_noise": [0, 1]}
    assert drawn(ContextSpace(**one)) == drawn(ContextSpace(**other))
    assert drawn(ContextSpace(**one)) != drawn(ContextSpace(**one), seed=1)


def test_values_that_are_not_set_draw_nothing():
    rng, other = np.random.default_rng(0), np.random.default_rng(0)
    ContextSpace(label_noise=[0, 0.6]).draw(rng)
    other.uniform(0, 0.6)
    assert rng.random() == other.random()


@pytest.mark.fast
def test_held_out_values_are_never_drawn_and_can_be_listed():
    space = ContextSpace(
        label_noise=[0.0, 0.6],
        width={"choices": [0.25, 0.5, 1.0]},
        lr=[0.5, 2.0],
        held_out={"label_noise": [0.2, 0.4], "width": 0.5, "lr": [1.0, 2.0]},
    )
    found = drawn(space, 2000)
    noise = np.array([c.label_noise for c in found])
    assert not ((noise >= 0.2) & (noise <= 0.4)).any() and 0.45 < (noise > 0.4).mean() < 0.55
    assert {c.width for c in found} == {0.25, 1.0} and max(c.lr for c in found) < 1.0
    listed = space.held_out_contexts(points=3)
    assert len(listed) == 3 * 1 * 3
    assert [c["label_noise"] for c in listed[::3]] == pytest.approx([0.2, 0.3, 0.4])
    assert [c["lr"] for c in listed[:3]] == pytest.approx([1, 2**0.5, 2]) and listed[0]["width"] == 0.5
    assert space.fixed(np.random.default_rng(0), listed[0]).label_noise == 0.2  # evaluation may set them
    assert space.held_out_contexts() == listed


def test_what_lies_beyond_the_range_can_be_held_out_too():
    space = ContextSpace(label_noise=[0.0, 0.2], held_out={"label_noise": [0.5, 0.6]})
    assert max(c.label_noise for c in drawn(space)) <= 0.2
    assert space.held_out_contexts(2) == [{"label_noise": 0.5}, {"label_noise": 0.6}]


@pytest.mark.fast
def test_evaluation_contexts_expand():
    space = ContextSpace(label_noise=[0, 0.6], held_out={"label_noise": [0.25, 0.35]})
    listed = [{"subset": 0.5}, {"grid": {"label_noise": [0, 0.4], "width": [0.25, 1]}}, {"held_out": 2}]
    assert space.expand(listed) == [
        {"subset": 0.5},
        {"label_noise": 0, "width": 0.25},
        {"label_noise": 0, "width": 1},
        {"label_noise": 0.4, "width": 0.25},
        {"label_noise": 0.4, "width": 1},
        {"label_noise": 0.25},
        {"label_noise": 0.35},
    ]
    assert space.expand(listed[1]) == space.expand([listed[1]])


def test_evaluation_goes_through_the_expanded_contexts():
    env = dsenv.catalogue.definition("envs", "Tiny-Datasets-v0")
    contexts = contexts_of(env)
    assert len(contexts) == 7 and contexts[0] == {"label_noise": 0.0, "dataset": "digits"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"label_noise": [0.2, 0.3], "held_out": {"label_noise": [0.1, 0.4]}},
            r"nothing to draw of \[0.2, 0.3\]",
        ),
        ({"label_noise": 0.3, "held_out": {"label_noise": [0.1, 0.4]}}, "nothing to draw of 0.3"),
        ({"held_out": {"subset": [0.5, 1]}}, "nothing to draw of 1; hold out less"),
        ({"width": {"choices": [0.5]}, "held_out": {"width": {"choices": [0.5]}}}, "nothing to draw of 0.5"),
        ({"width": [0.1, 1], "held_out": {"width": {"choices": [0.5]}}}, "can only hold out a range"),
        ({"held_out": 0.3}, "context.held_out must be a table of values by name, got 0.3"),
        ({"held_out": {"lable_noise": 0.3}}, "Did you mean 'label_noise'"),
        ({"lr": 0}, "lr must be a number above 0, got 0"),
        ({"lr": [0.0, 1.0]}, "lr must be a number above 0, got 0.0"),
        ({"width": 0}, r"width must be in \(0, 1\], got 0"),
        ({"pair_flip": 2}, r"pair_flip must be in \[0, 1\], got 2"),
        ({"pair_flip": [0, 0.6], "label_noise": [0, 0.6]}, "must not add up to more than 1, got 0.6 and 0.6"),
        ({"width": "half"}, "'half' is no number; give a number, a range"),
        ({"width": {"choice": [1]}}, r"must be \{choices = \[value, ...\]\}, got \{'choice': \[1\]\}"),
        ({"width": {"choices": []}}, "must be {choices"),
        ({"width": [0.1, 0.2, 0.3]}, r"\[0.1, 0.2, 0.3\] is no number"),
        ({"dataset": "digits"}, "no context value called 'dataset'"),
    ],
)
def test_bad_contexts_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        dsenv.load(
            "envs", ENV, context={"label_noise": 0.0} | settings if "label_noise" in settings else settings
        )


@pytest.mark.parametrize(
    ("listed", "message"),
    [
        ({"grid": {"label_noise": 0.3}}, "grid must be a table of lists"),
        ([{"grid": {}, "width": 1}], "has no other key"),
        ([{"held_out": 3}], "nothing is held out; set context.held_out"),
        ([{"grid": {"widht": [1]}}], "Did you mean 'width'"),
        (["all"], "must be a list of tables, got 'all' in it"),
        (0.3, "evaluation_contexts must be a list of tables or a table, got 0.3"),
    ],
)
def test_bad_evaluation_contexts_are_named(listed, message):
    with pytest.raises(ValueError, match=message):
        dsenv.load("envs", ENV, evaluation_contexts=listed)


@pytest.mark.fast
def test_both_kinds_of_noise_fall_on_different_samples():
    labels = torch.arange(200) % 10
    given, _ = realise(Context(label_noise=0.3, pair_flip=0.2), "symmetric", labels, 10, seed=0)
    alone, _ = realise(Context(label_noise=0.3), "symmetric", labels, 10, seed=0)
    assert int((given != labels).sum()) == 100
    flipped = given != alone
    assert int(flipped.sum()) == 40 and torch.equal(given[flipped], (labels[flipped] + 1) % 10)
    assert torch.equal(alone[flipped], labels[flipped])
    everything, _ = realise(Context(label_noise=0.5, pair_flip=0.5), "symmetric", labels, 10, seed=0)
    assert not (everything == labels).any()


@pytest.mark.fast
def test_the_learning_rate_is_that_of_each_environment():
    envs = load_vector(ENV, 3, context={"lr": [0.1, 10.0]}, autoreset_mode="Disabled")
    _, info = envs.reset(seed=0, options={"context": [{"lr": 1.0}, {"lr": 0.25}, {}]})
    assert info["lr"][:2].tolist() == [1.0, 0.25] and info["lr"][2] not in (1.0, 0.25)
    rates = only(envs).trainer._learning_rates([100] * 3, range(0, 100, 25), [0] * 3, [400] * 3)
    torch.testing.assert_close(rates[:, 1], 0.25 * rates[:, 0])
    torch.testing.assert_close(rates[:, 2], float(info["lr"][2]) * rates[:, 0])
    single = dsenv.load("envs", ENV)
    single.reset(seed=1, options={"context": {"lr": 0.25}})
    action = noughts(envs)
    loss = envs.step(action)[4]["train_loss"][1]
    assert single.step(action[0])[4]["train_loss"] != pytest.approx(0)
    alone = load_vector(ENV, 1, context={"lr": [0.1, 10.0]})
    alone.reset(seed=1, options={"context": {"lr": 0.25}})
    assert alone.step(action[:1])[4]["train_loss"][0] == pytest.approx(loss, abs=1e-4)


def test_a_narrow_environment_equals_one_with_the_narrow_model():
    envs = load_vector(ENV, 2, context={"width": 1.0})
    envs.reset(seed=0, options={"context": [{"width": 1.0}, {"width": 0.25}]})
    narrow = dsenv.load("envs", ENV, task={"model": {"hidden": [4]}}, context={"width": 1.0})
    narrow.reset(seed=1)
    action = noughts(envs)
    for _ in range(4):
        info, own = envs.step(action)[4], narrow.step(action[0])[4]
        assert info["train_loss"][1] == pytest.approx(own["train_loss"], abs=1e-4)
        assert info["val_accuracy"][1] == pytest.approx(own["val_accuracy"], abs=0.011)
    assert info["width"].tolist() == [1.0, 0.25]


def test_models_without_narrow_forms_show_before_training():
    for settings in ({"context": {"width": 0.5}}, {"evaluation_contexts": [{"width": 0.5}]}):
        with pytest.raises(ValueError, match="no setting of model resnet18 called 'width_factor'"):
            dsenv.load("envs", ENV, task={"model": {"name": "resnet18"}}, **settings)


def test_a_restored_state_keeps_width_and_learning_rate():
    env = dsenv.load("envs", ENV, context={"width": [0.3, 0.9], "lr": [0.5, 2.0], "pair_flip": [0.0, 0.4]})
    env.reset(seed=0)
    action = noughts(env)
    env.step(action)
    state, ends = env.save_state(), []
    for _ in range(2):
        env.restore_state(state)
        ends.append([env.step(action)[4]["train_loss"] for _ in range(3)])
        env.reset(seed=9)
    assert ends[0] == ends[1]


@pytest.mark.fast
def test_every_context_has_a_label():
    context = {"dataset": "wine", "label_noise": 0.25, "lr": 0.5}
    assert context_label(context) == "wine, label noise 25%, lr x 0.5" and context_label({}) == "as drawn"
