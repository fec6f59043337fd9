"""Tokenised data of any size in one file, read through a memory map.

For example::

    import tempfile
    from pathlib import Path
    from dsenv.text import write_tokens

    documents = (([5, 6, 7, 8 + number], 2) for number in range(10))  # tokens, and how many are a prompt
    data = write_tokens(Path(tempfile.mkdtemp()) / "train.tokens", documents, vocabulary=32)
    print(len(data), data[3], data.lengths)
"""

import json
import mmap
from array import array
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from dsenv.errors import check_count, check_file, shown
from dsenv.files import DamagedFileError, writing
from dsenv.task_kinds.tokens import IGNORED

HEADER = 1024  # bytes that are kept free for it; what it says is known at the end
MARK = "dsenv.tokens"  # key of the metadata, with the version of the form
VERSION = "1"
SMALL = 1 << 15  # tokens that 16 bits hold, beside whether they are asked for
MOST = 1 << 31
TYPES: dict[str, np.dtype[Any]] = {"I16": np.dtype("<i2"), "I32": np.dtype("<i4")}


def write_tokens(path: Path | str, documents: Iterable[Any], *, vocabulary: int | None = None) -> "TokenFile":
    """Write documents into one file, whole or not at all, and open it; one is held in memory at a time.

    The file is one of safetensors: `tokens` one behind the other, as 16-bit numbers where the vocabulary
    allows and else 32-bit, and of each document where it ends (`ends`) and how many of its tokens are asked
    for (`answers`). A token t that is not asked for is stored as -1 - t.

    Args:
        path: the file; what was there before is replaced.
        documents: (tokens, prompt) each: a sequence of whole numbers, and how many of the first ones are a
            prompt, 0 for plain text; or (tokens, labels), labels as long as the tokens and equal to them, or
            -100 where nothing is asked; or a mapping with "input_ids" and "labels".
        vocabulary: V, one more than the largest token that may come; None for any below 2**31.

    Raises:
        ValueError: a document is none of these, is empty, or asks for no token, or a token is out of range;
            the message says which.
        OSError: the file cannot be written; what was there before is whole.
    """
    path = Path(path)
    most = MOST if vocabulary is None else check_count("vocabulary", vocabulary, 2, MOST)
    kind = "I16" if most <= SMALL else "I32"

    with writing(path) as file:
        file.write(b" " * (8 + HEADER))
        ends, answers, largest = array("q"), array("q"), -1
        total = 0
        for number, document in enumerate(_read(documents)):
            stored, asked, top = _stored(document, number, most)
            file.write(stored.astype(TYPES[kind]).tobytes())
            total, largest = total + len(stored), max(largest, top)
            ends.append(total)
            answers.append(asked)
        if not total:
            raise ValueError("there are no documents to write: the iterable gave none")
        _finish(file, kind, total, largest, ends, answers)
    return TokenFile(path)


def _read(documents: Iterable[Any]) -> Iterator[Any]:
    """The documents; what fails while one is read is not taken for a fault of the file that is written."""
    if isinstance(documents, Mapping | str | bytes):
        raise ValueError(f"documents must give pairs (tokens, prompt), got {type(documents).__name__}")
    number, reader = 0, iter(documents)
    while True:
        try:
            document = next(reader)
        except StopIteration:
            return
        except OSError as error:
            raise ValueError(
                f"document {number} could not be read, and nothing was written: {error}"
            ) from error
        yield document
        number += 1


def _stored(document: Any, number: int, most: int) -> tuple[NDArray[np.int64], int, int]:
    """A document as it is stored, how many of its tokens are asked for, and the largest of them."""
    if isinstance(document, Mapping):
        document = (document.get("input_ids"), document.get("labels"))
    if not isinstance(document, tuple | list) or len(document) != 2:
        raise ValueError(
            f"document {number} must be (tokens, prompt length), (tokens, labels) or a mapping with "
            f"input_ids and labels, got {shown(document)}"
        )

    tokens = _whole(document[0], f"the tokens of document {number}")
    low, high = int(tokens.min()), int(tokens.max())
    if low < 0 or high >= most:
        raise ValueError(
            f"document {number} has the token {low if low < 0 else high}; allowed are 0 to {most - 1}: give "
            "the vocabulary of the tokenizer, added tokens included (len(tokenizer))"
        )

    is_asked = _asked(document[1], tokens, number)
    asked = int(is_asked[1:].sum())
    if not asked:
        raise ValueError(
            f"document {number} of {len(tokens)} tokens asks for none of them (the first is never "
            "predicted): leave it out, or cut the prompt where the answer was cut off"
        )
    return np.where(is_asked, tokens, -1 - tokens), asked, high


def _asked(labels: Any, tokens: NDArray[np.int64], number: int) -> NDArray[np.bool_]:
    """Which of the tokens (T,) are asked for, from a prompt's length or labels."""
    if isinstance(labels, int | np.integer) and not isinstance(labels, bool):
        prompt = check_count(f"the prompt length of document {number}", labels, 0)
        return np.asarray(np.arange(len(tokens)) >= prompt)

    found = _whole(labels, f"the labels of document {number}")
    is_asked: NDArray[np.bool_] = found != IGNORED
    if found.shape != tokens.shape or (found[is_asked] != tokens[is_asked]).any():
        raise ValueError(
            f"the labels of document {number} must be its {len(tokens)} tokens, or {IGNORED} where nothing "
            f"is asked, in line with the tokens and not shifted; got {shown(found.tolist())}"
        )
    return is_asked


