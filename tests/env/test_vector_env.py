import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode

import dsenv
from dsenv.catalogue import load_vector
from tests.sessions import noughts, only

NAMES = [f"Tiny-{control}-v0" for control in ("Curriculum", "Ratio", "Mask", "Strength", "Joint")]


def vector(name=NAMES[0], num_envs=3, **settings):
    return load_vector(name, num_envs, **settings)


def random_actions(env, steps, seed=0):
    rng = np.random.default_rng(seed)
    return rng.uniform(-1, 1, (steps, *env.action_space.shape)).astype(np.float32)


def test_make_vec_gives_one_stacked_training():
    envs = gymnasium.make_vec("dsenv/Tiny-Curriculum-v0", num_envs=3)
    assert type(envs).__name__ == "TrainingVectorEnv"
    assert envs.metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP
    assert envs.num_envs == 3 and envs.observation_space.shape[0] == 3
    observation, info = envs.reset(seed=0)
    assert envs.observation_space.contains(observation)
    assert info["label_noise"].shape == info["_label_noise"].shape == (3,)


@pytest.mark.parametrize("name", [pytest.param(NAMES[0], marks=pytest.mark.fast), *NAMES[1:]])
def test_environment_k_equals_a_single_one_with_its_seed(name):
    intervals = 4
    envs = vector(name, intervals=intervals)
    actions = random_actions(envs, intervals)
    observations = [envs.reset(seed=5)[0]]
    rewards = []
    for action in actions:
        observation, reward, terminated, truncated, _ = envs.step(action)
        observations.append(observation)
        rewards.append(reward)
    assert terminated.all() and not truncated.any()
    for k in range(3):
        env = dsenv.load("envs", name, intervals=intervals)
        np.testing.assert_allclose(env.reset(seed=5 + k)[0], observations[0][k], atol=1e-5)
        for t, action in enumerate(actions):
            observation, reward, *_ = env.step(action[k])
            np.testing.assert_allclose(observation, observations[t + 1][k], atol=2e-3)
            assert reward == pytest.approx(rewards[t][k], abs=1e-2)


def test_next_step_resets_in_the_step_after_the_end():
    envs = vector()
    envs.reset(seed=0)
    for _ in range(4):
        *_, terminated, _, _ = envs.step(noughts(envs))
    assert terminated.all()
    observation, reward, terminated, _, info = envs.step(np.ones(envs.action_space.shape, np.float32))
    assert not terminated.any() and not reward.any()
    assert (observation[:, 0] == 0).all()  # progress
    assert (info["samples_used"] == 0).all()


@pytest.mark.fast
def test_next_step_with_episodes_that_end_at_different_times():
    envs = vector(task={"recipe": {"lr": 0.1}})
    envs.reset(seed=0)
    envs.step(noughts(envs))
    only(envs).trainer.replicas._parameters["1.weight"].data[1] = torch.nan  # the second diverges
    observation, reward, terminated, _, info = envs.step(noughts(envs))
    assert terminated.tolist() == [False, True, False] == info["diverged"].tolist()
    assert reward[1] == -10 and np.isfinite(observation).all()
    observation, reward, terminated, _, info = envs.step(noughts(envs))
    assert not terminated.any()
    assert observation[:, 0].tolist() == pytest.approx([0.75, 0.0, 0.75])
    assert reward[1] == 0 and info["_val_accuracy"].tolist() == [True, False, True]
    observation, _, terminated, _, _ = envs.step(noughts(envs))
    assert terminated.tolist() == [True, False, True]
    assert only(envs).trainer.signals.seen[1].sum() == 100


@pytest.mark.fast
def test_same_step_hands_over_the_end():
    envs = vector(autoreset_mode="SameStep")
    envs.reset(seed=0)
    for _ in range(4):
        observation, _, terminated, _, info = envs.step(noughts(envs))
    assert terminated.all() and (observation[:, 0] == 0).all()
    assert info["_final_obs"].all() and all(final[0] == 1 for final in info["final_obs"])
    assert (info["final_info"]["budget_left"] == 0).all() and (info["budget_left"] > 0).all()


def test_same_step_masks_what_the_new_episode_does_not_know_yet():
    envs = vector(autoreset_mode="SameStep")
    envs.reset(seed=0)
    envs.step(noughts(envs))
    only(envs).trainer.replicas._parameters["1.weight"].data[1] = torch.nan  # the second diverges
    *_, terminated, _, info = envs.step(noughts(envs))
    assert terminated.tolist() == [False, True, False]
    assert info["_val_accuracy"].tolist() == [True, False, True] and info["_label_noise"].all()
    assert info["final_info"]["_val_accuracy"].tolist() == [False, True, False]
    assert info["final_info"]["diverged"][1]


