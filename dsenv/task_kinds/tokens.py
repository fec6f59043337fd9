"""What a language model says of each token that it is asked for, in chunks of tokens."""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

IGNORED = -100
"""Label of a token that nothing is asked of: of a prompt, or padding."""
CHUNK_ELEMENTS = 1 << 23
"""Values of the logits that are worked on at a time: 32 MiB in float32."""


# Which token is asked for where


def next_tokens(labels: Tensor, lengths: Tensor | None = None) -> Tensor:
    """What each place is to predict: the label of the place after it.

    Args:
        labels: (..., T) int64 in line with the input tokens, as `transformers` takes them; `IGNORED` where
            nothing is asked.
        lengths: (R,) lengths of the rows that lie one behind the other in (T,) or (1, T); a row predicts
            nothing of the next one. None where each row of `labels` is a sample.

    Returns:
        (..., T) int64; the last place of each row predicts nothing.
    """
    asked = functional.pad(labels[..., 1:], (0, 1), value=IGNORED)
    if lengths is None:
        return asked
    last = lengths.to(labels.device).cumsum(0) - 1
    return asked.index_fill_(-1, last, IGNORED)


def row_of_each(lengths: Tensor, total: int) -> Tensor:
    """Number (T,) of the row that each of T tokens belongs to, from the lengths (R,) of the rows."""
    rows = torch.arange(len(lengths), device=lengths.device)
    return torch.repeat_interleave(rows, lengths, output_size=total)  # with its size known there is no wait


# What the logits say of it


class TokenReadings(NamedTuple):
    """What a model says of M tokens that it is asked for, (M,) each; 0 for those that nothing is asked of."""

    loss: Tensor
    """Cross-entropy in nats."""
    entropy: Tensor
    """Of the prediction, over log V, [0, 1]."""
    margin: Tensor
    """Probability of the token less the largest other, [-1, 1]."""
    correct: Tensor
    """1 where the token is the most probable one, as greedy decoding takes it."""
    error: Tensor
    """Length of softmax minus one-hot, [0, sqrt(2)]."""


