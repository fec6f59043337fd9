import pytest
import torch
from torch import nn

from dsenv.rng import Streams
from dsenv.select.base import Selection, StackedSelection
from dsenv.select.gumbel import gumbel_top_k
from dsenv.tasks import Recipe, Task, from_tensors
from dsenv.tasks.corruption import symmetric_noise
from dsenv.tasks.digits import digits
from dsenv.tasks.models import mlp
from dsenv.training import Trainer
from dsenv.training.data import ResidentSplit

TASK = Task(
    digits(train=120, validation=60, test=60), lambda: mlp((1, 8, 8), 10, [12]), Recipe(batch_size=20)
)


def train(trainer, replicas, counts, seeds, intervals=3):
    """Train `replicas` trainings, each with its own noise, seed and count; returns final test scores."""
    streams = Streams(replicas, trainer.device)
    labels = TASK.dataset.train.labels
    for k, seed in enumerate(seeds):
        noisy = symmetric_noise(labels, 0.1 * seed, 10, torch.Generator().manual_seed(seed))
        trainer.start(k, seed, noisy)
        streams.seed(k, seed)
    for interval in range(intervals):
        selection = gumbel_top_k(torch.zeros(replicas, trainer.size), counts, streams)
        spent = [interval * count for count in counts]
        trainer.train(selection, interval, spent, [intervals * max(count, 1) for count in counts])
    return trainer.evaluate("test")


@pytest.mark.parametrize("form", [pytest.param("stacked", marks=pytest.mark.fast), "vmap", "loop"])
def test_replica_i_of_a_batch_equals_the_same_training_alone(form):
    counts, seeds = [60, 37, 100], [1, 2, 3]
    together = Trainer(TASK, 3, form=form)
    scores = train(together, 3, counts, seeds)
    for k in range(3):
        alone = Trainer(TASK, 1)
        score = train(alone, 1, counts[k : k + 1], seeds[k : k + 1])
        torch.testing.assert_close(score.log_likelihood[0], scores.log_likelihood[k], rtol=1e-3, atol=1e-4)
        own = together.replicas.parameters_of(k)
        for name, value in alone.replicas.parameters_of(0).items():
            torch.testing.assert_close(value, own[name], rtol=1e-3, atol=1e-4)
        for name in ("loss", "confidence", "times_trained"):
            signal = getattr(together.signals, name)[k]
            torch.testing.assert_close(getattr(alone.signals, name)[0], signal, rtol=1e-3, atol=1e-3)


@pytest.mark.fast
def test_a_replica_that_selects_nothing_stays_bit_for_bit_the_same():
    trainer = Trainer(TASK, 2)
    train(trainer, 2, [40, 40], [0, 1])
    before, state = trainer.replicas.parameters_of(1), trainer.replicas.optimizer_state_of(1)
    loss = trainer.signals.loss[1].clone()
    index = torch.stack([torch.arange(30), torch.full((30,), trainer.size)])
    selection = StackedSelection(index, (index < trainer.size).float(), (30, 0))
    interval = trainer.train(selection, 3, [120, 120], [200, 120])
    assert all(torch.equal(before[name], value) for name, value in trainer.replicas.parameters_of(1).items())
    now = trainer.replicas.optimizer_state_of(1)
    assert all(torch.equal(a, b) for a, b in zip(state, now, strict=True))
    assert torch.equal(trainer.signals.loss[1], loss)
    assert interval.loss[1].isnan() and interval.loss[0].isfinite()


@pytest.mark.fast
def test_signals_come_from_the_training_forward():
    trainer = Trainer(TASK, 1)
    labels = TASK.dataset.train.labels
    trainer.start(0, 0, labels)
    index = torch.arange(20)[None]  # one step: the forward is that of the initial parameters
    images = trainer.split("train").gather(index[0])
    expected = torch.nn.functional.cross_entropy(
        trainer.replicas.predict(images[None])[0][0], labels[:20], reduction="none"
    )
    trainer.train(StackedSelection(index, torch.ones(1, 20), (20,)), 0, [0], [20])
    torch.testing.assert_close(trainer.signals.loss[0, :20], expected)
    assert trainer.signals.seen[0].sum() == 20


@pytest.mark.fast
def test_weights_scale_the_gradient_of_a_sample():
    def trained(weight):
        trainer = Trainer(TASK, 1)
        trainer.start(0, 0, TASK.dataset.train.labels)
        selection = StackedSelection(torch.tensor([[3, 9]]), torch.tensor([weight]), (2,))
        trainer.train(selection, 0, [0], [2])
        return trainer.replicas.parameters_of(0)["1.weight"]

    start = Trainer(TASK, 1)
    start.start(0, 0, TASK.dataset.train.labels)
    origin = start.replicas.parameters_of(0)["1.weight"]
    moves = {weight: trained(weight) - origin for weight in ((1.0, 0.0), (0.0, 1.0), (2.0, 1.0))}
    torch.testing.assert_close(2 * moves[1.0, 0.0] + moves[0.0, 1.0], moves[2.0, 1.0], rtol=1e-4, atol=1e-7)


@pytest.mark.fast
def test_training_learns():
    trainer = Trainer(TASK, 2)
    score = train(trainer, 2, [120, 120], [0, 0], intervals=15)
    assert float(score.accuracy.min()) > 0.8
    assert float(score.log_likelihood.max()) < 0


