"""The environment of language modelling, in a tiny variant."""

import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env

from dsenv.catalogue import load, load_vector
from tests.sessions import only

pytest.importorskip("reasoning_gym", reason="needs reasoning-gym: pip install reasoning-gym")

NAME = "Language-Curriculum-v0"
DATA = {"name": "reasoning", "generators": ["spell_backward", "gcd"], "levels": [1]}
TASK = {
    "dataset": {**DATA, "train": 40, "validation": 16, "test": 16},
    "model": {"name": "decoder", "width": 8, "layers": 1, "heads": 2},
    "recipe": {"optimizer": "adamw", "lr": 4e-3, "schedule": "one_cycle", "batch_size": 16},
}
TINY = {"intervals": 3, "interval": 0.5, "task": TASK}


def make(**settings):
    return load("envs", NAME, **{**TINY, **settings})


def episode(env, seed=3, noise=0.5):
    """Reward, validation metric and samples used after each interval, all bins with equal weights."""
    env.reset(seed=seed, options={"context": {"label_noise": noise}})
    done, found = False, []
    while not done:
        _, reward, done, _, info = env.step(np.zeros_like(env.action_space.low))
        found.append((float(reward), info["val_accuracy"], info["samples_used"], info["train_loss"]))
    return found


def test_it_keeps_the_contract_of_environments():
    env = make()
    check_env(env, skip_render_check=True)
    assert env.config.make_task().kind.metric_name == "exact answers"


def test_one_seed_gives_one_training_and_the_budget_is_met():
    one, again = episode(make()), episode(make())
    assert one == again
    assert one[-1][2] == 3 * 10  # 40 samples, half an epoch, half of the data
    assert one != episode(make(), seed=4)


def test_a_share_of_the_answers_is_exchanged_and_read_as_asked_for():
    env = make()
    env.reset(seed=1, options={"context": {"label_noise": 0.5}})
    trainer = only(env).trainer
    assert int(trainer.wrong[0].sum()) in range(14, 21)  # 20, less those whose answers are alike
    data = trainer.split("train")
    given = trainer.labels[0]
    read = trainer.task.kind.inputs_for(data.images[:-1], data.labels[given])
    assert not torch.equal(read, data.images[:-1])
    right = ~trainer.wrong[0]
    assert torch.equal(read[right], data.images[:-1][right])


def test_a_state_restored_in_the_middle_goes_on_alike():
    env = make()
    env.reset(seed=2)
    still = np.zeros_like(env.action_space.low)
    env.step(still)
    saved = env.save_state()
    after = [env.step(still)[0] for _ in range(2)]
    env.restore_state(saved)
    for wanted in after:
        np.testing.assert_array_equal(env.step(still)[0], wanted)


def test_environment_k_of_several_equals_a_single_one_with_its_seed():
    envs = load_vector(NAME, 2, **TINY)
    observations, _ = envs.reset(seed=5)
    still = np.zeros_like(envs.single_action_space.low)
    for seed, own in zip((5, 6), observations, strict=True):
        env = make()
        np.testing.assert_allclose(env.reset(seed=seed)[0], own, atol=1e-5)
    found = envs.step(np.stack([still, still]))[0]
    np.testing.assert_allclose(env.step(still)[0], found[1], atol=1e-4)


def test_training_answers_more_problems():
    data = {**DATA, "generators": ["spell_backward"], "train": 400, "validation": 60, "test": 10}
    task = {**TASK, "dataset": data, "model": {"name": "decoder", "width": 48}}
    found = episode(make(task=task, intervals=6, interval=1.0, ratio=1.0), noise=0.0)
    assert found[0][1] < 0.3 < 0.6 < found[-1][1]
