"""Parts that a trained policy decides, in a training loop."""

import itertools
from typing import Any

import pytest
import torch

import dsenv
from dsenv.augment import CONTROLLERS
from dsenv.control.trimming import trimmed
from dsenv.plan import DataPlan
from dsenv.plan.epoch_schedule import EpochSchedule
from dsenv.policy import Policy, PolicyRunner
from dsenv.policy.parts import LearnedAugmentation, LearnedSelector, LearnedVolume
from dsenv.signals import SampleSignals
from tests.plan.loops import TRAIN, Digits, Loop, new_plan, same_batches, same_weights, scale
from tests.plan.test_resume import resumed
from tests.policy.policies import new_policy

SIZE = len(TRAIN[1])
MASK = {"name": "mask", "candidates": 64}
POLICIES: dict[str, Policy] = {
    "curriculum": new_policy(),
    "ratio": new_policy("ratio", scale=20.0),
    "strength": new_policy("strength"),
    "joint": new_policy("joint"),
    "joint without strength": new_policy({"name": "joint", "strength": False}),
    "mask": new_policy(MASK),
    "mask of yes and no": new_policy(MASK, actions="binary"),
    "discrete": new_policy(actions="discrete", validation_shown=0.0),
}
VARIED = ("ratio", "joint", "joint without strength", "mask of yes and no")  # decide how much


@pytest.mark.fast
@pytest.mark.parametrize("name", POLICIES)
def test_every_policy_runs_and_keeps_the_budget(name: str) -> None:
    plan = new_plan(policy=POLICIES[name], ratio=0.4, epochs=5)
    loop = Loop(plan).run()
    assert plan.cost.trained == round(0.4 * 5 * SIZE) == int(plan.signals.times_trained.sum())
    assert plan.epoch == 5 and plan.progress == 1
    assert loop.scheduler.get_last_lr()[0] == pytest.approx(0, abs=1e-9)
    (runner,) = plan.epoch_sampler.policies.runners
    assert runner.interval == 5 and runner.budget.spent == plan.cost.trained
    if name in VARIED:
        assert plan.epoch_schedule.counts is None and len(loop.batches) <= plan.epoch_schedule.most_steps
        with pytest.raises(ValueError, match=rf"{plan.cost.trained} in all, in at most .*plan\.lr_scheduler"):
            _ = plan.total_steps
        assert plan.epoch_schedule.total_samples == plan.cost.trained
    else:
        assert plan.total_steps == plan.epoch_schedule.most_steps == len(loop.batches)


@pytest.mark.parametrize("drop_last", [False, True])
def test_progress_rises_to_one_whatever_the_policy_decides(drop_last: bool) -> None:
    plan = new_plan(policy=POLICIES["ratio"], ratio=0.4, epochs=6, drop_last=drop_last)
    loop = Loop(plan)
    seen, steps = [], []
    for epoch in plan.epochs_left():
        steps.append(plan.steps_in_epoch())
        for batch in plan.batches():
            loop.step(batch)
            seen.append(plan.progress)
        plan.report_validation(loop.accuracy())
        assert sum(steps) == len(loop.batches) and plan.steps_in_epoch(epoch) == steps[-1]
        if epoch < 5:
            with pytest.raises(ValueError, match="at most"):
                plan.steps_in_epoch(epoch + 1)
    assert seen == sorted(seen) and seen[-1] == pytest.approx(1)
    assert len(set(steps)) > 1 and sum(steps) <= plan.epoch_schedule.most_steps
    if drop_last:
        with pytest.raises(ValueError, match="at most"):
            _ = plan.epoch_schedule.total_samples


