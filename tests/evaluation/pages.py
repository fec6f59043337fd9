"""What a page holds, read by the parser of the standard library."""

import re
from html.parser import HTMLParser

VOID = {"meta", "br", "input", "img", "hr", "link"}


class Page(HTMLParser):
    """Tables by caption, ids, links, notes, headings and the text of a page; tags must be nested rightly."""

    def __init__(self, html):
        super().__init__(convert_charrefs=True)
        self.html = html
        self.tables: dict[str, dict[str, list[tuple[str, float | None, str]]]] = {}
        self.heads: dict[str, list[str]] = {}
        self.headings: list[str] = []
        self.notes: list[str] = []
        self.leads: list[str] = []
        self.verdicts: list[tuple[str, str]] = []
        self.captions: list[str] = []
        self.ids: list[str] = []
        self.references: list[str] = []
        self.tags: list[tuple[str, dict]] = []
        self._open: list[tuple[str, dict, list[str]]] = []
        self._caption = self._row = ""
        self.feed(html)
        self.close()
        assert self._open == [], self._open

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.tags.append((tag, found))
        if "id" in found:
            self.ids.append(found["id"])
        for value in found.values():
            self.references += re.findall(r"url\(#([^)]+)\)", value or "")
        if found.get("href", "").startswith("#"):
            self.references.append(found["href"][1:])
        if tag not in VOID:
            self._open.append((tag, found, []))

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self._open.pop()

    def handle_data(self, data):
        for _, _, text in self._open:
            text.append(data)

    def handle_endtag(self, tag):
        name, found, text = self._open.pop()
        assert name == tag, f"</{tag}> closes <{name}>"
        words = " ".join("".join(text).split())
        classes = (found.get("class") or "").split()
        if tag == "caption":
            self._caption = words
            self.tables.setdefault(words, {})
        elif tag == "th" and found.get("scope") == "col":
            self.heads.setdefault(self._caption, []).append(words)
        elif tag == "th":
            self._row = words
            self.tables[self._caption][words] = []
        elif tag == "td":
            value = found.get("data-value")
            cell = (words, None if value is None else float(value), (classes or [""])[0])
            self.tables[self._caption][self._row].append(cell)
        elif tag in ("h1", "h2", "h3", "h4"):
            self.headings.append(words)
        elif tag == "figcaption":
            self.captions.append(words)
        elif "note" in classes:
            self.notes.append(words)
        elif "lead" in classes:
            self.leads.append(words)
        elif "verdict" in classes:
            self.verdicts.append((classes[1], words))

    def table(self, beginning):
        """The table whose caption begins like this."""
        (found,) = (rows for caption, rows in self.tables.items() if caption.startswith(beginning))
        return found

    def head(self, beginning):
        """Heads of the columns of the table whose caption begins like this."""
        (found,) = (heads for caption, heads in self.heads.items() if caption.startswith(beginning))
        return found

    def values(self, beginning):
        """Its numbers, by row."""
        return {row: [value for _, value, _ in cells] for row, cells in self.table(beginning).items()}


def assert_self_contained(page):
    """Nothing is loaded from anywhere, and what is referred to inside is there once."""
    for tag, attrs in page.tags:
        assert tag not in ("link", "img", "iframe", "object", "embed", "base"), tag
        for name in ("src", "srcset", "action", "data", "xlink:href"):
            assert name not in attrs, (tag, attrs)
        assert attrs.get("href", "#").startswith("#"), attrs
    assert not re.search(
        r"https?://|@import|@font-face|url\((?!#)|\bfetch\(|XMLHttpRequest|\bimport\(", page.html
    )
    assert len(page.ids) == len(set(page.ids))
    assert set(page.references) <= set(page.ids)
