import math

import numpy as np
import pytest
import torch

import dsenv
from dsenv.control.observation import CANDIDATE_FEATURES, describe
from dsenv.control.state import MEASURED, Candidates, CandidateScores, TrainingState, stability_bins
from dsenv.signals import SampleSignals
from dsenv.volume.budget import Budget
from tests.sessions import noughts

K, N, C = 2, 12, 4


def trained(visits=4):
    """Signals of K trainings; the losses of sample i swing by i about 1, the last sample was never seen."""
    signals = SampleSignals(N, C, K)
    index = torch.arange(N - 1).expand(K, -1)
    labels = torch.zeros_like(index)
    for visit in range(visits):
        loss = 1 + torch.arange(N - 1) / N * (1.0 if visit % 4 < 2 else 0.0) * (visit % 2)
        signals.update(index, loss.expand(K, -1), torch.randn(K, N - 1, C), labels, visit)
    return signals


@pytest.mark.fast
def test_steady_samples_come_first_and_unknown_ones_last():
    signals, pool = trained(6), torch.ones(K, N, dtype=torch.bool)
    bins = stability_bins(signals, pool, 3)
    assert (bins[:, :-1].diff(dim=1) >= 0).all() and bins[0, 0] == 0
    assert (bins[:, -1] == 2).all()  # never seen
    assert (stability_bins(trained(2), pool, 3) == 2).all()  # too few visits for all
    assert (stability_bins(trained(3), pool, 3)[:, 0] == 0).all()  # three tell


def blank(replicas, actions):
    pool = torch.ones(replicas, 6, dtype=torch.bool)
    budget = Budget(np.full(replicas, 6), 4, 0.5, 0.1)
    signals = SampleSignals(6, C, replicas)
    return TrainingState.blank(signals, pool, budget, bins=5, actions=actions, intervals=4, target=0.5)


@pytest.mark.fast
def test_before_the_first_interval_the_loss_is_that_of_a_guess_and_the_rest_is_zero():
    state = blank(K, 3)
    assert state.selected.shape == (K, 5) and state.action.shape == (K, 3)
    for name in MEASURED:
        expected = math.log(C) if name == "train_loss" else 0.0
        assert (getattr(state, name) == torch.tensor(expected)).all(), name


@pytest.mark.fast
def test_rows_of_the_last_interval_are_renewed_one_by_one():
    state = blank(3, 2)
    before = {name: getattr(state, name).clone() for name in MEASURED}
    state.measured(torch.tensor([True, False, True]), **{name: old + 1 for name, old in before.items()})
    for name, old in before.items():
        changed = getattr(state, name) - old
        assert (changed[[0, 2]] == 1).all() and (changed[1] == 0).all(), name


@pytest.mark.fast
def test_influence_variance_is_that_of_the_loss_changes():
    signals = SampleSignals(1, 2, 1)
    losses = [1.0, 3.0, 2.0, 2.5]
    mean = variance = 0.0
    for visit, loss in enumerate(losses):
        value = torch.tensor([[loss]])
        signals.update(
            torch.zeros(1, 1, dtype=torch.int64), value, torch.zeros(1, 1, 2), torch.zeros(1, 1).long(), visit
        )
        if visit == 1:
            mean = abs(losses[1] - losses[0])
        elif visit > 1:
            off = abs(loss - losses[visit - 1]) - mean
            mean, variance = mean + 0.3 * off, 0.7 * (variance + 0.3 * off * off)
    assert abs(float(signals.influence) - mean) < 1e-5
    assert abs(float(signals.influence_variance) - variance) < 1e-5


def features(shown, signals, left_out=None):
    bins = torch.zeros(K, N, dtype=torch.int64)
    left_out = torch.zeros(K, N, dtype=torch.bool) if left_out is None else left_out
    return describe(shown, signals, bins, left_out, 4, torch.full((K,), 4.0), 10)


