"""A toy environment that shows candidates: the best are those with the highest value of one feature."""

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv

GLOBAL, FEATURES, WANTED, LENGTH = 3, 5, 2, 4


class ToyCandidates(VecEnv):
    """K sets of M candidates, new ones in each step; the last `padding` rows hold none.

    Reward: mean of feature WANTED over the higher-scoring half, or over the masked ones less over the
    others, plus normal noise. Random actions get 0; the best ones get 0.8.
    """

    def __init__(self, num_envs=16, number=32, *, padding=0, mask=False, noise=0.0, seed=0):
        self.candidate_shape = (number, FEATURES)
        self.rng, self.noise, self.real = np.random.default_rng(seed), noise, number - padding
        self.render_mode = None
        observation = spaces.Box(-np.inf, np.inf, (GLOBAL + number * FEATURES,))
        super().__init__(
            num_envs, observation, spaces.MultiBinary(number) if mask else spaces.Box(-1, 1, (number,))
        )

    def observe(self):
        self.sets = self.rng.normal(size=(self.num_envs, *self.candidate_shape)).astype(np.float32)
        self.sets[..., 0] = np.arange(self.candidate_shape[0]) < self.real
        state = np.full((self.num_envs, GLOBAL), self.time / LENGTH, np.float32)
        return np.concatenate([state, self.sets.reshape(self.num_envs, -1)], 1)

    def reset(self):
        self.time = 0
        return self.observe()

    def step_async(self, actions):
        self.actions = actions[:, : self.real]

    def step_wait(self):
        value = self.sets[:, : self.real, WANTED]
        if isinstance(self.action_space, spaces.MultiBinary):
            reward = (value * (2 * self.actions - 1)).mean(1)
        else:
            best = np.argsort(-self.actions, 1)[:, : self.real // 2]
            reward = np.take_along_axis(value, best, 1).mean(1)
        reward = (reward + self.noise * self.rng.normal(size=reward.shape)).astype(np.float32)
        self.time = (self.time + 1) % LENGTH
        done, observation = np.full(self.num_envs, self.time == 0), self.observe()
        infos = [{"terminal_observation": row} if done[0] else {} for row in observation]
        return observation, reward, done, infos

    def close(self):
        pass

    def get_attr(self, attr_name, indices=None):
        return [getattr(self, attr_name)] * self.num_envs

    def set_attr(self, attr_name, value, indices=None):
        raise NotImplementedError

    def env_method(self, method_name, *args, indices=None, **kwargs):
        raise NotImplementedError

    def env_is_wrapped(self, wrapper_class, indices=None):
        return [False] * self.num_envs


def mean_reward(model, env, steps=8):
    """Of the policy without exploration."""
    observation, rewards = env.reset(), []
    for _ in range(steps):
        observation, reward, _, _ = env.step(model.predict(observation, deterministic=True)[0])
        rewards.append(reward.mean())
    return float(np.mean(rewards))
