import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.vec_env import VecEnv

from dsenv.agents.policies import BetaPolicy, SetBetaPolicy, SetPolicy
from dsenv.agents.sb3 import SB3Agent
from tests.agents.candidates import FEATURES, GLOBAL, ToyCandidates, mean_reward

SHORT = {"PPO": {"n_steps": 8, "batch_size": 32, "n_epochs": 2}, "A2C": {"n_steps": 4}}
CASES = [("SetPolicy", False), ("SetPolicy", True), ("SetBetaPolicy", False)]


def built(policy, algorithm="PPO", seed=0, hyperparameters=None, **toy):
    env = ToyCandidates(**toy)
    agent = SB3Agent(algorithm, policy, hyperparameters=hyperparameters or SHORT[algorithm])
    return agent.build(env, seed), env


def spread(policy):
    """Give the scores a range: at first they are nearly equal."""
    torch.manual_seed(1)
    torch.nn.init.normal_(policy.network.score_head.weight)


@pytest.mark.parametrize("algorithm", SHORT)
@pytest.mark.parametrize(("policy", "mask"), CASES)
def test_each_policy_trains_with_each_algorithm(policy, mask, algorithm):
    model, env = built(policy, algorithm, num_envs=4, padding=5, mask=mask)
    before = {name: value.clone() for name, value in model.policy.named_parameters()}
    model.learn(64)
    after = dict(model.policy.named_parameters())
    assert all(bool(value.isfinite().all()) for value in after.values())
    assert not [name for name, value in before.items() if torch.equal(value, after[name])]
    action, _ = model.predict(env.reset())
    assert all(env.action_space.contains(row.astype(env.action_space.dtype)) for row in action)
    assert (action[:, 27:] == (0 if mask else -1)).all()


# A policy gives A2C the same densities as PPO, so that learning is shown once, with few candidates.
LEARN = {"learning_rate": 3e-3, "n_steps": 16, "batch_size": 64, "n_epochs": 4, "gamma": 0.0}
FEW = 8


@pytest.fixture(scope="module", params=CASES, ids=str)
def learned(request):
    policy, mask = request.param
    model, env = built(policy, hyperparameters=LEARN, number=FEW, mask=mask)
    return model.learn(512), env


def test_each_policy_learns_to_pick_the_best_half(learned):
    assert mean_reward(*learned) > 0.6  # 0.74 or more with each of 6 seeds; random gets 0


