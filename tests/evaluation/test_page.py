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
from dsenv.evaluation.page.rivals import best_rule, rules_of
from dsenv.evaluation.page.tables import (
    FAINTEST,
    MOST_CLASSES,
    class_accuracies,
    class_shares,
    gain_cell,
    gains,
)
from dsenv.evaluation.page.words import (
    DASH,
    MINUS,
    between,
    contexts,
    ends,
    headline,
    points,
    rule_headline,
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
            [np.mean([getattr(row, what) for row in rows]) for what in ("ratio", "seconds")]
        )
        over_random = page.values("Gain in test accuracy over random")[name]
        wanted = [None, None] if agent == "random" else [row.over_random_mean for row in rows]
        assert over_random == wanted
        spent = page.values("Cost of one training run")[name]
        assert spent[0] == pytest.approx(np.mean([row.samples_used for row in rows]))
    assert (
        page.heads[
            "Test accuracy after the last training interval, in percent, and half its 95% confidence interval"
        ][1:]
        == LABELS
    )


def test_cells_say_and_show_what_a_gain_means(result, page):
    for agent in ("small_loss", "hard_first"):
        cells = page.table("Gain in test accuracy over training on all data")[agent]
        for row, (text, _, kind) in zip(rows_of(result, agent), cells, strict=False):
            assert kind == verdict(row.gain_low, row.gain_high)
            assert points(row.gain_mean) in text and ends(row.gain_low, row.gain_high) in text
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


# Against the best rule


def learned(result, *names):
    """The evaluation of an agent that learned to do what small_loss does, beside these rules."""
    traces = {"ppo": result.traces["small_loss"], **{name: result.traces[name] for name in names}}
    rows = [replace(row, agent="ppo") for row in rows_of(result, "small_loss")]
    rows += [row for row in result.rows if row.agent in names]
    return replace(result, agent="ppo", rows=rows, traces=traces)


def learned_part(*evaluations):
    return Part("env", [], [Subject(f"ppo, seed {n}", one, "ppo", n) for n, one in enumerate(evaluations)])


def test_cards_name_the_best_rule_at_no_more_samples(result, no_charts):
    given = learned_part(learned(result, *AGENTS))
    found = Page(render("ppo", [given]))
    shown = sheet(given)
    for number, (_, words) in enumerate(found.verdicts):
        means = {name: result.traces[name][number].accuracy.mean() for name in AGENTS}
        best = max(("small_loss", "hard_first", "random"), key=means.get)
        rival = best_rule(shown, shown.lines[0], number)
        assert rival.name == best and rival.accuracy == means[best]
        assert rival.gain == pytest.approx(means[best] - means["all_data"])

        over = result.traces["small_loss"][number].accuracy - result.traces[best][number].accuracy
        assert rival.over == over.mean() and (rival.low, rival.high) == interval(over)
        wanted = f"Best fixed rule at no more samples: {best} {points(rival.gain)}; ppo, seed 0 against it: "
        assert wanted in words and f"{points(rival.over)} ({ends(rival.low, rival.high)})" in words
    assert rule_headline(shown, shown.lines[0]) in found.leads[0]
    assert "The best fixed rule is picked by its mean on these same runs" in found.html


def test_cards_and_headline_say_whether_the_rule_ties(result, no_charts):
    alone = learned(result, "all_data", "small_loss")  # the agent does the same on every seed
    for by, word in ((0, "no clear difference"), (0.02, "better"), (-0.02, "worse")):
        found = Page(render("ppo", [learned_part(shifted(alone, by))]))
        kind = {"better": "good", "worse": "bad"}.get(word, "even")
        gain = points(by)
        for _, words in found.verdicts:
            assert words.endswith(f"ppo, seed 0 against it: {word}, {gain} ({gain} to {gain})")
        assert found.html.count(f'<p class="chance {kind}">Best fixed rule') == 2
        assert found.leads[0].endswith(f" samples: {word} at label noise 0% and 40%.")


def test_a_rule_with_more_samples_is_no_rival(result):
    rows = [
        replace(row, ratio=row.ratio + 0.02) if row.agent in ("small_loss", "hard_first") else row
        for row in learned(result, *AGENTS).rows
    ]
    shown = sheet(learned_part(replace(learned(result, *AGENTS), rows=rows)))
    assert [best_rule(shown, shown.lines[0], n).name for n in (0, 1)] == ["random", "random"]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda result: replace(learned(result, *AGENTS), traces={}), "no traces"),
        (lambda result: learned(result, "all_data", "all_data_plus_validation"), "no rule"),
    ],
)
def test_without_traces_or_rules_there_is_no_rival(result, no_charts, change, why):
    found = Page(render("ppo", [learned_part(change(result))]))
    assert "est fixed rule" not in found.html, why


def test_a_run_of_a_rule_has_no_rival(page):
    assert "est fixed rule" not in page.html


def test_policies_that_were_trained_are_no_rules(result, monkeypatch):
    line = sheet(learned_part(learned(result, *AGENTS))).lines[0]
    assert rules_of(line) == ["small_loss", "random", "hard_first"]
    monkeypatch.setattr("dsenv.evaluation.page.rivals.pretrained.names", lambda: ["hard_first"])
    assert rules_of(line) == ["small_loss", "random"]


