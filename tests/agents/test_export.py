"""An exported policy acts as the model it was taken from, to float tolerance."""

import numpy as np
import pytest
import torch
from stable_baselines3 import A2C, DDPG, DQN, PPO, SAC, TD3
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

import dsenv
from dsenv.agents.policies import BetaPolicy, SetBetaPolicy, SetPolicy
from dsenv.agents.vec_env import StackedVecEnv
from dsenv.catalogue import load_vector
from dsenv.evaluation.compare import Entry, evaluate
from dsenv.policy import Policy
from dsenv.policy.card import PolicyCard

SHORT = {
    PPO: {"n_steps": 8, "batch_size": 16, "n_epochs": 2},
    A2C: {"n_steps": 4},
    **{kind: {"learning_starts": 8, "batch_size": 8, "buffer_size": 100} for kind in (SAC, TD3, DDPG, DQN)},
}


def stacked(name="Tiny-Curriculum-v0", **settings):
    return StackedVecEnv(load_vector(name, 2, autoreset_mode="SameStep", device="cpu", **settings))


def model_of(algorithm, env, steps=0, policy="MlpPolicy", **settings):
    model = algorithm(policy, env, seed=1, device="cpu", **SHORT.get(algorithm, {}), **settings)
    return model.learn(steps) if steps else model


def observations(env, number=64):
    rng = np.random.default_rng(0)
    return rng.uniform(-1, 1, (number, *env.observation_space.shape)).astype(np.float32)


def same_actions(model, policy, rows, atol=1e-5):
    """Sums end otherwise where a row lies otherwise in memory: choices may differ where they are close."""
    wanted, given = model.predict(rows, deterministic=True)[0], policy.predict(rows, deterministic=True)[0]
    assert wanted.shape == given.shape
    if given.dtype.kind == "f":
        np.testing.assert_allclose(given, wanted, rtol=1e-5, atol=atol)
    else:
        assert (given == wanted).mean() >= 0.98
    one = policy.predict(rows[0])[0]
    assert one.shape == wanted[0].shape
    np.testing.assert_allclose(one, given[0], rtol=1e-5, atol=atol)


# Each once: actor-critics, squashed means (SAC), squashed actions (TD3, DDPG); one action or several.
@pytest.mark.parametrize(
    ("algorithm", "control", "steps"),
    [
        (PPO, "Curriculum", 32),
        (A2C, "Ratio", 0),
        (SAC, "Curriculum", 32),
        (TD3, "Curriculum", 32),
        (DDPG, "Ratio", 0),
    ],
)
def test_box_actions(algorithm, control, steps, tmp_path):
    env = stacked(f"Tiny-{control}-v0")
    model = model_of(algorithm, env, steps)
    policy = dsenv.export(model, env)
    same_actions(model, policy, observations(env))
    again = Policy.load(policy.save(tmp_path / "policy.safetensors"))
    same_actions(model, again, observations(env))
    assert again.digest == policy.digest and again.card == policy.card


@pytest.mark.parametrize("algorithm", [PPO, DQN])  # a categorical distribution; the largest of the values
def test_discrete_actions(algorithm):
    env = stacked(actions="discrete")
    model = model_of(algorithm, env, 32)
    policy = dsenv.export(model, env)
    same_actions(model, policy, observations(env))
    assert policy.card.actions == "discrete" and policy.card.network["head"] == "categorical"


@pytest.mark.parametrize("settings", [{"net_arch": []}, {"net_arch": [5], "activation_fn": torch.nn.ReLU}])
def test_other_shapes_of_network(settings):
    env = stacked()
    model = model_of(PPO, env, policy_kwargs=settings)
    same_actions(model, dsenv.export(model, env), observations(env))


def test_the_card_says_the_kind_of_task():
    for env_id, kind in (("Tiny-Curriculum-v0", "classification"), ("Tiny-Regression-v0", "regression")):
        env = stacked(env_id)
        card = dsenv.export(model_of(PPO, env), env).card
        assert card.task_kind == kind
        assert PolicyCard.of_text(card.text()).task_kind == kind


@pytest.mark.fast
def test_large_means_are_clipped_alike():
    env = stacked()
    model = model_of(PPO, env)
    with torch.no_grad():
        model.policy.action_net.weight.mul_(1000)
    same_actions(model, dsenv.export(model, env), observations(env), atol=0.01)  # of means up to 1,000


