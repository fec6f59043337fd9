"""What all controllers have in common, and the rule-based ones one by one."""

import importlib
import math
import sys
from importlib.abc import MetaPathFinder
from types import ModuleType

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import dsenv
from dsenv.augment import (
    CONTROLLERS,
    OPS,
    STANDARD_OPS,
    AugmentationController,
    EntAugment,
    FixedStrength,
    NoAugmentation,
    RandAugment,
    TrivialAugment,
    apply_ops,
    draw_ops,
    ent_loss,
    op_codes,
)
from dsenv.augment.ops import apply_drawn
from dsenv.outputs import ModelOutputs
from dsenv.signals import SampleSignals
from tests.augment.build import controller_for

pytestmark = pytest.mark.fast

SIZE, CLASSES = 60, 5
SETTINGS = {"ada_augment": {"features": 7, "epochs": 20}}


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def signals_after(logits: Tensor) -> SampleSignals:
    signals = SampleSignals(len(logits), logits.shape[1])
    labels = torch.zeros(len(logits), dtype=torch.int64)
    loss = F.cross_entropy(logits, labels, reduction="none")
    signals.update(torch.arange(len(logits)), loss, logits, labels, 0)
    return signals


def forward(seed: int, index: Tensor | None = None) -> ModelOutputs:
    """A random forward of all samples, or of some."""
    index = torch.arange(SIZE) if index is None else index
    logits = torch.randn(len(index), CLASSES, generator=rng(seed))
    labels = index % CLASSES
    features = torch.randn(len(index), 7, generator=rng(seed + 1000))
    return ModelOutputs(index, labels, F.cross_entropy(logits, labels, reduction="none"), logits, features)


def build(name: str) -> AugmentationController:
    return controller_for(SampleSignals(SIZE, CLASSES), name, **SETTINGS.get(name, {}))


def run(controller: AugmentationController, epochs: int, start: int = 0) -> None:
    """Show the controller some epochs."""
    for epoch in range(start, start + epochs):
        controller.observe(forward(epoch))
        if controller.extra_views:
            plain, current, full = (forward(epoch + 100 * view) for view in range(3))
            controller.observe_views(current, (plain, full), rng(epoch))
        controller.end_epoch()


@pytest.mark.parametrize("name", CONTROLLERS)
def test_strengths_are_in_range_and_global_stream_untouched(name) -> None:
    before = torch.random.get_rng_state()
    controller, signals = build(name), signals_after(3 * torch.randn(SIZE, CLASSES, generator=rng()))
    for epochs in (0, 3, 12):
        run(controller, epochs, controller.epoch)
        strength = controller.strengths(signals, torch.arange(SIZE), rng())
        assert strength.shape == (SIZE,) and strength.dtype == torch.float32
        assert ((strength >= 0) & (strength <= 1)).all()
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize("name", CONTROLLERS)
def test_augment_is_deterministic_and_keeps_shape(name, make_images) -> None:
    controller, signals = build(name), signals_after(torch.randn(SIZE, CLASSES, generator=rng()))
    run(controller, 12)
    if name == "given":
        controller.strength.fill_(0.7)
    images, index = make_images(40, 3, 17, 12), torch.randperm(SIZE, generator=rng())[:40]
    first, second = (controller.augment(images, signals, index, rng(5)) for _ in range(2))
    assert torch.equal(first, second) and first.shape == images.shape and first.dtype == torch.uint8
    if name != "none":
        assert not torch.equal(first, images)


@pytest.mark.parametrize("name", CONTROLLERS)
def test_state_dict_round_trip(name) -> None:
    signals, index = signals_after(torch.randn(SIZE, CLASSES, generator=rng())), torch.arange(SIZE)
    straight, first, second = build(name), build(name), build(name)
    run(straight, 14)
    run(first, 12)
    state = first.state_dict()
    run(first, 1, start=50)  # the state is a copy
    second.load_state_dict(state)
    run(second, 2, start=12)
    assert torch.equal(straight.strengths(signals, index, rng()), second.strengths(signals, index, rng()))
    assert straight.epoch == second.epoch == 14


