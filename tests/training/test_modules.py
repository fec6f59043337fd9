"""Models as they are: what a module says beside its shapes holds in every form as for the module alone."""

import copy
import random

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.prune import l1_unstructured

from dsenv.tasks import Recipe, Task, from_tensors
from dsenv.training import replicas as replicas_module
from dsenv.training.loop_replicas import LoopReplicas
from dsenv.training.modules import can_be_copied
from dsenv.training.replicas import make_replicas

CPU = torch.device("cpu")
STEPS, BATCH = 4, 5


def frozen_layer():
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    model[0].requires_grad_(False)
    return model


def frozen_bias():
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    model[2].bias.requires_grad_(False)
    return model


def shared_activation():
    relu = nn.Tanh()
    return nn.Sequential(nn.Linear(6, 8), relu, nn.Linear(8, 8), relu, nn.Linear(8, 3))


def shared_layer():
    layer = nn.Linear(6, 6)
    return nn.Sequential(layer, nn.Tanh(), layer, nn.Tanh(), nn.Linear(6, 3))


def tied_weight():
    model = nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 3))
    model[2].weight = model[0].weight
    return model


def slow_layer():
    """A layer whose gradient is scaled by a hook, in the place of a learning rate of its own."""
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    model[0].weight.register_hook(lambda grad: 0.1 * grad)
    return model


def hooked_module():
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    model[1].register_forward_hook(lambda *arguments: 2 * arguments[-1])
    return model


def normed_weight():
    return nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(6, 8)), nn.ReLU(), nn.Linear(8, 3))


class Halved(nn.Linear):
    """A layer derived from one that can be stacked, with a forward of its own."""

    def forward(self, x):
        return super().forward(x) / 2


class Residual(nn.Sequential):
    """A container derived from `nn.Sequential`, with a forward of its own."""

    def forward(self, x):
        return x + super().forward(x)


def own_forward():
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    model[1].forward = lambda x: x.abs()
    return model


def patched():
    """A method wrapped from outside, as tools that quantise or log do."""
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    inner = model[0].forward
    model[0].forward = lambda x: 3 * inner(x)
    return model


def patched_by_default():
    """As `patched`, with the wrapped method in a default argument."""
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    model[0].forward = lambda x, inner=model[0].forward: 3 * inner(x)
    return model


def kept_bias():
    """A layer whose bias is a buffer, which no step changes."""
    model = nn.Sequential(nn.Linear(6, 8, bias=False), nn.ReLU(), nn.Linear(8, 3))
    del model[0].bias
    model[0].register_buffer("bias", torch.ones(8))
    return model


class Called(nn.Sequential):
    """A container derived from `nn.Sequential` with a `__call__` of its own."""

    def __call__(self, x):
        return 2 * super().__call__(x)


class Rows(nn.Module):
    """An LSTM, which `torch.func.vmap` has no rule for."""

    def __init__(self):
        super().__init__()
        self.memory, self.head = nn.LSTM(2, 4, batch_first=True), nn.Linear(4, 3)

    def forward(self, x):
        return self.head(self.memory(x.view(-1, 3, 2))[0][:, -1])


class Net(nn.Module):
    """A module with a fixed projection, an unused head, and what `kind` adds."""

    def __init__(self, kind):
        super().__init__()
        self.kind = kind
        self.layer, self.unused = nn.Linear(6, 8), nn.Linear(8, 2)
        self.head = nn.Linear(8, 3)
        self.register_buffer("scale", torch.rand(8), persistent=kind != "hidden")
        self.register_buffer("steps", torch.zeros(()), persistent=False)

    def forward(self, x):
        x = torch.tanh(self.layer(x)) * self.scale
        if self.kind == "count" and self.training:
            self.steps += 1
            x = x * (1 + self.steps)
        if self.kind == "replaced" and self.training:
            self.steps = self.steps + 1
            x = x * (1 + self.steps)
        if self.kind == "noise":
            x = F.dropout(x, 0.5, self.training)
        if self.kind == "mode" and self.training:
            x = 2 * x
        if self.kind == "centred":
            x = x - x.mean(0)
        return self.head(x)


