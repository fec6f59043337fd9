"""Steps as CUDA graphs: the calls that decide when one is captured, and the numbers on a GPU."""

import copy
import pickle
from functools import partial

import pytest
import torch

from dsenv.select.base import StackedSelection
from dsenv.tasks import Recipe, Task, from_tensors
from dsenv.tasks.models import mlp, small_cnn
from dsenv.training import graphs
from dsenv.training.graphs import StepGraphs
from dsenv.training.trainer import Trainer

IMAGES = torch.randint(256, (180, 1, 8, 8), generator=torch.Generator().manual_seed(0)).byte()
DATA = from_tensors(IMAGES, torch.arange(180) % 10, train=120, validation=30, test=30)
MODELS = {
    "mlp": partial(mlp, (1, 8, 8), 10, hidden=[16]),
    "cnn": partial(small_cnn, (1, 8, 8), 10, width=8, norm="group"),
}


class Recorded:
    """Stands for a graph on a CPU: a replay runs the step on its places, into its outputs."""

    def __init__(self, step, places):
        self.step, self.places, self.replays = step, places, 0
        self.outputs = step(*places)

    def replay(self):
        self.replays += 1
        for output, value in zip(self.outputs, self.step(*self.places), strict=True):
            if output is not None:
                output.copy_(value)


@pytest.fixture
def recorded(monkeypatch):
    """Graphs that were captured, on a CPU."""
    made = []

    def capture(self, step, inputs):
        del self
        made.append(Recorded(step, [value.clone() for value in inputs]))
        return made[-1], made[-1].places, made[-1].outputs

    monkeypatch.setattr(graphs, "EAGER_STEPS", 2)
    monkeypatch.setattr(StepGraphs, "_capture", capture)
    return made


def double(x, y):
    return 2 * x, None, x + y


@pytest.mark.fast
def test_a_step_is_replayed_after_its_first_calls_on_the_inputs_of_each(recorded):
    steps, kept = StepGraphs(), []
    for number in range(5):
        kept.append(steps.call("kind", double, [torch.full((3,), number), torch.ones(3)]))
    assert len(recorded) == 1 and recorded[0].replays == 3
    for number, (twice, nothing, more) in enumerate(kept):  # outputs are kept, whatever is replayed later
        assert nothing is None and twice.tolist() == [2 * number] * 3 and more.tolist() == [number + 1] * 3


@pytest.mark.fast
def test_kinds_shapes_and_types_have_graphs_of_their_own(recorded):
    steps = StepGraphs()
    inputs = [torch.ones(3), torch.ones(3)]
    for _ in range(3):
        steps.call("one", double, inputs)
        steps.call("other", double, inputs)
        steps.call("one", double, [torch.ones(4), torch.ones(4)])
        steps.call("one", double, [torch.ones(3, dtype=torch.int64), torch.ones(3)])
    assert len(recorded) == 4 and all(graph.replays == 1 for graph in recorded)


@pytest.mark.fast
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda steps: pickle.loads(pickle.dumps(steps))])
def test_a_copy_has_captured_nothing_and_neither_has_one_that_forgets(recorded, copied):
    steps, inputs = StepGraphs(), [torch.ones(3), torch.ones(3)]
    for _ in range(3):
        steps.call("kind", double, inputs)
    copied(steps).call("kind", double, inputs)
    steps.forget()
    steps.call("kind", double, inputs)
    assert len(recorded) == 1 and recorded[0].replays == 1


def trained(device, model, optimizer, intervals=4, **settings):
    """Parameters and signals of three training runs, of which one has fewer samples; and the trainer."""
    recipe = Recipe(optimizer=optimizer, lr=0.02, nesterov=False, batch_size=25)
    trainer = Trainer(Task(DATA, MODELS[model], recipe), 3, device, **settings)
    for k in range(3):
        trainer.start(k, k, DATA.train.labels)
    for interval in range(intervals):
        step(trainer, interval)
    return trainer


def step(trainer, interval):
    counts = (115, 115, 60 if interval % 2 else 0)
    order = torch.randperm(120, generator=torch.Generator().manual_seed(interval))[:115].expand(3, -1)
    place = torch.arange(115).expand(3, -1)
    index = torch.where(place < torch.tensor(counts)[:, None], order, 120).to(trainer.device)
    selection = StackedSelection(index, (index < 120).float(), counts)
    return trainer.train(selection, interval, [115 * interval] * 3, [1000] * 3)


def numbers(trainer):
    held = [value for k in range(3) for value in trainer.replicas.parameters_of(k).values()]
    return [*held, trainer.signals.loss, trainer.signals.margin]


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("model", MODELS)
def test_graphs_give_the_numbers_of_single_kernels(monkeypatch, model, optimizer, precision):
    settings = {"form": "stacked", "precision": precision}
    plain = trained("cuda", model, optimizer, **settings)
    assert not plain.replicas._graphs._captured
    monkeypatch.setattr(graphs, "EAGER_STEPS", 1)
    replayed = trained("cuda", model, optimizer, **settings)
    assert len(replayed.replicas._graphs._captured) >= 2
    for one, other in zip(numbers(plain), numbers(replayed), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


@pytest.mark.gpu
def test_a_copy_and_a_loaded_state_go_on_as_the_training_does(monkeypatch):
    monkeypatch.setattr(graphs, "EAGER_STEPS", 1)
    trainer = trained("cuda", "cnn", "adamw", form="stacked")
    twin, state = copy.deepcopy(trainer), copy.deepcopy(trainer.state_dict())
    ends = []
    for one in (trainer, twin, trainer):
        if len(ends) == 2:
            one.load_state_dict(state)
        for interval in range(4, 8):
            step(one, interval)
        ends.append([value.clone() for value in numbers(one)])
    for other in ends[1:]:
        assert all(torch.equal(*pair) for pair in zip(ends[0], other, strict=True))
