"""Rounds, survivors, and what is cut to keep a time limit; no clock decides in these tests."""

import numpy as np
import pytest
import torch

from dsenv.rehearsal import halving
from dsenv.rehearsal.candidates import ALL_DATA, Candidate
from dsenv.rehearsal.data import read_samples
from dsenv.rehearsal.halving import Clock, Halving
from dsenv.rehearsal.runs import Outcome, TooLateError
from dsenv.tasks import Task
from tests.rehearsal.made import MLP, RECIPE, blobs

pytestmark = pytest.mark.fast

GAINS = {"random": 0.0, "good": 0.1, "fair": 0.05, "bad": -0.1, "worse": -0.2, ALL_DATA: 0.02}
NAMES = ["random", "good", "bad", ALL_DATA, "fair", "worse"]


class StandStill(Clock):
    """A limit whose time passes by hand."""

    def __init__(self, seconds):
        super().__init__(seconds)
        self.now = 0.0

    @property
    def spent(self):
        return self.now


def candidates():
    rules = {n: Candidate(n, {"selector": n}, 0.5) for n in NAMES if n != ALL_DATA}
    return [rules.get(n) or Candidate(ALL_DATA, {}, 1.0) for n in NAMES]


@pytest.fixture
def calls(monkeypatch):
    """`run` without training: each candidate has its own gain, and steps take time of its clock."""
    made = []

    def stand_in(candidate, task, held_out, seeds, *, epochs, device, threads, check=lambda _: None):
        made.append((candidate.name, len(held_out), list(seeds)))
        one = stand_in.seconds * candidate.ratio * int((~held_out).sum()) / 1000  # of an epoch
        for epoch in range(epochs):
            stand_in.clock.now += one
            check((epoch + 1) / epochs)
        size, rng = held_out.shape[1], np.random.default_rng(list(seeds))
        gain = GAINS.get(candidate.name, 0.2)
        accuracy = 0.5 + 0.01 * rng.standard_normal(len(held_out)) + gain
        tries = held_out.sum(0).double().numpy()
        share = torch.full((size, 3), 1 / 3)
        return Outcome(accuracy, tries * accuracy.mean(), tries, share, candidate.ratio, one * epochs, 0)

    stand_in.clock, stand_in.seconds, stand_in.made = None, 0.0, made
    monkeypatch.setattr(halving, "run", stand_in)
    return stand_in


def halve(calls, seconds=None, epochs=6, size=120, seconds_of_1000=1.0, **settings):
    inputs, labels, _ = blobs(size=size)
    clock = StandStill(seconds)
    calls.clock, calls.seconds = clock, seconds_of_1000
    made = Halving(
        read_samples((inputs, labels), 10_000, 0),
        lambda part: Task.from_config(dataset=part.dataset(), model=MLP, recipe=RECIPE),
        candidates(),
        **{"epochs": epochs, "folds": 4, "seed": 0, "device": torch.device("cpu"), "threads": 1, **settings},
        clock=clock,
        report=lambda *_: None,
    )
    return made, made.run()


def names(found):
    return [candidate.name for candidate in found]


def test_the_better_half_goes_on_with_random_and_all_data_and_pods_comes_in(calls):
    _, found = halve(calls)
    runs = {c.name: sum(len(o.accuracy) for o in own) for c, own in found.outcomes.items()}
    wanted = {"random": 32, ALL_DATA: 32, "pods + good": 32, "good": 32, "fair": 32, "bad": 4, "worse": 4}
    assert runs == wanted
    assert names(found.last)[:2] == ["random", ALL_DATA]
    assert set(names(found.last)[2:]) == {"good", "fair", "pods + good"}
    assert found.rounds == 4 and found.cut == []


def test_all_candidates_of_a_round_have_the_same_seeds_and_no_two_rounds_share_one(calls):
    halve(calls)
    by_round = {}
    for name, _, seeds in calls.made:
        by_round.setdefault(tuple(seeds), []).append(name)
    assert len(by_round) == 4 and all("random" in own for own in by_round.values())
    every = [seed for seeds in by_round for seed in seeds]
    assert len(every) == len(set(every))


def test_another_seed_cuts_and_starts_anew(calls):
    halve(calls, seed=0)
    first = {tuple(seeds) for _, _, seeds in calls.made}
    calls.made.clear()
    halve(calls, seed=1)
    assert not first & {tuple(seeds) for _, _, seeds in calls.made}


def test_short_trainings_have_no_pods(calls):
    _, found = halve(calls, epochs=3)
    assert not [c for c in found.outcomes if c.name.startswith("pods")]


def test_little_time_cuts_parts_then_samples_then_candidates(calls):
    found_at = {}
    for seconds in (1e6, 300, 150, 90, 12):
        made, found = halve(calls, seconds=seconds, size=2000)
        runs = len(found.outcomes[made.candidates[0]][0].accuracy)
        found_at[seconds] = len(made.samples), runs, len(found.outcomes)
        assert made.clock.spent <= seconds and bool(found.cut) == (seconds < 1e6)

    assert found_at[1e6] == (2000, 4, 7)
    assert found_at[300] == (2000, 3, 7)
    assert 400 < found_at[150][0] < 2000 and found_at[150][1:] == (3, 7)
    assert found_at[90] == (400, 2, 7)
    assert found_at[12][:2] == (400, 2) and found_at[12][2] < 7
    assert any(text.startswith("without") for text in found.cut)


def test_a_round_that_would_not_fit_is_not_begun(calls):
    whole, _ = halve(calls, seconds=1e6, size=400)
    first = sum(3 * 400 / 1000 * 6 * own.ratio for own in whole.candidates) + 3.6  # and PODS
    made, found = halve(calls, seconds=first / 0.5, size=400)
    assert made.clock.spent <= first / 0.5
    assert found.rounds < 4 and f"{found.rounds} of 4 rounds" in found.cut


def test_a_limit_that_passes_within_a_run_ends_it_with_a_word(calls, monkeypatch):
    monkeypatch.setattr(Halving, "_probe", lambda _: 1e-9)
    one = 0.5 * 3 * 120 / 1000 * 6
    made, found = halve(calls, seconds=3.5 * one)
    assert names(found.last) == ["random", "good", "bad"] and found.rounds == 1
    assert found.cut == ["all data in round 1"]
    assert made.clock.spent <= 3.5 * one


def test_no_time_at_all_leaves_nothing(calls, monkeypatch):
    monkeypatch.setattr(Halving, "_probe", lambda _: 1e-9)
    _, found = halve(calls, seconds=0.1)
    assert found.outcomes == {} and found.last == []


def test_the_probe_measures_an_epoch_of_a_sample(calls):
    made, _ = halve(calls, seconds=1e6)
    assert made._probe() == pytest.approx(1 / 1000)


def test_too_late_is_no_error_that_a_user_sees():
    assert not issubclass(TooLateError, ValueError)
