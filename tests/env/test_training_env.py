import gymnasium
import numpy as np
import pytest
import torch

import dsenv
from dsenv.catalogue import load_vector
from dsenv.control.trimming import trimmed
from tests.sessions import noughts, only

TINY = {"curriculum": "Tiny-Curriculum-v0", "ratio": "Tiny-Ratio-v0"}


def episode(env, seed, actions=None, disturb=False):
    """Run one episode; returns everything that was seen, and the final parameters."""
    observation, info = env.reset(seed=seed)
    seen = [(observation, 0.0, info)]
    rng = np.random.default_rng(0)
    while True:
        action = rng.uniform(-1, 1, env.action_space.shape).astype(np.float32) if actions is None else actions
        if disturb:
            torch.rand(3), np.random.rand(3)  # noqa: NPY002  # the global streams, on purpose
        observation, reward, terminated, truncated, info = env.step(action)
        seen.append((observation, reward, info))
        assert not truncated
        if terminated:
            return seen, only(env).trainer.replicas.parameters_of(0)


def same(one, other):
    for (obs_a, reward_a, info_a), (obs_b, reward_b, info_b) in zip(one[0], other[0], strict=True):
        np.testing.assert_array_equal(obs_a, obs_b)
        assert reward_a == reward_b
        assert info_a.keys() == info_b.keys()
        for key, value in info_a.items():
            np.testing.assert_array_equal(value, info_b[key])
    return all(torch.equal(value, other[1][name]) for name, value in one[1].items())


@pytest.mark.parametrize("name", TINY.values())
def test_one_seed_twice_gives_identical_episodes_whatever_the_global_streams_do(name):
    env = dsenv.load("envs", name)
    first = episode(env, 7)
    assert same(first, episode(env, 7, disturb=True))
    assert same(first, episode(dsenv.load("envs", name), 7))
    other = episode(env, 8)
    assert not np.array_equal(first[0][-1][0], other[0][-1][0])


def test_the_global_streams_are_left_alone():
    env = dsenv.load("envs", "Tiny-Curriculum-v0")
    before = torch.random.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    episode(env, 0)
    assert torch.equal(before[0], torch.random.get_rng_state())
    assert np.array_equal(before[1], np.random.get_state()[1])  # noqa: NPY002


@pytest.mark.fast
def test_a_training_ends_by_termination_with_its_budget_spent():
    env = dsenv.load("envs", "Tiny-Curriculum-v0")
    seen, _ = episode(env, 0)
    assert len(seen) == 1 + 4
    end = seen[-1][2]
    assert end["samples_used"] == 4 * 200 * 0.5 and end["budget_left"] == 0
    with pytest.raises(RuntimeError, match=r"call reset\(\)"):
        env.step(noughts(env))


@pytest.mark.fast
def test_rewards_add_up_to_ten_times_the_gain_in_validation_accuracy():
    env = dsenv.load("envs", "Tiny-Curriculum-v0")
    seen, _ = episode(env, 3)
    names = env.observation_names
    start = seen[0][0][names.index("validation accuracy")]
    total = sum(reward for _, reward, _ in seen)
    assert total == pytest.approx(10 * (seen[-1][2]["val_accuracy"] - start), abs=1e-4)
    assert seen[-1][2]["val_accuracy"] == pytest.approx(seen[-1][0][names.index("validation accuracy")])


def test_the_context_is_drawn_in_its_range_and_can_be_set():
    env = dsenv.load("envs", "Tiny-Curriculum-v0")
    drawn = [env.reset(seed=seed)[1]["label_noise"] for seed in range(20)]
    assert 0 <= min(drawn) < 0.2 < 0.4 < max(drawn) <= 0.6
    _, info = env.reset(seed=0, options={"context": {"label_noise": 0.45}})
    assert info["label_noise"] == 0.45
    wrong = only(env).trainer.labels[0].cpu() != only(env).task.dataset.train.labels
    assert int(wrong.sum()) == round(0.45 * 200)


