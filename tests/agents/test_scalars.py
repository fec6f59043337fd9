"""EnvScalars: what TensorBoard gets of the training runs, read back from its files."""

import numpy as np
import pytest
from stable_baselines3 import DQN, PPO
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecNormalize
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import dsenv
from dsenv import EnvScalars, StackedVecEnv
from dsenv.agents.pictures import moments, sessions_of
from dsenv.catalogue import load_vector
from dsenv.tracking import names

STEPS = 128
BINS = "chosen/share from each loss bin"


def stacked(name="Tiny-Curriculum-v0", num_envs=4, **settings):
    return StackedVecEnv(load_vector(name, num_envs, autoreset_mode="SameStep", **settings))


def trained(env, folder, callback=None, steps=STEPS, algorithm=PPO, **settings):
    """What TensorBoard has of an agent trained in an environment."""
    settings = settings or {"n_steps": 8, "batch_size": 8, "n_epochs": 1}
    model = algorithm("MlpPolicy", env, device="cpu", seed=0, tensorboard_log=str(folder), **settings)
    model.learn(steps, callback=callback or EnvScalars(), tb_log_name="run")
    events = EventAccumulator(str(folder / "run_1"), size_guidance={"images": 0, "histograms": 0})
    events.Reload()
    return events


def test_curves_have_plain_names_and_the_values_of_the_infos(tmp_path):
    seen = []

    class Kept(EnvScalars):
        def _on_step(self):
            seen.append([info["val_accuracy"] for info in self.locals["infos"]])
            return super()._on_step()

    events = trained(stacked(), tmp_path, Kept())
    tags = set(events.Tags()["scalars"])
    assert {"accuracy/validation", "accuracy/training", "accuracy/validation at the end"} <= tags
    assert not [tag for tag in tags if tag.startswith("env/")]
    curve = events.Scalars("accuracy/validation")
    assert [event.step for event in curve] == [32, 64, 96, 128]
    wanted = np.mean(seen, 1).reshape(4, 8).mean(1)
    assert [event.value for event in curve] == pytest.approx(wanted.tolist())


def test_series_that_never_change_are_left_out(tmp_path):
    tags = set(trained(stacked(context={"label_noise": 0.0}), tmp_path).Tags()["scalars"])
    assert not tags & {names.SHARE, names.WRONG, names.STRENGTH, names.DIVERGED}
    assert set(trained(stacked("Tiny-Joint-v0"), tmp_path / "joint").Tags()["scalars"]) >= {
        names.SHARE, names.WRONG, names.STRENGTH,
    }  # fmt: skip


def test_pictures_and_histograms_come_a_few_times(tmp_path):
    events = trained(stacked(), tmp_path, steps=256)
    assert set(events.Tags()["images"]) == {BINS, names.IMAGES}
    steps = [image.step for image in events.Images(BINS)]
    assert steps == [image.step for image in events.Images(names.IMAGES)] and 3 <= len(steps) <= 4
    assert steps == sorted(steps) and steps[-1] <= 256

    found = set(events.Tags()["histograms"])
    for interval in moments(4):
        when = f"in interval {interval} of 4"
        assert {f"pool/losses {when}", f"pool/confidences {when}"} <= found
        assert {f"policy/log weight of loss bin {b} {when}" for b in range(5)} <= found
        (first, *_) = events.Histograms(f"pool/confidences {when}")
        assert 0 <= first.histogram_value.min <= first.histogram_value.max <= 1
        weights = events.Histograms(f"policy/log weight of loss bin 0 {when}")[0].histogram_value
        assert -5 <= weights.min <= weights.max <= 5 and weights.num > 4


def test_the_pool_is_that_of_the_training_runs(tmp_path):
    kept = {}

    class Kept(EnvScalars):
        def _on_step(self):
            (session,) = sessions_of(self.training_env)
            if not kept and (session.state.interval == 1).all():
                signals = session.trainer.signals
                kept["losses"] = signals.loss[signals.times_trained > 0]
            return super()._on_step()

    events = trained(
        stacked(num_envs=2), tmp_path, Kept(pictures=1), steps=8, n_steps=4, batch_size=8, n_epochs=1
    )
    histogram = events.Histograms("pool/losses in interval 1 of 4")[0].histogram_value
    assert histogram.num == len(kept["losses"]) == 200
    assert histogram.sum == pytest.approx(float(kept["losses"].double().sum()), rel=1e-5)


@pytest.mark.parametrize(("name", "sheet"), [("Tiny-Mask-v0", True), ("Tiny-Datasets-v0", True)])
def test_other_controls_and_several_data_sets(tmp_path, name, sheet):
    events = trained(stacked(name), tmp_path, EnvScalars(pictures=1), steps=240)
    assert (names.IMAGES in events.Tags()["images"]) == sheet and BINS in events.Tags()["images"]
    if name == "Tiny-Mask-v0":
        assert [tag for tag in events.Tags()["histograms"] if tag.startswith("policy/score in interval")]


