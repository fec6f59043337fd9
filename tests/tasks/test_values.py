"""Settings and values of tasks: looked at once, named where they are wrong, kept as plain Python values."""

import dataclasses
import warnings

import numpy as np
import pytest
import torch
from torch import nn

import dsenv
from dsenv.env.context import Context, realise
from dsenv.tasks import Dataset, Recipe, Split, Task, from_tensors
from dsenv.tasks.corruption import add_noise, add_pair_flips, long_tail, random_subset
from dsenv.tasks.dataset import split_pools
from dsenv.tasks.models import mlp, resnet18, small_cnn

pytestmark = pytest.mark.fast

ODD = [
    None,
    True,
    "1",
    b"1",
    [],
    {},
    float("nan"),
    float("inf"),
    1j,
    np.array([1, 2]),
    torch.ones(2),
    object(),
]


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(Recipe)])
@pytest.mark.parametrize("value", ODD, ids=lambda value: type(value).__name__)
def test_odd_settings_of_a_recipe_are_named(name, value):
    if name == "nesterov" and value is True:
        return
    words = "learning-rate schedule" if name == "schedule" else name
    with pytest.raises(ValueError, match=words):
        Recipe(**{name: value})


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(Context)])
@pytest.mark.parametrize("value", ODD, ids=lambda value: type(value).__name__)
def test_odd_values_of_a_context_are_named(name, value):
    if name == "ratio" and value is None:
        return
    with pytest.raises(ValueError, match=f"{name} must be"):
        Context(**{name: value})


def test_numbers_of_numpy_are_kept_as_plain_ones():
    recipe = Recipe(lr=np.float64(0.1), batch_size=np.int64(8), nesterov=np.True_, momentum=np.float64(0.5))
    assert [type(value) for value in vars(recipe).values()] == [
        str,
        float,
        float,
        bool,
        float,
        str,
        int,
        float,
    ]
    context = Context(label_noise=np.float64(0.5), dataset=np.int32(1))
    assert type(context.label_noise) is float and type(context.dataset) is int
    data = from_tensors(
        torch.rand(60, 3), torch.arange(60) % 2, validation=np.int64(10), test=9, split_seed=np.int64(3)
    )
    assert type(dataclasses.replace(data, classes=np.int64(2), mean=[np.float64(0.5)]).classes) is int


def split(size=6, name="x", **changes):
    own = {
        "images": torch.rand(size, 4),
        "labels": torch.arange(size) % 3,
        "source": (name, torch.arange(size)),
    }
    return Split(**{**own, **changes})


def data(train=None, **settings):
    splits = {"train": train or split(), "validation": split(name="y"), "test": split(name="z")}
    return Dataset(**{"name": "mine", "classes": 3, **splits, **settings})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": torch.tensor([0, 1, 2, -100, 1, 0])}, r"label -100; .* \(first at sample 3\); leave out"),
        (
            {"labels": torch.tensor([1, 2, 3, 1, 2, 3])},
            r"label 3; .* \(first at sample 2\); do they count from 1",
        ),
        ({"labels": torch.tensor([0, 1, 10**12, 1, 2, 0])}, r"label 1000000000000; .*sample 2"),
        (
            {"labels": torch.tensor([0, 1.0, 2, 0, 1, 2])},
            r"must be int64, got torch.float32; use labels.long\(\)",
        ),
        ({"labels": torch.tensor([0, 1.5, 2, 0, 1, 2])}, "label 1 is 1.5, which is no class"),
        ({"labels": torch.tensor([0, float("nan"), 2, 0, 1, 2])}, "label 1 is nan, which is no class"),
        ({"labels": (torch.arange(6) % 3).int()}, r"must be int64, got torch.int32; use labels.long\(\)"),
        (
            {"labels": (torch.arange(6) % 3)[:, None]},
            r"labels must be \(N,\), one for each sample, got \(6, 1\)",
        ),
        ({"labels": [0, 1, 2, 0, 1, 2]}, r"labels must be a tensor \(N,\), got list"),
        ({"labels": torch.arange(5) % 3}, "mine/train has 6 samples and 5 labels"),
        ({"images": torch.rand(6)}, r"must be \(N, D\) or images \(N, C, H, W\), got shape \(6,\)"),
        ({"images": torch.rand(6, 0)}, r"must be \(N, D\) or images \(N, C, H, W\), got shape \(6, 0\)"),
        ({"images": np.zeros((6, 4), np.float32)}, "samples must be a dense tensor .* got ndarray"),
        ({"images": torch.rand(6, 4).to_sparse()}, "samples must be a dense tensor"),
        ({"images": torch.rand(6, 4, requires_grad=True)}, r"pass images.detach\(\)"),
        ({"images": torch.tensor([[0.0]] * 4 + [[float("inf")], [0.0]])}, "sample 4 has a NaN or infinite"),
        ({"source": None}, "source must be a name and the positions there, got None"),
        ({"source": ("x", torch.arange(5))}, "an int64 position for each of 6 samples"),
    ],
)
def test_a_split_of_wrong_values_is_refused_with_value_and_position(change, message):
    with pytest.raises(ValueError, match=message):
        data(split(**change))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"classes": 0}, "mine: classes must be a whole number from 1"),
        ({"classes": 10**9}, "mine: classes must be a whole number from 1"),
        ({"classes": 3.0}, "mine: classes must be a whole number"),
        ({"mean": (0.1, 0.2)}, "mean has 2 values for 4 channels"),
        ({"mean": 0.1}, "mean must be a tuple of numbers, got 0.1"),
        ({"mean": (float("nan"),)}, "mine: mean must be a finite number, got nan"),
        ({"std": (0.0,)}, "mine: std must be a number above 0, got 0.0"),
        ({"trusted": 6}, "mine: trusted must be a whole number from 0 to 5, got 6"),
        ({"trusted": -1}, "mine: trusted must be a whole number"),
        ({"name": None}, "the name of a data set must be text, got None"),
        ({"validation": None}, "mine/validation must be a Split, got None"),
        (
            {"test": split(name="y")},
            "6 samples of 'y' are in validation and in test, the first at position 0",
        ),
    ],
)
def test_a_data_set_of_wrong_settings_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        data(**change)


