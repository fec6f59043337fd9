"""Every selector on odd data: nothing seen, no finite loss yet, ties, one class, one sample, all samples."""

from typing import Any

import pytest
import torch

from dsenv.outputs import ModelOutputs
from dsenv.select.base import Selector, checked
from dsenv.select.registry import SELECTORS
from dsenv.signals import SampleSignals
from tests.select.test_selector_states import NAMES, build

pytestmark = pytest.mark.fast

CLASSES, WIDTH = 3, 4
KINDS = ("random", "ties", "one class", "all zero", "huge")


def outputs(size: int, kind: str, seed: int = 0) -> ModelOutputs:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(size, CLASSES, generator=generator)
    features = torch.randn(size, WIDTH, generator=generator)
    labels = torch.randint(CLASSES, (size,), generator=generator)
    if kind == "ties":
        logits, features = logits[:1].expand(size, -1), features[:1].expand(size, -1)
    if kind == "all zero":
        logits, features = torch.zeros_like(logits), torch.zeros_like(features)
    if kind == "huge":
        logits, features = 1e4 * logits, 1e4 * features
    if kind in ("one class", "ties"):
        labels = torch.zeros_like(labels)
    loss = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
    return ModelOutputs(torch.arange(size), labels, loss, logits, features)


def at(full: ModelOutputs, index: torch.Tensor) -> ModelOutputs:
    assert full.logits is not None and full.features is not None
    return ModelOutputs(index, full.labels[index], full.loss[index], full.logits[index], full.features[index])


def built(name: str, size: int) -> Selector:
    more: dict[str, Any] = {"irreducible": torch.zeros(size)} if name == "rho_loss" else {}
    return build(name, **more)


def check_all_counts(name: str, size: int, kind: str, share: float) -> None:
    """A run in which only a share of the samples ever gets a finite loss."""
    selector, signals = built(name, size), SampleSignals(size, CLASSES)
    full, finite = outputs(size, kind), torch.arange(int(share * size))
    if selector.needs_pass:
        selector.prepare(full, outputs(5, kind, 1))

    for epoch, count in enumerate((1, size, (size + 1) // 2, 1, size)):
        generator = torch.Generator().manual_seed(epoch)
        found = selector.select(signals, count, generator)
        found = checked(found, selector, count, size, signals.device)
        assert found.weight.isfinite().all()

        index = found.index[torch.isin(found.index, finite)]
        if len(index):
            batch = at(full, index)
            selector.observe(batch)
            assert batch.logits is not None
            signals.update(index, batch.loss, batch.logits, batch.labels, epoch)


@pytest.mark.parametrize("name", NAMES)
def test_the_number_is_right_and_every_sample_is_chosen_at_most_once(name: str) -> None:
    for kind in KINDS:
        for share in (0.0, 0.5, 1.0):
            check_all_counts(name, 7, kind, share)
        check_all_counts(name, 1, kind, 1.0)
        check_all_counts(name, 2, kind, 0.5)


@pytest.mark.parametrize("name", ["ucb", "epsilon_greedy", "el2n", "ranked by margin"])
def test_a_loss_that_is_not_finite_is_not_taken_in(name: str) -> None:
    full, bad = outputs(6, "random"), torch.tensor([0.0, float("nan"), 0.0, float("inf"), 0.0, 0.0])
    selector, clean = build(name), build(name)
    selector.observe(ModelOutputs(full.index, full.labels, full.loss + bad, full.logits, full.features))
    clean.observe(at(full, torch.tensor([0, 2, 4, 5])))
    one, other = selector.state_dict(), clean.state_dict()
    assert one["visits"].tolist() == [1, 0, 1, 0, 1, 1]
    assert all(torch.equal(one[key], other[key]) for key in one if key != "settings")


@pytest.mark.parametrize("name", [name for name in SELECTORS if built(name, 6).needs_pass])
def test_a_pass_that_is_not_finite_is_refused_with_the_positions(name: str) -> None:
    full = outputs(6, "random")
    assert full.logits is not None and full.features is not None
    full.logits[2, 1], full.features[2, 0] = float("nan"), float("inf")
    selector = built(name, 6)
    with pytest.raises(ValueError, match=r"1 samples of the training set, at positions \[2\]"):
        selector.prepare(full, outputs(5, "random"))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("count", [0, 7, -1, 2.5, True, None, "3", float("nan")])
def test_an_impossible_count_is_refused_by_name(name: str, count: Any) -> None:
    selector, full = built(name, 6), outputs(6, "random")
    if selector.needs_pass:
        selector.prepare(full, outputs(5, "random"))
    with pytest.raises(ValueError, match=r"1 to 6, got count="):
        selector.select(SampleSignals(6, CLASSES), count, torch.Generator())
