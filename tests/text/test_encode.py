"""A prompt and its answer as tokens, and batches of several lengths."""

import pytest
import torch

from dsenv.plan import IndexedCollate
from dsenv.text import Collate, encode_pair
from tests.text.tokenizer import Letters

pytestmark = pytest.mark.fast

SAMPLES = [
    {"input_ids": [5, 6, 7], "labels": [-100, 6, 7]},
    {"input_ids": torch.tensor([8, 9]), "labels": torch.tensor([-100, 9])},
    {"input_ids": [1, 2, 3, 4]},
]


def test_the_answer_alone_is_asked_for():
    letters = Letters()
    found = encode_pair(letters, "ab", "ba")
    begin, a, b, end = letters.bos_token_id, *letters.ids("ab"), letters.eos_token_id
    assert found == {"input_ids": [begin, a, b, b, a, end], "labels": [-100, -100, -100, b, a, end]}
    assert encode_pair(letters, "ab", "ba", special=False, end=False)["input_ids"] == [a, b, b, a]
    assert encode_pair(letters, "", "ab", special=False)["labels"] == [a, b, end]


def test_an_end_that_the_tokenizer_puts_behind_a_prompt_is_taken_away():
    letters = Letters(closes=True)
    assert encode_pair(letters, "ab", "b") == encode_pair(Letters(), "ab", "b")


def test_bad_texts_and_tokenizers_are_named():
    letters = Letters()
    with pytest.raises(ValueError, match="prompt must be text, got None"):
        encode_pair(letters, None, "a")
    with pytest.raises(ValueError, match="no token of the answer ''"):
        encode_pair(letters, "ab", "", end=False)
    letters.eos_token_id = None
    with pytest.raises(
        ValueError, match=r"Letters has no token for the end of a text: set tokenizer\.eos_token"
    ):
        encode_pair(letters, "a", "b")
    with pytest.raises(ValueError, match=r"set tokenizer\.pad_token = tokenizer\.eos_token"):
        Collate(letters)
    letters.pad_token_id = 3
    assert Collate(letters).padding == 3


def test_padding_is_masked_everywhere():
    batch = Collate(99)(SAMPLES)
    assert batch["input_ids"].tolist() == [[5, 6, 7, 99], [8, 9, 99, 99], [1, 2, 3, 4]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 0], [1, 1, 0, 0], [1, 1, 1, 1]]
    assert batch["labels"].tolist() == [[-100, 6, 7, -100], [-100, 9, -100, -100], [1, 2, 3, 4]]
    wide = Collate(99, multiple=3)(SAMPLES)
    assert wide["input_ids"].shape == (3, 6) and wide["attention_mask"].sum() == 9
    assert (wide["labels"] != -100).sum() == 7


def test_a_flat_row_has_no_padding():
    batch = Collate(flat=True)(SAMPLES)
    assert batch["input_ids"].tolist() == [[5, 6, 7, 8, 9, 1, 2, 3, 4]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 0, 1, 0, 1, 2, 3]]
    assert batch["lengths"].tolist() == [3, 2, 4] and batch["labels"].shape == (1, 9)


def test_a_plan_runs_it_once_a_batch():
    class Counted(Collate):
        calls = 0

        def __call__(self, samples):
            self.calls += 1
            return super().__call__(samples)

    for flat in (False, True):
        counted = Counted(flat=flat)
        positions, batch = IndexedCollate(counted)([(4, SAMPLES[0]), (9, SAMPLES[1]), (2, SAMPLES[2])])
        assert positions.tolist() == [4, 9, 2] and counted.calls == 1
        assert batch["input_ids"].flatten()[:3].tolist() == [5, 6, 7]


@pytest.mark.parametrize(
    ("sample", "words"),
    [
        ({"input_ids": [1, 2], "labels": [1, -100]}, "sample 1 of the batch asks for no token"),
        ({"input_ids": [1, 2], "labels": [1]}, "2 tokens and 1 labels"),
        ({"input_ids": [1.5, 2]}, "whole numbers"),
        ({"input_ids": []}, "whole numbers"),
        ({"input_ids": "text"}, "whole numbers"),
        ([1, 2], "must be a mapping with input_ids"),
    ],
)
def test_a_bad_sample_is_named(sample, words):
    with pytest.raises(ValueError) as error:
        Collate()([SAMPLES[0], sample])
    assert words in str(error.value)


def test_a_multiple_has_no_place_in_a_flat_row():
    with pytest.raises(ValueError, match="flat=True has none"):
        Collate(multiple=8, flat=True)(SAMPLES)