def test_a_rule_that_is_told_what_no_training_run_knows_is_a_reference_and_no_rival(result):
    own = learned(result, *AGENTS)
    renamed = {"hard_first": "trim_oracle"}
    rows = [replace(row, agent=renamed.get(row.agent, row.agent)) for row in own.rows]
    traces = {renamed.get(name, name): found for name, found in own.traces.items()}
    shown = sheet(learned_part(replace(own, rows=rows, traces=traces)))
    assert rules_of(shown.lines[0]) == ["small_loss", "random"]
    assert [line.name for line in shown.lines if line.kind == "reference"][-1] == "trim_oracle"


def test_a_pooled_agent_is_paired_with_the_rule_seed_by_seed(result):
    first = learned(result, "all_data", "small_loss")
    shown = sheet(learned_part(first, shifted(first, 0.02)))
    own = np.stack([result.traces["small_loss"][1].accuracy] * 2)
    own[1] += 0.02
    other = np.stack([result.traces["small_loss"][1].accuracy] * 2)
    rival = best_rule(shown, shown.lines[0], 1)
    assert rival.name == "small_loss" and rival.over == pytest.approx(0.01)
    assert (rival.low, rival.high) == stratified_interval(mean_difference, own[..., None], other[..., None])


def test_what_the_rules_do_stands_above_the_table(result, no_charts):
    html = render("ppo", [learned_part(learned(result, *AGENTS))])
    words = "The samples with the smallest last losses, all the time"
    assert (
        html.index("What the rules do")
        < html.index(words)
        < html.index("Gain in test accuracy over training")
    )
    assert "What the rules do" not in render("ppo", [learned_part(learned(result, "all_data"))])
    # A rule that is in no catalogue has no words
    rows = [replace(row, agent="mine") if row.agent == "hard_first" else row for row in result.rows]
    own = replace(learned(result, *AGENTS), rows=[*rows_of(learned(result), "ppo"), *rows])
    assert "<dt>mine" not in render("ppo", [learned_part(replace(own, traces={}))])


# Form


def test_references_stand_below_the_agent_and_the_one_with_more_labels_last(result):
    shown = sheet(learned_part(learned(result, *AGENTS)))
    names = [line.name for line in shown.lines]
    assert names[:3] == ["ppo, seed 0", "all_data", "random"] and names[-1] == "all_data_plus_validation"
    assert set(names[3:-1]) == {"small_loss", "hard_first"}


def test_data_used_and_compute_are_one_column_where_they_are_equal(result, page):
    assert page.head("Gain in test accuracy over training on")[3:] == [
        "data used and compute",
        "time of a run",
    ]
    rows = [replace(row, compute=0.7) if row.agent == "hard_first" else row for row in result.rows]
    table = gains(sheet(part(replace(result, rows=rows))))
    assert table.heads[2:] == ["data used", "compute", "time of a run"]
    (cells,) = [row.cells for row in table.rows if row.name == "hard_first"]
    assert [cell.text for cell in cells[2:4]] == ["50%", "70%"]


def test_all_data_says_its_accuracy(result, page):
    row = rows_of(result, "all_data")[0]
    text = page.table("Gain in test accuracy over training on")["all_datareference"][0][0]
    assert text == f"0 ({100 * row.accuracy_mean:.1f}% accurate)"


def test_shades_go_by_the_largest_gain_for_both_signs(result):
    heats = [gain_cell(v, v - 0.001, v + 0.001, 0.26).heat for v in (-0.26, -0.118, 0.106, 0.077, -0.003)]
    assert heats[0] == 1 and heats == sorted(heats, reverse=True) and heats[-1] > FAINTEST
    assert heats[0] - heats[1] > 0.25 and heats[2] - heats[3] > 0.05
    assert gain_cell(0.077, 0.07, 0.08, 0.26).heat == gain_cell(-0.077, -0.08, -0.07, 0.26).heat
    assert gain_cell(0.001, 0.0005, 0.002, 0.001).heat < 0.5  # a tenth of a point is no strong colour
    assert gain_cell(0.1, -0.1, 0.3, 0.26).heat == 0
    table = gains(sheet(part(result)))
    strongest = max((cell for row in table.rows for cell in row.cells[:2]), key=lambda cell: abs(cell.value))
    assert strongest.heat == (1 if strongest.kind in ("good", "bad") else 0)


def test_no_swatch_stands_beside_coloured_cells(page):
    def swatches(beginning):
        (table,) = [
            t for t in re.findall(r"<table.*?</table>", page.html, re.DOTALL) if f"<span>{beginning}" in t
        ]
        return table.count('class="key"')

    assert swatches("Test accuracy after") == len(AGENTS)
    assert (
        swatches("Gain in test accuracy over training") == swatches("Gain in test accuracy over random") == 0
    )
    assert page.html.count('<i class="key" style="background:var(--a0)"></i>small_loss</label>') == 1


def test_intervals_of_training_and_of_confidence_are_told_apart(page):
    text = re.sub(r"<style>.*?</style>|<script>.*?</script>", "", page.html, flags=re.DOTALL)
    assert (
        text.index("95% confidence interval") < text.index("95% interval") if "95% interval" in text else True
    )
    assert ">interval</text>" not in text and ">training interval</text>" in text
    assert "the last interval" not in text and "every interval" not in text
    assert "differences are of unrounded values" in text


def test_what_the_training_took_is_said_at_the_top_and_at_the_costs(result, no_charts):
    words = "ppo was itself trained on 110,000 training intervals"
    html = render("ppo", [part(result, trained=words)])
    assert html.count(words) == 2
    assert html.index(words) < html.index("In one look") and html.rindex(words) > html.index(
        "Cost of one training"
    )


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
