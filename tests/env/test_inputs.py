"""What users hand to reset and step: right, or an error that names it; what is refused changes nothing."""

import numpy as np
import pytest
import torch

import dsenv
from dsenv import StackedVecEnv
from dsenv.catalogue import load_vector

ENV = "Tiny-Ratio-v0"
JUNK = {
    "none": None,
    "text": "left",
    "complex": np.array([1j]),
    "object": np.array([object()]),
    "dict": {"a": 1},
    "set": {1},
    "huge int": 10**400,
    "list of huge ints": [10**400],
    "ragged": [[1, 2], [3]],
    "shape": np.zeros((2, 2, 2)),
    "scalar": 0.5,
    "nan": np.array([np.nan]),
    "inf": np.array([np.inf]),
    "float that is too large": np.array([1e300]),
    "bool": np.array([True]),
    "bytes": b"1",
    "dates": np.array(["2020-01-01"], "datetime64[D]"),
    "with a graph": torch.ones(1, requires_grad=True),
}


@pytest.fixture(scope="module")
def envs():
    """A single environment, two stacked ones, and two as Stable-Baselines3 sees them, all begun."""
    single, vector = dsenv.load("envs", ENV), load_vector(ENV, 2)
    adapter = StackedVecEnv(load_vector(ENV, 2, autoreset_mode="SameStep"))
    single.reset(seed=0)
    vector.reset(seed=0)
    adapter.reset()
    return single, vector, adapter


@pytest.mark.parametrize("name", JUNK)
def test_what_is_no_action_is_named(envs, name):
    single, vector, adapter = envs
    junk = JUNK[name]
    pairs = [junk, junk] if name in ("nan", "inf", "bool", "complex", "object") else junk
    if name == "float that is too large":  # cut to the box, as all that is beyond it
        assert np.isfinite(single.step(junk)[1])
        single.reset()
        return
    for env, given in ((single, junk), (vector, pairs), (adapter, pairs)):
        with pytest.raises(ValueError, match="action"):
            env.step(given)
    assert single.episodes.sessions()[0].state.interval[0] == 0
    assert vector.episodes.sessions()[0].state.interval.tolist() == [0, 0]


@pytest.mark.parametrize("given", [np.array([0.0]), np.float64(1), "1", None, -1, 9, 10**30, True, 1.5])
def test_what_is_no_choice_is_named(given):
    env = dsenv.load("envs", ENV, actions="discrete")
    env.reset(seed=0)
    with pytest.raises(ValueError, match="action"):
        env.step(given)
    env.step(np.int32(8))


@pytest.mark.parametrize("options", [5, "x", [], {"context": 5}, {"context": 0}, {"contxt": {}}, {5: 1}])
def test_options_of_another_form_are_named(envs, options):
    for env in envs[:2]:
        with pytest.raises(ValueError, match=r"option|context"):
            env.reset(options=options)
    if options == [] or not isinstance(options, dict) or "context" not in options:
        with pytest.raises(ValueError, match="option"):
            envs[2].set_options(options)


@pytest.mark.parametrize("seed", [1.5, "1", -1, True, np.float32(1), 10**30, [1, 2, 3], ["a", 1], {1}, b"12"])
def test_seeds_that_are_no_whole_numbers_are_named(envs, seed):
    for env in envs[:2]:
        with pytest.raises(ValueError, match="seed"):
            env.reset(seed=seed)
    with pytest.raises(ValueError, match="seed"):
        envs[2].seed(seed)


def test_whole_numbers_of_numpy_are_seeds(envs):
    for env in envs[:2]:
        one, two = (env.reset(seed=seed)[0] for seed in (7, np.int64(7)))
        np.testing.assert_array_equal(one, two)
    envs[2].seed(np.uint8(7))
    envs[1].reset(seed=[np.int64(7), None])


def test_refused_seeds_options_and_masks_leave_the_generators_alone():
    env, other = load_vector(ENV, 2), load_vector(ENV, 2)
    for each in (env, other):
        each.reset(seed=3)
    for wrong in (
        {"seed": [1, 2.5]},
        {"seed": 5, "options": {"reset_mask": [1, 0]}},
        {"seed": 5, "options": {"context": [{}]}},
        {"options": {"reset_mask": np.array([1, 0])}},
        {"options": {"reset_mask": [False, False]}},
        {"options": {"reset_mask": "yes"}},
    ):
        with pytest.raises(ValueError):
            env.reset(**wrong)
    assert env.np_random_seed == (3, 4)
    np.testing.assert_array_equal(env.reset()[0], other.reset()[0])


def test_generators_are_seeded_as_those_of_gymnasiums_vector_environments():
    import gymnasium

    env = load_vector(ENV, 3)
    usual = gymnasium.vector.SyncVectorEnv([lambda: gymnasium.make("CartPole-v1") for _ in range(3)])
    for each in (env, usual):
        each.reset(seed=42)
    assert env.np_random_seed == usual.np_random_seed == (42, 43, 44)
    for own, other in zip(env.np_random, usual.np_random, strict=True):
        assert type(own) is type(other)
    env.reset(seed=[1, None, 3])
    assert env.np_random_seed == (1, 43, 3)
    env.reset()
    assert env.np_random_seed == (1, 43, 3)


def test_a_step_without_actions_is_named(envs):
    envs[2].reset()
    with pytest.raises(RuntimeError, match="step_async"):
        envs[2].step_wait()
