"""Runs survive kills, signals, full disks, damaged files, a second process; opening one executes nothing."""

import os
import resource
import shutil
import signal
import subprocess
import sys
import warnings

import numpy as np
import pytest

from dsenv import files
from dsenv.agents.base import build_agent
from dsenv.catalogue import Definition
from dsenv.files import load_state
from dsenv.policy import Policy
from dsenv.workbench import checkpoint, main
from dsenv.workbench.lock import locked
from dsenv.workbench.run import Run
from dsenv.workbench.train import train
from tests.workbench.conftest import TRAIN
from tests.workbench.runs import (
    CANDIDATES,
    CONTRIB,
    SHORT,
    differences,
    final_state,
    go_on,
    new_run,
    shown,
)


def only_run(folder):
    (run,) = (path for path in folder.iterdir() if not path.name.startswith("."))
    return run


@pytest.fixture
def quick(monkeypatch, no_figures):
    """Tables of the agent alone."""
    monkeypatch.setattr("dsenv.workbench.train.rule_names", lambda *_: [])
    monkeypatch.setattr("dsenv.workbench.train.EVALUATIONS", 2)


# Every agent from the command line


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("agent", SHORT)
def test_every_learning_agent_trains_resumes_and_evaluates_from_the_command_line(agent, tmp_path):
    if agent in CONTRIB:
        pytest.importorskip("sb3_contrib")
    command = ["--env", "dsenv/Tiny-Ratio-v0", "--agent", agent, "--num-envs", "2", "--seeds", "1"]
    if agent in CANDIDATES:
        command[1] = "dsenv/Tiny-Mask-v0"
        where = "--agent-set=env." if agent == "ppo_data_agent" else "--env-set="
        command += [f"{where}control.candidates=16"]
    command += [f"--agent-set=hyperparameters.{name}={value}" for name, value in SHORT[agent].items()]
    assert main([*command, "--env-set=intervals=2", "--steps", "16", "--out", str(tmp_path)]) == 0
    run = only_run(tmp_path)
    assert main(["--resume", str(run), "--steps", "24", "--seeds", "1"]) == 0
    assert main(["--evaluate", str(run), "--seeds", "1"]) == 0
    assert checkpoint.steps_done(final_state(run)) >= 24 and (run / "best_model.zip").is_file()


def test_settings_that_sb3_writes_into_stay_as_they_were():
    from dsenv.workbench.cluster import make_vec_env

    found = Definition("agents", "a2c", "dsenv.agents.sb3:SB3Agent", {"algorithm": "A2C"}).with_overrides(
        {"hyperparameters": {"policy_kwargs": {"net_arch": [8]}, "n_steps": 2}}
    )
    agent = build_agent(found)
    env = Definition("envs", "mine", "dsenv.env:TrainingEnv", {"intervals": 2, "task": _tiny()})
    agent.build(make_vec_env(env, 2, "cpu"), seed=0)
    assert found.kwargs["hyperparameters"]["policy_kwargs"] == {"net_arch": [8]}
    assert agent.hyperparameters["policy_kwargs"] == {"net_arch": [8]}


def _tiny():
    return {
        "dataset": {"name": "digits", "train": 50, "validation": 50, "test": 50},
        "model": {"name": "mlp", "hidden": [4]},
        "recipe": {"optimizer": "sgd", "lr": 0.1, "batch_size": 25},
    }


@pytest.mark.usefixtures("quick")
def test_a_start_that_fails_leaves_no_folder(tmp_path, capsys, monkeypatch):
    def full(path, content):
        raise OSError(28, f"cannot write {path}: No space left on device")

    out = tmp_path / "out"
    monkeypatch.setattr("dsenv.workbench.checkpoint.files.save_state", full)
    assert main([*TRAIN, "--out", str(out)]) == 2
    assert "checkpoint.safetensors: No space left" in capsys.readouterr().err and not list(out.iterdir())
    monkeypatch.undo()
    monkeypatch.setattr("dsenv.workbench.run.files.write", full)
    assert main([*TRAIN, "--out", str(out)]) == 2
    assert "No space left" in capsys.readouterr().err and not list(out.iterdir())


# Kills


