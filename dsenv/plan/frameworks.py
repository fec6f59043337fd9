"""Whether a framework goes through the epochs of a plan as it should: with its adapter, from whole steps."""

import sys
import warnings
from types import FrameType
from typing import Any

LIGHTNING = (
    "Lightning reads the length of an epoch once, saves nothing of a plan, and goes on in the wrong place "
    "after a resume: add the plan's callback, Trainer(callbacks=[PlanCallback(plan)]), from "
    "dsenv.integrations.lightning (docs/lightning.md). Its Tuner leaves callbacks out: give that another "
    "DataLoader"
)
TRAINER = (
    "the Trainer of transformers reads the length of an epoch once, accumulates and shares batches by itself "
    "and saves nothing of a plan: put the plan into it by class MyTrainer(DataPlanMixin, Trainer), from "
    "dsenv.integrations.huggingface, and MyTrainer(..., plan=dict(selector=..., ratio=...)) "
    "(docs/huggingface.md)"
)
NEEDED = {
    "lightning.pytorch.loops.fit_loop": LIGHTNING,
    "pytorch_lightning.loops.fit_loop": LIGHTNING,
    "transformers.trainer": TRAINER,
}
"""Modules whose loops go through the epochs, and what to do."""
OWN = "transformers.trainer_callback"
"""What a callback of a user's own does is not the loop's."""

SCORE = (
    "call plan.score(forward) before the first batch of epoch {epoch}; or train a little first, with "
    "DataPlan(uniform_epochs=1) and plan.score(forward) in epoch 1"
)
SCORE_IN = {
    "huggingface": "call trainer.score() before trainer.train(); or train a little first, with "
    "plan=dict(uniform_epochs=1) and trainer.score() in on_epoch_begin of a callback, once state.epoch is 1"
}
"""Where a scoring pass has its place, by name of the adapter; `SCORE` for any other."""


def check_adapter(adapter: str | None) -> None:
    """Check that no framework which needs an adapter asks a plan for batches without it; once an epoch.

    Args:
        adapter: the one that goes through the plan's epochs; None for none.

    Raises:
        ValueError: one does; the message names the adapter.
    """
    if adapter is not None or not NEEDED.keys() & sys.modules.keys():
        return
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        name = frame.f_globals.get("__name__", "")
        if name == OWN:
            return
        if (words := NEEDED.get(name)) is not None:
            raise ValueError(words)
        frame = frame.f_back


def check_place(plan: Any, advice: str) -> None:
    """Warn where a state was saved between the batches of one step, whose gradients are in no state.

    Args:
        plan: before the first batch after its state was loaded.
        advice: of the framework, when to save.
    """
    sampler = plan.epoch_sampler
    if not sampler.was_loaded or sampler.begun is None:
        return
    over = sampler.done // plan.micro_batch_size % plan.accumulate
    if over:
        warnings.warn(
            f"the state was saved after {over} of the {plan.accumulate} batches of a step, and gradients "
            "that are being accumulated are in no state: the next step is made of the other batches alone. "
            f"{advice}",
            stacklevel=2,
        )
