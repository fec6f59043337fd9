"""Whether batches and losses come in their epoch, and whether all of an epoch came."""

import warnings
from collections.abc import Sequence
from typing import Any

from dsenv.errors import check_count, shown
from dsenv.plan.data import Batch
from dsenv.plan.epoch_record import EpochRecord
from dsenv.plan.epoch_sampler import EpochSampler
from dsenv.plan.world import PLAN_LOADER

ENDS_EARLY = (
    "A loop that leaves an epoch early, skips batches or is cut short by a framework spends less than the "
    "budget, and its learning rate does not end where it should"
)
SKIPS_TWICE = (
    "The epoch was gone on with from a saved state, and the plan leaves out what was trained on: a loader or "
    "framework that skips batches by itself too (skip_first_batches, use_stateful_dataloader) needs "
    "plan.new_sampler(resume='framework') or plan.loader(resume='framework')"
)


def check_epoch(epoch: int, record: EpochRecord | None) -> None:
    """Warn when an epoch ends with chosen samples that were not trained on.

    Args:
        epoch: its number.
        record: which were; None where they were not chosen yet.
    """
    if record is None or not record.done:
        warnings.warn(
            f"epoch {epoch} ended without plan.loss: the plan has learnt nothing from it and counts no step; "
            "take the loss of every training batch by plan.loss(batch, losses)",
            stacklevel=4,
        )
        return

    if repeated := record.repeated():
        warnings.warn(
            f"epoch {epoch}: {repeated} times a sample was given to plan.loss again, in the place of another",
            stacklevel=4,
        )
    if record.left_out:
        positions = shown(sorted(record.left_out))
        warnings.warn(
            f"epoch {epoch}: the collate function left out {len(record.left_out)} of {record.own_end} chosen "
            f"samples (positions {positions}); take them out of the data set, and others are chosen instead",
            stacklevel=4,
        )
    missing = record.own_end - record.passed
    if missing > 0:
        advice = SKIPS_TWICE if record.is_resumed else ENDS_EARLY
        warnings.warn(
            f"epoch {epoch} ended with {missing} of its {record.own_end} chosen samples not trained on: "
            f"plan.loss was taken for {record.done}. {advice}",
            stacklevel=4,
        )


def check_stamp(batch: Any, plan: int, sampler: EpochSampler) -> EpochRecord:
    """The record of a batch's epoch, if it is of this plan and losses of that epoch may come.

    Raises:
        ValueError: it is another plan's, or is left over from another epoch.
    """
    if not isinstance(batch, Batch):
        raise ValueError(
            "plan.loss takes the batch first, as the plan made it, then the losses; got "
            f"{type(batch).__name__}"
        )
    if not len(batch.index):
        raise ValueError("the batch is empty: there is nothing to learn from, leave the step out")
    if batch.plan != plan:
        raise ValueError(
            "the batch is of another plan: its positions mean other samples; give each plan the batches "
            "that it made (plan.batches, plan.loader, plan.batch)"
        )
    record = sampler.record_of(batch.epoch)
    if record is None:
        raise ValueError(
            f"the batch is of epoch {batch.epoch}, the plan is in epoch {sampler.epoch}: take plan.loss "
            "before the epoch ends; where batches are fetched across its end, use one stream over all "
            "epochs, plan.loader(stream=True) or plan.new_sampler(stream=True)"
        )
    return record


def check_open(sampler: EpochSampler, epoch: int | None) -> EpochRecord:
    """The record of an epoch that batches may be of; None for the current one.

    Raises:
        ValueError: losses of that epoch are not waited for any more.
    """
    if epoch is None:
        return sampler.record
    record = sampler.record_of(epoch)
    if record is None:
        raise ValueError(
            f"the batch is of epoch {epoch}, the plan is in epoch {sampler.epoch}, and everything of epoch "
            f"{epoch} was trained on or given up: the loader is older than the plan's state, make a new one"
        )
    return record


def check_closed(records: Sequence[EpochRecord]) -> None:
    """Warn of epochs whose last losses never came, since those of a later epoch do."""
    for record in records:
        check_epoch(record.epoch, record)


def check_next_epoch(current: int, epoch: Any) -> int:
    """The epoch to go to, which is the current or the next one.

    Raises:
        ValueError: it is neither.
    """
    wanted: int = check_count("epoch", epoch, 0)
    if wanted not in (current, current + 1):
        again = (
            "; a framework that counts epochs from 0 again after a resume is told by "
            f"loader.set_epoch(plan.epoch), and Accelerate takes {PLAN_LOADER}"
            if wanted < current
            else ""
        )
        raise ValueError(
            f"the plan is in epoch {current} and can go on to {current + 1}, not to {wanted}; signals "
            f"come from training, so epochs cannot be skipped: load a state of that epoch{again}"
        )
    return wanted
