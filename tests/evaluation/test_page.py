"""The page of evaluations: its numbers are those of the evaluation, and it needs nothing else."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest

import dsenv
from dsenv.catalogue import definition
from dsenv.evaluation import Entry, evaluate
from dsenv.evaluation.page import Note, Part, Subject, Training, render
from dsenv.evaluation.page.charts import Chart, Drawer
from dsenv.evaluation.page.check import check
from dsenv.evaluation.page.lines import sheet
from dsenv.evaluation.page.tables import MOST_CLASSES, class_accuracies, class_shares
from dsenv.evaluation.page.words import (
    DASH,
    MINUS,
    between,
    contexts,
    ends,
    headline,
    points,
    seconds,
    verdict,
)
from dsenv.evaluation.statistics import (
    at_cost,
    interquartile_mean,
    interval,
    mean_difference,
    probability_of_improvement,
    stratified_interval,
)
from dsenv.evaluation.storage import _digest, load, save
from tests.evaluation.pages import Page, assert_self_contained

AGENTS = ("small_loss", "all_data", "random", "hard_first", "all_data_plus_validation")
LABELS = ["label noise 0%", "label noise 40%"]
NASTY = "a<b>&\"c\" $x$ 'd'"


@pytest.fixture(scope="module")
def result():
    env = definition("envs", "Tiny-Curriculum-v0")
    entries = [Entry(name, dsenv.load("agents", name)) for name in AGENTS]
    return evaluate(env, entries, "small_loss", seeds=5, device="cpu", progress=False)


def part(*evaluations, **more):
    """A part of runs that learned what the evaluation's agent does, trained with seeds 0, 1, ..."""
    subjects = [Subject(f"ppo, seed {n}", found, "ppo", n) for n, found in enumerate(evaluations)]
    if len(evaluations) == 1:
        subjects = [Subject("small_loss", evaluations[0])]
    return Part("Tiny-Curriculum-v0", [("Environment", [("data set", "digits")])], subjects, **more)


@pytest.fixture(scope="module")
def page(result):
    return Page(render("small_loss on digits", [part(result)]))


def rows_of(result, agent):
    return [row for row in result.rows if row.agent == agent]


def shifted(result, by):
    """The evaluation of an agent that is better by so much on every seed."""
    agent = result.agent
    traces = {**result.traces, agent: [replace(t, accuracy=t.accuracy + by) for t in result.traces[agent]]}
    rows = [
        replace(row, accuracy_mean=row.accuracy_mean + by, gain_mean=row.gain_mean + by)
        if row.agent == agent
        else row
        for row in result.rows
    ]
    return replace(result, rows=rows, traces=traces)


@pytest.fixture
def no_charts(monkeypatch):
    """For tests that look at tables and words: charts take the longest."""

    def draw(_, caption, title, *__):
        return Chart(caption, f'<svg role="img" aria-label="{len(title)}"></svg>')

    monkeypatch.setattr(Drawer, "draw", draw)


# Numbers


def test_tables_hold_the_numbers_of_the_evaluation(result, page):
    for agent in AGENTS:
        name = agent if agent in ("small_loss", "hard_first") else f"{agent}reference"
        rows = rows_of(result, agent)
        assert page.values("Test accuracy after")[name] == [row.accuracy_mean for row in rows]
        gains = page.values("Gain in test accuracy over training on all data")[name]
        assert gains[:2] == ([0, 0] if agent == "all_data" else [row.gain_mean for row in rows])
        assert gains[2:] == pytest.approx(
            [np.mean([getattr(row, what) for row in rows]) for what in ("ratio", "compute", "seconds")]
        )
        over_random = page.values("Gain in test accuracy over random")[name]
        wanted = [None, None] if agent == "random" else [row.over_random_mean for row in rows]
        assert over_random == wanted
        spent = page.values("Cost of one training run")[name]
        assert spent[0] == pytest.approx(np.mean([row.samples_used for row in rows]))
    assert (
        page.heads["Test accuracy after the last interval, in percent, and half its 95% interval"][1:]
        == LABELS
    )


