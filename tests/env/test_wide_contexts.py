"""Contexts with a ratio of their own, further kinds of noise, and tables of which one is drawn."""

import numpy as np
import pytest
import torch

import dsenv
from dsenv.agents.rules import NeutralRule
from dsenv.catalogue import definition, load_vector
from dsenv.env.context import Context
from dsenv.env.context_space import ContextSpace
from dsenv.env.labels import EpisodeLabels
from dsenv.env.passes import by_epoch, joined
from dsenv.evaluation import Entry, evaluate
from dsenv.select.base import StackedSelection
from dsenv.tasks.generated import generated
from dsenv.training.trainer import Interval
from tests.sessions import only

pytestmark = pytest.mark.fast

ENV = "Tiny-Curriculum-v0"
TABLE = {
    "task": {
        "dataset": {"name": "generated", "classes": 4, "train": 100, "validation": 40, "test": 40},
        "model": {"hidden": [8]},
    }
}
CLEAN = {"label_noise": 0.0}


def drawn(space, number=400):
    rng = np.random.default_rng(0)
    return [space.draw(rng) for _ in range(number)]


def test_one_of_several_tables_is_drawn_and_laid_over_the_values():
    tables = [{}, {"label_noise": [0.2, 0.4]}, {"class_noise": 0.3, "subset": 1.0}]
    found = drawn(ContextSpace(subset=[0.3, 0.6], one_of=tables, held_out={"label_noise": [0.25, 0.35]}))
    kinds = [(c.label_noise > 0, c.class_noise > 0) for c in found]
    for kind in ((False, False), (True, False), (False, True)):
        assert 0.25 < kinds.count(kind) / len(kinds) < 0.42
    assert all((c.subset == 1) == (c.class_noise > 0) for c in found)
    assert not any(0.25 <= c.label_noise <= 0.35 for c in found)


def test_a_context_has_no_more_wrong_labels_than_labels():
    tables = [{"label_noise": [0, 0.6]}, {"instance_noise": 0.6}]
    ContextSpace(one_of=tables)  # 0.6 each, and never both
    with pytest.raises(ValueError, match=r"must not add up to more than 1, got 0\.6 and 0\.5"):
        ContextSpace(pair_flip=[0, 0.5], one_of=tables)
    message = "label_noise, class_noise and instance_noise fall on different samples .* got 0.4, 0.4 and 0.3"
    with pytest.raises(ValueError, match=message):
        Context(label_noise=0.4, class_noise=0.4, instance_noise=0.3)
    assert Context(label_noise=0.1, pair_flip=0.2, class_noise=0.3, instance_noise=0.4).wrong_labels == 1.0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"one_of": {"label_noise": 0.2}}, "context.one_of must be a list of tables of values by name"),
        ({"one_of": [0.2]}, "context.one_of must be a list of tables"),
        ({"one_of": [{"lable_noise": 0.2}]}, "Did you mean 'label_noise'"),
        ({"one_of": [{"dataset": "digits"}]}, "a table of context.one_of names no data set"),
        ({"one_of": [{}, {"subset": 0}]}, r"subset must be in \(0, 1\], got 0"),
        ({"ratio": 0}, r"ratio must be in \(0, 1\], got 0"),
        ({"ratio": [0.5, 1.5]}, r"ratio must be in \(0, 1\], got 1.5"),
        ({"held_out": {"ratio": 0.5}}, "set context.ratio to what is drawn"),
        ({"class_noise": -0.1}, r"class_noise must be in \[0, 1\], got -0.1"),
    ],
)
def test_bad_values_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        dsenv.load("envs", ENV, context=settings)