@pytest.mark.fast
def test_candidates_are_described_sample_by_sample():
    signals = trained()
    index = torch.tensor([[3, 11, 0, N], [5, 6, 7, 8]])
    found = features(Candidates(index), signals)
    assert found.shape == (K, 4, len(CANDIDATE_FEATURES)) and found.abs().max() <= 1
    named = {name: found[..., n] for n, name in enumerate(CANDIDATE_FEATURES)}
    assert named["exists"].tolist() == [[1, 1, 1, 0], [1, 1, 1, 1]]
    assert not found[0, 3].any()  # padding
    assert named["never trained on"].tolist() == [[0, 1, 0, 0], [0, 0, 0, 0]]
    torch.testing.assert_close(named["confidence in the label"][1], signals.confidence[1, 5:9])
    assert torch.equal(named["times trained on, t / (t + 4)"][0], torch.tensor([0.5, 0.0, 0.5, 0.0]))
    left_out = torch.zeros(K, N, dtype=torch.bool)
    left_out[0, [3, 11]] = left_out[1, 7] = True  # the last stands for the padding too, which is shown as 0
    column = list(CANDIDATE_FEATURES).index("left out by the rule trim")
    told = features(Candidates(index), signals, left_out)[..., column]
    assert told.tolist() == [[1, 1, 0, 0], [0, 0, 1, 0]] and not named["left out by the rule trim"].any()
    order = index.flip(1)
    torch.testing.assert_close(features(Candidates(order), signals), found.flip(1))  # sample by sample


@pytest.mark.fast
def test_a_look_replaces_what_is_stale():
    signals, index = trained(), torch.arange(4).expand(K, -1)
    fresh = {name: torch.full((K, 4), 0.25) for name in ("confidence", "entropy", "margin", "correct")}
    scores = CandidateScores(torch.full((K, 4), 2.0), fresh, torch.randn(K, 4, 6))
    found = features(Candidates(index, scores), signals)
    assert found.shape[-1] == len(CANDIDATE_FEATURES) + 6
    assert (found[..., list(CANDIDATE_FEATURES).index("confidence in the label")] == 0.25).all()
    embedded = found[..., len(CANDIDATE_FEATURES) :]
    torch.testing.assert_close(embedded.mean(1), torch.zeros(K, 6), atol=1e-5, rtol=0)


@pytest.mark.fast
def test_features_of_outliers_and_of_no_numbers_stay_in_the_range():
    index = torch.arange(N).repeat(2, 1)
    signals, loss = SampleSignals(N, C, 2), torch.tensor([[0.0], [1e3]]).repeat(1, N)
    loss[:, 3] = loss.flip(0)[:, 3]  # far above the others, and far below
    fresh = {name: torch.full((2, N), torch.nan) for name in ("confidence", "entropy", "margin", "correct")}
    bins, interval = torch.zeros(2, N, dtype=torch.int64), torch.ones(2)
    shown = Candidates(index, CandidateScores(loss, fresh))
    found = describe(shown, signals, bins, bins > 0, 4, interval, 10)
    assert found[
        :, 3, list(CANDIDATE_FEATURES).index("loss, standardised among the candidates, over 3")
    ].tolist() == [1, -1]
    assert (found[..., list(CANDIDATE_FEATURES).index("margin of the label")] == 0).all()


def test_hidden_validation_shows_as_zero():
    hidden = dsenv.load("envs", "Tiny-Curriculum-v0", validation_shown=0.0)
    open_ = dsenv.load("envs", "Tiny-Curriculum-v0")
    names = open_.observation_names
    where = [names.index("validation accuracy"), names.index("gain in validation accuracy, times 5")]
    for env in (hidden, open_):
        env.reset(seed=0)
    steps = [env.step(noughts(env)) for env in (hidden, open_)]
    assert not steps[0][0][where].any() and steps[1][0][where].any()
    rest = np.delete(np.arange(len(names)), where)
    np.testing.assert_array_equal(steps[0][0][rest], steps[1][0][rest])
    assert steps[0][1] == steps[1][1]  # the reward is the same
    both = dsenv.load("envs", "Tiny-Curriculum-v0", validation_shown=0.5)
    shows = [bool(both.reset(seed=seed)[0][where[0]]) for seed in range(30)]
    assert 5 < sum(shows) < 25
