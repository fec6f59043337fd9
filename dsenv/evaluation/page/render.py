"""Puts a page together: template, style, script, tables and charts in one text."""

from collections.abc import Sequence
from importlib.resources import files
from typing import Any

from dsenv.catalogue import names, summary
from dsenv.evaluation.page import charts, tables
from dsenv.evaluation.page.content import Line, Note, Part, Sheet
from dsenv.evaluation.page.lines import REFERENCES, sheet
from dsenv.evaluation.page.rivals import rules_of
from dsenv.evaluation.page.words import MARKS, headline, judgements, rule_headline

GENERATOR = "dsenv report"
MOST_RULES = 6  # whose schedules are drawn beside those of the page's agents


def render(title: str, parts: Sequence[Part], notes: Sequence[Note] = ()) -> str:
    """One self-contained HTML page.

    Use::

        import dsenv
        from dsenv.catalogue import definition
        from dsenv.evaluation import Entry, evaluate
        from dsenv.evaluation.page import Part, Subject, render

        env = definition("envs", "Tiny-Curriculum-v0")
        entries = [Entry(name, dsenv.load("agents", name)) for name in ("all_data", "random", "small_loss")]
        evaluation = evaluate(env, entries, "small_loss", seeds=3, device="cpu", progress=False)
        html = render("small_loss on digits", [Part(env.name, [], [Subject("small_loss", evaluation)])])

    Args:
        title: of the page.
        parts: one for each environment; agents of different parts are not compared.
        notes: what could not be shown, and the command that comes next.
    """
    from jinja2 import Environment, StrictUndefined

    template = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return template.from_string(_text("page.html")).render(
        title=title,
        generator=GENERATOR,
        parts=[_shown(sheet(part, number)) for number, part in enumerate(parts)],
        notes=notes,
        style=_text("page.css"),
        script=_text("page.js"),
        marks=MARKS,
    )


def _text(name: str) -> str:
    return files("dsenv.evaluation.page").joinpath(name).read_text(encoding="utf-8")


def _shown(sheet: Sheet) -> dict[str, Any]:
    """Everything that the template shows of a part."""
    drawer = charts.Drawer(sheet)
    subjects = [number for number, line in sheet.drawn if line.is_subject]
    rules = [number for number, line in sheet.drawn if _shows_schedule(line)]

    return {
        "sheet": sheet,
        "part": sheet.part,
        "notes": [*sheet.part.notes, *sheet.notes],
        "headlines": [_headline(sheet, line) for _, line in sheet.subjects],
        "cards": [(label, judgements(sheet, n)) for n, label in enumerate(sheet.labels)],
        "references": [(line.name, REFERENCES[line.name]) for line in sheet.lines if line.name in REFERENCES],
        "rules": _rules(sheet),
        "rivals": any(rule_headline(sheet, line) for _, line in sheet.subjects),
        "cards_first": len(sheet.subjects) == 1 and len(sheet.labels) <= 4,  # or the table leaves the screen
        "pooled": any(line.kind == "pooled" for line in sheet.lines),
        "gains": tables.gains(sheet),
        "accuracies": tables.accuracies(sheet),
        "over_random": tables.over_random(sheet),
        "over_contexts": tables.over_contexts(sheet),
        "at_cost": [found for what in ("samples", "seconds") if (found := tables.at_equal_cost(sheet, what))],
        "curves": [(what, charts.curves(drawer, what)) for what in ("samples", "seconds")],
        "schedules": [(sheet.lines[n].name, charts.schedules(drawer, n)) for n in subjects],
        "rule_schedules": [(sheet.lines[n].name, charts.schedules(drawer, n)) for n in rules[:MOST_RULES]],
        "strengths": [(sheet.lines[n].name, charts.strengths(drawer, n)) for n in subjects],
        "bins": _bins(sheet),
        "wrong": charts.wrong_labels(drawer),
        "difficulty": charts.difficulty(drawer),
        "class_shares": list(tables.class_shares(sheet)),
        "costs": tables.costs(sheet),
        "classes": list(tables.class_accuracies(sheet)),
        "seeds": charts.seeds(drawer),
        "training": charts.training(drawer, sheet.part.trainings),
    }


def _headline(sheet: Sheet, line: Line) -> str:
    return " ".join(filter(None, (headline(line, sheet.labels), rule_headline(sheet, line))))


def _rules(sheet: Sheet) -> list[tuple[str, str]]:
    """What the rules of the catalogue do, that agents are compared with."""
    compared = {name for line in sheet.lines for name in rules_of(line)}
    there = [line.agent for line in sheet.lines if line.kind == "rule" and line.agent in compared]
    return [(name, summary("agents", name)) for name in dict.fromkeys(there) if name in names("agents")]


def _shows_schedule(line: Line) -> bool:
    """Whether a rule's choice differs from a random one."""
    return not line.is_subject and line.name not in REFERENCES and not line.name.startswith("strength_")


def _bins(sheet: Sheet) -> list[tuple[int, str]]:
    """Loss-rank bins and their colours."""
    from matplotlib.colors import to_hex

    from dsenv.tracking.pictures import bin_colors

    traces = [trace for _, line in sheet.drawn for trace in line.traces if trace is not None]
    count = traces[0].selected.shape[1] if traces else 0
    return [(b, to_hex(colour)) for b, colour in enumerate(bin_colors(count))]
