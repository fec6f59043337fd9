"""The state of an environment as plain data: taken at any step, written, loaded, it goes on bit for bit."""

import contextlib
import copy
import io

import numpy as np
import pytest
import torch
from torch import nn

import dsenv
from dsenv import AugmentationController, Reward, Selection, Selector, StackedVecEnv
from dsenv.catalogue import load_vector
from dsenv.plain import digest
from dsenv.select.registry import SELECTORS
from dsenv.tasks import from_tensors
from tests.env.plain_files import through_files

ENV = "Tiny-Curriculum-v0"
CONTROLS = [f"Tiny-{control}-v0" for control in ("Curriculum", "Ratio", "Mask", "Strength", "Joint")]
MODES = ("NextStep", "SameStep", "Disabled")
DATASETS = {
    "datasets": [
        {"name": "digits", "dataset": {"name": "digits", "train": 100}},
        {"name": "wine", "dataset": {"name": "wine", "train": 60, "validation": 30, "test": 30}},
    ]
}


def actions_of(env, steps, seed):
    rng = np.random.default_rng(seed)
    return rng.uniform(-1, 1, (steps, *env.action_space.shape)).astype(np.float32)


def run(env, actions):
    """Everything that the steps and resets give."""
    seen = []
    for action in actions:
        done, mode = env.episodes.finished, env.metadata.get("autoreset_mode")
        if mode is None and done[0]:
            seen.append(env.reset())
        elif mode is not None and mode.value == "Disabled" and done[0]:
            seen.append(env.reset(options={"reset_mask": done.copy()}))
        seen.append(env.step(action))
    return seen


def flat(value):
    """Numbers of nested results, as arrays."""
    if isinstance(value, dict):
        return [array for key in sorted(value) for array in flat(value[key])]
    if isinstance(value, list | tuple) or (isinstance(value, np.ndarray) and value.dtype == object):
        return [array for each in value for array in flat(each)]
    return [np.asarray(0 if value is None else value)]


def assert_same(one, other):
    one, other = flat(one), flat(other)
    assert len(one) == len(other) > 0
    for a, b in zip(one, other, strict=True):
        np.testing.assert_array_equal(a, b)


def check_continues(make, before, after=6):
    """An environment made anew goes on from the written state as the uninterrupted one does."""
    env = make()
    env.reset(seed=3)
    actions = actions_of(env, before + after, 0)
    run(env, actions[:before])
    state = env.state_dict()
    kept = copy.deepcopy(state)
    wanted = run(env, actions[before:])

    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    for saved in (through_files(state), torch.load(file, weights_only=True)):
        other = make()
        other.load_state_dict(saved)
        assert_same(run(other, actions[before:]), wanted)
    assert_same([kept], [state])  # the state stayed as it was


SINGLE = [(CONTROLS[0], 0), *((name, 4) for name in CONTROLS)]


@pytest.mark.parametrize(
    ("name", "before"),  # begun, in the middle, over
    [pytest.param(CONTROLS[0], 2, marks=pytest.mark.fast), *SINGLE],
)
def test_a_single_environment_goes_on_bit_for_bit(name, before):
    check_continues(lambda: dsenv.load("envs", name, intervals=4), before)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", CONTROLS)
def test_four_environments_go_on_bit_for_bit(name, mode):
    check_continues(lambda: load_vector(name, 4, intervals=3, autoreset_mode=mode), before=4)


@pytest.mark.parametrize("name", sorted(set(SELECTORS) - {"rho_loss"}))
def test_every_selector_goes_on_bit_for_bit(name):
    settings = {"control": "rule", "selector": name, "context": {"subset": 0.7}, "intervals": 4}
    check_continues(lambda: load_vector(ENV, 2, autoreset_mode="SameStep", **settings), before=2, after=4)


@pytest.mark.parametrize("name", ["fixed", "trivial", "rand_augment", "ent_augment", "sada"])
def test_every_controller_goes_on_bit_for_bit(name):
    check_continues(lambda: load_vector(ENV, 2, augment=name, intervals=4), before=2, after=4)


