"""A narrow model inside the parameters of a full one trains as it does alone."""

import pytest
import torch
from torch import nn

from dsenv.tasks import Recipe, Task, from_tensors
from dsenv.tasks.models import mlp, small_cnn
from dsenv.tasks.narrow import narrow_parameters
from dsenv.training.replicas import make_replicas

CPU = torch.device("cpu")
MODELS = {
    "mlp": {"name": "mlp", "hidden": [16, 12]},
    "small_cnn": {"name": "small_cnn", "width": 16, "norm": "none"},
}


def task_of(model, optimizer="sgd"):
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (60, 1, 8, 8), dtype=torch.uint8, generator=generator)
    dataset = from_tensors(images, torch.arange(60) % 3, validation=10, test=10)
    recipe = Recipe(optimizer=optimizer, lr=0.1, weight_decay=1e-3)
    return Task.from_config(dataset=dataset, model=model, recipe=recipe)


def train(replicas, steps=6):
    """Steps on the same batches for every replica; the last losses (K, B)."""
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        samples = torch.randn(5, 1, 8, 8, generator=generator).expand(replicas.count, 5, 1, 8, 8)
        labels = torch.randint(0, 3, (5,), generator=generator).expand(replicas.count, 5)
        ones = torch.ones(replicas.count, 5)
        out = replicas.step(
            samples,
            torch.zeros_like(labels),
            labels,
            ones,
            [5] * replicas.count,
            torch.full((replicas.count,), 0.05),
        )
    return out.loss


@pytest.mark.parametrize(
    ("model", "optimizer", "form"),  # every two of the three, in every combination
    [
        pytest.param("mlp", "sgd", "stacked", marks=pytest.mark.fast),
        ("mlp", "adamw", "vmap"),
        ("mlp", "sgd", "loop"),
        ("small_cnn", "adamw", "stacked"),
        ("small_cnn", "sgd", "vmap"),
        ("small_cnn", "adamw", "loop"),
    ],
)
def test_a_replica_of_a_quarter_of_the_width_trains_as_the_narrow_model_alone(model, optimizer, form):
    full = task_of(MODELS[model], optimizer)
    narrow = Task(full.dataset, lambda: full.model(width_factor=0.25), full.recipe)
    together, alone = make_replicas(full, 3, CPU, form), make_replicas(narrow, 1, CPU, "loop")
    for k, width in enumerate((1.0, 0.25, 0.5)):
        together.start(k, 7, width)
    alone.start(0, 7)
    torch.testing.assert_close(train(together)[1], train(alone)[0], rtol=1e-4, atol=1e-5)
    wide = together.parameters_of(1)
    for name, own in alone.parameters_of(0).items():
        inside = tuple(slice(length) for length in own.shape)
        torch.testing.assert_close(wide[name][inside], own, rtol=1e-3, atol=1e-4)
        wide[name][inside] = 0
        assert not wide[name].any(), name  # the extra units are still zero


@pytest.mark.fast
def test_widths_of_the_models():
    assert [layer.out_features for layer in mlp((4,), 3, [16, 2], 0.25) if isinstance(layer, nn.Linear)] == [
        4,
        1,
        3,
    ]
    cnn = small_cnn((1, 8, 8), 3, 16, "none", 0.25)
    assert [layer.out_channels for layer in cnn if isinstance(layer, nn.Conv2d)] == [4, 8, 8]


@pytest.mark.fast
def test_the_full_width_is_the_model_itself():
    task = task_of(MODELS["mlp"])
    narrow_task = Task(
        task.dataset, lambda: mlp((1, 8, 8), 3, [16, 12]), task.recipe
    )  # takes no width_factor
    own, full = narrow_parameters(narrow_task, 3, 1.0), narrow_parameters(task, 3, 1.0)
    assert all(torch.equal(value, full[name]) for name, value in own.items())


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (lambda: mlp((1, 8, 8), 3), "takes no width_factor; give it this keyword"),
        ({"name": "resnet18"}, "context width = 0.5: no setting of model resnet18 called 'width_factor'"),
        ({"name": "small_cnn", "width": 16}, r"BatchNorm2d: .*small_cnn: norm = 'none'"),
        ({"name": "small_cnn", "width": 16, "norm": "group"}, "GroupNorm|num_channels"),
        (
            lambda width_factor=1.0: mlp((1, 8, 8), 3, [4] if width_factor == 1 else [8]),
            "must fit into the full",
        ),
        (lambda width_factor=1.0: mlp((1, 8, 8), 3, [4] if width_factor == 1 else []), "other parameters"),
    ],
)
def test_models_without_narrow_forms_are_named(model, message):
    with pytest.raises(ValueError, match=message):
        narrow_parameters(task_of(model), 0, 0.5)
