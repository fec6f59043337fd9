"""Outside the environment a policy sees and decides what it would inside."""

import numpy as np
import pytest
import torch

import dsenv
from dsenv.control.observation import observe
from dsenv.control.state import Candidates
from dsenv.control.trimming import trimmed
from dsenv.policy import PolicyRunner
from dsenv.policy.runner import ranks
from dsenv.signals import SampleSignals
from tests.policy.policies import ENVS, new_policy
from tests.sessions import only

pytestmark = pytest.mark.fast


def mirrored(env, policy, **settings):
    config = env.unwrapped.config
    size = only(env.unwrapped).trainer.size
    runner = PolicyRunner(
        policy, size=size, classes=10, intervals=config.intervals, ratio=config.ratio, **settings
    )
    assert runner.budget.total == only(env.unwrapped).state.budget.total
    return runner


def chosen_in(env, before):
    """Samples of the last interval, from the visits before and after it."""
    return (only(env).trainer.signals.times_trained[0] - before).nonzero().squeeze(1)


# Ranking is alike under every control; the ratio matters where the control decides how much.
@pytest.mark.parametrize(
    ("control", "rank_by", "ratio"),
    [
        ("curriculum", "loss", 0.5),
        ("ratio", "loss_rank", 0.3),
        ("strength", "loss", 0.3),
        ("joint", "loss_rank", 0.5),
        ("joint", "loss", 0.3),
    ],
)
def test_the_driver_sees_what_the_environment_shows(control, rank_by, ratio):
    env = dsenv.load("envs", ENVS[control], rank_by=rank_by, ratio=ratio, intervals=7, device="cpu")
    policy = new_policy(control, rank_by=rank_by, seed=3)
    runner = mirrored(env, policy)
    observation, info = env.reset(seed=5, options={"context": {"label_noise": 0.4}})
    signals = only(env).trainer.signals.of_replica(0)
    runner.validated(float(only(env).state.validation_accuracy))
    over, spent = False, 0
    while not over:
        seen = observe(runner.read(signals), runner.control)[0]
        np.testing.assert_allclose(seen, observation, atol=1e-5)
        action = policy.predict(observation)[0]
        before = only(env).trainer.signals.times_trained[0].clone()
        session = only(env)
        wanted = session.control.decide(action[None], session.state)
        decision = runner.decide(signals)
        for name in ("log_weight", "strength"):
            mine, theirs = getattr(decision, name), getattr(wanted, name)
            assert (mine is None) == (theirs is None)
            if mine is not None:
                torch.testing.assert_close(mine, theirs, atol=1e-4, rtol=1e-4)
        assert (decision.counts is None) == (wanted.counts is None)
        if decision.counts is not None:
            assert abs(decision.counts - wanted.counts).max() <= 1
        observation, _, over, _, info = env.step(action)
        runner.chose(chosen_in(env, before))
        runner.validated(info["val_accuracy"])
        spent = info["samples_used"]
    assert runner.budget.spent == spent and runner.interval == 7


def test_one_group_of_candidates_is_what_the_environment_shows():
    """A training set of 32 samples and 32 candidates: the order differs, and nothing else."""
    env = dsenv.load("envs", "Tiny-Mask-v0", task={"dataset": {"train": 32}}, intervals=6, device="cpu")
    policy = new_policy({"name": "mask", "candidates": 32})
    runner = mirrored(env, policy)
    observation, info = env.reset(seed=5)
    signals = only(env).trainer.signals.of_replica(0)
    runner.validated(float(only(env).state.validation_accuracy))
    runner._groups = lambda: only(env).state.candidates.index
    over = False
    while not over:
        shown = only(env).state.candidates
        view = runner.read(signals)
        view = type(view)(**{**vars(view), "candidates": shown})
        np.testing.assert_allclose(observe(view, runner.control)[0], observation, atol=1e-5)
        situation = only(env).state
        wanted = env.episodes.control.decide(policy.predict(observation)[0][None], situation)
        decision = runner.decide(signals, int(situation.planned[0]))
        # two candidates whose scores are equal to rounding may change places at the end of the chosen
        assert int((decision.log_weight != wanted.log_weight).sum()) <= 2
        before = only(env).trainer.signals.times_trained[0].clone()
        observation, _, over, _, info = env.step(policy.predict(observation)[0])
        runner.chose(chosen_in(env, before))
        runner.validated(info["val_accuracy"])