def test_state_round_trip_continues_bit_for_bit():
    one, other = Trainer(TASK, 2), Trainer(TASK, 2)
    train(one, 2, [50, 30], [1, 2])
    other.load_state_dict(one.state_dict())
    selection = StackedSelection(torch.arange(40).view(2, 20), torch.ones(2, 20), (20, 20))
    for trainer in (one, other):
        trainer.train(selection, 3, [0, 0], [100, 100])
    for k in range(2):
        mine = one.replicas.parameters_of(k)
        assert all(torch.equal(v, mine[n]) for n, v in other.replicas.parameters_of(k).items())
    assert torch.equal(one.signals.loss_ema, other.signals.loss_ema)


@pytest.mark.fast
def test_gathered_samples_are_normalised():
    split = ResidentSplit(TASK.dataset.train, TASK.dataset, torch.device("cpu"))
    index = torch.tensor([[3, 5], [0, 120]])  # the last is padding
    expected = (TASK.dataset.train.images[index[0]].float() / 255 - 0.3053) / 0.3760
    torch.testing.assert_close(split.gather(index)[0], expected, rtol=1e-5, atol=1e-5)
    assert split.images.dtype == torch.uint8


@pytest.mark.parametrize(("outputs", "got"), [(3, r"\(2, 3\)"), (30, r"\(2, 30\)")])
def test_a_model_for_another_number_of_classes_is_refused(outputs, got):
    task = Task(TASK.dataset, lambda: mlp((1, 8, 8), outputs, [12]))
    with pytest.raises(ValueError, match=rf"logits of shape \(2, 10\), got {got}"):
        Trainer(task)


def test_bad_arguments():
    with pytest.raises(ValueError, match="replicas must be a whole number from 1"):
        Trainer(TASK, 0)
    with pytest.raises(ValueError, match="Did you mean 'bf16'"):
        Trainer(TASK, 1, precision="bf-16")
    with pytest.raises(ValueError, match="Did you mean 'validation'"):
        Trainer(TASK, 1).evaluate("validatoin")


@pytest.mark.gpu
def test_stacked_training_on_a_gpu_equals_the_cpu():
    scores = []
    for device in ("cpu", "cuda"):
        trainer = Trainer(TASK, 2, device)
        trainer.start(0, 0, TASK.dataset.train.labels)
        trainer.start(1, 1, TASK.dataset.train.labels)
        index = torch.arange(120, device=device).expand(2, -1).contiguous()
        ones = torch.ones(2, 120, device=device)
        for interval in range(5):
            trainer.train(
                StackedSelection(index, ones, (120, 120)), interval, [120 * interval] * 2, [600] * 2
            )
        scores.append(trainer.evaluate("validation").log_likelihood.cpu())
    torch.testing.assert_close(*scores, rtol=1e-2, atol=1e-2)


def norm_trainer(counts, batch=10):
    """A trainer of models with batch statistics, and a selection of the first samples."""

    def model():
        return nn.Sequential(nn.BatchNorm1d(64), nn.Linear(64, 3))

    generator = torch.Generator().manual_seed(0)
    images = torch.randn(60, 64, generator=generator)
    data = from_tensors(images, torch.arange(60) % 3, validation=10, test=10)
    trainer = Trainer(Task(data, model, Recipe(batch_size=batch)), len(counts))
    for k in range(len(counts)):
        trainer.start(k, 3, data.train.labels)
    chosen = [Selection(torch.arange(count), torch.ones(count)) for count in counts]
    return trainer, StackedSelection.of(chosen, trainer.size)


@pytest.mark.parametrize("counts", [(21,), (21, 20), (21, 31), (11, 0), (2, 21), (21, 11, 9)])
def test_a_single_sample_left_over_goes_with_the_batch_before(counts):
    trainer, selection = norm_trainer(counts)
    sizes = []
    step = trainer.replicas.step

    def noted(samples, index, labels, weight, batch_sizes, lr):
        sizes.append(list(batch_sizes))
        for row, size in zip(index, batch_sizes, strict=True):
            assert (row[:size] < trainer.size).all() and (row[size:] == trainer.size).all()
        return step(samples, index, labels, weight, batch_sizes, lr)

    trainer.replicas.step = noted
    measured = trainer.train(selection, 0, [0] * len(counts), [100] * len(counts))
    for k, count in enumerate(counts):
        own = [row[k] for row in sizes if row[k]]
        assert sum(own) == count and 1 not in own
        assert int(trainer.signals.times_trained[k].sum()) == count
        assert bool(measured.loss[k].isfinite()) == (count > 0)

        # Equal to the same training run alone
        alone, chosen = norm_trainer((count,))
        alone.train(chosen, 0, [0], [100])
        for name, value in alone.replicas.parameters_of(0).items():
            assert torch.equal(value, trainer.replicas.parameters_of(k)[name])


@pytest.mark.parametrize(("counts", "batch"), [((1,), 10), ((3,), 1)])
def test_a_single_sample_alone_is_named(counts, batch):
    trainer, selection = norm_trainer(counts, batch)
    with pytest.raises(ValueError, match="batch normalisation, which cannot train on a single sample"):
        trainer.train(selection, 0, [0], [100])
