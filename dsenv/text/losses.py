"""The loss of each sample of a language model, from hidden states and head, or from logits.

From hidden states the logits are made for a chunk of tokens at a time, in the forward pass and anew in the
backward pass: (B, T, V) is never held. On a CPU only the tokens that are asked for are worked on. Under
autocast the products run in its type, the sums over the vocabulary in float32::

    import torch
    from dsenv.text import token_losses

    head = torch.nn.Linear(16, 100, bias=False)
    hidden = torch.randn(4, 10, 16, requires_grad=True)
    labels = torch.randint(0, 100, (4, 10))
    labels[:, :3] = -100  # a prompt of three tokens
    found = token_losses(hidden, head.weight, labels)
    found.loss.mean().backward()
    print(found.loss, found.tokens, found.signals["correct"])

Where a row is a pack of several texts, the pack is the sample; give the first token of each text the label
-100, or it is predicted from the text before.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dsenv.errors import check_count, check_number, check_positive, shown
from dsenv.task_kinds.tokens import (
    IGNORED,
    SampleReadings,
    TokenReadings,
    chunks,
    full_precision,
    next_tokens,
    of_samples,
    read_chunk,
    read_tokens,
    row_of_each,
    slope,
)

TextLosses = SampleReadings


@dataclass(frozen=True)
class Head:
    """What makes logits of the hidden state h (D,): cap(scale (W h + b)), as numbers beside its weights.

    Args:
        scale: factor on W h + b, not 0: `logit_scale` of Cohere, 1 / `logits_scaling` of Granite.
        softcap: c in c tanh(x / c) over the scaled logits, as of Gemma; None for none.
        chunk: tokens at a time; None for as many as 32 MiB of logits in float32 hold.
    """

    scale: float = 1.0
    softcap: float | None = None
    chunk: int | None = None

    def __post_init__(self) -> None:
        scale = check_number("scale", self.scale)
        if not scale:
            raise ValueError("scale must not be 0: all logits would be equal")
        if self.softcap is not None:
            check_positive("softcap", self.softcap)
        if self.chunk is not None:
            check_count("chunk", self.chunk)

    def logits(self, hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Logits (M, V) of hidden states (M, D) in full precision, with weights in their type."""
        found = torch.nn.functional.linear(hidden, weight, bias).to(full_precision(hidden.dtype))
        if self.scale != 1:
            found = found.mul_(self.scale)
        if self.softcap is not None:
            found = found.div_(self.softcap).tanh_().mul_(self.softcap)
        return found

    def pull_back(self, gradient: Tensor, logits: Tensor) -> Tensor:
        """The gradient by W h + b, from that by the logits (M, V)."""
        if self.softcap is not None:
            gradient = gradient.mul_(1 - (logits / self.softcap).square_())
        return gradient.mul_(self.scale) if self.scale != 1 else gradient


