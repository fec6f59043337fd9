"""Class-dependent and instance-dependent label noise."""

import pytest
import torch

from dsenv.tasks.corruption import add_class_noise, add_instance_noise, add_noise, linear_scores
from dsenv.tasks.generated import generated

pytestmark = pytest.mark.fast

CLEAN = torch.arange(3000) % 6


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_class_noise_has_a_rate_and_a_favourite_for_each_class():
    noisy = add_class_noise(CLEAN, CLEAN, 0.3, 6, generator())
    wrong = noisy != CLEAN
    assert int(wrong.sum()) == 900
    rates = [float(wrong[c == CLEAN].float().mean()) for c in range(6)]
    assert max(rates) > 2 * min(rates)
    for c in range(6):
        shares = noisy[wrong & (c == CLEAN)].bincount(minlength=6).float()
        assert shares[c] == 0 and shares.max() / shares.sum() > 0.6
    assert torch.equal(noisy, add_class_noise(CLEAN, CLEAN, 0.3, 6, generator()))
    assert not torch.equal(noisy, add_class_noise(CLEAN, CLEAN, 0.3, 6, generator(1)))


def test_instance_noise_falls_on_hard_samples_and_names_what_they_look_like():
    data = generated("mixture", 5, 16, 1.5, train=1500, validation=10, test=10)
    labels = data.train.labels
    (scores,) = linear_scores(data.train.images, labels, 5)
    noisy = add_instance_noise(labels, labels, 0.3, scores, generator())
    wrong = noisy != labels
    assert int(wrong.sum()) == 450

    others = scores.scatter(1, labels[:, None], -torch.inf)
    margin = scores.gather(1, labels[:, None]).squeeze(1) - others.amax(1)
    hard = margin < margin.median()
    assert wrong[hard].float().mean() > 2 * wrong[~hard].float().mean()
    assert (noisy == others.argmax(1))[wrong].float().mean() > 0.4  # a quarter by chance


@pytest.mark.parametrize("kind", ["class", "instance"])
def test_further_noise_falls_on_labels_that_are_right(kind):
    given = add_noise("symmetric", CLEAN, 0.4, 6, generator())
    scores = torch.randn(len(CLEAN), 6, generator=generator(1))

    def more(share, draws):
        if kind == "class":
            return add_class_noise(given, CLEAN, share, 6, draws)
        return add_instance_noise(given, CLEAN, share, scores, draws)

    found = more(0.3, generator())
    assert int((found != CLEAN).sum()) == 0.7 * len(CLEAN)
    assert torch.equal(found[given != CLEAN], given[given != CLEAN])
    assert not (more(1.0, generator()) == CLEAN).any()

    draws, before = generator(), generator()
    assert torch.equal(more(0.0, draws), given)
    assert torch.equal(draws.get_state(), before.get_state())  # nothing is drawn for nothing


def test_two_classes_have_one_other_and_one_class_has_none():
    clean = torch.arange(100) % 2
    assert torch.equal(add_class_noise(clean, clean, 1.0, 2, generator()), 1 - clean)
    assert torch.equal(add_instance_noise(clean, clean, 1.0, torch.rand(100, 2), generator()), 1 - clean)
    with pytest.raises(ValueError, match=r"class_noise = 0\.5 needs another class to name"):
        add_class_noise(clean * 0, clean * 0, 0.5, 1, generator())
    with pytest.raises(ValueError, match=r"instance_noise must be in \[0, 1\], got 2"):
        add_instance_noise(clean, clean, 2, torch.rand(100, 2), generator())
    with pytest.raises(ValueError, match="3 given labels and 100 clean ones"):
        add_class_noise(clean[:3], clean, 0.5, 2, generator())


def test_linear_scores_are_those_of_ridge_regression():
    images = (torch.rand(50, 1, 3, 3, generator=generator()) * 255).to(torch.uint8)
    labels = torch.arange(50) % 3
    found, other = linear_scores(images, labels, 3, images[:7])
    rows = torch.cat([images.flatten(1).double() / 255, torch.ones(50, 1).double()], 1)
    ridge = 1e-3 * (rows.T @ rows).diagonal().mean() * torch.eye(10).double()
    weights = torch.linalg.inv(rows.T @ rows + ridge) @ rows.T @ torch.eye(3).double()[labels]
    torch.testing.assert_close(found, (rows @ weights).float(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(other, found[:7], rtol=1e-5, atol=1e-6)
