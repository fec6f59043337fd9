"""Whether a framework goes through the epochs of a plan without the adapter that it needs."""

import sys
from types import FrameType

LIGHTNING = (
    "Lightning reads the length of an epoch once, saves nothing of a plan, and goes on in the wrong place "
    "after a resume: add the plan's callback, Trainer(callbacks=[PlanCallback(plan)]), from "
    "dsenv.integrations.lightning (docs/lightning.md). Its Tuner leaves callbacks out: give that another "
    "DataLoader"
)
NEEDED = {"lightning.pytorch.loops.fit_loop": LIGHTNING, "pytorch_lightning.loops.fit_loop": LIGHTNING}
"""Modules whose loops go through the epochs, and what to do."""


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
        words = NEEDED.get(frame.f_globals.get("__name__", ""))
        if words is not None:
            raise ValueError(words)
        frame = frame.f_back
