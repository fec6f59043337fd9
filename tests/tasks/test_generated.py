"""Data sets made by procedure: what they promise, and that separation makes them easier."""

import pytest
import torch

from dsenv.catalogue import build_part
from dsenv.tasks.corruption import linear_scores
from dsenv.tasks.generated import FAMILIES, generated
from dsenv.tasks.generated_images import generated_images
from dsenv.tasks.task import DATASETS

pytestmark = pytest.mark.fast

SIZES = {"train": 120, "validation": 40, "test": 60}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("classes", "dimensions"), [(2, 8), (30, 64)])
def test_a_table_keeps_the_contract_of_data_sets(family, classes, dimensions):
    settings = {"name": "generated", "family": family, "classes": classes, "dimensions": dimensions, **SIZES}
    data = build_part("dataset", DATASETS, settings)
    assert [len(split) for split in data.splits().values()] == [120, 40, 60]
    assert data.sample_shape == (dimensions,) and data.classes == classes
    own = data.train.images
    torch.testing.assert_close(own.mean(0), torch.zeros(dimensions), atol=1e-5, rtol=0)
    torch.testing.assert_close(own.std(0), torch.ones(dimensions), atol=1e-4, rtol=0)
    counts = torch.cat([split.labels for split in data.splits().values()]).bincount(minlength=classes)
    if family != "teacher":
        assert counts.max() - counts.min() <= 2
    assert counts.min() >= (0 if family == "teacher" else 1)


@pytest.mark.parametrize("family", FAMILIES)
def test_one_seed_gives_one_table(family):
    one, again, other = (generated(family, seed=seed, **SIZES) for seed in (3, 3, 4))
    assert torch.equal(one.train.images, again.train.images)
    assert torch.equal(one.test.labels, again.test.labels)
    assert not torch.equal(one.train.images, other.train.images)


def linear_accuracy(data):
    _, scores = linear_scores(data.train.images, data.train.labels, data.classes, data.test.images)
    return float((scores.argmax(1) == data.test.labels).float().mean())


@pytest.mark.parametrize("family", FAMILIES)
def test_separation_makes_a_table_easier(family):
    sizes = {"train": 400, "validation": 10, "test": 400}
    hard, easy = (generated(family, 4, 16, separation, **sizes, seed=1) for separation in (0.3, 5.0))
    assert linear_accuracy(hard) + 0.1 < linear_accuracy(easy)
    assert linear_accuracy(easy) > 0.75


def test_images_are_bytes_of_any_side_and_separation_makes_them_easier():
    data = build_part("dataset", DATASETS, {"name": "generated_images", "classes": 3, "side": 8, **SIZES})
    assert data.sample_shape == (1, 8, 8) and data.train.images.dtype == torch.uint8
    sizes = {"train": 400, "validation": 10, "test": 300}
    one, again = (generated_images(4, 0.2, **sizes, seed=2) for _ in range(2))
    assert torch.equal(one.train.images, again.train.images)
    assert linear_accuracy(one) + 0.2 < linear_accuracy(generated_images(4, 3.0, **sizes, seed=2))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"family": "mixtur"}, "no family of generated tables called 'mixtur'. Did you mean 'mixture'"),
        ({"classes": 1}, "generated: classes must be a whole number from 2 to 30, got 1"),
        ({"classes": 31}, "from 2 to 30, got 31"),
        ({"dimensions": 7}, "generated: dimensions must be a whole number from 8 to 64, got 7"),
        ({"separation": 0}, "generated: separation must be a number above 0, got 0"),
        ({"separation": float("nan")}, "generated: separation must be a number above 0"),
        ({"train": 0}, "generated: train must be a whole number from 1 to"),
        ({"validation": None}, "generated: validation must be a whole number"),
        ({"seed": -1}, "generated: seed must be a whole number"),
    ],
)
def test_impossible_values_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        generated(**settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"classes": 31}, "generated_images: classes must be a whole number from 2 to 30"),
        ({"side": 7}, "generated_images: side must be a whole number from 8 to 64, got 7"),
        ({"separation": -1}, "generated_images: separation must be a number above 0"),
    ],
)
def test_impossible_images_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        generated_images(**settings)
