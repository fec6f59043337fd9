"""A guard finds a choice that does harm, keeps what does good, and learns from nothing that is trained on."""

import copy
import math
import re
import warnings
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dsenv import DataPlan, Guard, Selection, Selector
from dsenv.control.registry import make_control
from dsenv.plan.evidence import CLIP, Contrast, contradicted
from dsenv.plan.guard import LEAST, draw_reserve
from dsenv.plan.plan_guard import PlanGuard, places
from dsenv.policy import Policy
from dsenv.tracking import names
from tests.plan.loops import TRAIN, Digits, Loop, new_model, new_plan, same_batches, same_weights, scale
from tests.plan.test_resume import resumed
from tests.policy.policies import new_policy

IMAGES, LABELS = TRAIN
SIZE, EPOCHS = len(LABELS), 10
RESERVE = round(0.04 * SIZE)


def constant(action: Any, **settings: Any) -> Policy:
    """A policy that always gives the same action."""
    policy = new_policy(validation_shown=0.0, **settings)
    with torch.no_grad():
        last = policy.actor.network.layers[1]
        last.weight.zero_()
        last.bias.copy_(torch.as_tensor(np.asarray(action), dtype=torch.float32))
    return policy


def of_weights(*weights: float) -> Policy:
    """A policy of the control "curriculum" that always weighs the loss bins so, in log weights."""
    return constant(make_control({"name": "curriculum"}, 5, 0.5).encode(log_weight=np.array(weights)))


HARDEST, EASIEST = of_weights(-5, -2.5, 0, 2.5, 5), of_weights(2, 2, 2, 0, -5)


def noisy(rate: float) -> Tensor:
    """The labels of which a share is another class."""
    draw = torch.Generator().manual_seed(0)
    is_wrong = torch.rand(SIZE, generator=draw) < rate
    return torch.where(is_wrong, (LABELS + torch.randint(1, 10, (SIZE,), generator=draw)) % 10, LABELS)


def plan_of(labels: Tensor = LABELS, **settings: Any) -> DataPlan:
    known = {"epochs": EPOCHS, "batch_size": 32, "ratio": 0.5, "transform": scale, **settings}
    return DataPlan((IMAGES, labels), **known)


