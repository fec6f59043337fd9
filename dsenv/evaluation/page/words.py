"""Numbers as people read them, and what they mean: helped, harmed, no clear difference."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dsenv.evaluation.compare import CHANCE, REFERENCE, Row
from dsenv.evaluation.page.content import Line, Sheet
from dsenv.evaluation.page.rivals import Rival, best_rule

MINUS, DASH = "\N{MINUS SIGN}", "\N{EN DASH}"
WORDS = {"good": "helped", "bad": "harmed", "even": "no clear difference", "none": "not compared"}
AGAINST = {"good": "better", "bad": "worse", "even": "no clear difference"}
MARKS = {"good": "\N{BLACK UP-POINTING TRIANGLE}", "bad": "\N{BLACK DOWN-POINTING TRIANGLE}", "even": "="}


def verdict(low: float | None, high: float | None) -> str:
    """What a gain is, "good", "bad" or "even", by its 95 % interval; "none" where there is none."""
    if low is None or high is None:
        return "none"
    return "good" if low > 0 else "bad" if high < 0 else "even"


def points(value: float | None) -> str:
    """A difference of accuracies in points, with its sign."""
    if value is None:
        return DASH
    text = f"{100 * value:+.1f}"
    return "0.0" if text in ("+0.0", "-0.0") else text.replace("-", MINUS)


def ends(low: float | None, high: float | None) -> str:
    """An interval of a difference in points; ends near 0 get the digits that say on which side they are."""
    if low is None or high is None:
        return DASH
    found = []
    for value in (low, high):
        text = points(value)
        if text == "0.0" and value:
            text = f"{100 * value:+.1g}".replace("-", MINUS)
        found.append(text)
    return " to ".join(found)


def percent(value: float | None, digits: int = 1) -> str:
    """A share in percent, without the sign of percent."""
    return DASH if value is None else f"{100 * value:.{digits}f}"


def between(values: Sequence[float | None], scale: float = 100, digits: int = 0, unit: str = "%") -> str:
    """One value for all contexts, or the smallest and the largest: "50%", "34 to 52%"."""
    known = [scale * value for value in values if value is not None]
    if not known:
        return DASH
    low, high = (f"{value:.{digits}f}" for value in (min(known), max(known)))
    return f"{low}{unit}" if low == high else f"{low} to {high}{unit}"


def seconds(*values: float | None) -> str:
    """Seconds; of several values the smallest and the largest."""
    known = [value for value in values if value is not None]
    digits = 3 if known and max(known) < 0.1 else 2 if known and max(known) < 10 else 0
    return between(known, 1, digits, " s")


def listed(words: Sequence[str]) -> str:
    """Words in a row: "a", "a and b", "a, b and c"."""
    *most, last = words
    return f"{', '.join(most)} and {last}" if most else last


def contexts(labels: Sequence[str]) -> str:
    """Labels of contexts in a sentence: "label noise 20%, 40% and 60%"."""
    if any("," in label for label in labels):
        return "; ".join(labels)
    heads = {label.rpartition(" ")[0] for label in labels}
    if len(heads) > 1 or heads == {""}:
        return listed(labels)
    return f"{heads.pop()} {listed([label.rpartition(' ')[2] for label in labels])}"


def short(name: str, length: int = 26) -> str:
    """A name that fits beside a chart."""
    return name if len(name) <= length else name[: length - 1] + "\N{HORIZONTAL ELLIPSIS}"


@dataclass(frozen=True)
class Judgement:
    """One agent in one context, against all data and against random selection."""

    name: str
    number: int
    kind: str
    gain: str
    word: str
    text: str
    """The rest of the sentence."""
    chance_kind: str
    chance_name: str
    chance: str
    rule_kind: str
    """Against the best fixed rule that sees no more samples; all empty where there is none."""
    rule_name: str
    rule_gain: str
    rule: str


def judgements(sheet: Sheet, context: int) -> list[Judgement]:
    """What the page's agents did in a context, a sentence each."""
    found = []
    for number, line in sheet.subjects:
        row = line.rows[context]
        if row is None:
            continue
        kind = verdict(row.gain_low, row.gain_high)
        chance_kind, chance_name, chance = _chance(row, _random_row(sheet, context))
        rule_kind, rule_name, rule_gain, rule = _rule(best_rule(sheet, line, context))
        found.append(
            Judgement(
                name=line.name,
                number=number,
                kind="none" if row.agent == REFERENCE else kind,
                gain=points(row.gain_mean),
                word=WORDS[kind],
                text=_sentence(row),
                chance_kind=chance_kind,
                chance_name=chance_name,
                chance=chance,
                rule_kind=rule_kind,
                rule_name=rule_name,
                rule_gain=rule_gain,
                rule=rule,
            )
        )
    return found