def test_the_policy_sees_what_the_loop_did() -> None:
    plan = new_plan(policy=POLICIES["curriculum"], ratio=0.5, epochs=4)
    loop = Loop(plan)
    (runner,) = plan.epoch_sampler.policies.runners
    for epoch in plan.epochs_left():
        losses, hits, index = [], [], []
        for batch in plan.batches():
            logits = loop.forward.model(batch.inputs)
            each = torch.nn.functional.cross_entropy(logits, batch.labels, reduction="none")
            losses.append(each.detach())
            hits.append((logits.argmax(1) == batch.labels).float())
            index.append(batch.index)
            loop.step(batch)
        share = torch.bincount(runner.state.bins[0, torch.cat(index)], minlength=5) / 500
        plan.report_validation(0.2 * epoch)
        torch.testing.assert_close(runner.state.selected[0], share)
        if epoch < 3:
            continue
        runner.state.intervals += 1
        plan._feedback.end_epoch(epoch)
        seen = runner.read(plan.signals)
        assert float(seen.train_loss) == pytest.approx(float(torch.cat(losses).mean()), rel=1e-4)
        assert float(seen.train_accuracy) == pytest.approx(float(torch.cat(hits).mean()), rel=1e-4)
        assert float(seen.validation_accuracy) == pytest.approx(0.6)
        assert float(seen.validation_gain) == pytest.approx(0.2)
        assert float(seen.ratio) == 0.5 and float(seen.budget_left()) == 0


@pytest.mark.fast
def test_a_policy_of_known_weights_selects_by_them() -> None:
    """All weight on the bin of the largest losses: a fifth of the samples, and no other."""
    control = {"name": "curriculum", "sharpness": 50.0, "trim": False}
    policy = new_policy(validation_shown=0.0, control=control)
    with torch.no_grad():
        policy.actor.network.layers[1].weight.zero_()
        policy.actor.network.layers[1].bias.copy_(torch.tensor([-1.0, -1, -1, -1, 1]))
    plan = new_plan(policy=policy, ratio=0.2, epochs=3, guard=False)
    loop = Loop(plan)
    for epoch in plan.epochs_left():
        if epoch:
            rank = plan.signals.loss_rank
            chosen = torch.zeros(SIZE, dtype=torch.bool)
            chosen[plan.epoch_sampler.chosen.index] = True
            assert float(rank[chosen].min()) >= float(rank[~chosen].max())
        for batch in plan.batches():
            loop.step(batch)


@pytest.mark.fast
def test_a_policy_whose_actions_are_zero_leaves_out_what_the_rule_does() -> None:
    """It chooses among the samples that `trim` chooses from, and finds as few wrong labels."""
    policy = new_policy(validation_shown=0.0, scale=0.0)
    with torch.no_grad():
        policy.actor.network.layers[1].bias.zero_()
    draw = torch.Generator().manual_seed(0)
    wrong = torch.rand(SIZE, generator=draw) < 0.3
    given = torch.where(wrong, (TRAIN[1] + torch.randint(1, 10, (SIZE,), generator=draw)) % 10, TRAIN[1])

    found = {}
    for name, choice in (
        ("policy", {"policy": policy, "guard": False}),
        ("rule", {"selector": "trim"}),
        ("random", {}),
    ):
        plan = DataPlan((TRAIN[0], given), epochs=8, batch_size=64, transform=scale, ratio=0.5, **choice)
        loop, rates = Loop(plan), []
        for epoch in plan.epochs_left():
            chosen = plan.epoch_sampler.chosen.index
            if name == "policy":
                left_out = trimmed(plan.epoch_sampler.policies.runners[0].state)[0] >= 0
                assert not bool(left_out[chosen].any()) and bool(left_out.any()) == (epoch > 2)
            rates.append(float(wrong[chosen].float().mean()))
            for batch in plan.batches():
                loop.step(batch)
        found[name] = rates[-1]
    assert max(found["policy"], found["rule"]) < 0.16 < 0.24 < found["random"]  # 0.10, 0.10 and 0.30


