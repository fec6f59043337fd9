"""What the answers of the controls mask, strength and joint do to a training."""

import numpy as np
import pytest
import torch

import dsenv


def run(env, choose, context=None):
    """One episode; returns the infos."""
    observation, _ = env.reset(seed=0, options={"context": context or {}})
    infos, terminated = [], False
    while not terminated:
        observation, _, terminated, _, info = env.step(choose(observation))
        infos.append(info)
    return infos


def test_mask_trains_on_the_candidates_it_was_shown():
    env = dsenv.load("envs", "Tiny-Mask-v0")
    env.reset(seed=0)
    for _ in range(5):
        shown = env.session.showing.shown.index[0]
        score = np.random.default_rng(0).uniform(-1, 1, 32).astype(np.float32)
        before = env.session.trainer.signals.times_trained[0].clone()
        env.step(score)
        trained = (env.session.trainer.signals.times_trained[0] - before).nonzero().flatten()
        best = shown[torch.from_numpy(score).topk(16).indices]
        assert set(trained.tolist()) == set(best.tolist())
        assert not torch.equal(shown, env.session.showing.shown.index[0])


def test_mask_spends_its_budget():
    info = run(dsenv.load("envs", "Tiny-Mask-v0"), lambda _: np.zeros(32, np.float32))[-1]
    assert info["samples_used"] == 25 * 16 and info["budget_left"] == 0


def test_binary_masks_spend_what_they_choose_as_far_as_the_budget_goes():
    env = dsenv.load("envs", "Tiny-Mask-v0", actions="binary")
    infos = run(env, lambda _: np.ones(32, np.int8))
    assert infos[0]["samples_used"] == 32  # all of them, while it lasts
    assert infos[-1]["samples_used"] == 25 * 16


def test_a_small_pool_pads_the_candidates():
    env = dsenv.load("envs", "Tiny-Mask-v0", context={"subset": 0.1})
    observation, _ = env.reset(seed=0)
    assert env.control.shown(observation)[:, 0].sum() == 20
    assert run(env, lambda _: np.zeros(32, np.float32))[-1]["samples_used"] == 25 * 10


def test_looking_at_the_candidates_is_paid_for():
    env = dsenv.load("envs", "Tiny-Mask-v0", control={"look": True})
    info = run(env, lambda _: np.zeros(32, np.float32))[-1]
    assert info["extra_forwards"] == 25 * 32
    assert info["samples_used"] + info["extra_forwards"] / 3 == pytest.approx(25 * 16, abs=1)
    with pytest.raises(ValueError, match="does not pay for looking at 100%"):
        dsenv.load("envs", "Tiny-Mask-v0", control={"look": True}, ratio=0.3)


def test_a_look_is_what_the_model_says_now():
    env = dsenv.load("envs", "Tiny-Mask-v0", control={"embedding": True})
    observation, _ = env.reset(seed=0)
    observation, *_ = env.step(np.zeros(32, np.float32))
    assert env.candidate_shape == (32, 16 + 16)
    session, look = env.session, env.session.showing.shown.look
    index = session.showing.shown.index
    out, labels = session.trainer.look_at(index)
    torch.testing.assert_close(look.loss, out.loss)
    confidence = out.logits.softmax(-1).gather(2, labels[..., None])[0, :, 0]
    shown = observation[-32 * 32 :].reshape(32, 32)
    names = env.observation_names[-32 * 32 :][:32]
    column = names.index("candidate 0: confidence in the label")
    np.testing.assert_allclose(shown[:, column], confidence, atol=1e-5)


def test_strength_reaches_the_pixels_of_its_bin():
    env = dsenv.load("envs", "Tiny-Strength-v0")
    env.reset(seed=0)
    seen = []
    step = env.session.trainer.replicas.step

    def watch(samples, *rest):
        seen.append(samples.clone())
        return step(samples, *rest)

    env.session.trainer.replicas.step = watch
    plain = env.session.trainer.split("train")
    stored = plain.gather(torch.arange(plain.size)).flatten(1)
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
    assert env.session.controllers[0].ops == ("rotate",)


def test_joint_follows_all_three_answers():
    env = dsenv.load("envs", "Tiny-Joint-v0")
    env.reset(seed=0)
    env.step(env.control.encode())
    action = env.control.encode(log_weight=[5, -5, -5, -5, -5], ratio=0.2, strength=0.5)
    _, _, _, _, info = env.step(action)
    assert info["ratio"] == pytest.approx(0.2)
    assert info["selected_bins"][0] > 0.9
    assert (env.session.controllers[0].strength == 0.5).all()


def test_masks_of_other_controls_are_refused():
    with pytest.raises(ValueError, match="has no binary actions; set actions to one of box, discrete"):
        dsenv.load("envs", "Tiny-Curriculum-v0", actions="binary")
    with pytest.raises(ValueError, match="has no discrete actions"):
        dsenv.load("envs", "Tiny-Joint-v0", actions="discrete")


def test_small_losses_of_candidates_hold_fewer_wrong_labels():
    env = dsenv.load("envs", "Tiny-Mask-v0", task={"dataset": {"train": 600}}, intervals=150)
    late = {}
    for name in ("small_loss", "random", "hard_first"):
        agent = dsenv.load("agents", name).bind(env.control, env.action_space)
        infos = run(env, lambda o, a=agent: a.predict(o)[0], {"label_noise": 0.4})
        late[name] = np.mean([info["wrong_labels"] for info in infos[-50:]])
    assert late["small_loss"] < late["random"] - 0.05 < late["hard_first"] - 0.1
