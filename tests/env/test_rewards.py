"""Rewards: what they pay, and that they pay the right policies."""

import math

import numpy as np
import pytest
import torch

import dsenv
from dsenv.catalogue import load_vector
from dsenv.env.rewards import REWARDS, Transition
from dsenv.env.rewards.base import RewardInputs, quality
from dsenv.env.rewards.composite import CompositeReward, upper_quantile
from dsenv.select.data_agent_reward import adaptive_weight
from dsenv.signals import SampleSignals
from dsenv.training.trainer import Score
from tests.sessions import noughts, only

CLEAN, RANDOM, WRONG = -1e3, 0.0, 1e3  # log weight of a sample whose label is wrong
SIGN_TESTS = {
    "validation": {},
    "log_likelihood": {"reward": {"name": "validation", "measure": "log_likelihood"}},
    "untrusted validation": {"trusted_validation": False},
    "composite": {"reward": "composite"},
    "final": {"reward": "final"},
    "cost_aware": {"reward": "cost_aware", "control": "ratio", "spend_all": False},
}


def returns(log_weight, replicas=32, action=0.0, context=None, **settings):
    """Mean return of a policy that sees which labels are wrong, and the infos of its last step."""
    context = {"label_noise": 0.4} | (context or {})
    envs = load_vector("Tiny-Curriculum-v0", replicas, context=context, autoreset_mode="Disabled", **settings)
    session = only(envs)

    choose = session.stacked_selector.choose

    def seeing(_, *rest):
        wrong = session.trainer.labels != session.trainer.split("train").labels
        return choose((log_weight * wrong).masked_fill(~session.state.pool, -torch.inf), *rest)

    session.stacked_selector.choose = seeing
    envs.reset(seed=0)
    total, terminated = np.zeros(replicas), np.zeros(replicas, bool)
    while not terminated.all():
        _, reward, terminated, _, info = envs.step(np.full(envs.action_space.shape, action, np.float32))
        total += reward
    return total.mean(), info


@pytest.mark.parametrize("settings", SIGN_TESTS.values(), ids=SIGN_TESTS)
def test_clean_labels_earn_more_than_random_ones_and_those_more_than_wrong_ones(settings):
    (clean, _), (random, _), (wrong, _) = (returns(policy, **settings) for policy in (CLEAN, RANDOM, WRONG))
    assert clean > 1.3 * random > 1.3 * wrong


@pytest.mark.fast
def test_every_reward_has_a_sign_test():
    tested = [settings.get("reward", "validation") for settings in SIGN_TESTS.values()]
    assert {reward if isinstance(reward, str) else reward["name"] for reward in tested} == set(REWARDS)


def change(start, before, after, samples_seen=0.5, is_last=False):
    columns = [torch.tensor([[value]]) for value in (start, before, after)]
    return Transition(*columns, torch.tensor([samples_seen]), torch.tensor([is_last]))


def pay(name, *values, **settings):
    return float(REWARDS[name](**settings).compute(change(*values)))


@pytest.mark.fast
def test_what_an_interval_pays():
    assert pay("validation", 0.1, 0.3, 0.5) == pytest.approx(0.2)
    assert pay("final", 0.1, 0.3, 0.5) == 0
    assert pay("final", 0.1, 0.3, 0.5, 0.5, True) == pytest.approx(0.4)
    assert pay("cost_aware", 0.1, 0.3, 0.5, price=2) == pytest.approx(0.2 - 0.5 * 0.02)


@pytest.mark.fast
def test_log_likelihood_is_scaled_between_a_guess_and_certainty():
    score = Score(torch.zeros(5), torch.tensor([0.0, -np.log(10), -2 * np.log(10), -np.inf, np.nan]))
    values = quality(score, "log_likelihood", math.log(10))
    np.testing.assert_allclose(values, [1, 0, -1, -1, -1], atol=1e-6)


def test_the_final_reward_adds_up_to_that_of_validation():
    totals = [returns(RANDOM, 4, reward=name)[0] for name in ("validation", "final")]
    assert totals[0] == pytest.approx(totals[1], abs=1e-5)


@pytest.mark.fast
def test_composite_equals_its_definition():
    rng = np.random.default_rng(0)
    reward, snapshots = CompositeReward(), []
    pool = torch.from_numpy(rng.random((2, 40)) < 0.8)
    signals = SampleSignals(40, 3, 2)
    for step in range(2):
        index = torch.from_numpy(rng.permuted(np.tile(np.arange(40), (2, 1)), axis=1)[:, :25].copy())
        logits = torch.from_numpy(rng.normal(size=(2, 25, 3)).astype(np.float32)) * 2
        labels = torch.from_numpy(rng.integers(3, size=(2, 25)))
        loss = torch.nn.functional.cross_entropy(logits.transpose(1, 2), labels, reduction="none")
        signals.update(index, loss, logits, labels, step)
        snapshots.append({name: getattr(signals, name).clone() for name in ("loss", "entropy", "correct")})
        measured = reward.measure(RewardInputs(Score(*torch.zeros(2, 2)), signals, pool))
        snapshots[-1]["measured"] = measured
    paid = reward.compute(
        Transition(*[snapshots[k]["measured"] for k in (0, 0, 1)], torch.ones(2), torch.ones(2) > 0)
    )
    for k in range(2):
        hard, unsure = [], []
        for shot in snapshots:
            loss, entropy, correct = (shot[name][k][pool[k]] for name in ("loss", "entropy", "correct"))
            cut = loss.clamp(max=float(np.quantile(loss, 0.95, method="higher")))
            hard.append(cut / (cut + np.log(3)))
            unsure.append(torch.where(correct > 0, entropy, 1.0))
        weight = adaptive_weight(hard[1], unsure[1])
        wanted = weight * (hard[0] - hard[1]).mean() + (1 - weight) * (unsure[0] - unsure[1]).mean()
        assert float(paid[k]) == pytest.approx(float(wanted), abs=1e-5)


