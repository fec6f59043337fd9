"""Tensor operations whose obvious form is slow on one of the devices; only this module chooses the form.

Measured on one CPU thread (benchmarks/kernels.py): torch's log-softmax over ten classes as the last
dimension takes ten times as long as over the first, and torch's sort of float rows takes 35 times as long
as NumPy's vectorised one, its argsort 6 times. Over millions of samples the forms of `dsenv.scan` choose the
largest, or a random part, many times faster than a shuffle and a top-k do (benchmarks/selection_scale.py).
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from dsenv import scan

ONEDNN_WORTH = 1 << 17  # elements of a layer's inputs from which on converting them pays
LARGE = 1 << 16  # samples from which on the forms of `dsenv.scan` are faster


def sent(values: Tensor, device: torch.device) -> Tensor:
    """The values on the device; from the host to a GPU they go by pinned memory, without a wait."""
    if device.type == "cuda" and values.device.type == "cpu":
        return values.pin_memory().to(device, non_blocking=True)
    return values.to(device)


def log_softmax(logits: Tensor) -> Tensor:
    """Log-softmax over the last dimension of (..., C)."""
    if logits.device.type != "cpu" or logits.ndim < 2:
        return logits.log_softmax(-1)
    rows = logits.flatten(0, -2).t().contiguous()  # (C, M)
    return rows.log_softmax(0).t().view(logits.shape)


def cross_entropy(logits: Tensor, labels: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Cross-entropy of each sample, (B,), from logits (B, C) and labels (B,)."""
    if logits.device.type != "cpu":
        return functional.cross_entropy(logits, labels, reduction="none", label_smoothing=label_smoothing)
    rows = logits.t().contiguous()[None]  # (1, C, B)
    return functional.cross_entropy(rows, labels[None], reduction="none", label_smoothing=label_smoothing)[0]


def packed(inputs: Tensor) -> Tensor:
    """Inputs (B, D) in the layout in which `linear` is fastest: oneDNN's on a CPU, where it pays."""
    pays = inputs.device.type == "cpu" and inputs.dtype == torch.float32 and inputs.numel() >= ONEDNN_WORTH
    has_it = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return inputs.to_mkldnn() if pays and has_it else inputs


def linear(inputs: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Linear layer (B, H) of `packed` inputs (B, D) that need no gradient; weight (H, D), bias (H,)."""
    assert not inputs.requires_grad
    if not inputs.is_mkldnn:
        return functional.linear(inputs, weight, bias)
    output: Tensor = _OneDNNLinear.apply(inputs, weight, bias)
    return output


class _OneDNNLinear(torch.autograd.Function):
    """The layer in oneDNN's float32 form; torch's own calls MKL, half as fast on the AMD CPU measured."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(inputs, weight)
        return functional.linear(inputs, weight.to_mkldnn(), bias.to_mkldnn()).to_dense()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, Tensor, Tensor]:
        inputs, weight = ctx.saved_tensors
        by_weight, by_bias = torch.ops.aten.mkldnn_linear_backward_weights(
            grads[0].contiguous().to_mkldnn(), inputs, weight.to_mkldnn(), True
        )
        return None, by_weight.to_dense(), by_bias.to_dense()


def quantile(values: Tensor, share: float) -> Tensor:
    """Quantile () of values (N,), linear in rank between two of them; `share` in [0, 1]."""
    if values.device.type != "cpu":
        return torch.quantile(values, share)

    ordered = sort(values)
    place = share * (len(ordered) - 1)
    low = int(place)
    return torch.lerp(ordered[low], ordered[min(low + 1, len(ordered) - 1)], place - low)


def sort(values: Tensor) -> Tensor:
    """Values (..., N), each row in ascending order."""
    if values.device.type != "cpu":
        return values.sort(-1).values
    return torch.from_numpy(np.sort(values.detach().numpy(), axis=-1))


def argsort(values: Tensor, *, descending: bool = False, stable: bool = False) -> Tensor:
    """Positions (..., N) that put each row of values in order.

    Equal values come in any order, which may depend on N; in the order of their positions with `stable`.
    """
    keys = -values if descending else values
    if values.device.type != "cpu":
        return keys.argsort(dim=-1, stable=stable)
    rows = keys.detach().numpy()
    if is_large(values) and not stable:
        return torch.from_numpy(scan.ordered(scan.key_blocks(rows), len(rows), None))
    return torch.from_numpy(np.argsort(rows, axis=-1, kind="stable" if stable else None))


def is_large(values: Tensor) -> bool:
    """Whether these are (N,) values for which the forms of `dsenv.scan` are used."""
    return (
        values.device.type == "cpu"
        and values.dtype == torch.float32
        and values.dim() == 1
        and len(values) >= LARGE
    )