def test_labels_that_count_from_1_are_said_and_a_long_tail_keeps_what_it_should():
    labels = torch.arange(120) % 3 + 1
    with pytest.warns(UserWarning, match=r"no sample has label 0, the labels are 1 to 3.*pass labels - 1"):
        found = from_tensors(torch.rand(120, 2), labels, validation=10, test=10)
    sizes = torch.bincount(found.train.labels, minlength=4)
    pool = realise(Context(imbalance=0.1), "symmetric", found.train.labels, found.classes, seed=0)[1]
    kept = torch.bincount(found.train.labels[pool], minlength=4)
    wanted = [0, *(round(int(sizes[1:].min()) * 0.1 ** (c / 3)) for c in (1, 2, 3))]
    assert kept.tolist() == wanted and int(kept.sum()) > 10

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        from_tensors(torch.rand(60, 2), torch.arange(60) % 3, validation=10, test=10)
        data()


LABELS = torch.arange(30) % 3


@pytest.mark.parametrize(
    "bad", [LABELS - 100, LABELS + 1, LABELS.float(), LABELS[None], LABELS.tolist(), None]
)
def test_corruption_refuses_labels_that_are_none(bad):
    rng = torch.Generator().manual_seed(0)
    calls = (
        lambda: add_noise("symmetric", bad, 0.5, 3, rng),
        lambda: add_noise("pair_flip", bad, 0.5, 3, rng),
        lambda: add_pair_flips(bad, LABELS, 0.5, 3, rng),
        lambda: add_pair_flips(LABELS, bad, 0.0, 3, rng),
        lambda: long_tail(bad, 0.5, 3, rng),
    )
    for call in calls:
        with pytest.raises(ValueError, match=r"label"):
            call()


