from fractions import Fraction

import numpy as np
import pytest
import torch

from dsenv.errors import check_count, check_flag, check_number, check_positive, check_seed, check_share

pytestmark = pytest.mark.fast


class Unspeakable:
    def __repr__(self) -> str:
        raise RuntimeError("no words")


@pytest.mark.parametrize("value", [3, np.int64(3), np.uint8(3), torch.tensor(3), np.array(3)])
def test_whole_numbers_of_any_kind_become_python_ints(value):
    found = check_count("epochs", value)
    assert found == 3
    assert type(found) is int


@pytest.mark.parametrize(
    "value", [True, "3", 3.0, None, np.float32(3), torch.tensor([3, 4]), torch.tensor(3.0), [3], 1 + 0j, b"3"]
)
def test_what_is_no_whole_number_is_named(value):
    with pytest.raises(ValueError, match="epochs must be a whole number of at least 1, got"):
        check_count("epochs", value)


def test_counts_and_seeds_have_limits():
    with pytest.raises(ValueError, match="epochs must be a whole number from 1 to 10, got 11"):
        check_count("epochs", 11, 1, 10)
    with pytest.raises(ValueError, match="got 0"):
        check_count("epochs", 0)
    with pytest.raises(ValueError, match="from 1 to 9223372036854775807, got 1000"):
        check_count("epochs", 10**30)
    assert check_seed("seed", np.int64(0)) == 0
    for seed in (-1, 2**63):
        with pytest.raises(ValueError, match=f"seed must be a whole number from 0 to .*, got {seed}"):
            check_seed("seed", seed)


@pytest.mark.parametrize("value", [0.5, np.float32(0.5), np.float64(0.5), Fraction(1, 2)])
def test_numbers_of_any_kind_become_python_numbers(value):
    found = check_share("ratio", value)
    assert found == 0.5
    assert type(found) is float


@pytest.mark.parametrize(
    "value",
    [True, "0.5", None, float("nan"), float("inf"), 10**400, 0, 1.5, -0.5, torch.tensor([0.5]), [0.5]],
)
def test_what_is_no_share_is_named(value):
    with pytest.raises(ValueError, match=r"ratio must be in \(0, 1\], got"):
        check_share("ratio", value)


def test_ranges_are_said_as_they_are():
    assert check_number("x", -3) == -3
    assert type(check_number("x", -3)) is int
    cases = [
        (lambda: check_number("x", "a"), "x must be a finite number, got 'a'"),
        (lambda: check_number("x", -1, 0), "x must be a number of at least 0, got -1"),
        (lambda: check_positive("x", 0), "x must be a number above 0, got 0"),
        (lambda: check_number("x", 2, high=1), "x must be a number of at most 1, got 2"),
        (lambda: check_number("x", 1, high=1, open_high=True), "x must be a number below 1, got 1"),
        (lambda: check_number("x", 1, 0, 1, open_high=True), r"x must be in \[0, 1\), got 1"),
        (lambda: check_share("x", Unspeakable()), "got an object of Unspeakable"),
        (lambda: check_share("x", "a" * 500), r"got '(a)+\.\.\.$"),
    ]
    for call, message in cases:
        with pytest.raises(ValueError, match=message):
            call()


def test_a_flag_is_true_or_false():
    assert check_flag("drop_last", np.bool_(True)) is True
    for value in (1, 0, None, "no", np.array([True]), torch.tensor(True)):
        with pytest.raises(ValueError, match="drop_last must be True or False, got"):
            check_flag("drop_last", value)