def test_cells_say_and_show_what_a_gain_means(result, page):
    for agent in ("small_loss", "hard_first"):
        cells = page.table("Gain in test accuracy over training on all data")[agent]
        for row, (text, _, kind) in zip(rows_of(result, agent), cells, strict=False):
            assert kind == verdict(row.gain_low, row.gain_high)
            assert points(row.gain_mean) in text and ends(row.gain_low, row.gain_high) in text
    kinds = (
        {kind for cells in page.table("Gain in test accuracy over all").values() for _, _, kind in cells}
        if 0
        else None
    )
    assert kinds is None
    for (kind, words), row in zip(page.verdicts, rows_of(result, "small_loss"), strict=True):
        assert kind == verdict(row.gain_low, row.gain_high)
        word = {"good": "helped", "bad": "harmed", "even": "no clear difference"}[kind]
        assert word in words and points(row.gain_mean) in words and "with 50% of the samples" in words
        assert "Against a random subset at the same budget: " in words


def test_statistics_over_contexts(result, page):
    scores, data = (
        np.stack([trace.accuracy for trace in result.traces[name]], 1) for name in ("small_loss", "all_data")
    )
    cells = page.table("Over all contexts")["small_loss"]
    assert cells[0][1] == pytest.approx(interquartile_mean(scores))
    assert cells[1][1] == pytest.approx(probability_of_improvement(scores, data))
    low, high = stratified_interval(probability_of_improvement, scores, data)
    assert f"{100 * low:.0f} to {100 * high:.0f}" in cells[1][0]


def test_accuracy_at_equal_samples_is_read_where_the_pages_agent_ends(result, page):
    trace = result.traces["all_data"][1]
    (budget,) = {row.samples_used for row in rows_of(result, "small_loss")}
    wanted = at_cost(trace.curve, trace.samples, budget).mean()
    assert page.values("Test accuracy at equal samples")["all_datareference"][1] == pytest.approx(wanted)
    assert f"{LABELS[0]}: {budget:,.0f} samples" in page.head("Test accuracy at equal samples")
    own = page.values("Test accuracy at equal samples")["small_loss"]
    assert own == pytest.approx([row.accuracy_mean for row in rows_of(result, "small_loss")], abs=1e-6)


def test_classes_are_those_of_the_evaluation(result, page):
    found = page.values(LABELS[1])["hard_first"]
    np.testing.assert_allclose(found, result.traces["hard_first"][1].class_accuracy, rtol=1e-6)
    trace = result.traces["small_loss"][0]
    shares = page.values("small_loss")[LABELS[0]]
    np.testing.assert_allclose(shares, trace.class_seen - trace.class_pool, atol=1e-6)


def test_of_many_classes_those_that_differ_most_are_shown(result):
    def widened(trace, number):
        classes = np.full(50, 0.5, np.float32)
        classes[7] = 0.1 * number
        return replace(trace, class_accuracy=classes, class_seen=classes, class_pool=classes)

    traces = {name: [widened(t, n) for t in found] for n, (name, found) in enumerate(result.traces.items())}
    table = next(class_accuracies(sheet(part(replace(result, traces=traces)))))
    assert len(table.heads) == MOST_CLASSES and "7" in table.heads


# Form


def test_the_page_is_whole_and_loads_nothing(page):
    assert_self_contained(page)
    assert page.html.startswith("<!DOCTYPE html>") and page.headings[0] == "small_loss on digits"
    wanted = ["In one look", "What was run", "Accuracy", "Accuracy while training", "The schedule",
              "What was chosen", "Costs", "Accuracy of each class", "Seeds"]  # fmt: skip
    assert [heading for heading in page.headings if heading in wanted] == wanted
    assert "The agent's own training" not in page.headings  # a rule
    assert len(page.html) < 3e6


def test_it_is_the_same_page_twice(result, page):
    assert render("small_loss on digits", [part(result)]) == page.html


def test_charts_have_text_a_title_and_one_colour_an_agent(page):
    charts = [attrs for tag, attrs in page.tags if tag == "svg"]
    assert len(charts) == len(page.captions) > 10
    assert all(attrs["role"] == "img" and attrs["aria-label"] for attrs in charts)
    assert "font-family:" not in re.sub(r"<style>.*?</style>", "", page.html, flags=re.DOTALL)
    assert ">test accuracy, %</text>" in page.html and "aa00" not in page.html and "00aa" not in page.html
    colours = {}
    for number, content in re.findall(r'<g class="p0a(\d+)">(.*?)</g>', page.html):
        colours.setdefault(number, set()).update(re.findall(r"var\(--a(\d+)\)", content))
    assert len(colours) == 5 and all(len(found) == 1 for found in colours.values())
    assert len({tuple(found) for found in colours.values()}) == 5


