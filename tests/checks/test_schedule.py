"""check_schedule passes the schedules of the package and good ones of one's own, and names what is wrong."""

# ruff: noqa: ARG005 -- the parts take what the contract gives them

import pytest
import torch

from dsenv import VolumeSchedule, check_schedule
from dsenv.volume.registry import SCHEDULES
from tests.checks.parts import LargestLoss, refused


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("total", [8, 12, 35])
def test_schedules_of_the_package_pass(name, total):
    assert check_schedule(name, total=total) is None


def schedule(function, **facts):
    """A schedule class with that `_ratio`."""
    return type("Mine", (VolumeSchedule,), {"_ratio": function, **facts})


class Falling(VolumeSchedule):
    """Good."""

    def _ratio(self, step, total):
        progress = step / (total - 1) if total > 1 else 0.5
        return self.target * (1.4 - 0.8 * progress)


class Whole(VolumeSchedule):
    """Good: `ratio` itself is its own."""

    _ratio = None

    def ratio(self, step, total):
        return self.target


class Stepping(VolumeSchedule):
    calls = 0

    def _ratio(self, step, total):
        self.calls += 1
        return self.target * (1 + 1e-3 * (-1) ** (self.calls // 3))


class NoTarget(VolumeSchedule):
    def __init__(self):
        pass

    def _ratio(self, step, total):
        return 0.5


def test_good_schedules_pass_in_every_form():
    for part in (Falling, Falling(0.3), Whole, lambda target: Falling(target), {"name": "cosine"}):
        assert check_schedule(part) is None
        assert check_schedule(part, total=1) is None


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (schedule(lambda self, step, total: 0.4), r"mean ratio of 12 epochs is 0.4, far from the target 0.5"),
        (
            schedule(lambda self, step, total: 1.5 * (step % 3 == 0)),
            r"_ratio\(0, 12\) must be in \(0, 1\], got 1.5",
        ),
        (schedule(lambda self, step, total: step / total), r"_ratio\(0, 12\) must be in \(0, 1\], got 0"),
        (schedule(lambda self, step, total: float("nan")), r"must be in \(0, 1\], got nan"),
        (schedule(lambda self, step, total: torch.tensor(0.5)), "must give a number, got Tensor; use float"),
        (
            schedule(lambda self, step, total: 0.5 + 0.01 * torch.rand(1).item()),
            "global random stream of torch",
        ),
        (schedule(lambda self, step: 0.5), r"raised TypeError.*called as _ratio\(step, total\)"),
        (schedule(lambda self, step, total: 0.5 if total == 12 else 0.6), "mean ratio of 60 epochs is 0.6"),
        (NoTarget, r"target must be a number in \(0, 1\], the mean ratio, got None"),
        (LargestLoss, "a schedule must be of a class derived from dsenv.VolumeSchedule, got LargestLoss"),
    ],
)
def test_bad_schedules_are_named(part, message):
    refused(check_schedule, part, message)


def test_a_schedule_that_counts_is_named():
    refused(check_schedule, Stepping, "when it was asked again; a schedule is a function of step and total")
