"""Where data sets are kept."""

import os
from pathlib import Path

from dsenv.errors import shown


def data_root(root: str | os.PathLike[str] | None) -> Path:
    """The folder to read from and download to: `root`, else $DSENV_DATA, else ~/.cache/dsenv.

    Raises:
        ValueError: `root` is no path.
    """
    return as_path("dataset.root", root or os.environ.get("DSENV_DATA") or "~/.cache/dsenv")


def as_path(name: str, given: str | os.PathLike[str]) -> Path:
    """The setting `name` as a path, with ~ replaced by the home folder.

    Raises:
        ValueError: it is no path, or an empty one, which would mean the current folder.
    """
    if not isinstance(given, str | os.PathLike) or not os.fspath(given) or "\0" in str(given):
        raise ValueError(f"{name} must be the path of a folder, got {shown(given)}")
    return Path(os.path.expanduser(given))
