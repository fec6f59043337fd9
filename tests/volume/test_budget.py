import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsenv.volume import Budget


@pytest.mark.fast
@settings(max_examples=80, deadline=None)
@given(
    capacity=st.integers(1, 5000),
    intervals=st.integers(2, 12),
    ratio=st.floats(0.05, 1.0),
    share=st.floats(0.01, 1.0),
    data=st.data(),
)
def test_whatever_is_asked_for_exactly_the_total_is_spent(capacity, intervals, ratio, share, data):
    minimum = ratio * share
    try:
        budget = Budget(np.array([capacity]), intervals, ratio, minimum)
    except ValueError:
        assert round(ratio * capacity * intervals) < intervals
        return
    spent = 0
    for t in range(intervals):
        wanted = data.draw(st.integers(-10, 2 * capacity))
        counts = budget.grant(np.array([wanted]), np.array([t]))
        assert budget.floor[0] <= counts[0] <= capacity
        budget.spend(counts)
        spent += int(counts[0])
    assert spent == budget.total[0] == round(ratio * capacity * intervals)


@settings(max_examples=80, deadline=None)
@given(wanted=st.lists(st.integers(-5, 200), min_size=6, max_size=6))
def test_without_the_duty_to_spend_what_is_asked_for_is_granted_between_floor_and_budget(wanted):
    budget = Budget(np.array([100]), 6, 0.5, 0.1, spend_all=False)
    for t, number in enumerate(wanted):
        left = int(budget.left[0])
        counts = budget.grant(np.array([number]), np.array([t]))
        assert counts[0] == min(max(number, 10), 100, left - 10 * (5 - t))
        budget.spend(counts)
    assert 60 <= budget.spent[0] <= 300


@pytest.mark.fast
def test_overspending_is_a_bug_that_shows():
    budget = Budget(np.array([10]), 2, 0.5, 0.5)
    with pytest.raises(AssertionError):
        budget.spend(np.array([11]))


@pytest.mark.fast
def test_one_training_starts_anew_beside_the_others():
    both, one = Budget(np.array([10, 20]), 4, 0.5, 0.25), Budget(np.array([40]), 4, 0.5, 0.25)
    both.spend(np.array([3, 5]))
    both.put(1, one)
    assert both.spent.tolist() == [3, 0] and both.left.tolist() == [17, 80]
    assert both.capacity.tolist() == [10, 40] and both.floor.tolist() == [2, 10]
    assert both.grant(np.array([99, 99]), np.array([1, 0])).tolist() == [10, 40]


@pytest.mark.fast
def test_bad_shares_are_named():
    with pytest.raises(ValueError, match=r"ratio must be in \(0, 1\], got 1.5"):
        Budget(np.array([10]), 2, 1.5, 0.1)
    with pytest.raises(ValueError, match=r"minimum ratio must be in \(0, 0.5\]"):
        Budget(np.array([10]), 2, 0.5, 0.6)
    with pytest.raises(ValueError, match=r"0.05 of 10 samples is less than one sample in each of 2"):
        Budget(np.array([10]), 2, 0.05, 0.05)
    assert Budget(np.array([10]), 2, 0.1, 0.1).total.tolist() == [2]  # one each will do
