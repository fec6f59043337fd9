import itertools

import numpy as np
import pytest
import torch

import dsenv
from dsenv.agents.checkpoint import numbers_of, parameters, spaces_state
from dsenv.agents.sb3 import LinearSchedule, SB3Agent
from dsenv.agents.vec_env import StackedVecEnv
from dsenv.catalogue import definition, load_vector
from tests.agents.vec_env_contract import CONTRACT, check
from tests.sessions import only

NAMES = {"curriculum": "Tiny-Curriculum-v0", "ratio": "Tiny-Ratio-v0"}
SHORT = {
    "ppo": {"n_steps": 8, "batch_size": 32, "n_epochs": 2},
    "a2c": {"n_steps": 4},
    "sac": {"learning_starts": 16, "batch_size": 16, "gradient_steps": 1, "buffer_size": 200},
    "td3": {"learning_starts": 16, "batch_size": 16, "gradient_steps": 1, "buffer_size": 200},
    "dqn": {"learning_starts": 16, "batch_size": 16, "gradient_steps": 1, "buffer_size": 200},
    "ppo_beta": {"n_steps": 8, "batch_size": 32, "n_epochs": 2},
    "recurrent_ppo": {"n_steps": 8, "batch_size": 32, "n_epochs": 2},
    "tqc": {"learning_starts": 16, "batch_size": 16, "gradient_steps": 1, "buffer_size": 200},
}
CONTRIB = ("recurrent_ppo", "tqc")


def stacked(name="Tiny-Curriculum-v0", num_envs=4, **settings):
    return StackedVecEnv(load_vector(name, num_envs, autoreset_mode="SameStep", **settings))


# The control decides the number of actions alone: each algorithm meets one, in turn.
@pytest.mark.parametrize(("agent", "control"), list(zip(SHORT, itertools.cycle(NAMES))))
def test_each_algorithm_learns_and_each_control(agent, control):
    if agent in CONTRIB:
        pytest.importorskip("sb3_contrib")
    short = {"hyperparameters": SHORT[agent], "num_envs": 4}
    found = definition("agents", agent).with_overrides(short).build()
    model = found.build(stacked(NAMES[control], **found.env), seed=0)
    before = [value.clone() for value in model.policy.parameters()]
    model.learn(32)
    moved = [bool((a != b).any()) for a, b in zip(before, model.policy.parameters(), strict=True)]
    assert model.num_timesteps >= 32 and any(moved)
    assert all(bool(value.isfinite().all()) for value in model.policy.parameters())


def test_every_learning_agent_is_run_by_a_test():
    learning = {name for name in dsenv.names("agents") if dsenv.load("agents", name).learns}
    assert learning == {*SHORT, "ppo_set", "ppo_data_agent"}


def test_data_agent_learns_in_the_environment_without_a_clean_label():
    found = definition("agents", "ppo_data_agent")
    few = {"hyperparameters": {"n_steps": 4, "batch_size": 16}, "env": {"control": {"candidates": 32}}}
    agent = found.with_overrides(few).build()
    env = stacked("Tiny-Mask-v0", **agent.env)
    model = agent.build(env, seed=0)
    before = [value.clone() for value in model.policy.parameters()]
    model.learn(32)
    assert any(bool((a != b).any()) for a, b in zip(before, model.policy.parameters(), strict=True))
    session = only(env.env)
    assert session.candidate_sampler.embedding == 16 and not session.state.shows_validation.any()
    assert session.config.reward == "composite"


def test_ppo_set_learns_where_candidates_are_shown():
    from tests.agents.candidates import ToyCandidates, mean_reward

    env, found = ToyCandidates(64), dsenv.load("agents", "ppo_set")
    model = found.build(env, seed=0)
    model.learn(2 * 64 * 24)
    assert mean_reward(model, env) > 0.5  # 0.69 or more with each of 3 seeds; random gets 0
    with pytest.raises(ValueError, match="candidate_shape"):
        found.build(stacked(), seed=0)


