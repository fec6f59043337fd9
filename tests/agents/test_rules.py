import numpy as np
import pytest

import dsenv
from dsenv.agents.learned import LearnedAgent
from dsenv.agents.rules import FixedRule, LossRankRule, NeutralRule

ENV = "Tiny-Curriculum-v0"


def bound(name, env):
    return dsenv.load("agents", name).bind(env.control, env.action_space)


def run(env, agent, seed=0):
    """One episode; returns the infos."""
    observation, _ = env.reset(seed=seed, options={"context": {"label_noise": 0.4}})
    infos, terminated = [], False
    while not terminated:
        action, _ = agent.predict(observation, deterministic=True)
        observation, _, terminated, _, info = env.step(action)
        infos.append(info)
    return infos


@pytest.mark.fast
def test_predict_takes_one_observation_or_many():
    env = dsenv.load("envs", ENV)
    agent = bound("hard_first", env)
    observation, _ = env.reset(seed=0)
    one, state = agent.predict(observation)
    many, _ = agent.predict(np.stack([observation] * 3))
    assert state is None and one.shape == (env.control.size,) and many.shape == (3, env.control.size)
    assert env.action_space.contains(one)


@pytest.mark.fast
@pytest.mark.parametrize(("name", "first"), [("hard_first", False), ("small_loss", True)])
def test_the_end_of_the_ranking_that_a_rule_keeps(name, first):
    env = dsenv.load("envs", ENV)
    late = [info["selected_bins"] for info in run(env, bound(name, env))[1:]]
    share = np.mean([bins[0] + bins[1] for bins in late]) if first else np.mean([b[3] + b[4] for b in late])
    assert share > 0.7


def test_small_losses_hold_fewer_wrong_labels_than_large_ones():
    env = dsenv.load("envs", ENV, task={"dataset": {"train": 600}}, intervals=8)
    wrong = {
        name: run(env, bound(name, env))[-1]["wrong_labels"]
        for name in ("small_loss", "random", "hard_first")
    }
    assert wrong["small_loss"] < wrong["random"] < wrong["hard_first"]


def test_easy_first_ends_with_everything_alike():
    env = dsenv.load("envs", ENV, intervals=8)
    infos = run(env, bound("easy_first", env))
    assert infos[1]["selected_bins"][0] > infos[1]["selected_bins"][4]
    assert np.allclose(infos[-1]["selected_bins"], 0.2, atol=0.12)


@pytest.mark.parametrize(
    ("name", "ratio"), [("random", 0.5), ("all_data", 1.0), ("all_data_plus_validation", 1.0)]
)
@pytest.mark.parametrize("env_name", [ENV, "Tiny-Ratio-v0"])
def test_the_even_rules_train_on_their_ratio(name, ratio, env_name):
    agent = dsenv.load("agents", name)
    env = dsenv.load("envs", env_name, **agent.env)
    infos = run(env, agent.bind(env.control, env.action_space))
    assert [info["ratio"] for info in infos] == pytest.approx([ratio] * 4, abs=0.006)


@pytest.mark.fast
@pytest.mark.parametrize("env_name", [ENV, "Tiny-Joint-v0"])
@pytest.mark.parametrize("name", ["random", "all_data", "hard_first", "small_loss", "easy_first"])
def test_a_rule_trims_nothing(name, env_name):
    agent = dsenv.load("agents", name)
    env = dsenv.load("envs", env_name, **agent.env)
    action, _ = agent.bind(env.control, env.action_space).predict(env.reset(seed=0)[0])
    assert env.control.decode(action[None])["trim"].item() == 0
    fixed = FixedRule({"trim": 1.0}).bind(env.control, env.action_space).predict(env.reset(seed=0)[0])[0]
    assert env.control.decode(fixed[None])["trim"].item() == 1


@pytest.mark.fast
def test_a_rule_says_what_it_cannot_answer():
    env = dsenv.load("envs", "Tiny-Ratio-v0")
    with pytest.raises(ValueError, match="LossRankRule answers CurriculumControl"):
        bound("hard_first", env)
    discrete = dsenv.load("envs", ENV, actions="discrete")
    with pytest.raises(ValueError, match="actions = 'box'"):
        bound("random", discrete)
    with pytest.raises(RuntimeError, match="bind the rule"):
        dsenv.load("agents", "random").predict(np.zeros(5, np.float32))


@pytest.mark.fast
@pytest.mark.parametrize("env", [5, [1], {5: 1}])
@pytest.mark.parametrize(
    "make", [NeutralRule, lambda env: LearnedAgent("curriculum", env), lambda env: LossRankRule("small", env)]
)
def test_environment_settings_are_a_table(make, env):
    with pytest.raises(ValueError, match="env must be a table of settings by name"):
        make(env=env)


@pytest.mark.fast
@pytest.mark.parametrize(
    ("answers", "words"),
    [
        (5, "answers must be a table"),
        ({"log_weight": "x"}, "answers.log_weight must be an array of numbers"),
        ({"log_weight": None}, "answers.log_weight must be an array of numbers"),
        ({"log_weight": 100.0}, "log_weight must be from -5 to 5"),
        ({"log_weight": [1.0, 2.0]}, "log_weight takes one number or 5"),
    ],
)
def test_fixed_answers_are_checked_before_the_first_step(answers, words):
    env = dsenv.load("envs", ENV)
    with pytest.raises(ValueError, match=words):
        FixedRule(answers).bind(env.control, env.action_space)
