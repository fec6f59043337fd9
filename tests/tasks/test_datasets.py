import numpy as np
import pytest
import torch

from dsenv.catalogue import build_part
from dsenv.tasks import Dataset, Task, from_tensors
from dsenv.tasks.dataset import Split, draw_positions
from dsenv.tasks.idx import read_idx
from dsenv.tasks.task import DATASETS

SMALL = {
    "digits": {},
    "fashion_mnist": {"train": 64, "validation": 32},
    "cifar10": {"train": 64, "validation": 32},
    "cifar100": {"train": 64, "validation": 32},
}


def build(name, **settings):
    return build_part("dataset", DATASETS, {"name": name, **SMALL.get(name, {}), **settings})


@pytest.fixture
def svhn_files(tmp_path, monkeypatch):
    from scipy.io import savemat
    from torchvision.datasets import SVHN

    rng = np.random.default_rng(0)
    for part, number in (("train", 80), ("test", 40)):
        images = rng.integers(256, size=(32, 32, 3, number), dtype=np.uint8)
        savemat(tmp_path / f"{part}_32x32.mat", {"X": images, "y": np.arange(number)[:, None] % 10 + 1})
    short = {part: [SVHN.split_list[part][0], f"{part}_32x32.mat", None] for part in ("train", "test")}
    monkeypatch.setattr(SVHN, "split_list", short)
    return str(tmp_path)


@pytest.fixture
def image_folder(tmp_path):
    from PIL import Image

    rng = np.random.default_rng(0)
    for label in ("cat", "dog"):
        (tmp_path / label).mkdir()
        for number in range(12):
            pixels = rng.integers(256, size=(20, 30, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / label / f"{number}.png")
    return str(tmp_path)


def check(dataset: Dataset):
    """Splits are disjoint, fixed by the seed, and of the promised types."""
    seen: dict[str, set[int]] = {}
    for split in dataset.splits().values():
        source, positions = split.source
        taken = set(positions.tolist())
        assert len(taken) == len(split)
        assert not taken & seen.setdefault(source, set())
        seen[source] |= taken
        assert split.images.dtype == torch.uint8
        assert split.images.shape[1:] == dataset.sample_shape
        assert split.labels.dtype == torch.int64


@pytest.mark.parametrize("name", list(SMALL))
def test_splits_are_disjoint_and_fixed_by_the_seed(name, data_folder):
    one, again, other = build(name), build(name), build(name, split_seed=1)
    check(one)
    for split in ("train", "validation", "test"):
        assert torch.equal(one.splits()[split].images, again.splits()[split].images)
    assert not torch.equal(one.train.source[1], other.train.source[1])


@pytest.mark.fast
def test_no_image_of_digits_is_in_two_splits():
    dataset = build("digits")
    rows = [set(map(bytes, split.images.flatten(1).numpy())) for split in dataset.splits().values()]
    assert sum(len(row) for row in rows) == 1797
    assert not rows[0] & rows[1] and not rows[0] & rows[2] and not rows[1] & rows[2]


def test_test_samples_come_from_the_official_test_files(data_folder):
    dataset = build("cifar10")
    assert dataset.test.source[0] == "cifar10-test"
    assert len(dataset.test) == 60


def test_svhn(svhn_files):
    dataset = build("svhn", train=40, validation=20, root=svhn_files)
    check(dataset)
    assert dataset.sample_shape == (3, 32, 32)


@pytest.mark.parametrize(("channels", "size"), [(3, 16), (1, 8)])
def test_image_folder(image_folder, channels, size):
    dataset = build("image_folder", root=image_folder, size=size, channels=channels, validation=6, test=6)
    check(dataset)
    assert dataset.sample_shape == (channels, size, size)
    assert dataset.classes == 2
    assert 0.3 < dataset.mean[0] < 0.7


@pytest.mark.fast
def test_tensors_are_normalised_by_the_training_split():
    images = torch.randint(0, 256, (90, 2, 4, 4), dtype=torch.uint8)
    dataset = from_tensors(images, torch.arange(90) % 3, validation=20, test=20)
    check(dataset)
    pixels = dataset.train.images.float() / 255
    assert dataset.mean == pytest.approx(pixels.mean((0, 2, 3)).tolist(), abs=1e-5)


@pytest.mark.fast
def test_a_users_own_data_set_model_and_loss_by_entry_point():
    task = Task.from_config(
        dataset={"name": "tests.tasks.own:rings", "size": 90},
        model={"name": "tests.tasks.own:tiny_net", "width": 5},
        loss="tests.tasks.own:squared_error",
    )
    assert task.dataset.sample_shape == (2,)
    logits = task.model()(task.dataset.train.images)
    assert task.sample_loss(logits, task.dataset.train.labels).shape == (len(task.dataset.train),)


@pytest.mark.fast
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": torch.full((60,), 7)}, "has the label 7; with 3 classes labels are 0 to 2"),
        ({"labels": torch.full((60,), -1)}, "has the label -1"),
        ({"images": torch.full((60, 2), float("nan"))}, "sample 0 has a NaN"),
        ({"images": torch.zeros(60, 2, dtype=torch.float64)}, "must be uint8, float32 or int64"),
        ({"labels": torch.zeros(59, dtype=torch.int64)}, "60 samples and 59 labels"),
        ({"validation": 0}, "at least one sample"),
        ({"validation": 60}, "too few for splits"),
    ],
)
def test_bad_data_is_refused_with_the_value(change, message):
    settings = {"images": torch.zeros(60, 2), "labels": torch.arange(60) % 3, "classes": 3}
    settings |= {"validation": 10, "test": 10} | change
    with pytest.raises(ValueError, match=message):
        from_tensors(**settings)


