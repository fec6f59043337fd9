import math

import pytest
import torch
from torch.nn import functional

from dsenv.signals import EMA_DECAY, INFLUENCE_SHARE, SampleSignals

pytestmark = pytest.mark.fast


def literal(history, classes):
    """One sample's signals from its visits, written out: history of (loss, logits, label, step, rank)."""
    out = {"loss": math.log(classes), "loss_ema": math.log(classes), "loss_change": 0.0, "times_trained": 0}
    out |= {"last_step": -1, "forgetting_events": 0, "correct": 0.0}
    out |= {"influence": 0.0, "influence_variance": 0.0}
    for loss, logits, label, step in history:
        p = torch.softmax(logits.double(), 0)
        others = [float(p[c]) for c in range(classes) if c != label]
        correct = float(p[label] > max(others))
        first = out["times_trained"] == 0
        out["forgetting_events"] += int(out["correct"] == 1 and correct == 0)
        out["loss_ema"] = loss if first else EMA_DECAY * out["loss_ema"] + (1 - EMA_DECAY) * loss
        out["loss_change"] = 0.0 if first else loss - out["loss"]
        if out["times_trained"] == 1:
            out["influence"] = abs(out["loss_change"])
        elif not first:
            gap = abs(out["loss_change"]) - out["influence"]
            out["influence"] += INFLUENCE_SHARE * gap
            spread = out["influence_variance"] + INFLUENCE_SHARE * gap**2
            out["influence_variance"] = (1 - INFLUENCE_SHARE) * spread
        out |= {"loss": loss, "confidence": float(p[label]), "margin": float(p[label]) - max(others)}
        out["entropy"] = float(-(p * p.log()).sum() / math.log(classes))
        out |= {"correct": correct, "last_step": step}
        out["times_trained"] += 1
    return out


def test_update_equals_its_literal_definition():
    generator = torch.Generator().manual_seed(0)
    size, classes, signals = 12, 4, SampleSignals(12, 4)
    histories = {i: [] for i in range(size)}
    labels = torch.randint(0, classes, (size,), generator=generator)
    for step in range(6):
        index = torch.randperm(size, generator=generator)[:7]
        logits = 3 * torch.randn(7, classes, generator=generator)
        loss = functional.cross_entropy(logits, labels[index], reduction="none")
        signals.update(index, loss, logits, labels[index], step)
        for row, i in enumerate(index.tolist()):
            histories[i].append((float(loss[row]), logits[row], int(labels[i]), step))
    for i in range(size):
        for name, value in literal(histories[i], classes).items():
            assert float(getattr(signals, name)[i]) == pytest.approx(value, abs=1e-5), (name, i)


def test_replicas_are_independent_and_padding_is_never_read():
    classes, size = 3, 5
    both = SampleSignals(size, classes, replicas=2)
    index = torch.tensor([[0, 2, 4], [1, 5, 5]])  # the second replica has one sample and padding
    logits, labels = torch.randn(2, 3, classes), torch.zeros(2, 3, dtype=torch.int64)
    loss = torch.rand(2, 3)
    both.update(index, loss, logits, labels, step=0)
    alone = SampleSignals(size, classes, replicas=1)
    alone.update(index[1:, :1], loss[1:, :1], logits[1:, :1], labels[1:, :1], step=0)
    for name in both.names:
        torch.testing.assert_close(getattr(both, name)[1:], getattr(alone, name))
    assert both.times_trained[1].tolist() == [0, 1, 0, 0, 0]


def test_steps_may_differ_between_replicas():
    signals = SampleSignals(2, 2, replicas=2)
    index = torch.zeros(2, 1, dtype=torch.int64)
    signals.update(index, torch.ones(2, 1), torch.zeros(2, 1, 2), index, torch.tensor([3, 7]))
    assert signals.last_step.tolist() == [[3, -1], [7, -1]]


def test_loss_rank_is_the_rank_within_the_interval():
    signals = SampleSignals(6, 2)
    loss = torch.tensor([5.0, 1.0, 3.0])
    signals.update(torch.tensor([4, 0, 2]), loss, torch.zeros(3, 2), torch.zeros(3, dtype=torch.int64), 0)
    assert signals.loss_rank.tolist() == [0.0, 0.5, 0.5, 0.5, 1.0, 0.5]


def test_state_round_trip_and_reset():
    signals, other = SampleSignals(4, 3, replicas=2), SampleSignals(4, 3, replicas=2)
    index = torch.tensor([[0, 1], [2, 3]])
    signals.update(index, torch.rand(2, 2), torch.randn(2, 2, 3), torch.zeros_like(index), 0)
    other.load_state_dict(signals.state_dict())
    assert all(torch.equal(getattr(other, name), getattr(signals, name)) for name in signals.names)
    signals.reset([0])
    assert not signals.seen[0].any()
    assert torch.equal(signals.loss[1], other.loss[1])
    with pytest.raises(ValueError, match="shape"):
        SampleSignals(5, 3, replicas=2).load_state_dict(other.state_dict())


def test_parts_of_the_signals_hold_their_samples_and_take_padding():
    both = SampleSignals(4, 2, replicas=2)
    both.update(
        torch.tensor([[0, 1, 2, 3], [3, 2, 1, 0]]),
        torch.arange(8.0).view(2, 4),
        torch.zeros(2, 4, 2),
        torch.zeros(2, 4, dtype=torch.int64),
        0,
    )
    one = both.of_replica(1)
    assert one.loss.tolist() == [7, 6, 5, 4] and one.replicas is None
    assert one.as_replica().loss.tolist() == [[7, 6, 5, 4]] and one.as_replica().replicas == 1
    part, groups = both.of_replica(1, torch.tensor([3, 1])), one.grouped(torch.tensor([[3, 0], [1, 2]]))
    assert part.loss.tolist() == [4, 6] and part.size == 2
    assert groups.loss.tolist() == [[4, 7], [6, 5]] and (groups.size, groups.replicas) == (2, 2)
    for each, lead in ((part, ()), (groups, (2,))):  # index 2 is padding of either
        index = torch.full((*lead, 1), 2)
        each.update(index, torch.ones(*lead, 1), torch.zeros(*lead, 1, 2), torch.zeros_like(index), 1)
    assert part.loss.tolist() == [4, 6] and groups.loss.tolist() == [[4, 7], [6, 5]]
    assert one.loss.tolist() == [7, 6, 5, 4]


def test_unknown_signal_and_bad_sizes():
    with pytest.raises(AttributeError, match="no signal 'los'"):
        _ = SampleSignals(2, 2).los
    with pytest.raises(ValueError, match="size >= 1"):
        SampleSignals(0, 2)
    with pytest.raises(ValueError, match="classes >= 2, got 1 and 1"):
        SampleSignals(1, 1)


def test_repr_says_what_it_is():
    signals = SampleSignals(10, 3)
    index = torch.tensor([1, 4, 7])
    signals.update(index, torch.ones(3), torch.randn(3, 3), torch.zeros(3, dtype=torch.int64), 0)
    assert repr(signals) == "SampleSignals(10 samples, 3 classes, 3 seen)"
    assert repr(SampleSignals(10, 3, 4)) == "SampleSignals(4 replicas of 10 samples, 3 classes)"
    assert repr(SampleSignals(10, 3, device="meta")) == "SampleSignals(10 samples, 3 classes, meta)"
