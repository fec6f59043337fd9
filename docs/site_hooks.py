"""Hooks of the site: README.md is its first page, and files outside docs/ that pages link come along.

MkDocs sees the folder docs/ alone. The pages link files of results as `../benchmarks/results/NAME`, as they
lie in the repository; on the site these files lie in `results/`.
"""

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
MOVED = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md"}
RESULTS = "benchmarks/results"
LINK = re.compile(r"(\]\()(?!\w+:|#)([^)#\s]+)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages and files that lie outside of docs/."""
    for name, page in MOVED.items():
        files.append(File.generated(config, page, content=(ROOT / name).read_text("utf-8")))
    for path in sorted((ROOT / RESULTS).rglob("*.json*")):
        target = "results/" + path.relative_to(ROOT / RESULTS).as_posix()
        files.append(File.generated(config, target, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:  # noqa: ARG001
    """Turn links as they are in the repository into links of the site."""
    place = {page: name for name, page in MOVED.items()}.get(page.file.src_uri, f"docs/{page.file.src_uri}")

    def site(match: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(place), match[2]))
        return match[1] + posixpath.relpath(site_path(target), posixpath.dirname(page.file.src_uri) or ".")

    return LINK.sub(site, markdown)


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:  # noqa: ARG001
    """Show the head of an example in a docstring, which is reStructuredText there, as text."""
    return html.replace("<p>Use::</p>", "<p>Example:</p>")


def site_path(target: str) -> str:
    """Where a file of the repository lies on the site."""
    if target in MOVED:
        return MOVED[target]
    if target == RESULTS or target.startswith(RESULTS + "/"):
        return "results" + target.removeprefix(RESULTS)
    return target.removeprefix("docs/")
