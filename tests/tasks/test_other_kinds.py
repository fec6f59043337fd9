"""Data sets of several labels and of numbers: exact targets, splits of different handwriting."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from dsenv.catalogue import build_part
from dsenv.tasks.composed_digits import digit_angles, several_digits
from dsenv.tasks.regression_tables import diabetes, friedman
from dsenv.tasks.task import DATASETS

pytestmark = pytest.mark.fast

SIZES = {"train": 120, "validation": 40, "test": 60}


def handwriting():
    """The digit of each picture of scikit-learn's, by its bytes."""
    source = load_digits()
    pictures = (source.images / 16 * 255).round().astype(np.uint8)
    return {picture.tobytes(): int(label) for picture, label in zip(pictures, source.target, strict=True)}


def quarters(split):
    """The four pictures (N, 4, 8, 8) of each image."""
    images = split.images[:, 0].unfold(1, 8, 8).unfold(2, 8, 8)
    return images.flatten(1, 2).numpy()


def test_the_labels_of_an_image_are_the_digits_that_are_in_it():
    data = build_part("dataset", DATASETS, {"name": "several_digits", **SIZES})
    known = handwriting()
    assert data.kind.name == "multilabel" and data.sample_shape == (1, 16, 16)
    for split in data.splits().values():
        for image, labels in zip(quarters(split), split.labels, strict=True):
            shown = [known[picture.tobytes()] for picture in image if picture.any()]
            assert 1 <= len(shown) <= 3
            assert set(labels.nonzero()[:, 0].tolist()) == set(shown)


def test_no_handwriting_of_several_digits_is_in_two_splits():
    seen = []
    for split in several_digits(train=600, validation=200, test=400).splits().values():
        seen.append({picture.tobytes() for picture in quarters(split).reshape(-1, 8, 8) if picture.any()})
    assert not seen[0] & seen[1] and not seen[0] & seen[2] and not seen[1] & seen[2]


def test_a_digit_is_turned_by_its_target():
    """A picture turned by a right angle is NumPy's; one turned by nothing is the picture."""
    from dsenv.tasks.composed_digits import _turned

    digits = load_digits().images[:5] / 16
    framed = np.pad(digits, ((0, 0), (2, 2), (2, 2)))
    for quarter in range(4):
        turned = _turned(digits, np.full(5, 90.0 * quarter))
        np.testing.assert_allclose(turned, np.rot90(framed, quarter, axes=(1, 2)), atol=1e-9)


def test_angles_are_uniform_and_in_deviations():
    data = build_part("dataset", DATASETS, {"name": "digit_angles", "degrees": 30, **SIZES, "train": 1500})
    angles = data.train.labels * 30 / 3**0.5
    assert data.kind.name == "regression" and angles.shape == (1500, 1) and angles.dtype == torch.float32
    assert 29 < float(angles.max()) <= 30 and -30 <= float(angles.min()) < -29
    assert float(data.train.labels.std()) == pytest.approx(1, abs=0.05)


def linear_r2(data):
    """R^2 on the test split of a linear regression on the training split."""
    pairs = [(split.images.double().flatten(1), split.labels.double()) for split in (data.train, data.test)]
    (inputs, targets), (others, wanted) = (
        (torch.cat([rows, torch.ones(len(rows), 1).double()], 1), labels) for rows, labels in pairs
    )
    errors = others @ torch.linalg.lstsq(inputs, targets).solution - wanted
    return float(1 - errors.square().mean() / wanted.var(correction=0))


@pytest.mark.parametrize(
    ("settings", "low", "high"),
    [
        ({"name": "diabetes"}, 0.25, 0.65),
        ({"name": "friedman", "noise": 0.0}, 0.6, 0.85),
        ({"name": "friedman", "noise": 20.0}, -0.2, 0.2),
        ({"name": "friedman", "number": 2, "noise": 0.0}, 0.7, 1.0),
        ({"name": "friedman", "number": 3, "noise": 0.0}, 0.2, 0.9),
    ],
)
def test_tables_of_numbers_are_standardised_and_as_hard_as_they_say(settings, low, high):
    data = build_part("dataset", DATASETS, settings)
    for values in (data.train.images, data.train.labels):
        torch.testing.assert_close(values.mean(0), torch.zeros(values.shape[1]), atol=1e-5, rtol=0)
        torch.testing.assert_close(values.std(0), torch.ones(values.shape[1]), atol=5e-3, rtol=0)
    assert data.kind.name == "regression" and low < linear_r2(data) < high


def test_one_seed_gives_one_data_set():
    for make in (several_digits, digit_angles, friedman):
        one, again, other = (make(seed=seed, **SIZES) for seed in (3, 3, 4))
        assert torch.equal(one.train.images, again.train.images)
        assert torch.equal(one.test.labels, again.test.labels)
        assert not torch.equal(one.train.images, other.train.images)
    assert not torch.equal(diabetes(split_seed=1).train.labels, diabetes().train.labels)


@pytest.mark.parametrize(
    ("make", "settings", "message"),
    [
        (several_digits, {"most": 5}, "several_digits: most must be a whole number from 1 to 4, got 5"),
        (several_digits, {"train": 0}, "several_digits: train must be a whole number from 1"),
        (digit_angles, {"degrees": 0}, "digit_angles: degrees must be in .*, got 0"),
        (digit_angles, {"degrees": 181}, "digit_angles: degrees must be in .*, got 181"),
        (friedman, {"number": 4}, "friedman: number must be a whole number from 1 to 3, got 4"),
        (friedman, {"noise": -1}, "friedman: noise must be in .*, got -1"),
        (friedman, {"seed": -1}, "friedman: seed must be a whole number"),
    ],
)
def test_impossible_values_are_named(make, settings, message):
    with pytest.raises(ValueError, match=message):
        make(**settings)
