"""What the answers of the controls mask, strength and joint do to a training."""

import numpy as np
import pytest
import torch

import dsenv
from dsenv.control.observation import CANDIDATE_FEATURES
from tests.sessions import noughts, only

SHORT = 8  # intervals


def run(env, choose, context=None):
    """One episode; returns the infos."""
    observation, _ = env.reset(seed=0, options={"context": context or {}})
    infos, terminated = [], False
    while not terminated:
        observation, _, terminated, _, info = env.step(choose(observation))
        infos.append(info)
    return infos


@pytest.mark.fast
def test_mask_trains_on_the_candidates_it_was_shown():
    env = dsenv.load("envs", "Tiny-Mask-v0")
    env.reset(seed=0)
    for _ in range(5):
        shown = only(env).state.candidates.index[0]
        score = np.random.default_rng(0).uniform(-1, 1, 32).astype(np.float32)
        before = only(env).trainer.signals.times_trained[0].clone()
        env.step(score)
        trained = (only(env).trainer.signals.times_trained[0] - before).nonzero().flatten()
        best = shown[torch.from_numpy(score).topk(16).indices]
        assert set(trained.tolist()) == set(best.tolist())
        assert not torch.equal(shown, only(env).state.candidates.index[0])


def test_mask_spends_its_budget():
    env = dsenv.load("envs", "Tiny-Mask-v0", intervals=SHORT)
    info = run(env, lambda _: np.zeros(32, np.float32))[-1]
    assert info["samples_used"] == SHORT * 16 and info["budget_left"] == 0


def test_binary_masks_spend_what_they_choose_as_far_as_the_budget_goes():
    env = dsenv.load("envs", "Tiny-Mask-v0", actions="binary", intervals=SHORT)
    infos = run(env, lambda _: np.ones(32, np.int8))
    assert infos[0]["samples_used"] == 32  # all of them, while it lasts
    assert infos[-1]["samples_used"] == SHORT * 16


def test_a_small_pool_pads_the_candidates():
    env = dsenv.load("envs", "Tiny-Mask-v0", context={"subset": 0.1}, intervals=SHORT)
    observation, _ = env.reset(seed=0)
    assert env.control.shown(observation)[:, 0].sum() == 20
    assert run(env, lambda _: np.zeros(32, np.float32))[-1]["samples_used"] == SHORT * 10


def test_looking_at_the_candidates_is_paid_for():
    env = dsenv.load("envs", "Tiny-Mask-v0", control={"rescore": True}, intervals=SHORT)
    info = run(env, lambda _: np.zeros(32, np.float32))[-1]
    assert info["extra_forwards"] == SHORT * 32
    assert info["samples_used"] + info["extra_forwards"] / 3 == pytest.approx(SHORT * 16, abs=1)
    with pytest.raises(ValueError, match="does not pay for extra forwards of 100%"):
        dsenv.load("envs", "Tiny-Mask-v0", control={"rescore": True}, ratio=0.3)


@pytest.mark.fast
def test_a_look_is_what_the_model_says_now():
    env = dsenv.load("envs", "Tiny-Mask-v0", control={"embedding": True})
    observation, _ = env.reset(seed=0)
    observation, *_ = env.step(np.zeros(32, np.float32))
    features = len(CANDIDATE_FEATURES) + 16
    assert env.candidate_shape == (32, features)
    session, look = only(env), only(env).state.candidates.scores
    index = session.state.candidates.index
    out = session.trainer.score_candidates(index)
    labels = out.labels
    torch.testing.assert_close(look.loss, out.loss)
    confidence = out.logits.softmax(-1).gather(2, labels[..., None])[0, :, 0].cpu()
    shown = observation[-32 * features :].reshape(32, features)
    names = env.observation_names[-32 * features :][:features]
    column = names.index("candidate 0: confidence in the label")
    np.testing.assert_allclose(shown[:, column], confidence, atol=1e-5)


@pytest.mark.fast
def test_strength_reaches_the_pixels_of_its_bin():
    env = dsenv.load("envs", "Tiny-Strength-v0")
    env.reset(seed=0)
    seen = []
    step = only(env).trainer.replicas.step

    def watch(samples, *rest):
        seen.append(samples.clone())
        return step(samples, *rest)

    only(env).trainer.replicas.step = watch
    plain = only(env).trainer.split("train")
    stored = plain.gather(torch.arange(plain.size, device=plain.images.device)).flatten(1)
    changed = []
    for strength in (0.0, 1.0):
        seen.clear()
        env.step(env.control.encode(strength=strength))
        batch = torch.cat(seen, 1)[0].flatten(1)
        nearest = torch.cdist(batch, stored, compute_mode="donot_use_mm_for_euclid_dist").amin(1)
        changed.append(float((nearest > 1e-4).float().mean()))
    assert changed[0] == 0 and changed[1] > 0.5


def test_strength_needs_images():
    with pytest.raises(ValueError, match="the control 'strength' decides how strongly"):
        dsenv.load("envs", "Tiny-Strength-v0", augment="sada")
    env = dsenv.load("envs", "Tiny-Strength-v0", augment={"name": "given", "ops": ["rotate"]})
    assert only(env).controllers[0].ops == ("rotate",)


@pytest.mark.fast
def test_joint_follows_all_three_answers():
    env = dsenv.load("envs", "Tiny-Joint-v0")
    env.reset(seed=0)
    env.step(env.control.encode())
    action = env.control.encode(log_weight=[5, -5, -5, -5, -5], ratio=0.2, strength=0.5)
    _, _, _, _, info = env.step(action)
    assert info["ratio"] == pytest.approx(0.2)
    assert info["selected_bins"][0] > 0.9
    assert (only(env).controllers[0].strength == 0.5).all()