def test_strengths_reach_the_images() -> None:
    policy = new_policy("strength", validation_shown=0.0, scale=5.0)
    plan = new_plan(policy=policy, epochs=5, augment={"name": "given", "ops": ["rotate"]})
    assert isinstance(plan.controller, LearnedAugmentation)
    loop = Loop(plan)
    for epoch in plan.epochs_left():
        for batch in plan.batches():
            loop.step(batch)
            moved = (batch.inputs != scale(TRAIN[0][batch.index])).flatten(1).any(1)
            assert not bool((moved & (plan.controller.strength[batch.index] == 0)).any())
        values = plan.controller.strength.unique()
        assert 1 <= len(values) <= 5 and plan.cost.trained == (epoch + 1) * SIZE


def test_parts_of_one_policy_share_a_driver_and_others_do_not() -> None:
    joint, ratio = POLICIES["joint"], POLICIES["ratio"]

    def part(policy: Policy, **more: Any) -> Any:
        return {"name": "learned", "policy": policy, **more}

    plan = new_plan(selector=part(joint), volume=part(joint), augment=part(joint, ops=["rotate"]), ratio=0.5)
    assert len(plan.epoch_sampler.policies.runners) == 1
    whole = new_plan(policy=joint, ratio=0.5, augment={"name": "given", "ops": ["rotate"]})
    one, other = Loop(plan).run(), Loop(whole).run()
    assert same_batches(one.batches, other.batches)
    plan = new_plan(selector=LearnedSelector(joint), volume=LearnedVolume(ratio), ratio=0.5, epochs=4)
    Loop(plan).run()
    assert len(plan.epoch_sampler.policies.runners) == 2 and plan.cost.trained == 2 * SIZE
    assert all(runner.interval == 4 for runner in plan.epoch_sampler.policies.runners)


# Weights for the samples; none; passes that the budget pays for.
@pytest.mark.parametrize("selector", ["infobatch", "small_loss", "moderate"])
def test_how_much_is_learned_and_what_is_not(selector: str) -> None:
    plan = new_plan(
        policy=POLICIES["ratio"], selector=selector, ratio=0.6, epochs=4, uniform_epochs=1, scoring_passes=0
    )
    loop = Loop(plan)
    for epoch in plan.epochs_left():
        if epoch == 1 and plan.selector.needs_pass:
            plan.score(loop.forward)
        for batch in plan.batches():
            loop.step(batch)
        plan.report_validation(loop.accuracy())
    assert plan.cost.trained == round(0.6 * 4 * SIZE)


def test_passes_are_paid_from_the_budget() -> None:
    plan = new_plan(policy=POLICIES["ratio"], selector="moderate", ratio=0.6, epochs=4, uniform_epochs=1)
    assert plan.epoch_schedule.total == round(0.6 * 4 * SIZE - SIZE / 3)
    (runner,) = plan.epoch_sampler.policies.runners
    assert runner.ratio == 0.6 and runner.budget.total == plan.epoch_schedule.total


def test_what_is_learned_and_how_much_is_scheduled() -> None:
    plan = new_plan(policy=POLICIES["curriculum"], volume="pods", ratio=0.5, epochs=6)
    loop = Loop(plan).run()
    assert plan.cost.trained == sum(plan.epoch_schedule.counts) == 3 * SIZE
    assert len(loop.batches) == plan.total_steps


def test_the_ratio_is_that_of_the_policys_training_unless_given() -> None:
    policy = new_policy(ratio=0.3)
    assert sum(new_plan(policy=policy, epochs=4).epoch_schedule.counts) == round(1.2 * SIZE)
    assert sum(new_plan(policy=policy, epochs=4, ratio=0.7).epoch_schedule.counts) == round(2.8 * SIZE)
    assert new_plan(policy=new_policy("ratio", ratio=0.3), epochs=4).epoch_schedule.total == round(1.2 * SIZE)
    assert sum(new_plan(policy=POLICIES["strength"], epochs=4).epoch_schedule.counts) == 4 * SIZE


