"""Environments over several data sets."""

import pickle

import numpy as np
import pytest

import dsenv
from dsenv.catalogue import definition, load_vector
from dsenv.env import TrainingEnv
from dsenv.evaluation.runs import run_episodes
from dsenv.tasks import Task
from dsenv.tasks.digits import digits
from tests.sessions import noughts

ENV = "Tiny-Datasets-v0"  # digits, breast_cancer and iris; wine is held out
NAMES = ("digits", "breast_cancer", "wine", "iris")


def test_a_single_environment_draws_its_data_set_at_each_reset():
    env = dsenv.load("envs", ENV)
    found = [env.reset(seed=seed)[1]["dataset"] for seed in range(20)]
    assert set(found) == {0, 1, 3}  # never the held-out one
    assert found == [env.reset(seed=seed)[1]["dataset"] for seed in range(20)]
    for name in NAMES:
        _, info = env.reset(seed=0, options={"context": {"dataset": name}})
        assert NAMES[info["dataset"]] == name
        session, _ = env.episodes.part_of(0)
        assert session.task.dataset.name == name
        assert env.observation_space.contains(env.step(noughts(env))[0])


def test_sessions_are_built_when_they_are_needed():
    env = dsenv.load("envs", ENV)
    assert len(env.episodes.sessions()) == 1
    env.reset(options={"context": {"dataset": "iris"}})
    assert len(env.episodes.sessions()) == 2


@pytest.mark.fast
def test_stacked_environments_take_the_data_sets_in_turn():
    envs = load_vector(ENV, 5)
    _, info = envs.reset(seed=0)
    assert info["dataset"].tolist() == [0, 1, 3, 0, 1]
    assert [session.count for session, _ in envs.episodes.parts()] == [2, 2, 1]
    for _ in range(9):  # two episodes, with their autoresets
        observation, _, _, _, info = envs.step(noughts(envs))
    assert envs.observation_space.contains(observation)
    assert info["dataset"].tolist() == [0, 1, 3, 0, 1]
    assert info["samples_used"].tolist() == [0.5 * size * 4 for size in (200, 200, 75, 200, 200)]


def test_environment_k_equals_a_single_one_on_its_data_set():
    envs = load_vector(ENV, 4)
    rng = np.random.default_rng(0)
    actions = rng.uniform(-1, 1, (4, *envs.action_space.shape)).astype(np.float32)
    first, start = envs.reset(seed=5)
    seen = [envs.step(action)[:2] for action in actions]
    for k in range(4):
        env = dsenv.load("envs", ENV)
        name = NAMES[start["dataset"][k]]
        observation, info = env.reset(seed=5 + k, options={"context": {"dataset": name}})
        np.testing.assert_allclose(observation, first[k], atol=1e-5)
        assert info["label_noise"] == start["label_noise"][k] and info["lr"] == start["lr"][k]
        for action, (observations, rewards) in zip(actions, seen, strict=True):
            observation, reward, *_ = env.step(action[k])
            np.testing.assert_allclose(observation, observations[k], atol=5e-3)
            assert reward == pytest.approx(rewards[k], abs=1e-2)


def test_stacked_environments_move_together_only():
    envs = load_vector(ENV, 3, autoreset_mode="Disabled")
    _, info = envs.reset(seed=0, options={"context": {"dataset": "wine"}})
    assert info["dataset"].tolist() == [2, 2, 2] and len(envs.episodes.parts()) == 1
    for _ in range(4):
        envs.step(noughts(envs))
    mask = np.array([True, False, False])
    with pytest.raises(
        ValueError, match="environment 0 works on the data set 'wine', and the context wants 'iris'"
    ):
        envs.reset(options={"reset_mask": mask, "context": {"dataset": "iris"}})
    envs.reset(options={"reset_mask": mask, "context": {"dataset": "wine"}})
    _, info = envs.reset(seed=0)
    assert info["dataset"].tolist() == [0, 1, 3]


def test_a_part_whose_episodes_are_over_stands_still():
    envs = load_vector(ENV, 3, autoreset_mode="Disabled")
    envs.reset(seed=0)
    for _ in range(4):
        envs.step(noughts(envs))
    envs.reset(options={"reset_mask": np.array([False, True, False])})
    _, reward, terminated, _, info = envs.step(noughts(envs))
    assert terminated.tolist() == [True, False, True] and not reward[[0, 2]].any()
    assert np.isfinite(reward).all() and info["samples_used"].tolist()[0] == 400