def test_masks_of_other_controls_are_refused():
    with pytest.raises(ValueError, match="has no binary actions; set actions to one of box, discrete"):
        dsenv.load("envs", "Tiny-Curriculum-v0", actions="binary")
    with pytest.raises(ValueError, match="has no discrete actions"):
        dsenv.load("envs", "Tiny-Joint-v0", actions="discrete")


def test_small_losses_of_candidates_hold_fewer_wrong_labels():
    env = dsenv.load("envs", "Tiny-Mask-v0", task={"dataset": {"train": 300}}, intervals=75)
    late = {}
    for name in ("small_loss", "random", "hard_first"):
        agent = dsenv.load("agents", name).bind(env.control, env.action_space)
        infos = run(env, lambda o, a=agent: a.predict(o)[0], {"label_noise": 0.4})
        late[name] = np.mean([info["wrong_labels"] for info in infos[-25:]])  # 0.1, 0.4 and 0.65
    assert late["small_loss"] < late["random"] - 0.05 < late["hard_first"] - 0.1


def test_the_strength_of_the_trained_samples_is_reported():
    env = dsenv.load("envs", "Tiny-Joint-v0", intervals=8, render_mode="ansi")
    env.reset(seed=0)
    for _ in range(5):
        *_, info = env.step(env.control.encode(ratio=0.2, strength=0.25))
        assert info["strength"] == pytest.approx(0.25)
    strength = np.array([0.0, 0.0, 0.0, 0.0, 1.0])  # of the last stability bin alone
    bins, before = only(env).state.stability[0].clone(), only(env).trainer.signals.times_trained[0].clone()
    *_, info = env.step(env.control.encode(ratio=0.5, strength=strength))
    trained = only(env).trainer.signals.times_trained[0] > before
    assert info["strength"] == pytest.approx(float((bins[trained] == 4).float().mean()))
    assert 0 < info["strength"] < 1
    history = only(env).history
    assert history.scalars["strength"][0, :6].tolist() == pytest.approx([0.25] * 5 + [info["strength"]])
    assert history.strengths(env.control)[0, 5].tolist() == pytest.approx(strength.tolist())
    assert f"strength {info['strength']:.2f}" in env.render()


def test_strength_is_reported_only_where_it_is_decided():
    env = dsenv.load("envs", "Tiny-Curriculum-v0", augment="trivial", render_mode="ansi")
    env.reset(seed=0)
    assert "strength" not in env.step(noughts(env))[4] and "strength" not in env.render()


@pytest.mark.parametrize(("name", "panels"), [("Joint", 4), ("Mask", 3)])
def test_the_figure_has_a_panel_for_strengths_that_are_decided(name, panels):
    env = dsenv.load("envs", f"Tiny-{name}-v0", render_mode="rgb_array", intervals=4)
    env.reset(seed=0)
    blank = env.render()
    env.step(np.ones(env.action_space.shape, np.float32))
    image = env.render()
    assert image.shape == (320, 320 * panels, 3)
    for panel in range(panels):
        part = np.s_[40:, panel * 320 : (panel + 1) * 320]
        assert (image[part] != blank[part]).any()


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("Curriculum", {"augment": "given"}, "decides none; use the control 'strength' or 'joint'"),
        ("Curriculum", {"augment": 3}, "augment must be a name, a table with a name, a class, .* got 3"),
        ("Ratio", {"selector": 3}, "selector must be a name, a table with a name, a class, .* got 3"),
        ("Joint", {"task": {"dataset": {"name": "iris"}}}, "'joint' takes strength = false"),
        ("Mask", {"control": {"candidates": 16.5}}, "candidates must be a whole number .* got 16.5"),
        ("Strength", {"control": {"name": "strength", "levels": 2.5}}, "levels must be a whole number"),
        ("Strength", {"control": {"name": "strength", "stability_bins": 0}}, "from 1 to 64, got 0"),
        (
            "Curriculum",
            {"control": {"name": "curriculum", "sharpness": np.inf}},
            "must be in .*, got inf",
        ),
    ],
)
def test_bad_settings_of_parts_are_named(name, settings, message):
    with pytest.raises(ValueError, match=message):
        dsenv.load("envs", f"Tiny-{name}-v0", **settings)


@pytest.mark.parametrize(
    ("name", "kind", "action", "message"),
    [
        ("Mask", "binary", np.full(32, -1), "binary actions must be 0 or 1"),
        ("Mask", "binary", np.full(32, np.nan), "binary actions must be 0 or 1"),
        ("Mask", "binary", np.ones(31), r"must have shape \(1, 32\), got \(1, 31\)"),
        ("Strength", "discrete", 0.5, r"1 choices, whole numbers from 0 to 7, got .*0.5"),
        ("Strength", "discrete", None, r"must be an array of numbers, got None"),
        ("Strength", "discrete", 8, r"1 choices, whole numbers from 0 to 7, got .*8"),
    ],
)
def test_actions_that_mean_nothing_are_refused(name, kind, action, message):
    env = dsenv.load("envs", f"Tiny-{name}-v0", actions=kind)
    env.reset(seed=0)
    with pytest.raises(ValueError, match=message):
        env.step(action)


@pytest.mark.parametrize("mask", [0, 1])
def test_masks_of_one_value_spend_the_budget_or_the_floor(mask):
    settings = {"actions": "binary", "intervals": SHORT}
    free = dsenv.load("envs", "Tiny-Mask-v0", **settings, spend_all=False, reward="cost_aware")
    forced = dsenv.load("envs", "Tiny-Mask-v0", **settings)
    spent = [run(env, lambda _: np.full(32, mask, np.int8))[-1]["samples_used"] for env in (free, forced)]
    assert spent == ([SHORT * 16] * 2 if mask else [SHORT * 3, SHORT * 16])