class _HeadReadings(torch.autograd.Function):
    """`TokenReadings` of hidden states (M, D) under a head; the logits are made anew in the backward pass."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        asked: Tensor,
        head: Head,
        kind: torch.dtype,
    ) -> tuple[Tensor, ...]:
        parts = []
        with torch.autocast(hidden.device.type, enabled=False):
            matrix, shift = weight.to(kind), None if bias is None else bias.to(kind)
            for at in chunks(len(asked), len(weight), head.chunk):
                parts.append(read_chunk(head.logits(hidden[at].to(kind), matrix, shift), asked[at]))

        *found, normaliser = (torch.cat(values) for values in zip(*parts, strict=True))
        ctx.save_for_backward(hidden, weight, bias, asked, normaliser)
        ctx.head, ctx.kind = head, kind
        ctx.mark_non_differentiable(*found[1:])
        return tuple(found)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, upstream: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, asked, normaliser = ctx.saved_tensors
        head, kind = ctx.head, ctx.kind
        matrix, shift = weight.to(kind), None if bias is None else bias.to(kind)

        # Sums over chunks in full precision, as the product of whole matrices takes them inside
        wanted = ctx.needs_input_grad
        by_hidden = torch.empty_like(hidden) if wanted[0] else None
        by_weight = torch.zeros_like(weight, dtype=normaliser.dtype) if wanted[1] else None
        by_bias = torch.zeros_like(bias, dtype=normaliser.dtype) if bias is not None and wanted[2] else None
        with torch.autocast(hidden.device.type, enabled=False):
            for at in chunks(len(asked), len(weight), head.chunk):
                rows = hidden[at].to(kind)
                logits = head.logits(rows, matrix, shift)
                steep = head.pull_back(slope(logits, asked[at], normaliser[at], upstream[at]), logits)
                del logits
                by_bias = by_bias if by_bias is None else by_bias.add_(steep.sum(0))
                steep = steep.to(kind)
                if by_hidden is not None:
                    by_hidden[at] = (steep @ matrix).to(hidden.dtype)
                if by_weight is not None:
                    _add_product(by_weight, steep.t(), rows)

        found = (by_weight, weight), (by_bias, bias)
        return (
            by_hidden,
            *(None if sums is None else sums.to(of.dtype) for sums, of in found),
            None,
            None,
            None,
        )


def _add_product(sums: Tensor, left: Tensor, right: Tensor) -> None:
    """Add left @ right to the sums in place; without an array of that size where the types are equal."""
    if sums.dtype == left.dtype:
        sums.addmm_(left, right)
    else:
        sums.add_(left @ right)


def token_losses(
    hidden: Tensor,
    weight: Tensor,
    labels: Tensor,
    bias: Tensor | None = None,
    *,
    lengths: Tensor | None = None,
    shifted: bool = False,
    head: Head | None = None,
) -> TextLosses:
    """Loss and signals of each sample, from a language model's last hidden states and its head.

    Args:
        hidden: (B, T, D) what the head is given; (T, D) or (1, T, D) with `lengths`.
        weight: (V, D) of the head.
        labels: (B, T) int64 in line with the input tokens, so that hidden[:, t] predicts labels[:, t + 1];
            -100 where nothing is asked: in the prompt and the padding.
        bias: (V,) of the head; None for none.
        lengths: (R,) int64 lengths of R samples that lie in one row without padding; None where each row is a
            sample.
        shifted: labels[:, t] is what hidden[:, t] is to predict.
        head: scaling and capping of the logits, and the size of a chunk; None for none.

    Raises:
        ValueError: shapes or types do not fit; on a CPU also where a label is no token, or a sample asks for
            none. On another device to look would be a wait: the loss of such a sample is not a number there.
    """
    _check_head(hidden, weight, bias)
    asked, owner, samples = _asked(labels, hidden.shape[:-1], len(weight), lengths, shifted)

    rows = hidden.reshape(-1, hidden.shape[-1])
    if asked.is_cpu:
        rows, asked, owner = _only_asked(rows, asked, owner, samples)
    kind = _product_type(hidden, weight)
    found: tuple[Tensor, ...] = _HeadReadings.apply(rows, weight, bias, asked, head or Head(), kind)
    return of_samples(TokenReadings(*found), asked, owner, samples)


def from_logits(
    logits: Tensor, labels: Tensor, *, lengths: Tensor | None = None, shifted: bool = False
) -> TextLosses:
    """The same from the logits (B, T, V) that a module of one's own returns; little beyond them is held.

    Arguments, result and errors as for `token_losses`; the gradient has the type of the logits.
    """
    if not isinstance(logits, Tensor) or not logits.is_floating_point() or logits.dim() < 2:
        raise ValueError(f"logits must be a floating tensor (B, T, V), got {_found(logits)}")
    vocabulary = logits.shape[-1]
    if vocabulary < 2:
        raise ValueError(f"logits must be (B, T, V) with V of at least 2, got {tuple(logits.shape)}")

    asked, owner, samples = _asked(labels, logits.shape[:-1], vocabulary, lengths, shifted)
    return of_samples(read_tokens(logits.reshape(-1, vocabulary), asked), asked, owner, samples)


# What is given, checked


def _asked(
    labels: Any, shape: torch.Size, vocabulary: int, lengths: Tensor | None, shifted: bool
) -> tuple[Tensor, Tensor | None, int]:
    """What each of the M places is to predict, the sample (M,) that it belongs to, and the number of samples.

    The second is None where the places of B samples lie one behind the other.
    """
    if not isinstance(labels, Tensor) or labels.dtype != torch.int64:
        raise ValueError(
            f"labels must be int64 tokens of shape {tuple(shape)}, -100 where nothing is asked, got "
            f"{_found(labels)}; use labels.long()"
        )
    if labels.shape != shape:
        raise ValueError(
            f"labels must have one token for each place of the model's outputs, {tuple(shape)}, got "
            f"{tuple(labels.shape)}: they go in line with the input tokens"
        )
    if lengths is None and labels.dim() != 2:
        raise ValueError(
            f"labels must be (B, T), got {tuple(labels.shape)}; samples that lie in one row are told apart "
            "by lengths=(R,)"
        )

    if not labels.numel():
        raise ValueError(f"the batch is empty: labels are {tuple(labels.shape)}; leave the step out")

    owner, samples = None, len(labels)
    if lengths is not None:
        _check_lengths(lengths, labels)
        lengths = lengths.to(labels.device)
        owner, samples = row_of_each(lengths, labels.numel()), len(lengths)
    asked = labels if shifted else next_tokens(labels, lengths)
    asked = asked.reshape(-1)
    if asked.is_cpu:
        _check_tokens(asked, owner, samples, vocabulary, shifted)
    return asked, owner, samples


def _check_lengths(lengths: Any, labels: Tensor) -> None:
    """Check that rows of these lengths lie one behind the other in the labels (T,) or (1, T)."""
    is_whole = isinstance(lengths, Tensor) and lengths.dtype in (torch.int32, torch.int64)
    is_right = is_whole and lengths.dim() == 1 and lengths.layout == torch.strided
    if not is_right or not len(lengths):
        raise ValueError(f"lengths must be whole numbers (R,), one for each sample, got {_found(lengths)}")
    if labels.dim() != 1 and (labels.dim() != 2 or len(labels) != 1):
        raise ValueError(
            f"lengths tell apart samples that lie in one row, (T,) or (1, T); the labels are "
            f"{tuple(labels.shape)}: leave lengths out where each row is a sample"
        )
    if lengths.is_cpu and (int(lengths.sum()) != labels.numel() or int(lengths.min()) < 1):
        raise ValueError(
            f"lengths must be at least 1 and add up to the {labels.numel()} tokens of the row, got "
            f"{shown(lengths.tolist())}, {int(lengths.sum())} in all"
        )


def _check_tokens(asked: Tensor, owner: Tensor | None, samples: int, vocabulary: int, shifted: bool) -> None:
    """Check on the CPU that what is asked for are tokens, and that each sample asks for one."""

    def rows_of(places: Tensor) -> list[int]:
        flat = places.nonzero().flatten()
        rows = flat // (len(asked) // samples) if owner is None else owner[flat]
        return sorted(set(rows.tolist()))

    wrong = (asked >= vocabulary) | ((asked < 0) & (asked != IGNORED))
    if bool(wrong.any()):
        token = int(asked[wrong][0])
        raise ValueError(
            f"labels must be tokens, 0 to {vocabulary - 1}, or {IGNORED} where nothing is asked; got {token} "
            f"in row {shown(rows_of(wrong))}: the tokenizer has more tokens than the head, or the labels are "
            "of another tokenizer"
        )

    has_any = set(rows_of(asked >= 0))
    if len(has_any) < samples:
        empty = [row for row in range(samples) if row not in has_any]
        first = "" if shifted else ", or only its first one, which nothing comes before,"
        raise ValueError(
            f"no token is asked for in row {shown(empty)} of {samples}: every label{first} is {IGNORED}, so "
            "there is no loss; leave such samples out of the data (an answer that was cut off is the usual "
            "reason)"
        )


def _check_head(hidden: Any, weight: Any, bias: Any) -> None:
    """Check that hidden states, weight and bias fit each other."""
    if not isinstance(hidden, Tensor) or not hidden.is_floating_point() or hidden.dim() not in (2, 3):
        raise ValueError(f"hidden must be hidden states (B, T, D), a floating tensor, got {_found(hidden)}")
    size = hidden.shape[-1]
    is_matrix = isinstance(weight, Tensor) and weight.is_floating_point() and weight.dim() == 2
    if not is_matrix or weight.shape[1] != size or len(weight) < 2:
        raise ValueError(
            f"the weight of the head must be a floating tensor (V, {size}), V of at least 2, got "
            f"{_found(weight)}; give head.weight of the linear layer that makes the logits"
        )
    if bias is not None and (not isinstance(bias, Tensor) or bias.shape != (len(weight),)):
        raise ValueError(f"the bias of the head must be a tensor ({len(weight)},), got {_found(bias)}")


def _product_type(hidden: Tensor, weight: Tensor) -> torch.dtype:
    """In which type hidden states and weights are multiplied."""
    device = hidden.device.type
    if torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device)
    if hidden.dtype != weight.dtype:
        raise ValueError(
            f"the hidden states are {hidden.dtype} and the weight of the head is {weight.dtype}: call it "
            "under torch.autocast as the model was, or give both in one type"
        )
    return hidden.dtype


def _only_asked(
    rows: Tensor, asked: Tensor, owner: Tensor | None, samples: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Hidden states (M, D), tokens (M,) and samples (M,) of the places that are asked for."""
    at = (asked >= 0).nonzero().flatten()
    own = at // (len(asked) // samples) if owner is None else owner[at]
    return rows.index_select(0, at), asked[at], own


def _found(value: Any) -> str:
    return f"{value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