@pytest.mark.parametrize("control", ["curriculum", "ratio"])
def test_a_ratio_of_the_context_gives_the_run_of_an_environment_with_that_ratio(control):
    envs = load_vector(ENV, 3, control=control, autoreset_mode="Disabled")
    contexts = [{**CLEAN, "ratio": 0.3}, CLEAN, {**CLEAN, "ratio": 1.0}]
    _, info = envs.reset(seed=0, options={"context": contexts})
    assert info["target_ratio"].tolist() == [0.3, 0.5, 1.0] and "ratio" not in info
    alone = load_vector(ENV, 1, control=control, ratio=0.3, autoreset_mode="Disabled")
    alone.reset(seed=0, options={"context": CLEAN})
    place = envs.observation_names.index("target ratio")

    action = np.zeros(envs.action_space.shape, np.float32)
    for _ in range(4):
        observation, _, done, _, info = envs.step(action)
        own_observation, _, _, _, own = alone.step(action[:1])
        np.testing.assert_allclose(observation[:, place], [0.3, 0.5, 1.0], rtol=1e-6)
        np.testing.assert_allclose(observation[0], own_observation[0], atol=5e-3)
        assert info["ratio"][0] == own["ratio"][0]
        assert info["train_loss"][0] == pytest.approx(own["train_loss"][0], abs=1e-4)
    assert done.all() and info["samples_used"].tolist() == [240, 400, 800]


def test_a_ratio_is_drawn_for_each_episode_and_kept_in_states():
    env = dsenv.load("envs", ENV, context={"ratio": [0.2, 0.8]}, volume="pods")
    found = [env.reset(seed=seed)[1]["target_ratio"] for seed in range(5)]
    assert len(set(found)) == 5 and all(0.2 <= ratio <= 0.8 for ratio in found)
    env.step(np.zeros(env.action_space.shape, np.float32))
    other = dsenv.load("envs", ENV, context={"ratio": [0.2, 0.8]}, volume="pods")
    other.load_state_dict(env.state_dict())
    for _ in range(3):
        (mine, *_, info), (theirs, *_, same) = (
            e.step(np.zeros(e.action_space.shape, np.float32)) for e in (env, other)
        )
        np.testing.assert_array_equal(mine, theirs)
        assert info["target_ratio"] == same["target_ratio"] == found[-1]
    assert info["samples_used"] == round(4 * 200 * found[-1])


def test_a_ratio_that_does_not_pay_for_a_pass_shows_before_training():
    settings = {"control": "rule", "selector": "k_center"}
    with pytest.raises(ValueError, match=r"ratio 0\.1 over 4 intervals does not pay for extra forwards"):
        dsenv.load("envs", ENV, context={"ratio": [0.1, 0.5]}, **settings)
    with pytest.raises(ValueError, match=r"ratio 0\.1 over 4 intervals does not pay"):
        dsenv.load("envs", ENV, evaluation_contexts=[{"ratio": 0.1}], **settings)


def test_the_neutral_rule_keeps_to_the_ratio_of_the_episode():
    envs = load_vector("Tiny-Ratio-v0", 2, autoreset_mode="Disabled")
    rule = NeutralRule().bind(envs.control, envs.single_action_space)
    observation, _ = envs.reset(seed=0, options={"context": [{"ratio": 0.25}, {"ratio": 0.75}]})
    for _ in range(4):
        observation, *_, info = envs.step(rule.predict(observation)[0])
        np.testing.assert_allclose(info["ratio"], [0.25, 0.75], atol=0.006)


def test_all_data_stay_all_data_in_contexts_with_a_ratio():
    contexts = [{**CLEAN, "ratio": 0.25}, {**CLEAN, "ratio": 0.5}]
    env = definition("envs", ENV).with_overrides({"evaluation_contexts": contexts})
    entries = [Entry(name, definition("agents", name).build()) for name in ("all_data", "random")]
    found = evaluate(env, entries, "random", seeds=2, device="cpu", curves=False, progress=False)
    used = {(row.agent, row.context["ratio"]): row.ratio for row in found.rows}
    assert used["all_data", 0.25] == used["all_data", 0.5] == 1.0
    assert used["random", 0.25] == 0.25 and used["random", 0.5] == 0.5
    assert found.contexts == contexts

    drawn = definition("envs", ENV).with_overrides(
        {"context": {"ratio": [0.2, 0.8]}, "evaluation_contexts": [CLEAN]}
    )
    rows = evaluate(drawn, entries, "random", seeds=2, device="cpu", curves=False, progress=False).rows
    assert [row.ratio for row in rows if row.agent == "all_data"] == [1.0]
    assert all(0.2 < row.ratio < 0.8 for row in rows if row.agent == "random")


