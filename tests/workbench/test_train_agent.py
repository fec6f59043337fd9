"""train_agent.py, as a user runs it."""

import json
import runpy
import signal
import sys
from pathlib import Path

import numpy as np
import pytest

from dsenv.files import load_state
from dsenv.workbench import main
from dsenv.workbench.options import make_parser, parse_overrides
from tests.workbench.conftest import TRAIN

ROOT = Path(__file__).resolve().parents[2]
TINY = TRAIN[:6]


def only_run(folder):
    (run,) = folder.iterdir()
    return run


def events_of(run):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run))
    events.Reload()
    return events


def test_a_run_leaves_everything_in_its_folder(finished):
    names = {path.name for path in finished.iterdir() if "tfevents" not in path.name}
    assert names == {
        "run.toml", "env.toml", "agent.toml", "checkpoint.safetensors", "best_model.zip", "last_model.zip",
        "evaluations.npz", "evaluation.json", "accuracy.png", "schedule.png", "noise.png",
        "policy.safetensors", "evaluation", "hparams",
    }  # fmt: skip
    assert finished.name.endswith("-Tiny-Curriculum-v0-ppo-3")
    facts = (finished / "run.toml").read_text()
    assert "seed = 3" in facts and "torch = " in facts
    assert "steps = 96" in (finished / "agent.toml").read_text()
    agents = {row["agent"] for row in json.loads((finished / "evaluation.json").read_text())["rows"]}
    assert {"ppo", "all_data", "all_data_plus_validation", "random", "hard_first", "small_loss"} <= agents


def test_tensorboard_shows_our_scalars_beside_sb3s(finished):
    events = events_of(finished)
    tags = set(events.Tags()["scalars"])
    assert {"rollout/ep_rew_mean", "train/loss", "eval/mean_reward", "time/fps"} <= tags
    assert {"accuracy/validation", "accuracy/validation at the end", "chosen/wrong labels"} <= tags
    assert "chosen/share of the data" not in tags  # one half all the time: it says nothing
    assert "chosen/share from each loss bin" in events.Tags()["images"]


def test_evaluate_again_and_elsewhere(run, few_rules, capsys):
    before = json.loads((run / "evaluation.json").read_text())
    assert main(["--evaluate", str(run), "--seeds", "2", "--device", "cpu"]) == 0
    kept = [row for row in before["rows"] if row["agent"] in ("ppo", *few_rules)]
    again = json.loads((run / "evaluation.json").read_text())["rows"]
    timed = {"seconds"}
    assert [{k: v for k, v in row.items() if k not in timed} for row in again] == [
        {k: v for k, v in row.items() if k not in timed} for row in kept
    ]
    assert len(kept) == 8 and "| **ppo** | 50% |" in capsys.readouterr().out
    elsewhere = ["--evaluate", str(run), "--seeds", "2", "--env", "dsenv/Digits-Curriculum-v0"]
    settings = ["intervals=2", "task.dataset.train=200"]
    assert main([*elsewhere, "--env-set", settings[0], "--env-set", settings[1]]) == 0
    assert (run / f"Digits-Curriculum-v0-{'-'.join(settings)}-evaluation.json").is_file()


@pytest.mark.usefixtures("few_rules")
def test_published_methods_join_the_table_by_name(run, capsys):
    arguments = ["--evaluate", str(run), "--seeds", "2", "--env", "dsenv/Digits-Curriculum-v0"]
    arguments += ["--env-set", "task.dataset.train=200"]
    assert main([*arguments, "--env-set", "intervals=3", "--compare", "infobatch", "pods", "sada"]) == 0
    shown = capsys.readouterr().out
    assert "| infobatch | 50% |" in shown and "| pods | 50% |" in shown and "| sada | 50% |" in shown
    assert main([*arguments, "--compare", "sac"]) == 2
    assert "has to be trained" in capsys.readouterr().err


@pytest.mark.usefixtures("few_rules")
def test_other_settings_do_not_replace_the_runs_own_result(run):
    before = (run / "evaluation.json").read_text()
    assert main(["--evaluate", str(run), "--seeds", "2", "--env-set", "ratio=0.3"]) == 0
    assert (run / "evaluation.json").read_text() == before
    assert (run / "ratio=0.3-evaluation.json").is_file()


def test_an_environment_without_a_vector_form_is_refused_before_a_folder_is_made(tmp_path, capsys):
    path = tmp_path / "mine.toml"
    path.write_text(
        'entry_point = "dsenv.catalogue:make_env"\n[kwargs]\ndefinition_name = "Tiny-Curriculum-v0"\n'
    )
    assert main(["--env", str(path), "--out", str(tmp_path / "out")]) == 2
    assert "must be dsenv.env:TrainingEnv or a class derived from it" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.fast
def test_a_rule_takes_no_steps(tmp_path, capsys):
    assert main([*TINY, "--agent", "small_loss", "--out", str(tmp_path / "out")]) == 2
    assert "is not trained: leave out --steps and --num-envs" in capsys.readouterr().err