@pytest.mark.parametrize("mode", ["NextStep", "SameStep", "Disabled"])
def test_a_step_before_the_first_reset_is_refused(mode):
    envs = vector(autoreset_mode=mode)
    with pytest.raises(RuntimeError, match=r"call reset\(\) before step"):
        envs.step(noughts(envs))


@pytest.mark.fast
def test_disabled_waits_for_a_reset_mask_and_finished_ones_stand_still():
    envs = vector(autoreset_mode="Disabled")
    envs.reset(seed=0)
    for _ in range(4):
        envs.step(noughts(envs))
    before = only(envs).trainer.replicas.parameters_of(2)
    envs.reset(options={"reset_mask": np.array([True, False, False])})
    _, reward, terminated, _, _ = envs.step(noughts(envs))
    assert terminated.tolist() == [False, True, True] and not reward[1:].any()
    after = only(envs).trainer.replicas.parameters_of(2)
    assert all(torch.equal(before[name], value) for name, value in after.items())


def test_seeds_and_contexts_may_be_given_one_by_one():
    envs = vector()
    contexts = [{"label_noise": 0.1 * k} for k in range(3)]
    one, info = envs.reset(seed=[3, 4, 3], options={"context": contexts})
    assert info["label_noise"].tolist() == pytest.approx([0.0, 0.1, 0.2])
    other, _ = envs.reset(seed=[3, 4, 3], options={"context": contexts})
    np.testing.assert_array_equal(one, other)
    with pytest.raises(ValueError, match="2 seeds were given for 3"):
        envs.reset(seed=[1, 2])
    with pytest.raises(ValueError, match="reset_mask"):
        envs.reset(options={"reset_mask": np.zeros(3, bool)})
    with pytest.raises(ValueError, match="a list of 3, one for each environment"):
        envs.reset(options={"context": [{}]})
    with pytest.raises(ValueError, match="Did you mean 'context'"):
        envs.reset(options={"contexts": {}})
    with pytest.raises(ValueError, match="Did you mean 'SameStep'"):
        vector(autoreset_mode="samestep")


def test_one_seed_twice_gives_identical_steps():
    envs = vector(NAMES[1])
    actions = random_actions(envs, 9)
    runs = []
    for _ in range(2):
        seen = [envs.reset(seed=11)[0]]
        for action in actions:
            observation, reward, *_ = envs.step(action)
            seen += [observation, reward]
        runs.append(seen)
    for one, other in zip(*runs, strict=True):
        np.testing.assert_array_equal(one, other)


def test_results_are_fresh_arrays():
    envs = vector()
    first, info = envs.reset(seed=0)
    kept, samples = first.copy(), info["samples_used"].copy()
    envs.step(noughts(envs))
    np.testing.assert_array_equal(first, kept)
    np.testing.assert_array_equal(info["samples_used"], samples)


def test_render_gives_one_result_for_each_environment():
    envs = vector(render_mode="ansi")
    envs.reset(seed=0)
    assert len(envs.render()) == 3


@pytest.mark.gpu
def test_stacked_environment_on_a_gpu():
    envs = vector(device="cuda")
    observation, _ = envs.reset(seed=0)
    for _ in range(4):
        observation, reward, terminated, _, _ = envs.step(noughts(envs))
    assert terminated.all() and np.isfinite(observation).all() and np.isfinite(reward).all()


LOOKING = {"control": {"rescore": True}, "intervals": 6}


@pytest.mark.parametrize(
    ("name", "settings"),
    [("Tiny-Mask-v0", {"intervals": 6}), ("Tiny-Mask-v0", LOOKING), ("Tiny-Joint-v0", {})],
)
def test_a_partial_reset_leaves_the_random_streams_of_the_others(name, settings):
    envs, others = (vector(name, autoreset_mode="Disabled", **settings) for _ in range(2))
    actions = random_actions(envs, 4)
    for each in (envs, others):
        each.reset(seed=5)
    for t, action in enumerate(actions):
        found, wanted = envs.step(action)[0], others.step(action)[0]
        np.testing.assert_allclose(found[[0, 2]], wanted[[0, 2]], atol=1e-5)
        if t == 1:
            mask = np.array([False, True, False])
            found, _ = envs.reset(seed=[None, 77, None], options={"reset_mask": mask})
            np.testing.assert_allclose(found[[0, 2]], wanted[[0, 2]], atol=1e-5)
            assert not np.array_equal(found[1], wanted[1])
    for k in (0, 2):
        streams = [only(each).streams[k].get_state() for each in (envs, others)]
        assert torch.equal(*streams)
