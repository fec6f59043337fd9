"""From texts to batches: a prompt and its answer as tokens, and samples of several lengths in one batch."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from dsenv.errors import check_count, check_flag, shown
from dsenv.task_kinds.tokens import IGNORED


def encode_pair(
    tokenizer: Any, prompt: str, answer: str, *, special: bool = True, end: bool = True
) -> dict[str, list[int]]:
    """A prompt and its answer as tokens; the labels ask for the answer alone.

    Both are tokenised by themselves, so that no token lies on both sides and generation begins where
    training did.

    Args:
        tokenizer: of `transformers`, or with its `__call__` and `eos_token_id`.
        prompt: what is not learned; "" for plain text.
        answer: what is.
        special: the tokenizer may put its own tokens before the prompt (beginning of text); False where the
            prompt comes from a chat template, which holds them.
        end: the answer ends with the tokenizer's token for the end of a text.

    Returns:
        {"input_ids": [...], "labels": [...]}, of equal length, with the label -100 in the prompt.

    Raises:
        ValueError: something is no text, the answer has no token, or the tokenizer has no end of text.
    """
    for name, text in (("prompt", prompt), ("answer", answer)):
        if not isinstance(text, str):
            raise ValueError(f"the {name} must be text, got {shown(text)}")
    stop = getattr(tokenizer, "eos_token_id", None)
    if check_flag("end", end) and stop is None:
        raise ValueError(
            f"{type(tokenizer).__name__} has no token for the end of a text: set tokenizer.eos_token, or say "
            "end=False, and the model does not learn where to stop"
        )

    first = list(tokenizer(prompt, add_special_tokens=check_flag("special", special))["input_ids"])
    if first and first[-1] == stop and not prompt.endswith(str(tokenizer.eos_token)):
        first.pop()  # some tokenizers close each text, and here it goes on
    second = list(tokenizer(answer, add_special_tokens=False)["input_ids"]) + ([stop] if end else [])
    if not second or len(first) + len(second) < 2:
        raise ValueError(f"no token of the answer {shown(answer)} is asked for: leave such samples out")
    return {"input_ids": first + second, "labels": [IGNORED] * len(first) + second}


def padding_of(tokenizer: Any) -> int:
    """The token that a tokenizer pads with.

    Raises:
        ValueError: it has none.
    """
    found = getattr(tokenizer, "pad_token_id", None)
    if found is None:
        raise ValueError(
            f"{type(tokenizer).__name__} has no token to pad with: set tokenizer.pad_token = "
            "tokenizer.eos_token (padding is masked by its place, so the end of each text is still learned), "
            "or give Collate(0)"
        )
    return int(found)


class Collate:
    """Makes a batch of samples {"input_ids", "labels"} of several lengths: `collate_fn` of a loader.

    The batch is a mapping of int64 tensors: `input_ids`, `attention_mask` and `labels` (B, T), padded on the
    right to the longest. With `flat` the samples lie one behind the other without padding: `input_ids`,
    `labels` and `position_ids` (1, T), and `lengths` (B,). Where a sample has no labels, all of its tokens
    are asked for.

    Args:
        padding: the token to pad with, or a tokenizer that has one; what it is does not matter for the
            losses.
        multiple: T is a multiple of it.
        flat: put the samples into one row; the model has to keep them apart by `position_ids`, as those of
            `transformers` do with their attention "flash_attention_2", "sdpa" and "eager".

    Raises:
        ValueError: the tokenizer has no token to pad with.
    """

    keeps_order = True
    """Row by row the batch holds the samples as they were given: a plan need not find out."""

    def __init__(self, padding: Any = 0, *, multiple: int = 1, flat: bool = False) -> None:
        is_token = isinstance(padding, int) and not isinstance(padding, bool)
        self.padding = check_count("padding", padding, 0) if is_token else padding_of(padding)
        self.multiple = check_count("multiple", multiple)
        self.flat = check_flag("flat", flat)

    def __call__(self, samples: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """The batch.

        Raises:
            ValueError: a sample is no such mapping, or asks for no token.
        """
        tokens, labels = zip(*(_sample(sample, row) for row, sample in enumerate(samples)), strict=True)
        lengths = torch.tensor([len(row) for row in tokens])
        if self.flat:
            return self._flat(tokens, labels, lengths)

        # One token more than the longest where T is to be a multiple
        inputs = pad_sequence(list(tokens), batch_first=True, padding_value=self.padding)
        asked = pad_sequence(list(labels), batch_first=True, padding_value=IGNORED)
        if more := -inputs.shape[1] % self.multiple:
            inputs = torch.nn.functional.pad(inputs, (0, more), value=self.padding)
            asked = torch.nn.functional.pad(asked, (0, more), value=IGNORED)
        mask = (torch.arange(inputs.shape[1]) < lengths[:, None]).long()
        return {"input_ids": inputs, "attention_mask": mask, "labels": asked}

    def _flat(
        self, tokens: tuple[Tensor, ...], labels: tuple[Tensor, ...], lengths: Tensor
    ) -> dict[str, Tensor]:
        places = torch.cat([torch.arange(len(row)) for row in tokens])
        rows = {"input_ids": torch.cat(tokens), "labels": torch.cat(labels), "position_ids": places}
        if more := -len(places) % self.multiple:  # a last row of padding would be a sample: not allowed
            raise ValueError(
                f"multiple={self.multiple} needs {more} tokens of padding, and flat=True has none"
            )
        return {**{name: row[None] for name, row in rows.items()}, "lengths": lengths}


def _sample(sample: Any, row: int) -> tuple[Tensor, Tensor]:
    """Tokens and labels (T,) of a sample."""
    if not isinstance(sample, Mapping) or "input_ids" not in sample:
        raise ValueError(
            f"sample {row} of the batch must be a mapping with input_ids and labels, as encode_pair gives, "
            f"got {shown(sample)}"
        )
    tokens = _whole(sample["input_ids"], f"the input_ids of sample {row} of the batch")
    labels = tokens
    if sample.get("labels") is not None:
        labels = _whole(sample["labels"], f"the labels of sample {row} of the batch")
    if labels.shape != tokens.shape:
        raise ValueError(
            f"sample {row} of the batch has {len(tokens)} tokens and {len(labels)} labels: they go in line, "
            f"{IGNORED} where nothing is asked"
        )
    if not bool((labels[1:] != IGNORED).any()):
        raise ValueError(
            f"sample {row} of the batch asks for no token: every label but the first is {IGNORED}; leave "
            "such samples out of the data (an answer that was cut off is the usual reason)"
        )
    return tokens, labels


def _whole(values: Any, what: str) -> Tensor:
    try:
        found = torch.as_tensor(values)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{what} must be whole numbers (T,), got {shown(values)}") from error
    if found.dim() != 1 or not len(found) or found.is_floating_point() or found.dtype == torch.bool:
        raise ValueError(f"{what} must be whole numbers (T,), got {shown(values)}")
    return found.long()
