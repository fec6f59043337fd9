from dataclasses import replace

import numpy as np
import pytest

import dsenv
from dsenv.catalogue import definition
from dsenv.evaluation import Entry, evaluate, markdown_table
from dsenv.evaluation.figures import (
    accuracy_figure,
    gain_figure,
    noise_figure,
    schedule_figure,
    strength_figure,
)
from dsenv.evaluation.page.content import Part, Subject
from dsenv.evaluation.page.lines import sheet
from dsenv.evaluation.statistics import interval
from dsenv.evaluation.storage import load, save
from dsenv.evaluation.tables import gains, wrong_label_table
from dsenv.tracking.pictures import pixels

ENV = definition("envs", "Tiny-Curriculum-v0")


def entries(*names):
    return [Entry(name, dsenv.load("agents", name)) for name in names]


@pytest.fixture(scope="module")
def result():
    return evaluate(ENV, entries("random", "all_data", "small_loss"), "random", seeds=6, progress=False)


@pytest.mark.fast
def test_rows_have_the_promised_fields_and_equal_budgets(result):
    assert len(result.rows) == 3 * 2
    for row in result.rows:
        ratio = 1.0 if row.agent == "all_data" else 0.5
        assert row.ratio == ratio and row.samples_used == ratio * 4 * 200 and row.seeds == 6
        assert row.accuracy_low <= row.accuracy_mean <= row.accuracy_high
        assert set(row.context) == {"label_noise"}


@pytest.mark.fast
def test_gains_are_paired_with_all_data(result):
    by_agent = {(row.agent, row.context["label_noise"]): row for row in result.rows}
    for (agent, noise), row in by_agent.items():
        wanted = row.accuracy_mean - by_agent["all_data", noise].accuracy_mean
        assert row.gain_mean == pytest.approx(wanted)
        if agent == "all_data":
            assert row.gain_low == row.gain_high == 0
    assert gains(result).count("points") == 2


def test_evaluation_is_reproducible_and_does_not_depend_on_the_company(result):
    again = evaluate(ENV, entries("random"), "random", seeds=6, progress=False)
    first = [row.accuracy_mean for row in result.rows if row.agent == "random"]
    assert [row.accuracy_mean for row in again.rows] == pytest.approx(first)


def test_more_seeds_than_replicas_are_run_in_chunks(monkeypatch):
    monkeypatch.setattr("dsenv.evaluation.compare.MOST_REPLICAS", 4)
    chunked = evaluate(ENV, entries("random"), "random", seeds=6, progress=False)
    assert [row.seeds for row in chunked.rows] == [6, 6]


@pytest.mark.fast
def test_the_table_is_markdown_with_a_column_a_context(result):
    lines = markdown_table(result).splitlines()
    assert lines[0] == "| agent | data used | label noise 0% | label noise 40% |"
    assert len(lines) == 2 + 3 and all(line.count("|") == 5 for line in lines)
    assert lines[2].startswith("| **random** | 50% |")


def test_passes_without_training_are_charged_and_shown(tmp_path):
    path = tmp_path / "moderate.toml"
    path.write_text(
        'entry_point = "dsenv.agents.rules:NeutralRule"\n'
        '[kwargs.env]\ncontrol = "rule"\nselector = "moderate"\n'
    )
    moderate = Entry("moderate", dsenv.load("agents", str(path)))
    found = evaluate(ENV, [*entries("random", "all_data"), moderate], "random", seeds=2, progress=False)
    row = next(row for row in found.rows if row.agent == "moderate")
    assert row.ratio == pytest.approx(0.375) and row.compute == pytest.approx(0.5)
    assert "| agent | data used | compute |" in markdown_table(found)


def test_figures_show_every_agent_and_context(result):
    assert len(accuracy_figure(result).axes[0].get_legend().get_texts()) == 3
    schedule = schedule_figure(result)
    assert len(schedule.axes) == 2
    heights = [patch.get_height() for patch in schedule.axes[0].patches]
    assert sum(heights) == pytest.approx(4, abs=0.01)  # four intervals, shares add up to one each


def test_interval_covers_the_mean_and_shrinks():
    rng = np.random.default_rng(0)
    small, large = (interval(rng.normal(0.9, 0.02, n)) for n in (16, 1024))
    assert small[0] < 0.9 < small[1] and large[1] - large[0] < (small[1] - small[0]) / 4
    assert interval(np.full(5, 0.7)) == pytest.approx((0.7, 0.7))


def test_a_diverged_training_counts_as_a_guess():
    broken = ENV.with_overrides({"task": {"recipe": {"lr": 1e12}}})
    rows = evaluate(broken, entries("random"), "random", seeds=2, progress=False).rows
    assert all(row.diverged == 2 and row.accuracy_mean == pytest.approx(0.1) for row in rows)


