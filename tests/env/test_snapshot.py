import pickle

import numpy as np
import pytest
import torch

import dsenv
from dsenv.catalogue import load_vector
from tests.sessions import only

ENV = "Tiny-Curriculum-v0"
SETTINGS = [
    {},
    {"control": "rule", "selector": "data_agent", "augment": "sada"},
    {"control": "rule", "selector": "moderate", "volume": "linear"},
    {"task": {"model": {"name": "small_cnn", "width": 8}, "recipe": {"optimizer": "adamw", "lr": 0.01}}},
    {"control": {"name": "mask", "candidates": 16, "rescore": True}},
    {"control": {"name": "mask", "candidates": 16}, "context": {"subset": 0.05}},
    {"control": "joint"},
]


def continue_from(env, steps, seed):
    """Step with actions that follow from `seed`; everything seen, and the final parameters."""
    rng = np.random.default_rng(seed)
    seen = []
    for _ in range(steps):
        action = rng.uniform(-1, 1, env.action_space.shape).astype(np.float32)
        observation, reward, *_ = env.step(action)
        seen += [observation, np.asarray(reward)]
    return seen, only(env).trainer.replicas.parameters_of(0)


def same(one, other):
    pairs = zip(one[0], other[0], strict=True)
    return all(np.array_equal(a, b) for a, b in pairs) and all(
        torch.equal(value, other[1][name]) for name, value in one[1].items()
    )


@pytest.mark.parametrize("settings", SETTINGS)
def test_the_same_actions_after_a_restore_give_the_same_numbers(settings):
    env = dsenv.load("envs", ENV, **settings)
    env.reset(seed=0)
    continue_from(env, 2, seed=0)
    state = env.save_state()
    first = continue_from(env, 2, seed=1)
    for _ in range(2):
        env.restore_state(state)
        assert same(first, continue_from(env, 2, seed=1))
    env.restore_state(state)
    assert not same(first, continue_from(env, 2, seed=2)) or settings.get("control") == "rule"


@pytest.mark.fast
def test_a_fork_goes_its_own_way_and_shares_the_data():
    env = dsenv.load("envs", ENV)
    env.reset(seed=0)
    continue_from(env, 1, seed=0)
    twin = env.fork()
    assert only(twin).trainer.split("train").images is only(env).trainer.split("train").images
    theirs = continue_from(twin, 3, seed=5)
    assert only(env).state.interval[0] == 1
    assert same(continue_from(env, 3, seed=5), theirs)
    np.testing.assert_array_equal(env.reset()[0], twin.reset()[0])  # the next episodes too


def test_vector_environments_are_restored_with_their_later_episodes():
    envs = load_vector(ENV, 3)
    envs.reset(seed=0)
    continue_from(envs, 3, seed=0)
    state = envs.save_state()
    first = continue_from(envs, 6, seed=1)  # runs into the next episodes
    envs.restore_state(state)
    assert same(first, continue_from(envs, 6, seed=1))
    other = load_vector(ENV, 3)
    other.restore_state(state)
    assert same(first, continue_from(other, 6, seed=1))


def test_a_snapshot_can_be_written_to_disk(tmp_path):
    env = dsenv.load("envs", ENV)
    env.reset(seed=0)
    continue_from(env, 1, seed=0)
    path = tmp_path / "state.pkl"
    path.write_bytes(pickle.dumps(env.save_state()))
    first = continue_from(env, 2, seed=1)
    env.restore_state(pickle.loads(path.read_bytes()))
    assert same(first, continue_from(env, 2, seed=1))


def test_a_state_of_other_settings_is_refused():
    state = dsenv.load("envs", ENV).save_state()
    with pytest.raises(ValueError, match=r"with ratio = 0\.5, this one has 0\.3"):
        dsenv.load("envs", ENV, ratio=0.3).restore_state(state)
    with pytest.raises(ValueError, match="with num_envs = 1, this one has 2"):
        load_vector(ENV, 2).restore_state(state)
    with pytest.raises(ValueError, match="with parameters"):
        dsenv.load("envs", ENV, task={"model": {"hidden": [5]}}).restore_state(state)


def test_a_fork_draws_its_own_random_actions():
    env = dsenv.load("envs", ENV)
    env.reset(seed=0)
    env.action_space.seed(0)
    alone = [env.action_space.sample() for _ in range(3)]
    env.action_space.seed(0)
    twin = env.fork()
    for action in alone:
        np.testing.assert_array_equal(env.action_space.sample(), action)
        np.testing.assert_array_equal(twin.action_space.sample(), action)
