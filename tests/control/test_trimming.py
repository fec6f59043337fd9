"""A curriculum's component "trim": the action of zeros is the rule `trim`, in each training by itself."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from dsenv.control.curriculum import MOST_SHARP
from dsenv.control.registry import make_control
from dsenv.control.state import Candidates, TrainingState
from dsenv.control.trimming import trim_share, trimmed
from dsenv.rng import Streams
from dsenv.select import trim as rule
from dsenv.select.gumbel import gumbel_top_k
from dsenv.signals import SampleSignals
from dsenv.volume.budget import Budget

pytestmark = pytest.mark.fast

N, B = 50, 5


def situation(replicas=3, size=N, wrong=0.4, visits=3, seed=0):
    """Trainings that are sure of every label, and sure against a share `wrong` of them.

    A tenth of the samples exists in none of them, and a tenth of the others was never trained on.
    """
    draw = np.random.default_rng(seed)
    pool, seen = draw.random((replicas, size)) < 0.9, draw.random((replicas, size)) < 0.9
    against = draw.random((replicas, size)) < wrong
    values = {
        "times_trained": seen * visits,
        "loss": np.where(against, 4.0, 1.0) * draw.uniform(0.2, 1, (replicas, size)),
        "margin": np.where(against, -0.9, 0.9),
    }
    signals = SampleSignals(size, 4, replicas)
    for name, value in values.items():
        getattr(signals, name).copy_(torch.from_numpy(value))

    budget = Budget(np.full(replicas, size), 4, 0.5, 0.1)
    state = TrainingState.blank(
        signals, torch.from_numpy(pool), budget, bins=B, actions=B + 1, intervals=4, target=0.5
    )
    state.rank("loss")
    return state


def control(name="curriculum", **settings):
    return make_control({"name": name, **settings}, B, 0.5)


def weights(state, *rows, **settings):
    """(K, N) log weights by these actions, one for each training or one for all."""
    actions = np.stack([rows[k % len(rows)] for k in range(len(state.pool))]).astype(np.float32)
    decision = control(**settings).decide(actions, state)
    assert decision.log_weight.dtype == torch.float32
    return decision.log_weight


def noughts(**settings):
    return np.zeros(control(**settings).size)


def known_of(state, k):
    """Positions of the samples of training k that exist and have a loss, largest loss first."""
    known = (state.pool[k] & state.signals.seen[k]).nonzero().flatten()
    return known[state.signals.loss[k][known].argsort(descending=True)]


def draw(log_weight, count, seed=0):
    """What one draw takes of each training, (K, count)."""
    streams = Streams(len(log_weight), torch.device("cpu"))
    for k in range(len(log_weight)):
        streams.seed(k, seed + k)
    return gumbel_top_k(log_weight, [count] * len(log_weight), streams).index


@pytest.mark.parametrize("wrong", [0.0, 0.2, 0.4, 0.7])
@pytest.mark.parametrize("seed", range(3))
def test_the_action_of_zeros_leaves_out_what_the_rule_does(wrong, seed):
    """The rule is asked for as many samples as it does not leave out, and for more: it then has no choice."""
    state = situation(wrong=wrong, seed=seed)
    log_weight = weights(state, noughts())
    for k in range(len(state.pool)):
        pool = state.pool[k].nonzero().flatten()
        loss, seen = state.signals.loss[k][pool], state.signals.seen[k][pool]
        rate = rule.estimated_noise_rate(state.signals.margin[k][pool], seen)
        share = rate * (rate >= 0.08)
        left = len(pool) - int(share * seen.sum())
        assert (left == len(pool)) == (wrong == 0)
        for count in range(left, len(pool) + 1, 2):
            wanted = rule.trimmed(loss, seen, count, share, torch.Generator())
            chosen = draw(log_weight, count, seed=count)[k]
            assert set(chosen.tolist()) == set(pool[wanted].tolist())


def test_those_that_stay_have_equal_chances_as_with_the_rule():
    state, draws, count = situation(replicas=1), 600, 10
    log_weight = weights(state, noughts())
    pool, signals = state.pool[0].nonzero().flatten(), SampleSignals(int(state.pool.sum()), 4)
    for name in ("loss", "margin", "times_trained"):
        getattr(signals, name).copy_(getattr(state.signals, name)[0][pool])

    times = torch.zeros(2, N)
    for seed in range(draws):
        times[0][draw(log_weight, count, seed)[0]] += 1
        chosen = rule.Trim().select(signals, count, torch.Generator().manual_seed(seed)).index
        times[1][pool[chosen]] += 1

    stays = state.pool[0] & (trimmed(state)[0] < 0)
    expected = draws * count / int(stays.sum())
    assert 0 < int(stays.sum()) < int(state.pool[0].sum())
    assert (times[:, ~stays] == 0).all()
    assert (times[:, stays] - expected).abs().max() < 5 * expected**0.5  # of a binomial number


@pytest.mark.parametrize("factor", [0.0, 0.5, 1.0, 1.5, 2.0])
def test_the_factor_scales_how_many_are_left_out(factor):
    state = situation()
    plain, log_weight = weights(state, control().encode()), weights(state, control().encode(trim=factor))
    for k in range(len(state.pool)):
        known = known_of(state, k)
        number = int(np.float32(factor) * trim_share(state)[k] * len(known))
        assert (number == 0) == (factor == 0)
        out = known[:number]
        assert (log_weight[k][out] < -MOST_SHARP).all()
        stays = torch.ones(N, dtype=torch.bool)
        stays[out] = False
        assert torch.equal(log_weight[k][stays], plain[k][stays])  # and the bins' weights there


def test_more_than_all_are_never_left_out():
    state = situation(wrong=0.8)
    log_weight = weights(state, control().encode(trim=2.0))
    assert (2 * trim_share(state) > 1).all()
    for k in range(len(state.pool)):
        known = known_of(state, k)
        assert (log_weight[k][known].diff() > 0).all()  # the largest loss has the smallest weight
        unknown = int(state.pool[k].sum()) - len(known)
        first = draw(log_weight, unknown + 3)[k]
        assert set(known[-3:].tolist()) <= set(first.tolist())  # what was never trained on, then small losses


def test_bins_weigh_what_stays():
    state = situation()
    action = control().encode(log_weight=[5, 4, 3, 2, 1], trim=1.0)
    log_weight, place = weights(state, action), trimmed(state)
    stays = state.pool & (place < 0)
    assert torch.equal(log_weight[stays], 5.0 - state.bins[stays])
    assert (place >= 0).any(1).all() and log_weight[~state.pool].isneginf().all()


@pytest.mark.parametrize("sharpness", [5.0, MOST_SHARP])
def test_what_is_trimmed_comes_after_the_least_likely_bin(sharpness):
    state = situation()
    action = control(sharpness=sharpness).encode(log_weight=-sharpness, trim=1.0)
    log_weight = weights(state, action, sharpness=sharpness)
    stays = (state.pool & (trimmed(state) < 0)).sum(1)
    for k in range(len(state.pool)):
        chosen = draw(log_weight, int(stays[k]))[k]
        assert (trimmed(state)[k][chosen] < 0).all()


def test_the_order_of_what_is_trimmed_holds_in_a_large_set():
    state = situation(replicas=1, size=100_000)
    log_weight = weights(state, control().encode(trim=2.0))
    known = known_of(state, 0)
    number = int(2 * trim_share(state)[0] * len(known))
    assert number > 50_000
    stays = int(state.pool[0].sum()) - number
    chosen = draw(log_weight, stays + 20_000)[0]
    fill = known[number - 20_000 : number]
    assert not set(known[: number - 20_000].tolist()) & set(chosen.tolist())
    assert set(fill.tolist()) <= set(chosen.tolist())


def test_young_trainings_are_not_trimmed():
    state = situation()
    state.signals.times_trained.clamp_(max=1)
    assert not trim_share(state).any() and (trimmed(state) < 0).all()
    assert torch.equal(weights(state, noughts()), weights(state, control().encode()))

    # Half of the samples twice and half once is enough; one visit less is not
    known = state.signals.times_trained
    known.copy_(state.pool * 1 + state.pool * (torch.arange(N) % 2))
    known[:, 0] += 3 * state.pool.sum(1) // 2 + state.pool.sum(1) % 2 - (known * state.pool).sum(1)
    assert (trim_share(state) > 0).all()
    known[1, 0] -= 1
    assert (trim_share(state) > 0).tolist() == [True, False, True]


def test_visits_and_labels_of_samples_that_do_not_exist_do_not_count():
    state = situation()
    before = trim_share(state).clone(), trimmed(state)
    state.signals.margin[~state.pool] = -1.0
    state.signals.loss[~state.pool] = 100.0
    state.signals.times_trained[~state.pool] = 50
    assert torch.equal(trim_share(state), before[0]) and torch.equal(trimmed(state), before[1])


def test_a_small_estimate_trims_nothing_at_any_factor():
    state = situation(size=500, wrong=0.06)
    rate = rule.estimated_noise_rate(state.signals.margin, state.signals.seen & state.pool)
    assert ((rate > 0.03) & (rate < 0.08)).all()
    assert torch.equal(weights(state, control().encode(trim=2.0)), weights(state, control().encode()))


def test_nothing_is_trimmed_before_anything_was_trained_on():
    state = situation()
    state.signals.reset()
    found = weights(state, noughts())
    assert not trim_share(state).any() and not found[state.pool].any()


def test_each_training_is_trimmed_by_itself():
    """In a stack of one clean training, a noisy one and a young one each is what it is alone."""
    ages, shares = (3, 3, 1), (0.0, 0.4, 0.4)
    alone = [
        situation(1, wrong=w, visits=v, seed=s) for s, (v, w) in enumerate(zip(ages, shares, strict=True))
    ]
    stack = situation(3)
    stack.pool, stack.bins = (torch.cat([getattr(one, name) for one in alone]) for name in ("pool", "bins"))
    for name in ("loss", "margin", "times_trained"):
        value = torch.cat([getattr(one.signals, name) for one in alone])
        getattr(stack.signals, name).copy_(value)
    assert (trim_share(stack) > 0).tolist() == [False, True, False]

    rng = np.random.default_rng(0)
    actions = [rng.uniform(-1, 1, control().size) for _ in range(3)]
    together = weights(stack, *actions)
    for k, one in enumerate(alone):
        assert torch.equal(together[k : k + 1], weights(one, actions[k]))


def test_a_factor_is_that_of_its_own_training():
    state = situation()
    factors = (0.0, 1.0, 2.0)
    log_weight = weights(state, *[control().encode(trim=factor) for factor in factors])
    for k, factor in enumerate(factors):
        assert torch.equal(log_weight[k], weights(state, control().encode(trim=factor))[k])
    number = (log_weight < -MOST_SHARP).sum(1) - (~state.pool).sum(1)
    assert number[0] == 0 < number[1]
    assert abs(int((trimmed(state)[2] >= 0).sum()) * 2 - int(number[2])) <= 1


def test_a_control_that_does_not_trim_says_so_in_its_action():
    plain = control(trim=False)
    assert plain.size == len(plain.names) == B and list(plain.slices) == ["log_weight"]
    assert list(plain.decode(plain.encode()[None])) == ["log_weight"]
    state = situation()
    assert not weights(state, plain.encode(), trim=False)[state.pool].any()
    assert "trim" not in control("joint", trim=False).slices


def test_zeros_ones_and_nothing_said_stand_for_the_factors_one_two_and_none():
    made = control()
    for action, factor in (
        (np.zeros(B + 1), 1),
        (np.ones(B + 1), 2),
        (made.encode(), 0),
        (-np.ones(B + 1), 0),
    ):
        assert made.decode(np.float32(action)[None])["trim"].tolist() == [[factor]]
    assert made.encode(trim=1.0).tolist() == [0] * (B + 1)
    np.testing.assert_array_equal(made.encode(trim=[0.5]), [0] * B + [-0.5])
    assert made.names[-1] == "trimmed over the estimated wrong labels, less 1"


def test_the_answers_of_a_joint_action_follow_each_other():
    made = control("joint", stability_bins=2)
    assert dict(made.slices) == {
        "log_weight": slice(0, B),
        "trim": slice(B, B + 1),
        "ratio": slice(B + 1, B + 2),
        "strength": slice(B + 2, B + 4),
    }
    assert [name.split()[0] for name in made.names] == ["log"] * B + [
        "trimmed",
        "ratio",
        "strength",
        "strength",
    ]
    without = control("joint", trim=False, strength=False)
    assert dict(without.slices) == {"log_weight": slice(0, B), "ratio": slice(B, B + 1)}


@pytest.mark.parametrize("name", ["curriculum", "joint"])
def test_a_joint_action_trims_as_a_curriculum_does(name):
    state, made = situation(), control(name)
    actions = np.stack([made.encode(log_weight=[1, 2, 3, 4, 5], trim=factor) for factor in (0.0, 1.0, 2.0)])
    found = made.decide(actions, state).log_weight
    alone = np.stack([control().encode(log_weight=[1, 2, 3, 4, 5], trim=f) for f in (0.0, 1.0, 2.0)])
    assert torch.equal(found, weights(state, *alone))


def test_the_discrete_choices_are_runs_of_bins_untrimmed_and_the_rule():
    state, made = situation(), control()
    choices = made.choices()
    assert len(choices) == B * (B + 1) // 2 + 1 == len(np.unique(choices, axis=0))
    assert not made.decode(choices[:-1])["trim"].any()
    assert torch.equal(weights(state, choices[-1]), weights(state, noughts()))
    place = trimmed(state)
    assert (weights(state, choices[0])[place >= 0] >= -5).all()


# A mask that draws


def shown(state, count=32):
    """The state with candidates shown, the last of them padding."""
    index = torch.stack([pool.nonzero().flatten()[:count] for pool in state.pool])
    index[:, -1] = state.pool.shape[1]
    return replace(state, candidates=Candidates(index))


def mask_weights(state, scores, **settings):
    made = control("mask", candidates=32, **settings)
    return made.decide(np.float32(scores), state).log_weight


def test_zeros_of_a_mask_that_draws_are_the_rule_among_the_candidates():
    state = shown(situation())
    weight = mask_weights(state, np.zeros((3, 32)), sharpness=5.0, trim=True)
    left_out = trimmed(state) >= 0
    for k in range(3):
        among = state.candidates.index[k, :-1]
        assert left_out[k, among].any() and not left_out[k, among].all()
        assert (weight[k, among] == torch.where(left_out[k, among], -5.0, 0.0)).all()
        others = torch.ones(N, dtype=torch.bool).index_fill(0, among, False)
        assert (weight[k, others] == -torch.inf).all()


def test_scores_are_log_weights_over_the_sharpness():
    state, scores = shown(situation()), np.random.default_rng(0).uniform(-1, 1, (3, 32))
    weight = mask_weights(state, scores, sharpness=3.0)
    for k in range(3):
        found = weight[k, state.candidates.index[k, :-1]]
        np.testing.assert_allclose(found, 3 * scores[k, :-1], rtol=1e-5)


def test_the_best_score_brings_a_candidate_back_that_the_rule_leaves_out():
    state = shown(situation())
    scores = np.where((trimmed(state) >= 0).gather(1, state.candidates.index.clamp(max=N - 1)), 1.0, 0.0)
    weight = mask_weights(state, scores, sharpness=5.0, trim=True)
    assert all((weight[k, state.candidates.index[k, :-1]] == 0).all() for k in range(3))


def test_a_mask_without_sharpness_takes_the_largest_scores_less_the_trimmed():
    state = shown(situation())
    state.planned = np.full(3, 8)
    weight = mask_weights(state, np.zeros((3, 32)), trim=True)
    chosen = weight == 0
    assert (chosen.sum(1) == 8).all() and not (chosen & (trimmed(state) >= 0)).any()


def test_a_mask_of_yes_and_no_draws_nothing():
    with pytest.raises(ValueError, match=r"control\.sharpness is for scores"):
        make_control({"name": "mask", "sharpness": 5.0}, B, 0.5, binary=True)
    with pytest.raises(ValueError, match=r"control\.sharpness"):
        control("mask", sharpness=0)