@pytest.mark.parametrize(
    ("policy", "actions"), [(SetPolicy, "box"), (SetPolicy, "binary"), (SetBetaPolicy, "box")]
)
def test_set_policies(policy, actions):
    env = stacked("Tiny-Mask-v0", actions=actions)
    model = model_of(PPO, env, 16, policy, policy_kwargs={"candidates": env.env.episodes.candidate_shape})
    exported = dsenv.export(model, env)
    rows = observations(env)
    state = exported.actor.network.sizes[0]
    rows[:, state :: exported.actor.network.sizes[1]] = np.random.default_rng(1).integers(2, size=(64, 32))
    same_actions(model, exported, rows)
    env.seed(0)
    same_actions(model, exported, env.reset())


def test_a_set_policy_takes_any_number_of_candidates():
    env = stacked("Tiny-Mask-v0")
    shape = env.env.episodes.candidate_shape
    model = model_of(PPO, env, policy=SetPolicy, policy_kwargs={"candidates": shape})
    exported = dsenv.export(model, env)
    rows = observations(env)
    assert exported.predict(rows[:, : -16 * shape[1]])[0].shape == (64, 16)
    with pytest.raises(ValueError, match=r"takes observations of .* entries \(control 'mask', 5 bins\), got"):
        exported.predict(rows[:, :-1])


def test_beta_and_contrib_policies():
    env = stacked()
    model = model_of(PPO, env, 16, BetaPolicy)
    same_actions(model, dsenv.export(model, env), observations(env))
    contrib = pytest.importorskip("sb3_contrib")
    model = model_of(contrib.TQC, env)
    same_actions(model, dsenv.export(model, env), observations(env))
    model = contrib.RecurrentPPO("MlpLstmPolicy", env, n_steps=8, batch_size=8, device="cpu")
    with pytest.raises(ValueError, match=r"RecurrentActorCriticPolicy does not travel.*ActorCriticPolicy"):
        dsenv.export(model, env)


def test_what_does_not_travel_says_why():
    env = stacked()
    with pytest.raises(ValueError, match="use_sde"):
        dsenv.export(model_of(PPO, env, use_sde=True), env)
    with pytest.raises(ValueError, match="use_sde"):
        dsenv.export(model_of(SAC, env, use_sde=True), env)
    with pytest.raises(ValueError, match=r"Tanh or ReLU between linear layers, got \['Linear', 'ELU'"):
        dsenv.export(model_of(PPO, env, policy_kwargs={"activation_fn": torch.nn.ELU}), env)
    with pytest.raises(ValueError, match="VecNormalize"):
        dsenv.export(model_of(PPO, VecNormalize(env)), env)
    with pytest.raises(ValueError, match="not an environment of dsenv"):
        dsenv.export(model_of(PPO, env), object())

    class Custom(PPO.policy_aliases["MlpPolicy"]):
        pass

    with pytest.raises(ValueError, match="Custom does not travel"):
        dsenv.export(model_of(PPO, env, policy=Custom), env)


@pytest.mark.fast
def test_the_card_says_what_was_trained():
    env = stacked(control={"name": "curriculum", "sharpness": 3.0}, validation_shown=0.5)
    policy = dsenv.export(model_of(PPO, env, 16), env, environment="Tiny-Curriculum-v0", score=1.5)
    card = policy.card
    assert card.control == {"name": "curriculum", "sharpness": 3.0} and card.validation_shown == 0.5
    assert (card.bins, card.rank_by, card.ratio, card.intervals) == (5, "loss_rank", 0.5, 4)
    assert card.trained["algorithm"] == "PPO" and card.trained["steps"] == 16
    assert card.trained["context"] == {"label_noise": [0.0, 0.6]} and card.trained["score"] == 1.5
    assert card.observation["entries"] == env.observation_space.shape[0]


def test_every_form_of_the_environment_is_understood():
    single = dsenv.load("envs", "Tiny-Curriculum-v0", device="cpu")
    wrapped = DummyVecEnv([lambda: single])
    for env in (single, wrapped):
        model = model_of(PPO, env)
        assert dsenv.export(model, env).card.bins == 5
    assert dsenv.export(model, stacked().env).card.bins == 5


def test_evaluation_takes_a_policy_for_the_model():
    env = stacked()
    model = model_of(PPO, env, 16)
    policy = dsenv.export(model, env)
    definition = dsenv.catalogue.definition("envs", "Tiny-Curriculum-v0")
    agent = dsenv.load("agents", "ppo")
    rows = [
        evaluate(definition, [Entry("x", agent, m)], "x", seeds=2, device="cpu", progress=False).rows
        for m in (model, policy)
    ]
    for one, other in zip(*rows, strict=True):
        assert (one.agent, one.context, one.samples_used) == (other.agent, other.context, other.samples_used)
        assert one.accuracy_mean == pytest.approx(other.accuracy_mean, abs=0.02)  # 200 test samples, 2 seeds