def test_arrays_and_fractional_labels_are_refused_with_the_next_step():
    with pytest.raises(ValueError, match="images must be a tensor, got ndarray"):
        from_tensors(np.zeros((60, 4), np.float32), torch.arange(60) % 3)
    with pytest.raises(ValueError, match=r"whole numbers, got torch.float32 .*; use labels.long"):
        from_tensors(torch.zeros(60, 4), torch.zeros(60))


def test_splits_of_another_kind_are_refused():
    labels = torch.arange(60) % 3
    settings = {"validation": 10, "test": None, "test_labels": labels}
    with pytest.raises(ValueError, match=r"x/test has samples of torch.float32 \(4,\), its training split"):
        from_tensors(
            torch.zeros(60, 4, dtype=torch.uint8),
            labels,
            test_images=torch.zeros(60, 4),
            name="x",
            **settings,
        )
    with pytest.raises(ValueError, match="all splits must be alike"):
        from_tensors(torch.zeros(60, 4), labels, test_images=torch.zeros(60, 5), **settings)


def test_an_empty_split_is_refused():
    full = Split(torch.zeros(2, 1), torch.zeros(2, dtype=torch.int64), ("x", torch.arange(2)))
    empty = Split(torch.zeros(0, 1), torch.zeros(0, dtype=torch.int64), ("x", torch.arange(0)))
    with pytest.raises(ValueError, match="x/validation is empty"):
        Dataset("x", full, empty, full, classes=2)


@pytest.mark.parametrize("name", ["fashion_mnist", "cifar10", "cifar100", "svhn"])
def test_missing_files_say_where_it_looked_and_how_to_get_them(name, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"(?s)dsenv-nothing-here.*dataset\.download"):
        build(name, root=str(tmp_path / "dsenv-nothing-here"))


def test_a_missing_image_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="one sub-folder a class"):
        build("image_folder", root=str(tmp_path / "none"), test=5)


def test_a_broken_idx_file(tmp_path):
    import gzip

    path = tmp_path / "x.gz"
    path.write_bytes(gzip.compress(b"\x00\x00\x08\x01\x00\x00\x00\x09abc"))
    with pytest.raises(ValueError, match="holds 3 values, its header promises 9"):
        read_idx(path)
    path.write_bytes(gzip.compress(b"\x00\x00\x0d\x01\x00\x00\x00\x01a"))
    with pytest.raises(ValueError, match="not an idx file"):
        read_idx(path)


@pytest.mark.fast
def test_positions_are_disjoint_for_any_sizes():
    parts = draw_positions(50, (20, None, 5), seed=3, what="x")
    assert [len(part) for part in parts] == [20, 25, 5]
    assert sorted(torch.cat(parts).tolist()) == list(range(50))


@pytest.mark.fast
def test_validation_in_training_is_a_union():
    dataset = build("digits")
    joined = dataset.with_validation_in_training()
    assert len(joined.train) == len(dataset.train) + len(dataset.validation)
    assert torch.equal(joined.test.images, dataset.test.images)


def test_a_trusted_validation_split_of_ones_own():
    images, labels = torch.rand(60, 4), torch.arange(60) % 3
    trusted, right = torch.rand(9, 4), torch.arange(9) % 3
    own = {"validation_images": trusted, "validation_labels": right}
    data = from_tensors(images, labels, test=20, **own)
    assert torch.equal(data.validation.images, trusted) and torch.equal(data.validation.labels, right)
    assert len(data.train) == 40 and len(data.test) == 20
    rows = torch.cat([data.train.source[1], data.test.source[1]])
    assert rows.sort().values.tolist() == list(range(60))

    tests = {"test_images": trusted, "test_labels": right}
    data = from_tensors(images, labels, test=None, **own, **tests)
    assert (len(data.train), len(data.validation), len(data.test)) == (60, 9, 9)
    assert len(from_tensors(images, labels, train=30, test=None, **own, **tests).train) == 30
    assert from_tensors(images, labels.int(), test=20, **own).train.labels.dtype == torch.int64


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"validation_labels": None}, "give validation_images and validation_labels together"),
        ({"validation_labels": torch.full((9,), 3)}, "validation has the label 3; with 3 classes"),
        ({"validation_labels": torch.arange(8) % 3}, "9 samples and 8 labels in validation_images"),
        ({"validation_labels": torch.rand(9)}, "validation_labels must be whole numbers"),
        ({"validation_labels": [0] * 9}, "validation_labels must be a tensor, got list"),
        ({"validation_images": torch.full((9, 4), float("nan"))}, "sample 0 has a NaN or infinite value"),
        ({"validation_images": torch.rand(9, 5)}, "all splits must be alike"),
        ({"validation_images": torch.zeros(9, 4, dtype=torch.uint8)}, "all splits must be alike"),
        ({"validation_images": torch.rand(0, 4), "validation_labels": torch.arange(0)}, "is empty"),
        ({"classes": "3"}, "classes must be a whole number from 2"),
        ({"classes": 10**12}, "classes must be a whole number from 2"),
        ({"train": 61}, "too few"),
        ({"train": 2.5}, "train must be a whole number"),
        ({"split_seed": -1}, "split_seed must be a whole number"),
    ],
)
def test_a_wrong_validation_split_is_named(change, named):
    own = {"validation_images": torch.rand(9, 4), "validation_labels": torch.arange(9) % 3, **change}
    with pytest.raises(ValueError, match=named):
        from_tensors(torch.rand(60, 4), torch.arange(60) % 3, **{"test": 20, **own})
