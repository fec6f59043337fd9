"""Every registered environment keeps Gymnasium's and SB3's contracts."""

import warnings

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from stable_baselines3.common.env_checker import check_env as sb3_check_env

import dsenv

SMALL_DATA = {"task": {"dataset": {"train": 64, "validation": 32, "test": 40}}}


def small(name):
    """Settings that make an environment small enough for a check, on the files of `data_folder`."""
    if name.startswith("CIFAR"):
        return SMALL_DATA | {"intervals": 2, "trainer": {"precision": "fp32"}}
    return SMALL_DATA if name.startswith("Fashion") else {}


@pytest.mark.parametrize("name", dsenv.names("envs"))
def test_check_env(name, data_folder):
    env = gymnasium.make(f"dsenv/{name}", **small(name)).unwrapped
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=".*(spec|render).*")
        check_env(env, skip_render_check=True)
        sb3_check_env(env)


@pytest.mark.parametrize("name", dsenv.names("envs"))
def test_observations_and_actions_are_named(name, data_folder):
    env = gymnasium.make(f"dsenv/{name}", **small(name)).unwrapped
    assert len(env.observation_names) == env.observation_space.shape[0] == len(set(env.observation_names))
    assert len(env.action_names) == env.action_space.shape[0]


@pytest.mark.parametrize("name", ["Tiny-Curriculum-v0", "Tiny-Ratio-v0"])
def test_discrete_actions_keep_the_contract(name):
    env = dsenv.load("envs", name, actions="discrete")
    check_env(env, skip_render_check=True)
    sb3_check_env(env)


def test_both_render_modes():
    for mode, kind in (("rgb_array", np.ndarray), ("ansi", str)):
        env = gymnasium.make("dsenv/Tiny-Curriculum-v0", render_mode=mode)
        env.reset(seed=0)
        assert isinstance(env.render(), kind)
        env.step(env.action_space.sample())
        shown = env.render()
        assert isinstance(shown, kind)
        if mode == "rgb_array":
            assert shown.dtype == np.uint8 and shown.shape[2] == 3 and len(np.unique(shown)) > 20
        else:
            assert "val acc" in shown and "\n" not in shown


def test_check_env_with_its_render_check():
    env = gymnasium.make("dsenv/Tiny-Ratio-v0", render_mode="rgb_array")
    check_env(env.unwrapped)