def _whole(values: Any, what: str) -> NDArray[np.int64]:
    """Whole numbers (T,), at least one."""
    try:
        found = np.asarray(values)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{what} must be whole numbers (T,), got {shown(values)}") from error
    if found.ndim != 1 or not len(found) or not np.issubdtype(found.dtype, np.integer):
        raise ValueError(f"{what} must be whole numbers (T,), at least one, got {shown(values)}")
    return found.astype(np.int64)


def _finish(
    file: BinaryIO, kind: str, total: int, largest: int, ends: "array[int]", answers: "array[int]"
) -> None:
    """Write what was known at the end: where each document ends, and the header."""
    for numbers in (ends, answers):
        file.write(np.asarray(numbers, "<i8").tobytes())

    size, start = total * TYPES[kind].itemsize, 0
    header: dict[str, Any] = {"__metadata__": {MARK: VERSION, "vocabulary": str(largest + 1)}}
    for name, form, count, width in (
        ("tokens", kind, total, size),
        ("ends", "I64", len(ends), 8 * len(ends)),
        ("answers", "I64", len(ends), 8 * len(ends)),
    ):
        header[name] = {"dtype": form, "shape": [count], "data_offsets": [start, start + width]}
        start += width
    text = json.dumps(header).encode()
    assert len(text) <= HEADER, header
    file.seek(0)
    file.write(HEADER.to_bytes(8, "little") + text.ljust(HEADER))


class _Layout(NamedTuple):
    """What the header of a file says."""

    kind: str
    tokens: int
    documents: int
    vocabulary: int


def _layout(path: Path) -> _Layout:
    """The layout of a file.

    Raises:
        DamagedFileError: it is cut, or its header is not as it was written.
        ValueError: it is another file.
    """
    with open(path, "rb") as file:
        head = file.read(8 + HEADER)
    try:
        header = json.loads(head[8 : 8 + int.from_bytes(head[:8], "little")])
        version = header["__metadata__"][MARK]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is no file of write_tokens, or its beginning is damaged") from error
    if version != VERSION:
        raise ValueError(f"{path} has the form {version!r}, this dsenv reads {VERSION!r}; write it anew")

    try:
        found = _Layout(
            header["tokens"]["dtype"],
            header["tokens"]["shape"][0],
            header["ends"]["shape"][0],
            int(header["__metadata__"]["vocabulary"]),
        )
        wanted = 8 + HEADER + found.tokens * TYPES[found.kind].itemsize + 16 * found.documents
    except (KeyError, TypeError, IndexError, ValueError) as error:
        raise DamagedFileError(f"the header of {path} is damaged ({error!r}); write it anew") from error
    if (size := path.stat().st_size) != wanted:
        raise DamagedFileError(
            f"{path} has {size:,} bytes and should have {wanted:,}: it was cut; write it anew"
        )
    return found


class TokenFile(Dataset[dict[str, Tensor]]):
    """Documents of a file of `write_tokens`, as a map-style data set; each is read when it is asked for.

    A sample is {"input_ids": (T,) int64, "labels": (T,) int64}, with the label -100 where nothing is asked.
    The file stays where it is; of each document 16 bytes are in memory. It may be sent to worker processes.

    Args:
        path: the file.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is another file, or damaged.
    """

    vocabulary: int
    """One more than the largest token in the file."""
    lengths: Tensor
    """(N,) int64 tokens of each document: `DataPlan(lengths=...)`."""
    answers: Tensor
    """(N,) int64 tokens of each document that are asked for."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        check_file(self.path, "file of tokens")
        self._open()

    def _open(self) -> None:
        layout = _layout(self.path)
        kind, start = TYPES[layout.kind], 8 + HEADER
        with open(self.path, "rb") as file:
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._tokens = np.frombuffer(self._map, kind, layout.tokens, start)

        start += layout.tokens * kind.itemsize
        numbers = np.frombuffer(self._map, "<i8", 2 * layout.documents, start).astype(np.int64)
        ends, answers = numbers.reshape(2, -1)
        self._starts = np.concatenate([np.zeros(1, np.int64), ends])
        lengths = np.diff(self._starts)
        is_right = ends[-1] == layout.tokens and (lengths > 0).all() and (answers > 0).all()
        if not is_right or (answers >= lengths + 1).any():
            raise DamagedFileError(f"the table at the end of {self.path} is damaged; write it anew")

        self.vocabulary = layout.vocabulary
        self.lengths, self.answers = torch.from_numpy(lengths), torch.from_numpy(answers.copy())

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        number = range(len(self))[index]  # negative ones too; IndexError beyond
        stored = self._tokens[self._starts[number] : self._starts[number + 1]].astype(np.int64)
        tokens = np.where(stored < 0, -1 - stored, stored)
        labels = np.where(stored < 0, IGNORED, stored)
        return {"input_ids": torch.from_numpy(tokens), "labels": torch.from_numpy(labels)}

    def __getstate__(self) -> dict[str, Any]:
        """The path alone: the other process opens the file anew."""
        return {"path": self.path}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.path = state["path"]
        self._open()

    def __repr__(self) -> str:
        return f"TokenFile({str(self.path)!r}: {len(self)} documents, {int(self.lengths.sum()):,} tokens)"
