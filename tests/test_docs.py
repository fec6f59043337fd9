"""The docs are in step with the code."""

import re
from pathlib import Path

import pytest

import dsenv
from dsenv.catalogue import definition
from dsenv.workbench.cards import document, method_tables

DOCS = Path(__file__).resolve().parents[1] / "docs"


@pytest.mark.fast
def test_method_cards_are_up_to_date():
    assert (DOCS / "methods.md").read_text() == document(), (
        "run: python -m dsenv.workbench.cards > docs/methods.md"
    )


def test_every_method_has_a_card_with_its_source():
    text = document()
    for table in method_tables().values():
        for name in table:
            (found,) = re.findall(rf"^### {name}\n(.*?)(?=^##|\Z)", text, flags=re.MULTILINE | re.DOTALL)
            assert re.search("source|Source|TrivialAugment|constant|none|fixed", found), name
            assert len(found) > 200, name


@pytest.mark.fast
def test_the_observation_table_is_that_of_the_code():
    env = dsenv.load("envs", "Digits-Curriculum-v0")
    text = (DOCS / "environments.md").read_text()
    entries, components = env.observation_space.shape[0], env.control.size
    assert f"O = {entries} for `curriculum` with 5 bins, so {components} action components" in text
    for name in dsenv.names("envs"):
        assert f"dsenv/{name}" in text


@pytest.mark.parametrize(("page", "name"), [("agents", "action"), ("environments", "observation")])
def test_python_blocks_of_a_page_run(page, name):
    blocks = re.findall(r"```python\n(.*?)```", (DOCS / f"{page}.md").read_text(), flags=re.DOTALL)
    assert len(blocks) >= 2
    for block in blocks:
        names: dict[str, object] = {"__name__": page}
        exec(compile(block, f"docs/{page}.md", "exec"), names)
        assert name in names


def test_python_blocks_of_the_report_page_run():
    blocks = re.findall(r"```python\n(.*?)```", (DOCS / "report.md").read_text(), flags=re.DOTALL)
    names: dict[str, object] = {"__name__": "report"}
    for block in blocks:
        exec(compile(block, "docs/report.md", "exec"), names)
    assert len(blocks) == 2 and 0.5 < names["low"] < names["high"] < 1 and "</html>" in names["html"]


def test_the_block_of_the_tensorboard_page_runs_and_its_tags_are_there(tmp_path, monkeypatch):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    text = (DOCS / "tensorboard.md").read_text()
    (block,) = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    monkeypatch.chdir(tmp_path)
    exec(compile(block, "docs/tensorboard.md", "exec"), {})

    events = EventAccumulator(str(tmp_path / "runs" / "PPO_1"))
    events.Reload()
    tags = [tag for kind in ("scalars", "images", "histograms") for tag in events.Tags()[kind]]
    ours = [tag for tag in tags if tag.startswith(("accuracy/", "chosen/", "pool/", "policy/"))]
    assert len(ours) > 20
    named = re.findall(r"`((?:accuracy|chosen|pool|policy)/[^`.]*)", text)
    for tag in ours:
        assert any(tag.startswith(name.strip()) for name in named), tag


@pytest.mark.fast
def test_the_table_of_environments_is_that_of_their_definitions():
    """Intervals, and the training and validation samples where the definition sets them."""
    text = (DOCS / "environments.md").read_text()
    rows = dict(re.findall(r"^\| `dsenv/([\w-]+)` (\|.*)$", text, flags=re.MULTILINE))
    assert len(rows) > 8
    for name, row in rows.items():
        settings = definition("envs", name).kwargs
        assert f"| {settings['intervals']} |" in row, name
        sizes = settings["task"].get("dataset", {})
        if "the same" not in row and "train" in sizes:
            assert f" {sizes['train']:,} / {sizes['validation']:,} / " in row, name


@pytest.mark.fast
def test_every_agent_is_on_the_agents_page():
    text = (DOCS / "agents.md").read_text()
    assert all(f"`{name}`" in text for name in dsenv.names("agents"))


@pytest.mark.fast
@pytest.mark.parametrize("path", sorted(DOCS.rglob("*.md")), ids=lambda path: path.name)
def test_links_lead_somewhere(path):
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", path.read_text()):
        assert (path.parent / target).exists(), target