def test_wrong_labels_of_both_kinds_count_as_noise():
    contexts = [{"label_noise": 0.2, "pair_flip": 0.3}, {"pair_flip": 0.4}, {"label_noise": 1.0}]
    env = ENV.with_overrides({"context": {"label_noise": 0.0}, "evaluation_contexts": contexts})
    found = evaluate(env, entries("random"), "random", seeds=2, progress=False)
    axes = noise_figure(found).axes
    assert len(axes) == 3
    for axis in axes[:2]:  # a random choice takes right and wrong labels alike
        for line in axis.lines:
            np.testing.assert_allclose(line.get_ydata(), 0.5, atol=0.15)
    assert [line.get_label() for line in axes[2].lines] == ["wrong label", "all"]
    assert "label noise 20%, pair flip 30%" in wrong_label_table(found)


def test_contexts_that_round_alike_keep_their_columns():
    contexts = [{"label_noise": 0.121}, {"label_noise": 0.124}]
    env = ENV.with_overrides({"evaluation_contexts": contexts})
    found = evaluate(env, entries("random"), "random", seeds=2, progress=False)
    assert "| label noise 12.1% | label noise 12.4% |" in markdown_table(found)


def test_strengths_are_drawn_over_several_data_sets():
    data = {"name": "digits", "validation": 100, "test": 100}
    sets = [{"name": f"of {size}", "dataset": {**data, "train": size}} for size in (100, 200)]
    env = definition("envs", "Tiny-Strength-v0").with_overrides({"datasets": sets})
    found = evaluate(env, entries("random", "strength_40"), "strength_40", seeds=3, progress=False)
    np.testing.assert_allclose(found.strengths["strength_40"], 0.4, atol=1e-6)
    assert not found.strengths["random"].any()
    axes = strength_figure(found).axes
    assert len(axes) == 2 and all(len(axis.lines) == 5 for axis in axes)
    late = [row.wrong_late for row in found.rows if row.agent == "strength_40"]
    assert late[0] == 0 and late[1] == pytest.approx(0.4, abs=0.1)


def test_contexts_that_differ_have_labels_that_differ_or_are_refused():
    def found(*values):
        env = ENV.with_overrides(
            {"intervals": 2, "evaluation_contexts": [{"label_noise": v} for v in values]}
        )
        return evaluate(env, entries("random"), "random", seeds=1, progress=False)

    assert "| label noise 40.0001% | label noise 40.0002% |" in markdown_table(found(0.400001, 0.400002))
    assert found(0.4, 0.4).contexts == [{"label_noise": 0.4}]  # the same runs: once is enough
    with pytest.raises(ValueError, match="are both called 'label noise 40%' in tables and charts"):
        found(0.4, 0.4 + 1e-12)


@pytest.mark.fast
def test_agents_need_names_of_their_own():
    with pytest.raises(ValueError, match="two agents are called 'random'"):
        evaluate(ENV, entries("random", "all_data", "random"), "random", seeds=1)
    with pytest.raises(ValueError, match=r"about must be .* random, all_data; got 'ppo'"):
        evaluate(ENV, entries("random", "all_data"), "ppo", seeds=1)


@pytest.mark.fast
def test_costs_that_differ_between_contexts_are_both_said(result):
    rows = [
        replace(row, ratio=0.3, compute=0.3) if row.context["label_noise"] else row for row in result.rows
    ]
    varied = replace(result, rows=rows)
    assert "| **random** | 30 to 50% |" in markdown_table(varied)
    legend = accuracy_figure(varied).axes[0].get_legend().get_texts()
    assert "random (30 to 50% of the data)" in [text.get_text() for text in legend]
    (table,) = gain_figure(varied).axes[0].tables
    assert table[1, 1].get_text().get_text() == "30 to 50%"


def test_pictures_keep_odd_agents_and_many_contexts():
    contexts = [{"label_noise": number / 20, "lr": 0.5} for number in range(8)]
    env = ENV.with_overrides({"intervals": 2, "evaluation_contexts": contexts})
    agents = [Entry("_mine", dsenv.load("agents", "random")), *entries("all_data")]
    found = evaluate(env, agents, "_mine", seeds=1, progress=False)
    assert len(accuracy_figure(found).axes[0].get_legend().get_texts()) == 2

    figure = gain_figure(found)
    pixels(figure)
    box = figure._suptitle.get_window_extent()
    assert box.x0 >= 0 and box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1
    (table,) = figure.axes[0].tables
    head = table[0, 2]
    assert head.get_text().get_window_extent().height <= head.get_window_extent().height


def test_another_kind_of_task_says_its_metric_in_tables_files_and_pages(tmp_path):
    env = definition("envs", "Tiny-Regression-v0")
    found = evaluate(env, entries("random"), "random", seeds=1, progress=False)
    assert (found.metric, found.words) == ("R2", "test R2")

    save(found, tmp_path / "evaluation.json", {})
    again, facts = load(tmp_path / "evaluation.json")
    assert (again.metric, facts) == ("R2", {})
    notes = sheet(Part("Tiny-Regression-v0", [], [Subject("random", again)])).notes
    assert any("shows the R2, in percent" in note.text for note in notes)