def test_a_policy_that_does_not_fit_is_refused(finished, capsys):
    assert main(["--evaluate", str(finished), "--env", "dsenv/Tiny-Ratio-v0"]) == 2
    assert "was trained for the" in capsys.readouterr().err


@pytest.mark.usefixtures("few_rules")
def test_resume_goes_on_where_it_stopped(run, capsys):
    assert main(["--resume", str(run)]) == 2
    assert "has done its 96 steps; pass --steps" in capsys.readouterr().err
    assert main(["--resume", str(run), "--steps", "192", "--seeds", "2"]) == 0
    assert "after 96 of 192 steps" in capsys.readouterr().out
    steps = [event.step for event in events_of(run).Scalars("rollout/ep_rew_mean")]
    assert steps == sorted(steps) and steps[-1] == 192
    with np.load(run / "evaluations.npz") as evaluations:
        looked = evaluations["timesteps"].tolist()
    assert looked == sorted(looked) and looked[0] < 96 < looked[-1]


@pytest.mark.usefixtures("few_rules")
def test_resume_with_other_trainings_side_by_side_looks_at_the_same_episodes(run):
    assert main(["--resume", str(run), "--steps", "192", "--num-envs", "8", "--seeds", "2"]) == 0
    with np.load(run / "evaluations.npz") as evaluations:
        assert evaluations["results"].shape[1] == 4 and evaluations["timesteps"][-1] > 96
    for name in ("evaluations.npz", "best_model.zip"):
        (run / name).write_bytes(b"PK\x03\x04")  # exports: nothing reads them
    assert main(["--resume", str(run), "--steps", "288", "--seeds", "1"]) == 0
    with np.load(run / "evaluations.npz") as evaluations:
        assert evaluations["timesteps"][-1] > 192


def test_what_a_saved_policy_cannot_take_is_refused_not_ignored(finished, capsys):
    before = (finished / "agent.toml").read_text()
    assert main(["--resume", str(finished), "--agent-set", "hyperparameters.gamma=0.5"]) == 2
    assert "keeps its hyperparameters" in capsys.readouterr().err
    assert (finished / "agent.toml").read_text() == before
    assert main(["--evaluate", str(finished), "--agent", "sac"]) == 2
    assert "leave out --agent" in capsys.readouterr().err
    assert main(["--evaluate", str(finished), "--seed", "0"]) == 2


def test_ctrl_c_in_the_evaluation_says_how_to_get_it(finished, capsys, monkeypatch):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("dsenv.workbench.train.evaluate_run", stop)
    assert main(["--evaluate", str(finished)]) == 130
    assert f"--evaluate {finished}" in capsys.readouterr().out


@pytest.mark.usefixtures("no_figures")
def test_rules_join_the_table_of_a_discrete_agent_which_resumes_with_its_replay_buffer(tmp_path, monkeypatch):
    short = ["--agent", "dqn", "--steps", "48", "--env-set", "actions=discrete"]
    for setting in ("learning_starts=8", "buffer_size=500"):
        short += ["--agent-set", f"hyperparameters.{setting}"]
    assert main([*TINY, *short, "--seeds", "1", "--out", str(tmp_path)]) == 0
    run = only_run(tmp_path)
    agents = {row["agent"] for row in json.loads((run / "evaluation.json").read_text())["rows"]}
    assert {"dqn", "all_data", "random", "small_loss"} <= agents
    assert transitions(run) == 48
    monkeypatch.setattr("dsenv.workbench.train.rule_names", lambda *_: [])
    assert main(["--resume", str(run), "--steps", "96", "--seeds", "1"]) == 0
    assert transitions(run) == 96  # those before the stop and those since


def transitions(run):
    return load_state(run / "checkpoint.safetensors")["agent"]["replay"]["arrays"]["rewards"].size


@pytest.mark.fast
@pytest.mark.usefixtures("few_rules")
def test_a_rule_is_evaluated_without_training(tmp_path):
    assert main([*TINY[:2], "--seeds", "2", "--agent", "small_loss", "--out", str(tmp_path)]) == 0
    content = json.loads((only_run(tmp_path) / "evaluation.json").read_text())
    assert content["agent"] == "small_loss"
    assert len({row["agent"] for row in content["rows"]}) == len(content["rows"]) / 2 == 3


