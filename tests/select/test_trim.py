"""Trim: the estimated rate, who is left out, and the draw from the rest."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from dsenv import DataPlan, SampleSignals
from dsenv.select.trim import PRIOR, Trim, TrimOracle, estimated_noise_rate, trimmed

pytestmark = pytest.mark.fast


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_the_rate_counts_only_where_the_model_is_confident():
    margin = torch.tensor([0.9] * 60 + [-0.9] * 30 + [0.4, -0.4] * 50 + [-1.0] * 7)
    seen = torch.arange(len(margin)) < 190
    assert float(estimated_noise_rate(margin, seen)) == pytest.approx(30 / (90 + PRIOR))
    assert float(estimated_noise_rate(margin, seen, 0.3)) == pytest.approx(80 / (190 + PRIOR))
    assert float(estimated_noise_rate(margin, torch.zeros_like(seen))) == 0


def test_the_rate_of_each_training_is_its_own():
    margin = torch.rand(3, 80, generator=generator()) * 2 - 1
    margin[0] = margin[0].abs()
    seen = torch.rand(3, 80, generator=generator(1)) < 0.7
    together = estimated_noise_rate(margin, seen)
    assert together.shape == (3,) and together[0] == 0 and (together[1:] > 0.2).all()
    for k in range(3):
        assert together[k] == estimated_noise_rate(margin[k], seen[k])


def test_the_largest_losses_are_left_out_and_the_rest_is_drawn_alike():
    loss, seen = torch.arange(100.0), torch.ones(100, dtype=torch.bool)
    times = torch.zeros(100)
    for seed in range(200):
        index = trimmed(loss, seen, 40, torch.tensor(0.3), generator(seed))
        assert len(index.unique()) == 40 and int(index.max()) < 70
        times[index] += 1
    assert times[:70].mean() == pytest.approx(200 * 40 / 70) and times[:70].std() < 12


def test_the_smallest_of_those_left_out_fill_up():
    index = trimmed(
        torch.arange(100.0), torch.ones(100, dtype=torch.bool), 80, torch.tensor(0.5), generator()
    )
    assert sorted(index.tolist()) == list(range(80))


def test_what_was_never_seen_is_never_left_out():
    loss, seen = torch.full((100,), 5.0), torch.arange(100) < 50
    loss[:50] = torch.arange(50.0)
    index = trimmed(loss, seen, 75, torch.tensor(0.5), generator())
    assert set(range(50, 100)) <= set(index.tolist()) and set(range(25)) == set(index.tolist()) - set(
        range(50, 100)
    )


def test_nothing_is_left_out_before_samples_were_visited_often_enough():
    signals = SampleSignals(100, 4)
    index = torch.arange(100)
    logits = torch.zeros(100, 4).scatter_(1, torch.ones(100, 1, dtype=torch.int64), 9.0)
    labels = torch.where(index < 60, 1, 2)  # the model is sure of class 1
    losses = F.cross_entropy(logits, labels, reduction="none")
    for visit in range(2):
        signals.update(index, losses, logits, labels, step=visit)
        chosen = Trim().select(signals, 50, generator()).index
        disagreeing = int((chosen >= 60).sum())
        assert disagreeing <= 4 if visit else disagreeing > 10  # 36 of 40 are left out; none
    assert Trim(rate=0.0).select(signals, 100, generator()).index.unique().numel() == 100


def test_a_small_estimate_counts_as_none():
    signals, index = SampleSignals(100, 4), torch.arange(100)
    logits = torch.zeros(100, 4).scatter_(1, torch.ones(100, 1, dtype=torch.int64), 9.0)
    labels = torch.where(index < 94, 1, 2)
    for visit in range(2):
        losses = F.cross_entropy(logits, labels, reduction="none")
        signals.update(index, losses, logits, labels, step=visit)
    assert float(estimated_noise_rate(signals.margin, signals.seen)) == pytest.approx(6 / 110)
    for least, left_out in ((0.08, 0), (0.05, 5)):
        chosen = Trim(least=least).select(signals, 94, generator()).index
        assert int((chosen >= 94).sum()) in ((1,) if left_out else (4, 5, 6))


@pytest.mark.parametrize("rate", [0.0, 0.25, 1.0])
def test_the_oracle_trims_the_rate_that_it_is_told(rate):
    signals, index = SampleSignals(100, 4), torch.arange(100)
    logits, labels = torch.randn(100, 4, generator=generator(1)), index % 4
    for visit in range(2):
        signals.update(index, torch.arange(100.0), logits, labels, step=visit)
    oracle = TrimOracle(noise_rate=rate)
    assert oracle.settings() == {"noise_rate": rate, "visits": 1.5}
    chosen = oracle.select(signals, 50, generator()).index
    if rate < 1:
        assert torch.equal(chosen, Trim(rate=rate).select(signals, 50, generator()).index)
    assert int(chosen.max()) < max(50, 100 * (1 - rate))


def test_the_oracle_must_be_told():
    data = torch.rand(20, 3), torch.arange(20) % 2
    with pytest.raises(ValueError, match="needs the setting 'noise_rate'"):
        DataPlan(data, epochs=1, batch_size=5, selector=TrimOracle)
    with pytest.raises(ValueError, match="noise_rate"):
        TrimOracle(noise_rate=1.5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rate": 1.0}, "rate"),
        ({"rate": -0.1}, "rate"),
        ({"confident": 0}, "confident"),
        ({"visits": -1}, "visits"),
        ({"least": 1}, "least"),
    ],
)
def test_wrong_settings_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        Trim(**settings)


@pytest.mark.parametrize("rate", [0.0, 0.4])
def test_in_a_training_run_the_estimate_is_near_the_truth_and_wrong_labels_stay_away(rate):
    draw = generator(1)
    centres = 3 * torch.randn(4, 8, generator=draw)
    labels = torch.randint(0, 4, (800,), generator=draw)
    inputs = centres[labels] + torch.randn(800, 8, generator=draw)
    wrong = torch.rand(800, generator=draw) < rate
    given = torch.where(wrong, (labels + torch.randint(1, 4, (800,), generator=draw)) % 4, labels)

    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Linear(8, 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    plan = DataPlan((inputs, given), epochs=10, batch_size=40, selector="trim", ratio=0.5)
    for _ in plan.epochs_left():
        chosen = []
        for batch in plan.batches():
            logits = model(batch.inputs)
            loss = plan.loss(batch, F.cross_entropy(logits, batch.labels, reduction="none"), logits=logits)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            chosen.append(batch.index)
        share = float(wrong[torch.cat(chosen)].float().mean())
    found = float(estimated_noise_rate(plan.signals.margin, plan.signals.seen))
    assert found == pytest.approx(rate, abs=0.06) and share < 0.06
