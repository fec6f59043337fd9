"""Every table of results and settings in README and docs is that of the files and of the code."""

import importlib
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "benchmarks"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
WRITTEN = [page for page in PAGES if "<!-- table: " in page.read_text()]
CONCLUSIONS = [ROOT / "README.md", *(ROOT / "docs" / "benchmarks" / f"{name}.md" for name in
                                     ("index", "policies", "rules", "speed"))]  # fmt: skip


@pytest.fixture(scope="module")
def tables():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(FOLDER))
        before = set(sys.modules)
        yield importlib.import_module("tables")
        for name in set(sys.modules) - before:
            if str(getattr(sys.modules[name], "__file__", "")).startswith(str(FOLDER)):
                del sys.modules[name]


@pytest.mark.fast
@pytest.mark.parametrize("page", WRITTEN, ids=lambda page: page.name)
def test_a_page_holds_what_the_files_say(tables, page):
    text = page.read_text()
    assert tables.filled(text, page) == text, "run: python benchmarks/tables.py"


def test_every_table_has_a_place(tables):
    named = re.findall(r"<!-- table: ([\w-]+) -->", "".join(page.read_text() for page in PAGES))
    assert sorted(set(named)) == sorted(tables.TABLES)
    assert sum(len(tables.MARK.findall(page.read_text())) for page in WRITTEN) == len(named)


def test_another_figure_and_another_name_are_found(tables):
    page = ROOT / "docs" / "benchmarks" / "rules.md"
    text = page.read_text()
    for old, new in (("93.3", "93.4"), ("| 0.99 |", "| 0.98 |")):
        assert old in text and tables.filled(text.replace(old, new, 1), page) == text
    with pytest.raises(KeyError, match="no table 'nothing'; there are agents, "):
        tables.filled("<!-- table: nothing -->\n<!-- end -->", page)


def by_hand(text):
    """What a page says outside of generated parts, code and links."""
    text = re.sub(r"<!-- table: .*?<!-- end -->", "", text, flags=re.DOTALL)
    text = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    return re.sub(r"`[^`]*`|\]\([^)]*\)|arXiv \d+\.\d+|Python \d\.\d+", "", text)


@pytest.mark.fast
@pytest.mark.parametrize("page", CONCLUSIONS, ids=lambda page: page.name)
def test_no_figure_of_a_result_is_written_by_hand(page):
    """A figure with decimals, a difference or a table with digits comes from a file of results."""
    text = by_hand(page.read_text())
    assert re.findall(r"\d+\.\d+", text) == []
    assert re.findall(r"[+±]\s?\d+", text) == []
    assert re.findall(r"^\|.*\d.*\|$", text, flags=re.MULTILINE) == []


@pytest.mark.parametrize("name", ["digits", "breast_cancer", "wine", "iris"])
def test_sizes_of_data_sets_are_those_that_are_read(tables, name):
    from dsenv.catalogue import import_entry_point
    from dsenv.tasks.task import DATASETS

    settings = sys.modules["tables_settings"]
    data = import_entry_point(DATASETS[name])()
    sizes = (len(data.train), len(data.validation), len(data.test))
    assert settings.data({"name": name}).endswith(", " + " / ".join(f"{size:,}" for size in sizes))


def test_figures_of_the_method_cards_are_those_of_the_files(tables):
    from dsenv.workbench.cards import document

    policies, rules = sys.modules["tables_policies"], sys.modules["tables_rules"]
    digits = policies.default_rows()

    def accuracy(agent, noise):
        return f"{100 * digits[agent][noise]['accuracy_mean']:.1f}"

    def human(agent, *recipes):
        found = {recipe: own for recipe, labels, own in rules.human_rows() if labels == "human"}
        return [rules.gains(found[recipe], agent).mean for recipe in recipes]

    def wrong(agent):
        found = [
            rules.mean_of(own, agent, "wrong") for _, labels, own in rules.human_rows() if labels == "human"
        ]
        return f"{min(found):.0f} to {max(found):.0f} %"

    def trim(rate):
        own = [row["accuracy"] for row in rules.stored("trim.json")["rows"] if row["rate"] == rate]
        return f"{100 * sum(row['trim'] - row['random'] for row in own) / len(own):.1f}"

    def ranks(data, agent, epoch):
        lines = [row for row in rules.stored("batch_loss.jsonl") if row["data"] == data]
        return rules.last_rank(lines, agent, epoch)

    small, trimmed = (
        human("small_loss", "linear", "MLP, calm", "MLP, long"),
        human("trim", "linear", "MLP, calm"),
    )
    third = [
        ranks(data, f"batch losses, {decay}", 3) for data in ("digits", "fashion") for decay in ("0.9", "0.7")
    ]
    claims = [
        f"({accuracy('small_loss', 0.6)} against {accuracy('all_data', 0.6)} % accuracy",
        f"({accuracy('small_loss', 0.0)} against {accuracy('all_data', 0.0)} %)",
        f"it lost {-small[0]:.1f} and {-small[1]:.1f} points to a random half",
        f"gained {small[2]:.1f} with one that goes on",
        f"it gained {trim(0.2)} and {trim(0.4)} points on a random half at 20 and 40 % wrong labels",
        f"({trimmed[0]:+.1f} and {trimmed[1]:+.1f} points, 10 seeds)",
        f"goes on, {human('right half', 'MLP, long')[0]:.1f}, and `trim` gained "
        f"{human('trim', 'MLP, long')[0]:.1f}",
        f"at half of the data {wrong('infobatch')} of what it chose",
        f"it was {-human('infobatch', 'linear')[0]:.1f} points behind a random half with a linear model",
        f"it chose {wrong('order_dp')[:-2]} % wrong ones",
        f"was {-human('order_dp', 'linear')[0]:.1f} points behind a random half with a linear model",
        f"its selections held {wrong('data_agent')}, and it was level",
        f"its rank correlation with the own losses was {min(third):.2f} to {max(third):.2f} in epoch 3",
    ]
    cards = " ".join(document().split())
    assert [claim for claim in claims if claim not in cards] == []