def test_corruption_names_one_class_another_length_and_what_is_no_generator():
    rng = torch.Generator().manual_seed(0)
    zeros = torch.zeros(9, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"label_noise = 0\.5 needs another class"):
        add_noise("symmetric", zeros, 0.5, 1, rng)
    with pytest.raises(ValueError, match=r"pair_flip = 0\.5 needs another class"):
        add_pair_flips(zeros, zeros, 0.5, 1, rng)
    assert torch.equal(add_noise("symmetric", zeros, 0.0, 1, rng), zeros)
    with pytest.raises(ValueError, match="30 given labels and 9 clean ones"):
        add_pair_flips(LABELS, zeros, 0.5, 3, rng)
    with pytest.raises(ValueError, match=r"must be a torch\.Generator on the CPU, got None"):
        random_subset(9, 0.5, None)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: mlp((4,), 3, "64"), "hidden must be a list of at most 64 widths, got '64'"),
        (lambda: mlp((4,), 3, 64), "hidden must be a list"),
        (lambda: mlp((4,), 3, [0]), "mlp: hidden must be a whole number from 1 to 65536, got 0"),
        (lambda: mlp((4,), 3, [10**9]), "mlp: hidden must be a whole number"),
        (lambda: mlp((4,), 3, [65536, 65536]), "a layer of 65536 x 65536 weights"),
        (lambda: mlp((4,), 3, [4] * 65), "hidden must be a list of at most 64 widths"),
        (lambda: mlp((4,), "3"), "mlp: classes must be a whole number"),
        (lambda: mlp((), 3), "mlp: sample_shape must be a tuple"),
        (lambda: mlp((4,), 3, width_factor=0), r"mlp: width_factor must be in \(0, 1\], got 0"),
        (
            lambda: small_cnn((1, 8, 8), 3, width=10**9),
            "small_cnn: width must be a whole number from 1 to 2048",
        ),
        (lambda: small_cnn((1, 8, 8), 3, width="8"), "small_cnn: width must be a whole number"),
        (lambda: small_cnn((1, 8, 8), 3, width_factor=2), "small_cnn: width_factor must be in"),
        (lambda: resnet18((1, 8, 8), None), "resnet18: classes must be a whole number"),
    ],
)
def test_sizes_of_models_are_named_before_anything_is_allocated(build, message):
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"recipe": 5}, "recipe must be a Recipe or a table of its settings, got 5"),
        ({"recipe": []}, "recipe must be a Recipe or a table"),
        ({"loss": 5}, "loss of a Task must be a function of logits"),
        ({"loss": "x"}, "loss: an entry point has the form"),
        ({"model": nn.Linear}, "model 'torch.nn.modules.linear:Linear' needs the setting 'in_features'"),
        ({"model": dict}, "model 'dict' must be a Module, got dict"),
        ({"model": max}, "does not say what it takes"),
        ({"model": {"name": "mlp", "hiden": [4]}}, "Did you mean 'hidden'"),
        ({"model": {"name": 5}}, "model needs a name"),
        ({"dataset": {"name": "iris", "train": None, "test": None}}, "only one can be None"),
        ({"dataset": {"name": "iris", "train": "60"}}, "size of a split must be a whole number"),
        ({"dataset": {"name": "iris", "split_seed": 1.5}}, "split_seed must be a whole number"),
    ],
)
def test_a_task_of_wrong_tables_is_refused_at_once(settings, message):
    with pytest.raises(ValueError, match=message):
        Task.from_config(**{"dataset": "iris", "model": "mlp", **settings})


def test_a_factory_or_loss_that_gives_something_else_is_named():
    good = Task.from_config(dataset="iris", model="mlp")
    with pytest.raises(ValueError, match=r"factory must return an nn\.Module, returned 5"):
        dsenv.TrainingEnv(task=dataclasses.replace(good, model=lambda: 5), control="ratio").reset(seed=0)
    with pytest.raises(ValueError, match="the loss must return a tensor of one value a sample, got None"):
        dataclasses.replace(good, loss=lambda *_: None).sample_loss(torch.zeros(2, 3), torch.zeros(2).long())


def test_pools_of_other_lengths_are_refused():
    pool, short = (torch.zeros(9, 2), torch.zeros(9).long()), (torch.zeros(9, 2), torch.zeros(8).long())
    with pytest.raises(ValueError, match="x has 9 samples and 8 labels of them"):
        split_pools("x", short, None, (None, 2, 2), 0)
    with pytest.raises(ValueError, match="x has 9 test samples and 8 labels of them"):
        split_pools("x", pool, short, (None, 2, 2), 0)


@pytest.mark.parametrize("path", [None, 5, True, "", b"x", ["x"]])
def test_a_policy_needs_a_path(path):
    with pytest.raises(ValueError, match=r"a policy's path must be that of NAME\.safetensors"):
        dsenv.Policy.load(path)


@pytest.mark.parametrize(
    "content",
    [b"", b"x", bytes(8), b"\xff" * 8, b"\xff" * 200, b"\2\0\0\0\0\0\0\0{}"]
    + [len(text).to_bytes(8, "little") + text for text in (b'{"__metadata__":null}', b"[" * 5000, b"null")]
    + [(60).to_bytes(8, "little") + b'{"x":{"dtype":"F4","shape":[2],"data_offsets":[0,1]}}       \0'],
)
def test_a_damaged_policy_file_is_refused_with_its_path(content, tmp_path):
    path = tmp_path / "mine.safetensors"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"mine\.safetensors cannot be used as a policy: it (is not|has no)"):
        dsenv.Policy.load(path)
