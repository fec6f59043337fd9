import pytest
import torch
from torch import nn

from dsenv.tasks.models import mlp, resnet18, resnet50, small_cnn, small_fcn
from dsenv.tasks.task import Recipe, Task, seeded_model


@pytest.mark.fast
@pytest.mark.parametrize("norm", ["batch", "group", "none"])
def test_the_small_cnn_has_the_promised_size(norm):
    count = sum(p.numel() for p in small_cnn((1, 28, 28), 10, norm=norm).parameters())
    assert 56_000 < count < 57_500


GREY, COLOUR = (1, 28, 28), (3, 32, 32)


@pytest.mark.parametrize(
    ("factory", "shape"),
    [
        (mlp, GREY),
        (mlp, COLOUR),
        (small_cnn, GREY),
        (small_cnn, COLOUR),
        (resnet18, GREY),
        (resnet50, COLOUR),
    ],
)
def test_models_take_grey_and_colour_images(factory, shape):
    model = factory(shape, 7).eval()
    assert model(torch.randn(2, *shape)).shape == (2, 7)


def test_the_cifar_stem_keeps_the_resolution():
    model = resnet18((3, 32, 32), 10)
    assert model.conv1.stride == (1, 1) and isinstance(model.maxpool, nn.Identity)
    assert sum(p.numel() for p in model.parameters()) == 11_173_962  # the published CIFAR ResNet-18


def test_models_refuse_what_they_cannot_take():
    with pytest.raises(ValueError, match=r"at least 8 x 8, got samples of shape \(1, 4, 4\)"):
        small_cnn((1, 4, 4), 2)
    with pytest.raises(ValueError, match="multiple of 8, got 12"):
        small_cnn((1, 8, 8), 2, width=12)
    with pytest.raises(ValueError, match="Did you mean 'group'"):
        small_cnn((1, 8, 8), 2, norm="groups")
    with pytest.raises(ValueError, match="resnet18 needs images"):
        resnet18((64,), 2)


@pytest.mark.fast
def test_initial_parameters_follow_from_the_seed_alone():
    before = torch.random.get_rng_state()
    one, same, other = (seeded_model(lambda: nn.Linear(3, 3), seed).weight for seed in (5, 5, 6))
    assert torch.equal(one, same) and not torch.equal(one, other)
    assert torch.equal(before, torch.random.get_rng_state())


def torch_schedule(name, steps):
    """Learning rates of torch's own scheduler, one a step."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    if name == "cosine":
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    else:
        scheduler = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, 0.1, total_steps=steps + 1, cycle_momentum=False
        )
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


@pytest.mark.parametrize("name", ["cosine", "one_cycle"])
def test_schedules_equal_torchs_at_a_constant_ratio(name):
    recipe = Recipe(lr=0.1, schedule=name)
    ours = [recipe.learning_rate(step / 1000) for step in range(1000)]
    assert ours == pytest.approx(torch_schedule(name, 1000), abs=4e-4)  # torch counts steps from one


@pytest.mark.fast
def test_a_schedule_ends_where_it_should():
    assert Recipe(schedule="cosine").learning_rate(1.0) == pytest.approx(0)
    assert Recipe(schedule="one_cycle").learning_rate(1.0) == pytest.approx(0.1 / 25 / 1e4)
    assert Recipe(schedule="constant").learning_rate(0.3) == 0.1


@pytest.mark.fast
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"optimizer": "sdg"}, "Did you mean 'sgd'"),
        ({"schedule": "cos"}, "Did you mean 'cosine'"),
        ({"lr": 0}, "lr must be a number above 0, got 0"),
        ({"momentum": 1.0}, r"momentum must be in \[0, 1\), got 1.0"),
        ({"weight_decay": -1}, "weight_decay must be a number of at least 0, got -1"),
        ({"batch_size": 0}, "batch_size must be a whole number from 1 to 16777216, got 0"),
    ],
)
def test_bad_recipes_name_the_value(settings, message):
    with pytest.raises(ValueError, match=message):
        Recipe(**settings)


def test_a_scalar_loss_is_refused_with_the_fix():
    task = Task.from_config(
        dataset={"name": "tests.tasks.own:rings", "size": 90},
        model={"name": "mlp"},
        loss="tests.tasks.own:mean_loss",
    )
    with pytest.raises(ValueError, match="reduction='none'"):
        task.sample_loss(torch.zeros(3, 2), torch.zeros(3, dtype=torch.int64))


def test_a_small_fully_convolutional_network_gives_the_class_of_each_pixel():
    model = small_fcn((3, 16, 24), 5)
    images = torch.rand(4, 3, 16, 24)
    logits = model(images)
    assert logits.shape == (4, 5, 16, 24)
    assert 30_000 <= sum(parameter.numel() for parameter in model.parameters()) <= 60_000
    torch.testing.assert_close(model(images[1:2])[0], logits[1])  # whatever the rest of the batch
    assert model(torch.rand(1, 3, 32, 8)).shape == (1, 5, 32, 8)


@pytest.mark.parametrize(
    ("shape", "settings", "words"),
    [
        ((3, 16, 18), {}, "multiples of 4, got samples of shape"),
        ((3, 4, 8), {}, "at least 8 x 8"),
        ((16, 16), {}, "needs images"),
        ((3, 16, 16), {"width": 12}, "width must be a multiple of 8, got 12"),
        ((3, 16, 16), {"width": 0}, "width must be"),
    ],
)
def test_a_small_fully_convolutional_network_is_refused(shape, settings, words):
    with pytest.raises(ValueError, match=words):
        small_fcn(shape, 5, **settings)
