"""The user's samples: every form that is taken, what is refused, subsets and held-out parts."""

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset, TensorDataset

from dsenv.rehearsal.data import by_class, held_out_parts, read_samples, spread_positions
from dsenv.tasks import from_tensors
from tests.rehearsal.made import blobs

pytestmark = pytest.mark.fast


class Pairs(Dataset):
    """A map-style data set, with or without its labels at hand."""

    def __init__(self, inputs, labels, targets=None):
        self.inputs, self.labels_, self.read = inputs, labels, []
        if targets is not None:
            self.targets = targets

    def __len__(self):
        return len(self.inputs)

    def __getitem__(self, index):
        self.read.append(index)
        return self.inputs[index], int(self.labels_[index])


def forms():
    inputs, labels, _ = blobs()
    return {
        "tensors": (inputs, labels),
        "arrays": (inputs.double().numpy(), labels.numpy().astype(np.int32)),
        "tensor data set": TensorDataset(inputs, labels),
        "map-style": Pairs(inputs, labels),
    }


@pytest.mark.parametrize("name", forms())
def test_every_form_gives_the_same_samples(name):
    inputs, labels, _ = blobs()
    found = read_samples(forms()[name], 1000, 0)
    torch.testing.assert_close(found.inputs, inputs)
    assert found.inputs.dtype == torch.float32 and torch.equal(found.labels, labels)
    assert (found.classes, found.total, len(found)) == (3, 120, 120)


def test_of_a_data_set_of_dsenv_the_training_split_is_read_alone():
    inputs, labels, _ = blobs()
    data = from_tensors(inputs, labels, validation=20, test=20)
    found = read_samples(data, 1000, 0)
    assert torch.equal(found.inputs, data.train.images) and len(found) == 80


@pytest.mark.parametrize("name", forms())
def test_of_many_samples_each_class_keeps_its_share(name):
    found = read_samples(forms()[name], 31, 0)
    assert len(found) == 31 and found.total == 120
    if name != "map-style":  # its labels are not at hand before it is read
        assert set(found.labels.bincount().tolist()) == {10, 11}


def test_of_a_large_map_style_data_set_only_the_subset_is_read():
    inputs, labels, _ = blobs()
    data = Pairs(inputs, labels, targets=labels.tolist())
    found = read_samples(data, 30, 0)
    assert len(set(data.read)) == 30 and found.labels.bincount().tolist() == [10, 10, 10]
    assert torch.equal(found.inputs, inputs[sorted(set(data.read))])


def test_the_order_of_samples_is_kept_and_bytes_are_standardised():
    images = torch.randint(256, (60, 1, 8, 8), generator=torch.Generator().manual_seed(0)).byte()
    labels = torch.arange(60) % 3
    data = read_samples((images, labels), 100, 0).dataset()
    assert torch.equal(data.train.images, images) and torch.equal(data.train.labels, labels)
    assert data.mean[0] == pytest.approx(float(images.float().mean() / 255), rel=1e-5)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ((torch.randn(30, 3), torch.rand(30)), "classes, whole numbers from 0"),
        ((torch.randn(30, 3), torch.arange(30) % 3 - 1), "-1"),
        ((torch.randn(10, 3), torch.arange(10) % 3), "at least 20"),
        ((torch.randint(9, (30, 3)), torch.arange(30) % 3), "uint8"),
        ((torch.randn(30), torch.arange(30) % 3), r"inputs\[:, None\]"),
        ((torch.full((30, 2), torch.nan), torch.arange(30) % 3), "NaN"),
        ("text", "pair"),
    ],
)
def test_what_cannot_be_rehearsed_on_is_refused_with_a_reason(data, words):
    with pytest.raises(ValueError, match=words):
        read_samples(data, 1000, 0).dataset()


def test_every_sample_is_held_out_once_a_cut_and_classes_have_their_share():
    labels = torch.tensor([0] * 50 + [1] * 30 + [2] * 7)
    parts = held_out_parts(labels, 5, [3, 4])
    assert parts.shape == (10, 87) and torch.equal(parts[:5].sum(0), torch.ones(87).long())
    assert torch.equal(parts[5:].sum(0), torch.ones(87).long()) and not torch.equal(parts[:5], parts[5:])
    for part in parts:
        sizes = labels[part].bincount(minlength=3)
        assert 17 <= int(part.sum()) <= 18 and sizes[0] == 10 and sizes[1] == 6 and 1 <= sizes[2] <= 2


def test_a_cut_follows_from_its_seed_alone():
    labels = torch.arange(60) % 3
    assert torch.equal(held_out_parts(labels, 4, [7]), held_out_parts(labels, 4, [6, 7])[4:])
    with pytest.raises(ValueError, match="folds must be a whole number from 2"):
        held_out_parts(labels, 1, [0])


def test_positions_are_sorted_and_grouped_by_class():
    labels = torch.tensor([1, 0, 1, 0, 0, 1])
    assert labels[torch.from_numpy(by_class(labels, 0))].tolist() == [0, 0, 0, 1, 1, 1]
    found = spread_positions(labels, 4, 0)
    assert sorted(set(found.tolist())) == found.tolist() and labels[found].bincount().tolist() == [2, 2]


def test_labels_that_are_words_are_named():
    inputs, labels, _ = blobs()
    words = [f"class {label}" for label in labels.tolist()]
    with pytest.raises(ValueError, match="number the classes"):
        read_samples(Pairs(inputs, labels, targets=words), 40, 0)

    class Named(Pairs):
        def __getitem__(self, index):
            return self.inputs[index], words[index]

    with pytest.raises(ValueError, match=r"the label a number; got labels .*class"):
        read_samples(Named(inputs, labels), 5000, 0)
