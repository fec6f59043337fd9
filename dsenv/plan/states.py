"""What a plan's saved state must look like: checked as a whole, before anything of it is loaded."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from dsenv.errors import shown
from dsenv.plain import differing
from dsenv.plan.epoch_buffer import as_columns
from dsenv.plan.epoch_schedule import EpochSchedule
from dsenv.plan.exchange import check_pending
from dsenv.plan.metrics import state_like
from dsenv.states import Anything, Either, ListOf, TensorOf, Whole, check_state

VERSION = 6
READ = (2, 3, 4, 5, VERSION)
"""Version 2 has no part "metrics", 3 no guard, 4 no kind of task, 5 no whole steps and no late batches."""


def check_plan_state(state: Any, own: Mapping[str, Any], schedule: EpochSchedule) -> None:
    """Check that a saved state is of a plan like this one, of the same data, and undamaged.

    Args:
        state: what was saved.
        own: the plan's present `state_dict()`.
        schedule: of the plan.

    Raises:
        ValueError: something differs; the message names it.
    """
    _check_version(state)
    if state["version"] < VERSION:
        state = as_newest(state)
    _check_same("data", state, own, "the data that it was saved with: the same samples in the same order")
    _check_same("plan", state, own, "the settings that it was saved with")

    check_state("a DataPlan", state, {**own, **_pattern(own, schedule), "metrics": state_like(schedule.size)})
    sampler, feedback = state["epoch_sampler"], state["feedback"]
    for record in (sampler, *sampler["late"]):
        _check_epoch(record, schedule, _reserve(feedback["guard"]))
    _check_finite(feedback["signals"])
    kept = [
        *feedback["buffer"]["parts"],
        *(part for late in feedback["late"] for part in late["buffer"]["parts"]),
    ]
    for number, part in enumerate(kept):
        _check_buffered(number, part, schedule.size)
    check_pending(feedback["pending"], schedule.size)


def as_newest(state: Mapping[str, Any]) -> dict[str, Any]:
    """A state of an older version, with what it lacks; one that is damaged stays so."""
    found = {"metrics": None, **state}
    for name in ("plan", "feedback"):
        if isinstance(found.get(name), Mapping):
            found[name] = {"guard": None, **found[name]}
    lacking: dict[str, dict[str, Any]] = {
        "plan": {"kind": None, "loss_of": None, "whole_steps": False},
        "feedback": {"late": [], "pending": {}},
        "epoch_sampler": {"owed": 0, "late": []},
    }
    for name, lacks in lacking.items():
        if isinstance(found.get(name), Mapping):
            found[name] = {**lacks, **found[name]}
    if isinstance(found.get("feedback"), Mapping) and isinstance(found["feedback"].get("cost"), Mapping):
        found["feedback"] = {**found["feedback"], "cost": {"tokens": 0, **found["feedback"]["cost"]}}
    return found


def _check_version(state: Any) -> None:
    if not isinstance(state, Mapping):
        raise ValueError(f"a plan's state is the dict of plan.state_dict(), got {shown(state)}")
    version = state.get("version")
    if type(version) is not int or version not in READ:
        raise ValueError(
            f"the state has version {shown(version)}, this dsenv reads versions 2 to {VERSION}: it is "
            "damaged, no plan's state, or of another dsenv; go on with the dsenv that it was saved with"
        )


def _check_same(part: str, state: Mapping[str, Any], own: Mapping[str, Any], advice: str) -> None:
    """Check that a part of a state is equal to the plan's own."""
    saved = state.get(part)
    if not isinstance(saved, Mapping):
        raise ValueError(f"this is no state of a DataPlan: {part!r} is missing; it is damaged")
    if missing := [name for name in own[part] if name not in saved]:
        raise ValueError(f"this is no state of a DataPlan: '{part}.{missing[0]}' is missing; it is damaged")
    if found := differing(own[part], saved):
        where, mine, theirs = found
        raise ValueError(
            f"the state is of a plan with {where}={_words(theirs)}, this one has {_words(mine)}; build it "
            f"with {advice}"
        )


def _words(value: Any) -> str:
    return value[:60] if isinstance(value, str) else shown(value)


def _pattern(own: Mapping[str, Any], schedule: EpochSchedule) -> dict[str, Any]:
    """What may differ between the state of a plan now and at another time."""
    size = schedule.size
    record = {
        "index": TensorOf(torch.int64, (None,)),
        "weight": TensorOf(torch.float32, (None,)),
        "trained": TensorOf(torch.bool, (size,)),
        "left_out": ListOf(Whole(0, size - 1)),
    }
    sampler, feedback = own["epoch_sampler"], own["feedback"]
    cost = feedback["cost"]
    lengths = {name: Whole() for name in sampler.get("lengths", ())}
    buffer = {"parts": ListOf(Anything()), "elements": Whole()}
    return {
        "data": Anything(),  # compared before
        "plan": Anything(),
        "epoch_sampler": {
            **sampler,
            "epoch": Whole(0, schedule.epochs),
            "scoring_passes": Whole(),
            "before": Whole(),
            "owed": 0,
            "late": ListOf({"epoch": Whole(0, schedule.epochs - 1), "record": record}),
            "policies": None if sampler["policies"] is None else Anything(),
            "record": Either(None, record),
            **({"lengths": lengths} if lengths else {}),
        },
        "feedback": {
            **feedback,
            "buffer": buffer,
            "late": ListOf({"epoch": Whole(0, schedule.epochs - 1), "buffer": buffer}),
            "pending": Anything(),
            "selector": Anything(),  # each part judges its own
            "guard": None if feedback["guard"] is None else Anything(),
            "controller": None if feedback["controller"] is None else Anything(),
            "cost": {**cost, "trained": Whole(), "extra_forwards": Whole(), "tokens": Whole()},
        },
    }