@pytest.mark.fast
@pytest.mark.parametrize(("policy", "mask"), CASES)
def test_structure_of_the_distribution(policy, mask):
    """Permuting candidates permutes the actions' distribution; padding does not count in densities."""
    model, env = built(policy, mask=mask, padding=4, num_envs=4)
    spread(model.policy)
    observation = torch.as_tensor(env.reset())
    state, rows = model.policy.split(observation)
    torch.testing.assert_close(rows, torch.as_tensor(env.sets))
    actions, values, log_prob = model.policy(observation)
    again = model.policy.evaluate_actions(observation, actions)
    torch.testing.assert_close(again[0], values)
    torch.testing.assert_close(again[1], log_prob)
    order = torch.randperm(32, generator=torch.Generator().manual_seed(0))
    permuted = torch.cat([state, rows[:, order].flatten(1)], 1)
    for ours, theirs in zip(model.policy.evaluate_actions(permuted, actions[:, order]), again, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    rows[:, 28:, 1:] = 50.0
    few = model.policy.for_candidates(28)
    narrow = torch.cat([state, rows[:, :28].flatten(1)], 1)
    wide = torch.cat([state, rows.flatten(1)], 1)
    for ours in (
        model.policy.evaluate_actions(wide, actions),
        few.evaluate_actions(narrow, actions[:, :28]),
    ):
        for mine, theirs in zip(ours, again, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("learned", CASES[:1], ids=str, indirect=True)
def test_another_number_of_candidates_shares_the_parameters(learned):
    model, env = learned
    more = model.policy.for_candidates(200)
    large = ToyCandidates(4, number=200, seed=5)
    assert more.observation_space.shape == large.observation_space.shape
    assert more.action_space == large.action_space
    assert mean_reward(more, large) > 0.6
    assert model.policy.candidates == (FEW, FEATURES) and mean_reward(model, env) > 0.6
    one, _ = more.predict(large.reset()[0], deterministic=True)
    assert one.shape == (200,)
    assert {id(p) for p in more.parameters()} == {id(p) for p in model.policy.parameters()}


@pytest.mark.parametrize(("policy", "mask"), CASES)
def test_the_exported_network_scores_as_the_policy_acts(policy, mask):
    model, env = built(policy, mask=mask, padding=3)
    spread(model.policy)
    observation = env.reset()
    state, rows = model.policy.split(torch.as_tensor(observation))
    network = type(model.policy.network).from_state_dict(model.policy.network.state_dict())
    with torch.no_grad():
        scores, value = network(state, rows)
        torch.testing.assert_close(model.policy.predict_values(torch.as_tensor(observation)).flatten(), value)
    acted, _ = model.predict(observation, deterministic=True)
    np.testing.assert_allclose(acted, (scores > 0).numpy() if mask else scores.numpy(), atol=1e-5)


@pytest.mark.parametrize(("policy", "mask"), CASES)
def test_save_and_load_give_the_same_policy(policy, mask, tmp_path):
    model, env = built(policy, mask=mask)
    model.learn(128)
    model.save(tmp_path / "model.zip")
    observation = env.reset()
    wanted, _ = model.predict(observation, deterministic=True)
    loaded = PPO.load(tmp_path / "model.zip", env, device="cpu")
    assert np.array_equal(loaded.predict(observation, deterministic=True)[0], wanted)
    loaded.learn(128, reset_num_timesteps=False)
    model.policy.save(tmp_path / "policy.pt")
    alone = type(model.policy).load(tmp_path / "policy.pt", device="cpu")
    assert np.array_equal(alone.predict(observation, deterministic=True)[0], wanted)


def test_one_seed_gives_one_policy():
    vectors = []
    for _ in range(2):
        model, _ = built("SetPolicy", seed=3)
        model.learn(128)
        vectors.append(model.policy.parameters_to_vector())
    assert np.array_equal(*vectors)


def test_scores_are_seldom_clipped_and_noise_is_shared():
    model, env = built("SetPolicy", num_envs=400)
    observation = torch.as_tensor(env.reset())
    with torch.no_grad():
        actions, _, _ = model.policy(observation)
        noise = actions - model.policy.get_distribution(observation).mode()
    assert (actions.abs() > 1).float().mean() < 0.002  # 0.0006 at most with each of 5 seeds
    assert noise.std().item() == pytest.approx((0.2**2 + 0.1**2) ** 0.5, rel=0.08)  # off by 2 % at most
    fit = torch.linalg.lstsq(torch.as_tensor(env.sets), noise.unsqueeze(-1))
    left = (noise - (torch.as_tensor(env.sets) @ fit.solution).squeeze(-1)).var() / noise.var()
    assert left < 0.25  # 0.18 at most; four fifths of the variance lie along the features


def test_the_reward_sees_more_of_shared_noise_than_of_independent_noise():
    """Both deviate a score by 0.22; the rewards of many sets tell how much of it reaches the reward."""
    seen = []
    for settings in ({}, {"shared_std": 0.0, "own_std": 0.05**0.5}):
        given = {**SHORT["PPO"], "policy_kwargs": settings}
        model, env = built("SetPolicy", hyperparameters=given, num_envs=400, number=128)
        env.step_async(model.predict(env.reset())[0])
        seen.append(env.step_wait()[1].std())
    assert seen[0] > 2 * seen[1]  # 2.8 times or more with each of 5 seeds


def test_a_policy_can_explore_without_shared_noise():
    agent = SB3Agent(
        "PPO", "SetPolicy", hyperparameters={**SHORT["PPO"], "policy_kwargs": {"shared_std": 0.0}}
    )
    model = agent.build(ToyCandidates(), 0)
    model.learn(128)
    assert model.policy.log_shared_std.numel() == 0


class Line(VecEnv):
    """Reward: how near the action is to a point of the box; observations do not matter."""

    def __init__(self, num_envs=16):
        self.render_mode = None
        box = spaces.Box(np.array([-1, 0], np.float32), np.array([1, 10], np.float32))
        super().__init__(num_envs, spaces.Box(-1, 1, (3,)), box)

    def reset(self):
        return np.zeros((self.num_envs, 3), np.float32)

    def step_async(self, actions):
        self.actions = actions

    def step_wait(self):
        assert all(self.action_space.contains(row) for row in self.actions)
        reward = -np.abs(self.actions - [0.5, 2.0]) @ [1, 0.2]
        done = np.ones(self.num_envs, bool)
        infos = [{"terminal_observation": row} for row in self.reset()]
        return self.reset(), reward.astype(np.float32), done, infos

    close = set_attr = env_method = None
    get_attr = ToyCandidates.get_attr
    env_is_wrapped = ToyCandidates.env_is_wrapped


def test_beta_policy_learns_a_point_of_the_box_and_is_never_clipped():
    env = Line()
    agent = SB3Agent("PPO", "BetaPolicy", hyperparameters=LEARN | {"learning_rate": 1e-2})
    model = agent.build(env, 0)
    start, _ = model.predict(env.reset()[0], deterministic=True)
    np.testing.assert_allclose(start, [0, 5], atol=0.1)
    model.learn(1024)
    found, _ = model.predict(env.reset()[0], deterministic=True)
    assert (np.abs(found - [0.5, 2.0]) < [0.2, 1.0]).all()


def test_beta_policy_saves_and_loads(tmp_path):
    env = Line()
    model = SB3Agent("A2C", "BetaPolicy", hyperparameters=SHORT["A2C"]).build(env, 0)
    model.learn(128)
    model.save(tmp_path / "model.zip")
    loaded = A2C.load(tmp_path / "model.zip", env, device="cpu")
    observation = np.ones((2, 3), np.float32)
    wanted, _ = model.predict(observation, deterministic=True)
    assert np.array_equal(loaded.predict(observation, deterministic=True)[0], wanted)
    assert not hasattr(loaded.policy, "log_std")


def made(policy, action_space, size=GLOBAL + 8 * FEATURES, **settings):
    return policy(spaces.Box(-1, 1, (size,)), action_space, lambda _: 1e-3, **settings)


@pytest.mark.fast
@pytest.mark.parametrize(
    ("policy", "action_space", "settings", "message"),
    [
        (SetPolicy, spaces.Box(-1, 1, (7,)), {}, r"cannot act in Box.*Box\(-1, 1, \(8,\)\)"),
        (SetPolicy, spaces.Box(0, 1, (8,)), {}, "cannot act in Box"),
        (SetBetaPolicy, spaces.MultiBinary(8), {}, "cannot act in MultiBinary"),
        (SetPolicy, spaces.Box(-1, 1, (8,)), {"size": 40}, r"longer than M \* F = 40"),
        (SetPolicy, spaces.Box(-1, 1, (8,)), {"use_sde": True}, "use_sde"),
        (SetPolicy, spaces.Box(-1, 1, (8,)), {"own_std": 0.0}, "own_std must be above"),
        (BetaPolicy, spaces.Box(-np.inf, 1, (8,)), {}, "finite ends"),
        (BetaPolicy, spaces.Discrete(3), {}, "finite ends"),
        (BetaPolicy, spaces.Box(-1, 1, (8,)), {"use_sde": True}, "use_sde"),
    ],
)
def test_spaces_and_settings_that_do_not_fit(policy, action_space, settings, message):
    given = settings if policy is BetaPolicy else {"candidates": (8, FEATURES)} | settings
    with pytest.raises(ValueError, match=message):
        made(policy, action_space, **given)


def test_an_environment_without_candidates_and_an_algorithm_without_actor_critic():
    agent = SB3Agent("PPO", "SetPolicy")
    with pytest.raises(ValueError, match=r"acts on candidates.*no candidate_shape"):
        agent.build(Line(), 0)
    with pytest.raises(ValueError, match="Did you mean 'SetPolicy'"):
        SB3Agent("PPO", "SetPolcy").check()
    with pytest.raises(ValueError, match="no policy of stable_baselines3:SAC called 'SetPolicy'"):
        SB3Agent("SAC", "SetPolicy").check()


def test_given_candidates_and_own_subclasses_are_respected():
    settings = {**SHORT["PPO"], "policy_kwargs": {"candidates": [16, 10], "hidden": 8}}
    model = SB3Agent("PPO", "SetBetaPolicy", hyperparameters=SHORT["PPO"]).build(ToyCandidates(), 0)
    assert model.policy.candidates == (32, FEATURES)
    own = "dsenv.agents.policies:SetPolicy"
    assert SB3Agent("A2C", own).build(ToyCandidates(), 0).policy.candidates == (32, FEATURES)
    with pytest.raises(ValueError, match="cannot act"):
        SB3Agent("PPO", own, hyperparameters=settings).build(ToyCandidates(), 0)
    assert isinstance(A2C(SetPolicy, ToyCandidates(), policy_kwargs={"candidates": (32, FEATURES)}), A2C)