def test_a_missing_sb3_contrib_is_named_with_the_command(monkeypatch):
    monkeypatch.setattr("dsenv.agents.sb3.find_spec", lambda _: None)
    with pytest.raises(ValueError, match="pip install sb3-contrib"):
        dsenv.load("agents", "tqc").check()


class Counting:
    """A policy with a memory: counts the steps of each episode, and notes what it was given."""

    def __init__(self, size):
        self.size, self.starts, self.counts = size, [], []

    def predict(self, observation, state=None, episode_start=None, deterministic=False):
        before = np.zeros(len(observation)) if state is None else state
        count = np.where(episode_start, 0, before) + 1
        self.starts.append(episode_start.tolist())
        self.counts.append(count.tolist())
        return np.zeros((len(observation), self.size), np.float32), count


def test_the_state_of_a_policy_travels_through_an_evaluation():
    from dsenv.evaluation.runs import run_episodes

    env = load_vector("Tiny-Curriculum-v0", 2, autoreset_mode="Disabled")
    for _ in range(2):
        agent = Counting(env.single_action_space.shape[0])
        run_episodes(env, agent, [1, 2], {})
        assert agent.counts == [[1, 1], [2, 2], [3, 3], [4, 4]]
        assert agent.starts == [[True, True]] + 3 * [[False, False]]


def test_the_state_of_a_policy_travels_through_the_looks_during_training(monkeypatch):
    pytest.importorskip("sb3_contrib")
    from dsenv.agents.callbacks import SeededEval

    agent = definition("agents", "recurrent_ppo").with_overrides({"hyperparameters": SHORT["recurrent_ppo"]})
    model = agent.build().build(stacked(), seed=0)
    counting = Counting(model.action_space.shape[0])
    monkeypatch.setattr(model, "predict", counting.predict)
    look = SeededEval(stacked(), 0, n_eval_episodes=4, eval_freq=4)
    model.learn(32, callback=look)
    assert counting.counts == 2 * [[1.0] * 4, [2.0] * 4, [3.0] * 4, [4.0] * 4]


def test_a_recurrent_policy_is_restored_and_evaluated():
    pytest.importorskip("sb3_contrib")
    from dsenv.evaluation.runs import run_episodes

    settings = {"hyperparameters": SHORT["recurrent_ppo"], "num_envs": 2}
    agent = definition("agents", "recurrent_ppo").with_overrides(settings).build()
    trained = agent.build(stacked(num_envs=2), seed=0)
    known, saved = spaces_state(trained.get_env()), parameters(trained)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    model = agent.restored(known, saved, numbers_of(trained))
    assert torch.equal(torch.get_rng_state(), before)
    env = load_vector("Tiny-Curriculum-v0", 2, autoreset_mode="Disabled")
    first, again = (run_episodes(env, model, [1, 2], {}) for _ in range(2))
    assert np.array_equal(first.accuracy, again.accuracy)  # no memory of the episodes before


@pytest.mark.fast
@pytest.mark.parametrize("promise", CONTRACT, ids=lambda promise: promise.__name__)
def test_the_stacked_environment_keeps_what_a_vec_env_promises(promise, tmp_path, recwarn):
    check(promise, lambda: stacked(render_mode="ansi"), tmp_path, recwarn)


def test_what_is_of_the_stack_as_a_whole():
    env = stacked()
    env.set_attr("note", 5)
    assert env.env.note == 5
    assert env.env_method("reset", seed=1)[0][0].shape == (4, env.observation_space.shape[0])
    with pytest.raises(ValueError, match="SameStep"):
        StackedVecEnv(load_vector("Tiny-Curriculum-v0", 2))


