"""The cases of `cases.py` in the Trainer of transformers and in TRL's SFTTrainer, for every combination.

The runs are those of `huggingface_cases.py`, whose samples and models are others than those of `cases.py`:
what each trained is compared with its plan, and a resumed run with the one that was not stopped.
"""

import itertools
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from torch import distributed

from dsenv.plan import DataPlan
from tests.integrations import huggingface_cases as runs
from tests.integrations.cases import Case, CaseFunction, Result, rows_of_epoch
from tests.plan.ranks import Row


def plan_of(case: Case) -> DataPlan:
    """A plan with the epochs of a case's."""
    own = {**runs.VOLUMES[case.volume], "whole_steps": True, "world": None}
    data = torch.zeros(runs.SIZE, 1), torch.arange(runs.SIZE) % runs.CLASSES
    return DataPlan(data, epochs=runs.EPOCHS, batch_size=runs.BATCH, **own)


def stop_step(case: Case) -> int | None:
    """As `cases.stop_step`, by the lengths of these runs."""
    kind, _, epoch = case.stop.partition(" ")
    if kind == "none":
        return None
    steps = plan_of(case).epoch_schedule.steps_in
    own = steps(int(epoch))
    return sum(map(steps, range(int(epoch)))) + {"in": max(own // 2, 1), "last": own, "first": 1}[kind]


def run(folder: Path, case: Case, task: str) -> Result:
    """Train a case to its end; at its stop a checkpoint is saved, and a new Trainer goes on from it."""
    if case.ranks > 1 and not distributed.is_initialized():
        distributed.init_process_group("gloo")
    stop, place = stop_step(case), folder / "run"
    how = {"volume": case.volume, "accumulation": case.accumulate, "workers": case.workers}
    found = [runs.train(task, place, stop=stop, **how)]
    if stop is not None and stop < found[0]["max_steps"]:
        found.append(runs.train(task, place, resume=True, **how))

    batches = [batch for each in found for batch in each["batches"]]
    last, schedule = found[-1], plan_of(case).epoch_schedule
    ends = set(itertools.accumulate(map(schedule.steps_in, range(runs.EPOCHS))))
    return Result(
        rows=[Row(batch["epoch"], 0, batch["index"], batch["weight"]) for batch in batches],
        parameters=last["parameters"],
        steps=last["steps"],
        last_rate=last["rate"],
        validations=len(ends & {step for each in found for step in each["watch"]["evaluated"]}),
        progress=last["trained"] / schedule.total_samples,
    )


def check(results: Sequence[Result], case: Case) -> None:
    """Check that the ranks trained what was planned, each sample once, in the planned steps."""
    plan = plan_of(case)
    counts = plan.epoch_schedule.counts
    assert counts is not None
    for epoch in range(runs.EPOCHS):
        positions = [position for position, _ in rows_of_epoch(results, epoch)]
        assert len(set(positions)) == len(positions) == counts[epoch], f"epoch {epoch}"
    for found in results:
        assert found.steps == plan.total_steps and found.validations == runs.EPOCHS
        assert abs(found.last_rate) < 1e-9 and found.progress == 1
        assert torch.equal(found.parameters, results[0].parameters)


CASES: dict[str, CaseFunction] = {
    "Trainer, BERT": partial(run, task="classification"),
    "Trainer, Llama": partial(run, task="causal"),
    "SFTTrainer": partial(run, task="sft"),
}