@pytest.mark.parametrize("name", ["sada", "ada_augment"])
def test_state_of_another_size_is_refused(name) -> None:
    other = controller_for(SampleSignals(SIZE + 1, CLASSES), name, **SETTINGS.get(name, {}))
    with pytest.raises(
        ValueError,
        match=r"no state of (SADA|AdaAugment): .*'settings.size' = 60, here it is 61",
    ):
        other.load_state_dict(build(name).state_dict())


def test_strength_of_each_sample_reaches_its_op(make_images) -> None:
    """`augment` equals applying the drawn ops at `strengths`, sample by sample."""

    class PerSample(NoAugmentation):
        augment = AugmentationController.augment

        def strengths(self, signals, index, generator):
            del signals, generator
            return index / SIZE

    images, index = make_images(40, 3, 16, 16), torch.randperm(SIZE, generator=rng())[:40]
    result = PerSample().augment(images, SampleSignals(SIZE, CLASSES), index, rng(3))
    generator = rng(3)
    op = draw_ops(op_codes(STANDARD_OPS), 40, generator)
    assert torch.equal(result, apply_ops(images, op, index / SIZE, generator))
    unchanged = (result == images).flatten(1).all(1)
    assert unchanged[op == OPS.index("identity")].all() and not unchanged.all()


@pytest.mark.parametrize("name", CONTROLLERS)
def test_augment_is_its_draws_and_then_its_ops(name, make_images) -> None:
    controller, signals = build(name), signals_after(torch.randn(SIZE, CLASSES, generator=rng()))
    run(controller, 12)
    assert controller.draws_first == (name != "none")
    if not controller.draws_first:
        return
    images, index, generator = make_images(20, 3, 12, 9), torch.arange(20), rng(4)
    expected = controller.augment(images, signals, index, rng(4))
    draws = controller.draws(signals, index, generator)
    assert len(draws) == controller.ops_per_sample
    for draw in draws:
        images = apply_drawn(images, draw, controller.magnitudes)
    assert torch.equal(images, expected)


def test_padding_has_a_strength_too() -> None:
    index = torch.tensor([3, SIZE])
    assert EntAugment(warm_up=0).strengths(SampleSignals(SIZE, CLASSES), index, rng()).tolist() == [0, 0]


def test_augment_takes_stacked_batches(make_images) -> None:
    signals, index = SampleSignals(SIZE, CLASSES, replicas=2), torch.arange(20).view(2, 10)
    images = make_images(20, 1, 9, 9).view(2, 10, 1, 9, 9)
    for controller in (TrivialAugment(), EntAugment(0), FixedStrength(1.0), RandAugment()):
        assert controller.augment(images, signals, index, rng()).shape == images.shape


def test_wrong_number_of_indices_is_refused(make_images) -> None:
    with pytest.raises(ValueError, match="one index each"):
        TrivialAugment().augment(make_images(4, 1, 8, 8), SampleSignals(9, 2), torch.arange(3), rng())


def test_no_augmentation_is_free() -> None:
    images = torch.rand(3, 1, 4, 4)
    assert NoAugmentation().augment(images, SampleSignals(3, 2), torch.arange(3), rng()) is images


def test_fixed_strength_ramps_up() -> None:
    controller, seen = FixedStrength(0.8, ramp_epochs=4), []
    for _ in range(6):
        seen.append(float(controller.strengths(SampleSignals(2, 2), torch.arange(2), rng())[0]))
        controller.end_epoch()
    assert seen == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 0.8])


def test_trivial_augment_draws_31_levels_uniformly() -> None:
    strength = TrivialAugment().strengths(SampleSignals(31_000, 2), torch.arange(31_000), rng())
    counts = torch.bincount((strength * 30).round().long())
    assert len(counts) == 31 and counts.min() > 800 and counts.max() < 1200


