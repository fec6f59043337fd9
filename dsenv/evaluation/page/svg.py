"""Matplotlib's figures as SVG inside a page: text as text, colours by CSS, ids that do not clash."""

import io
import re
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK, MUTED, GRID, SURFACE = "#00aa01", "#00aa02", "#00aa03", "#00aa04"
COLOURS = {INK: "--ink", MUTED: "--muted", GRID: "--line", SURFACE: "--card"}
"""Colours of figures that stand for a variable of the page."""
AGENT_ID = "agent-"  # a group of this id can be hidden with its agent
SETTINGS: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "dsenv",
    "text.parse_math": False,  # a name may hold dollars
    "font.size": 8.5,
    "axes.edgecolor": GRID,
    "axes.labelcolor": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "xtick.color": GRID,
    "ytick.color": GRID,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "text.color": INK,
}


def agent_colour(colour: int) -> str:
    """The colour that stands for the variable --a0, --a1, ... of the page."""
    return f"#aa00{colour:02x}"


def inline(figure: "Figure", key: str, number: int, title: str) -> str:
    """A figure as an SVG element, without a size of its own.

    Args:
        figure: drawn with `SETTINGS`.
        key: of the part of the page; agents get the classes `<key>a0`, `<key>a1`, ...
        number: of the figure on the page.
        title: what it shows, for those who do not see it.
    """
    from matplotlib import rc_context

    content = io.StringIO()
    with rc_context(SETTINGS):
        metadata = {"Date": None, "Creator": None, "Format": None, "Type": None}
        figure.savefig(content, format="svg", metadata=metadata, transparent=True)

    root = ElementTree.fromstring(content.getvalue().encode())
    size = root.get("viewBox", "")
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
        element.attrib.update(
            {name.rpartition("}")[2]: element.attrib.pop(name) for name in list(element.attrib)}
        )
    for name in ("metadata", "defs"):
        for found in [child for child in root if child.tag == name]:
            if name == "metadata" or found.find("style") is not None:
                root.remove(found)

    _clean(root, key, f"{key}f{number}")
    root.attrib.clear()
    root.attrib.update({"viewBox": size, "role": "img", "aria-label": title, "class": "chart"})
    return ElementTree.tostring(root, encoding="unicode")


def _clean(root: ElementTree.Element, key: str, prefix: str) -> None:
    """Keep ids that are referred to, with a prefix; agents become classes, sentinels variables."""
    for element in root.iter():
        name = element.attrib.pop("id", "")
        if name.startswith(AGENT_ID):
            element.set("class", f"{key}a{name.removeprefix(AGENT_ID).split('-')[0]}")
        elif element.tag in ("path", "clipPath") and name:
            element.set("id", f"{prefix}{name}")
        if "href" in element.attrib:
            element.set("href", f"#{prefix}{element.attrib['href'][1:]}")
        if "clip-path" in element.attrib:
            element.set("clip-path", element.attrib["clip-path"].replace("url(#", f"url(#{prefix}"))

        for attribute in ("d", "x", "y", "transform", "width", "height"):
            if attribute in element.attrib:
                element.set(attribute, _rounded(element.attrib[attribute]))
        if "style" in element.attrib:
            element.set("style", _style(element.attrib["style"]))
        element.text = element.text if element.tag == "text" else None
        element.tail = None
    _share_styles(root)


def _rounded(text: str) -> str:
    """Coordinates with two decimals, on one line."""
    shorter = re.sub(r"-?\d+\.\d+", lambda found: f"{float(found[0]):.2f}".rstrip("0").rstrip("."), text)
    return " ".join(shorter.split())


def _style(text: str) -> str:
    text = re.sub(r"font-family:[^;]*;? ?", "", text)  # that of the page
    text = re.sub(r"font: ([\d.]+px) [^;]*", r"font-size: \1", text)
    for colour, variable in COLOURS.items():
        text = text.replace(colour, f"var({variable})")
    return re.sub(r"#aa00([0-9a-f]{2})", lambda found: f"var(--a{int(found[1], 16)})", text)


def _share_styles(root: ElementTree.Element) -> None:
    """Many markers of one style: their group has it, once."""
    for group in root.iter("g"):
        styles = {child.get("style") for child in group}
        if len(group) > 2 and len(styles) == 1 and all(child.tag == "use" for child in group):
            style = styles.pop()
            if style is None or "style" in group.attrib:
                continue
            group.set("style", style)
            for child in group:
                del child.attrib["style"]
