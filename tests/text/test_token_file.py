"""Files of tokens: what is written comes back, whole or not at all, and a damaged file is refused."""

import json
import pickle

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.utils.data import DataLoader

from dsenv.files import DamagedFileError
from dsenv.text import Collate, TokenFile, write_tokens

pytestmark = pytest.mark.fast


def documents(number, vocabulary, seed=0):
    """(tokens, labels) of random lengths; the labels ask for what random places say."""
    draw = np.random.default_rng(seed)
    for _ in range(number):
        tokens = draw.integers(vocabulary, size=draw.integers(2, 20))
        asked = draw.random(len(tokens)) < 0.5
        asked[-1] = True
        yield tokens, np.where(asked, tokens, -100)


@pytest.mark.parametrize(
    ("vocabulary", "kind"), [(300, torch.int16), (32768, torch.int16), (None, torch.int32)]
)
def test_what_is_written_comes_back(tmp_path, vocabulary, kind):
    written = list(documents(30, vocabulary or 2**31))
    data = write_tokens(tmp_path / "a.tokens", iter(written), vocabulary=vocabulary)
    assert len(data) == 30 and list(tmp_path.iterdir()) == [tmp_path / "a.tokens"]
    for (tokens, labels), sample in zip(written, data, strict=True):
        assert sample["input_ids"].tolist() == tokens.tolist()
        assert sample["labels"].tolist() == labels.tolist()
    assert data.lengths.tolist() == [len(tokens) for tokens, _ in written]
    assert data.answers.tolist() == [int((labels[1:] >= 0).sum()) for _, labels in written]
    assert data.vocabulary == 1 + max(int(tokens.max()) for tokens, _ in written)
    assert load_file(tmp_path / "a.tokens")["tokens"].dtype == kind  # others read it too


def test_a_prompt_is_a_number_of_tokens_and_mappings_are_taken(tmp_path):
    sample = {"input_ids": [4, 5, 6], "labels": [-100, 5, 6]}
    data = write_tokens(tmp_path / "a", [([1, 2, 3], 2), (torch.tensor([7, 8]), 0), sample])
    assert [each["labels"].tolist() for each in data] == [[-100, -100, 3], [7, 8], [-100, 5, 6]]
    assert data[-1]["input_ids"].tolist() == [4, 5, 6] and data.answers.tolist() == [1, 1, 2]


def test_worker_processes_and_copies_read_the_same(tmp_path):
    data = write_tokens(tmp_path / "a", documents(12, 50))
    copied = pickle.loads(pickle.dumps(data))
    loader = DataLoader(copied, 4, collate_fn=Collate(0), num_workers=2)
    batches = [batch["input_ids"] for batch in loader]
    for number, batch in enumerate(batches):
        for row, tokens in enumerate(batch):
            wanted = data[4 * number + row]["input_ids"]
            assert tokens[: len(wanted)].equal(wanted) and not tokens[len(wanted) :].any()


@pytest.mark.parametrize(
    ("document", "words"),
    [
        (([1, 2], 2), "document 1 of 2 tokens asks for none"),
        (([1, 2], [1, -100]), "asks for none of them (the first is never predicted)"),
        (([1, 40], 0), "has the token 40; allowed are 0 to 31"),
        (([-1, 4], 0), "has the token -1"),
        (([], 0), "at least one"),
        (([1.0, 2.0], 0), "whole numbers"),
        (([[1], [2]], 0), "whole numbers (T,)"),
        (([1, 2, 3], [2, 3, -100]), "not shifted"),
        (([1, 2, 3], [1, 2]), "must be its 3 tokens"),
        (([1, 2, 3], -1), "prompt length of document 1"),
        ("text", "must be (tokens, prompt length)"),
    ],
)
def test_a_bad_document_is_named_and_leaves_what_was_there(tmp_path, document, words):
    path = tmp_path / "a.tokens"
    write_tokens(path, documents(3, 32))
    before = path.read_bytes()
    with pytest.raises(ValueError) as error:
        write_tokens(path, [([1, 2, 3], 1), document], vocabulary=32)
    assert words in str(error.value)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_a_source_that_fails_leaves_nothing(tmp_path):
    def broken():
        yield [1, 2], 0
        raise FileNotFoundError("corpus.txt")

    with pytest.raises(ValueError, match=r"document 1 could not be read.*corpus\.txt"):
        write_tokens(tmp_path / "a", broken())
    with pytest.raises(ValueError, match="gave none"):
        write_tokens(tmp_path / "a", [])
    with pytest.raises(OSError, match="symbolic link"):
        (tmp_path / "link").symlink_to(tmp_path / "b")
        write_tokens(tmp_path / "link", documents(2, 9))
    assert not (tmp_path / "a").exists() and not (tmp_path / "b").exists()


def test_a_damaged_file_is_refused(tmp_path):
    path = tmp_path / "a"
    write_tokens(path, documents(5, 50))
    whole = path.read_bytes()
    damages = {
        "cut": (whole[:-1], DamagedFileError),
        "longer": (whole + b"1", DamagedFileError),
        "no header": (whole[:40], ValueError),
        "another file": (b"x" * len(whole), ValueError),
        "table": (whole[:-8] + (10**6).to_bytes(8, "little"), DamagedFileError),
        "older": (whole.replace(b'"dsenv.tokens": "1"', b'"dsenv.tokens": "0"'), ValueError),
    }
    for content, kind in damages.values():
        path.write_bytes(content)
        with pytest.raises(kind, match=str(path)):
            TokenFile(path)
    with pytest.raises(FileNotFoundError, match="file of tokens"):
        TokenFile(tmp_path / "none")


def test_the_header_has_room_for_the_largest_numbers(tmp_path):
    from dsenv.text import token_file

    with open(tmp_path / "a", "wb") as file:
        file.write(b" " * (8 + token_file.HEADER))
        ends = token_file.array("q", [2**62])
        token_file._finish(file, "I32", 2**50, 2**31 - 1, ends, ends)
    content = (tmp_path / "a").read_bytes()
    assert json.loads(content[8 : 8 + token_file.HEADER])["tokens"]["shape"] == [2**50]


def test_tokens_are_read_when_asked_for(tmp_path):
    """Opening a file of 40 MB of tokens takes the memory of its table alone."""
    import tracemalloc

    row = np.arange(100_000) % 1000
    write_tokens(tmp_path / "a", ((row, 0) for _ in range(100)))
    tracemalloc.start()
    data = TokenFile(tmp_path / "a")
    sample = data[57]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert sample["input_ids"].tolist() == row.tolist() and peak < 8e6