def _reserve(guard: Any) -> Tensor:
    """Positions (R,) of the reserve in a guard's state, on the CPU; none where it is damaged, or None."""
    found = guard.get("reserve") if isinstance(guard, Mapping) else None
    return (
        found.cpu() if isinstance(found, Tensor) and not found.is_meta else torch.zeros(0, dtype=torch.int64)
    )


def _check_epoch(state: Mapping[str, Any], schedule: EpochSchedule, reserve: Tensor) -> None:
    """Check that the current epoch's samples fit each other; those of the reserve weigh nothing.

    Raises:
        ValueError: they are not samples of this plan, or more were trained on than chosen.
    """
    record = state["record"]
    if record is None:
        return

    index, weight = record["index"].cpu(), record["weight"].cpu()
    is_planned = schedule.counts is None or state["epoch"] >= schedule.epochs
    wanted = len(index) if is_planned else schedule.counts[state["epoch"]]  # type: ignore[index]
    faults = {
        "the epochs are over, and it holds samples of another one": state["epoch"] >= schedule.epochs,
        f"it holds {len(index)} samples of epoch {state['epoch']}, which has {wanted}": len(index) != wanted,
        "it holds no samples": not len(index),
    }
    if not any(faults.values()):
        chosen = torch.zeros(schedule.size, dtype=torch.bool)
        inside = index.clamp(0, schedule.size - 1)
        chosen[inside] = True
        closed = _closed(record)
        faults = {
            f"positions must be in 0..{schedule.size - 1}": bool((inside != index).any()),
            "a sample is there twice": int(chosen.sum()) < len(index),
            "weights and samples differ in number": weight.shape != index.shape,
            "weights must be finite and above 0": not _weighs(index, weight, reserve),
            "samples were trained on that were not chosen": bool((closed & ~chosen).any()),
        }
    for fault in (words for words, is_met in faults.items() if is_met):
        raise ValueError(f"this is no state of a DataPlan: {fault}; it is damaged, load an older one")


def _weighs(index: Tensor, weight: Tensor, reserve: Tensor) -> bool:
    """Whether all weights are finite and above 0, but for those of the reserve, which are 0."""
    if index.shape != weight.shape:
        return True  # said by another fault
    is_right = torch.where(torch.isin(index, reserve), weight == 0, (weight > 0) & weight.isfinite())
    return bool(is_right.all())


def _check_finite(signals: Mapping[str, Tensor]) -> None:
    """Check that all signals are numbers: a plan takes in nothing else.

    Raises:
        ValueError: one is not.
    """
    for name, signal in signals.items():
        if not bool(signal[..., :-1].isfinite().all()):
            raise ValueError(
                f"this is no state of a DataPlan: the signal {name!r} is not finite; it is damaged"
            )


def _check_buffered(number: int, part: Any, size: int) -> None:
    """Check a batch that the signals did not take in: positions, losses, logits with labels, or readings.

    Raises:
        ValueError: it is none.
    """
    columns = as_columns(part)
    if (
        isinstance(columns, Mapping)
        and {"index", "loss"} <= columns.keys()
        and all(map(_is_dense, columns.values()))
    ):
        index, logits, labels = columns["index"], columns.get("logits"), columns.get("labels")
        rest = [value for name, value in columns.items() if name not in ("index", "logits", "labels")]
        fits = index.dtype == torch.int64 and index.dim() == 1 and (logits is None) == (labels is None)
        fits = fits and all(value.shape == index.shape and value.is_floating_point() for value in rest)
        if logits is not None and labels is not None:
            fits = fits and logits.dim() == 2 and len(logits) == len(index) and labels.shape == index.shape
            fits = fits and logits.is_floating_point() and labels.dtype == torch.int64
        if fits and (not len(index) or (int(index.min()) >= 0 and int(index.max()) < size)):
            return
    raise ValueError(
        f"this is no state of a DataPlan: batch {number} of 'feedback.buffer' is none; it is damaged, load "
        "an older one"
    )


def _is_dense(value: Any) -> bool:
    return isinstance(value, Tensor) and value.layout == torch.strided and not value.is_meta


def _closed(record: Mapping[str, Any]) -> Tensor:
    """Samples (N,) that were trained on or left out."""
    closed: Tensor = record["trained"].cpu().clone()
    closed[torch.tensor(record["left_out"], dtype=torch.int64)] = True
    return closed
