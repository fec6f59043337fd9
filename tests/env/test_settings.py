"""Every setting of an environment: NumPy's numbers become plain ones, all else is refused by its name."""

import numpy as np
import pytest

import dsenv
from dsenv import EnvConfig
from dsenv.control.registry import make_control
from dsenv.env.context import Context
from dsenv.env.rewards import make_reward
from dsenv.training import Trainer
from tests.training.test_modules import frozen_layer, task_of

TASK = {"dataset": {"name": "digits", "train": 100}, "model": "mlp"}
NUMBERS = {
    "ratio": np.float32(0.5),
    "interval": np.float64(1),
    "validation_shown": np.float64(0),
    "divergence_penalty": np.int64(2),
    "intervals": np.int32(4),
    "bins": np.uint8(4),
    "spend_all": np.bool_(True),
    "train_on_validation": np.bool_(False),
    "trusted_validation": np.bool_(True),
}
WHOLE = ("intervals", "bins")
FLAGS = ("spend_all", "train_on_validation", "trusted_validation")
JUNK = ["5", None, float("nan"), float("inf"), -1, 10**400, [1], {}, b"1", 1j]


def test_numpys_numbers_become_plain_ones():
    config = EnvConfig(task=TASK, **NUMBERS)
    for name, given in NUMBERS.items():
        kept = getattr(config, name)
        assert type(kept) in (int, float, bool) and kept == given.item(), name
    context = Context(label_noise=np.float32(0.25), lr=np.int64(2))
    own = [value for value in vars(context).values() if value is not None]
    assert all(type(value) in (int, float) for value in own)


@pytest.mark.parametrize("name", NUMBERS)
def test_other_values_are_refused_by_name(name):
    junk = [*JUNK, *([1, 0] if name in FLAGS else [True, False])]
    junk += [2.0, 10**9] if name in WHOLE else []
    for value in junk:
        with pytest.raises(ValueError, match=f"^{name} must be"):
            EnvConfig(task=TASK, **{name: value})


@pytest.mark.parametrize("name", ["context", "trainer", "task", "control", "datasets", "evaluation_contexts"])
def test_tables_of_another_form_are_refused_by_name(name):
    for value in (5, None, np.zeros(2), True):
        with pytest.raises(ValueError, match=name.rstrip("s")):
            EnvConfig(**{"task": TASK, name: value})
    with pytest.raises(ValueError, match="context must be a table of values by name, got the key 5"):
        EnvConfig(task=TASK, context={5: 0.1})


@pytest.mark.parametrize(
    "value", ["0.4", None, True, float("nan"), [0.1, None], {"choices": [True]}, [0.3, "a"]]
)
def test_contexts_that_are_no_numbers_are_refused(value):
    with pytest.raises(ValueError, match="label_noise"):
        EnvConfig(task=TASK, context={"label_noise": value})


def test_contexts_take_numpys_numbers():
    config = EnvConfig(
        task=TASK, context={"label_noise": [np.float32(0.1), np.float64(0.4)], "lr": np.int64(2)}
    )
    context = config.make_contexts().draw(np.random.default_rng(0))
    assert type(context.label_noise) is float and type(context.lr) is float
    for points in (1, "3", 2.0, 10**9, True):
        with pytest.raises(ValueError, match="held_out, the points of each range"):
            EnvConfig(
                task=TASK,
                context={"held_out": {"subset": [0.1, 0.2]}},
                evaluation_contexts={"held_out": points},
            )


CONTROLS = {
    "curriculum": {"sharpness": [0, 1e9, *JUNK, True]},
    "ratio": {"minimum": [0, 1.5, *JUNK, True], "levels": [1, 2.0, 10**9, *JUNK, True]},
    "strength": {"stability_bins": [0, 2.0, 10**9, "5", True], "levels": [1, 10**9, *JUNK, True]},
    "mask": {"candidates": [7, 257, 8.0, *JUNK, True], "rescore": [1, *JUNK], "embedding": [0, *JUNK]},
    "joint": {"strength": [1, *JUNK], "minimum": JUNK, "sharpness": JUNK},
}


@pytest.mark.parametrize("name", CONTROLS)
def test_settings_of_controls_are_refused_by_name(name):
    for setting, values in CONTROLS[name].items():
        for value in values:
            with pytest.raises(ValueError, match=f"control.{setting}"):
                make_control({"name": name, setting: value}, 5, 0.5)
    numpys = {
        "sharpness": np.float32(2),
        "levels": np.int64(3),
        "candidates": np.int64(16),
        "rescore": np.bool_(True),
    }
    for setting in CONTROLS[name].keys() & numpys.keys():
        control = make_control({"name": name, setting: numpys[setting]}, 5, 0.5)
        assert all(type(value).__module__ != "numpy" for value in vars(control).values())


def test_settings_of_rewards_are_refused_by_name():
    for name, setting in (("composite", "quantile"), ("cost_aware", "price"), ("validation", "measure")):
        for value in [*JUNK, True]:
            with pytest.raises(ValueError, match=setting):
                make_reward({"name": name, setting: value})
    assert type(make_reward({"name": "composite", "quantile": np.float32(0.5)}).quantile) is float


@pytest.mark.parametrize(
    ("setting", "values"),
    [
        ("threads", [0, "2", None, True, 1.0]),
        ("compile", [1, "yes", None]),
        ("channels_last", [0, "no", None]),
        ("form", ["loops", 5, None, True]),
        ("precision", ["fp16", 5, None]),
        ("replicas", [0, "2", 2.0, None, True, 10**9]),
    ],
)
def test_settings_of_the_trainer_are_refused_by_name(setting, values):
    for value in values:
        with pytest.raises(ValueError, match=setting):
            Trainer(task_of(frozen_layer), **{setting: value})


@pytest.mark.parametrize("value", [0, "2", 2.0, None, True, 10**9])
def test_a_number_of_environments_is_a_whole_number(value):
    with pytest.raises(ValueError, match="num_envs"):
        dsenv.env.TrainingVectorEnv(num_envs=value, task=TASK)


@pytest.mark.parametrize("device", [5, None, "tpu", "meta", "cuda:99", ["cpu"]])
def test_devices_that_are_not_there_are_named(device):
    with pytest.raises(ValueError, match="device"):
        dsenv.TrainingEnv(task=TASK, device=device)
