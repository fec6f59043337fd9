"""DivBS: the orthogonalised greedy rule on explicit gradients."""

import pytest
import torch
from torch import Tensor

from dsenv.outputs import ModelOutputs
from dsenv.select.divbs import DivBS, divbs
from dsenv.signals import SampleSignals
from dsenv.task_kinds.classification import label_errors
from tests.select.batches import random_batch

pytestmark = pytest.mark.fast


def slow_divbs(features: Tensor, errors: Tensor, picks: int) -> list[int]:
    """The rule by the book, with the gradients written out."""
    gradients = torch.einsum("bc,bd->bcd", errors, features).flatten(1)
    left, axes, chosen = gradients.mean(0), [], []
    for _ in range(picks):
        score = (gradients @ left).abs()
        score[chosen] = -1
        best = int(score.argmax())
        axis = gradients[best].clone()
        for earlier in axes:
            axis -= earlier * (earlier @ axis)
        axis /= axis.norm()
        axes.append(axis)
        chosen.append(best)
        left = left - axis * (axis @ left)
    return chosen


@pytest.mark.parametrize("seed", range(4))
def test_equals_its_definition(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(2, 20, 6, generator=generator, dtype=torch.float64)
    errors = torch.randn(2, 20, 4, generator=generator, dtype=torch.float64)
    errors[1, 17:] = 0  # padding
    place = divbs(features, errors)
    for row in range(2):
        assert place[row].argsort(stable=True)[:12].tolist() == slow_divbs(features[row], errors[row], 12)
    assert place[1, 17:].tolist() == [20, 20, 20]


def test_copies_are_not_kept_twice() -> None:
    generator = torch.Generator().manual_seed(0)
    features, logits = torch.randn(8, 5, generator=generator), torch.randn(8, 3, generator=generator)
    copies = torch.arange(32) % 8
    labels = (torch.arange(8) % 3)[copies]
    train = ModelOutputs(torch.arange(32), labels, torch.zeros(32), logits[copies], features[copies])
    selector = DivBS(batch=32)
    selector.prepare(train)
    chosen = selector.select(SampleSignals(32, 3), 8, generator).index
    assert set(copies[chosen].tolist()) == set(range(8))


def test_batches_are_ranked_apart_and_in_turn() -> None:
    generator = torch.Generator().manual_seed(0)
    features, logits = torch.randn(22, 6, generator=generator), torch.randn(22, 4, generator=generator)
    labels = torch.randint(4, (22,), generator=generator)
    selector = DivBS(batch=8, together=2)  # three batches: every third sample
    selector.prepare(ModelOutputs(torch.arange(22), labels, torch.zeros(22), logits, features))
    chosen = set(selector.select(SampleSignals(22, 4), 9, generator).index.tolist())
    for start in range(3):
        rows = torch.arange(start, 22, 3)
        errors = label_errors(logits[rows], labels[rows])
        assert chosen & set(rows.tolist()) == set(rows[slow_divbs(features[rows], errors, 3)].tolist())


def test_one_batch_at_a_time_ranks_as_several_do() -> None:
    batch, scores = random_batch(32), []
    for together in (1, 2, 64):
        selector = DivBS(batch=8, together=together)
        selector.prepare(batch)
        scores.append(selector.state_dict()["score"])
    assert torch.equal(scores[0], scores[1]) and torch.equal(scores[0], scores[2])


def test_settings_out_of_range_are_errors() -> None:
    with pytest.raises(ValueError, match="batch must be a whole number of at least 2, got 1"):
        DivBS(batch=1)
    with pytest.raises(ValueError, match="together must be a whole number of at least 1, got 0"):
        DivBS(together=0)
