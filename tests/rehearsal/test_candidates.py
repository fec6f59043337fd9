"""Candidates: choices of a plan, as agents in an environment."""

from functools import partial

import pytest
import torch

from dsenv import DataPlan, Selection, Selector
from dsenv.agents.learned import LearnedAgent
from dsenv.policy.shipped import pretrained
from dsenv.rehearsal.candidates import Candidate, own_candidates, usual_candidates
from tests.policy.policies import new_policy

pytestmark = pytest.mark.fast


class ByLoss(Selector):
    """Samples by a power of their loss."""

    def __init__(self, power):
        self.power = power

    def select(self, signals, count, generator):
        index = torch.multinomial(signals.loss**self.power, count, generator=generator)
        return Selection(index, torch.ones(count))


def test_the_usual_ones_begin_with_the_reference_and_hold_all_data_once():
    found, left_out = usual_candidates([0.5, 0.3], images=False)
    assert (found[0].name, found[0].ratio) == ("random", 0.5)
    assert [c.name for c in found].count("all data") == 1
    names = [c.name for c in found if c.ratio == 0.3]
    assert {"random", "trim", "small_loss", "infobatch", "order_dp"} <= set(names)
    shipped = [c.name for c in found if c.ratio == 0.5 and c.name.startswith("policy")]
    assert len(shipped) + len(left_out) == len(pretrained.names())


def test_a_policy_that_cannot_be_read_is_left_out_with_a_word(monkeypatch):
    def refuse(self, name):
        raise ValueError("the policy sees observations of version 1; train it again")

    monkeypatch.setattr(type(pretrained), "__call__", refuse)
    found, left_out = usual_candidates([0.5], images=True)
    assert not [c for c in found if "policy" in c.settings] and len(left_out) == len(pretrained.names())
    assert all("version 1" in words and "again" not in words for words in left_out)


def test_every_usual_candidate_makes_a_plan():
    data = torch.randn(60, 4), torch.arange(60) % 3
    found, _ = usual_candidates([0.5], images=False)
    for candidate in [*found, found[1].with_pods()]:
        plan = DataPlan(data, epochs=6, batch_size=10, **candidate.plan_settings)
        total = sum(len(batch.index) for _ in range(1) for batch in plan.batches())
        assert total <= 60
    assert DataPlan(data, epochs=6, batch_size=10, **found[4].plan_settings).total_steps == 36


def test_a_policy_that_augments_is_left_out_unless_samples_are_images(monkeypatch):
    kinds = {"curriculum": "curriculum", "joint": "joint"}
    monkeypatch.setattr(type(pretrained), "names", lambda _: list(kinds))
    monkeypatch.setattr(type(pretrained), "__call__", lambda _, name: new_policy(kinds[name]))
    for images in (True, False):
        found, left_out = usual_candidates([0.5], images)
        names = {c.name for c in found}
        assert ("policy joint" in names) == images and "policy curriculum" in names
        assert bool(left_out) != images


def test_policies_act_without_the_validation_accuracy():
    agent = Candidate("mine", {"policy": new_policy()}, 0.4).agent()
    assert isinstance(agent, LearnedAgent)
    assert agent.env["validation_shown"] == 0.0 and agent.env["ratio"] == 0.4


def test_own_ones_have_random_selection_at_each_of_their_ratios_and_all_data():
    given = {
        "mine": {"selector": {"name": "infobatch", "keep": 0.3}, "ratio": 0.7},
        "trim": {"selector": "trim"},
    }
    found = own_candidates(given, [0.5])
    names = [(c.name, c.ratio) for c in found]
    assert names[0] == ("random", 0.5)
    assert sorted(names) == [
        ("all data", 1.0),
        ("mine", 0.7),
        ("random", 0.5),
        ("random", 0.7),
        ("trim", 0.5),
    ]
    assert [c.name for c in own_candidates(["trim", "random"], [0.5])] == ["random", "all data", "trim"]
    alone = {"random": {}, "all data": {}, "mine": {"selector": ByLoss(1.0)}}
    assert [c.name for c in own_candidates(alone, [0.5])] == ["random", "all data", "mine"]
    assert [c.name for c in own_candidates(["trim", "trim"], [0.5])] == ["random", "all data", "trim"]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("trim", "list of selectors' names"),
        (3, "list of selectors' names"),
        ({"a": "trim"}, "candidate 'a' must be a table"),
        ({"a": {"selektor": "trim"}}, "Did you mean 'selector'"),
        ({"a": {"selector": "trim", "ratio": 2}}, "ratio must be in"),
        ({"a": {"policy": "curiculum"}}, "Did you mean 'curriculum'"),
        ([ByLoss(1.0), ByLoss(2.0)], "two candidates are called"),
        ([partial(ByLoss, 1.0), partial(ByLoss, 2.0)], "two candidates are called"),
        ({1: {"selector": "trim"}, "1": {"selector": "small_loss"}}, "two candidates are called '1'"),
        ({"random": {"selector": "trim"}}, "'random' is run in any case"),
        ({"random": {"selector": "random", "ratio": 0.3}}, "'random' is run in any case"),
        ({"all data": {"selector": "trim"}}, "'all data' is run in any case"),
    ],
)
def test_what_is_no_candidate_is_refused(given, words):
    with pytest.raises(ValueError, match=words):
        own_candidates(given, [0.5])