KILLED = """
import os, sys
from dsenv import files
from dsenv.workbench import main
written = []
def replace(a, b, own=os.replace):
    written.append(os.path.basename(b))
    if written.count(sys.argv[1]) == int(sys.argv[2]):
        os._exit(9)
    own(a, b)
os.replace = replace
sys.exit(main(sys.argv[3:]))
"""


def killed(name, number, *command):
    """Run a command that dies at the n-th write of the file `name`, as by kill -9."""
    words = [sys.executable, "-c", KILLED, name, str(number), *command]
    done = subprocess.run(words, timeout=120, capture_output=True, text=True, cwd=os.getcwd())
    assert done.returncode == 9, done.stderr


COMMAND = [*TRAIN, "--seed", "3", "--save-every", "0"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("checkpoint.safetensors", 1),
        ("evaluations.npz", 2),
        ("policy.safetensors", 1),
    ],
)
@pytest.mark.usefixtures("few_rules")
def test_a_run_that_is_killed_in_a_write_goes_on_to_the_same_end(name, number, tmp_path, finished, capsys):
    killed(name, number, *COMMAND, "--out", str(tmp_path))
    run = only_run(tmp_path)
    assert main(["--resume", str(run), "--seeds", "2"]) == 0
    words = capsys.readouterr().out
    assert ("it starts over from its TOMLs" in words) == (name == "checkpoint.safetensors" and number == 1)
    assert [path.name for path in run.iterdir() if "partial" in path.name or "damaged" in path.name] == []

    # The shared run trained in one go, in another process, with fewer looks here: compare the policy
    assert (run / "policy.safetensors").is_file() and (run / "evaluation.json").is_file()
    state, whole = final_state(run), final_state(finished)
    assert differences(state["agent"]["parameters"], whole["agent"]["parameters"]) == []


def test_a_kill_before_the_folder_is_whole_leaves_none(tmp_path):
    killed("agent.toml", 1, *COMMAND, "--out", str(tmp_path))
    assert [path for path in tmp_path.iterdir() if not path.name.startswith(".")] == []


@pytest.mark.usefixtures("quick")
def test_what_a_run_lacks_after_its_last_step_is_written_by_resume_and_by_evaluate(run, capsys):
    wanted = Policy.load(run / "policy.safetensors").digest
    for command in ("--resume", "--evaluate"):
        for name in ("policy.safetensors", "best_model.zip", "evaluations.npz"):
            (run / name).unlink(missing_ok=True)
        assert main([command, str(run), "--seeds", "1"]) == 0
        assert Policy.load(run / "policy.safetensors").digest == wanted
        assert (run / "best_model.zip").is_file() and (run / "evaluations.npz").is_file()
    assert "has done its 96 steps" in capsys.readouterr().out
    assert main(["--resume", str(run)]) == 2
    assert "has done its 96 steps; pass --steps" in capsys.readouterr().err

    (run / "evaluation.json").unlink()
    assert main(["--resume", str(run), "--seeds", "1"]) == 0
    assert (run / "evaluation.json").is_file()


# Signals


def stopped_by(number, tmp_path, monkeypatch, times=1):
    """Exit status and folder of a run that gets a signal in the middle of a rollout, once or more often."""

    def press(bar):
        if 5 <= bar.n_calls < 5 + times:
            signal.raise_signal(number)
        return True

    monkeypatch.setattr("dsenv.agents.callbacks.ProgressBar._on_step", press)
    before = signal.getsignal(number)
    signal.signal(number, signal.default_int_handler)
    try:
        return main([*TRAIN, "--out", str(tmp_path)]), only_run(tmp_path)
    finally:
        signal.signal(number, before)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_the_run_at_the_next_rollout(number, status, tmp_path, monkeypatch, capfd):
    found, run = stopped_by(number, tmp_path, monkeypatch)
    shown = capfd.readouterr()
    assert found == status and f"--resume {run}" in shown.out
    assert "stopping at the next checkpoint; once more stops at once" in shown.err
    assert checkpoint.steps_done(final_state(run)) == 32  # the rollout of 8 steps by 4 was ended
    assert {"last_model.zip", "evaluations.npz"} <= {path.name for path in run.iterdir()}


