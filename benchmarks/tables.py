"""Write the generated parts of the docs: tables of results from JSON, tables of settings from the code.

    python benchmarks/tables.py            # writes them
    python benchmarks/tables.py --check    # names what is out of date, and changes nothing

A page says what stands where by a pair of comments, and everything between them is replaced:

    <!-- table: NAME -->
    ...
    <!-- end -->

The files `tables_*.py` have a function for each NAME. Links to files of results are written as
`RESULTS/NAME.json` there and fitted to the place of the page. A figure that stands in the text of a benchmark
page is written by such a function too: `tests/test_tables.py` finds decimals that are not.
"""

import argparse
import os
import re
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import tables_conclusions
import tables_frameworks
import tables_kinds
import tables_pages
import tables_policies
import tables_reproduction
import tables_rules
import tables_settings
import tables_speed

ROOT = Path(__file__).resolve().parents[1]
MARK = re.compile(r"(<!-- table: ([\w-]+) -->\n)(.*?)(<!-- end -->)", flags=re.DOTALL)
TABLES: dict[str, Callable[[], str]] = {
    **tables_conclusions.TABLES,
    **tables_frameworks.TABLES,
    **tables_kinds.TABLES,
    **tables_pages.TABLES,
    **tables_policies.TABLES,
    **tables_reproduction.TABLES,
    **tables_rules.TABLES,
    **tables_settings.TABLES,
    **tables_speed.TABLES,
}


def pages() -> Iterator[Path]:
    """README and every page of the docs."""
    yield ROOT / "README.md"
    yield from sorted((ROOT / "docs").rglob("*.md"))


@cache
def made(name: str) -> str:
    """The text of a generated part.

    Raises:
        KeyError: if no function makes it.
    """
    if name not in TABLES:
        raise KeyError(f"no table {name!r}; there are {', '.join(sorted(TABLES))}")
    return TABLES[name]()


def filled(text: str, page: Path) -> str:
    """The text of a page with all generated parts made anew."""
    results = os.path.relpath(ROOT / "benchmarks" / "results", page.parent)

    def part(match: re.Match[str]) -> str:
        content = made(match[2]).replace("](RESULTS/", f"]({results}/")
        return f"{match[1]}\n{content.strip()}\n\n{match[4]}"

    return MARK.sub(part, text)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="change nothing; 1 where a page is out of date")
    args = parser.parse_args()
    old = [page for page in pages() if filled(page.read_text("utf-8"), page) != page.read_text("utf-8")]
    for page in old:
        print(f"{page.relative_to(ROOT)}: {'out of date' if args.check else 'written'}")
        if not args.check:
            page.write_text(filled(page.read_text("utf-8"), page), "utf-8")
    return int(args.check and bool(old))


if __name__ == "__main__":
    sys.exit(main())
