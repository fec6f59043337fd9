"""Every volume schedule keeps the budget of the constant one."""

import math

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from dsenv.select.base import top
from dsenv.volume.base import VolumeSchedule, budget, counts, default_swing
from dsenv.volume.constant import Constant
from dsenv.volume.cosine import Cosine
from dsenv.volume.linear import Linear
from dsenv.volume.pods import Pods
from dsenv.volume.step import Step

targets = st.floats(0.05, 1.0)
totals = st.integers(1, 100)
sizes = st.integers(20, 60_000)
shares = st.floats(0.0, 1.0)


@st.composite
def schedules(draw: st.DrawFn) -> VolumeSchedule:
    target, share = draw(targets), draw(st.floats(-0.95, 0.95))
    swing = draw(st.sampled_from([None, share * min(target, 1 - target)]))
    kind = draw(st.sampled_from(["constant", "linear", "cosine", "step", "pods"]))
    if kind == "constant":
        return Constant(target)
    if kind == "linear":
        return Linear(target, swing)
    if kind == "cosine":
        return Cosine(target, swing)
    if kind == "step":
        return Step(target, swing, stages=draw(st.integers(2, 9)))
    assume(target < 0.99)
    low, high = target * (0.05 + 0.9 * draw(shares)), target + (1 - target) * (0.05 + 0.95 * draw(shares))
    low_per_high = (high - target) / (target - low)
    length = max(1.0, 1 / low_per_high) * draw(st.floats(1.001, 6.0))
    warmup, tail = draw(st.integers(0, 2)), draw(st.sampled_from([0.0, 0.125, 0.25]))
    return Pods(target, low, min(high, 1.0), draw(st.sampled_from([None, length])), warmup, tail)


@pytest.mark.fast
@settings(max_examples=120, deadline=None)
@given(schedule=schedules(), total=totals, size=sizes)
def test_budget_is_that_of_the_constant_schedule(schedule: VolumeSchedule, total: int, size: int) -> None:
    if isinstance(schedule, Pods):
        full = schedule.warmup + round(schedule.tail * total)
        assume(full < total and schedule.target * total > full + 1e-9)
    ratios = [schedule.ratio(step, total) for step in range(total)]
    assert all(0 < ratio <= 1 for ratio in ratios)
    assert math.fsum(ratios) == pytest.approx(schedule.target * total, rel=1e-9)
    assume(schedule.target * size >= 1)
    chosen = counts(schedule, size, total)
    assert len(chosen) == total
    assert sum(chosen) == sum(counts(Constant(schedule.target), size, total))
    assert sum(chosen) == round(schedule.target * size * total)
    assert all(1 <= count <= size for count in chosen)


@settings(max_examples=60, deadline=None)
@given(schedule=schedules(), total=st.integers(1, 60), size=st.integers(1000, 5000))
def test_counts_follow_the_ratios_to_one_sample(schedule: VolumeSchedule, total: int, size: int) -> None:
    if isinstance(schedule, Pods):
        full = schedule.warmup + round(schedule.tail * total)
        assume(full < total and schedule.target * total > full + 1e-9)
    ratios = [schedule.ratio(step, total) for step in range(total)]
    assume(min(ratios) * size >= 2)
    spent = 0
    for step, count in enumerate(counts(schedule, size, total)):
        spent += count
        assert abs(spent - math.fsum(ratios[: step + 1]) * size) <= 1 + 1e-6


@settings(max_examples=30, deadline=None)
@given(target=targets, total=totals, size=sizes, warmup=st.integers(0, 3))
def test_pods_off_is_the_constant_schedule_bit_for_bit(
    target: float, total: int, size: int, warmup: int
) -> None:
    off = Pods(target, target, target, warmup=warmup, tail=0.1)
    constant = Constant(target)
    assert [off.ratio(t, total) for t in range(total)] == [constant.ratio(t, total) for t in range(total)]
    assume(target * size >= 1)
    assert counts(off, size, total) == counts(constant, size, total)


@pytest.mark.fast
@pytest.mark.parametrize("schedule", [Linear(0.4, 0.0), Cosine(0.4, 0.0), Step(0.4, 0.0)])
def test_no_swing_is_the_constant_schedule(schedule: VolumeSchedule) -> None:
    assert [schedule.ratio(t, 7) for t in range(7)] == [0.4] * 7


@pytest.mark.fast
def test_a_schedule_is_a_function_of_the_step() -> None:
    for schedule in (Constant(0.5), Linear(0.5), Cosine(0.5), Step(0.5, stages=3), Pods(0.5)):
        forwards = [schedule.ratio(t, 20) for t in range(20)]
        assert [schedule.ratio(t, 20) for t in reversed(range(20))] == forwards[::-1]


@pytest.mark.fast
@pytest.mark.parametrize(("target", "low", "high"), [(0.5, 0.25, 0.75), (0.7, 0.5, 0.9), (0.3, 0.1, 0.5)])
def test_pods_defaults(target: float, low: float, high: float) -> None:
    pods = Pods(target)
    assert (pods.low, pods.high) == pytest.approx((low, high))
    assert (pods.low_length, pods.high_length) == pytest.approx((1, 1))
    assert pods.levels(200) == pytest.approx((low, high), abs=0.01)
    assert [pods.phase(t, 200) for t in range(5)] == ["warm-up", "low", "high", "low", "high"]
    assert {pods.phase(t, 200) for t in range(1, 200, 2)} == {"low"}
    assert pods.ratio(0, 200) == 1


