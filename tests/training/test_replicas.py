import pytest
import torch
from torch import nn

from dsenv.tasks import Recipe, Task, from_tensors
from dsenv.tasks.models import mlp, small_cnn
from dsenv.training.replicas import choose_form, make_replicas
from dsenv.training.trainer import Trainer

CPU = torch.device("cpu")


def images_task(model, recipe=None):
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (60, 1, 8, 8), dtype=torch.uint8, generator=generator)
    dataset = from_tensors(images, torch.arange(60) % 3, validation=10, test=10)
    return Task(dataset, model, recipe or Recipe(lr=0.1, weight_decay=1e-3))


def own_net():
    """A module that is no nn.Sequential: only loop and vmap can run it."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.skip = nn.Linear(64, 64), nn.Linear(64, 3)

        def forward(self, x):
            x = x.flatten(1)
            return self.skip(x + torch.tanh(self.layer(x)))

    return Net()


MODELS = {
    "mlp": lambda: mlp((1, 8, 8), 3, [7]),
    "cnn": lambda: small_cnn((1, 8, 8), 3, 16, "group"),
    "pooled": lambda: nn.Sequential(
        nn.Conv2d(1, 4, 3, bias=False), nn.GELU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(36, 3, bias=False)
    ),
    "own": own_net,
}


def steps(replicas, sizes_by_step):
    """Train on fixed batches; returns the last losses and logits."""
    generator = torch.Generator().manual_seed(1)
    for sizes in sizes_by_step:
        batch = max(sizes)
        samples = torch.randn(len(sizes), batch, 1, 8, 8, generator=generator)
        labels = torch.randint(0, 3, (len(sizes), batch), generator=generator)
        weight = torch.rand(len(sizes), batch, generator=generator)
        lr = 0.05 * torch.arange(1.0, len(sizes) + 1)
        out = replicas.step(samples, torch.zeros_like(labels), labels, weight, sizes, lr)
    return out.loss, out.logits


@pytest.mark.parametrize(
    ("model", "form", "optimizer"),  # every model in every form it has, every form with every optimiser
    [
        pytest.param("mlp", "stacked", "sgd", marks=pytest.mark.fast),
        ("mlp", "vmap", "adamw"),
        ("cnn", "stacked", "adamw"),
        ("cnn", "vmap", "sgd"),
        ("pooled", "stacked", "sgd"),
        ("pooled", "vmap", "adamw"),
        ("own", "vmap", "sgd"),
    ],
)
def test_every_form_trains_as_the_loop_does(model, form, optimizer):
    task = images_task(MODELS[model], Recipe(optimizer=optimizer, lr=0.1, weight_decay=1e-3))
    plan = [(5, 5, 5), (5, 3, 0), (0, 2, 2)]  # ragged: replicas end at different steps
    loop, fast = (make_replicas(task, 3, CPU, name) for name in ("loop", form))
    for k in range(3):
        for replicas in (loop, fast):
            replicas.start(k, 10 + k)
    (loss, logits), (fast_loss, fast_logits) = steps(loop, plan), steps(fast, plan)
    torch.testing.assert_close(fast_loss[1:], loss[1:], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(fast_logits[1:], logits[1:], rtol=1e-4, atol=1e-5)
    for k in range(3):
        slow = loop.parameters_of(k)
        for name, value in fast.parameters_of(k).items():
            if optimizer == "adamw":
                # It divides a gradient by its size: where that is nearly 0, rounding decides.
                near = torch.isclose(value, slow[name], rtol=1e-3, atol=2e-4).float().mean()
                assert float(near) >= 0.99 and float((value - slow[name]).abs().max()) < 0.05, name
            else:
                torch.testing.assert_close(value, slow[name], rtol=1e-3, atol=2e-4)
    probe = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(2)).expand(3, 4, 1, 8, 8)
    torch.testing.assert_close(fast.predict(probe)[0], loop.predict(probe)[0], rtol=1e-3, atol=1e-3)


@pytest.mark.fast
@pytest.mark.parametrize("form", ["stacked", "vmap", "loop"])
def test_an_empty_batch_leaves_parameters_and_optimiser_bit_for_bit(form):
    replicas = make_replicas(images_task(MODELS["mlp"]), 2, CPU, form)
    for k in range(2):
        replicas.start(k, k)
    steps(replicas, [(4, 4)])
    parameters, state = replicas.parameters_of(1), replicas.optimizer_state_of(1)
    steps(replicas, [(4, 0), (3, 0)])
    assert all(torch.equal(value, parameters[name]) for name, value in replicas.parameters_of(1).items())
    after = replicas.optimizer_state_of(1)
    assert len(state) == len(after) > 0
    assert all(torch.equal(a, b) for a, b in zip(state, after, strict=True))


@pytest.mark.parametrize("form", ["stacked", "vmap", "loop"])
def test_state_round_trip_continues_bit_for_bit(form):
    task = images_task(MODELS["cnn"])
    one, other = (make_replicas(task, 2, CPU, form) for _ in range(2))
    for k in range(2):
        one.start(k, k)
    steps(one, [(4, 4), (4, 2)])
    other.load_state_dict(one.state_dict())
    for replicas in (one, other):
        steps(replicas, [(4, 4)])
    for k in range(2):
        mine = one.parameters_of(k)
        assert all(torch.equal(value, mine[name]) for name, value in other.parameters_of(k).items())


def dropout_task():
    return images_task(lambda: nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(64, 3)))


def take_steps(replicas, seeds, number=3):
    """Take steps on the same batch with other numbers drawn globally in between; returns parameters."""
    for k, seed in enumerate(seeds):
        replicas.start(k, seed)
    samples = torch.rand(12, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    count = len(seeds)
    batch = samples.expand(count, *samples.shape), (torch.arange(12) % 3).expand(count, -1)
    for _ in range(number):
        torch.rand(5)
        replicas.step(
            batch[0], batch[1], batch[1], torch.ones(count, 12), [12] * count, torch.full((count,), 0.1)
        )
    return [replicas.parameters_of(k) for k in range(count)]


@pytest.mark.fast
def test_dropout_draws_from_the_replicas_own_streams():
    together = take_steps(make_replicas(dropout_task(), 3, CPU), (5, 6, 7))
    torch.manual_seed(99)
    alone = take_steps(make_replicas(dropout_task(), 1, CPU), (6,))
    for name, value in alone[0].items():
        torch.testing.assert_close(value, together[1][name])
        assert not torch.allclose(value, together[0][name])


def test_dropout_leaves_the_global_stream_alone_and_continues_from_a_state():
    replicas = make_replicas(dropout_task(), 1, CPU)
    take_steps(replicas, (1,))
    saved = replicas.state_dict()
    samples, labels = torch.rand(1, 12, 1, 8, 8), torch.arange(12)[None] % 3
    before = torch.random.get_rng_state()
    losses = []
    for _ in range(2):
        losses.append(
            replicas.step(
                samples, torch.zeros_like(labels), labels, torch.ones(1, 12), [12], torch.tensor([0.1])
            ).loss
        )
        replicas.load_state_dict(saved)
    assert torch.equal(before, torch.random.get_rng_state())
    assert torch.equal(*losses)


def test_batch_statistics_and_layers_without_a_stacked_form_are_refused():
    norm = images_task(lambda: nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64), nn.Linear(64, 3)))
    for form in ("stacked", "vmap"):
        with pytest.raises(ValueError, match="BatchNorm1d; use form = 'loop'"):
            make_replicas(norm, 2, CPU, form)
    with pytest.raises(ValueError, match="does not fit a model with Net"):
        make_replicas(images_task(own_net), 2, CPU, "stacked")
    with pytest.raises(ValueError, match="Did you mean 'stacked'"):
        make_replicas(norm, 2, CPU, "staked")


@pytest.mark.fast
def test_the_choice_of_form():
    mlp_, cnn, own = (MODELS[name]() for name in ("mlp", "cnn", "own"))
    norm = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    cuda = torch.device("cuda")
    assert choose_form(mlp_, 32, CPU) == choose_form(mlp_, 32, cuda) == "stacked"
    assert choose_form(cnn, 32, CPU) == "loop"
    assert choose_form(cnn, 32, cuda) == "stacked"
    assert choose_form(own, 32, cuda) == "vmap"
    assert choose_form(norm, 32, cuda) == choose_form(mlp_, 1, CPU) == "loop"
    assert choose_form(mlp_, 1, cuda) == choose_form(cnn, 1, cuda) == "stacked"
    assert choose_form(norm, 1, cuda) == choose_form(own, 1, cuda) == "loop"


@pytest.mark.gpu
@pytest.mark.parametrize(("settings", "form"), [({}, "stacked"), ({"channels_last": True}, "loop")])
def test_one_replica_on_a_gpu_is_stacked_unless_a_setting_is_for_modules(settings, form):
    task = images_task(MODELS["cnn"])
    assert make_replicas(task, 1, torch.device("cuda"), **settings).form == form


def test_bf16_and_channels_last_train():
    task = images_task(MODELS["cnn"])
    exact = make_replicas(task, 1, CPU, "loop")
    fast = make_replicas(task, 1, CPU, "loop", autocast=True, channels_last=True)
    for replicas in (exact, fast):
        replicas.start(0, 0)
    probe = torch.randn(1, 12, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(12)[None] % 3
    slow, quick = exact.predict(probe)[0], fast.predict(probe)[0]
    difference = (slow - quick).norm() / slow.norm()
    assert 0 < float(difference) < 0.03
    losses = [
        fast.step(
            probe, torch.zeros_like(labels), labels, torch.ones(1, 12), (12,), torch.tensor([0.05])
        ).loss.mean()
        for _ in range(30)
    ]
    assert float(losses[-1]) < 0.5 * float(losses[0])


@pytest.mark.parametrize("model", ["cnn", "own"])
def test_threads_change_nothing(model):
    task = images_task(MODELS[model])
    plan = [(5, 5, 5), (5, 3, 0), (0, 2, 2)]
    loop, threads = (make_replicas(task, 3, CPU, "loop", threads=count) for count in (1, 2))
    for replicas in (loop, threads):
        replicas.features_wanted = True
    for expected, found in zip(steps(loop, plan), steps(threads, plan), strict=True):
        torch.testing.assert_close(found, expected)
    probe = torch.randn(3, 4, 1, 8, 8)
    first, second = loop.predict(probe), threads.predict(probe)
    torch.testing.assert_close(second, first)
    assert not second[0].requires_grad
    for k in range(3):
        for name, value in loop.parameters_of(k).items():
            torch.testing.assert_close(threads.parameters_of(k)[name], value)


def test_threads_are_refused_where_they_cannot_be_exact():
    def model():
        return nn.Sequential(nn.Flatten(), nn.Dropout(), nn.Linear(64, 3))

    with pytest.raises(ValueError, match="model with dropout"):
        make_replicas(images_task(model), 2, CPU, "loop", threads=2)
    with pytest.raises(ValueError, match="at least 1"):
        make_replicas(images_task(MODELS["mlp"]), 2, CPU, "loop", threads=0)


@pytest.mark.parametrize("form", ["stacked", "loop"])
def test_a_model_without_a_linear_layer_has_no_features(form):
    def model():
        return nn.Sequential(nn.Conv2d(1, 3, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())

    trainer = Trainer(images_task(model), 2, form=form)
    with pytest.raises(ValueError, match="needs features, and the model Sequential has no linear layer"):
        trainer.score_candidates(torch.zeros(2, 3, dtype=torch.int64), features=True)
