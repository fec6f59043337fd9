"""Values that are not finite are left out of what a plan learns, counted, and said once an epoch."""

import math
import subprocess
import sys
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dsenv import DataPlan, SampleSignals
from dsenv.augment import CONTROLLERS
from dsenv.outputs import ModelOutputs
from dsenv.plan import FeatureForward
from dsenv.plan.values import codes, described, is_finite, mended
from dsenv.select.registry import SELECTORS

SIZE, BATCH, CLASSES = 48, 8, 3
IMAGES = torch.rand(SIZE, 1, 4, 4, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(SIZE) % CLASSES
BAD = 5  # the sample whose values are not finite

SETTINGS: dict[str, Any] = {
    "rho_loss": {"irreducible": torch.linspace(0, 1, SIZE)},
    "data_agent": {"config": {"rollout": 2}},
}
UNHAPPY = {
    "nan": float("nan"),
    "inf": float("inf"),
    "-inf": -float("inf"),
}


def train(
    selector: str = "random",
    bad: float = float("nan"),
    when: Any = range(99),
    augment: Any = None,
    **settings: Any,
) -> tuple[DataPlan, list[list[int]]]:
    """A training run in which all that a model says of one sample is not finite in some epochs."""
    plan = DataPlan(
        (IMAGES, LABELS),
        **{"epochs": 4, "batch_size": BATCH, "ratio": 0.5, "uniform_epochs": 1, "seed": 2, **settings},
        selector={"name": selector, **SETTINGS.get(selector, {})},
        augment=augment,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(16, 6), nn.ReLU(), nn.Linear(6, CLASSES))
    forward = FeatureForward(model, model[-1])
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    chosen = []
    for epoch in plan.epochs_left():
        if plan.selector.needs_pass and epoch:
            plan.score(forward, (IMAGES, LABELS))
        chosen.append(plan.epoch_sampler.chosen.index.tolist())
        for batch in plan.batches():
            logits, features = forward(batch.inputs)
            is_bad = ((batch.index == BAD) & torch.tensor(epoch in when))[:, None]
            losses = F.cross_entropy(logits, batch.labels, reduction="none")
            seen = (torch.where(is_bad, bad, value.detach()) for value in (logits, features))
            told = dict(zip(("logits", "features"), seen, strict=True))
            plan.loss(batch, torch.where(is_bad[:, 0], bad, losses), **told, forward=forward)
            optimizer.zero_grad()
            losses.mean().backward()
            optimizer.step()
    return plan, chosen


def new_plan() -> DataPlan:
    """One that ranks samples by a pass over them."""
    settings: dict[str, Any] = {"epochs": 2, "batch_size": BATCH, "ratio": 0.5, "scoring_passes": 0}
    return DataPlan((IMAGES, LABELS), selector="el2n", **settings)


def numbers_in(state: Any) -> list[Tensor]:
    """All floating tensors of a state."""
    if isinstance(state, Tensor):
        return [state] if state.is_floating_point() else []
    items = state.values() if isinstance(state, dict) else state if isinstance(state, list | tuple) else []
    return [tensor for item in items for tensor in numbers_in(item)]


@pytest.mark.parametrize(
    ("name", "bad"),
    [
        *((name, "nan") for name in SELECTORS),
        *((name, bad) for name in ("infobatch", "ucb", "data_agent") for bad in ("inf", "-inf")),
    ],
)
def test_no_selector_takes_it_in(name: str, bad: str) -> None:
    with pytest.warns(UserWarning, match=rf"epoch \d: not finite: loss of 1 sample \(positions {BAD}\)"):
        plan, _ = train(name, UNHAPPY[bad], ratio=1.0 if name == "fixed_random" else 0.5)
    state = plan.state_dict()
    assert all(tensor.isfinite().all() for tensor in numbers_in(state))
    assert int(plan.nonfinite.nonzero().flatten()) == BAD


@pytest.mark.parametrize("name", sorted(set(CONTROLLERS) - {"none", "given"}))
def test_no_controller_takes_it_in(name: str) -> None:
    augment = {"name": name, **({"features": 6} if name == "ada_augment" else {})}
    with pytest.warns(UserWarning, match="not finite"):
        plan, _ = train(augment=augment, ratio=1.0)
    assert all(tensor.isfinite().all() for tensor in numbers_in(plan.state_dict()))


@pytest.mark.parametrize("name", ["small_loss", "ucb", "ranked", "order_dp", "infobatch", "epsilon_greedy"])
def test_a_sample_that_is_never_finite_is_not_chosen_for_that(name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _, chosen = train(name, epochs=8)
    assert sum(BAD in epoch for epoch in chosen[1:]) < 7, name


def test_after_one_nan_the_signals_go_on() -> None:
    with pytest.warns(UserWarning) as said:
        plan, _ = train(ratio=1.0, when=[2], epochs=5)
    messages = [str(warning.message) for warning in said]
    assert len(messages) == 1 and messages[0].startswith("epoch 2: not finite: loss of 1 sample")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        clean, _ = train(ratio=1.0, when=[], epochs=5)
    others = torch.arange(SIZE) != BAD
    for name in set(plan.signals.names) - {"loss_rank"}:
        found, wanted = (getattr(run.signals, name)[others] for run in (plan, clean))
        assert torch.equal(found, wanted), name
    for name in ("times_trained", "last_step", "loss", "confidence"):
        assert torch.equal(getattr(plan.signals, name), getattr(clean.signals, name)), name
    assert plan.nonfinite.tolist() == [int(place == BAD) for place in range(SIZE)]


def test_infobatch_prunes_and_weighs_as_before() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dirty, _ = train("infobatch", ratio=None, when=[1], tail=0.0)
        clean, _ = train("infobatch", ratio=None, when=[], tail=0.0)
    assert dirty.cost.trained < 4 * SIZE
    assert abs(dirty.cost.trained - clean.cost.trained) < SIZE


@pytest.mark.fast
def test_what_the_signals_do_with_samples_that_are_not_known() -> None:
    signals = SampleSignals(4, 3)
    index, logits, labels = torch.arange(3), torch.zeros(3, 3), torch.zeros(3, dtype=torch.int64)
    known = torch.tensor([True, True, False])
    signals.update(index, torch.tensor([1.0, 2.0, 3.0]), logits, labels, 0, known=known, filled=~known)
    assert signals.times_trained.tolist() == [1, 1, 1, 0]
    assert signals.loss.tolist()[:3] == [1, 2, 3]  # the third is what the caller puts in its place
    assert signals.loss_rank.tolist() == [0, 1, 0.5, 0.5]
    signals.update(index, torch.tensor([1.0, 2.0, 9.0]), logits, labels, 1, known=known)
    assert signals.loss.tolist() == pytest.approx([1, 2, 3, math.log(3)])
    assert signals.last_step.tolist() == [1, 1, 1, -1]


@pytest.mark.fast
def test_codes_and_the_mean_of_the_others() -> None:
    nan, inf = float("nan"), float("inf")
    seen = ModelOutputs(
        torch.arange(4),
        torch.tensor([0, 1, 7, -1]),
        torch.tensor([1.0, nan, 3.0, 5.0]),
        torch.tensor([[0.0, 2.0], [0.0, 0.0], [inf, 0.0], [2.0, 4.0]]),
        torch.tensor([[1.0], [2.0], [3.0], [-inf]]),
    )
    assert codes(seen).tolist() == [0, 1, 2, 4]
    assert codes(seen, 2).tolist() == [0, 1, 10, 12]
    found = mended(seen, codes(seen))
    assert found.loss.tolist() == [1, 1, 1, 1]
    assert found.logits is not None and found.logits.tolist() == [[0, 2]] * 4
    nothing = mended(seen, torch.ones(4, dtype=torch.uint8))
    assert nothing.loss.tolist() == [0] * 4
    words = described(codes(seen, 2))
    assert "not finite: loss of 1 sample (positions 1)" in words
    assert "no class: label of 2 samples (positions 2, 3)" in words
    assert is_finite(torch.tensor([[1e30, 1e38], [nan, 1]])).tolist() == [True, False]


@pytest.mark.fast
def test_a_scoring_pass_with_values_that_are_not_finite() -> None:
    plan = DataPlan(
        (IMAGES, LABELS), epochs=2, batch_size=BATCH, ratio=0.5, selector="el2n", scoring_passes=0
    )

    def forward(inputs: Tensor) -> Tensor:
        logits = inputs.flatten(1)[:, :CLASSES].clone()
        logits[(inputs == IMAGES[BAD]).flatten(1).all(1)] = float("nan")
        return logits

    with pytest.warns(
        UserWarning, match=rf"a pass over the data: not finite: loss of 1 sample.*\(positions {BAD}\)"
    ):
        plan.score(forward)
    assert all(tensor.isfinite().all() for tensor in numbers_in(plan.state_dict()))
    assert len(next(plan.batches()).index) == BATCH


class Mode(nn.Module):
    """Says in which mode it ran; BatchNorm and dropout inside."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.drop = nn.BatchNorm1d(16), nn.Dropout(0.5)
        self.head = nn.Linear(16, CLASSES)
        self.modes: list[bool] = []

    def forward(self, x: Tensor) -> Any:
        self.modes.append(self.training or self.norm.training or self.drop.training)
        return type("Output", (), {"logits": self.head(self.drop(self.norm(x.flatten(1))))})()


class Wrapper:
    def __init__(self, model: nn.Module) -> None:
        self.inner = model

    def predict(self, x: Tensor) -> Tensor:
        logits: Tensor = self.inner(x).logits
        return logits


@pytest.mark.fast
@pytest.mark.parametrize("kind", ["lambda", "method", "partial", "nested"])
def test_a_model_behind_any_function_is_in_evaluation_mode(kind: str) -> None:
    import functools

    model = Mode()
    model.norm.eval()  # a layer that the user froze stays so
    wrapper = Wrapper(model)
    forward = {
        "lambda": lambda x: model(x).logits,
        "method": wrapper.predict,
        "partial": functools.partial(lambda m, x: m(x).logits, model),
        "nested": lambda x: (lambda y: wrapper.predict(y))(x),
    }[kind]
    before = model.norm.running_mean.clone()
    plan = DataPlan(
        (IMAGES, LABELS), epochs=2, batch_size=BATCH, ratio=0.5, selector="el2n", scoring_passes=0
    )
    plan.score(forward)
    assert model.modes == [False]
    assert torch.equal(model.norm.running_mean, before)
    assert model.training and model.drop.training and not model.norm.training
    plan.score(forward)
    with pytest.raises(RuntimeError, match="mine"):
        plan.score(lambda x: model(x).logits / int("0") if False else fail(model, x))
    assert model.training and model.drop.training
    model(IMAGES)
    assert model.modes[-1] is True


def fail(model: nn.Module, x: Tensor) -> Tensor:
    model(x)
    raise RuntimeError("mine")


@pytest.mark.fast
@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"losses": np.ones(BATCH)}, "as a tensor of shape .8,., with its graph, got ndarray"),
        ({"losses": [1.0] * BATCH}, "got list"),
        ({"losses": "text"}, "got str 'text'"),
        ({"losses": None}, "got NoneType"),
        ({"losses": torch.ones(BATCH, dtype=torch.int64)}, "needs dense, floating losses, got torch.int64"),
        ({"losses": torch.ones(BATCH - 1)}, "1 samples of the batch are missing"),
        ({"losses": torch.ones(BATCH, 7)}, r"\(losses \* mask\)\.sum\(1\) / mask\.sum\(1\)"),
        (
            {"logits": np.ones((BATCH, CLASSES))},
            r"logits must be .* as a tensor, got ndarray",
        ),
        ({"logits": [[1.0] * CLASSES] * BATCH}, "as a tensor, got list"),
        ({"logits": "text"}, "as a tensor, got str"),
        ({"features": np.ones((BATCH, 2))}, "features must be .* as a tensor, got ndarray"),
        ({"logits": torch.ones(BATCH, CLASSES + 1)}, "logits must have shape"),
    ],
)
def test_what_is_no_tensor_of_the_right_shape_is_named(given: dict[str, Any], message: str) -> None:
    plan = DataPlan((IMAGES, LABELS), epochs=2, batch_size=BATCH)
    batch = next(plan.batches())
    with pytest.raises(ValueError, match=message):
        plan.loss(batch, **{"losses": torch.ones(BATCH), **given})
    plan.loss(batch, torch.ones(BATCH))


LEFT = """
import torch
from dsenv import DataPlan

plan = DataPlan((torch.rand(40, 3), torch.arange(40) % 4), epochs=3, batch_size=10, classes=4)
epochs = plan.epochs_left()
next(epochs)
plan.loss(next(plan.batches()), torch.full((10,), float("nan")))
"""


def test_a_loop_that_is_left_says_what_was_not_finite_but_not_at_the_end_of_python() -> None:
    plan = DataPlan((IMAGES, LABELS), epochs=3, batch_size=BATCH)
    with pytest.warns(UserWarning, match="epoch 0: not finite: loss of 8 samples"):
        for _ in plan.epochs_left():
            plan.loss(next(plan.batches()), torch.full((BATCH,), float("nan")))
            break
    done = subprocess.run([sys.executable, "-c", LEFT], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
