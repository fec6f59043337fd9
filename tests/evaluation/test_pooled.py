"""Agents of several training seeds as one row; rules that were evaluated before are taken over."""

from dataclasses import asdict, replace

import numpy as np
import pytest

import dsenv
from dsenv.catalogue import definition
from dsenv.evaluation import Entry, evaluate
from dsenv.evaluation.pooled import pooled
from dsenv.evaluation.statistics import mean, mean_difference, stratified_interval
from dsenv.evaluation.storage import load, save

ENV = definition("envs", "Tiny-Curriculum-v0")
RULES = ("all_data", "random")


def found(about, *rules, seeds=3, env=ENV, **further):
    """An evaluation of `about`, which stands for an agent "ppo", beside rules."""
    entries = [Entry("ppo", dsenv.load("agents", about))]
    entries += [Entry(name, dsenv.load("agents", name)) for name in rules]
    return evaluate(env, entries, "ppo", seeds=seeds, device="cpu", progress=False, **further)


@pytest.fixture(scope="module")
def whole():
    return {name: found(name, *RULES) for name in ("small_loss", "hard_first")}


def numbers(row):
    return {name: value for name, value in asdict(row).items() if name != "seconds"}


def test_rules_that_are_known_are_taken_over_bit_for_bit(whole, tmp_path):
    save(whole["small_loss"], tmp_path / "evaluation.json", {})
    first, _ = load(tmp_path / "evaluation.json")
    alone = found("hard_first", known=first)

    own = whole["hard_first"]
    assert [numbers(row) for row in alone.rows] == [numbers(row) for row in own.rows]
    assert list(alone.traces) == ["ppo", *RULES]
    for name, traces in own.traces.items():
        for trace, other in zip(traces, alone.traces[name], strict=True):
            np.testing.assert_array_equal(trace.accuracy, other.accuracy)
    seconds = [row.seconds for row in first.rows if row.agent in RULES]
    assert [row.seconds for row in alone.rows if row.agent in RULES] == seconds  # they did not run again


ELSEWHERE = ENV.with_overrides({"evaluation_contexts": [{"label_noise": 0.2}]})


@pytest.mark.parametrize("further", [{"seeds": 2}, {"env": ELSEWHERE}])
def test_rules_on_other_seeds_or_in_other_contexts_are_not_taken_over(whole, further):
    with pytest.raises(ValueError, match=r"with \[3\] seeds: evaluate them again"):
        found("hard_first", known=whole["small_loss"], **further)


def test_the_row_of_several_agents_is_that_of_the_statistics(whole):
    evaluations = list(whole.values())
    table = pooled(evaluations)
    assert [row.agent for row in table.rows] == ["ppo", *RULES] * len(table.contexts)

    for number, row in enumerate(table.rows[:: 1 + len(RULES)]):
        own = np.stack([[e.traces["ppo"][number].accuracy] for e in evaluations]).transpose(0, 2, 1)
        data = np.stack([[e.traces["all_data"][number].accuracy] for e in evaluations]).transpose(0, 2, 1)
        assert row.accuracy_mean == pytest.approx(own.mean()) and row.seeds == 6
        assert (row.accuracy_low, row.accuracy_high) == stratified_interval(mean, own)
        assert (row.gain_low, row.gain_high) == stratified_interval(mean_difference, own, data)
        assert row.gain_mean == pytest.approx((own - data).mean())

    first = [row for row in evaluations[0].rows if row.agent in RULES]
    assert [row for row in table.rows if row.agent in RULES] == first


def test_one_agent_keeps_its_mean_and_rules_may_be_missing(whole):
    (row, *_) = pooled([whole["small_loss"]]).rows
    assert row.accuracy_mean == pytest.approx(whole["small_loss"].rows[0].accuracy_mean)
    (alone, *_) = pooled([found("small_loss"), found("hard_first")]).rows
    assert alone.gain_mean is None and alone.over_random_mean is None


def test_what_does_not_belong_together_is_refused(whole):
    one, other = whole.values()
    for bad in ([], [one, found("small_loss", *RULES, seeds=2)], [one, replace(other, env="x")],
                [replace(one, traces={})]):  # fmt: skip
        with pytest.raises(ValueError, match="evaluate them alike"):
            pooled(bad)