def chunks(tokens: int, vocabulary: int, chunk: int | None = None) -> Iterator[slice]:
    """Slices over `tokens` places, `chunk` at a time; None for as many as `CHUNK_ELEMENTS` allow."""
    step = chunk or max(1, CHUNK_ELEMENTS // vocabulary)
    return (slice(start, min(start + step, tokens)) for start in range(0, tokens, step))


def read_chunk(logits: Tensor, asked: Tensor) -> tuple[Tensor, ...]:
    """The readings of a chunk, and the logarithm (M,) of the sum of its exponentials.

    Args:
        logits: (M, V) float32 or float64.
        asked: (M,) int64 tokens; below 0 where nothing is asked.
    """
    token = asked.clamp(min=0)[:, None]
    normaliser = torch.logsumexp(logits, 1)
    own = logits.gather(1, token).squeeze(1)
    is_first = logits.argmax(1) == token.squeeze(1)

    # Sums over the vocabulary as products of matrices: no further array of the size of the logits
    probability = (logits - normaliser[:, None]).exp_()
    finite = logits.clamp(min=torch.finfo(logits.dtype).min)  # a token that is ruled out (-inf) adds 0
    expected = torch.bmm(probability[:, None], finite[..., None]).flatten()
    del finite
    confidence = (own - normaliser).exp()
    squares = torch.linalg.vector_norm(probability, dim=1).square()
    error = (squares - 2 * confidence + 1).clamp(min=0).sqrt()
    rival = probability.scatter_(1, token, -1.0).amax(1)

    entropy = ((normaliser - expected) / math.log(logits.shape[1])).clamp(0, 1)
    found = (normaliser - own, entropy, confidence - rival, is_first.to(logits.dtype), error)
    return *(value.masked_fill_(asked < 0, 0.0) for value in found), normaliser


def slope(logits: Tensor, asked: Tensor, normaliser: Tensor, upstream: Tensor) -> Tensor:
    """Gradient (M, V) of the losses by the logits, times `upstream` (M,); 0 where nothing is asked.

    Arguments as for `read_chunk`.
    """
    found = (logits - normaliser[:, None]).exp_()
    place = asked.clamp(min=0)[:, None]
    found.scatter_add_(1, place, found.new_full(place.shape, -1.0))
    return found.mul_(upstream[:, None]).masked_fill_((asked < 0)[:, None], 0.0)


def full_precision(dtype: torch.dtype) -> torch.dtype:
    """The type in which sums over a vocabulary are taken: float32, or float64 where that is given."""
    return torch.promote_types(dtype, torch.float32)


class _LogitReadings(torch.autograd.Function):
    """`TokenReadings` of logits that are at hand; the loss alone has a gradient.

    Of the forward pass one number a token is kept beside the logits, which the caller holds anyway.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, asked: Tensor) -> tuple[Tensor, ...]:
        kind = full_precision(logits.dtype)
        parts = [read_chunk(logits[at].to(kind), asked[at]) for at in chunks(len(asked), logits.shape[1])]
        *found, normaliser = (torch.cat(values) for values in zip(*parts, strict=True))
        ctx.save_for_backward(logits, asked, normaliser)
        ctx.mark_non_differentiable(*found[1:])
        return tuple(found)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, upstream: Tensor, *_: Tensor) -> tuple[Tensor, None]:
        logits, asked, normaliser = ctx.saved_tensors
        found = torch.empty_like(logits)
        for at in chunks(len(asked), logits.shape[1]):
            values = logits[at].to(normaliser.dtype)
            found[at] = slope(values, asked[at], normaliser[at], upstream[at]).to(found.dtype)
        return found, None


def read_tokens(logits: Tensor, asked: Tensor) -> TokenReadings:
    """What logits say of the tokens that are asked for.

    Sums over the vocabulary are taken in float32 (float64 for float64 logits), a chunk of tokens at a time:
    beside the logits, and their gradient in the backward pass, which has their type, about 0.1 GB is held.

    Args:
        logits: (M, V) floating.
        asked: (M,) int64 tokens; below 0 where nothing is asked.

    Returns:
        (M,) each; the loss has its graph, once differentiable.
    """
    if not len(asked):
        nothing = logits.new_zeros(0, dtype=full_precision(logits.dtype))
        return TokenReadings(*(nothing for _ in TokenReadings._fields))
    found: tuple[Tensor, ...] = _LogitReadings.apply(logits, asked)
    return TokenReadings(*found)


# What that makes of a sample


class SampleReadings(NamedTuple):
    """What a model says of B samples of several tokens, (B,) each."""

    loss: Tensor
    """Mean over the tokens that are asked for, with its graph; not a number where there is none."""
    tokens: Tensor
    """How many tokens are asked for, int64."""
    sums: Tensor
    """Sum of the losses of its tokens, with its graph."""
    signals: dict[str, Tensor]
    """`dsenv.task_kinds.READINGS` by name, float32 and detached."""


def of_samples(found: TokenReadings, asked: Tensor, owner: Tensor | None, samples: int) -> SampleReadings:
    """The readings of samples from those of their tokens.

    The confidence is the geometric mean of the probabilities of the tokens, exp(-loss); entropy, margin and
    error are means over them; correct is 1 where every token is the most probable one, which is an exact
    answer under greedy decoding.

    Args:
        found: of M tokens.
        asked: (M,) what they were to be; below 0 where nothing is asked.
        owner: (M,) int64 sample of each; None where the tokens of B samples, M / B each, lie one behind the
            other.
        samples: B.
    """

    def summed(values: Tensor) -> Tensor:
        if owner is None:
            return values.view(samples, -1).sum(1)
        return values.new_zeros(samples).index_add(0, owner, values)

    tokens = summed((asked >= 0).long())
    sums = summed(found.loss)
    loss = sums / tokens

    entropy, margin, right, error = (summed(value.detach()) for value in found[1:])
    means = {"entropy": entropy, "margin": margin, "error": error}
    signals = {name: (value / tokens).float() for name, value in means.items()}
    signals["confidence"] = torch.exp(-loss.detach()).float()
    signals["correct"] = (right == tokens).float()
    return SampleReadings(loss, tokens, sums, signals)
