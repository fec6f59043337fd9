"""Training runs that leave out their held-out part, and what is read off them."""

import numpy as np
import pytest
import torch
from torch import nn

from dsenv.env.config import EnvConfig
from dsenv.rehearsal.candidates import ALL_DATA, RANDOM, Candidate
from dsenv.rehearsal.data import held_out_parts, read_samples
from dsenv.rehearsal.runs import HeldOutSession, TooLateError, held_out_probabilities, run
from dsenv.tasks import Task
from tests.policy.policies import new_policy
from tests.rehearsal.made import MLP, RECIPE, blobs
from tests.waits import stand_in

CPU = torch.device("cpu")


def task_of(model=MLP, noise=0.0, recipe=RECIPE):
    inputs, labels, _ = blobs(noise=noise)
    samples = read_samples((inputs, labels), 1000, 0)
    return Task.from_config(dataset=samples.dataset(), model=model, recipe=recipe), samples.labels


def outcome(candidate=None, folds=3, cuts=(0,), **settings):
    task, labels = task_of(**settings)
    held_out = held_out_parts(labels, folds, cuts)
    chosen = candidate or Candidate(RANDOM, {"selector": "random"}, 0.5)
    return run(chosen, task, held_out, range(len(held_out)), epochs=3, device=CPU)


def test_a_training_run_never_sees_what_it_holds_out():
    task, labels = task_of()
    held_out = held_out_parts(labels, 3, [0])
    config = EnvConfig(task=task, intervals=3, control="rule", ratio=0.5)
    session = HeldOutSession(config, held_out, CPU)
    session.reset(range(3), [np.random.default_rng(k) for k in range(3)], [{}] * 3)
    for _ in range(3):
        session.step(np.zeros((3, 1), np.float32))
    seen = session.trainer.signals.times_trained > 0
    assert not (seen & held_out).any() and (seen.sum(1) > 60).all()


def test_each_sample_is_scored_by_the_model_that_did_not_see_it():
    task, labels = task_of(noise=0.2)
    held_out = held_out_parts(labels, 3, [0, 1])
    config = EnvConfig(task=task, intervals=3, control="rule", ratio=0.5)
    session = HeldOutSession(config, held_out, CPU)
    session.reset(range(6), [np.random.default_rng(k) for k in range(6)], [{}] * 6)
    session.step(np.zeros((6, 1), np.float32))
    found = held_out_probabilities(session, held_out)
    whole = session.trainer.scoring_pass("train")
    for k in range(6):
        wanted = whole[k].logits[held_out[k]].softmax(1)
        torch.testing.assert_close(found[k, : len(wanted)], wanted, rtol=1e-4, atol=1e-5)


def test_an_outcome_adds_up():
    found = outcome(cuts=(0, 1), noise=0.2)
    assert (found.tries == 2).all() and found.accuracy.shape == (6,)
    assert found.hits.sum() / found.tries.sum() == pytest.approx(found.accuracy.mean(), abs=1e-9)
    torch.testing.assert_close(found.probabilities.sum(1), torch.full((120,), 2.0))
    assert found.cost == pytest.approx(0.5) and found.diverged == 0 and found.seconds > 0


def test_separated_classes_are_learnt_and_one_seed_gives_the_same_twice():
    first, second = outcome(Candidate(ALL_DATA, {}, 1.0)), outcome(Candidate(ALL_DATA, {}, 1.0))
    assert first.accuracy.mean() > 0.95 and first.cost == 1.0
    assert np.array_equal(first.hits, second.hits) and torch.equal(first.probabilities, second.probabilities)


def test_a_module_that_does_not_stack_runs_in_a_loop_for_any_number_of_threads():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.norm, self.last = nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, 3)

        def forward(self, x):
            return self.last(torch.relu(self.norm(self.first(x))))

    task, labels = task_of(model=Odd)
    held_out = held_out_parts(labels, 3, [0])
    chosen = Candidate("trim", {"selector": "trim"}, 0.5)
    one, two = (run(chosen, task, held_out, range(3), epochs=3, device=CPU, threads=n) for n in (1, 2))
    assert one.accuracy.mean() > 0.6 and np.array_equal(one.hits, two.hits)


def test_a_run_that_diverges_counts_as_a_guess():
    found = outcome(recipe={"lr": 1e30, "batch_size": 16})
    assert found.diverged == 3 and found.accuracy == pytest.approx([1 / 3] * 3)
    torch.testing.assert_close(found.probabilities, torch.full((120, 3), 1 / 3))


@pytest.mark.parametrize(
    "policy",
    [
        new_policy(),
        new_policy("ratio"),
        new_policy({"name": "mask", "candidates": 16}),
        new_policy({"name": "mask", "candidates": 16}, actions="binary"),
        new_policy(actions="discrete"),
    ],
    ids=repr,
)
def test_policies_of_every_kind_run_at_the_cost_of_their_ratio(policy):
    found = outcome(Candidate("policy", {"policy": policy}, 0.5))
    assert found.cost == pytest.approx(0.5, abs=0.02) and (found.tries == 1).all()


@pytest.mark.parametrize("settings", [{"selector": "trim"}, {"policy": new_policy()}], ids=repr)
def test_the_data_may_live_on_another_device(settings):
    task, labels = task_of()
    held_out = held_out_parts(labels, 3, [0])
    with stand_in() as device:
        chosen = Candidate("mine", settings, 0.5)
        found = run(chosen, task, held_out, range(3), epochs=3, device=device)
    assert found.accuracy.mean() > 0.8 and found.probabilities.device.type == "cpu"


def test_a_check_can_stop_a_run_and_hears_how_far_it_is():
    task, labels = task_of()
    heard = []

    def check(done):
        heard.append(done)
        if done > 0.5:
            raise TooLateError

    with pytest.raises(TooLateError):
        chosen = Candidate(ALL_DATA, {}, 1.0)
        run(chosen, task, held_out_parts(labels, 2, [0]), [0, 1], epochs=4, device=CPU, check=check)
    assert heard == [0.25, 0.5, 0.75]