# In the first epoch, at the begin of one, after its last batch, near the end: each policy at one of them, and
# the joint one, which has every part, at all but the third.
STOPS = [*zip(POLICIES, itertools.cycle([9, 16, 23, 1])), *(("joint", stop) for stop in (9, 23))]


@pytest.mark.parametrize(("name", "stop"), STOPS)
def test_a_stopped_training_goes_on_bit_for_bit(name: str, stop: int, tmp_path: Any) -> None:
    def make() -> Loop:
        return Loop(new_plan(policy=POLICIES[name], ratio=0.5, epochs=4))

    whole, later = resumed(make, stop, tmp_path)
    assert same_batches(whole.batches, later.batches) and same_weights(whole, later)
    assert later.plan.progress == 1 and later.plan.cost.trained == 2 * SIZE


@pytest.mark.parametrize("workers", [0, 2])
def test_a_stopped_loader_goes_on_bit_for_bit(workers: int, tmp_path: Any) -> None:
    def make() -> Loop:
        policy = POLICIES["joint"]
        plan = DataPlan(Digits(), epochs=3, batch_size=64, policy=policy, ratio=0.5, transform=scale)
        return Loop(plan, plan.loader(num_workers=workers, persistent_workers=workers > 0))

    whole, later = resumed(make, 11, tmp_path)
    assert same_batches(whole.batches, later.batches) and same_weights(whole, later)


def test_files_and_paths(tmp_path: Any) -> None:
    path = POLICIES["curriculum"].save(tmp_path / "mine.safetensors")
    loops = [Loop(new_plan(policy=p, ratio=0.5)).run() for p in (POLICIES["curriculum"], path, str(path))]
    assert same_batches(loops[0].batches, loops[1].batches) and same_batches(
        loops[0].batches, loops[2].batches
    )
    with pytest.raises(FileNotFoundError, match="no policy at"):
        new_plan(policy=tmp_path / "none.safetensors")


def test_a_validation_accuracy_that_is_needed_is_asked_for() -> None:
    loop = Loop(new_plan(policy=POLICIES["curriculum"], ratio=0.5))
    loop.reports = False
    with pytest.raises(ValueError, match=r"none was reported after epoch 0: call plan\.report_validation"):
        loop.run()
    for share in (0.0, 0.5):
        loop = Loop(new_plan(policy=new_policy(validation_shown=share), ratio=0.5))
        loop.reports = False
        assert loop.run().plan.progress == 1
    with pytest.raises(ValueError, match=r"validation accuracy must be in \[0, 1\], got 93"):
        loop.plan.report_validation(93)
    new_plan().report_validation(0.5)  # no policy, no notice