MODELS = {
    "frozen layer": frozen_layer,
    "frozen bias": frozen_bias,
    "shared activation": shared_activation,
    "shared layer": shared_layer,
    "tied weight": tied_weight,
    "slow layer": slow_layer,
    "hooked module": hooked_module,
    "normed weight": normed_weight,
    "derived layer": lambda: nn.Sequential(Halved(6, 8), nn.ReLU(), nn.Linear(8, 3)),
    "derived container": lambda: nn.Sequential(Residual(nn.Linear(6, 6), nn.Tanh()), nn.Linear(6, 3)),
    "own forward": own_forward,
    "in place": lambda: nn.Sequential(
        nn.ReLU(inplace=True), nn.Linear(6, 8), nn.ELU(inplace=True), nn.Linear(8, 3)
    ),
    "patched": patched,
    "patched by default": patched_by_default,
    "kept bias": kept_bias,
    "called": lambda: nn.Sequential(Called(nn.Linear(6, 6)), nn.Linear(6, 3)),
    "called outermost": lambda: Called(nn.Linear(6, 3)),
    "grouped features": lambda: nn.Sequential(nn.Linear(6, 8), nn.GroupNorm(2, 8), nn.Linear(8, 3)),
    "grouped alike": lambda: nn.Sequential(
        nn.Linear(6, 8), nn.GroupNorm(1, 8, affine=False), nn.Linear(8, 3)
    ),
    "lstm": Rows,
    "scripted": lambda: torch.jit.script(nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))),
    "pruned": lambda: nn.Sequential(l1_unstructured(nn.Linear(6, 8), "weight", 0.3), nn.Linear(8, 3)),
    **{
        name: lambda name=name: Net(name)
        for name in ("plain", "hidden", "count", "replaced", "noise", "mode", "centred")
    },
}
OPTIMIZERS = ("sgd", "adamw")


def task_of(model, optimizer="sgd"):
    generator = torch.Generator().manual_seed(0)
    data = from_tensors(torch.randn(60, 6, generator=generator), torch.arange(60) % 3, validation=10, test=10)
    return Task(data, model, Recipe(optimizer=optimizer, lr=0.05, weight_decay=0.01))


def batches(seed):
    generator = torch.Generator().manual_seed(seed)
    for _ in range(STEPS):
        yield (
            torch.randn(BATCH, 6, generator=generator),
            torch.randint(0, 3, (BATCH,), generator=generator),
            torch.rand(BATCH, generator=generator) + 0.5,
        )


def alone(model, optimizer, seed):
    """The module trained by torch.optim in a plain loop: parameters, buffers, and logits of some samples."""
    stream = torch.default_generator
    before = stream.get_state()
    stream.manual_seed(seed)
    module = MODELS[model]()
    if optimizer == "sgd":
        steps = torch.optim.SGD(module.parameters(), 0.05, 0.9, weight_decay=0.01, nesterov=True)
    else:
        steps = torch.optim.AdamW(module.parameters(), 0.05, (0.9, 0.999), weight_decay=0.01)
    stream.manual_seed(seed)
    for samples, labels, weight in batches(seed):
        steps.zero_grad()
        loss = F.cross_entropy(module.train()(samples.clone()), labels, reduction="none")
        (loss * weight).mean().backward()
        steps.step()
    with torch.no_grad():
        logits = module.eval()(next(batches(99))[0].clone())
    stream.set_state(before)
    return dict(module.named_parameters()) | dict(module.named_buffers()), logits


def stacked(replicas, seeds):
    """Replicas trained on the same batches: parameters of each, and logits of some samples."""
    for k, seed in enumerate(seeds):
        replicas.start(k, seed)
    for parts in zip(*(batches(seed) for seed in seeds), strict=True):
        samples, labels, weight = (torch.stack(each) for each in zip(*parts, strict=True))
        sizes = [BATCH] * len(seeds)
        lr = torch.full((len(seeds),), 0.05)
        replicas.step(samples, torch.zeros_like(labels), labels, weight, sizes, lr)
    samples = next(batches(99))[0].expand(len(seeds), -1, -1)
    kept = samples.clone()
    logits, _ = replicas.predict(samples)
    assert torch.equal(samples, kept)  # the resident data are the model's to read
    return [replicas.parameters_of(k) for k in range(len(seeds))], logits