def test_every_agent_has_a_box_that_hides_it_in_tables_and_charts(page):
    boxes = [attrs["data-agent"] for tag, attrs in page.tags if tag == "input"]
    assert boxes == [f"p0a{n}" for n in range(5)]
    for name in boxes:
        places = {tag for tag, attrs in page.tags if name in (attrs.get("class") or "").split()}
        assert places == {"tr", "g"}


def test_names_are_escaped(result):
    rows = [replace(row, agent=NASTY) if row.agent == "hard_first" else row for row in result.rows]
    traces = {NASTY if name == "hard_first" else name: found for name, found in result.traces.items()}
    nasty = replace(result, rows=rows, traces=traces)
    given = Part(NASTY, [(NASTY, [(NASTY, NASTY)])], [Subject(NASTY, nasty)], notes=[Note(NASTY, NASTY)])
    found = Page(render(NASTY, [given], [Note(NASTY, NASTY)]))
    assert_self_contained(found)
    assert found.headings[0] == NASTY and f"{NASTY} {NASTY}" in found.notes
    assert NASTY in found.table("Test accuracy after")
    assert "<b>&" not in found.html and "$x$" in found.html


# Several runs


def test_rules_with_equal_numbers_appear_once_and_training_seeds_are_pooled(result, no_charts):
    better, worse = shifted(result, 0.02), shifted(result, -0.06)
    found = Page(render("ppo", [part(result, better, worse)]))
    names = list(found.table("Test accuracy after"))
    assert names[:4] == ["ppo (mean of 3 training seeds)", "ppo, seed 0", "ppo, seed 1", "ppo, seed 2"]
    assert sorted(names[4:]) == [
        "all_data_plus_validationreference",
        "all_datareference",
        "hard_first",
        "randomreference",
    ]

    gains = found.values("Gain in test accuracy over training on all data")
    own = [row.gain_mean for row in rows_of(result, "small_loss")]
    assert gains[names[0]][:2] == pytest.approx([gain + (0.02 - 0.06) / 3 for gain in own])
    # The interval covers the training seeds, which differ by 8 points
    for row, alone in zip(
        sheet(part(result, better, worse)).lines[0].rows, rows_of(result, "small_loss"), strict=True
    ):
        assert row.gain_high - row.gain_low > 0.04 + (alone.gain_high - alone.gain_low) / 2
    assert "cover the seed of the training" in found.html
    assert len(found.leads) == 1 and found.leads[0].startswith("ppo (mean of 3 training seeds)")


def test_a_pooled_gain_is_paired_with_all_data(result):
    pooled = sheet(part(result, shifted(result, 0.02))).lines[0]
    scores = np.stack([[trace.accuracy for trace in result.traces["small_loss"]]] * 2)
    scores[1] += 0.02
    data = np.stack([[trace.accuracy for trace in result.traces["all_data"]]] * 2)
    low, high = stratified_interval(mean_difference, scores[:, 1, :, None], data[:, 1, :, None])
    row = pooled.rows[1]
    assert (row.gain_low, row.gain_high) == pytest.approx((low, high))
    assert row.gain_mean == pytest.approx((scores - data)[:, 1].mean()) and row.seeds == 10


def test_the_same_training_seed_twice_is_not_two(result):
    subjects = [Subject("ppo, a", result, "ppo", 3), Subject("ppo, b", shifted(result, 0.1), "ppo", 3)]
    lines = sheet(Part("env", [], subjects)).lines
    assert [line.name for line in lines[:2]] == ["ppo, a", "ppo, b"] and "pooled" not in {
        line.kind for line in lines
    }


