"""`--report`: a page of run folders, which are read alone; bad ones are named with the next command."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import dsenv
from dsenv.catalogue import definition
from dsenv.evaluation import Entry, evaluate
from dsenv.evaluation.page.charts import Chart, Drawer
from dsenv.evaluation.storage import save
from dsenv.workbench import main
from dsenv.workbench.run import Run
from tests.evaluation.pages import Page, assert_self_contained

ENV = definition("envs", "Tiny-Curriculum-v0")


@pytest.fixture(scope="module")
def evaluation():
    entries = [Entry(name, dsenv.load("agents", name)) for name in ("small_loss", "all_data", "random")]
    return evaluate(ENV, entries, "small_loss", seeds=3, device="cpu", progress=False)


@pytest.fixture(autouse=True)
def no_charts(monkeypatch, request):
    """Charts take the longest; one test draws them."""
    if "finished" not in request.fixturenames:
        monkeypatch.setattr(Drawer, "draw", lambda _, caption, *__: Chart(caption, "<svg></svg>"))


def named(evaluation, agent):
    """The same evaluation, of an agent by another name."""
    rows = [replace(row, agent=agent) if row.agent == evaluation.agent else row for row in evaluation.rows]
    traces = {agent if name == evaluation.agent else name: t for name, t in evaluation.traces.items()}
    return replace(evaluation, agent=agent, rows=rows, traces=traces)


def new_run(out, evaluation=None, agent="ppo", seed=0, env=ENV, record=True):
    """A run folder, as it lies there after training and evaluation."""
    run = Run.create(out, env, definition("agents", agent), seed, "cpu")
    if record and agent == "ppo":
        results = np.arange(6.0).reshape(3, 2)
        np.savez(run.folder / "evaluations.npz", timesteps=np.array([10, 20, 30]), results=results)
    if evaluation is not None:
        save(named(evaluation, agent), run.folder / "evaluation.json", {"step": 30})
    return run.folder


def report(capsys, *arguments):
    """Exit status, the page and what was said on stderr."""
    status = main(["--report", *map(str, arguments)])
    out, err = capsys.readouterr()
    page = Page(Path(out.strip()).read_text(encoding="utf-8")) if status == 0 else None
    return status, page, err, out.strip()


def everything(folder):
    """Bytes and times of all files."""
    return {
        path.relative_to(folder): (path.read_bytes(), path.stat().st_mtime_ns, path.stat().st_mode)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


# One run


def test_a_run_that_was_trained_gets_a_page_and_is_not_touched(finished, tmp_path, capsys):
    folder = shutil.copytree(finished, tmp_path / finished.name)
    before = everything(folder)
    status, page, _, path = report(capsys, folder)
    assert status == 0 and path == str(folder / "report.html")

    after = everything(folder)
    del after[(folder / "report.html").relative_to(folder)]
    assert after == before and [f.name for f in tmp_path.iterdir()] == [folder.name]

    assert_self_contained(page)
    content = json.loads((folder / "evaluation.json").read_text())
    own = [row["accuracy_mean"] for row in content["rows"] if row["agent"] == "ppo"]
    assert page.values("Test accuracy after")["ppo"] == own
    assert page.headings[0] == "ppo on Tiny-Curriculum-v0" and page.notes == []
    assert page.headings[-1] == "The agent's own training" and page.captions[-1] == "ppo"
    assert "ppo was itself trained on 96 training intervals, that is " in page.html
    assert "at least" not in page.html and "more to pick the best policy" in page.html
    assert "Linux" in page.html or "Darwin" in page.html or "Windows" in page.html
    for words in (
        "and the agent decides what to train on.",
        "digits (",
        "what to train on: a weight",
        "label noise 0 to 60%",
        "2 fresh seeds",
        "torch ",
    ):
        assert words in page.html, words


def test_again_replaces_its_own_page_and_nothing_else(evaluation, tmp_path, capsys):
    folder = new_run(tmp_path, evaluation)
    first, again = (report(capsys, folder)[3] for _ in range(2))
    assert first == again
    (folder / "report.html").write_text("<p>my own notes</p>")
    other = report(capsys, folder)[3]
    assert other == str(folder / "report-2.html")
    assert (folder / "report.html").read_text() == "<p>my own notes</p>"
    assert report(capsys, folder)[3] == other


def test_a_rule_is_a_run_too(evaluation, tmp_path, capsys):
    _, page, _, _ = report(capsys, new_run(tmp_path, evaluation, agent="small_loss"))
    assert page.headings[0] == "small_loss on Tiny-Curriculum-v0"
    assert next(iter(page.table("Test accuracy after"))) == "small_loss" and "small_loss" in page.leads[0]


def test_what_the_training_took(evaluation, tmp_path, capsys):
    intervals = ENV.kwargs["intervals"]
    folder = new_run(tmp_path, evaluation)
    _, page, _, _ = report(capsys, folder)
    # The record's last look was at step 30; training may have gone on
    runs = f"{30 / intervals:,.0f} training runs"
    wanted = f"ppo was itself trained on at least 30 training intervals, that is {runs}"
    assert (
        f"{wanted}, and 6 more to pick the best policy; a run&#39;s cost below is for using it." in page.html
    )

    with np.load(folder / "evaluations.npz") as record:
        np.savez(folder / "evaluations.npz", **record, saved_at=1200)
    _, page, _, _ = report(capsys, folder)
    assert f"on 1,200 training intervals, that is {1200 / intervals:,.0f} training runs" in page.html

    agents = [
        folder,
        new_run(tmp_path, evaluation, seed=1),
        new_run(tmp_path, evaluation, agent="small_loss"),
    ]
    _, page, _, _ = report(capsys, *agents, "--out", tmp_path)
    assert "ppo, seed 0 was itself trained on 1,200" in page.html
    assert "ppo, seed 1 was itself trained on at least 30" in page.html

    for damaged in ("never", np.inf, [1, 2]):
        np.savez(
            folder / "evaluations.npz", timesteps=np.arange(3), results=np.ones((3, 2)), saved_at=damaged
        )
        _, page, _, _ = report(capsys, folder)
        assert "evaluations.npz is damaged" in page.notes[0] and "itself trained" not in page.html


def test_an_environment_without_a_length_gives_no_number_of_runs(evaluation, tmp_path, capsys):
    folder = new_run(tmp_path, evaluation)
    text = (folder / "env.toml").read_text()
    (folder / "env.toml").write_text(re.sub(r"(?m)^intervals = .*$", "intervals = 0", text))
    _, page, _, _ = report(capsys, folder)
    assert "on at least 30 training intervals, and 6 more" in page.html


def test_a_rule_was_not_trained(evaluation, tmp_path, capsys):
    _, page, _, _ = report(capsys, new_run(tmp_path, evaluation, agent="small_loss"))
    assert "itself trained" not in page.html


# Several runs


def test_several_runs_stand_side_by_side(evaluation, tmp_path, capsys):
    runs = [new_run(tmp_path / "runs", evaluation, seed=seed) for seed in (0, 1)]
    runs.append(new_run(tmp_path / "runs", evaluation, agent="small_loss"))
    before = everything(tmp_path / "runs")
    _, page, _, path = report(capsys, *runs, runs[0], "--out", tmp_path / "out")
    assert everything(tmp_path / "runs") == before
    assert path.startswith(str(tmp_path / "out" / f"report-{runs[0].name}-and-2-more-"))
    names = list(page.table("Test accuracy after"))
    assert names == [
        "ppo (mean of 2 training seeds)", "ppo, seed 0", "ppo, seed 1", "small_loss",
        "all_datareference", "randomreference",
    ]  # fmt: skip
    assert page.headings[0] == "ppo and small_loss on Tiny-Curriculum-v0, 3 runs"
    assert page.captions[-1] == "ppo, seed 0, ppo, seed 1"

    again = report(capsys, *reversed(runs), "--out", tmp_path / "out")[3]
    fewer = report(capsys, *runs[:2], "--out", tmp_path / "out")[3]
    assert again == path != fewer and len(list((tmp_path / "out").iterdir())) == 2


def test_settings_and_folders_tell_agents_apart(evaluation, tmp_path, capsys):
    runs = [new_run(tmp_path / name, evaluation) for name in "abc"]
    text = (runs[2] / "agent.toml").read_text()
    (runs[2] / "agent.toml").write_text(text.replace("gamma = 1.0", "gamma = 0.9"))
    _, page, _, _ = report(capsys, *runs, "--out", tmp_path)
    names = [name for name in page.table("Test accuracy after") if name.startswith("ppo")]
    assert len(set(names)) == 3 and not any("mean of" in name for name in names)
    assert any("hyperparameters.gamma=0.9" in name for name in names)
    assert sum(runs[0].name in name for name in names) == 2


def test_different_environments_get_a_section_each(evaluation, tmp_path, capsys):
    runs = [
        new_run(tmp_path, evaluation),
        new_run(tmp_path, evaluation, env=ENV.with_overrides({"ratio": 0.3})),
    ]
    status, page, _, _ = report(capsys, *runs, "--out", tmp_path)
    assert status == 0 and page.headings[0] == "ppo on 2 environments"
    assert "These runs are on 2 environments" in page.notes[0] and "not compared" in page.notes[0]
    titles = [f"Tiny-Curriculum-v0, ratio={ratio}" for ratio in ("0.5", "0.3")]
    assert [heading for heading in page.headings if heading in titles] == titles
    assert_self_contained(page)


def test_an_evaluation_elsewhere_is_a_section(evaluation, tmp_path, capsys):
    folder = new_run(tmp_path, evaluation)
    save(replace(named(evaluation, "ppo"), env="dsenv/Elsewhere-v0"), folder / "there-evaluation.json", {})
    _, page, _, _ = report(capsys, folder)
    assert "dsenv/Elsewhere-v0, evaluated as there" in page.headings


# Bad input


def test_a_run_without_an_evaluation_shows_what_there_is(evaluation, tmp_path, capsys):
    learning, rule = new_run(tmp_path / "it's"), new_run(tmp_path, agent="small_loss")
    status, page, _, _ = report(capsys, learning)
    assert status == 0 and page.captions == ["ppo"] and "What was run" in page.headings
    assert "was not evaluated" in page.notes[0] and "train_agent.py --resume '" in page.notes[0]
    assert_self_contained(page)
    _, page, _, _ = report(capsys, rule)
    assert f"train_agent.py --evaluate {rule}" in page.notes[0]


def test_an_evaluation_of_an_older_version_says_so(evaluation, tmp_path, capsys):
    folder = new_run(tmp_path, evaluation)
    content = json.loads((folder / "evaluation.json").read_text())
    for row in content["rows"]:
        for name in ("over_random_mean", "over_random_low", "over_random_high", "seconds"):
            del row[name]
    old = {name: content[name] for name in ("env", "agent", "rows")}
    (folder / "evaluation.json").write_text(json.dumps(old, indent=1))
    status, page, _, _ = report(capsys, folder)
    assert status == 0 and "older version" in page.notes[0] and f"--evaluate {folder}" in page.notes[0]
    own = [row["accuracy_mean"] for row in old["rows"] if row["agent"] == "ppo"]
    assert page.values("Test accuracy after")["ppo"] == own and page.captions == ["ppo"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"{", "no whole evaluation"),
        (b"\xff\xfe", "no whole evaluation"),
        (b"[]", "no whole evaluation"),
        (b'{"layout": 99}', "layout 99"),
        (b'{"env": "x", "agent": "y", "rows": []}', "no row is of its agent"),
    ],
)
def test_a_damaged_evaluation_says_so(tmp_path, capsys, content, words):
    folder = new_run(tmp_path)
    (folder / "evaluation.json").write_bytes(content)
    before = everything(folder)
    status, page, _, _ = report(capsys, folder)
    assert status == 0 and words in page.notes[0]
    assert page.notes[0].count(f"train_agent.py --evaluate {folder}") == 1
    after = everything(folder)
    assert {name: found for name, found in after.items() if name.name != "report.html"} == before


def test_damaged_files_beside_it_are_said(evaluation, tmp_path, capsys):
    folder = new_run(tmp_path, evaluation)
    (folder / "evaluations.npz").write_bytes(b"no zip")
    (folder / "there-evaluation.json").write_text("{")
    _, page, _, _ = report(capsys, folder)
    assert len(page.notes) == 2 and any("evaluations.npz is damaged" in note for note in page.notes)
    np.savez(folder / "evaluations.npz", timesteps=np.arange(3), results=np.array([{}], dtype=object))
    _, page, _, _ = report(capsys, folder)
    assert any("evaluations.npz is damaged" in note for note in page.notes)


def test_what_is_no_run_is_an_error_where_nothing_is_left(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    for given in (tmp_path / "empty", tmp_path / "nowhere"):
        status, _, err, _ = report(capsys, given)
        assert status == 2 and "is not the folder of a run" in err and "python train_agent.py" in err
    assert list((tmp_path / "empty").iterdir()) == []

    damaged = new_run(tmp_path / "runs")
    (damaged / "run.toml").write_text("env = ")
    status, _, err, _ = report(capsys, damaged)
    assert status == 2 and "run.toml is damaged" in err


def test_what_is_no_run_is_a_note_beside_runs(evaluation, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    folder = new_run(tmp_path, evaluation)
    status, page, _, path = report(capsys, tmp_path / "empty", folder)
    assert status == 0 and path == str(folder / "report.html")
    assert "empty is not the folder of a run" in page.notes[0]


def test_settings_of_a_run_are_refused_beside_it(evaluation, tmp_path, capsys):
    folder = new_run(tmp_path, evaluation)
    for given, words in (
        (["--agent", "sac"], "leave out --agent"),
        (["--env-set", "ratio=0.4"], "leave out --env-set"),
        (["--compare", "random"], "leave out --compare"),
    ):
        status, _, err, _ = report(capsys, folder, *given)
        assert status == 2 and words in err
    with pytest.raises(SystemExit) as stopped:
        main(["--report", str(folder), "--evaluate", str(folder)])
    assert stopped.value.code == 2
    assert not (folder / "report.html").exists()


def test_no_page_is_written_through_a_link(evaluation, tmp_path, capsys):
    folder = new_run(tmp_path, evaluation)
    (folder / "report.html").symlink_to(tmp_path / "elsewhere.html")
    status, _, err, _ = report(capsys, folder)
    assert status == 2 and "symbolic link" in err and not (tmp_path / "elsewhere.html").exists()


def test_names_from_files_are_escaped(evaluation, tmp_path, capsys):
    folder = new_run(tmp_path / '<i>&"', evaluation)
    text = (folder / "run.toml").read_text().replace('agent = "ppo"', 'agent = "<script>x</script>"')
    (folder / "run.toml").write_text(text)
    _, page, _, _ = report(capsys, folder)
    assert page.headings[0] == "<script>x</script> on Tiny-Curriculum-v0"
    assert [tag for tag, _ in page.tags].count("script") == 1 and "i" not in [
        tag for tag, attrs in page.tags if not attrs
    ]
