"""Where data sets are kept."""

import os
from pathlib import Path


def data_root(root: str | None) -> Path:
    """The folder to read from and download to: `root`, else $DSENV_DATA, else ~/.cache/dsenv."""
    return Path(root or os.environ.get("DSENV_DATA") or "~/.cache/dsenv").expanduser()