def test_rules_with_other_numbers_stand_by_themselves_with_a_note(result, no_charts):
    def changed(row):
        return replace(row, accuracy_mean=row.accuracy_mean + 0.1) if row.agent == "random" else row

    other = replace(result, rows=[changed(row) for row in result.rows])
    found = Page(render("two", [part(result, other)]))
    names = list(found.table("Test accuracy after"))
    assert "randomreference" in names and "random (run of ppo, seed 1)reference" in names
    assert any("different numbers for random" in note for note in found.notes)


def test_unlike_evaluations_are_not_pooled(result, no_charts):
    traces = {
        name: [replace(t, accuracy=t.accuracy[:3]) for t in found] for name, found in result.traces.items()
    }
    found = Page(render("two", [part(result, replace(result, traces=traces))]))
    assert any("ppo are not pooled" in note for note in found.notes)
    assert not any("mean of" in name for name in found.table("Test accuracy after"))


def test_parts_share_no_class_and_no_id(result):
    found = Page(render("two", [part(result), part(result)]))
    assert_self_contained(found)
    assert {attrs["data-agent"][:2] for tag, attrs in found.tags if tag == "input"} == {"p0", "p1"}
    assert found.headings.count("Tiny-Curriculum-v0") == 2


# Less than everything


def test_an_evaluation_of_an_older_version_has_its_tables_alone(result, no_charts):
    rows = [replace(row, over_random_mean=None, over_random_low=None, over_random_high=None, seconds=None)
            for row in result.rows]  # fmt: skip
    found = Page(render("old", [part(replace(result, rows=rows, traces={}))]))
    assert_self_contained(found)
    wanted = [row.accuracy_mean for row in rows_of(result, "small_loss")]
    assert found.values("Test accuracy after")["small_loss"] == wanted
    assert not [tag for tag, _ in found.tags if tag in ("svg", "input")]
    assert not any(
        caption.startswith(("Over all", "Gain in test accuracy over random")) for caption in found.tables
    )
    both = Page(render("old and new", [part(result, replace(result, traces={}))]))
    assert both.captions and any("not pooled" in note for note in both.notes)


def test_without_curves_there_is_no_chart_of_them(result, no_charts):
    def without(trace):
        none = np.full_like(trace.class_seen, np.nan)
        return replace(trace, curve=np.full_like(trace.curve, np.nan), class_seen=none)

    traces = {name: [without(trace) for trace in found] for name, found in result.traces.items()}
    found = Page(render("x", [part(replace(result, traces=traces))]))
    assert "Accuracy while training" not in found.headings and "Seeds" in found.headings


def test_without_all_data_nothing_is_said_to_help(result, no_charts):
    rows = [
        replace(row, gain_mean=None, gain_low=None, gain_high=None) for row in rows_of(result, "small_loss")
    ]
    traces = {"small_loss": result.traces["small_loss"]}
    found = Page(render("x", [part(replace(result, rows=rows, traces=traces))]))
    assert found.leads == ["small_loss was evaluated without all data beside it."]
    assert {kind for kind, _ in found.verdicts} == {"none"}


def test_runs_that_diverged_are_said(result, no_charts):
    rows = [replace(row, diverged=2) if row.agent == "small_loss" else row for row in result.rows]
    found = Page(render("x", [part(replace(result, rows=rows))]))
    assert "2 of 5 runs diverged" in found.verdicts[0][1]
    assert "2 of 5 diverged" in found.table("Test accuracy after")["small_loss"][0][0]


def test_contexts_with_other_classes_are_shown_together(result):
    """Those of several data sets."""

    def fewer(trace):
        names = ("class_seen", "class_pool", "class_accuracy")
        return replace(trace, **{name: getattr(trace, name)[:3] for name in names})

    traces = {name: [found[0], fewer(found[1])] for name, found in result.traces.items()}
    changed = replace(result, traces=traces)
    check(changed)
    found = sheet(part(changed))
    assert [len(table.heads) for table in class_accuracies(found)] == [10, 3]
    (shares,) = class_shares(found)
    assert [cell.text for cell in shares.rows[1].cells[3:]] == [DASH] * 7


def test_training_alone_is_a_page():
    training = Training("ppo", np.array([10, 20]), np.array([[1.0, 2.0], [2.0, 3.0]]))
    found = Page(render("x", [Part("env", [], [], [training], [Note("not evaluated", "do that")])]))
    assert_self_contained(found)
    assert found.captions == ["ppo"] and found.notes == ["not evaluated do that"]


