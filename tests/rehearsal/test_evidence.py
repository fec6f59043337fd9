"""Differences, the choice among rows, and how many labels look wrong."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import t as student

from dsenv.rehearsal.candidates import Candidate
from dsenv.rehearsal.evidence import Difference, LabelNoise, Row, choose, is_worth_it, too_little
from dsenv.rehearsal.runs import Outcome

pytestmark = pytest.mark.fast


def outcome(accuracy, hits=None, probabilities=None):
    accuracy = np.asarray(accuracy, float)
    hits = np.full(4, accuracy.mean()) if hits is None else np.asarray(hits, float)
    size = len(hits)
    probabilities = torch.full((size, 2), 0.5) if probabilities is None else probabilities
    return Outcome(accuracy, hits, np.ones(size), probabilities, 0.5, 1.0, 0)


def test_a_difference_is_paired_over_the_rounds_that_both_have():
    own = [outcome([0.6, 0.8]), outcome([0.9, 0.9])]
    other = [outcome([0.5, 0.6]), outcome([0.7, 0.9]), outcome([0.0, 0.0])]
    found = Difference.of(own, other)
    values = np.array([0.1, 0.2, 0.2, 0.0])
    assert found.mean == pytest.approx(values.mean())
    assert found.error == pytest.approx(values.std(ddof=1) / 2)
    half = student.ppf(0.975, 3) * found.error
    assert (found.low, found.high) == pytest.approx((found.mean - half, found.mean + half))


def test_the_error_is_that_of_the_samples_where_it_is_larger():
    """Two training runs that happen to differ by the same on few samples tell little."""
    found = Difference.of([outcome([0.5, 0.5], [1, 1, 0, 0])], [outcome([0.25, 0.25], [0, 0, 1, 0])])
    by_sample = np.array([1, 1, -1, 0])
    assert found.error == pytest.approx(by_sample.std(ddof=1) / 2)


def test_a_single_run_has_no_interval():
    found = Difference.of([outcome([0.6])], [outcome([0.5])])
    assert math.isinf(found.error) and math.isinf(found.high)


def row(name, mean, error, diverged=0):
    gain = Difference(mean, error, mean - 2 * error, mean + 2 * error)
    return Row(name, 0.5, 0.5 + mean, gain, gain, 0.5, 1.0, 5, diverged)


def test_the_largest_sure_gain_is_chosen_and_random_where_there_is_none():
    reference = row("random", 0.0, 0.0)
    unsure, clear = row("unsure", 0.05, 0.06), row("clear", 0.01, 0.005)
    best, few = row("best", 0.02, 0.01), row("few", 0.06, 0.055)
    assert choose([reference, unsure], reference) is reference
    assert choose([reference, unsure, clear, few], reference) in (clear, few)
    assert choose([reference, unsure, clear, best, few], reference) is best
    assert choose([few, best], reference, ahead=0.0) is few
    assert choose([reference, row("lost", 0.5, 0.01, diverged=1)], reference) is reference
    assert choose([], reference) is reference


def test_pods_is_worth_it_where_it_is_clearly_ahead_of_its_selector():
    base = Candidate("trim", {"selector": "trim"}, 0.5)
    pods = base.with_pods()
    steady = np.array([1, 1, 0, 0])
    for gains, is_worth in (([0.1, 0.11, 0.09], True), ([0.1, -0.1, 0.01], False)):
        found = {
            base: [outcome([0.5, 0.5, 0.5], steady)],
            pods: [outcome(0.5 + np.array(gains), steady)],
        }
        assert is_worth_it(pods, found) == is_worth and is_worth_it(base, found)


def noise_of(labels, probabilities):
    return LabelNoise.of([outcome([0.5], np.zeros(len(labels)), probabilities)], labels)


def test_confident_disagreement_is_counted_and_the_unsure_are_not():
    labels = torch.tensor([0] * 60 + [1] * 60 + [0] * 30)
    sure = torch.tensor([[0.9, 0.1], [0.1, 0.9]])
    probabilities = torch.cat([sure[0].expand(60, 2), sure[1].expand(60, 2), torch.full((30, 2), 0.5)])
    probabilities[:30] = sure[1]  # labelled 0, taken for 1
    found = noise_of(labels, probabilities)
    assert found.rate == pytest.approx(30 / (120 + 10))  # the prior of the estimator: 10 that agree
    assert found.confusion[1].tolist() == pytest.approx([1 / 3, 2 / 3])
    assert found.one_way() == (1, 0, pytest.approx(1 / 3), pytest.approx(2 / 3))


def test_models_that_are_sure_of_few_samples_tell_nothing():
    labels = torch.arange(400) % 2
    probabilities = torch.full((400, 2), 0.5)
    probabilities[:19] = torch.tensor([0.9, 0.1])
    found = noise_of(labels, probabilities)
    assert found.rate is None


def test_wrong_labels_of_every_class_alike_do_not_go_one_way():
    draw = torch.Generator().manual_seed(0)
    right = torch.arange(3000) % 5
    wrong = torch.rand(3000, generator=draw) < 0.4
    labels = torch.where(wrong, (right + torch.randint(1, 5, (3000,), generator=draw)) % 5, right)
    probabilities = 0.9 * torch.eye(5)[right] + 0.02
    found = noise_of(labels, probabilities)
    assert found.rate == pytest.approx(0.4, abs=0.03) and found.one_way() is None

    few = noise_of(labels[:60], probabilities[:60])
    assert few.confusion.isnan().all() and few.one_way() is None

    flipped = torch.where(wrong & (right == 2), 3, right)
    own, other, rate, _ = noise_of(flipped, probabilities).one_way()
    assert (own, other) == (2, 3) and rate == pytest.approx(0.4, abs=0.05)


def test_a_subset_is_too_small_where_a_class_has_few_samples_and_the_whole_never_is():
    assert "8 samples of a class" in too_little(260, 2600, 26, 5)
    assert too_little(260, 260, 26, 5) == "" and too_little(2600, 26000, 26, 5) == ""


def test_classes_that_are_mixed_up_both_ways_do_not_go_one_way():
    """Hard to tell apart, or wrong both ways alike."""
    labels = torch.tensor([0] * 100 + [1] * 100)
    probabilities = torch.tensor([[0.6, 0.4]] * 60 + [[0.4, 0.6]] * 100 + [[0.6, 0.4]] * 40)
    assert noise_of(labels, probabilities).one_way() is None


def test_weak_models_do_not_make_labels_go_one_way():
    """Of those taken for class 0 a third are labelled so, a fifth as 1, and the others as all the rest."""
    labels = torch.tensor([0] * 35 + [1] * 20 + [2] * 15 + [3] * 15 + [4] * 15 + [1] * 100)
    probabilities = torch.full((200, 5), 0.1)
    probabilities[:100, 0], probabilities[100:, 1] = 0.6, 0.6
    assert noise_of(labels, probabilities).one_way() is None
