"""Selectors, volume schedules and augmentation controllers inside the environment."""

import numpy as np
import pytest
import torch

import dsenv
from dsenv.catalogue import load_vector
from dsenv.select.registry import SELECTORS
from dsenv.volume.registry import SCHEDULES
from tests.sessions import only

ENV = "Tiny-Curriculum-v0"


def run(env, seed=0, context=None):
    """One episode of the action 0; returns the infos."""
    env.reset(seed=seed, options={"context": context or {}})
    infos, terminated = [], False
    while not terminated:
        _, _, terminated, _, info = env.step(np.zeros(env.action_space.shape, np.float32))
        infos.append(info)
    return infos


QUICK = ("infobatch", "moderate")  # one that weighs samples, one that makes a pass over the data


@pytest.mark.parametrize(
    "name",  # rho_loss needs a tensor, not a name
    [
        pytest.param(name, marks=pytest.mark.fast if name in QUICK else ())
        for name in sorted(set(SELECTORS) - {"rho_loss"})
    ],
)
def test_every_selector_runs_an_episode_within_its_budget(name):
    env = dsenv.load("envs", ENV, control="rule", selector=name, context={"subset": 0.7, "label_noise": 0.3})
    infos = run(env)
    members = int(only(env).state.pool.sum())
    looked = infos[-1]["extra_forwards"]
    assert looked == (members + 100 if only(env).stacked_selector.selectors[0].needs_pass else 0)
    passes = 1.5 if looked else 0  # 200 training and 100 validation samples
    assert infos[-1]["samples_used"] == round((0.5 - passes / 3 / 4) * members * 4)
    assert infos[-1]["budget_left"] == 0
    assert not only(env).trainer.signals.seen[0][~only(env).state.pool[0]].any()
    assert all(np.isfinite(info["train_loss"]) for info in infos)


@pytest.mark.fast
def test_a_selector_that_takes_the_noise_rate_is_told_the_true_one_of_each_episode():
    settings = {"control": "rule", "selector": "dsenv.select.trim:TrimOracle"}
    env = dsenv.load("envs", ENV, **settings)
    for noise, flips, wrong in ((0.3, 0.1, 56), (0.0, 0.0, 0), (1.0, 0.0, 140)):  # of 140 samples
        context = {"subset": 0.7, "label_noise": noise, "pair_flip": flips}
        env.reset(seed=3, options={"context": context})
        session = only(env)
        selector = session.stacked_selector.selectors[0]
        given, clean = session.trainer.labels[0, :200], session.trainer.split("train").labels[:200]
        assert int((given != clean)[session.state.pool[0, :200]].sum()) == wrong
        assert selector.noise_rate == selector.rate == pytest.approx(wrong / 140)

    env.reset(seed=3, options={"context": {"label_noise": 0.3}})
    other = dsenv.load("envs", ENV, **settings)
    other.load_state_dict(env.state_dict())
    assert only(other).stacked_selector.selectors[0].noise_rate == pytest.approx(0.3)
    assert dsenv.load("agents", "trim_oracle").env["selector"] == {"name": settings["selector"]}


@pytest.mark.parametrize("name", ["ucb", "data_agent", "moderate", "infobatch"])
def test_a_selector_in_a_batch_equals_the_same_alone(name):
    settings = {"control": "rule", "selector": name}
    envs = load_vector(ENV, 2, autoreset_mode="Disabled", **settings)
    envs.reset(seed=5)
    for _ in range(3):
        observation, *_ = envs.step(np.zeros((2, 1), np.float32))
    for k in range(2):
        env = dsenv.load("envs", ENV, **settings)
        env.reset(seed=5 + k)
        for _ in range(3):
            alone, *_ = env.step(np.zeros(1, np.float32))
        np.testing.assert_allclose(alone, observation[k], atol=5e-3)


