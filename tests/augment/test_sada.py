"""SADA against a slow literal form; its direction, warm-up and settings."""

import statistics
from itertools import pairwise

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from dsenv.augment import SADA, STANDARD_OPS, apply_ops, draw_ops, op_codes
from dsenv.augment.sada import stability_strength
from dsenv.outputs import ModelOutputs
from dsenv.signals import SampleSignals

pytestmark = pytest.mark.fast

SIZE, CLASSES, WINDOW, EMA, GUARD = 40, 4, 3, 0.9, 1e-8
SIGNALS = SampleSignals(SIZE, CLASSES)


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def visits(epochs: int, seed: int = 0) -> list[ModelOutputs]:
    """Random forwards of a random half to all of the samples, one an epoch."""
    generator, batches = rng(seed), []
    for epoch in range(epochs):
        index = torch.randperm(SIZE, generator=generator)[: SIZE if epoch % 2 else SIZE // 2]
        logits = 2 * torch.randn(len(index), CLASSES, generator=generator)
        labels = index % CLASSES
        batches.append(ModelOutputs(index, labels, F.cross_entropy(logits, labels, reduction="none"), logits))
    return batches


def slow_influence(estimator: str, now: tuple[float, Tensor], then: tuple[float, Tensor]) -> float:
    """One sample's influence from two (loss, log-probabilities)."""
    if estimator == "loss":
        return abs(now[0] - then[0])
    p, q = now[1].exp().tolist(), then[1].half().float().exp().tolist()
    if estimator == "kl":
        return sum(a * float(x - y) for a, x, y in zip(p, now[1], then[1].half().float(), strict=True))
    terms = (torch.tensor([a, b, GUARD], dtype=torch.float64) for a, b in zip(p, q, strict=True))
    return sum(abs(float(t[0] * ((t[0] + t[2]).log() - (t[1] + t[2]).log()))) for t in terms)


def slow_variances(estimator: str, batches: list[ModelOutputs]) -> list[float | None]:
    """The definition, sample by sample: influences, variance of the last window, moving average."""
    result: list[float | None] = []
    for sample in range(SIZE):
        views = []
        for batch in batches:
            for row in (batch.index == sample).nonzero().flatten().tolist():
                views.append((float(batch.loss[row]), batch.logits[row].log_softmax(0)))
        influences = [slow_influence(estimator, now, then) for then, now in pairwise(views)]
        smoothed = None
        for end in range(WINDOW, len(influences) + 1):
            variance = statistics.pvariance(influences[end - WINDOW : end])
            smoothed = variance if smoothed is None else EMA * smoothed + (1 - EMA) * variance
        result.append(smoothed)
    return result


def slow_strengths(variances: list[float | None]) -> list[float | None]:
    known = [v for v in variances if v is not None]
    low, high = min(known), max(known)
    return [None if v is None else 1 - (v - low) / (high - low) for v in variances]


# 5 epochs leave samples without a strength; 11 fill the window several times.
@pytest.mark.parametrize("epochs", [5, 11])
@pytest.mark.parametrize("estimator", ["loss", "kl", "tdds"])
def test_sada_equals_its_slow_definition(estimator, epochs) -> None:
    controller = SADA(SIZE, CLASSES, estimator=estimator, window=WINDOW, ema=EMA, clip=0, warm_up=0)
    batches = visits(epochs)
    for batch in batches:
        halves = (slice(0, 7), slice(7, None))
        for part in halves:
            controller.observe(
                ModelOutputs(batch.index[part], batch.labels[part], batch.loss[part], batch.logits[part])
            )
        controller.end_epoch()
    variances = slow_variances(estimator, batches)
    strengths = controller.state_dict()["strength"]
    for sample, (variance, strength) in enumerate(zip(variances, slow_strengths(variances), strict=True)):
        if variance is None or strength is None:
            assert strengths[sample].isnan()
        else:
            assert float(controller.variance[sample]) == pytest.approx(variance, rel=1e-3, abs=1e-6)
            assert float(strengths[sample]) == pytest.approx(strength, abs=1e-3)


@pytest.mark.parametrize("estimator", ["loss", "kl", "tdds"])
def test_stable_samples_are_augmented_more(estimator) -> None:
    """Predictions that move more from visit to visit give a lower strength, and reversed with `reverse`."""
    plain = SADA(SIZE, CLASSES, estimator=estimator, warm_up=0)
    reverse = SADA(SIZE, CLASSES, estimator=estimator, warm_up=0, reverse=True)
    index, labels = torch.arange(SIZE), torch.zeros(SIZE, dtype=torch.int64)
    unrest = torch.linspace(0, 3, SIZE)
    for epoch in range(9):
        logits = torch.zeros(SIZE, CLASSES)
        logits[:, 0] = 1 + unrest * (1.0, -1.0, 0.2)[epoch % 3]
        loss = F.cross_entropy(logits, labels, reduction="none")
        for controller in (plain, reverse):
            controller.observe(ModelOutputs(index, labels, loss, logits))
            controller.end_epoch()
    strength, reversed_strength = (c.strengths(SIGNALS, index, rng()) for c in (plain, reverse))
    assert strength[0] == 1 and strength[-1] == 0
    assert (strength.diff() <= 1e-5).all()
    torch.testing.assert_close(reversed_strength, 1 - strength)


def test_strength_reaches_the_pixels_of_each_sample(make_images) -> None:
    controller = SADA(SIZE, CLASSES, estimator="projection", warm_up=0)
    for size in (0.0, 1.0, 0.0):
        controller.record(torch.arange(SIZE), size * torch.linspace(0, 1, SIZE))
        controller.end_epoch()
    index = torch.randperm(SIZE, generator=rng())
    strength = controller.strengths(SIGNALS, index, rng())
    images, generator = make_images(SIZE, 3, 16, 16), rng(1)
    result = controller.augment(images, SIGNALS, index, rng(1))
    controller.strengths(SIGNALS, index, generator)
    op = draw_ops(op_codes(STANDARD_OPS), SIZE, generator)
    assert torch.equal(result, apply_ops(images, op, strength, generator))
    assert strength[index == 0] == 1 and strength[index == SIZE - 1] == 0
    assert torch.equal(result[index == SIZE - 1], images[index == SIZE - 1])


def test_warm_up_is_random_then_ends() -> None:
    controller = SADA(SIZE, CLASSES)
    assert controller.warm_up == 10 and SADA(SIZE, CLASSES, window=12).warm_up == 13
    index = torch.arange(SIZE)
    for batch in visits(10):
        one, other = (controller.strengths(SIGNALS, index, rng(seed)) for seed in (0, 1))
        assert not torch.equal(one, other)
        controller.observe(batch)
        controller.end_epoch()
    assert torch.equal(*(controller.strengths(SIGNALS, index, rng(seed)) for seed in (0, 1)))


def test_samples_with_few_visits_keep_random_levels() -> None:
    controller, index = SADA(SIZE, CLASSES, estimator="loss", warm_up=0), torch.arange(SIZE)
    some = torch.arange(SIZE // 2)
    for loss in (1.0, 0.3, 0.8, 0.1):
        controller.observe(ModelOutputs(some, some, loss * (1 + some)))
        controller.end_epoch()
    one, other = (controller.strengths(SIGNALS, index, rng(seed)) for seed in (0, 1))
    same = one == other
    assert same[: SIZE // 2].all() and not same[SIZE // 2 :].all()


def test_percentiles_keep_one_outlier_from_setting_the_scale() -> None:
    variance, known = torch.linspace(0, 1, 1000), torch.ones(1000, dtype=torch.bool)
    variance[-1] = 1e6
    assert stability_strength(variance, known, 0)[500] > 0.999
    assert stability_strength(variance, known, 0.01)[500] == pytest.approx(0.5, abs=0.01)


def test_scale_takes_nearest_percentiles_of_the_known() -> None:
    variance = torch.cat([torch.arange(101.0), torch.tensor([1e9, -1e9])])
    known = torch.arange(103) < 101
    strength = stability_strength(variance, known, 0.05)
    torch.testing.assert_close(strength[:101], (1 - (variance[:101] - 5) / 90).clamp(0, 1))
    assert strength[101:].isnan().all()


def test_odd_variances() -> None:
    known = torch.ones(4, dtype=torch.bool)
    assert (stability_strength(torch.full((4,), 3.0), known, 0.01) == 1).all()
    broken = stability_strength(torch.tensor([1.0, torch.nan, torch.inf, 2.0]), known, 0)
    assert broken.tolist() == [1, 0, 0, 0]
    assert stability_strength(torch.ones(4), ~known, 0).isnan().all()


def test_needs_are_declared_and_checked() -> None:
    assert SADA(3, 2, estimator="kl").needs_logits and not SADA(3, 2, estimator="loss").needs_logits
    index = torch.arange(3)
    with pytest.raises(ValueError, match="estimator='loss'"):
        SADA(3, 2).observe(ModelOutputs(index, index, torch.ones(3)))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"estimator": "kll"}, "Did you mean 'kl'"),
        ({"window": 1}, "window must be a whole number of at least 2, got 1; the variance"),
        ({"ema": 1.0}, "ema"),
        ({"clip": 0.5}, "clip"),
        ({"size": 0}, "size must be a whole number"),
    ],
)
def test_settings_are_checked(settings, message) -> None:
    with pytest.raises(ValueError, match=message):
        SADA(**({"size": 5, "classes": 3} | settings))


@pytest.mark.parametrize("estimator", ["kl", "tdds"])
def test_half_precision_logits_are_not_rounded_again(estimator: str) -> None:
    generator, index, labels = rng(), torch.arange(SIZE), torch.zeros(SIZE, dtype=torch.int64)
    first = (4 * torch.randn(SIZE, CLASSES, generator=generator)).bfloat16()
    epochs = [(first + 0.05 * step * torch.randn(SIZE, CLASSES, generator=generator)) for step in range(4)]
    halves = [logits.bfloat16() for logits in epochs]
    variances = []
    for cast in (torch.bfloat16, torch.float32):
        controller = SADA(SIZE, CLASSES, estimator=estimator, window=WINDOW)
        for logits in halves:
            controller.observe(ModelOutputs(index, labels, torch.ones(SIZE), logits.to(cast)))
        variances.append(controller.variance)
    assert torch.equal(*variances) and (variances[0] > 0).all()