OTHERS = {
    "loop form": {"trainer": {"form": "loop"}},
    "vmap form": {"trainer": {"form": "vmap"}},
    "threads": {"trainer": {"form": "loop", "threads": 2}, "device": "cpu"},
    "adamw": {"task": {"recipe": {"optimizer": "adamw", "lr": 0.01}}},
    "batch norm": {"task": {"model": {"name": "small_cnn", "width": 8}}},
    "contexts": {"context": {"label_noise": [0.0, 0.4], "width": {"choices": [0.5, 1.0]}, "lr": [0.5, 2.0]}},
    "own validation labels": {"trusted_validation": False, "context": {"label_noise": [0.0, 0.4]}},
    "part of the budget": {"control": "ratio", "spend_all": False, "reward": "cost_aware"},
    "rescored": {"control": {"name": "mask", "candidates": 16, "embedding": True}},
    "composite": {"reward": "composite", "volume": "linear"},
    "data sets": DATASETS,
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_settings_go_on_bit_for_bit(name):
    settings = {"intervals": 4} | OTHERS[name]
    check_continues(lambda: load_vector(ENV, 3, autoreset_mode="SameStep", **settings), before=3)


def test_a_single_environment_goes_on_on_the_data_set_of_its_episode():
    for seed in range(4):
        env = dsenv.load("envs", ENV, **DATASETS)
        env.reset(seed=seed)
        actions = actions_of(env, 10, 0)
        run(env, actions[:2])
        other = dsenv.load("envs", ENV, **DATASETS)
        other.load_state_dict(through_files(env.state_dict()))
        assert_same(run(other, actions[2:]), run(env, actions[2:]))


def stacked(**settings):
    return StackedVecEnv(load_vector(ENV, 3, autoreset_mode="SameStep", intervals=4, **settings))


def test_the_environment_of_stable_baselines_goes_on_bit_for_bit():
    env = stacked()
    env.seed(5)
    env.set_options({"context": {"label_noise": 0.2}})
    env.reset()
    actions = actions_of(env.env, 12, 0)
    for action in actions[:3]:
        env.step(action)
    env.seed(6)
    env.set_options({"context": {"label_noise": 0.4}})
    env.step_async(actions[3])
    other = stacked()
    other.load_state_dict(through_files(env.state_dict()))
    for each in (env, other):
        each.seen = [each.step_wait()] + [each.step(action) for action in actions[4:]] + [each.reset()]
        each.seen += [each.step(action) for action in actions[:5]]
    assert_same(other.seen, env.seen)
    assert other.seen[10][3][0]["label_noise"] == 0.4


def test_random_actions_go_on_too():
    env = dsenv.load("envs", ENV)
    env.reset(seed=0)
    env.action_space.seed(4)
    env.action_space.sample()
    other = dsenv.load("envs", ENV)
    other.load_state_dict(through_files(env.state_dict()))
    np.testing.assert_array_equal(other.action_space.sample(), env.action_space.sample())


def test_a_state_goes_on_from_a_restored_one():
    env = dsenv.load("envs", ENV)
    env.reset(seed=0)
    actions = actions_of(env, 4, 0)
    snapshot, state = env.save_state(), env.state_dict()
    wanted = run(env, actions)
    env.load_state_dict(state)
    assert_same(run(env, actions), wanted)
    env.restore_state(snapshot)
    assert_same(run(env, actions), wanted)


# Refused, and nothing is changed


def own_data(seed=0, wrong=()):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(200) % 3
    labels[list(wrong)] += 1
    labels %= 3
    return from_tensors(torch.rand(200, 6, generator=generator), labels, validation=40, test=40, classes=3)


def own_env(data=None, *, model=None, recipe=None, **settings):
    task = {"dataset": data or own_data(), "model": model or "mlp", "recipe": recipe or {}}
    return dsenv.load("envs", "Tiny-Ratio-v0", **{"task": task, "intervals": 4, **settings})


def plain_linear(width=3):
    return nn.Sequential(nn.Linear(6, width), nn.ReLU(), nn.Linear(width, 3))


CHANGED = [
    ({"ratio": 0.3}, "ratio = "),
    ({"intervals": 5}, "intervals = "),
    ({"selector": "ucb"}, "selector = "),
    ({"reward": {"name": "final"}}, "reward = "),
    ({"recipe": {"lr": 0.05}}, "task.recipe.lr = 0.1, this one has 0.05"),
    ({"model": {"name": "mlp", "hidden": [5]}}, "task.model"),
    ({"data": own_data(1)}, "data.train.inputs = "),
    ({"data": own_data(0, wrong=range(200))}, "data.train.labels = "),
]


@pytest.mark.parametrize(("changes", "named"), CHANGED)
def test_a_state_of_something_else_is_refused_by_name(changes, named):
    env, other = own_env(), own_env(**changes)
    for each in (env, other):
        each.reset(seed=0)
    before = other.state_dict()
    with pytest.raises(ValueError, match=named.replace("(", "[(]")):
        other.load_state_dict(env.state_dict())
    assert_same([other.state_dict()], [before])


def test_states_of_other_kinds_are_refused():
    env, envs = dsenv.load("envs", ENV), load_vector(ENV, 2)
    state = env.state_dict()
    with pytest.raises(ValueError, match="kind = 'TrainingEnv', this one has 'TrainingVectorEnv'"):
        envs.load_state_dict(state)
    with pytest.raises(ValueError, match="num_envs = 3, this one has 2"):
        envs.load_state_dict(load_vector(ENV, 3).state_dict())
    with pytest.raises(ValueError, match="autoreset_mode = 'SameStep', this one has 'NextStep'"):
        envs.load_state_dict(load_vector(ENV, 2, autoreset_mode="SameStep").state_dict())
    with pytest.raises(ValueError, match="version 7"):
        env.load_state_dict({**state, "version": 7})
    for junk in (None, 5, {}, [], {"version": 1}, "state"):
        with pytest.raises(ValueError, match="is no state of an environment"):
            env.load_state_dict(junk)
    with pytest.raises(ValueError, match="kind = "):
        stacked().load_state_dict(state)


def places(value, path=()):
    """Paths to everything in a state."""
    if path:
        yield path
    inside = value.items() if type(value) is dict else enumerate(value) if type(value) is list else ()
    for key, each in inside:
        yield from places(each, (*path, key))


def damaged(state, path, kind):
    """The state with the value at `path` gone, or of another kind, or slightly changed."""
    state = copy.deepcopy(state)
    holder = state
    for key in path[:-1]:
        holder = holder[key]
    value = holder[path[-1]]
    if kind == "gone":
        del holder[path[-1]]
    elif kind == "other":
        holder[path[-1]] = {"a": [1]} if isinstance(value, torch.Tensor | str) else "x"
    elif isinstance(value, torch.Tensor) and value.numel():
        bits = value.view(torch.uint8) if value.ndim else value.reshape(1).view(torch.uint8)
        bits.view(-1)[0] ^= 1
    else:
        holder[path[-1]] = 12345
    return state


@pytest.mark.parametrize("kind", ["gone", "other", "changed"])
def test_a_damaged_state_is_refused_and_changes_nothing(kind):
    env = own_env(selector="ucb")
    env.reset(seed=0)
    state = env.state_dict()
    before = copy.deepcopy(state)
    paths = list(places(state))
    rng = np.random.default_rng(0)
    for place in rng.choice(len(paths), 120, replace=False):
        with pytest.raises(ValueError):
            env.load_state_dict(damaged(state, paths[place], kind))
    assert_same([env.state_dict()], [before])


def test_a_state_with_a_right_digest_and_wrong_contents_is_refused():
    env = own_env(selector="ucb")
    env.reset(seed=0)
    state = env.state_dict()
    before = copy.deepcopy(state)
    paths = [path for path in places(state) if path[0] in ("episodes", "random")]
    rng = np.random.default_rng(0)
    for place in rng.choice(len(paths), 60, replace=False):
        wrong = damaged(state, paths[place], "gone")
        del wrong["digest"]
        with contextlib.suppress(ValueError):  # one of ours, not a KeyError from deep inside
            env.load_state_dict({**wrong, "digest": digest(wrong)})
        env.load_state_dict(before)
    assert_same([env.state_dict()], [before])


# Parts of one's own


class Counting(Selector):
    """Takes other samples at each call, and keeps the count to itself."""

    def __init__(self):
        self.calls = 0

    def select(self, signals, count, generator):
        self.calls += 1
        index = (torch.arange(count, device=signals.device) + self.calls) % signals.size
        return Selection(index, torch.ones_like(index, dtype=torch.float32))


class Saving(Counting):
    """The same, with a state."""

    def state_dict(self):
        return {"calls": (self.calls, {3: np.float32(0.5)}), "array": np.arange(3), 7: torch.zeros(())}

    def load_state_dict(self, state):
        assert state["calls"][1] == {3: 0.5} and isinstance(state["calls"], tuple)
        assert isinstance(state["array"], np.ndarray) and state[7].shape == ()
        self.calls = state["calls"][0]


class Jumpy(AugmentationController):
    """Strengths that depend on a count of its own."""

    def __init__(self):
        super().__init__()
        self.batches = 0

    def strengths(self, signals, index, generator):
        self.batches += 1
        return torch.full(index.shape, 1 / self.batches)


class Streak(Reward):
    """Pays by the number of calls."""

    def __init__(self):
        self.calls = 0

    def measure(self, inputs):
        return inputs.validation.accuracy[:, None]

    def compute(self, transition):
        self.calls += 1
        return transition.after[:, 0] * self.calls


class SavingStreak(Streak):
    """The same, with a state."""

    def state_dict(self):
        return {"calls": self.calls}

    def load_state_dict(self, state):
        self.calls = state["calls"]


class Pickled(Counting):
    """A state that is no plain data."""

    def state_dict(self):
        return {"made": {"of": {1, 2}}}


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"selector": Counting}, "Counting changes calls while it is used"),
        ({"selector": Counting()}, "Counting changes calls while it is used"),
        ({"augment": Jumpy}, "Jumpy changes batches while it is used"),
        ({"reward": Streak}, "Streak changes calls while it is used"),
        ({"selector": Pickled}, "made.of is of builtins.set, and a state holds only tensors"),
    ],
)
def test_a_part_that_would_be_forgotten_is_named(settings, named):
    env = dsenv.load("envs", "Tiny-Ratio-v0", **settings)
    env.reset(seed=0)
    env.step(np.zeros(1, np.float32))
    with pytest.raises(ValueError, match=named):
        env.state_dict()


@pytest.mark.parametrize("settings", [{"selector": Saving}, {"reward": SavingStreak}])
def test_a_part_with_a_state_goes_on(settings):
    check_continues(lambda: load_vector("Tiny-Ratio-v0", 2, intervals=4, **settings), before=2)


class Own(nn.Module):
    """A model with a step count: a plain number, or a buffer that is not saved by torch."""

    def __init__(self, kind):
        super().__init__()
        self.layer, self.kind = nn.Linear(6, 3), kind
        if kind == "buffer":
            self.register_buffer("steps", torch.zeros(()), persistent=False)
        else:
            self.steps = 0

    def forward(self, x):
        if self.training:
            self.steps += 1
        return self.layer(x) * (1 + 0.1 * float(self.steps))


def test_buffers_that_are_not_persistent_go_on():
    check_continues(lambda: own_env(model=lambda: Own("buffer")), before=2, after=4)


def test_a_model_that_counts_in_a_plain_attribute_is_named():
    env = own_env(model=lambda: Own("number"))
    env.reset(seed=0)
    with pytest.raises(ValueError, match="changes steps, which its state_dict does not hold"):
        env.state_dict()
