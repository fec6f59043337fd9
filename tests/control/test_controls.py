import numpy as np
import pytest
import torch

from dsenv.control.observation import CANDIDATE_FEATURES
from dsenv.control.registry import CONTROLS, make_control
from dsenv.control.state import Candidates, TrainingState
from dsenv.signals import SampleSignals
from dsenv.volume.budget import Budget

pytestmark = pytest.mark.fast

K, N, B, M = 3, 40, 5, 8
ANSWERS = {
    "curriculum": {"log_weight": np.array([-5.0, -1.0, 0.0, 2.0, 5.0]), "trim": np.array([1.5])},
    "ratio": {"ratio": np.array([0.3])},
    "strength": {"strength": np.array([0.0, 0.25, 0.5, 0.75, 1.0])},
    "mask": {"score": np.linspace(-1, 1, M)},
    "joint": {
        "log_weight": np.array([5.0, 0.0, 0.0, 0.0, -5.0]),
        "trim": np.array([0.25]),
        "ratio": np.array([0.8]),
        "strength": np.array([1.0, 0.5, 0.5, 0.5, 0.0]),
    },
}


def build(name, **settings):
    small = {"candidates": M} if name == "mask" else {}
    return make_control({"name": name, **small, **settings}, B, 0.5)


def situation(candidates=None):
    generator = torch.Generator().manual_seed(0)
    pool = torch.ones(K, N, dtype=torch.bool)
    pool[:, -4:] = False
    budget = Budget(np.full(K, M if candidates is not None else 36), 4, 0.5, 0.1)
    state = TrainingState.blank(
        SampleSignals(N, 2, K), pool, budget, bins=B, actions=1, intervals=4, target=0.5
    )
    state.bins = torch.randint(B, (K, N), generator=generator)
    state.stability = torch.randint(B, (K, N), generator=generator)
    state.planned = np.array([4, 4, 4]) if candidates is not None else np.array([18, 18, 18])
    if candidates is not None:
        state.candidates = Candidates(candidates)
    return state


def shown():
    """(K, M) candidates; the last row has two places of padding."""
    generator = torch.Generator().manual_seed(1)
    index = torch.stack([torch.randperm(36, generator=generator)[:M] for _ in range(K)])
    index[-1, -2:] = N
    return index


