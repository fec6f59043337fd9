"""Ranked and EL2N: which end is kept, and the score by its definition."""

import pytest
import torch

from dsenv.outputs import ModelOutputs
from dsenv.select.ranked import EL2N, Ranked, el2n
from dsenv.signals import SampleSignals

pytestmark = pytest.mark.fast


def graded_signals(size: int) -> SampleSignals:
    """Sample 0 is the easiest by every signal, the last one the hardest."""
    signals, index = SampleSignals(size, 2), torch.arange(size)
    labels = torch.zeros_like(index)
    logits = torch.stack([torch.linspace(4, 0.1, size), torch.zeros(size)], 1)
    loss = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
    signals.update(index, loss, logits, labels, 0)
    return signals


@pytest.mark.parametrize("by", ["loss", "loss_ema", "entropy", "label_margin"])
def test_the_hard_end_is_kept_by_default(by: str) -> None:
    signals, generator = graded_signals(10), torch.Generator().manual_seed(0)
    assert Ranked(by).select(signals, 3, generator).index.tolist() == [9, 8, 7]
    assert Ranked(by, keep="easiest").select(signals, 3, generator).index.tolist() == [0, 1, 2]


def margin_batch(seed: int = 0, size: int = 30) -> ModelOutputs:
    generator = torch.Generator().manual_seed(seed)
    logits, labels = 2 * torch.randn(size, 4, generator=generator), torch.arange(size) % 4
    loss = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
    return ModelOutputs(torch.arange(size), labels, loss, logits)


def test_margin_is_the_largest_probability_minus_the_second() -> None:
    batch, generator = margin_batch(), torch.Generator().manual_seed(0)
    assert batch.logits is not None
    selector, signals = Ranked("margin"), SampleSignals(30, 4)
    selector.observe(batch)
    signals.update(batch.index, batch.loss, batch.logits, batch.labels, 0)

    spread = [sorted(row.exp().div(row.exp().sum()).tolist())[-2:] for row in batch.logits]
    margins = [largest - second for second, largest in spread]
    order = sorted(range(30), key=margins.__getitem__)
    assert set(selector.select(signals, 9, generator).index.tolist()) == set(order[:9])

    other = Ranked("margin", keep="easiest")
    other.load_state_dict({**selector.state_dict(), "settings": other.settings()})
    assert set(other.select(signals, 9, generator).index.tolist()) == set(order[-9:])


def test_a_confidently_wrong_sample_is_hard_by_the_label_margin_alone() -> None:
    logits = torch.tensor([[9.0, 0.0], [0.1, 0.0], [0.0, 9.0], [9.0, 0.0]])  # sure, unsure, wrong, sure
    labels, index = torch.zeros(4, dtype=torch.int64), torch.arange(4)
    loss = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
    signals, chosen = SampleSignals(4, 2), {}
    signals.update(index, loss, logits, labels, 0)
    for by in ("margin", "label_margin"):
        selector = Ranked(by)
        selector.observe(ModelOutputs(index, labels, loss, logits))
        chosen[by] = selector.select(signals, 1, torch.Generator().manual_seed(0)).index.item()
    assert chosen == {"margin": 1, "label_margin": 2}


def test_only_the_margin_is_kept_by_the_selector() -> None:
    batch = margin_batch()
    for by in ("loss", "loss_ema", "entropy", "label_margin"):
        selector = Ranked(by)
        selector.observe(batch)
        assert not selector.observes and selector.state_dict() == {}
    assert Ranked("margin").observes and not Ranked.observes


def test_only_signals_of_the_outputs_need_logits() -> None:
    assert Ranked("entropy").needs_logits and Ranked("margin").needs_logits
    assert not Ranked("loss").needs_logits and not Ranked("loss_ema").needs_logits


def test_el2n_equals_its_definition() -> None:
    generator = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(20, 4, generator=generator), torch.randint(4, (20,), generator=generator)
    for score, row, label in zip(el2n(logits, labels), logits, labels, strict=True):
        error = row.exp() / row.exp().sum()
        error[label] -= 1
        torch.testing.assert_close(score, sum(e**2 for e in error) ** 0.5)


def test_el2n_is_the_mean_of_the_first_visits_and_keeps_the_hard_end() -> None:
    generator, labels = torch.Generator().manual_seed(0), torch.zeros(6, dtype=torch.int64)
    hardest, easiest = EL2N(visits=3), EL2N(keep="easiest", visits=3)
    scores = []
    for _ in range(5):
        logits = torch.randn(6, 3, generator=generator)
        scores.append(el2n(logits, labels))
        for selector in (hardest, easiest):
            selector.observe(ModelOutputs(torch.arange(6), labels, torch.zeros(6), logits))
    mean = torch.stack(scores[:3]).mean(0)
    torch.testing.assert_close(hardest.state_dict()["el2n"], mean)
    signals = graded_signals(6)
    order = mean.argsort().tolist()
    assert easiest.select(signals, 3, generator).index.tolist() == order[:3]
    assert hardest.select(signals, 3, generator).index.tolist() == order[:2:-1]


def test_unknown_names_are_errors_with_a_hint() -> None:
    with pytest.raises(ValueError, match="Did you mean 'entropy'"):
        Ranked("entropi")
    with pytest.raises(ValueError, match="Did you mean 'hardest'"):
        EL2N(keep="hard")
    with pytest.raises(ValueError, match="visits must be a whole number of at least 1, got 0"):
        EL2N(visits=0)