@pytest.mark.fast
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--env", "dsenv/Tiny-Curriculm-v0"], "Did you mean 'Tiny-Curriculum-v0'"),
        (["--agent", "pppo"], "Did you mean 'ppo'"),
        ([*TINY, "--env-set", "ratoi=0.4"], "Did you mean 'ratio'"),
        ([*TINY, "--env-set", "ratio=1.4"], "ratio must be in (0, 1], got 1.4"),
        ([*TINY, "--agent-set", "hyperparameters.gama=0.9"], "Did you mean 'gamma'"),
        ([*TINY, "--agent-set", "step"], "KEY=VALUE, got 'step'"),
        ([*TINY, "--env-set", "a=2", "--env-set", "a.c=3"], "sets a value inside a"),
        ([*TINY, "--env-set", "task.recipe.lr=fast"], "recipe: lr must be a number above 0, got 'fast'"),
        (["--resume", "no-such-run"], "is not the folder of a run"),
        (["--evaluate", "no-such-run"], "is not the folder of a run"),
    ],
)
def test_mistakes_are_answered_in_one_line(arguments, message, tmp_path, capsys):
    assert main([*arguments, "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error
    assert not (tmp_path / "out").exists()


def test_resuming_with_another_env_or_agent_is_refused(finished, capsys):
    assert main(["--resume", str(finished), "--env", "dsenv/Digits-Curriculum-v0"]) == 2
    assert "not dsenv/Digits-Curriculum-v0; leave --env out" in capsys.readouterr().err
    assert main(["--resume", str(finished), "--agent", "a2c"]) == 2
    assert main(["--resume", str(finished), "--seed", "9"]) == 2
    assert "keeps its environment and seed" in capsys.readouterr().err


@pytest.mark.fast
def test_list_names_every_entry(capsys):
    assert main(["--list"]) == 0
    shown = capsys.readouterr().out
    assert "dsenv/Digits-Curriculum-v0" in shown and "all_data_plus_validation" in shown


@pytest.mark.fast
def test_help_teaches(capsys):
    with pytest.raises(SystemExit) as stopped:
        make_parser().parse_args(["--help"])
    assert stopped.value.code == 0
    shown = capsys.readouterr().out
    for word in ("--resume", "--evaluate", "--env-set", "examples:", "tensorboard --logdir", "default: ppo"):
        assert word in shown


@pytest.mark.fast
def test_overrides_are_toml_with_dots():
    given = ["a.b=0.5", "a.c=[1, 2]", "name=ppo", 'x.y.z="t"', "flag=true"]
    assert parse_overrides(given) == {
        "a": {"b": 0.5, "c": [1, 2]}, "name": "ppo", "x": {"y": {"z": "t"}}, "flag": True,
    }  # fmt: skip


def test_ctrl_c_saves_and_says_how_to_go_on(tmp_path, capsys, monkeypatch):
    """The signal comes in the middle of the training, as from the keyboard."""

    def press(bar):
        if bar.n_calls == 5:
            signal.raise_signal(signal.SIGINT)
        return True

    monkeypatch.setattr("dsenv.agents.callbacks.ProgressBar._on_step", press)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        assert main([*TRAIN, "--steps", "100000", "--out", str(tmp_path)]) == 130
    finally:
        signal.signal(signal.SIGINT, before)
    run = only_run(tmp_path)
    assert f"--resume {run}" in capsys.readouterr().out
    assert (run / "last_model.zip").is_file()


def test_the_script_ends_with_the_status_of_the_command_line(capsys, monkeypatch):
    for words, status in (["--list"], 0), (["--agent", "pppo"], 2):
        monkeypatch.setattr(sys, "argv", ["train_agent.py", *words])
        with pytest.raises(SystemExit) as stopped:
            runpy.run_path(str(ROOT / "train_agent.py"), run_name="__main__")
        assert stopped.value.code == status
    assert "Digits-Curriculum-v0" in capsys.readouterr().out


def test_an_agent_that_does_not_fit_leaves_no_folder(tmp_path, capsys):
    assert main(["--env", "Tiny-Curriculum-v0", "--agent", "ppo_set", "--out", str(tmp_path)]) == 2
    assert "SetPolicy acts on candidates" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("few_rules")
def test_another_environment_of_the_same_name_does_not_replace_the_runs_own_result(run, tmp_path):
    before = (run / "evaluation.json").read_text()
    path = tmp_path / "Tiny-Curriculum-v0.toml"
    text = (run / "env.toml").read_text()
    assert "intervals = 4" in text
    path.write_text(text.replace("intervals = 4", "intervals = 2"))
    assert main(["--evaluate", str(run), "--seeds", "1", "--device", "cpu", "--env", str(path)]) == 0
    assert (run / "evaluation.json").read_text() == before
    assert (run / "Tiny-Curriculum-v0-evaluation.json").is_file()


@pytest.mark.usefixtures("few_rules")
def test_long_settings_have_a_short_name(run):
    contexts = ",".join(f"{{label_noise=0.{n}}}" for n in range(10, 30))
    setting = f"evaluation_contexts=[{contexts}]"
    settings = ["--env-set", setting, "--env-set", "intervals=2"]
    assert main(["--evaluate", str(run), "--seeds", "1", "--device", "cpu", *settings]) == 0
    (path,) = run.glob("evaluation_contexts=*-evaluation.json")
    assert len(path.name) < 200


@pytest.mark.fast
def test_options_of_several_values_may_be_repeated():
    args = make_parser().parse_args(["--compare", "pods", "--compare", "infobatch", "sada"])
    assert args.compare == ["pods", "infobatch", "sada"]
    assert make_parser().parse_args([]).compare == []