@pytest.mark.fast
def test_imbalance_and_subset_shape_the_pool():
    context = {"label_noise": 0.5, "imbalance": 0.2, "subset": 0.5}
    env = dsenv.load("envs", "Tiny-Curriculum-v0", context=context)
    env.reset(seed=0)
    pool = only(env).state.pool[0].cpu()
    members = int(pool.sum())
    assert members < 80
    sizes = torch.bincount(only(env).task.dataset.train.labels[pool], minlength=10)
    assert sizes[:3].sum() > 2 * sizes[-3:].sum()
    _, _, _, _, info = env.step(noughts(env))
    assert info["samples_used"] == round(4 * members * 0.5 / 4)
    assert not only(env).trainer.signals.seen[0].cpu()[~pool].any()
    wrong = (only(env).trainer.labels[0].cpu() != only(env).task.dataset.train.labels)[pool]
    assert int(wrong.sum()) == round(0.5 * members)


@pytest.mark.fast
def test_the_curriculum_action_says_from_which_bins_samples_come():
    env = dsenv.load("envs", "Tiny-Curriculum-v0")
    env.reset(seed=0)
    env.step(noughts(env))
    bins = only(env).state.bins[0]
    for chosen in range(5):
        env.reset(seed=0)
        env.step(noughts(env))
        assert torch.equal(only(env).state.bins[0], bins)
        log_weight = np.full(5, -5.0)
        log_weight[chosen] = 5
        _, _, _, _, info = env.step(env.control.encode(log_weight=log_weight))
        assert info["selected_bins"].sum() == pytest.approx(1)
        assert info["selected_bins"][chosen] >= 0.39  # all 40 of the bin among the 100 chosen


@pytest.mark.fast
def test_the_action_of_zeros_trains_on_nothing_that_the_rule_leaves_out():
    """A clean training and a noisy one side by side: the first is left alone."""
    envs = load_vector("Tiny-Curriculum-v0", 2, intervals=8, autoreset_mode="Disabled")
    envs.reset(seed=0, options={"context": [{"label_noise": 0.0}, {"label_noise": 0.4}]})
    number = []
    for _ in range(8):
        left_out = trimmed(only(envs).state) >= 0
        before = only(envs).trainer.signals.times_trained.clone()
        envs.step(noughts(envs))
        assert not ((only(envs).trainer.signals.times_trained > before) & left_out).any()
        number.append(left_out.sum(1).tolist())
    clean, noisy = zip(*number, strict=True)
    assert not any(clean) and not any(noisy[:3]) and all(noisy[5:])  # nothing before 1.5 visits


def test_trimming_keeps_wrong_labels_away():
    envs = load_vector("Tiny-Curriculum-v0", 8, intervals=8, autoreset_mode="Disabled")
    envs.reset(seed=0, options={"context": {"label_noise": 0.4}})
    action = np.stack([envs.control.encode(trim=factor) for factor in [0.0] * 4 + [1.0] * 4])
    for _ in range(8):
        *_, info = envs.step(action)
    untrimmed, trims = info["wrong_labels"][:4].mean(), info["wrong_labels"][4:].mean()
    assert trims < untrimmed - 0.06  # 0.25 against 0.40


@pytest.mark.fast
def test_bin_zero_holds_the_smallest_losses():
    env = dsenv.load("envs", "Tiny-Curriculum-v0", rank_by="loss")
    env.reset(seed=0)
    for _ in range(3):
        env.step(noughts(env))
    loss, bins = only(env).trainer.signals.loss[0], only(env).state.bins[0]
    means = [float(loss[bins == b].mean()) for b in range(5)]
    assert means == sorted(means)
    assert torch.bincount(bins).tolist() == [40] * 5


