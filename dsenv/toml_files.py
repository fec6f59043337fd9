"""Reads TOML files that people hand in: whatever stands in one is read, or refused with the file's name."""

import tomllib
from collections.abc import Mapping
from importlib.resources.abc import Traversable
from typing import Any

from dsenv.errors import check_file, pick, shown

MOST_BYTES = 1 << 20
DEEPEST = 64  # tables and lists inside each other; more would end Python's stack in whatever walks over them


def read_toml(path: Traversable) -> dict[str, Any]:
    """The content of a TOML file.

    Args:
        path: of the file; UTF-8, up to 1 MiB, with at most 64 tables and lists inside each other.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is a folder, cannot be read, or is no such TOML; the message names the file.
    """
    text = _text(path)
    try:
        content = tomllib.loads(text)
    except RecursionError as error:
        raise ValueError(f"{path} has tables or lists more than {DEEPEST} deep; flatten it") from error
    except ValueError as error:  # of TOML, or a number of more digits than Python reads
        raise ValueError(f"{path} is not valid TOML: {error}") from error

    if _depth(content) > DEEPEST:
        raise ValueError(f"{path} has tables or lists more than {DEEPEST} deep; flatten it")
    return content


def read_definition(path: Traversable) -> tuple[str, Mapping[str, Any]]:
    """Entry point and settings of a definition; nothing is imported.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no TOML, has no entry point, another key, or settings that are no table.
    """
    content = read_toml(path)
    for key in content:
        pick(f"key of {path}", key, ("entry_point", "kwargs"))

    entry_point, kwargs = content.get("entry_point"), content.get("kwargs", {})
    if not isinstance(entry_point, str):
        got = f", got {shown(entry_point)}" if "entry_point" in content else ""
        raise ValueError(f"{path} has no entry_point; write entry_point = 'module:attribute'{got}")
    if not isinstance(kwargs, Mapping):
        raise ValueError(f"{path}: kwargs must be a table of settings, [kwargs], got {shown(kwargs)}")
    return entry_point, kwargs


def _text(path: Traversable) -> str:
    """The text of a file; a byte-order mark, which some editors write, is left out."""
    check_file(path, "TOML file")
    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror or error}") from error
    if len(content) > MOST_BYTES:
        raise ValueError(f"{path} has more than {MOST_BYTES:,} bytes; settings are far shorter")

    try:
        return content.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} is not UTF-8: byte {error.start} is 0x{content[error.start]:02x}; save it as UTF-8"
        ) from error


def _depth(content: Mapping[str, Any]) -> int:
    """How many tables and lists stand inside each other; without recursion."""
    level: list[Any] = [content]
    depth = 0
    while level:
        depth += 1
        inner = [value.values() if isinstance(value, Mapping) else value for value in level]
        level = [item for items in inner for item in items if isinstance(item, Mapping | list)]

    return depth