@pytest.mark.fast
def test_the_quantile_is_taken_within_the_pool():
    values, pool = torch.tensor([[5.0, 1.0, 9.0, 3.0]]), torch.tensor([[True, True, False, True]])
    assert upper_quantile(values, pool, 1.0).item() == 5
    assert upper_quantile(values, pool, 0.5).item() == 3


def test_composite_reads_no_validation_score():
    env = dsenv.load("envs", "Tiny-Curriculum-v0", reward="composite")
    signals = only(env).trainer.signals
    inputs = RewardInputs(None, signals, only(env).state.pool)
    assert CompositeReward().measure(inputs).shape == (1, 4)


def test_a_price_makes_agents_spend_less():
    cheap, dear = ({"name": "cost_aware", "price": price} for price in (0.1, 40.0))
    settings = {"control": "ratio", "spend_all": False, "context": {"label_noise": 0.0}}
    for reward, spending_pays in ((cheap, True), (dear, False)):
        little, much = (
            returns(RANDOM, action=action, reward=reward, **settings)[0] for action in (-1.0, 0.0)
        )
        assert (much > little) == spending_pays


def test_a_budget_may_be_left_over_and_the_episode_still_has_all_its_intervals():
    env = dsenv.load("envs", "Tiny-Ratio-v0", spend_all=False, reward="cost_aware")
    env.reset(seed=0)
    rates, steps, terminated = [], 0, False
    learning_rates = only(env).trainer._learning_rates
    only(env).trainer._learning_rates = lambda *a: rates.append(learning_rates(*a)) or rates[-1]
    while not terminated:
        _, _, terminated, _, info = env.step(np.array([-1.0], np.float32))
        steps += 1
    assert steps == 4 and info["samples_used"] == 4 * 20 and info["budget_left"] == 400 - 80
    assert float(rates[0][0]) == pytest.approx(0.1) and float(rates[3][0]) < 0.02  # the cosine comes down


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"reward": "validaton"}, "Did you mean 'validation'"),
        ({"reward": {"name": "validation", "mesure": "accuracy"}}, "Did you mean 'measure'"),
        ({"reward": {"name": "validation", "measure": "likelihood"}}, "Did you mean 'log_likelihood'"),
        ({"reward": 3}, "reward must be a name, a table with a name, a class, .* got 3"),
        ({"reward": {"name": "composite", "quantile": 0}}, r"reward.quantile must be in \(0, 1\], got 0"),
        ({"reward": {"name": "cost_aware", "price": -1}}, "reward.price must be a number above 0, got -1"),
        ({"reward": "cost_aware"}, "set spend_all = false with a control that decides how much"),
        ({"spend_all": False}, "use the control 'ratio' or 'joint'"),
        ({"spend_all": 0}, "spend_all must be True or False, got 0"),
        ({"trusted_validation": "no"}, "trusted_validation must be True or False, got 'no'"),
        ({"trusted_validation": False, "train_on_validation": True}, "set one"),
    ],
)
def test_bad_settings_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        dsenv.load("envs", "Tiny-Curriculum-v0", **settings)


def test_without_trust_no_clean_label_is_seen_in_training():
    env = dsenv.load("envs", "Tiny-Curriculum-v0", trusted_validation=False, selector=None)
    trainer = only(env).trainer
    for seed in range(2):
        env.reset(seed=seed, options={"context": {"label_noise": 0.5, "subset": 0.5, "imbalance": 0.5}})
        given, clean = trainer._labels_of("validation")[0], trainer.split("validation").labels
        assert int((given != clean).sum()) == 50
        info = env.step(noughts(env))[4]
        places = torch.arange(100, device=given.device)
        logits = trainer.replicas.predict(trainer.split("validation").gather(places)[None])[0][0]
        right = float((logits.argmax(1) == given).float().mean())
        assert info["val_accuracy"] == pytest.approx(right, abs=0.011)  # one of 100 samples
        assert torch.equal(trainer.scoring_pass("validation")[0].labels, given)
    names = env.observation_names
    observed = env.episodes.observe()[0][names.index("validation accuracy")]
    assert observed == pytest.approx(info["val_accuracy"])
    test = trainer.split("test")
    places = torch.arange(200, device=test.labels.device)
    logits = trainer.replicas.predict(test.gather(places)[None])[0][0]
    right = float((logits.argmax(1) == test.labels).float().mean())
    assert float(trainer.evaluate("test").accuracy) == pytest.approx(right, abs=0.006)  # one of 200 samples


def test_episodes_train_alike_whether_the_validation_labels_are_trusted_or_not():
    ends = []
    for trusted in (True, False):
        env = dsenv.load("envs", "Tiny-Curriculum-v0", trusted_validation=trusted)
        env.reset(seed=4)
        for _ in range(4):
            env.step(noughts(env))
        ends.append(only(env).trainer.replicas.parameters_of(0))
    assert all(torch.equal(value, ends[1][name]) for name, value in ends[0].items())


@pytest.mark.parametrize(
    "settings",
    [{"trusted_validation": False}, {"reward": "final"}, {"reward": "composite"}],
)
def test_a_restored_state_pays_the_same(settings):
    env = dsenv.load("envs", "Tiny-Curriculum-v0", **settings)
    env.reset(seed=0)
    action = noughts(env)
    env.step(action)
    state = env.save_state()
    paid = []
    for _ in range(2):
        env.restore_state(state)
        paid.append([env.step(action)[1] for _ in range(3)])
    assert paid[0] == paid[1]