# Words


@pytest.mark.fast
def test_numbers_in_words():
    assert [points(v) for v in (0.0234, -0.0234, 0.0001, None)] == ["+2.3", f"{MINUS}2.3", "0.0", DASH]
    assert ends(-0.03, -0.0003) == f"{MINUS}3.0 to {MINUS}0.03" and ends(0.0, 0.01) == "0.0 to +1.0"
    assert (
        between([0.5, 0.5]) == "50%" and between([0.3, None, 0.5]) == "30 to 50%" and between([None]) == DASH
    )
    assert seconds(0.0213) == "0.021 s" and seconds(1.239, 2) == "1.24 to 2.00 s" and seconds(100) == "100 s"
    assert [verdict(*v) for v in ((0.1, 0.2), (-2, -1), (-1, 1), (0, 1), (None, None))] == [
        "good", "bad", "even", "even", "none"
    ]  # fmt: skip
    assert contexts(["label noise 20%", "label noise 40%"]) == "label noise 20% and 40%"
    assert (
        contexts(["label noise 20%, lr x 2", "label noise 40%"]) == "label noise 20%, lr x 2; label noise 40%"
    )
    assert contexts(["wine", "digits"]) == "wine and digits"


def test_the_headline_says_where(result):
    rows = [replace(row, gain_low=low, gain_high=high) for row, (low, high) in
            zip(rows_of(result, "small_loss"), ((-0.2, -0.1), (0.1, 0.2)), strict=True)]  # fmt: skip
    line = sheet(part(replace(result, rows=rows))).lines[0]
    assert headline(line, LABELS) == (
        "small_loss helped at label noise 40% and harmed at label noise 0%, against training on all data and "
        "with 50% of its samples."
    )


# What is read from a file is looked at first


def test_an_evaluation_from_its_file_gives_the_same_page(result, page, tmp_path):
    save(result, tmp_path / "evaluation.json", {"step": 3})
    again, _ = load(tmp_path / "evaluation.json")
    check(again)
    assert Page(render("small_loss on digits", [part(again)])).tables.keys() == page.tables.keys()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(rows=[]), "no row is of its agent"),
        (lambda c: c["rows"][0].update(accuracy_mean="high"), "accuracy_mean of small_loss must be a number"),
        (lambda c: c["rows"][0].update(ratio=float("nan")), "ratio of small_loss must be a number"),
        (lambda c: c["rows"][0].update(context={"label_noise": 7}), "unknown context"),
        (lambda c: c["contexts"].append({}), "2 traces for 3 contexts"),
        (lambda c: c.update(contexts=[{"x": [1]}, {}]), "contexts must be tables"),
        (lambda c: c["traces"]["random"][0].update(ratio=[0.5]), "ratio of random has the shape"),
        (lambda c: c["traces"]["random"][0].update(curve=[0.5]), "curve, selected and strengths of random"),
        (
            lambda c: c["traces"]["random"][0]["accuracy"].__setitem__(0, None),
            "accuracy of random must be fin",
        ),
        (
            lambda c: c["traces"]["random"][0]["wrong"].__setitem__(0, 2),
            r"wrong of random must be in \[0, 1\]",
        ),
        (lambda c: c["rows"][0].update(accuracy_mean=1.5), r"accuracy of small_loss must be in \[0, 1\]"),
        (lambda c: c.update(agent=3), "env and agent must be names"),
    ],
)
def test_parts_that_do_not_fit_are_named(result, tmp_path, change, message):
    path = tmp_path / "evaluation.json"
    save(result, path, {})
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="it was changed since it was written"):
        load(path)
    del content["digest"]
    path.write_text(json.dumps({**content, "digest": _digest(content)}))
    with pytest.raises(ValueError, match=message):
        check(load(path)[0])


def test_intervals_of_the_rows_are_those_of_the_seeds(result):
    """The page takes intervals from the rows, and statistics from the seeds: both are of the same runs."""
    for row, trace in zip(rows_of(result, "small_loss"), result.traces["small_loss"], strict=True):
        assert (row.accuracy_low, row.accuracy_high) == pytest.approx(interval(trace.accuracy))