def test_tables_have_no_sheet(tmp_path):
    table = {"dataset": {"name": "iris", "validation": 30, "test": 30}}
    events = trained(stacked(task=table), tmp_path, EnvScalars(pictures=1))
    assert events.Tags()["images"] == [BINS]


def one_env():
    return dsenv.load("envs", "Tiny-Curriculum-v0")


@pytest.mark.parametrize("wraps", [DummyVecEnv, lambda made: VecNormalize(DummyVecEnv(made), norm_obs=False)])
def test_environments_of_gymnasium_are_looked_into(tmp_path, wraps):
    events = trained(wraps([one_env, one_env]), tmp_path, EnvScalars(pictures=2), steps=64)
    assert set(events.Tags()["images"]) == {BINS, names.IMAGES}
    assert "pool/losses in interval 1 of 4" in events.Tags()["histograms"]
    assert events.Scalars("accuracy/validation")


def test_environments_in_other_processes_have_curves_and_shares(tmp_path):
    env = SubprocVecEnv([one_env, one_env])
    try:
        events = trained(env, tmp_path, EnvScalars(pictures=2), steps=64)
    finally:
        env.close()
    assert events.Tags()["images"] == [BINS] and not events.Tags()["histograms"]
    assert events.Scalars("accuracy/validation")


def test_discrete_actions_of_an_off_policy_agent(tmp_path):
    env = stacked("Tiny-Strength-v0", actions="discrete")
    settings = {"learning_starts": 8, "batch_size": 8, "buffer_size": 64, "train_freq": 1}
    events = trained(env, tmp_path, EnvScalars(pictures=1), algorithm=DQN, **settings)
    strength = events.Histograms("policy/strength of stability bin 0 in interval 1 of 4")[0].histogram_value
    assert 0 <= strength.min <= strength.max <= 1


def test_no_pictures_where_none_are_wanted_and_a_wrong_number_is_named(tmp_path):
    events = trained(stacked(), tmp_path, EnvScalars(pictures=0))
    assert not events.Tags()["images"] and not events.Tags()["histograms"]
    with pytest.raises(ValueError, match="pictures"):
        EnvScalars(pictures=-1)


def test_a_state_of_an_older_version_goes_on_without_pictures():
    scalars = EnvScalars()
    scalars.load_state_dict({"calls": 3, "finals": [0.5]})
    assert scalars.n_calls == 3 and list(scalars.finals) == [0.5]


def test_many_points_over_time_are_joined_and_keep_their_mean():
    from dsenv.agents.pictures import MOST_POINTS, Pictures

    pictures = Pictures(1)
    for step in range(1000):
        pictures.collect([{"selected_bins": np.array([step / 1000, 1 - step / 1000])}])
        pictures.close_point(step)
    points = pictures.state_dict()["points"]
    assert len(points) <= MOST_POINTS + 1 and sum(count for _, _, count in points) == 1000
    assert sum(shares[0] for _, shares, _ in points) == pytest.approx(499.5)


def test_a_training_from_the_start_has_a_log_of_its_own(tmp_path):
    scalars = EnvScalars(pictures=2)
    model = PPO("MlpPolicy", stacked(), n_steps=8, batch_size=8, n_epochs=1, tensorboard_log=str(tmp_path))
    for _ in range(2):
        model.learn(64, callback=scalars, tb_log_name="run")
    first, second = (EventAccumulator(str(tmp_path / f"run_{n}"), {"images": 0}).Reload() for n in (1, 2))
    for events in (first, second):
        assert [image.step for image in events.Images(BINS)] == [44]
        steps = [event.step for event in events.Scalars(names.WRONG)]
        assert steps == sorted(steps) and steps[0] == 4
    assert first.Tags()["histograms"] == second.Tags()["histograms"]


def test_environments_that_are_not_dsenvs_are_named(tmp_path):
    model = PPO("MlpPolicy", "CartPole-v1", n_steps=8, batch_size=8, device="cpu")
    with pytest.raises(
        ValueError, match=r"hold TimeLimit.truncated, .*no val_accuracy: leave the callback out"
    ):
        model.learn(8, callback=EnvScalars())


def test_pictures_do_not_wait_for_runs_that_all_diverge(tmp_path):
    events = trained(stacked(context={"lr": 1e20}, device="cpu"), tmp_path)  # some survive other streams
    diverged = events.Scalars(names.DIVERGED)
    assert diverged[0].step == 32 and {event.value for event in diverged} == {1}  # constant, and said
    assert len(events.Images(BINS)) >= 2