@pytest.mark.parametrize("name", ["curriculum", "ratio", "strength"])
def test_logits_are_asked_for_at_the_first_batch(name: str) -> None:
    plan = new_plan(policy=POLICIES[name], ratio=0.5)
    batch = next(iter(plan.batches()))
    with pytest.raises(ValueError, match=r"Learned[A-Z][a-z]+ needs the logits of every training batch"):
        plan.loss(batch, torch.rand(len(batch.index)))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"policy": POLICIES["curriculum"], "selector": "ucb"}, r"selector='ucb' was given, and the policy"),
        ({"policy": POLICIES["curriculum"], "selector": "random"}, "leave selector out"),
        ({"policy": POLICIES["ratio"], "volume": "pods"}, "volume='pods' was given"),
        ({"policy": POLICIES["joint"], "augment": "sada"}, "augment='sada' was given"),
        ({"policy": new_policy("rule"), "selector": "ucb"}, r"decides nothing \(control 'rule'\)"),
        ({"policy": "curriculm"}, "no pretrained policy called 'curriculm'. Did you mean 'curriculum'"),
        ({"selector": "learned"}, "needs the setting 'policy'"),
        ({"selector": {"name": "learned", "policy": POLICIES["ratio"]}}, "use LearnedVolume of dsenv"),
        ({"volume": {"name": "learned", "policy": POLICIES["mask"]}}, "use LearnedSelector of dsenv"),
        ({"augment": {"name": "learned", "policy": POLICIES["ratio"]}}, "not how strongly to augment"),
        ({"selector": {"name": "learned", "polcy": "x"}}, "Did you mean 'policy'|needs the setting 'policy'"),
        ({"policy": POLICIES["strength"], "selector": "infobatch"}, "needs a known budget"),
        ({"policy": POLICIES["ratio"], "ratio": 0.0001}, "less than one sample in each of 2 intervals"),
    ],
)
def test_what_goes_wrong_says_what_to_do(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        new_plan(**settings)


def test_classes_must_be_known() -> None:
    with pytest.raises(ValueError, match=r"number of classes; give DataPlan\(classes=...\)"):
        DataPlan([torch.rand(3) for _ in range(40)], epochs=2, batch_size=10, policy=POLICIES["curriculum"])


def test_a_part_belongs_to_one_training() -> None:
    part = LearnedSelector(POLICIES["curriculum"])
    with pytest.raises(ValueError, match=r"build it from a dsenv\.policy\.PolicyRunner"):
        part.select(SampleSignals(10, 2), 3, torch.Generator())
    new_plan(selector=part, ratio=0.5)
    with pytest.raises(ValueError, match="has a runner already"):
        new_plan(selector=part, ratio=0.5)


def test_a_state_of_another_policy_is_refused() -> None:
    state = new_plan(policy=POLICIES["curriculum"], ratio=0.5).state_dict()
    with pytest.raises(ValueError, match="the state is of a plan with selector=learned"):
        new_plan(policy=new_policy(seed=9), ratio=0.5).load_state_dict(state)


def test_parts_work_without_a_plan() -> None:
    signals, generator = SampleSignals(100, 10), torch.Generator().manual_seed(0)
    settings = {"size": 100, "classes": 10, "intervals": 3, "ratio": 0.5}
    runner = PolicyRunner(new_policy("joint", validation_shown=0.0), **settings)
    selector, volume = LearnedSelector(runner), LearnedVolume(runner)
    strength = LearnedAugmentation(runner, size=100)
    used = 0
    for step in range(3):
        count = volume.count(signals)
        strength.begin_epoch(signals)
        index = selector.select(signals, count, generator).index
        logits = torch.randn(count, 10, generator=generator)
        signals.update(index, logits[:, 0].exp(), logits, index % 10, step)
        used += len(index.unique())
    assert used == 150


@pytest.mark.fast
@pytest.mark.parametrize("count", [0, 101])
def test_an_impossible_count_is_refused(count: int) -> None:
    runner = PolicyRunner(POLICIES["curriculum"], size=100, classes=10, intervals=3, ratio=0.5)
    with pytest.raises(ValueError, match=f"must choose 1 to 100, got count={count}"):
        LearnedSelector(runner).select(SampleSignals(100, 10), count, torch.Generator())


def test_learned_parts_are_no_part_of_environments() -> None:
    assert "learned" not in CONTROLLERS
    with pytest.raises(ValueError, match="no selector called 'learned'"):
        dsenv.load("envs", "Tiny-Curriculum-v0", control="rule", selector={"name": "learned", "policy": "x"})


@pytest.mark.fast
@pytest.mark.parametrize("drop_last", [False, True])
def test_most_steps_is_a_bound_that_is_reached(drop_last: bool) -> None:
    table = EpochSchedule(100, 4, 8, drop_last, None, total=100, least=8)
    splits = [(a, b, c, 100 - a - b - c) for a in range(8, 60) for b in range(8, 30) for c in range(8, 14)]
    most = max(sum(map(table.steps, split)) for split in splits if min(split) >= 8)
    assert table.most_steps == most
    with pytest.raises(ValueError, match="no full batch of 8"):
        EpochSchedule(100, 4, 8, True, None, total=100, least=7)