def test_off_policy_scalars_are_means_over_whole_trainings():
    """SB3 logs such an agent when trainings end; a snapshot would show their last interval alone."""
    from stable_baselines3.common.logger import KVWriter, Logger

    from dsenv.agents.scalars import EnvScalars

    ratios = []

    class Kept(KVWriter):
        def write(self, key_values, *_):
            ratios.append(key_values.get("chosen/share of the data"))

    agent = definition("agents", "sac").with_overrides({"hyperparameters": SHORT["sac"], "num_envs": 4})
    model = agent.build().build(stacked("Tiny-Ratio-v0", 4), seed=0)
    model.set_logger(Logger(None, [Kept()]))
    model.learn(64, callback=EnvScalars(), log_interval=4)
    assert ratios == pytest.approx([0.5] * 4, abs=1e-3)  # the budget of every training


def test_a_gymnasium_env_works_with_sb3_as_it_is():
    from stable_baselines3 import PPO

    model = PPO("MlpPolicy", dsenv.load("envs", "Tiny-Curriculum-v0"), n_steps=8, batch_size=8, device="cpu")
    model.learn(16)
    assert model.num_timesteps == 16


@pytest.mark.fast
def test_schedules_and_bad_settings():
    assert (
        LinearSchedule(1.0)(1.0) == 1.0 and LinearSchedule(1.0)(0.5) == 0.5 and LinearSchedule(1.0)(0) == 0.05
    )
    with pytest.raises(ValueError, match="Did you mean 'PPO'"):
        SB3Agent("PPPO")
    with pytest.raises(ValueError, match="Did you mean 'gamma'"):
        SB3Agent("PPO", hyperparameters={"gama": 1.0}).build(stacked(), 0)
    with pytest.raises(ValueError, match="steps must be a whole number of at least 1, got 0"):
        SB3Agent("PPO", steps=0)


@pytest.mark.fast
@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"steps": True}, "steps must be"),
        ({"num_envs": "8"}, "num_envs must be"),
        ({"env": [1]}, "env must be a table"),
        ({"hyperparameters": "x"}, "hyperparameters must be a table"),
        ({"hyperparameters": {5: 1}}, "hyperparameters must be a table"),
        ({"hyperparameters": {"learning_rate": "lin_x"}}, "learning_rate must be a number, or 'lin_'"),
        ({"hyperparameters": {"learning_rate": "fast"}}, "learning_rate must be a number, or 'lin_'"),
        ({"policy": 5}, "policy must be a name"),
        ({"algorithm": None}, "algorithm must be a name"),
    ],
)
def test_settings_are_checked_before_the_agent_is_trained(settings, words):
    with pytest.raises(ValueError, match=words):
        SB3Agent(**{"algorithm": "PPO", **settings}).check()


@pytest.mark.fast
def test_numbers_are_kept_as_plain_ones():
    agent = SB3Agent("PPO", steps=np.int64(8), num_envs=np.int32(2))
    assert type(agent.steps) is type(agent.num_envs) is int


def test_a_custom_algorithm_and_policy_by_entry_point():
    agent = SB3Agent(
        "stable_baselines3:PPO",
        policy="stable_baselines3.ppo.policies:MlpPolicy",
        hyperparameters=SHORT["ppo"] | {"learning_rate": "lin_1e-3"},
    )
    model = agent.build(stacked(), seed=0)
    assert model.learning_rate(1.0) == 1e-3


def test_strength_is_logged_where_the_control_decides_it():
    from stable_baselines3.common.logger import KVWriter, Logger

    from dsenv.agents.scalars import EnvScalars

    logged = []

    class Kept(KVWriter):
        def write(self, key_values, *_):
            logged.append(dict(key_values))

    settings = {"hyperparameters": SHORT["dqn"], "num_envs": 4}
    for name in ("Tiny-Strength-v0", "Tiny-Curriculum-v0"):
        env = StackedVecEnv(load_vector(name, 4, autoreset_mode="SameStep", actions="discrete"))
        model = definition("agents", "dqn").with_overrides(settings).build().build(env, seed=0)
        model.set_logger(Logger(None, [Kept()]))
        model.learn(16, callback=EnvScalars(), log_interval=4)
        assert ("chosen/augmentation strength" in logged[-1]) == (name == "Tiny-Strength-v0")
    assert 0 < logged[0]["chosen/augmentation strength"] < 1
