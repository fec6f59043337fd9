"""What every VecEnv of dsenv promises: `StackedVecEnv` in this process, and the one in Ray actors.

Each check takes `make()`, which gives 4 environments of Tiny-Curriculum-v0 with render_mode = "ansi"; it may
give the same object again, so a check begins with seeds and a reset.
"""

import numpy as np
import pytest
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecMonitor

from dsenv.catalogue import definition
from dsenv.files import load_state, save_state

PPO = {"n_steps": 8, "batch_size": 32, "n_epochs": 2}


def nothing(env):
    """Actions of zeros."""
    return np.zeros((4, *env.action_space.shape), np.float32)


def actions_of(env, number, seed=0):
    rng = np.random.default_rng(seed)
    return rng.uniform(-1, 1, (number, 4, *env.action_space.shape)).astype(np.float32)


def begun(make, seed=0):
    env = make()
    env.seed(seed)
    env.reset()
    return env


def the_end_of_a_training_is_not_bootstrapped(make):
    env = begun(make)
    for _ in range(4):
        env.step_async(nothing(env))
        observation, reward, done, infos = env.step_wait()
    assert done.all() and done.dtype == np.bool_ and reward.dtype == np.float32
    for k in range(4):
        assert infos[k]["TimeLimit.truncated"] is False
        assert infos[k]["terminal_observation"][0] == 1 and observation[k][0] == 0
        assert infos[k]["episode"]["l"] == 4 and infos[k]["budget_left"] == 0


def episode_returns_add_up(make):
    env = begun(make)
    total = np.zeros(4)
    for _ in range(4):
        _, reward, _, infos = env.step(nothing(env))
        total += reward
    assert [info["episode"]["r"] for info in infos] == pytest.approx(total.tolist(), abs=1e-5)


def seeds_decide_the_episodes_and_neighbouring_seeds_share_none(make):
    env, found = make(), []
    for _ in range(2):
        found.append([env.seed(3), env.reset(), *(env.step(action)[0] for action in actions_of(env, 6))])
    assert found[0][0] == found[1][0] and len(set(found[0][0])) == 4
    for first, again in zip(found[0][1:], found[1][1:], strict=True):
        np.testing.assert_array_equal(first, again)
    assert not set(env.seed(3)) & set(env.seed(4))
    env.reset()


def attributes_and_methods(make):
    env = begun(make)
    assert env.get_attr("config")[0].ratio == 0.5 and len(env.get_attr("config", [0, 2])) == 2
    assert env.get_attr("candidate_shape") == [None] * 4
    env.set_attr("note", 5)
    assert env.get_attr("note") == [5] * 4
    with pytest.raises(ValueError, match="without indices"):
        env.set_attr("note", 6, indices=[0])
    with pytest.raises(AttributeError, match="no_such_name"):
        env.get_attr("no_such_name")
    texts = env.env_method("__repr__", indices=[0, 3])
    assert len(texts) == 2 and all("TrainingVectorEnv of" in text for text in texts)
    assert VecMonitor(env).num_envs == 4


def contexts_are_set_by_sb3s_options_for_one_reset(make):
    env = begun(make)
    env.set_options([{"context": {"label_noise": 0.1 * k}} for k in range(4)])
    env.reset()
    assert [info["label_noise"] for info in env.reset_infos] == pytest.approx([0.0, 0.1, 0.2, 0.3])
    env.reset()
    assert [info["label_noise"] for info in env.reset_infos] != pytest.approx([0.0, 0.1, 0.2, 0.3])


def wrong_options_are_named(make):
    env = begun(make)
    with pytest.raises(ValueError, match="a list of 4"):
        env.set_options([{}])
    with pytest.raises(ValueError, match="contex"):
        env.set_options({"contex": {}})
    env.set_options({"context": {"label_noise": 2}})
    with pytest.raises(ValueError, match="label_noise"):
        env.reset()
    env.set_options()
    env.reset()


def wrong_actions_are_refused_before_anyone_trains(make):
    env = begun(make)
    wrong = nothing(env)
    wrong[3] = np.nan  # of the last environment alone
    for actions, words in ((wrong, "an action is NaN"), (nothing(env)[:3], "must have shape")):
        with pytest.raises(ValueError, match=words):
            env.step(actions)
    with pytest.raises(RuntimeError, match="no actions were given"):
        env.step_wait()
    for _ in range(4):
        _, _, done, infos = env.step(nothing(env))
    assert done.all() and [info["episode"]["l"] for info in infos] == [4] * 4


def a_policy_is_evaluated_without_a_monitor_warning(make, recwarn):
    env = begun(make)
    agent = definition("agents", "ppo").with_overrides({"hyperparameters": PPO}).build()
    rewards, lengths = evaluate_policy(
        agent.build(env, 0), env, n_eval_episodes=8, return_episode_rewards=True
    )
    assert len(rewards) == 8 and set(lengths) == {4}
    assert not [w for w in recwarn if "Monitor" in str(w.message)]


def observations_lie_where_products_end_in_equal_bits(make):
    """At another address a matrix product may end in other bits, and equal runs would part."""
    env = make()
    seen = [env.reset(), *(env.step(nothing(env))[0] for _ in range(6))]
    assert [observation.ctypes.data % 64 for observation in seen] == [0] * 7


def each_training_run_is_rendered(make):
    env = begun(make)
    env.step(nothing(env))
    texts = env.get_images()
    assert len(texts) == len(set(texts)) == 4 and all("interval 1" in text for text in texts)


def a_state_goes_on_bit_for_bit(make, folder):
    env = begun(make, 5)
    actions = actions_of(env, 10)
    for action in actions[:3]:
        env.step(action)
    env.seed(6)
    env.set_options({"context": {"label_noise": 0.4}})
    env.step_async(actions[3])
    save_state(folder / "state.safetensors", env.state_dict())

    seen = []
    for number in range(2):
        if number:
            env.step(actions[9])
            env.load_state_dict(load_state(folder / "state.safetensors"))
        steps = [env.step_wait(), *(env.step(action) for action in actions[4:])]
        seen.append([*steps, (env.reset(),), env.step(actions[0])])
    for first, again in zip(*seen, strict=True):
        for a, b in zip(first[:3], again[:3], strict=True):
            np.testing.assert_array_equal(a, b)
    assert env.reset_infos[0]["label_noise"] == 0.4
    with pytest.raises(ValueError, match="is no state of an environment"):
        env.load_state_dict({})


CONTRACT = [
    the_end_of_a_training_is_not_bootstrapped,
    episode_returns_add_up,
    seeds_decide_the_episodes_and_neighbouring_seeds_share_none,
    attributes_and_methods,
    contexts_are_set_by_sb3s_options_for_one_reset,
    wrong_options_are_named,
    wrong_actions_are_refused_before_anyone_trains,
    a_policy_is_evaluated_without_a_monitor_warning,
    observations_lie_where_products_end_in_equal_bits,
    each_training_run_is_rendered,
    a_state_goes_on_bit_for_bit,
]


def check(one, make, folder, recwarn):
    """Run a check, with what it asks for."""
    known = {"make": make, "folder": folder, "recwarn": recwarn}
    one(*(known[name] for name in one.__code__.co_varnames[: one.__code__.co_argcount]))