@pytest.mark.fast
def test_no_sequence_of_ratio_actions_overspends_the_budget_or_leaves_some():
    envs = load_vector("Tiny-Ratio-v0", 12, intervals=7, ratio=0.37, autoreset_mode="Disabled")
    envs.reset(seed=0)
    rng = np.random.default_rng(0)
    total, terminated = np.zeros(12), np.zeros(12, bool)
    for _ in range(7):
        assert not terminated.any()
        action = np.where(rng.random(12) < 0.6, rng.choice([-1, 1], 12), rng.uniform(-1, 1, 12))
        _, _, terminated, _, info = envs.step(action[:, None].astype(np.float32))
        used = info["samples_used"] - total
        total = info["samples_used"]
        assert (used > 0).all() and (used <= 200).all()
        np.testing.assert_allclose(info["ratio"], used / 200, rtol=1e-6)
        assert (info["budget_left"] >= 0).all()
    assert terminated.all() and (info["budget_left"] == 0).all()
    assert (total == round(0.37 * 200 * 7)).all()


def test_the_ratio_action_is_followed_where_the_budget_allows():
    env = dsenv.load("envs", "Tiny-Ratio-v0")
    env.reset(seed=0)
    for ratio in (0.2, 0.8):
        action = env.control.encode(ratio=ratio)
        assert env.step(action)[4]["ratio"] == pytest.approx(ratio, abs=0.005)


def test_the_smallest_ratio_is_never_above_the_target_and_is_named():
    env = dsenv.load("envs", "Tiny-Ratio-v0", control={"name": "ratio", "minimum": 0.7})
    assert env.action_names == ("ratio of the interval, from 0.5 at -1 to 1 at 1",)
    whole = dsenv.load("envs", "Tiny-Ratio-v0", ratio=1.0, control={"name": "ratio", "minimum": 1.0})
    assert -1 <= whole.control.encode(ratio=1.0)[0] <= 1


def test_discrete_choices_stand_for_actions():
    box = dsenv.load("envs", "Tiny-Curriculum-v0")
    discrete = dsenv.load("envs", "Tiny-Curriculum-v0", actions="discrete")
    choices = discrete.control.choices()
    assert discrete.action_space.n == len(choices) == 15 + 1  # every run of bins, and the rule trim
    for env in (box, discrete):
        env.reset(seed=1)
    for choice in (3, 14, 15):
        one = box.step(choices[choice])
        other = discrete.step(choice)
        np.testing.assert_array_equal(one[0], other[0])


@pytest.mark.fast
def test_divergence_ends_the_episode_with_a_penalty_and_says_so():
    env = dsenv.load("envs", "Tiny-Curriculum-v0", task={"recipe": {"lr": 1e12}})
    env.reset(seed=0)
    terminated, steps = False, 0
    while not terminated:
        observation, reward, terminated, _, info = env.step(noughts(env))
        steps += 1
    assert steps < 4 and info["diverged"] and reward == -10
    assert env.observation_space.contains(observation)