def _sentence(row: Row) -> str:
    if row.gain_mean is None:
        compared = f"{percent(row.accuracy_mean)}% test accuracy; all data was not evaluated beside it"
    else:
        compared = f"over all data (95% confidence interval {ends(row.gain_low, row.gain_high)})"
    spent = f"with {percent(row.ratio, 0)}% of the samples"
    if round(100 * row.compute) != round(100 * row.ratio):
        spent += f", {percent(row.compute, 0)}% of the compute"
    if row.seconds is not None:
        spent += f", {seconds(row.seconds)} a run"
    lost = f"; {row.diverged} of {row.seeds} runs diverged" if row.diverged else ""
    return f"{compared}, {spent}{lost}."


def _random_row(sheet: Sheet, context: int) -> Row | None:
    """Random selection in a context; None where it was not run."""
    rows = [line.rows[context] for line in sheet.lines]
    return next((row for row in rows if row is not None and row.agent == CHANCE), None)


def _chance(row: Row, random: Row | None) -> tuple[str, str, str]:
    """Against a random subset, where there is one: verdict, name of the subset, and gain."""
    kind = verdict(row.over_random_low, row.over_random_high)
    if kind == "none" or random is None or row.agent == CHANCE or random.ratio > 0.995:
        return "none", "", ""  # a subset of everything is no subset

    is_same = abs(random.ratio - row.ratio) < 0.005
    size = "at the same budget" if is_same else f"with {percent(random.ratio, 0)}% of the samples"
    found = ends(row.over_random_low, row.over_random_high)
    return kind, f"a random subset {size}", f"{WORDS[kind]}, {points(row.over_random_mean)} ({found})"


def _rule(rival: Rival | None) -> tuple[str, str, str, str]:
    """Against the best rule, where there is one: verdict, its name, its own gain, and that over it."""
    if rival is None:
        return "none", "", "", ""
    kind = verdict(rival.low, rival.high)
    gain = f"{percent(rival.accuracy)}%" if rival.gain is None else points(rival.gain)
    found = f"{AGAINST[kind]}, {points(rival.over)} ({ends(rival.low, rival.high)})"
    return kind, rival.name, gain, found


def rule_headline(sheet: Sheet, line: Line) -> str:
    """Where an agent is better and worse than the best fixed rule; empty where there is none."""
    by_kind: dict[str, list[str]] = {}
    for number, label in enumerate(sheet.labels):
        rival = best_rule(sheet, line, number)
        if rival is not None:
            by_kind.setdefault(verdict(rival.low, rival.high), []).append(label)
    parts = _where(by_kind, AGAINST)
    return f"Against the best fixed rule at no more samples: {listed(parts)}." if parts else ""


def _where(by_kind: Mapping[str, list[str]], words: Mapping[str, str]) -> list[str]:
    """What was found at which contexts: "helped at label noise 20%"."""
    return [f"{word} at {contexts(by_kind[kind])}" for kind, word in words.items() if kind in by_kind]


def headline(line: Line, labels: Sequence[str]) -> str:
    """Where an agent helped and where it harmed, in one sentence."""
    by_kind: dict[str, list[str]] = {}
    for row, label in zip(line.rows, labels, strict=True):
        if row is not None:
            by_kind.setdefault(verdict(row.gain_low, row.gain_high), []).append(label)

    words = {"good": "helped", "bad": "harmed", "even": "made no clear difference"}
    parts = _where(by_kind, words)
    if not parts:
        return f"{line.name} was evaluated without all data beside it."
    used = between([row.ratio for row in line.whole])
    name = f"{line.name}:" if "," in line.name else line.name
    return f"{name} {listed(parts)}, against training on all data and with {used} of its samples."