def trained_signals(size=100, steps=3, classes=10, seed=0, sure=1.0):
    generator = torch.Generator().manual_seed(seed)
    signals = SampleSignals(size, classes)
    for step in range(steps):
        index = torch.randperm(size, generator=generator)[: size // 2 + 10]
        logits = sure * torch.randn(len(index), classes, generator=generator)
        labels = index % classes
        loss = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
        signals.update(index, loss, logits, labels, step)
    return signals


def new_driver(policy, size=100, intervals=8, ratio=0.5, **settings):
    return PolicyRunner(policy, size=size, classes=10, intervals=intervals, ratio=ratio, **settings)


@pytest.mark.parametrize("actions", ["box", "binary"])
def test_candidates_come_in_groups_and_each_gives_its_share(actions):
    policy = new_policy({"name": "mask", "candidates": 32}, actions=actions, validation_shown=0.0)
    runner, signals = new_driver(policy), trained_signals()
    runner.read(signals)
    acted = runner._act_on_groups(signals)
    shown = runner.state.candidates.index
    real = shown[0][shown[0] < 100]
    assert shown.shape == acted.shape == (1, 128) and sorted(real.tolist()) == list(range(100))
    decision = runner.decide(signals, 50)
    chosen = decision.log_weight[0] == 0
    if actions == "binary":
        assert int(chosen.sum()) == decision.counts[0]
        return
    assert int(chosen.sum()) == 50
    shares = [int(chosen[row[row < 100]].sum()) for row in shown.view(4, 32)]
    assert shares == pytest.approx([16, 16, 16, 2], abs=1)
    order = runner._groups()
    assert torch.equal(order, runner._groups())
    runner.chose(chosen.nonzero().squeeze(1))
    assert not torch.equal(order, runner._groups())


def test_each_group_is_seen_as_if_it_were_alone():
    policy = new_policy({"name": "mask", "candidates": 32}, validation_shown=0.0)
    runner, signals = new_driver(policy), trained_signals(sure=5.0)
    assert 0 < int((trimmed(runner.read(signals)) >= 0).sum()) < 100
    runner._act_on_groups(signals)
    index = runner.state.candidates.index
    kept = []
    policy.actions = lambda rows: kept.append(rows) or np.zeros((len(rows), 32), np.float32)
    runner._act_on_groups(signals)
    view = runner.read(signals)
    for row, group in zip(kept[0], index.view(4, 32), strict=True):
        alone = type(view)(**{**vars(view), "candidates": Candidates(group[None])})
        torch.testing.assert_close(row, observe(alone, runner.control)[0])


def test_ranks_keep_the_order_and_leave_padding_behind():
    scores = np.array([[0.1, 0.9, -0.5, 0.9], [3.0, 1.0, 2.0, 9.0]], np.float32)
    exists = np.array([[True] * 4, [True, True, True, False]])
    found = ranks(scores, exists)
    assert np.allclose(found[0], [-0.25, 0.75, -0.75, 0.25])
    assert np.allclose(found[1, :3], [2 / 3, -2 / 3, 0]) and found[1, 3] < -1


def test_a_policy_that_needs_validation_says_so():
    runner, signals = new_driver(new_policy()), trained_signals()
    runner.decide(signals)
    assert runner.state.validation_accuracy == pytest.approx(0.1) and runner.state.validation_gain == 0
    runner.chose(torch.arange(50))
    with pytest.raises(ValueError, match=r"none was reported after epoch 0: call plan\.report_validation"):
        runner.decide(signals)
    runner.validated(0.3)
    runner.decide(signals)
    assert runner.state.validation_gain == pytest.approx(0.2)
    for wrong in (1.2, -0.1, float("nan")):
        with pytest.raises(ValueError, match=r"validation accuracy must be in \[0, 1\]"):
            runner.validated(wrong)


@pytest.mark.parametrize("shown", [0.0, 0.5])
def test_a_policy_that_saw_it_in_part_or_never_does_without(shown):
    runner, signals = new_driver(new_policy(validation_shown=shown)), trained_signals()
    names = [6, 7]  # validation accuracy and gain
    for reported in (None, 0.4, None, 0.6):
        if reported is not None:
            runner.validated(reported)
        view = runner.read(signals)
        seen = observe(view, runner.control)[0, names].tolist()
        assert seen == pytest.approx([reported or 0.0, 0.0] if shown else [0.0, 0.0])
        runner.decide(signals)
        runner.chose(torch.arange(50))


def test_a_state_goes_on_bit_for_bit():
    policy, signals = new_policy("joint"), trained_signals()
    runners = [new_driver(policy) for _ in range(2)]
    for interval in range(3):
        runners[0].validated(0.1 * interval)
        decision = runners[0].decide(signals)
        runners[0].chose(torch.arange(int(decision.counts[0])))
    runners[0].validated(0.5)
    runners[1].load_state_dict(runners[0].state_dict())
    one, other = (runner.decide(signals) for runner in runners)
    assert torch.equal(one.log_weight, other.log_weight) and one.counts == other.counts
    assert torch.equal(one.strength, other.strength)


def test_the_budget_is_exact():
    policy = new_policy("ratio", validation_shown=0.0, scale=20.0)
    runner, signals = new_driver(policy, ratio=0.37, intervals=9), trained_signals()
    counts = []
    for _ in range(9):
        counts.append(int(runner.decide(signals).counts[0]))
        runner.chose(torch.arange(counts[-1]))
    assert sum(counts) == round(0.37 * 900) and min(counts) >= 10
    with pytest.raises(ValueError, match="set up for 9 intervals, and they are over"):
        runner.decide(signals)


def test_what_cannot_work_says_so():
    policy = new_policy(validation_shown=0.0)
    with pytest.raises(ValueError, match="set up for 100 samples, the signals hold 60"):
        new_driver(policy).decide(trained_signals(60))
    with pytest.raises(ValueError, match="nothing was decided yet"):
        new_driver(policy).chose(torch.arange(3))
    with pytest.raises(ValueError, match=r"looks at its candidates by a forward pass .*rescore = false"):
        new_driver(new_policy({"name": "mask", "rescore": True}))
    with pytest.raises(ValueError, match="less than one sample"):
        new_driver(policy, ratio=0.001)
