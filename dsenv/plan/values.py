"""Values that are not finite: kept out of every average, counted, and said once an epoch."""

import math
import warnings
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from dsenv.outputs import ModelOutputs

KINDS = ("loss", "logits", "features", "label", "outputs")
"""What a value may be; a label is one outside of 0..C-1. Bit k of a code stands for the k-th."""
NEVER = -1e4  # a logit with which a class has no probability, in every float type
ADVICE = "they are left out of what the plan learns; look at these samples"
MOST_POSITIONS = 10  # in a warning


def is_finite(value: Tensor) -> Tensor:
    """Which rows (B,) of values (B,) or (B, C) are finite throughout."""
    if value.dim() == 1:
        return value.isfinite()
    low, high = value.flatten(1).aminmax(dim=1)  # a NaN is the least and the largest
    return low.isfinite() & high.isfinite()


def are_finite(*values: Tensor | None) -> bool:
    """Whether all values are finite, by their sums, which any NaN or infinity makes not finite; on a CPU.

    A sum may overflow where no value is infinite: False is no more than a reason to look closer.
    """
    return all(math.isfinite(float(value.sum())) for value in values if value is not None)


def are_classes(labels: Tensor, classes: int | None) -> bool:
    """Whether all labels are in 0..C-1, on a CPU; True where they are no classes."""
    if classes is None:
        return True
    low, high = labels.aminmax()
    return int(low) >= 0 and int(high) < classes


def codes(seen: ModelOutputs, classes: int | None = None) -> Tensor:
    """Which values of each sample are not finite (B,) uint8: bits in the order of `KINDS`; 0 for none.

    Args:
        seen: outputs of a model for B samples.
        classes: C, where the labels are to be looked at as well.
    """
    found = (~is_finite(seen.loss)).byte()
    for place, value in ((1, seen.logits), (2, seen.features)):
        if value is not None:
            found |= (~is_finite(value)).byte() << place
    if classes is not None:
        found |= ((seen.labels < 0) | (seen.labels >= classes)).byte() << 3
    for value in (seen.readings or {}).values():
        found |= (~is_finite(value)).byte() << 4
    return found


def mended(seen: ModelOutputs, code: Tensor) -> ModelOutputs:
    """The outputs with what is not finite replaced by the mean of what is, so that it moves no average.

    Args:
        seen: outputs of a model for B samples.
        code: (B,) of `codes`; a sample with any bit is replaced whole, but for its label.
    """
    is_bad = code > 0
    parts = {"loss": seen.loss, "logits": seen.logits, "features": seen.features}
    filled: dict[str, Any] = {
        name: _filled(value, is_bad) for name, value in parts.items() if value is not None
    }
    if seen.readings is not None:
        filled["readings"] = {name: _filled(value, is_bad) for name, value in seen.readings.items()}
    return replace(seen, **filled, is_finite=True)


def _filled(value: Tensor, is_bad: Tensor) -> Tensor:
    """Values (B, ...) with the bad rows (B,) replaced by the mean of the others; by 0 where all are bad."""
    mask = is_bad.view(-1, *[1] * (value.dim() - 1))
    kept = torch.where(mask, torch.zeros_like(value), value).float()  # a sum in float16 may overflow
    mean = kept.sum(0, keepdim=True) / (~is_bad).sum().clamp(min=1)
    return torch.where(mask, mean.to(value.dtype), value)


def unmasked(seen: ModelOutputs) -> ModelOutputs:
    """The outputs with `NEVER` for logits of -inf, by which users leave classes out."""
    if seen.logits is None:
        return seen
    is_left_out = seen.logits.isneginf() & ~seen.logits.isneginf().all(1, keepdim=True)
    return replace(seen, logits=seen.logits.masked_fill(is_left_out, NEVER))


def finite_pass(found: ModelOutputs, of: Tensor | None = None) -> ModelOutputs:
    """The outputs of a pass over a split, `mended`; a warning says what was not finite.

    Args:
        found: the outputs, in the order of the split.
        of: (N,) positions of the split's samples in the data; None where it is all of them.
    """
    if are_finite(found.loss, found.logits, found.features, *(found.readings or {}).values()):
        return found
    found = unmasked(found)
    code = codes(found)
    if not bool((code > 0).any()):
        return found
    warnings.warn(f"a pass over the data: {described(code, of)}; {ADVICE}", stacklevel=5)
    return mended(found, code)


def described(code: Tensor, of: Tensor | None = None) -> str:
    """What the codes (N,) of samples say, in words; `of` (N,) are their positions, None for 0..N-1."""
    words = []
    for place, kind in enumerate(KINDS):
        rows = ((code >> place) & 1).nonzero().flatten()
        positions = (rows if of is None else of[rows.to(of.device)]).tolist()
        if positions:
            first = ", ".join(map(str, positions[:MOST_POSITIONS]))
            more = ", ..." if len(positions) > MOST_POSITIONS else ""
            samples = "1 sample" if len(positions) == 1 else f"{len(positions)} samples"
            fault = "no class" if kind == "label" else "not finite"
            words.append(f"{fault}: {kind} of {samples} (positions {first}{more})")
    return ", ".join(words)


class ValueRecord:
    """Which samples had values that are not finite, in the current epoch and before.

    Args:
        size: N.
        device: where it lives.
    """

    def __init__(self, size: int, device: torch.device) -> None:
        self.count = torch.zeros(size, dtype=torch.int32, device=device)
        """(N,) visits of each sample at which its loss or logits were not finite; never written to."""
        self._codes = torch.zeros(size, dtype=torch.uint8, device=device)  # of the current epoch
        self._is_clean = True  # nothing was added since the last report

    def add(self, index: Tensor, code: Tensor) -> None:
        """Note the codes (B,) of samples (B,)."""
        if code.device.type == "cpu" and not bool(code.any()):
            return
        self._is_clean = False
        self._codes[index] |= code

    def count_visits(self, index: Tensor, code: Tensor) -> None:
        """Count the visits of samples (B,) whose codes (B,) are not 0."""
        self.count = self.count.index_add(0, index, (code > 0).int())

    def report(self, epoch: int, stacklevel: int = 2) -> None:
        """Say what was noted in an epoch, and forget it; a wait where anything may have been."""
        if self._is_clean:
            return
        if bool(self._codes.any()):
            warnings.warn(f"epoch {epoch}: {described(self._codes)}; {ADVICE}", stacklevel=stacklevel)
        self._codes.zero_()
        self._is_clean = True

    def state_dict(self) -> dict[str, Any]:
        """Counts, and what was noted in the current epoch."""
        return {"count": self.count.clone(), "codes": self._codes.clone()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`."""
        self.count = state["count"].to(self.count.device).clone()
        self._codes.copy_(state["codes"])
        self._is_clean = False