def run(plan: DataPlan, seed: int = 0, *, scores: bool = False) -> Iterator[int]:
    """Train a model; yields after each epoch's last batch."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for epoch in plan.epochs_left():
        for batch in plan.batches():
            logits = model(batch.inputs)
            loss = plan.loss(batch, F.cross_entropy(logits, batch.labels, reduction="none"), logits=logits)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        if scores:
            plan.score_reserve(model)
        yield epoch


def shares(plan: DataPlan, **how: Any) -> list[float]:
    """The share of the policy in each epoch of a whole training run."""
    return [plan.metrics()[names.GUARD_SHARE] for _ in run(plan, **how)]


# What it finds


def test_the_largest_losses_under_wrong_labels_are_found_and_said_once() -> None:
    plan = plan_of(noisy(0.4), policy=HARDEST)
    with pytest.warns(UserWarning, match="the guard has taken") as caught:
        found = shares(plan)
    said = [str(warning.message) for warning in caught]
    (words,) = [each for each in said if "guard" in each]
    assert re.search(r"epoch \d: .* back to \d+% of an epoch, and draws the rest by 'trim'", words)
    assert re.search(r"contradicts \d+% of the labels that it chose last, and \d+% of the others'", words)
    assert "selector='trim' instead" in words and "guard=False" in words
    assert found[0] == 0.25 and found[1] == 0.75
    assert max(found[-2:]) < 0.1
    assert plan.metrics()[names.GUARD_WARNED] == 1


def test_a_choice_with_fewer_wrong_labels_is_trusted() -> None:
    plan = plan_of(noisy(0.4), policy=EASIEST, guard=Guard(safe="random"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = shares(plan)
    assert found[:2] == [0.25, 0.75] and min(found[-2:]) > 0.8
    assert plan.metrics()[names.GUARD_WARNED] == 0


def test_without_noise_nothing_is_said() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = shares(plan_of(policy=of_weights(0, 0, 0, 0, 0)))
    assert all(0.1 < share < 0.9 for share in found)


# The reserve


@pytest.mark.fast
def test_the_reserve_is_never_trained_on_and_rides_in_the_last_steps() -> None:
    plan = plan_of(policy=HARDEST, seed=3)
    guard = plan.guard
    assert guard is not None and len(guard.reserve) == RESERVE
    for epoch in plan.epochs_left():
        ridden = 0
        for batch in plan.batches():
            inside = guard.holds(batch.index)
            assert torch.equal(inside, batch.weight == 0)
            torch.testing.assert_close(batch.weight.sum(), torch.tensor(float(len(batch.index))))
            assert int(inside.sum()) <= len(batch.index) / 2
            ridden += int(inside.sum())
            plan.loss(batch, batch.labels.float(), logits=F.one_hot(batch.labels, 10).float())
        assert ridden == (RESERVE if 0 < epoch < EPOCHS - 1 else 0)
    assert int(plan.signals.times_trained[guard.reserve].sum()) == 0
    assert bool((plan.signals.loss[guard.reserve] == math.log(10)).all())
    (runner,) = plan.epoch_sampler.policies.runners
    assert plan.cost.trained == EPOCHS * (SIZE // 2) == int(runner.budget.spent[0])
    assert int(plan.signals.times_trained.sum()) == plan.cost.trained - (EPOCHS - 2) * RESERVE
    assert guard.agreement() == 1


@pytest.mark.fast
def test_each_class_has_its_share_of_the_reserve() -> None:
    labels = torch.cat([torch.zeros(800), torch.ones(150), torch.full((50,), 2.0)]).long()
    order = torch.randperm(1000, generator=torch.Generator().manual_seed(0))
    drawn = draw_reserve(Guard(share=0.1), labels[order], 1000, 10, 1000.0, 0)
    assert len(set(drawn.tolist())) == 100
    assert np.bincount(labels[order][drawn]).tolist() == [80, 15, 5]
    kinds = (labels[order].tolist(), labels[order].numpy(), labels[order].float(), [[1], [2, 3]] * 500, None)
    again = [draw_reserve(Guard(share=0.1), each, 1000, 10, 1000.0, 0).tolist() for each in kinds]
    assert again[0] == again[1] == drawn.tolist() and again[2] == again[3] == again[4] != again[0]
    other = draw_reserve(Guard(share=0.1), labels[order], 1000, 10, 1000.0, 1)
    assert set(other.tolist()) != set(drawn.tolist())


@pytest.mark.fast
@pytest.mark.parametrize(
    ("size", "epochs", "mean", "share", "number"),
    [
        (2000, 12, 1000, 0.04, 80),
        (2000, 12, 300, 0.04, 30),  # a tenth of an epoch
        (400, 12, 200, 0.04, LEAST),
        (300, 12, 150, 0.04, 0),  # too few to tell
        (2000, 7, 1000, 0.04, 0),  # over before they speak
        (2000, 12, 1000, 0.0, 0),
        (10**6, 12, 10**6, 0.04, 2000),
    ],
)
def test_how_large_the_reserve_is(size: int, epochs: int, mean: float, share: float, number: int) -> None:
    assert len(draw_reserve(Guard(share=share), None, size, epochs, mean, 0)) == number


def test_labels_of_the_reserve_do_not_reach_the_model_before_they_are_weighed() -> None:
    """Other labels there: the same batches and gradients until the first contrast, after epoch 4."""
    plans = [plan_of(noisy(0.2), policy=HARDEST)]
    labels = noisy(0.2)
    reserve = plans[0].guard.reserve
    labels[reserve] = (labels[reserve] + 1) % 10
    other = plan_of(labels, policy=HARDEST)
    other._feedback.guard._keep(reserve)  # its own is drawn by class, from other labels
    other.epoch_sampler.policies.leave_out(reserve)
    plans.append(other)
    models = [new_model().model for _ in plans]
    for plan, model in zip(plans, models, strict=True):
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        for epoch in plan.epochs_left():
            for batch in plan.batches():
                logits = model(batch.inputs)
                losses = F.cross_entropy(logits, batch.labels, reduction="none")
                optimizer.zero_grad()
                plan.loss(batch, losses, logits=logits).backward()
                optimizer.step()
            if epoch == 4:
                break
    pairs = zip(models[0].parameters(), models[1].parameters(), strict=True)
    assert all(torch.equal(one, two) for one, two in pairs)
    assert plans[0].guard.agreement() != plans[1].guard.agreement()


def test_a_scored_reserve_does_not_ride_and_costs_a_third() -> None:
    plan = plan_of(noisy(0.4), policy=HARDEST)
    with pytest.warns(UserWarning, match="never trained on, the model agrees with|the guard has taken"):
        found = shares(plan, scores=True)
    assert max(found[-2:]) < 0.1
    assert plan.cost.trained == int(plan.signals.times_trained.sum()) == EPOCHS * (SIZE // 2)
    assert plan.cost.extra_forwards == EPOCHS * RESERVE
    assert plan.cost.compute == pytest.approx(plan.cost.trained + EPOCHS * RESERVE / 3)


def test_a_reserve_of_any_source_is_scored() -> None:
    model = new_model()
    agreed = []
    for data in ((IMAGES, LABELS), (IMAGES.numpy(), LABELS.numpy()), Digits()):
        plan = DataPlan(
            data, epochs=EPOCHS, batch_size=64, policy=HARDEST, ratio=0.5, transform=scale, classes=10
        )
        plan.guard._keep(torch.arange(60))
        batch = next(iter(plan.batches() if isinstance(data, tuple) else plan.loader()))
        plan.loss(batch, batch.labels.float(), logits=torch.randn(len(batch.index), 10))
        plan.score_reserve(model, batch_size=7)
        agreed.append(plan.guard.agreement())
        assert plan.cost.extra_forwards == 60
    said = model.model(scale(IMAGES[:60])).argmax(1)
    assert agreed == pytest.approx([float((said == LABELS[:60]).float().mean())] * 3)


@pytest.mark.fast
def test_scoring_at_the_wrong_moment_says_when() -> None:
    with pytest.raises(ValueError, match=r"no guard, so no reserve to score: give DataPlan\(guard=True\)"):
        new_plan().score_reserve(new_model())
    with pytest.raises(ValueError, match=r"nothing of epoch 0 was trained on yet.*after the epoch's last"):
        plan_of(policy=HARDEST).score_reserve(new_model())


@pytest.mark.fast
def test_a_reserve_scored_too_early_or_twice_says_so() -> None:
    plan, model = plan_of(selector="small_loss", guard=True), new_model()
    for _ in plan.epochs_left():
        for number, batch in enumerate(plan.batches()):
            plan.loss(batch, torch.rand(len(batch.index)), logits=torch.rand(len(batch.index), 10))
            if not number:
                with pytest.warns(
                    UserWarning, match=r"scored after \d+ of the \d+ samples of epoch 0: score it"
                ):
                    plan.score_reserve(model)
        with pytest.warns(UserWarning, match="measured in this epoch already: the last pass counts"):
            plan.score_reserve(model)
        break


@pytest.mark.fast
@pytest.mark.parametrize(("count", "size"), [(200, 199), (201, 50), (13, 4), (100, 3)])
def test_no_batch_is_of_the_reserve_alone(count: int, size: int) -> None:
    where, factor = places(count, count // 4, count, size)
    assert where.sum() == count // 4
    for start in range(0, count, size):
        weight = np.where(where, 0, factor)[start : start + size]
        assert weight.mean() == pytest.approx(1)


def test_a_sample_of_the_reserve_that_is_not_finite_is_named_by_its_position_in_the_data() -> None:
    plan, model = plan_of(selector="small_loss", guard=True), new_model()
    broken = int(plan.guard.reserve[3])
    for _ in plan.epochs_left():
        for batch in plan.batches():
            plan.loss(batch, torch.rand(len(batch.index)), logits=torch.rand(len(batch.index), 10))

        def forward(inputs: Tensor) -> Tensor:
            logits, _ = model(inputs)
            logits[3] = math.nan
            return logits

        with pytest.warns(UserWarning, match=rf"\(positions {broken}\)"):
            plan.score_reserve(forward, batch_size=1000)
        break


def test_the_only_sample_of_a_class_is_never_of_the_reserve() -> None:
    labels = np.array([0] * 500 + [1] * 480 + list(range(2, 22)))
    drawn = [draw_reserve(Guard(), labels, 1000, 12, 500, seed) for seed in range(50)]
    assert all(len(reserve) == 40 and labels[reserve].max() < 2 for reserve in drawn)
    assert not len(draw_reserve(Guard(), np.arange(1000), 1000, 12, 500, 0))  # nothing to keep from training


def test_places_are_the_last_and_weights_even() -> None:
    draw = np.random.default_rng(0)
    for _ in range(200):
        size = int(draw.integers(1, 12))
        count = int(draw.integers(4, 100))
        end = count - count % size if draw.random() < 0.5 else count
        if end < 4:
            continue
        riding = int(draw.integers(1, end // 3 + 1))
        where, factor = places(count, riding, end, size)
        assert int(where.sum()) == riding and not where[end:].any()
        numbers = np.arange(end) // size
        per_batch = np.bincount(numbers, where[:end])
        assert (np.diff(per_batch[:-1]) >= 0).all()  # more in later ones; the last may be smaller
        for batch in range(numbers.max() + 1):
            inside = numbers == batch
            trained = inside & ~where[:end]
            if trained.any():
                assert factor[:end][trained].sum() == pytest.approx(inside.sum(), rel=1e-5)


# The evidence, against its slow definition


@pytest.mark.fast
def test_contradicted_labels_are_compared_class_by_class() -> None:
    draw = torch.Generator().manual_seed(0)
    margin = torch.rand(500, generator=draw) * 2 - 1
    label = torch.randint(4, (500,), generator=draw)
    group = torch.randint(3, (500,), generator=draw)
    found = contradicted(margin, label, group == 1, group == 2, 4)
    total = gap = 0.0
    for c in range(4):
        sure = [(label == c) & (group == g) & (margin.abs() > 0.5) for g in (1, 2)]
        counts = [int(rows.sum()) for rows in sure]
        wrong = [int((rows & (margin < 0)).sum()) for rows in sure]
        weight = counts[0] * counts[1] / sum(counts)
        total += weight
        gap += weight * (wrong[1] / counts[1] - wrong[0] / counts[0])
    assert found.difference == pytest.approx(gap / total)
    sure = [(group == g) & (margin.abs() > 0.5) for g in (1, 2)]
    rates = [float((rows & (margin < 0)).sum() / (rows.sum())) for rows in sure]
    assert [found.chosen, found.safe] == pytest.approx(rates)
    assert found.number == min(int(rows.sum()) for rows in sure)
    assert 0 < found.error < 0.1

    # One class that is contradicted more, and chosen more, speaks for nobody
    margin = torch.tensor([-0.9, 0.9] * 100 + [0.9] * 200)
    label = torch.tensor([0] * 200 + [1] * 200)
    chosen = torch.zeros(400, dtype=torch.bool)
    chosen[:150] = chosen[200:220] = True
    found = contradicted(margin, label, chosen, ~chosen, 2)
    assert found.chosen > found.safe + 0.2 and found.difference == pytest.approx(0, abs=1e-9)


@pytest.mark.fast
def test_the_contrast_equals_its_definition() -> None:
    draw = torch.Generator().manual_seed(1)
    scores = -3 * torch.rand(9, 40, generator=draw)
    used = [0.25, 0.75, 0.3, 0.7, 0.1, 0.5, 0.0, 0.2, 0.9]
    contrast = Contrast(40, torch.device("cpu"))
    for interval, (score, share) in enumerate(zip(scores, used, strict=True)):
        contrast.add(score, share, interval)
    clipped = scores.clamp(min=-CLIP)
    terms = []
    for t in range(3, 8):
        own = clipped[t] - clipped[t - 1]
        around = (clipped[t - 1] - clipped[t - 2] + clipped[t + 1] - clipped[t]) / 2
        terms.append((used[t] - (used[t - 1] + used[t + 1]) / 2) * (own - around))
    torch.testing.assert_close(contrast.terms, torch.stack(terms), rtol=1e-4, atol=1e-6)
    sums = [sum(terms)] + [sum(terms[: max(0, k - 1)] + terms[k + 2 :]) for k in range(len(terms))]
    found = [float(each.mean() / (each.std() / math.sqrt(40))) for each in sums]
    weakest = min(found, key=abs) if len({value > 0 for value in found}) == 1 else 0
    assert contrast.score() == pytest.approx(weakest, rel=1e-3)
    contrast.forget_recent()
    contrast.add(scores[0], 0.5, 9)
    assert len(contrast.terms) == 5 and len(contrast.recent) == 1


@pytest.mark.fast
def test_one_interval_alone_decides_nothing() -> None:
    draw = torch.Generator().manual_seed(3)
    contrast = Contrast(80, torch.device("cpu"))
    level = torch.full((80,), -1.9)
    for epoch in range(12):
        jump = 0.8 if epoch == 7 else 0.0  # the labels that all choices have become better, say
        level = level + 0.02 + jump + 0.05 * torch.randn(80, generator=draw)
        contrast.add(level, 0.75 if epoch % 2 else 0.25, epoch)
        assert abs(contrast.score()) < 2, epoch


@pytest.mark.fast
def test_a_model_that_gains_in_epochs_with_more_of_the_choice_is_seen() -> None:
    draw = torch.Generator().manual_seed(2)
    for sign in (1, -1):
        contrast = Contrast(80, torch.device("cpu"))
        score = torch.full((80,), -1.9)
        for epoch in range(12):
            share = 0.75 if epoch % 2 else 0.25
            trend = 0.3 * 0.7**epoch
            score = score + trend + sign * 0.1 * (share - 0.5) + 0.05 * torch.randn(80, generator=draw)
            contrast.add(score, share, epoch)
        assert sign * contrast.score() > 3


# Which plans have one


@pytest.mark.fast
def test_learned_parts_are_guarded_unless_the_user_says_no() -> None:
    assert plan_of().guard is None and plan_of(selector="small_loss").guard is None
    assert plan_of(policy=HARDEST, guard=False).guard is None
    for control in ("curriculum", "mask", "joint", "ratio", "strength"):
        plan = plan_of(policy=new_policy(control, validation_shown=0.0))
        assert plan.guard.settings == Guard()
        assert plan.guard.has_choice == (control in ("curriculum", "mask", "joint"))
    part = {"name": "learned", "policy": HARDEST}
    assert plan_of(selector=part).guard.has_choice
    for guard in (True, Guard(), {}):
        assert plan_of(selector="small_loss", guard=guard).guard.has_choice
    assert plan_of(policy=HARDEST, guard={"safe": "random", "share": 0.05}).guard.settings.safe == "random"
    # A selector of the user's own beside a learned volume is not what is guarded
    plan = plan_of(selector="small_loss", policy=new_policy("ratio", validation_shown=0.0))
    assert plan.guard is not None and not plan.guard.has_choice


@pytest.mark.fast
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"guard": True}, "guard=True has nothing to guard: .*UniformRandom is a safe choice itself"),
        ({"guard": Guard(), "selector": "trim"}, "nothing to guard"),
        ({"guard": "yes"}, r"guard must be True, False, a dsenv\.Guard or a table .*share.*got 'yes'"),
        ({"guard": 0.04, "policy": HARDEST}, "got 0.04"),
        ({"guard": {"shares": 0.04}, "policy": HARDEST}, "shares"),
        ({"guard": {"share": 0.5}, "policy": HARDEST}, r"guard\.share must be in \[0, 0\.2\], got 0\.5"),
        ({"guard": {"safe": "infobatch"}, "policy": HARDEST}, "There are: random, trim"),
        ({"guard": {"start": 1.0}, "policy": HARDEST}, r"guard\.start must be in \(0, 1\)"),
        ({"guard": {"swing": -0.1}, "policy": HARDEST}, r"guard\.swing"),
    ],
)
def test_what_is_no_guard_says_what_is(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plan_of(**settings)


@pytest.mark.fast
def test_a_choice_of_ones_own_is_asked_for_logits() -> None:
    plan = plan_of(selector="ucb", guard=True)
    batch = next(iter(plan.batches()))
    with pytest.raises(ValueError, match="Guard needs the logits of every training batch"):
        plan.loss(batch, torch.rand(len(batch.index)))


class Watcher(Selector):
    """Takes the largest losses, with weights of its own; notes what it is shown."""

    def __init__(self) -> None:
        self.shown: list[Tensor] = []

    def select(self, signals: Any, count: int, generator: torch.Generator) -> Selection:
        del generator
        index = signals.loss.topk(count).indices
        return Selection(index, torch.full((count,), 2.0))

    def observe(self, batch: Any) -> None:
        self.shown.append(batch.index)


@pytest.mark.fast
def test_who_learns_batch_by_batch_is_not_shown_the_reserve() -> None:
    watcher = Watcher()
    plan = plan_of(selector=watcher, augment="sada", guard=True, classes=10)
    weights = set()
    for _ in plan.epochs_left():
        for batch in plan.batches():
            weights |= set(batch.weight.tolist())
            logits = torch.randn(len(batch.index), 10)
            plan.loss(batch, F.cross_entropy(logits, batch.labels, reduction="none"), logits=logits)
    shown = torch.cat(watcher.shown)
    assert not bool(plan.guard.holds(shown).any())
    assert len(shown) == int(plan.signals.times_trained.sum()) == plan.cost.trained - (EPOCHS - 2) * RESERVE
    assert {0.0, 1.0, 2.0} <= weights  # the reserve, the safe choice, and the watcher's own


# What else is learned


@pytest.mark.fast
def test_how_much_lies_between_the_policy_and_equal_epochs() -> None:
    policy = new_policy("ratio", scale=20.0, validation_shown=0.0)
    counts = {}
    for guard in (False, Guard(start=0.5), Guard(start=0.01)):
        plan = plan_of(policy=policy, guard=guard, epochs=5)
        counts[guard] = []
        for _ in plan.epochs_left():
            counts[guard].append(len(plan.epoch_sampler.chosen.index))
            for batch in plan.batches():
                plan.loss(batch, batch.labels.float(), logits=F.one_hot(batch.labels, 10).float())
        assert plan.cost.trained == round(2.5 * SIZE)
    free, half, held = counts.values()
    equal = SIZE / 2
    assert half[0] == pytest.approx((free[0] + equal) / 2, abs=1)
    assert max(abs(np.array(held) - equal)) < 0.02 * SIZE < max(abs(np.array(free) - equal))


@pytest.mark.fast
def test_how_strong_is_scaled_and_the_share_stays() -> None:
    strengths = make_control({"name": "strength"}, 5, 0.5).encode(strength=0.6)
    policy = constant(strengths, control="strength")
    free, held = (plan_of(policy=policy, epochs=2, guard=guard) for guard in (False, None))
    for plan in (free, held):
        next(iter(plan.batches()))
    torch.testing.assert_close(held.controller.strength, free.controller.strength / 2)
    assert float(free.controller.strength.max()) > 0
    assert not len(held.guard.reserve) and held.guard.used == 0.5


# States


def same_state(one: dict[str, Any], other: dict[str, Any]) -> bool:
    assert one.keys() == other.keys()
    return all(
        torch.equal(value, other[name]) if isinstance(value, Tensor) else value == other[name]
        for name, value in one.items()
    )


@pytest.mark.parametrize("safe", ["random", "trim"])
@pytest.mark.parametrize(("name", "stop"), [("curriculum", 91), ("joint", 64), ("mask", 47)])
def test_a_stopped_training_goes_on_bit_for_bit(name: str, stop: int, safe: str, tmp_path: Any) -> None:
    policy = HARDEST if name == "curriculum" else new_policy(name, validation_shown=0.0)

    def make() -> Loop:
        plan = plan_of(noisy(0.3), policy=policy, guard=Guard(safe=safe), batch_size=40, epochs=9)
        return Loop(plan, lr=0.1)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        whole, later = resumed(make, stop, tmp_path)
    assert same_batches(whole.batches, later.batches) and same_weights(whole, later)
    assert same_state(whole.plan.guard.state_dict(), later.plan.guard.state_dict())


def test_scored_and_stopped_between_score_and_next_epoch(tmp_path: Any) -> None:
    def make() -> DataPlan:
        return plan_of(noisy(0.3), policy=HARDEST, guard=Guard(safe="trim"))

    model, plan, later = new_model().model, make(), make()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for epoch in plan.epochs_left():
            for batch in plan.batches():
                logits = model(batch.inputs)
                plan.loss(batch, F.cross_entropy(logits, batch.labels, reduction="none"), logits=logits)
            plan.score_reserve(model)
            if epoch == 5:
                torch.save(plan.state_dict(), tmp_path / "state.pt")
                break
        plan.start_epoch(6)
        later.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
        later.start_epoch(6)
    assert torch.equal(plan.epoch_sampler.chosen.index, later.epoch_sampler.chosen.index)
    assert not bool((plan.epoch_sampler.chosen.weight == 0).any())
    assert plan.guard.share == later.guard.share


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_goes_on_bit_for_bit(workers: int, tmp_path: Any) -> None:
    def make() -> Loop:
        plan = DataPlan(Digits(), epochs=9, batch_size=64, policy=HARDEST, ratio=0.5, transform=scale)
        assert len(plan.guard.reserve) == RESERVE
        return Loop(plan, plan.loader(num_workers=workers, persistent_workers=workers > 0))

    whole, later = resumed(make, 43, tmp_path)
    assert same_batches(whole.batches, later.batches) and same_weights(whole, later)


@pytest.mark.fast
def test_damaged_states_are_refused_and_nothing_is_loaded() -> None:
    plan = plan_of(policy=HARDEST)
    for _ in range(3):
        for batch in plan.batches():
            plan.loss(batch, batch.labels.float(), logits=F.one_hot(batch.labels, 10).float())
        plan.start_epoch(plan.epoch + 1)
    next(iter(plan.batches()))
    good = plan.state_dict()
    fresh = plan_of(policy=HARDEST)
    fresh.load_state_dict(copy.deepcopy(good))
    before = fresh.guard.state_dict()

    def broken(name: str, value: Any) -> dict[str, Any]:
        state = copy.deepcopy(good)
        state["feedback"]["guard"][name] = value
        return state

    cases = {
        "reserve": [
            torch.zeros(RESERVE, dtype=torch.int64),
            torch.arange(3),
            None,
            good["feedback"]["guard"]["reserve"] + SIZE,
        ],
        "origin": [torch.zeros(3, dtype=torch.uint8), "x"],
        "shares": [[0.5], ["x"], 3],
        "used": ["x", None],
        "found": [[1.0], "x"],
        "recent": [torch.zeros(9, RESERVE)],
        "warned": [1.5, "no"],
        "agreed": [{}, {"more": [], "less": "x"}],
    }
    for name, values in cases.items():
        for value in values:
            with pytest.raises(ValueError, match="state"):
                fresh.load_state_dict(broken(name, value))
            after = fresh.guard.state_dict()
            assert all(
                torch.equal(after[k], v) if isinstance(v, Tensor) else after[k] == v
                for k, v in before.items()
            )
    state = copy.deepcopy(good)
    state["epoch_sampler"]["record"]["weight"][:] = 0
    with pytest.raises(ValueError, match="weights must be finite and above 0"):
        fresh.load_state_dict(state)
    del state["feedback"]["guard"]
    with pytest.raises(ValueError, match="no state of a DataPlan"):
        fresh.load_state_dict(state)
    with pytest.raises(ValueError, match="is of a plan with guard=None"):
        fresh.load_state_dict(plan_of(policy=HARDEST, guard=False).state_dict())
    with pytest.raises(ValueError, match=r"guard\.safe"):
        fresh.load_state_dict(plan_of(policy=HARDEST, guard=Guard(safe="random")).state_dict())


@pytest.mark.fast
def test_a_state_from_before_there_was_a_guard_is_read_without_one() -> None:
    plan = plan_of(policy=HARDEST, guard=False)
    old = copy.deepcopy(plan.state_dict())
    old["version"] = 3
    del old["plan"]["guard"], old["feedback"]["guard"]
    plan.load_state_dict(copy.deepcopy(old))
    with pytest.raises(ValueError, match="is of a plan with guard=None"):
        plan_of(policy=HARDEST).load_state_dict(old)


@pytest.mark.fast
def test_copies_and_values_that_are_not_finite() -> None:
    plan = copy.deepcopy(plan_of(policy=HARDEST))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for epoch in plan.epochs_left():
            for batch in plan.batches():
                logits = torch.full((len(batch.index), 10), torch.nan if epoch % 3 else 0.0)
                plan.loss(batch, logits[:, 0], logits=logits)
    assert isinstance(plan.guard, PlanGuard) and 0 < plan.guard.share < 1
    assert math.isfinite(plan.guard.contrast.score())
    assert bool((plan.signals.times_trained[plan.guard.reserve] == 0).all())
    assert bool((plan.nonfinite[plan.guard.reserve] == 0).all())


@pytest.mark.fast
def test_metrics_leave_the_reserve_out() -> None:
    plan = plan_of(policy=HARDEST, epochs=9)
    for epoch in plan.epochs_left():
        for batch in plan.batches():
            is_held = plan.guard.holds(batch.index)
            logits = torch.where(is_held, -5.0, 5.0)[:, None] * F.one_hot(batch.labels, 10)
            plan.loss(batch, torch.where(is_held, 100.0, 1.0), logits=logits)
        found = plan.metrics()
        assert found[names.TRAIN_LOSS] == pytest.approx(1) and found[names.TRAIN_ACCURACY] == 1
        assert found[names.SHARE] == pytest.approx(0.5, abs=0.001)
        assert found.get(names.GUARD_AGREEMENT) == (None if epoch == 0 else 0)


@pytest.mark.fast
def test_a_reserve_of_which_only_a_part_was_looked_at_says_nothing() -> None:
    plan = plan_of(policy=HARDEST)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for epoch in plan.epochs_left():
            for number, batch in enumerate(plan.batches()):
                if epoch == 6 and number == 14:
                    break
                plan.loss(batch, batch.labels.float(), logits=F.one_hot(batch.labels, 10).float())
            assert (names.GUARD_AGREEMENT in plan.metrics()) == (epoch not in (0, 6))
            if epoch in (6, 7):
                assert len(plan.guard.contrast.shares) == (4 if epoch == 6 else 0)
    assert len(plan.guard.contrast.shares) == 0  # nothing rides in the last epoch


@pytest.mark.fast
def test_labels_that_are_no_class_are_no_error_of_the_guard() -> None:
    plan = plan_of(policy=HARDEST)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in plan.epochs_left():
            for batch in plan.batches():
                odd = batch._replace(labels=torch.full_like(batch.labels, -1))
                plan.loss(odd, batch.labels.float(), logits=F.one_hot(batch.labels, 10).float())
    assert plan.guard.share == 0.5


class Notes:
    """A writer that keeps what it is told."""

    def __init__(self) -> None:
        self.scalars: dict[str, list[int]] = {}
        self.layout: Any = None

    def add_scalar(self, name: str, value: float, step: int) -> None:
        del value
        self.scalars.setdefault(name, []).append(step)

    def add_custom_scalars(self, layout: Any) -> None:
        self.layout = layout

    def add_histogram(self, *_: Any, **__: Any) -> None: ...

    def add_image(self, *_: Any, **__: Any) -> None: ...


def test_the_log_has_curves_of_the_guard() -> None:
    written = []
    for guard in (None, False):
        plan = plan_of(noisy(0.4), policy=HARDEST, guard=guard)
        notes = Notes()
        plan.log_to(notes, pictures=0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            shares(plan) if guard is None else list(run(plan))
        written.append(notes)
    held, free = written
    assert held.scalars[names.GUARD_SHARE] == list(range(EPOCHS))
    assert len(held.scalars[names.GUARD_AGREEMENT]) >= EPOCHS - 2 and held.scalars[names.GUARD_WARNED]
    assert "guard/" in str(held.layout) and "guard/" not in str(free.layout)
    assert not any(name.startswith("guard/") for name in free.scalars)


def test_the_blocks_of_the_page_run_and_its_tables_are_those_of_the_code(capsys: Any) -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "guard.md").read_text("utf-8")
    blocks = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    told: dict[str, Any] = {"__name__": "guard"}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for block in blocks:
            exec(compile(block, "docs/guard.md", "exec"), told)
    assert len(blocks) == 2 and "guard/agreement of the reserve" in capsys.readouterr().out
    assert "the guard has taken" in str(caught[0].message) and told["plan"].guard.share < 0.1
    defaults = dict(re.findall(r"^\| `(\w+)` \|.*\| `?\"?([\w.]+)\"?`? \|$", page, flags=re.MULTILINE))
    assert defaults == {name: str(value) for name, value in asdict(Guard()).items()}