@pytest.mark.parametrize("kind", ["class_noise", "instance_noise"])
def test_further_noise_in_an_environment_is_the_stated_share_of_both_splits(kind):
    env = dsenv.load(
        "envs", ENV, **TABLE, trusted_validation=False, context={**CLEAN, kind: 0.3, "subset": 0.5}
    )
    _, info = env.reset(seed=0)
    assert info[kind] == 0.3 and info["label_noise"] == 0
    session = only(env)
    clean = session.task.dataset
    pool = session.state.pool[0]
    wrong = session.trainer.labels[0] != clean.train.labels
    assert int(wrong.sum()) == int(wrong[pool].sum()) == 15
    assert int((session.trainer._labels_of("validation")[0] != clean.validation.labels).sum()) == 12


def test_labels_follow_from_context_and_seed():
    labels = EpisodeLabels(generated(classes=3, train=60, validation=20, test=5), "symmetric")
    context = Context(instance_noise=0.4, imbalance=0.5)
    one, again, other = (labels.train(context, seed) for seed in (0, 0, 1))
    assert torch.equal(one[0], again[0]) and torch.equal(one[1], again[1])
    assert not torch.equal(one[0], other[0])


def test_an_interval_of_several_epochs_draws_in_each_of_them():
    env = dsenv.load("envs", ENV, interval=2.5, ratio=0.8, context=CLEAN)
    env.reset(seed=0)
    session = only(env)
    for step in range(4):
        *_, info = env.step(np.zeros(env.action_space.shape, np.float32))
        assert info["samples_used"] == 400 * (step + 1) and info["ratio"] == pytest.approx(0.8)
    visits = session.trainer.signals.times_trained[0]
    assert int(visits.sum()) == 1600 and 8 < int(visits.max()) <= 12
    assert session.selection.counts == (400,) and not env.episodes.part_of(0)[0].state.budget.left.any()


def test_the_epochs_of_an_interval_are_joined():
    parts = by_epoch(np.array([7, 0, 3]), 3)
    assert [part.tolist() for part in parts] == [[2, 0, 1], [2, 0, 1], [3, 0, 1]]
    assert [part.tolist() for part in by_epoch(np.array([0, 0]), 3)] == [[0, 0]]
    one = StackedSelection(torch.tensor([[4, 5], [1, 9]]), torch.tensor([[1.0, 1.0], [1.0, 0.0]]), (2, 1))
    two = StackedSelection(torch.tensor([[9, 9], [2, 3]]), torch.tensor([[0.0, 0.0], [1.0, 1.0]]), (0, 2))
    nan = float("nan")
    measured = [torch.tensor([1.0, 3.0]), torch.tensor([nan, 6.0])]
    selection, whole = joined([(p, Interval(m, m)) for p, m in zip((one, two), measured, strict=True)], 9)
    assert selection.index.tolist() == [[4, 5, 9], [1, 2, 3]] and selection.counts == (2, 3)
    assert selection.weight.tolist() == [[1, 1, 0], [1, 1, 1]]
    assert whole.loss.tolist() == [1.0, 5.0]


def test_a_data_set_may_have_an_interval_of_its_own():
    sets = [{**TABLE["task"], "name": "short"}, {**TABLE["task"], "name": "long", "interval": 2.0}]
    envs = load_vector(ENV, 2, datasets=sets, context=CLEAN, autoreset_mode="Disabled")
    envs.reset(seed=0)
    *_, info = envs.step(np.zeros(envs.action_space.shape, np.float32))
    assert info["samples_used"].tolist() == [50, 100]
    changed = [sets[0], {**sets[1], "interval": 1.5}]
    other = load_vector(ENV, 2, datasets=changed, context=CLEAN, autoreset_mode="Disabled")
    other.reset(seed=0)
    with pytest.raises(ValueError, match="interval"):
        other.load_state_dict(envs.state_dict())
    with pytest.raises(ValueError, match=r"interval of a data set must be in \(0, 100\], got 0"):
        load_vector(ENV, 2, datasets=[{**sets[0], "interval": 0}])