@pytest.mark.parametrize("mode", ["NextStep", "SameStep"])
def test_save_restore_and_fork(mode):
    envs = load_vector(ENV, 3, autoreset_mode=mode)
    envs.reset(seed=0)
    envs.step(noughts(envs))
    state, runs = envs.save_state(), []
    for twin in (envs, envs.fork()):
        twin.restore_state(state)
        runs.append([np.concatenate([r.ravel() for r in twin.step(noughts(twin))[:2]]) for _ in range(6)])
    np.testing.assert_array_equal(*runs)


def test_a_single_state_is_restored_from_another_data_set():
    env = dsenv.load("envs", ENV)
    env.reset(seed=0, options={"context": {"dataset": "iris"}})
    env.step(noughts(env))
    state = env.save_state()
    first = [env.step(noughts(env))[1] for _ in range(3)]
    env.reset(seed=1, options={"context": {"dataset": "digits"}})
    env.restore_state(state)
    assert [env.step(noughts(env))[1] for _ in range(3)] == first


def test_evaluation_tests_every_environment_on_its_own_data():
    class Nothing:
        def predict(self, observation, **_):
            return noughts(envs)[: len(observation)], None

    envs = load_vector(ENV, 4, autoreset_mode="Disabled")
    mixed = run_episodes(envs, Nothing(), range(4), {"label_noise": 0.0, "width": 1.0, "lr": 1.0})
    assert mixed.full.tolist() == [800, 800, 300, 800]
    alone = run_episodes(
        envs, Nothing(), range(4), {"label_noise": 0.0, "width": 1.0, "lr": 1.0, "dataset": "iris"}
    )
    assert alone.full.tolist() == [300] * 4
    assert alone.accuracy[2] == pytest.approx(mixed.accuracy[2], abs=0.026)  # one of 40 test samples
    assert mixed.accuracy.min() > 0.2 and mixed.selected.shape == (4, 4, 5)


def test_rendering_and_names():
    envs = load_vector(ENV, 3, render_mode="ansi")
    envs.reset(seed=0)
    assert len(envs.render()) == 3
    single = dsenv.load("envs", ENV, render_mode="rgb_array")
    single.reset(seed=0)
    assert single.render().ndim == 3 and len(single.observation_names) == single.observation_space.shape[0]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"datasets": [{"dataset": {"name": "iris"}}] * 2}, "datasets need names of their own"),
        ({"datasets": ["iris"]}, "datasets must be a list of tables, got 'iris' in it"),
        ({"datasets": "iris"}, "datasets must be a list of tables, got 'iris'"),
        (
            {"datasets": [{"data": {"name": "iris"}}]},
            "no setting of task called 'data'. Did you mean 'dataset'",
        ),
        ({"context": {"held_out": {"dataset": list(NAMES)}}}, "leaves nothing to draw of digits"),
        ({"context": {"held_out": {"dataset": "winee"}}}, "Did you mean 'wine'"),
        ({"context": {"dataset": 2}}, "must be a name or a list of names, got 2"),
        ({"evaluation_contexts": [{"dataset": 1}]}, "context dataset must be one of digits, .*got 1"),
    ],
)
def test_bad_settings_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        load_vector(ENV, 2, **settings)


def test_data_sets_need_a_table_to_be_laid_over():
    task = Task.from_config(**definition("envs", "Tiny-Curriculum-v0").kwargs["task"])
    with pytest.raises(ValueError, match="give task as a table, not a Task"):
        load_vector(ENV, 2, task=task)


def test_features_of_models_of_other_sizes_are_refused():
    sets = [{"dataset": {"name": "wine"}}, {"dataset": {"name": "iris"}, "model": {"hidden": [8]}}]
    control = {"name": "mask", "candidates": 8, "embedding": True}
    with pytest.raises(ValueError, match="the control shows the models' features"):
        load_vector("Tiny-Curriculum-v0", 2, control=control, datasets=sets)


def test_no_environments_are_refused():
    with pytest.raises(ValueError, match="num_envs must be a whole number"):
        load_vector(ENV, 0)


def test_a_pickled_state_over_data_sets_of_tensors_is_restored():
    table = dict(definition("envs", "Tiny-Curriculum-v0").kwargs)
    task = {name: value for name, value in table.pop("task").items() if name != "dataset"}
    sets = [{"name": f"digits {n}", "dataset": digits(train=n, validation=30, test=30)} for n in (50, 60)]
    env = TrainingEnv(**table, task=task, datasets=sets)
    env.reset(seed=0)
    env.step(noughts(env))
    state = pickle.dumps(env.save_state())
    first = env.step(noughts(env))[0]
    env.restore_state(pickle.loads(state))
    np.testing.assert_array_equal(env.step(noughts(env))[0], first)
    other = TrainingEnv(**table, task=task, datasets=sets[:1])
    with pytest.raises(ValueError, match=r"datasets = \['digits 50', 'digits 60'\]"):
        other.restore_state(pickle.loads(state))