def test_rand_augment_is_ops_in_a_row(make_images) -> None:
    images, signals = make_images(30, 3, 14, 14), SampleSignals(30, 2)
    result = RandAugment(3, 0.6).augment(images, signals, torch.arange(30), rng(1))
    generator = rng(1)
    for _ in range(3):
        op = draw_ops(op_codes(STANDARD_OPS), 30, generator)
        images = apply_ops(images, op, torch.full((30,), 0.6), generator)
    assert torch.equal(result, images)


def test_ent_augment_equals_its_definition() -> None:
    logits = 3 * torch.randn(SIZE, CLASSES, generator=rng())
    controller, index = EntAugment(warm_up=0), torch.tensor([3, 50, 7])
    strength = controller.strengths(signals_after(logits), index, rng())
    for row, sample in enumerate(index.tolist()):
        p = logits[sample].softmax(0).tolist()
        entropy = -sum(q * math.log(q) for q in p)
        assert float(strength[row]) == pytest.approx(1 - entropy / math.log(CLASSES), abs=1e-5)


def test_ent_augment_is_stronger_for_surer_predictions() -> None:
    logits = torch.zeros(20, CLASSES)
    logits[:, 0] = torch.linspace(0, 9, 20)
    strength = EntAugment(warm_up=0).strengths(signals_after(logits), torch.arange(20), rng())
    assert (strength.diff() > 0).all()
    assert strength[0] == pytest.approx(0, abs=1e-5) and strength[-1] > 0.95


def test_ent_augment_warms_up_with_random_levels() -> None:
    controller, signals, index = EntAugment(warm_up=2), SampleSignals(SIZE, CLASSES), torch.arange(SIZE)
    for _ in range(2):
        assert controller.strengths(signals, index, rng()).std() > 0.2
        controller.end_epoch()
    assert (controller.strengths(signals, index, rng()) == 0).all()  # never seen: uniform prediction


def test_ent_loss_is_cross_entropy_plus_entropy() -> None:
    labels, certain = torch.tensor([0, 1]), torch.tensor([[50.0, 0, 0], [0, 50, 0]])
    torch.testing.assert_close(ent_loss(certain, labels), torch.zeros(2))
    torch.testing.assert_close(ent_loss(torch.zeros(2, 3), labels), torch.full((2,), math.log(3) + 1))


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("sadda", {}, "Did you mean 'sada'"),
        ("fixed", {"strength": 1.2}, "strength must be in \\[0, 1\\]"),
        ("fixed", {"ramp_epochs": -1}, "ramp_epochs"),
        ("rand_augment", {"ops_per_sample": 0}, "NoAugmentation"),
        ("ent_augment", {"warm_up": -1}, "warm_up"),
        ("ada_augment", {}, "needs the setting 'features'"),
        ("none", {"strength": 1.0}, "setting of augment none"),
        ("trivial", {"ops": ["rotat"]}, "Did you mean 'rotate'"),
        ("trivial", {"ops": []}, "at least one op"),
    ],
)
def test_errors_name_the_value(name, settings, message) -> None:
    with pytest.raises(ValueError, match=message):
        controller_for(SampleSignals(SIZE, CLASSES), name, **settings)


class NoTorchvision(MetaPathFinder):
    """Fails where something imports torchvision."""

    def find_spec(self, fullname, path=None, target=None):
        del path, target
        assert not fullname.startswith("torchvision"), fullname


def test_torchvision_is_not_imported(monkeypatch) -> None:
    """The package and all that it imports of this library, imported afresh."""
    for name, value in list(vars(dsenv).items()):
        if isinstance(value, ModuleType):
            monkeypatch.setattr(dsenv, name, value)  # put back afterwards
    for name in list(sys.modules):
        if name.startswith(("dsenv.", "torchvision")):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [NoTorchvision(), *sys.meta_path])
    fresh = importlib.import_module("dsenv.augment")
    assert fresh.AugmentationController is not AugmentationController
    with pytest.raises(AssertionError, match="torchvision"):
        importlib.import_module("torchvision")


def test_as_many_ops_as_would_never_end_are_refused():
    with pytest.raises(
        ValueError, match="ops_per_sample must be a whole number from 1 to 100, got 1000000000"
    ):
        RandAugment(10**9)
