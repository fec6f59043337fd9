"""Every registered environment keeps Gymnasium's and SB3's contracts."""

import warnings

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env

import dsenv
from tests.sessions import noughts

SMALL_DATA = {"task": {"dataset": {"train": 64, "validation": 32, "test": 40}}}
SMALL_DIGITS = {"task": {"dataset": {"train": 200, "validation": 60, "test": 100}}}
SMALL_KINDS = {
    "MultiLabel": {"train": 100, "validation": 40, "test": 40},
    "Regression": {"train": 100, "validation": 40, "test": 40},
    "Segmentation": {"train": 24, "validation": 12, "test": 12},
    "Scenes": {"train": 16, "validation": 8, "test": 8, "side": 16, "photographs": "scikit-learn"},
}
SMALL_MODEL = {"name": "small_cnn", "width": 8}


@pytest.fixture(scope="module")
def sb3_check_env():
    from stable_baselines3.common.env_checker import (
        check_env,
    )  # slow to import; warnings of its own are no error

    return check_env


def small(name):
    """Settings that make an environment small enough for a check, on the files of `data_folder`."""
    if name.startswith("CIFAR"):
        return SMALL_DATA | {"intervals": 2, "trainer": {"precision": "fp32"}}
    if name.partition("-")[0] in SMALL_KINDS:
        return {"task": {"dataset": SMALL_KINDS[name.partition("-")[0]]}, "intervals": 4}
    if name.startswith("Fashion"):
        return SMALL_DATA
    if name.startswith("Language"):
        pytest.importorskip("reasoning_gym", reason="needs the extra `reasoning`")
        return {"task": {"dataset": {"train": 64, "validation": 16, "test": 16}}, "intervals": 2}
    return SMALL_DIGITS if name.startswith("Digits") else {}


@pytest.mark.parametrize("name", dsenv.names("envs"))
def test_check_env(name, data_folder, sb3_check_env):
    settings = small(name)
    if name.startswith("CIFAR"):  # a ResNet-18 trains below
        settings["task"] = settings["task"] | {"model": SMALL_MODEL}
    env = gymnasium.make(f"dsenv/{name}", **settings).unwrapped
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


def test_the_residual_network_of_cifar_trains(data_folder):
    settings = small("CIFAR10") | {"task": {"dataset": {"train": 8, "validation": 8, "test": 8}}}
    env = gymnasium.make("dsenv/CIFAR10-Curriculum-v0", **settings).unwrapped
    env.reset(seed=0)
    before = env.episodes.sessions()[0].trainer.replicas.parameters_of(0)
    observation, _, terminated, _, info = env.step(noughts(env))
    assert env.observation_space.contains(observation) and not terminated
    assert np.isfinite(info["train_loss"]) and info["samples_used"] == 4
    after = env.episodes.sessions()[0].trainer.replicas.parameters_of(0)
    assert all(not torch.equal(after[name], before[name]) for name in ("conv1.weight", "fc.weight"))


@pytest.mark.parametrize(
    "name", ["Tiny-Curriculum-v0", pytest.param("Tiny-Ratio-v0", marks=pytest.mark.fast)]
)
def test_discrete_actions_keep_the_contract(name):
    check_env(dsenv.load("envs", name, actions="discrete"), skip_render_check=True)


@pytest.mark.parametrize("name", ["Tiny-Curriculum-v0", "Tiny-Ratio-v0"])
def test_discrete_actions_keep_the_contract_of_stable_baselines(name, sb3_check_env):
    sb3_check_env(dsenv.load("envs", name, actions="discrete"))


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