@pytest.mark.parametrize("name", ANSWERS)
def test_decode_is_the_inverse_of_encode(name):
    control = build(name)
    action = control.encode(**ANSWERS[name])
    assert action.shape == (control.size,) == (len(control.names),) and action.dtype == np.float32
    assert (np.abs(action) <= 1).all()
    decoded = control.decode(action[None])
    assert decoded.keys() == ANSWERS[name].keys() == dict(control.slices).keys()
    for answer, value in ANSWERS[name].items():
        np.testing.assert_allclose(decoded[answer][0], value, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("name", CONTROLS)
def test_slices_cover_the_action_once(name):
    control = build(name)
    covered = np.concatenate([np.arange(control.size)[where] for where in control.slices.values()])
    np.testing.assert_array_equal(np.sort(covered), np.arange(control.size))


def test_a_wrong_answer_is_refused_by_name():
    with pytest.raises(ValueError, match=r"strength must be from 0 to 1, got 1\.5"):
        build("strength").encode(strength=1.5)
    with pytest.raises(ValueError, match=r"strength must be from 0 to 1, got -0\.1"):
        build("strength").encode(strength=-0.1)
    with pytest.raises(ValueError, match="strength takes one number or 5"):
        build("joint").encode(strength=[0.1, 0.2])
    with pytest.raises(ValueError, match="Did you mean 'ratio'"):
        build("joint").encode(ration=0.5)
    for name in ("curriculum", "joint"):
        for factor in (-0.5, 2.5):
            with pytest.raises(ValueError, match=rf"trim must be from 0 to 2, got {factor}"):
                build(name).encode(trim=factor)
    with pytest.raises(ValueError, match="does not trim: build it with trim = true, or leave trim out"):
        build("curriculum", trim=False).encode(trim=1.0)
    with pytest.raises(ValueError, match="no answer called 'trim'"):
        build("joint", trim=False).encode(trim=1.0)


def test_strengths_go_to_the_samples_of_their_bin():
    control, now = build("strength"), situation()
    actions = np.stack([control.encode(**ANSWERS["strength"])] * K)
    decision = control.decide(actions, now)
    assert decision.counts is None and decision.log_weight is None
    torch.testing.assert_close(decision.strength, now.stability.float() / 4)


def test_joint_answers_as_its_parts_do():
    control, now = build("joint"), situation()
    actions = np.random.default_rng(0).uniform(-1, 1, (K, control.size)).astype(np.float32)
    decision = control.decide(actions, now)
    for name in ("curriculum", "ratio", "strength"):
        part = build(name)
        where = np.concatenate([np.arange(control.size)[control.slices[answer]] for answer in part.slices])
        alone = part.decide(actions[:, where], now)
        for answer in ("counts", "log_weight", "strength"):
            value = getattr(alone, answer)
            if value is not None:
                found = np.asarray(getattr(decision, answer))
                # a count is a rounded product: one sample more or less
                np.testing.assert_allclose(found, value, rtol=1e-5, atol=1 if answer == "counts" else 1e-6)
    assert decision.counts is not None and decision.strength is not None


def test_joint_takes_its_settings_from_its_parts():
    control = build("joint", stability_bins=3, minimum=0.2)
    assert (control.stability_bins, control.minimum, control.size) == (3, 0.2, B + 1 + 1 + 3)
    assert build("joint", strength=False).stability_bins == 0
    assert build("joint", trim=False).size == B + 1 + B


def test_joint_without_strength_leaves_augmentation_alone():
    control = build("joint", strength=False)
    assert list(control.slices) == ["log_weight", "trim", "ratio"] and not control.decides_how_strong
    assert control.decide(np.zeros((K, control.size), np.float32), situation()).strength is None


def test_mask_trains_on_exactly_the_planned_number_of_best_candidates():
    control, candidates = build("mask"), shown()
    scores = np.random.default_rng(0).uniform(-1, 1, (K, M)).astype(np.float32)
    weight = control.decide(scores, situation(candidates)).log_weight
    for k in range(K):
        exists = int((candidates[k] < N).sum())
        best = candidates[k, :exists][torch.from_numpy(scores[k, :exists]).topk(4).indices]
        assert set((weight[k] == 0).nonzero().flatten().tolist()) == set(best.tolist())
        assert weight[k].isneginf().sum() == N - 4


def test_binary_mask_sets_the_ratio_within_the_budget():
    control = make_control({"name": "mask", "candidates": M}, B, 0.5, binary=True)
    candidates = shown()
    masks = -np.ones((K, M), np.float32)
    masks[0, 2] = masks[1] = 1
    now = situation(candidates)
    decision = control.decide(masks, now)
    assert decision.counts.tolist() == [1, 8, 1]  # none at all is raised to the budget's floor
    assert decision.log_weight[0, candidates[0, 2]] == 0
    assert (decision.log_weight == 0).sum(1).tolist() == [1, 8, 1]
    masks[2] = 1
    assert control.decide(masks, now).counts.tolist() == [1, 8, 6]  # padding does not count


def test_a_binary_score_of_zero_is_a_no():
    control, candidates = make_control({"name": "mask", "candidates": M}, B, 0.5, binary=True), shown()
    masks = np.zeros((K, M), np.float32)
    masks[:, 3], masks[1, 4] = 1, 0.5
    decision = control.decide(masks, situation(candidates))
    assert decision.counts.tolist() == [1, 2, 1]
    assert all(decision.log_weight[k, candidates[k, 3]] == 0 for k in range(K))


def test_a_mask_looks_only_where_it_is_asked_to():
    assert not build("mask").rescores and not build("mask").embedding
    assert build("mask", rescore=True).rescores and build("mask", embedding=True).rescores


def test_padding_is_never_chosen():
    control = build("mask")
    candidates = shown()
    candidates[:, 3:] = N
    scores = np.full((K, M), -1, np.float32)
    scores[:, 3:] = 1
    weight = control.decide(scores, situation(candidates)).log_weight
    assert (weight == 0).sum(1).tolist() == [3, 3, 3]


@pytest.mark.parametrize("candidates", [4, 300])
def test_sets_that_cannot_be_learned_from_are_refused(candidates):
    with pytest.raises(ValueError, match=f"from 8 to 256, got {candidates}"):
        build("mask", candidates=candidates)


def test_choices_of_discrete_actions():
    runs = ["100", "110", "111", "010", "011", "001"]  # neighbouring bins at 1, the others at -1
    weights = [[2.0 * int(digit) - 1 for digit in run] for run in runs]
    plain = make_control({"name": "curriculum", "trim": False}, 3, 0.5)
    assert plain.choices().tolist() == weights
    rule = [0.0, 0.0, 0.0, 0.0]  # and the rule `trim`
    assert make_control("curriculum", 3, 0.5).choices().tolist() == [[*row, -1.0] for row in weights] + [rule]
    assert make_control("ratio", 3, 0.5).choices().tolist() == np.linspace(-1, 1, 9)[:, None].tolist()
    strength = make_control("strength", 3, 0.5).choices()
    np.testing.assert_allclose(
        strength[:6], np.repeat([[0], [0.2], [0.4], [0.6], [0.8], [1]], 3, 1), atol=1e-6
    )
    assert strength[6:].tolist() == [[1, 0.5, 0], [0, 0.5, 1]]
    assert make_control({"name": "strength", "levels": 2}, 3, 0.5).choices().shape == (4, 3)
    rule = make_control("rule", 3, 0.5)
    assert rule.choices().tolist() == [[0]] and rule.size == len(rule.names) == 1
    for name in ("ratio", "strength"):
        with pytest.raises(ValueError, match=r"control\.levels .*from 2 to 1000, got 1"):
            make_control({"name": name, "levels": 1}, 3, 0.5)
    for name in ("mask", "joint"):
        with pytest.raises(ValueError, match=f"control '{name}' has no discrete actions"):
            build(name).choices()


def test_what_is_not_said_is_neutral():
    assert build("curriculum").encode().tolist() == [0] * B + [-1]  # nothing is trimmed
    assert build("curriculum", trim=False).encode().tolist() == [0] * B
    assert build("ratio").decode(build("ratio").encode()[None])["ratio"].item() == pytest.approx(0.5)
    assert build("strength").encode().tolist() == [0] * B  # no augmentation
    assert build("mask").encode().tolist() == [0] * M
    assert build("rule").encode().tolist() == [0] == build("rule").decode(np.zeros((1, 1)))["ignored"][0]
    joint = build("joint").encode(ratio=0.8)
    np.testing.assert_allclose(joint, [0] * B + [-1] + [2 * 0.7 / 0.9 - 1] + [0] * B, rtol=1e-6)
    with pytest.raises(ValueError, match=r"score must be from -1 to 1, got 1\.5"):
        build("mask").encode(score=1.5)


def test_equal_scores_go_by_position():
    many = 32  # sorts of fewer are stable anyway
    control = build("mask", candidates=many)
    candidates = torch.arange(many).flip(0).expand(K, -1)
    weight = control.decide(np.zeros((K, many), np.float32), situation(candidates)).log_weight
    assert (weight[:, many - 4 : many] == 0).all() and weight[:, : many - 4].isneginf().all()


def test_the_smallest_ratio_of_masks():
    settings = {"name": "mask", "candidates": M, "minimum": 0.7}
    assert make_control(settings, B, 0.5).minimum is None  # the volume schedule decides
    assert make_control(settings, B, 0.5, binary=True).minimum == 0.5
    assert make_control(settings, B, 0.9, binary=True).minimum == 0.7


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("mask", {"minimum": 0}),
        ("joint", {"stability_bins": 1.5, "strength": False}),
        ("joint", {"trim": "no"}),
        ("curriculum", {"trim": 1.5}),
    ],
)
def test_a_setting_is_checked_where_it_has_no_effect_too(name, settings):
    with pytest.raises(ValueError, match=f"control.{next(iter(settings))} must be"):
        make_control({"name": name, **settings}, B, 0.5)


def test_an_observation_ends_with_the_features_of_the_candidates():
    features = np.arange(M * len(CANDIDATE_FEATURES), dtype=np.float32).reshape(M, -1)
    observation = np.concatenate([np.full(7, -1, np.float32), features.ravel()])
    np.testing.assert_array_equal(build("mask").shown(observation), features)
    with pytest.raises(ValueError, match=r"set control\.embedding = false"):
        build("mask", embedding=True).shown(observation)


def test_strengths_below_zero_are_none():
    found = build("strength").decode(np.linspace(-1, 1, B, dtype=np.float32)[None])["strength"][0]
    assert (found[: B // 2] == 0).all() and found[-1] == 1 and (np.diff(found) >= 0).all()