def test_actions_beyond_the_box_are_clipped_and_nonsense_is_refused():
    one, other = (dsenv.load("envs", "Tiny-Curriculum-v0") for _ in range(2))
    for env in (one, other):
        env.reset(seed=0)
    far = np.array([9, -9, 0, 0, 1, 3], np.float32)
    np.testing.assert_array_equal(one.step(far)[0], other.step(far.clip(-1, 1))[0])
    with pytest.raises(ValueError, match="an action is NaN"):
        one.step(np.full(one.action_space.shape, np.nan, np.float32))
    with pytest.raises(ValueError, match=r"shape \(1, 6\), got \(1, 3\)"):
        one.step(np.zeros(3, np.float32))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"ratio": 0}, r"ratio must be in \(0, 1\], got 0"),
        ({"ratio": 1.2}, r"ratio must be in \(0, 1\], got 1.2"),
        ({"interval": 101}, r"interval must be in \(0, 100\], got 101"),
        ({"intervals": 1}, "intervals must be a whole number from 2 to 100000, got 1"),
        ({"bins": 1}, "bins must be a whole number from 2 to 64, got 1"),
        ({"context": {"label_noise": [0.5, 0.1]}}, r"range \[0.5, 0.1\] is empty"),
        ({"context": {"label_noise": 1.5}}, r"label_noise must be in \[0, 1\], got 1.5"),
        ({"device": "cdua"}, "no device called 'cdua'"),
        ({"render_mode": "human"}, "render_mode must be one of"),
        ({"ratio": 0.001}, "less than one sample in each"),
        ({"ratio": "half"}, "ratio must be in .*, got 'half'"),
        ({"intervals": 2.5}, "intervals must be a whole number .*, got 2.5"),
        ({"context": 0.3}, "context must be a table, got 0.3"),
        ({"trainer": {"fom": "loop"}}, "Did you mean 'form'"),
        ({"evaluation_contexts": [{"label_nois": 0.1}]}, "Did you mean 'label_noise'"),
        ({"evaluation_contexts": [0.1]}, "must be a list of tables, got 0.1 in it"),
        ({"volume": {"name": "constant", "target": 0.8}}, "leave volume.target out and set ratio"),
        ({"control": {"name": "ratio", "minimum": 0}}, r"control.minimum must be in \(0, 1\], got 0"),
        ({"divergence_penalty": -1}, "divergence_penalty must be in .*, got -1"),
        ({"divergence_penalty": float("nan")}, "divergence_penalty must be in .*, got nan"),
        ({"context": {"datasets": ["digits"]}}, "datasets is a setting of the environment"),
    ],
)
def test_bad_settings_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        dsenv.load("envs", "Tiny-Curriculum-v0", **settings)


def test_a_bad_context_at_reset_is_named():
    env = dsenv.load("envs", "Tiny-Curriculum-v0")
    with pytest.raises(ValueError, match="Did you mean 'label_noise'"):
        env.reset(options={"context": {"labelnoise": 0.1}})
    with pytest.raises(ValueError, match="got 7"):
        env.reset(options={"context": {"label_noise": 7}})
    with pytest.raises(ValueError, match="a context is a mapping such as"):
        env.reset(options={"context": 0.4})
    with pytest.raises(ValueError, match="no reset option called 'label_noise'"):
        env.reset(options={"label_noise": 0.4})


def test_training_on_the_validation_split_is_the_named_control():
    env = dsenv.load("envs", "Tiny-Curriculum-v0", ratio=1.0, train_on_validation=True)
    assert only(env).trainer.size == 300
    env.reset(seed=0)
    assert env.step(noughts(env))[4]["samples_used"] == 300


def test_the_validation_labels_of_that_control_stay_clean_and_the_noise_is_that_of_all_data():
    given = []
    for added in (False, True):
        env = dsenv.load("envs", "Tiny-Curriculum-v0", ratio=1.0, train_on_validation=added)
        context = {"label_noise": 0.5, "subset": 0.5, "imbalance": 0.5}
        env.reset(seed=0, options={"context": context})
        given.append((only(env).trainer.labels[0].cpu(), only(env).state.pool[0].cpu()))
        clean = only(env).task.dataset.train.labels
    (alone, alone_pool), (joined, joined_pool) = given
    assert torch.equal(joined[200:], clean[200:]) and joined_pool[200:].all()
    assert torch.equal(joined[:200], alone) and torch.equal(joined_pool[:200], alone_pool)


@pytest.mark.fast
def test_the_test_split_is_never_read_by_an_episode(monkeypatch):
    env = dsenv.load("envs", "Tiny-Curriculum-v0")
    read = []
    split = only(env).trainer.split
    monkeypatch.setattr(only(env).trainer, "split", lambda name: (read.append(name), split(name))[1])
    episode(env, 0)
    assert set(read) == {"train", "validation"}


def test_a_wrapped_env_records_episode_statistics():
    env = gymnasium.wrappers.RecordEpisodeStatistics(gymnasium.make("dsenv/Tiny-Curriculum-v0"))
    env.reset(seed=0)
    for _ in range(4):
        info = env.step(env.action_space.sample())[4]
    assert info["episode"]["l"] == 4