@pytest.mark.parametrize(
    ("control", "name"), [("curriculum", name) for name in SCHEDULES] + [("rule", "linear"), ("rule", "pods")]
)
def test_volume_schedules_keep_the_budget(name, control):
    volume = {"name": name, "warmup": 0} if name == "pods" else name
    env = dsenv.load("envs", ENV, control=control, volume=volume, intervals=6)
    infos = run(env)
    assert infos[-1]["samples_used"] == 600 and infos[-1]["budget_left"] == 0
    ratios = {round(info["ratio"], 3) for info in infos}
    assert len(ratios) == 1 if name == "constant" else len(ratios) > 1


def test_the_ratio_control_with_a_selector_underneath():
    wrong = {}
    for selector in ("small_loss", "random"):
        env = dsenv.load(
            "envs", "Tiny-Ratio-v0", selector=selector, intervals=8, task={"dataset": {"train": 500}}
        )
        wrong[selector] = run(env, context={"label_noise": 0.4})[-1]["wrong_labels"]
    assert wrong["small_loss"] < wrong["random"] - 0.1


@pytest.fixture(scope="module")
def plain_loss():
    """The last training loss of an episode without augmentation."""
    return run(dsenv.load("envs", ENV, intervals=2))[-1]["train_loss"]


@pytest.mark.parametrize("name", ["fixed", "trivial", "rand_augment", "ent_augment", "sada"])
def test_augmentation_changes_what_is_trained_on(name, plain_loss):
    env = dsenv.load("envs", ENV, augment=name, intervals=2)
    augmented, again = (run(env)[-1]["train_loss"] for _ in range(2))
    assert augmented != plain_loss
    assert again == augmented


def test_sada_strengths_move_after_its_warm_up():
    env = dsenv.load(
        "envs", ENV, control="rule", augment={"name": "sada", "warm_up": 4, "window": 2}, intervals=8
    )
    run(env)
    controller = only(env).controllers[0]
    signals = only(env).trainer.signals.of_replica(0)
    index = torch.arange(200, device=signals.device)
    strengths = controller.strengths(signals, index, torch.Generator(signals.device).manual_seed(0))
    assert 0 <= float(strengths.min()) < float(strengths.max()) <= 1


def test_what_needs_more_than_the_training_forward_is_refused():
    for augment in (
        {"name": "ada_augment", "features": 16, "epochs": 4},
        {"name": "sada", "estimator": "projection"},
    ):
        with pytest.raises(ValueError, match=r"with dsenv\.DataPlan"):
            dsenv.load("envs", ENV, augment=augment)


def test_a_budget_that_cannot_pay_for_a_pass_is_refused():
    with pytest.raises(ValueError, match=r"does not pay for extra forwards of 38%"):
        dsenv.load("envs", ENV, control="rule", selector="moderate", ratio=0.1)


def test_parts_that_contradict_the_control_are_refused():
    with pytest.raises(ValueError, match="decides what to train on"):
        dsenv.load("envs", ENV, selector="infobatch")
    with pytest.raises(ValueError, match="decides how much to train on"):
        dsenv.load("envs", "Tiny-Ratio-v0", volume="pods")
    with pytest.raises(ValueError, match="Did you mean 'infobatch'"):
        dsenv.load("envs", ENV, control="rule", selector="info_batch")
    with pytest.raises(ValueError, match="Did you mean 'pods'"):
        dsenv.load("envs", ENV, volume="pod")
    with pytest.raises(ValueError, match="Did you mean 'sada'"):
        dsenv.load("envs", ENV, augment="saada")
    with pytest.raises(ValueError, match="Did you mean 'keep'"):
        dsenv.load("envs", ENV, control="rule", selector={"name": "infobatch", "kep": 0.3})


@pytest.mark.parametrize("part", ["selector", "volume", "augment"])
@pytest.mark.parametrize("choice", [[], "", {}, 0, False])
def test_an_empty_choice_is_not_taken_for_none(part, choice):
    with pytest.raises(ValueError, match=f"{part}|augmentation"):
        dsenv.load(
            "envs", "Tiny-Curriculum-v0" if part == "augment" else "Tiny-Strength-v0", **{part: choice}
        )
