"""A learned choice shares the epochs with a safe one, and is trusted as far as the evidence goes."""

import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import astuple, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dsenv.outputs import ModelOutputs
from dsenv.plan.evidence import CLIP, Contradicted, Contrast, contradicted
from dsenv.plan.guard import SAFE, Guard, places
from dsenv.plan.signals import PlanSignals
from dsenv.select.base import Selection
from dsenv.select.trim import LEAST, VISITS
from dsenv.signals import SampleSignals
from dsenv.states import Either, ListOf, TensorOf, Whole, check_state
from dsenv.task_kinds.classification import read_outputs
from dsenv.tracking import names

FURTHEST = 4.0  # log odds by which evidence moves the share of the choice at most
FEW = 8  # confident samples of a group; of fewer the labels say nothing
WEIGHT = 15.0  # log odds for a difference of 1 in contradicted labels
BEYOND = 0.05  # a difference that counts as none
LOW = 0.1  # a share of the choice below this one is said in a warning


class PlanGuard:
    """Mixes the choice of a selector with a safe one, and weighs the evidence between epochs.

    Of an epoch's samples a share is the selector's, the rest the safe choice's. The log odds of that share
    are moved by two kinds of evidence:

    - after each epoch, by the labels that the model contradicts with confidence, among the samples that the
      selector chose and among those of the safe choice (`contradicted`);
    - by a reserve of samples that is never trained on: whether the model agrees with more of their labels
      after epochs with more of the selector's choice (`Contrast`).

    Args:
        settings: of the user.
        size: N.
        reserve: (R,) int64 positions of the reserve, on the device.
        epochs: of the plan.
        has_choice: whether there is a choice of samples to compare; else the share stays where it starts.
    """

    needs_logits = True
    reads = ("confidence", "margin", "correct")
    needs_features = False

    def __init__(
        self, settings: Guard, size: int, reserve: Tensor, epochs: int, *, has_choice: bool = True
    ) -> None:
        self.settings, self.size, self.epochs = settings, size, epochs
        self.safe = SAFE[settings.safe]()
        self.has_choice = has_choice
        device = reserve.device
        self.used = settings.start
        """Share of the selector's choice in the current epoch, or the last one."""
        self.found: Contradicted | None = None
        """What the labels said at last."""
        self.warned = False

        self._gap: float | None = None  # difference of contradicted labels, mean of the last epochs
        self._labels_say = 0.0  # log odds by it
        self._is_measured = False  # all of the reserve was looked at in the current epoch
        self._rides = True  # within batches; else the loop has it scored
        self._origin = torch.zeros(size, dtype=torch.uint8, device=device)  # 1: the selector's, 2: safe
        self._agreed: dict[str, list[float]] = {"more": [], "less": []}  # by the share of the choice
        self._keep(reserve)

    def _keep(self, reserve: Tensor) -> None:
        """Let these positions (R,) be the reserve."""
        number, device = len(reserve), reserve.device
        self.reserve = reserve
        self.slot = torch.full((self.size,), number, device=device)
        """(N,) int64 place of each sample in the reserve; R for those that are not in it."""
        self.slot[reserve] = torch.arange(number, device=device)
        self.contrast = Contrast(number, device)
        self._score = torch.zeros(number + 1, device=device)  # log-likelihoods; the last is unused
        self._correct = torch.full((number + 1,), -1.0, device=device)  # -1 where it was not looked at yet

    # Shares

    @property
    def share(self) -> float:
        """Share of the selector's choice as the evidence has it, (0, 1), without the swing."""
        start = math.log(self.settings.start / (1 - self.settings.start))
        moved = max(-FURTHEST, min(FURTHEST, self._labels_say + self.contrast.score()))
        return 1 / (1 + math.exp(-start - moved))

    def _share_in(self, epoch: int) -> float:
        share = self.share
        if not self.has_choice:
            return share
        reach = min(self.settings.swing, share / 2, (1 - share) / 2)
        return share + (reach if epoch % 2 else -reach)

    # Before an epoch

    def holds(self, index: Tensor) -> Tensor:
        """Which of the samples (B,) are of the reserve, bool."""
        return self.slot[index] < len(self.reserve)

    def riding(self, epoch: int, count: int) -> int:
        """How many of the reserve are among the `count` samples of an epoch, with weight 0."""
        number = len(self.reserve)
        wanted = number if self._rides and 0 < epoch < self.epochs - 1 and 4 * number <= count else 0
        return max(wanted, count - (self.size - number))

    def choose(
        self,
        epoch: int,
        count: int,
        ask: Callable[[int], Selection],
        signals: SampleSignals,
        generator: torch.Generator,
    ) -> Selection:
        """The samples that an epoch trains on, unshuffled: some by the selector, the rest by the safe choice.

        Args:
            epoch: its number.
            count: how many, without the reserve.
            ask: the selector's choice of so many.
            signals: of the plan.
            generator: draws.
        """
        self.used = self._share_in(epoch)
        if not self.has_choice:
            return ask(count)
        self._origin.zero_()
        wanted = self._shuffled(ask(count), generator)
        own = Selection(*(part[: round(self.used * count)] for part in (wanted.index, wanted.weight)))
        self._origin[own.index] = 1

        # What is missing comes from the safe choice, which offers enough beside the reserve and those
        offered = min(self.size, count + len(self.reserve))
        rest = self._shuffled(self.safe.select(signals, offered, generator), generator)
        rest = Selection(*(part[: count - len(own.index)] for part in (rest.index, rest.weight)))
        self._origin[rest.index] = 2
        return Selection(torch.cat([own.index, rest.index]), torch.cat([own.weight, rest.weight]))

    def _shuffled(self, found: Selection, generator: torch.Generator) -> Selection:
        """The samples in random order, without the reserve and those that are chosen already."""
        order = torch.randperm(len(found.index), generator=generator, device=generator.device)
        index = found.index[order]
        is_free = ~self.holds(index) & (self._origin[index] != 1)
        return Selection(index[is_free], found.weight[order][is_free])

    def with_reserve(self, chosen: Selection, riding: int, end: int, batch_size: int) -> Selection:
        """The samples in training order, and so many of the reserve among them, with weight 0.

        They stand in the last steps, where they say what the epoch did, at most half of each. The others of
        such a batch weigh more, so that the mean over it is that of the samples trained on.

        Args:
            chosen: in training order.
            riding: how many of the reserve.
            end: samples that the epoch trains on, with them.
            batch_size: samples a step.
        """
        self._is_measured, self._rides = 0 < riding == len(self.reserve), True
        if self._is_measured:
            self._correct.fill_(-1)
        if not riding:
            return chosen

        is_riding, factor = places(len(chosen.index) + riding, riding, end, batch_size)
        device = chosen.index.device
        at, others = (torch.from_numpy(np.flatnonzero(rows)).to(device) for rows in (is_riding, ~is_riding))
        index = chosen.index.new_empty(len(is_riding))
        weight = chosen.weight.new_zeros(len(is_riding))
        index[at], index[others] = self.reserve[:riding], chosen.index
        weight[others] = chosen.weight * torch.from_numpy(factor).to(device)[others]
        return Selection(index, weight)

    # What training says

    def set_apart(
        self, seen: ModelOutputs, known: Mapping[str, Tensor], *, is_late: bool = False
    ) -> dict[str, Tensor]:
        """Take down what is said of the reserve, and leave it out of what the signals take in; no wait.

        Args:
            seen: outputs for B samples, finite.
            known: which of them the signals are to take in, as for `SampleSignals.update`; empty for all.
            is_late: it was said in an epoch that was weighed already, and says nothing of this one.
        """
        if not is_late and (seen.logits is not None or seen.readings is not None):
            self.note(seen)
        counted = ~self.holds(seen.index)
        none = torch.zeros_like(counted)
        return {
            "known": known.get("known", ~none) & counted,
            "filled": known.get("filled", none) & counted,
            "counted": counted,
        }

    def note(self, seen: ModelOutputs) -> None:
        """Take down what the model says of those of the samples that are of the reserve; no wait."""
        at, said = self.slot[seen.index], dict(seen.readings or {})
        if seen.logits is not None:
            said = read_outputs(seen.logits, seen.labels.clamp(0, seen.logits.shape[1] - 1))
        self._score.index_copy_(0, at, said["confidence"].log().clamp(min=-CLIP))
        self._correct.index_copy_(0, at, said["correct"])

    def scored(self, seen: ModelOutputs) -> None:
        """Take in a pass over the reserve, in its order, after an epoch's last batch."""
        if self._is_measured:
            text = (
                "the reserve was measured in this epoch already: the last pass counts, and each is paid for"
            )
            warnings.warn(text, stacklevel=3)
        self.note(replace(seen, index=self.reserve))
        self._is_measured, self._rides = True, False

    def end_epoch(self, epoch: int, signals: PlanSignals) -> None:
        """Weigh what the epoch said; warn once where the choice has lost most of its share."""
        if not self.has_choice or signals.blind:
            return
        if signals.kind.classes is None:  # one group of all
            self._weigh_labels(epoch, signals, torch.zeros_like(self.slot), 1)
        elif signals.label_history is not None:
            self._weigh_labels(epoch, signals, signals.label_history.label, signals.classes)
        else:
            return
        agreement = self.agreement()
        if self._is_measured and not math.isnan(agreement):
            self.contrast.add(self._score[:-1], self.used, epoch)
            self._agreed["more" if epoch % 2 else "less"].append(agreement)
        else:
            self.contrast.forget_recent()
        self._is_measured = False

        if self.share < LOW and not self.warned:
            self.warned = True
            warnings.warn(self._warning(epoch), stacklevel=6)

    def _weigh_labels(self, epoch: int, signals: PlanSignals, label: Tensor, classes: int) -> None:
        """Move the odds by the labels that the model contradicts, of the samples trained on in the epoch."""
        visited = signals.last_step == epoch
        own, safe = ((self._origin == origin) & visited for origin in (1, 2))
        self.found = found = contradicted(signals.margin, label.clamp(min=0), own, safe, classes)
        gap, floor = found.difference, found.safe + (found.error if found.difference < 0 else 0)
        if not epoch or found.number < FEW or floor < LEAST:  # where few are wrong there is nothing to avoid
            return
        self._gap = gap if self._gap is None else (self._gap + gap) / 2
        beyond = max(0.0, abs(self._gap) - BEYOND - found.error)
        self._labels_say = math.copysign(WEIGHT * beyond, self._gap)

        # In favour only after each sample was seen: what a young model contradicts is hard, not wrong
        if self._gap > 0 and float(signals.times_trained.sum()) < VISITS * self.size:
            self._labels_say = 0.0

    def agreement(self, waiting: ModelOutputs | None = None) -> float:
        """Share of the reserve's labels that the model agreed with last; NaN where not known. A wait.

        Args:
            waiting: outputs that were not taken down yet; None for none.
        """
        correct = self._correct
        if waiting is not None and waiting.logits is not None:
            is_right = (waiting.logits.argmax(1) == waiting.labels).float()
            correct = correct.index_copy(0, self.slot[waiting.index], is_right)
        if waiting is not None and waiting.readings is not None:
            correct = correct.index_copy(0, self.slot[waiting.index], waiting.readings["correct"])
        correct = correct[:-1]
        is_known = len(correct) > 0 and bool((correct >= 0).all())
        return float(correct.mean()) if is_known else math.nan

    def _warning(self, epoch: int) -> str:
        words = [
            f"epoch {epoch}: the guard has taken the choice of samples back to {self.share:.0%} of an epoch, "
            f"and draws the rest by {self.settings.safe!r}, since the choice seems to do harm here"
        ]
        if (found := self.found) is not None:
            words.append(
                f"the model contradicts {found.chosen:.0%} of the labels that it chose last, and "
                f"{found.safe:.0%} of the others'"
            )
        if all(self._agreed.values()):
            more, less = (float(np.mean(values)) for values in self._agreed.values())
            words.append(
                f"of {len(self.reserve)} samples that were never trained on, the model agrees with "
                f"{more:.1%} after epochs with more of the choice, {less:.1%} after those with less"
            )
        words.append(
            f"train with selector={self.settings.safe!r} instead, or compare the two; guard=False turns the "
            "guard off"
        )
        return "; ".join(words)

    def numbers(self, waiting: ModelOutputs | None = None) -> dict[str, float]:
        """What the metrics say of the current epoch, or the last one; `waiting` as for `agreement`."""
        return {
            names.GUARD_SHARE: self.used,
            names.GUARD_AGREEMENT: self.agreement(waiting),
            names.GUARD_WARNED: float(self.warned),
        }

    # States

    def state_dict(self) -> dict[str, Any]:
        """All that was found, and the reserve."""
        found = self.found
        return {
            "reserve": self.reserve.clone(),
            "origin": self._origin.clone(),
            "score": self._score[:-1].clone(),
            "correct": self._correct[:-1].clone(),
            "terms": self.contrast.terms.clone(),
            "recent": self.contrast.recent.clone(),
            "shares": list(self.contrast.shares),
            "agreed": {name: list(values) for name, values in self._agreed.items()},
            "found": None if found is None else list(astuple(found)),
            "used": self.used,
            "gap": self._gap,
            "labels_say": self._labels_say,
            "warned": self.warned,
            "measured": self._is_measured,
            "rides": self._rides,
        }

    def state_like(self) -> dict[str, Any]:
        """How a state must look."""
        number, floats = len(self.reserve), TensorOf(torch.float32, (len(self.reserve),))
        return {
            **self.state_dict(),
            "reserve": TensorOf(torch.int64, (number,)),
            **dict.fromkeys(("score", "correct"), floats),
            **dict.fromkeys(("terms", "recent"), TensorOf(torch.float32, (None, number))),
            "shares": ListOf(0.5),
            "agreed": {"more": ListOf(0.5), "less": ListOf(0.5)},
            "found": Either(None, [0.0, 0.0, 0.0, 0.0, Whole()]),
            "gap": Either(None, 0.0),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`.

        Raises:
            ValueError: it is no such state, or its parts do not fit each other.
        """
        check_state("a guard", state, self.state_like())
        reserve, recent = state["reserve"], state["recent"]
        if len(recent) != len(state["shares"]) or len(recent) > 4:
            raise ValueError("the guard's 'recent' and 'shares' must be of the same epochs, at most 4")
        if bool(((reserve < 0) | (reserve >= self.size)).any()) or len(reserve.unique()) < len(reserve):
            raise ValueError(f"the guard's 'reserve' must hold each of 0..{self.size - 1} at most once")

        device = self.slot.device
        self._keep(reserve.to(device).clone())
        self._origin.copy_(state["origin"])
        self._score[:-1], self._correct[:-1] = state["score"].to(device), state["correct"].to(device)
        self.contrast.terms, self.contrast.recent = (
            state["terms"].to(device).clone(),
            recent.to(device).clone(),
        )
        self.contrast.shares = list(state["shares"])
        self._agreed = {name: list(values) for name, values in state["agreed"].items()}
        found = state["found"]
        self.found = None if found is None else Contradicted(*found)
        self.used, self.warned = state["used"], state["warned"]
        self._gap, self._labels_say = state["gap"], state["labels_say"]
        self._is_measured, self._rides = state["measured"], state["rides"]