def _spawn(generator: torch.Generator) -> np.random.Generator:
    """A NumPy generator, seeded by a draw from torch's."""
    return np.random.Generator(
        np.random.SFC64(int(torch.randint(1 << 62, (), generator=generator, dtype=torch.int64)))
    )


def permutation(size: int, generator: torch.Generator) -> Tensor:
    """Random permutation (size,) int64, on the generator's device."""
    if generator.device.type != "cpu" or size < LARGE:
        return torch.randperm(size, generator=generator, device=generator.device)
    rng = _spawn(generator)
    return torch.from_numpy(scan.ordered(scan.random_keys(size, rng), size, rng))


def subset(size: int, count: int, generator: torch.Generator) -> Tensor:
    """`count` of `size` positions, (count,) int64, each set equally likely, in no particular order."""
    if generator.device.type != "cpu" or size < LARGE:
        return torch.randperm(size, generator=generator, device=generator.device)[:count]
    return torch.from_numpy(scan.subset(size, count, _spawn(generator)))


def top_k(values: Tensor, count: int, generator: torch.Generator | None = None) -> Tensor:
    """Positions (count,) int64 of the largest values, in no particular order.

    Args:
        values: (N,).
        count: how many, 0..N.
        generator: gives equal values equal chances; with None any of them are taken, always the same ones.
    """
    assert values.dim() == 1, values.shape
    if is_large(values):
        rng = None if generator is None else _spawn(generator)
        return torch.from_numpy(scan.largest(values.detach().numpy(), count, rng))
    if generator is None:
        return values.topk(count).indices

    shuffled = torch.randperm(len(values), generator=generator, device=generator.device)
    return shuffled[values[shuffled].topk(count).indices]


def ranking(values: Tensor, generator: torch.Generator) -> Tensor:
    """Positions (N,) int64 by falling value (N,); equal values are in random order."""
    assert values.dim() == 1, values.shape
    if is_large(values):
        rows = values.detach().numpy()
        falling = scan.key_blocks(rows, mirror=True)
        return torch.from_numpy(scan.ordered(falling, len(rows), _spawn(generator)))

    shuffled = torch.randperm(len(values), generator=generator, device=generator.device)
    return shuffled[values[shuffled].argsort(descending=True, stable=True)]


def rank_bins(values: Tensor, members: Tensor, bins: int) -> Tensor:
    """Bin (K, N) int64 of each value by its rank in its row: rank * bins // members, at most bins - 1.

    Args:
        values: (K, N) smallest first; equal ones in any order.
        members: (K, 1) int64, number of values of each row to divide evenly; higher ranks get the last bin.
        bins: number of bins.
    """
    if is_large(values[0]):
        found = torch.empty(values.shape, dtype=torch.int64)
        for row, whole, result in zip(values, members[:, 0].tolist(), found, strict=True):
            scan.rank_bins(row.detach().numpy(), whole, bins, result.numpy())
        return found

    order = argsort(values)
    position = torch.arange(values.shape[1], device=values.device).expand_as(order)
    rank = torch.empty_like(order).scatter_(1, order, position)
    return (rank * bins // members).clamp_(max=bins - 1)


def sums_by_group(values: Tensor, group: Tensor, groups: int) -> Tensor:
    """Sums (K, R, G) of values (K, R, N) over the members of each group; the same bits in every call.

    On a GPU `scatter_add_` adds floats in any order, and two equal calls differ in their last bits.

    Args:
        values: R values of each of N samples, in K rows.
        group: (K, N) int64 group of each sample, 0..G-1.
        groups: G.
    """
    if values.device.type == "cpu":
        sums = values.new_zeros(*values.shape[:2], groups)
        return sums.scatter_add_(2, group[:, None].expand_as(values), values)
    parts = [torch.where((group == number)[:, None], values, 0.0).sum(2) for number in range(groups)]
    return torch.stack(parts, 2)


def add_rows(target: Tensor, index: Tensor, rows: Tensor) -> Tensor:
    """Add rows (B, D) to `target` (C, D) at positions (B,), in place; the same bits in every call."""
    if target.device.type == "cpu":
        return target.index_add_(0, index, rows)
    return target.index_put_((index,), rows, accumulate=True)  # sorted first: `index_add_` adds in any order


def positions(mask: Tensor, count: int) -> Tensor:
    """Positions (count,) int64 at which a mask (N,) holds, `count` times in all; no wait for the device."""
    if mask.device.type != "cpu":
        return torch.nonzero_static(mask, size=count).squeeze(1)
    return torch.from_numpy(np.flatnonzero(mask.numpy()))
