"""`--agent-seeds`: several agents as one study, which goes on where it was stopped."""

import json
import shutil
import signal
import tomllib
from pathlib import Path

import numpy as np
import pytest

from dsenv.evaluation import storage
from dsenv.evaluation.page.charts import Chart, Drawer
from dsenv.evaluation.statistics import mean, stratified_interval
from dsenv.workbench import main
from dsenv.workbench.lock import locked
from dsenv.workbench.options import make_parser
from dsenv.workbench.study import Study
from tests.evaluation.pages import Page
from tests.workbench.conftest import TRAIN
from tests.workbench.runs import differences, final_state
from tests.workbench.test_survival import killed, only_run

BEGIN = [*TRAIN, "--steps", "64", "--agent-seeds", "2"]
RULES = ["all_data", "random", "small_loss"]
SEEDS = [0, 1000]


@pytest.fixture(autouse=True)
def quick(few_rules):
    """Few rules, no figures, few looks at the validation reward."""
    assert few_rules == RULES


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Folder of a study that was never stopped; for reading alone."""
    out = tmp_path_factory.mktemp("study")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dsenv.workbench.train.rule_names", lambda *_: RULES)
        patch.setattr("dsenv.workbench.train.EVALUATIONS", 3)
        patch.setattr("dsenv.workbench.train.write_report", _save)
        assert main([*BEGIN, "--out", str(out)]) == 0
    return only_run(out)


def _save(evaluation, folder, step, prefix="", about=None, followed=None):
    storage.save(evaluation, folder / "evaluation.json", {"trained": step})


@pytest.fixture
def study(made, tmp_path):
    """A copy of that study, to work on."""
    return shutil.copytree(made, tmp_path / "runs" / made.name)


def runs_of(study):
    return Study.open(study).folders()


def evaluation(folder):
    return storage.load(folder / "evaluation.json")[0]


def failure(capsys, *arguments):
    """What a command that is refused says."""
    assert main([str(word) for word in arguments]) == 2
    error = capsys.readouterr().err
    assert "train_agent.py: error: " in error and "Traceback" not in error
    return error


def without_seconds(folder):
    content = json.loads((folder / "evaluation.json").read_text())
    rows = [{key: value for key, value in row.items() if key != "seconds"} for row in content["rows"]]
    return rows, content["agent_seeds"], content["spread"]


def assert_same(study, other):
    """Two studies have the same policies and the same table, bit for bit."""
    assert (study / "table.md").read_bytes() == (other / "table.md").read_bytes()
    seeds = [{k: v for k, v in each.items() if k != "run"} for each in without_seconds(study)[1]]
    assert seeds == [{k: v for k, v in each.items() if k != "run"} for each in without_seconds(other)[1]]
    assert without_seconds(study)[::2] == without_seconds(other)[::2]
    for run, same in zip(runs_of(study), runs_of(other), strict=True):
        assert (run / "policy.safetensors").read_bytes() == (same / "policy.safetensors").read_bytes()
        for part in ("agent", "parts"):
            assert differences(final_state(run)[part], final_state(same)[part]) == []


# What is made


def test_a_study_is_one_folder_with_a_run_for_each_agent_seed(made):
    assert made.name.endswith("-Tiny-Curriculum-v0-ppo-seeds-2")
    asked = tomllib.loads((made / "study.toml").read_text())
    assert asked["seeds"] == SEEDS and asked["evaluation_seeds"] == 2 and asked["curves"] is True
    assert asked["agent"]["kwargs"]["steps"] == 64 and asked["env"]["name"] == "Tiny-Curriculum-v0"
    assert asked["command"].startswith("python ") and "torch" in asked["versions"]

    names = {path.name for path in made.iterdir()}
    assert names == {"study.toml", "table.md", "evaluation.json", *asked["runs"]}
    for run, seed in zip(runs_of(made), SEEDS, strict=True):
        assert run.name.endswith(f"-Tiny-Curriculum-v0-ppo-{seed}")
        facts = tomllib.loads((run / "run.toml").read_text())
        assert facts["seed"] == seed and facts["started"] == asked["started"]


def test_a_run_of_a_study_is_that_of_its_seed_alone(made, tmp_path):
    assert main([*TRAIN, "--steps", "64", "--seed", "1000", "--out", str(tmp_path)]) == 0
    alone, run = only_run(tmp_path), runs_of(made)[1]
    assert differences(final_state(alone)["agent"], final_state(run)["agent"]) == []
    assert (alone / "policy.safetensors").read_bytes() == (run / "policy.safetensors").read_bytes()

    rows = [[row for row in evaluation(folder).rows] for folder in (alone, run)]
    for row, same in zip(*rows, strict=True):
        assert {**vars(row), "seconds": 0} == {**vars(same), "seconds": 0}


def test_rules_are_evaluated_once(made):
    first, second = (evaluation(run) for run in runs_of(made))
    assert list(second.traces) == ["ppo", *RULES]
    rules = [[row for row in found.rows if row.agent in RULES] for found in (first, second)]
    assert rules[0] == rules[1]  # seconds too, which differ where something runs twice
    assert first.traces["ppo"][0].accuracy.tolist() != second.traces["ppo"][0].accuracy.tolist()


def test_the_table_covers_agent_seeds_and_evaluation_seeds(made):
    table, each = evaluation(made), [evaluation(run) for run in runs_of(made)]
    own = [row for row in table.rows if row.agent == "ppo"]
    assert [row.agent for row in table.rows] == ["ppo", *RULES] * 2
    for number, row in enumerate(own):
        scores = np.stack([found.traces["ppo"][number].accuracy[:, None] for found in each])
        assert row.accuracy_mean == pytest.approx(scores.mean()) and row.seeds == 4
        assert (row.accuracy_low, row.accuracy_high) == stratified_interval(mean, scores)
    assert [row for row in table.rows if row.agent in RULES] == [
        row for row in each[0].rows if row.agent in RULES
    ]

    _, seeds, spread = without_seconds(made)
    assert [one["seed"] for one in seeds] == SEEDS
    for number, one in enumerate(spread):
        means = {seed["seed"]: seed["rows"][number]["accuracy_mean"] for seed in seeds}
        assert one["lowest"]["accuracy"] == min(means.values()) == means[one["lowest"]["seed"]]
        assert one["highest"]["accuracy"] == max(means.values()) == means[one["highest"]["seed"]]

    text = (made / "table.md").read_text()
    assert "# ppo on dsenv/Tiny-Curriculum-v0, 2 agent seeds" in text and "fewer than 5" in text
    assert "its interval covers agent seeds and evaluation seeds" in text
    assert f"{100 * spread[0]['lowest']['accuracy']:.1f} (seed {spread[0]['lowest']['seed']})" in text
    assert "ppo against all data, same evaluation seeds" in text


def test_one_agent_seed_says_that_no_interval_covers_the_luck_of_training(tmp_path, capsys):
    assert main([*TRAIN, "--steps", "32", "--agent-seeds", "1", "--seed", "7", "--out", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    text = (only_run(tmp_path) / "table.md").read_text()
    assert text in shown and "one agent seed, so no interval covers the luck" in text and "apart" not in text
    assert Study.open(only_run(tmp_path)).seeds == [7]


# Stopped and gone on with


def stop_at(monkeypatch, rollout):
    """A signal in the n-th vector step of all, as from the keyboard."""
    calls = []

    def press(bar):
        calls.append(bar.n_calls)
        if len(calls) == rollout:
            signal.raise_signal(signal.SIGINT)
        return True

    monkeypatch.setattr("dsenv.agents.callbacks.ProgressBar._on_step", press)


@pytest.mark.parametrize("step", [3, 19])  # of 16 for each agent
def test_a_study_that_was_stopped_ends_as_one_that_was_not(step, made, tmp_path, capsys, monkeypatch):
    with monkeypatch.context() as patch:
        stop_at(patch, step)
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            assert main([*BEGIN, "--save-every", "0", "--out", str(tmp_path)]) == 130
        finally:
            signal.signal(signal.SIGINT, before)

    study = only_run(tmp_path)
    assert f"--resume {study}\n" in capsys.readouterr().out and not (study / "table.md").exists()
    assert main(["--resume", str(study)]) == 0
    shown = capsys.readouterr().out
    assert ("done before: kept" in shown) == (step > 16) and "going on with" in shown
    assert_same(study, made)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "number"), [("checkpoint.safetensors", 5), ("evaluation.json", 2)])
def test_a_study_that_was_killed_goes_on_to_the_same_policies(name, number, made, tmp_path):
    killed(name, number, *BEGIN, "--out", str(tmp_path))
    study = only_run(tmp_path)
    assert main(["--resume", str(study)]) == 0
    for run, same in zip(runs_of(study), runs_of(made), strict=True):
        own = (final_state(folder)["agent"]["parameters"] for folder in (run, same))
        assert differences(*own) == []
    assert (study / "table.md").is_file()


def test_a_study_that_is_done_writes_its_table_again_and_trains_nothing(study, capsys):
    kept = {path: path.read_bytes() for run in runs_of(study) for path in run.rglob("*") if path.is_file()}
    for name in ("table.md", "evaluation.json"):
        kept[study / name] = (study / name).read_bytes()
        (study / name).unlink()
    assert main(["--resume", str(study)]) == 0
    assert capsys.readouterr().out.count("done before: kept") == 2
    assert {path: path.read_bytes() for path in kept} == kept


def test_an_evaluation_that_is_not_the_studys_is_made_again(study, made, capsys):
    first, second = runs_of(study)
    assert main(["--evaluate", str(first), "--seeds", "3"]) == 0
    content = json.loads((second / "evaluation.json").read_text())
    content["rows"][0]["accuracy_mean"] = 1.0
    (second / "evaluation.json").write_text(json.dumps(content))
    capsys.readouterr()

    assert main(["--resume", str(study)]) == 0
    shown = capsys.readouterr().out
    assert "not on the study's 2 seeds" in shown and "it was changed since it was written" in shown
    assert_same(study, made)


def full(path, content):
    raise OSError(28, f"cannot write {path}: No space left on device")


@pytest.mark.parametrize("what", ["checkpoint.files.save_state", "study.write_toml"])
def test_a_start_that_fails_leaves_no_folder(what, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(f"dsenv.workbench.{what}", full)
    assert "No space left" in failure(capsys, *BEGIN, "--out", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_in_an_evaluation_names_the_study(study, capsys, monkeypatch):
    def stop(*_, **__):
        raise KeyboardInterrupt

    (runs_of(study)[1] / "evaluation.json").unlink()
    monkeypatch.setattr("dsenv.workbench.train.evaluate_run", stop)
    assert main(["--resume", str(study)]) == 130
    assert f"interrupted; go on with: python train_agent.py --resume {study}\n" in capsys.readouterr().out


def test_an_error_in_the_middle_says_how_to_go_on(study, capsys, monkeypatch):
    (runs_of(study)[1] / "checkpoint.safetensors").unlink()
    with monkeypatch.context() as patch:
        patch.setattr("dsenv.workbench.checkpoint.files.save_state", full)
        assert main(["--resume", str(study)]) == 2
        told = capsys.readouterr()
    assert "No space left" in told.err and f"go on with: python train_agent.py --resume {study}" in told.out
    assert runs_of(study)[0].is_dir() and not (study / "run.lock").exists()


# Shown


def test_the_report_of_a_study_is_in_its_folder(study, capsys, monkeypatch):
    monkeypatch.setattr(Drawer, "draw", lambda _, caption, *__: Chart(caption, "<svg></svg>"))
    assert main(["--report", str(study)]) == 0
    path = Path(capsys.readouterr().out.strip())
    assert path == study / "report.html"
    names = list(Page(path.read_text(encoding="utf-8")).table("Test accuracy after"))
    assert names[:3] == ["ppo (mean of 2 training seeds)", "ppo, seed 0", "ppo, seed 1000"]
    assert sum("all_data" in name for name in names) == 1

    assert main(["--report", str(study), str(runs_of(study)[0]), "--out", str(study.parent)]) == 0
    assert Path(capsys.readouterr().out.strip()) != path


# Bad input


@pytest.mark.fast
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([*TRAIN[:2], "--agent", "small_loss", "--agent-seeds", "3"], "fixed rule, so there is nothing to"),
        ([*TRAIN[:6], "--agent-seeds", "101"], "--agent-seeds must be from 1 to 100, got 101"),
        (
            [*TRAIN[:6], "--agent-seeds", "2", "--seed", "-1"],
            "--seed must be a whole number from 0",
        ),
        ([*TRAIN[:6], "--agent-seeds", "2", "--compare", "sac"], "sac has to be trained"),
        (["--agent-seeds", "3", "--resume", "runs/X"], "--agent-seeds 3 begins a new study, and --resume"),
        (["--agent-seeds", "3", "--evaluate", "runs/X"], "and --evaluate takes what is there"),
        (["--agent-seeds", "3", "--report", "runs/X"], "and --report takes what is there"),
    ],
)
def test_what_is_no_study_is_refused_before_a_folder_is_made(arguments, words, tmp_path, capsys):
    assert words in failure(capsys, *arguments, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.fast
def test_less_than_one_agent_seed_is_refused(capsys):
    for given in ("0", "-2"):
        with pytest.raises(SystemExit) as stopped:
            main(["--agent-seeds", given])
        assert stopped.value.code == 2
        assert f"--agent-seeds must be at least 1, got {given}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda text: text[:40], "is damaged"),
        (
            lambda text: text.replace("layout = 1", "layout = 9"),
            "layout 9, and this version of",
        ),
        (lambda text: text.replace("evaluation_seeds = 2", "evaluation_seeds = 0"), "must be at least 1"),
        (
            lambda text: text.replace("evaluation_seeds = 2", 'evaluation_seeds = "2"'),
            "must be a int, got",
        ),
        (lambda text: text.replace("    1000,", "    0,"), "equally many and each different"),
        (lambda text: text.replace("    1000,", "    -5,"), "whole numbers from 0 on"),
        (lambda text: text.replace('    "20', '    "../20'), "names of folders inside the study"),
        (lambda text: text.replace('name = "ppo"', "name = 3"), "agent must have a name"),
    ],
)
def test_a_damaged_study_toml_is_named_with_what_to_do(change, words, study, capsys):
    path = study / "study.toml"
    changed = change(path.read_text())
    assert changed != path.read_text()
    path.write_text(changed)
    for command in ("--resume", "--report", "--evaluate"):
        error = failure(capsys, command, study)
        assert str(path) in error and words in error and "put it right by hand, or go on" in error


def test_a_missing_run_folder_is_named(study, capsys):
    first = runs_of(study)[0]
    shutil.rmtree(first)
    error = failure(capsys, "--resume", study)
    assert f"has no folder {first.name}, which held agent seed 0: put it back, or leave the seed out" in error


def test_a_run_that_was_changed_is_named(study, capsys):
    path = runs_of(study)[1] / "agent.toml"
    whole = path.read_text()
    path.write_text(whole.replace("gamma = 1.0", "gamma = 0.9"))
    error = failure(capsys, "--resume", study)
    assert f"{path.parent} was changed" in error and "gamma=0.9" in error and "gamma=1" in error
    path.write_text(whole)

    path = path.with_name("run.toml")
    path.write_text(path.read_text().replace("seed = 1000", "seed = 5"))
    assert "it has seed=5, and study.toml has seed=1000" in failure(capsys, "--resume", study)


def test_a_run_that_was_trained_for_longer_is_not_pooled(study, capsys):
    run = runs_of(study)[1]
    whole = (run / "agent.toml").read_text()
    assert main(["--resume", str(run), "--steps", "128", "--seeds", "2"]) == 0
    assert "steps=128, and study.toml has agent.kwargs.steps=64" in failure(capsys, "--resume", study)
    (run / "agent.toml").write_text(whole)
    assert "different numbers of steps" in failure(capsys, "--resume", study)


def test_a_study_keeps_its_settings(study, capsys):
    for given in (["--steps", "9"], ["--env", "x"], ["--seeds", "3"], ["--no-curves"], ["--compare", "pods"]):
        assert f"leave out {given[0]}, or begin a new study" in failure(capsys, "--resume", study, *given)
    error = failure(capsys, "--evaluate", study)
    assert "is a study, and --evaluate takes one policy" in error and str(runs_of(study)[0]) in error


def test_two_processes_do_not_work_on_one_study(study, capsys):
    with locked(study):
        assert f"{study} is in use: process" in failure(capsys, "--resume", study)
    with locked(runs_of(study)[1]):
        assert f"{runs_of(study)[1]} is in use" in failure(capsys, "--resume", study)


def test_a_folder_of_runs_without_its_study_toml_says_where_runs_are(study, capsys):
    (study / "study.toml").unlink()
    assert f"the folders in it are, such as {runs_of_names(study)[0]}" in failure(capsys, "--resume", study)


def runs_of_names(study):
    return sorted(path.parent for path in study.glob("*/run.toml"))


@pytest.mark.fast
def test_help_names_studies(capsys):
    with pytest.raises(SystemExit):
        make_parser().parse_args(["--help"])
    shown = capsys.readouterr().out
    for word in ("--agent-seeds N", "--resume runs/STUDY", "study.toml", "train_agent.py --agent-seeds 5"):
        assert word in shown
