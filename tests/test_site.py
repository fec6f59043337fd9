"""The site: every page is in the navigation, every public name in the reference, and it builds."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import dsenv

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
MADE = {"index.md"}  # README.md, see docs/site_hooks.py


@pytest.mark.fast
def test_every_page_is_in_the_navigation():
    navigation = (ROOT / "mkdocs.yml").read_text().split("\nnav:\n")[1]
    named = re.findall(r": ([\w/-]+\.md)$", navigation, flags=re.MULTILINE)
    pages = {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")}
    assert sorted(named) == sorted(pages | MADE)


@pytest.mark.fast
def test_the_reference_has_every_public_name():
    named = re.findall(r"^::: dsenv\.(\w+)$", (DOCS / "reference.md").read_text(), flags=re.MULTILINE)
    assert sorted(named) == dir(dsenv)


def build(folder, config=ROOT / "mkdocs.yml"):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-f", str(config), "-d", str(folder)]
    quiet = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    return subprocess.run(command, cwd=ROOT, env=quiet, capture_output=True, text=True, timeout=300)


def test_the_site_builds_without_a_warning(tmp_path):
    pytest.importorskip("mkdocs", reason="needs the extra docs")
    pytest.importorskip("mkdocstrings", reason="needs the extra docs")
    found = build(tmp_path / "site")
    assert found.returncode == 0, found.stderr[-3000:]
    assert "DataPlan" in (tmp_path / "site" / "reference" / "index.html").read_text()
    first = (tmp_path / "site" / "index.html").read_text()
    assert "pip install -e ." in re.sub(r"<[^>]*>", "", first)
    assert (tmp_path / "site" / "results" / "default_run.json").is_file()
    fetched = re.compile(r"<(?:script|link|img)\b[^>]*(?:src|href)=\"(?:https?:)?//")
    assert not [page for page in (tmp_path / "site").rglob("*.html") if fetched.search(page.read_text())]


@pytest.mark.parametrize("link", ["nowhere.md", "plan.md#no-such-heading"])
def test_a_broken_link_is_an_error(tmp_path, link):
    pytest.importorskip("mkdocs", reason="needs the extra docs")
    pytest.importorskip("material", reason="needs the extra docs")
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "index.md").write_text(f"# One\n\n[a link]({link})\n")
    (tmp_path / "docs" / "plan.md").write_text("# Two\n")
    settings = (ROOT / "mkdocs.yml").read_text().split("\nvalidation:\n")[1].split("\n\n")[0]
    (tmp_path / "mkdocs.yml").write_text(f"site_name: small\nvalidation:\n{settings}\n")
    found = build(tmp_path / "site", tmp_path / "mkdocs.yml")
    assert found.returncode != 0 and link.split("#")[-1] in found.stderr
