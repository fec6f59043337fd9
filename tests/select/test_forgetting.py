"""Forgetting: events counted by the book; never learned comes first."""

import itertools

import pytest
import torch

from dsenv.select.forgetting import Forgetting, forgetting_score
from dsenv.signals import SampleSignals

pytestmark = pytest.mark.fast


def signals_of(history: list[list[bool]]) -> SampleSignals:
    """Signals of samples whose predictions were right or wrong, one list of visits a sample."""
    signals, index = SampleSignals(len(history), 2), torch.arange(len(history))
    labels = torch.zeros_like(index)
    for step, right in enumerate(zip(*history, strict=True)):
        logits = torch.stack([torch.tensor(right).float(), torch.full((len(right),), 0.5)], 1)
        signals.update(index, torch.ones(len(right)), logits, labels, step)
    return signals


def test_score_equals_the_definition() -> None:
    generator = torch.Generator().manual_seed(0)
    history = (torch.rand(40, 5, generator=generator) < 0.4).tolist()
    signals = signals_of(history)
    expected = [
        float(sum(a and not b for a, b in itertools.pairwise(row))) if any(row) else torch.inf
        for row in history
    ]
    assert torch.inf in expected
    assert forgetting_score(signals.forgetting_events, signals.correct).tolist() == expected


def test_never_learned_first_then_most_forgotten() -> None:
    signals = signals_of(
        [[True, True, True, True], [True, False, True, False], [False] * 4, [False, True, False, True]]
    )
    index = Forgetting().select(signals, 4, torch.Generator().manual_seed(0)).index
    assert index.tolist() == [2, 1, 3, 0]


def test_recorded_counts_are_used_instead() -> None:
    recorded = signals_of([[True, False, True], [True, True, True], [False, False, False]])
    selector, generator = Forgetting(recorded), torch.Generator().manual_seed(0)
    assert selector.select(SampleSignals(3, 2), 3, generator).index.tolist() == [2, 0, 1]
    with pytest.raises(ValueError, match="recorded signals hold 3 samples, the running ones 4"):
        selector.select(SampleSignals(4, 2), 2, generator)