def check_equal(found, logits, wanted, wanted_logits):
    torch.testing.assert_close(logits, wanted_logits, rtol=1e-4, atol=1e-5)
    for name, value in wanted.items():
        if name in found:
            torch.testing.assert_close(found[name], value.detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("model", MODELS)
def test_every_form_equals_the_module_alone_or_is_refused(model, optimizer):
    task, seeds = task_of(MODELS[model], optimizer), (11, 12, 13)
    refused = []
    for form in ("auto", "loop", "stacked", "vmap"):
        try:
            replicas = make_replicas(task, 3, CPU, form)
        except ValueError as error:
            assert "use form = 'loop'" in str(error)
            refused.append(form)
            continue
        found, logits = stacked(replicas, seeds)
        for k, seed in enumerate(seeds):
            check_equal(found[k], logits[k], *alone(model, optimizer, seed))
    assert set(refused) <= {"stacked", "vmap"}


def test_what_cannot_be_stacked_runs_in_a_loop():
    for name in (
        "shared layer",
        "tied weight",
        "slow layer",
        "hooked module",
        "normed weight",
        "derived layer",
        "derived container",
        "own forward",
        "count",
        "patched",
        "called outermost",
        "grouped features",
        "grouped alike",
    ):
        assert isinstance(make_replicas(task_of(MODELS[name]), 3, CPU), LoopReplicas), name
    for name in ("frozen layer", "frozen bias", "shared activation", "in place"):
        assert not isinstance(make_replicas(task_of(MODELS[name]), 3, CPU), LoopReplicas), name


def test_frozen_parameters_stay_bit_for_bit():
    replicas = make_replicas(task_of(frozen_layer, "adamw"), 2, CPU)
    replicas.start(0, 5)
    replicas.start(1, 6)
    before = [replicas.parameters_of(k) for k in range(2)]
    after, _ = stacked(replicas, (5, 6))
    for k in range(2):
        assert torch.equal(after[k]["0.weight"], before[k]["0.weight"])
        assert not torch.equal(after[k]["2.weight"], before[k]["2.weight"])


@pytest.mark.parametrize(
    "model",
    [
        "slow layer",
        "count",
        "hidden",
        "replaced",
        "patched",
        "patched by default",
        "scripted",
        "pruned",
        "called",
        "kept bias",
    ],
)
def test_copies_and_states_keep_all_of_it(model):
    task = task_of(MODELS[model])
    replicas = make_replicas(task, 2, CPU)
    stacked(replicas, (1, 2))
    loaded = make_replicas(task, 2, CPU)
    loaded.load_state_dict(replicas.state_dict())
    samples, labels, weight = (each.expand(2, *each.shape) for each in next(batches(3)))
    found = []
    for each in (copy.deepcopy(replicas), loaded, replicas):
        each.step(samples, labels, labels, weight, [BATCH] * 2, torch.full((2,), 0.05))
        found.append([each.parameters_of(k) for k in range(2)])
    for other in found[:2]:
        for k in range(2):
            assert all(torch.equal(value, other[k][name]) for name, value in found[2][k].items())


def test_a_model_with_nothing_to_train_or_with_other_outputs_in_training_is_named():
    class Auxiliary(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(6, 3)

        def forward(self, x):
            return (self.layer(x), x) if self.training else self.layer(x)

    with pytest.raises(ValueError, match="got tuple in training mode"):
        make_replicas(task_of(Auxiliary), 2, CPU)
    with pytest.raises(ValueError, match="no parameter that requires a gradient"):
        make_replicas(task_of(lambda: nn.Linear(6, 3).requires_grad_(False)), 2, CPU)


def test_a_copy_can_be_made_before_the_first_step():
    """The weight of a pruned layer is no leaf then, which `copy.deepcopy` does not take."""
    replicas = make_replicas(task_of(MODELS["pruned"]), 2, CPU)
    twin = copy.deepcopy(replicas)
    found, wanted = stacked(twin, (1, 2)), stacked(replicas, (1, 2))
    assert torch.equal(found[1], wanted[1])


def test_a_layer_in_two_places_is_put_back_after_a_mapped_call():
    replicas = make_replicas(task_of(shared_layer), 2, CPU, "vmap")
    stacked(replicas, (1, 2))
    assert torch.equal(stacked(copy.deepcopy(replicas), (3, 4))[1], stacked(replicas, (3, 4))[1])


def test_functions_that_hold_numbers_alone_are_copied():
    def activation(scale):
        return lambda x, shift=1: scale * x.relu() + shift

    model, scale = nn.Linear(6, 3), torch.ones(1)
    model.activation = activation(2)
    assert can_be_copied(model)
    model.activation = activation(scale)
    assert not can_be_copied(model)


@pytest.mark.parametrize(
    ("layers", "shape", "plain"),
    [
        ([nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)], (6,), True),
        (
            [nn.Conv2d(1, 4, 3), nn.GroupNorm(2, 4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3)],
            (1, 6, 6),
            True,
        ),
        ([nn.Flatten(), nn.Sequential(nn.Linear(6, 8), nn.Tanh()), nn.Linear(8, 3)], (2, 3), True),
        ([nn.Linear(6, 4), nn.GroupNorm(2, 4), nn.Linear(4, 3)], (6,), False),
        ([nn.Linear(3, 4), nn.Flatten(), nn.Linear(8, 3)], (2, 3), False),
        ([Called(nn.Linear(6, 6)), nn.Linear(6, 3)], (6,), False),
        ([*kept_bias()], (6,), False),
    ],
)
def test_only_usual_models_are_stacked_without_a_trial(layers, shape, plain, monkeypatch):
    model = nn.Sequential(*layers)
    data = from_tensors(torch.randn(30, *shape), torch.arange(30) % 3, validation=6, test=6)
    tried = []
    monkeypatch.setattr(replicas_module, "_differs", lambda *_: tried.append(True))
    make_replicas(Task(data, lambda: copy.deepcopy(model), Recipe()), 2, CPU, "stacked")
    assert tried == [True] * (not plain)


def test_a_trial_leaves_the_global_stream_as_it_was():
    def loss(logits, labels):
        return F.cross_entropy(logits, labels, reduction="none") * torch.rand(len(labels))

    task = task_of(MODELS["plain"])
    task = Task(task.dataset, task.model, task.recipe, loss)
    before = torch.get_rng_state()
    make_replicas(task, 2, CPU, "vmap")
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("kind", ["table", "list", "generator"])
def test_what_a_forward_keeps_beside_its_buffers_is_named(kind):
    class Keeps(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(6, 3)
            self.kept = {"table": {"steps": 0}, "list": [], "generator": np.random.default_rng(0)}[kind]

        def forward(self, x):
            if self.training and kind == "table":
                self.kept["steps"] += 1
            elif self.training and kind == "list":
                self.kept.append(len(x))
            elif self.training:
                x = x + float(self.kept.random())
            return self.layer(x)

    with pytest.raises(ValueError, match="changes kept, which its state_dict does not hold"):
        make_replicas(task_of(Keeps), 2, CPU).state_dict()


@pytest.mark.parametrize(
    ("name", "draw"),
    [("numpy.random", np.random.rand), ("random", random.random)],
)
def test_a_forward_that_draws_from_a_stream_that_all_share_is_refused(name, draw):
    class Noisy(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(6, 3)

        def forward(self, x):
            return self.layer(x * float(draw()) if self.training else x)

    before = np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002
    with pytest.raises(ValueError, match=f"draws from the global stream of {name}, "):
        make_replicas(task_of(Noisy), 2, CPU)
    assert np.array_equal(np.random.get_state()[1], before[0])  # noqa: NPY002
    assert random.getstate() == before[1]


def test_a_lazy_model_is_named():
    with pytest.raises(ValueError, match=r"is lazy, 0\.weight has no shape yet"):
        make_replicas(task_of(lambda: nn.Sequential(nn.LazyLinear(3))), 2, CPU)