def test_a_second_signal_stops_at_once_and_the_last_checkpoint_stands(tmp_path, monkeypatch):
    found, run = stopped_by(signal.SIGTERM, tmp_path, monkeypatch, times=2)
    assert found == 143
    assert checkpoint.steps_done(final_state(run)) == 0  # the one of the beginning


def test_signals_that_are_ignored_stay_ignored():
    from dsenv.workbench.stop import Stop

    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Stop() as stop:
            signal.raise_signal(signal.SIGHUP)
            assert not stop.is_asked()
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


# Two processes


HOLDING = """
import sys
from pathlib import Path
from dsenv.workbench.lock import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_the_second_process_is_told_who_has_the_run_and_a_killed_owner_leaves_no_lock(run, capsys):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDING, str(run)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout.readline() == "held\n"
        for command in (["--resume", str(run), "--steps", "192"], ["--evaluate", str(run)]):
            assert main(command) == 2
            error = capsys.readouterr().err
            assert f"{run} is in use: process {holder.pid} on {os.uname().nodename} since" in error
    finally:
        holder.kill()
        holder.wait()
    assert (run / "run.lock").is_file()
    with locked(run):
        assert f"process {os.getpid()}" in (run / "run.lock").read_text()
    assert not (run / "run.lock").exists()


def test_without_system_locks_the_process_number_decides(tmp_path, monkeypatch):
    monkeypatch.setattr("dsenv.workbench.lock.fcntl", None)
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    name = os.uname().nodename
    for owner, is_free in (
        (f"process {ended.pid} on {name} since 2026", True),
        ("", True),
        (f"process {os.getpid()} on {name} since 2026", False),
        (f"process {ended.pid} on elsewhere since 2026", False),
    ):
        (tmp_path / "run.lock").write_text(owner)
        if is_free:
            with locked(tmp_path):
                pass
            assert not (tmp_path / "run.lock").exists()
        else:
            with pytest.raises(ValueError, match=f"is in use: {owner} has it"), locked(tmp_path):
                pass


# Damaged files and full disks


@pytest.mark.usefixtures("quick")
def test_a_damaged_checkpoint_is_set_aside_and_the_run_starts_over_to_the_same_end(run, capsys):
    wanted = final_state(run)
    path = run / "checkpoint.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    shutil.copy(path, run / "kept")
    with pytest.warns(UserWarning, match=r"checkpoint\.safetensors is damaged and was set aside"):
        assert main(["--evaluate", str(run), "--seeds", "1"]) == 2
    assert f"--resume {run}" in capsys.readouterr().err
    shutil.copy(run / "kept", path)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert main(["--resume", str(run), "--seeds", "1"]) == 0
    assert any("was set aside as checkpoint.safetensors.damaged-2" in str(one.message) for one in caught)
    assert "it starts over from its TOMLs" in capsys.readouterr().out
    assert differences(final_state(run)["agent"]["parameters"], wanted["agent"]["parameters"]) == []


@pytest.mark.usefixtures("quick")
def test_a_damaged_policy_file_is_set_aside_and_written_again(run):
    (run / "policy.safetensors").write_bytes(b"cut")
    with pytest.warns(UserWarning, match=r"policy\.safetensors is damaged and was set aside"):
        assert main(["--evaluate", str(run), "--seeds", "1"]) == 0
    assert Policy.load(run / "policy.safetensors")


BROKEN = [b"", b"\xff\xfe", b"a = [", b"a = " + b"[" * 5000, b"entry_point = 3", None]


@pytest.mark.fast
@pytest.mark.parametrize("name", ["run.toml", "env.toml", "agent.toml"])
@pytest.mark.parametrize("content", BROKEN)
def test_a_damaged_toml_is_named_with_what_to_do(name, content, tmp_path, capsys):
    for other in ("run.toml", "env.toml", "agent.toml"):
        (tmp_path / other).write_text('env = "a"\nagent = "b"\nseed = 1\nentry_point = "a:b"\n[kwargs]\n')
    (tmp_path / name).unlink()
    if content is not None:
        (tmp_path / name).write_bytes(content)
    for command in ("--resume", "--evaluate"):
        assert main([command, str(tmp_path)]) == 2
        error = capsys.readouterr().err
        assert name in error and ("is damaged" in error or "is not the folder of a run" in error)
        assert "Traceback" not in error


def test_settings_that_were_changed_by_hand_are_refused_not_mixed(run, capsys):
    path = run / "agent.toml"
    path.write_text(path.read_text().replace("gamma = 1.0", "gamma = 0.5"))
    for command in (["--resume", str(run), "--steps", "192"], ["--evaluate", str(run)]):
        assert main(command) == 2
        assert "agent.toml was changed since checkpoint.safetensors was written" in capsys.readouterr().err


def test_a_run_of_before_is_not_opened_and_says_what_to_do(run, capsys):
    (run / "checkpoint.safetensors").unlink()
    facts = (run / "run.toml").read_text()
    (run / "run.toml").write_text(facts.replace("layout = 2", ""))
    for command in ("--resume", "--evaluate"):
        assert main([command, str(run)]) == 2
        assert "would execute what is pickled in it" in capsys.readouterr().err


@pytest.mark.usefixtures("quick")
def test_a_full_disk_is_named_and_after_there_is_room_the_run_goes_on(tmp_path, capsys, monkeypatch):
    own, count = files.write, []

    def full(path, content):
        count.append(path.name)
        if len(count) > 6:
            raise OSError(28, f"cannot write {path}: No space left on device")
        return own(path, content)

    monkeypatch.setattr("dsenv.files.write", full)
    assert main([*TRAIN, "--save-every", "0", "--out", str(tmp_path)]) == 2
    assert f"{count[-1]}: No space left on device" in capsys.readouterr().err
    monkeypatch.setattr("dsenv.files.write", own)
    run = only_run(tmp_path)
    assert 0 < checkpoint.steps_done(final_state(run)) < 96
    assert main(["--resume", str(run), "--seeds", "1"]) == 0
    assert checkpoint.steps_done(final_state(run)) == 96


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_limit_on_the_size_of_files_names_the_event_file(tmp_path):
    from dsenv.agents.callbacks import EventFile

    output = EventFile(str(tmp_path))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(OSError, match=f"cannot write the event file in {tmp_path}: "):
            for step in range(200):
                output.write({"a": 1.0}, {"a": ("",)}, step)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_folder_that_takes_no_files_is_found_out_before_the_evaluation(run, capsys, monkeypatch):
    def fails(*_, **__):
        raise AssertionError("was evaluated")

    def refuse(folder):
        raise OSError(30, f"cannot write into {folder}: Read-only file system; nothing was begun")

    monkeypatch.setattr("dsenv.workbench.train.evaluate", fails)
    monkeypatch.setattr("dsenv.workbench.lock.files.check_writable", refuse)
    assert main(["--evaluate", str(run)]) == 2
    assert "Read-only file system; nothing was begun" in capsys.readouterr().err


def test_a_cut_event_file_hides_nothing_of_those_after_it(tmp_path, monkeypatch):
    monkeypatch.setattr("dsenv.workbench.train.EVALUATIONS", 2)
    whole, agent = new_run(tmp_path / "whole", "ppo")
    assert train(whole, agent, "cpu")
    run, agent = new_run(tmp_path / "cut", "ppo")
    from tests.workbench.runs import StopAt

    assert not train(run, agent, "cpu", stop=StopAt(2))
    with open(next(run.folder.glob("events*")), "ab") as file:
        file.write(b"\x18\x00\x00\x00\x00\x00\x00\x00half of an event")
    assert go_on(run) and shown(run.folder) == shown(whole.folder)


# Nothing that is opened executes


@pytest.mark.usefixtures("quick")
def test_doctored_zips_are_never_opened(run):
    class Doctored:
        def __reduce__(self):
            return (os.mkdir, (str(run / "executed"),))

    import pickle

    for name in ("best_model.zip", "last_model.zip", "evaluations.npz", "replay_buffer.pkl"):
        (run / name).write_bytes(pickle.dumps(Doctored()))
    assert main(["--report", str(run)]) == 0
    assert main(["--evaluate", str(run), "--seeds", "1"]) == 0
    assert main(["--resume", str(run), "--steps", "128", "--seeds", "1"]) == 0
    assert not (run / "executed").exists()


@pytest.mark.fast
@pytest.mark.parametrize(
    ("settings", "match"),
    [
        (
            {"algorithm": "os:system"},
            "algorithm must name a class derived from .*BaseAlgorithm.*not called",
        ),
        ({"algorithm": "PPO", "policy": "os:system"}, "policy must name a class derived from .*BasePolicy"),
        ({"algorithm": "PPO", "policy": "subprocess:Popen"}, "policy must name a class"),
        *(
            (
                {"algorithm": "PPO", "hyperparameters": {"policy_kwargs": {name: value}}},
                f"policy_kwargs.{name} must name a class|an entry point has the form",
            )
            for name in ("features_extractor_class", "optimizer_class", "activation_fn")
            for value in ("os:system", "subprocess:Popen", "text")
        ),
        (
            {"algorithm": "SAC", "hyperparameters": {"replay_buffer_class": "os:system"}},
            "replay_buffer_class must name a class",
        ),
    ],
)
def test_a_name_of_another_kind_is_refused_before_it_is_called(settings, match, monkeypatch):
    monkeypatch.setattr("os.system", lambda *_: pytest.fail("was called"))
    agent = build_agent(Definition("agents", "mine", "dsenv.agents.sb3:SB3Agent", settings))
    with pytest.raises(ValueError, match=match):
        agent.check()


def test_classes_by_name_reach_sb3():
    from torch import nn

    from dsenv.agents.sb3 import SB3Agent

    agent = SB3Agent("PPO", hyperparameters={"policy_kwargs": {"activation_fn": "torch.nn:ReLU"}})
    agent.check()
    assert agent._settings()["policy_kwargs"]["activation_fn"] is nn.ReLU
    assert agent.hyperparameters["policy_kwargs"]["activation_fn"] == "torch.nn:ReLU"


@pytest.mark.parametrize("entry_point", ["os:system", "subprocess:Popen", "builtins:print", "os:getcwd"])
@pytest.mark.parametrize("name", ["agent.toml", "env.toml"])
def test_an_entry_point_in_a_run_folder_that_is_of_another_kind_is_not_called(name, entry_point, run, capsys):
    path = run / name
    kind = {"agent.toml": "dsenv.agents.sb3:SB3Agent", "env.toml": "dsenv.env:TrainingEnv"}[name]
    path.write_text(path.read_text().replace(kind, entry_point))
    (run / "checkpoint.safetensors").unlink()
    for command in ("--resume", "--evaluate"):
        assert main([command, str(run)]) == 2
        error = capsys.readouterr().err
        assert "was not called" in error or "must be dsenv.env:TrainingEnv" in error or "no whole" in error


@pytest.mark.usefixtures("quick")
def test_links_in_a_run_folder_are_not_written_through(run, tmp_path, capsys):
    victim = tmp_path / "victim"
    victim.write_text("mine")
    for name in ("evaluation.json", "run.lock", "evaluations.npz"):
        kept = (run / name).read_bytes() if (run / name).exists() else None
        (run / name).unlink(missing_ok=True)
        (run / name).symlink_to(victim)
        assert main(["--evaluate", str(run), "--seeds", "1"]) == 2
        assert f"{name} is a symbolic link to {victim}" in capsys.readouterr().err
        (run / name).unlink()
        if kept is not None:
            (run / name).write_bytes(kept)
    assert victim.read_text() == "mine"


def test_a_doctored_checkpoint_sets_nothing_but_what_training_changes(run):
    path = run / "checkpoint.safetensors"
    state = load_state(path)
    state["agent"]["numbers"]["save"] = 3
    files.save_state(path, state)
    found = Run.open(run)
    with pytest.raises(ValueError, match="it has no save"):
        train(found, build_agent(found.agent), "cpu", state=checkpoint.read(found))


def test_the_record_that_sb3_reads_holds_no_objects(finished):
    with np.load(finished / "evaluations.npz", allow_pickle=False) as record:
        assert {"timesteps", "results", "ep_lengths"} <= set(record.files)
