"""Outputs of one epoch's training batches, kept until the signals take them in."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from dsenv.outputs import ModelOutputs
from dsenv.plan.batch_loss import BatchLoss
from dsenv.plan.plan_guard import PlanGuard
from dsenv.plan.signals import PlanSignals
from dsenv.plan.values import ValueRecord, are_classes, are_finite, codes, mended, unmasked

FLUSH_ELEMENTS = 1 << 24  # logits, samples x classes, kept before the signals take them in


class EpochBuffer:
    """Outputs of one epoch's training batches, kept until the signals take them in together.

    Samples are chosen between epochs, so nobody needs them earlier, and ranks are those of the whole epoch.

    Args:
        batch_loss: what is made of the losses of batches; None where they are those of samples.
    """

    def __init__(self, batch_loss: BatchLoss | None = None) -> None:
        self.batch_loss = batch_loss
        self._parts: list[dict[str, Tensor]] = []  # columns (B, ...) by name
        self._elements = 0

    def add(self, seen: ModelOutputs) -> None:
        """Keep a batch without its graph: positions and losses, and logits with labels, or readings."""
        # Cloned, since a compiled model may write its next outputs into the same memory.
        part = {"index": seen.index, "loss": seen.loss.clone()}
        if seen.logits is not None:
            part |= {"logits": seen.logits.clone(), "labels": seen.labels.clone()}
        part |= {name: value.clone() for name, value in (seen.readings or {}).items()}
        if self._parts and self._parts[0].keys() != part.keys():
            names = sorted((self._parts[0].keys() ^ part.keys()) - {"labels"})
            raise ValueError(
                f"some batches of this epoch came with {', '.join(names)} and some without; give them always"
            )
        self._parts.append(part)
        self._elements += _elements(part)

    @property
    def is_full(self) -> bool:
        """So much is kept that the signals should take it in now."""
        return self._elements > FLUSH_ELEMENTS

    def joined(self) -> ModelOutputs | None:
        """All that is kept as one batch, whose labels are -1 without logits; None for nothing."""
        if not (kept := self.columns()):
            return None
        index, loss, logits = kept.pop("index"), kept.pop("loss"), kept.pop("logits", None)
        labels = kept.pop("labels") if logits is not None else torch.full_like(index, -1)
        return ModelOutputs(index, labels, loss, logits, None, kept or None)

    def columns(self) -> dict[str, Tensor]:
        """All that is kept as tensors (B, ...) by name; empty for nothing."""
        names = self._parts[0] if self._parts else ()
        return {name: torch.cat([part[name] for part in self._parts]) for name in names}

    @classmethod
    def of(cls, columns: Mapping[str, Tensor], batch_loss: BatchLoss | None = None) -> "EpochBuffer":
        """A buffer that holds such columns."""
        found = cls(batch_loss)
        if columns:
            found._parts = [dict(columns)]
            found._elements = _elements(columns)
        return found

    def note(self, signals: PlanSignals, record: ValueRecord) -> None:
        """Put on record what is not finite of all that is kept."""
        if (seen := self.joined()) is not None:
            record.add(seen.index, codes(unmasked(seen), None if seen.logits is None else signals.classes))

    def flush(
        self,
        signals: PlanSignals,
        step: int,
        record: ValueRecord,
        guard: PlanGuard | None = None,
        *,
        is_late: bool = False,
    ) -> None:
        """Let the signals take in what is kept, but for what is not finite, which goes on record.

        Of the guard's reserve the guard alone takes in what was said, unless it comes an epoch late.
        """
        if (seen := self.joined()) is None:
            return

        # What is not finite is found here, in one look at many batches
        index, loss, logits = seen.index, seen.loss, seen.logits
        visits = None
        if self.batch_loss is not None:
            visits = signals.times_trained[index] - record.count[index]  # with a loss, before this one
        classes = None if logits is None else signals.classes
        known: dict[str, Tensor] = {}
        values = (loss, logits, *(seen.readings or {}).values())
        if loss.device.type != "cpu" or not (are_finite(*values) and are_classes(seen.labels, classes)):
            seen = unmasked(seen)
            code = codes(seen, classes)
            never = record.count[index] == signals.times_trained[index]
            known = {"known": code == 0, "filled": never & (code > 0)}
            record.add(index, code)
            record.count_visits(index, code if guard is None else code * ~guard.holds(index))
            seen = mended(seen, code)

        if guard is not None:
            known = guard.set_apart(seen, known, is_late=is_late)
        if self.batch_loss is not None and visits is not None:
            seen = replace(seen, loss=self.batch_loss.averaged(signals.loss[index], seen.loss, visits))
        signals.take_in(seen, step, **known)
        self._parts, self._elements = [], 0

    def state_dict(self) -> dict[str, Any]:
        """What is kept."""
        return {"parts": [dict(part) for part in self._parts], "elements": self._elements}

    def load_state_dict(self, state: dict[str, Any], device: torch.device) -> None:
        """Continue from `state_dict()`."""
        self._parts = [
            {name: value.to(device) for name, value in part.items()}
            for part in map(as_columns, state["parts"])
        ]
        self._elements = state["elements"]


def _elements(columns: Mapping[str, Tensor]) -> int:
    """Numbers that some columns hold, but for positions and labels."""
    return sum(value.numel() for name, value in columns.items() if name not in ("index", "labels"))


def as_columns(part: Any) -> Any:
    """A batch of a saved buffer by names; older states have a list of the values."""
    if not isinstance(part, list):
        return part
    return dict(zip(("index", "loss", "logits", "labels"), part, strict=False))