@pytest.mark.fast
def test_pods_low_phase_lasts_as_long_as_the_budget_demands() -> None:
    pods = Pods(0.5, 0.2, 0.9, high_length=3, warmup=0)
    assert pods.low_length == pytest.approx(4)
    assert [pods.phase(t, 14) for t in range(7)] == ["low"] * 4 + ["high"] * 3
    assert pods.levels(14) == pytest.approx((0.2, 0.9))


@pytest.mark.fast
def test_pods_keeps_lengths_on_a_real_clock() -> None:
    pods = Pods(0.5, 0.2, 0.9, warmup=0)  # a low phase of 4/3 epochs
    phases = [pods.phase(t, 140) for t in range(140)]
    assert phases.count("low") / phases.count("high") == pytest.approx(4 / 3, rel=0.02)
    assert pods.levels(140) == pytest.approx((0.2, 0.9), abs=0.01)


@pytest.mark.fast
def test_pods_tail_and_warmup_are_paid_for() -> None:
    pods = Pods(0.5, warmup=2, tail=0.125)
    ratios = [pods.ratio(t, 80) for t in range(80)]
    assert ratios[:2] == [1.0, 1.0]
    assert ratios[-10:] == [1.0] * 10
    assert sum(ratios) == pytest.approx(40)


@pytest.mark.fast
@pytest.mark.parametrize(("total", "low", "high"), [(5, 0.1 / 2, 0.2), (4, 0.2 / 3 / 2, 0.4 / 3)])
def test_pods_low_level_keeps_half_where_little_is_left(total: int, low: float, high: float) -> None:
    """Levels 0.1 and 0.5; the warm-up leaves a mean of 0.5 / 4, above the low level, or of 0.2 / 3, below."""
    assert Pods(0.3).levels(total) == pytest.approx((low, high))


@pytest.mark.fast
def test_directions() -> None:
    for rising in (Linear(0.5), Cosine(0.5), Step(0.5, stages=4)):
        ratios = [rising.ratio(t, 30) for t in range(30)]
        assert ratios == pytest.approx(sorted(ratios))
        assert (ratios[0], ratios[-1]) == pytest.approx((0.25, 0.75))
    falling = [Linear(0.5, -0.2).ratio(t, 11) for t in range(11)]
    assert falling == sorted(falling, reverse=True)
    assert (falling[0], falling[-1]) == pytest.approx((0.7, 0.3))


@pytest.mark.fast
def test_step_against_a_fine_grid() -> None:
    step, total, grid = Step(0.5, 0.3, stages=3), 7, 3000
    for t in range(total):
        stages = [int((t + (i + 0.5) / grid) * 3 / total) for i in range(grid)]
        mean = sum(0.2 + 0.3 * stage for stage in stages) / grid
        assert step.ratio(t, total) == pytest.approx(mean, abs=1e-3)


@pytest.mark.fast
def test_a_step_has_two_stages_by_default() -> None:
    assert [Step(0.5).ratio(t, 10) for t in range(10)] == pytest.approx([0.25] * 5 + [0.75] * 5)


@pytest.mark.fast
def test_pods_on_top_of_a_static_selector() -> None:
    score = torch.rand(500, generator=torch.Generator().manual_seed(0))
    chosen = [top(score, count).index for count in counts(Pods(0.5), 500, 20)]
    assert sum(map(len, chosen)) == budget(0.5, 500, 20) == 5000
    assert set(chosen[1].tolist()) < set(chosen[2].tolist())


@pytest.mark.fast
def test_a_swing_may_reach_1_but_not_0() -> None:
    assert Linear(0.75, 0.25).ratio(4, 5) == 1 == Linear(0.75, -0.25).ratio(0, 5)


@pytest.mark.fast
def test_default_swing_keeps_levels_inside() -> None:
    for target in (0.01, 0.1, 0.5, 0.9, 1.0):
        swing = default_swing(target)
        assert 0 < target - swing <= target + swing <= 1


@pytest.mark.fast
@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Constant(0.0), "target must be in"),
        (lambda: Linear(0.3, 0.4), "at most 0.3"),
        (lambda: Step(0.5, stages=1), "use Constant"),
        (lambda: Pods(0.5, 0.6, 0.9), "low < target < high"),
        (lambda: Pods(0.5, 0.1, 0.6, high_length=1), "at least 4"),
        (lambda: Pods(0.5, warmup=-1), "warmup"),
        (lambda: Pods(0.2, warmup=2).ratio(3, 8), "does not pay"),
        (lambda: Constant(0.5).ratio(8, 8), "from 0 to 7"),
        (lambda: Constant(0.5).ratio(-1, 8), "from 0 to 7"),
        (lambda: Linear(0.5, -0.5), "at most 0.5"),
        (lambda: Linear(0.5, math.nan), "got nan"),
        (lambda: Pods(0.5, tail=1.0), "tail must be in"),
        (lambda: Pods(0.5, 0.5, 0.9), "low < target < high"),
        (lambda: counts(Constant(0.01), 20, 10), "less than one sample"),
    ],
)
def test_errors_say_what_is_allowed(build, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=message):
        build()
