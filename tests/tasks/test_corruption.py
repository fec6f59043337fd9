import pytest
import torch

from dsenv.tasks.corruption import add_noise, long_tail, random_subset

pytestmark = pytest.mark.fast

LABELS = torch.arange(1000) % 10


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("kind", ["symmetric", "pair_flip"])
@pytest.mark.parametrize("rate", [0.0, 0.2, 0.999, 1.0])
def test_exactly_the_stated_share_of_labels_is_wrong(kind, rate):
    noisy = add_noise(kind, LABELS, rate, 10, rng())
    assert int((noisy != LABELS).sum()) == round(rate * 1000)
    assert noisy.min() >= 0 and noisy.max() <= 9
    assert torch.equal(noisy, add_noise(kind, LABELS, rate, 10, rng()))
    assert torch.equal(LABELS, torch.arange(1000) % 10)


def test_symmetric_noise_reaches_every_other_class_and_pair_flip_only_the_next():
    symmetric = add_noise("symmetric", LABELS, 1.0, 10, rng())
    assert set(((symmetric - LABELS) % 10).tolist()) == set(range(1, 10))
    assert torch.equal(add_noise("pair_flip", LABELS, 1.0, 10, rng()), (LABELS + 1) % 10)


def test_a_long_tail_falls_off_exponentially():
    kept = long_tail(LABELS, 0.1, 10, rng())
    sizes = torch.bincount(LABELS[kept], minlength=10)
    expected = [round(100 * 0.1 ** (c / 9)) for c in range(10)]
    assert sizes.tolist() == expected
    assert long_tail(LABELS, 1.0, 10, rng()).all()


def test_a_subset_has_the_stated_size():
    assert int(random_subset(1000, 0.25, rng()).sum()) == 250
    assert int(random_subset(1000, 1e-9, rng()).sum()) == 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: add_noise("symmetric", LABELS, 1.5, 10, rng()), r"label_noise must be in \[0, 1\], got 1.5"),
        (lambda: add_noise("pairflip", LABELS, 0.5, 10, rng()), "Did you mean 'pair_flip'"),
        (lambda: long_tail(LABELS, 0.0, 10, rng()), r"imbalance must be in \(0, 1\], got 0"),
        (lambda: random_subset(10, -1, rng()), r"subset must be in \(0, 1\], got -1"),
    ],
)
def test_bad_values_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
