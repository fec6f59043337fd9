"""The cases of `cases.py` under torchdata's StatefulDataLoader, with the plan's state alone, or both."""

from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import distributed
from torchdata.stateful_dataloader import StatefulDataLoader

from tests.integrations.cases import Case, CaseFunction, run_loop
from tests.integrations.torch_cases import OwnLoader


class Loop(OwnLoader):
    """Both states are saved: the plan's, which is that of all ranks, and each rank's of its loader."""

    snapshot = 1  # batches between two snapshots of the loader
    has_both = True

    def __init__(self, case: Case) -> None:
        super().__init__(case)
        self.rank = distributed.get_rank() if case.ranks > 1 else 0

    def new_loader(self) -> Any:
        settings = {**self.loader_settings(), "snapshot_every_n_steps": self.snapshot}
        return StatefulDataLoader(self.plan.dataset, **settings)

    def save(self, folder: Path) -> None:
        torch.save(self.loader.state_dict(), folder / f"loader{self.rank}.pt")
        super().save(folder)

    def load(self, folder: Path) -> None:
        super().load(folder)
        if self.has_both:
            self.loader.load_state_dict(torch.load(folder / f"loader{self.rank}.pt", weights_only=False))


class Seldom(Loop):
    """A snapshot after every third batch: the loader fetches what came after it again, and passes it over."""

    snapshot = 3


class PlanAlone(Loop):
    """The plan's state alone is loaded."""

    has_both = False


CASES: dict[str, CaseFunction] = {
    "both states": partial(run_loop, kind=Loop),
    "both, snapshot every 3 steps": partial(run_loop, kind=Seldom),
    "the plan's state alone": partial(run_loop, kind=PlanAlone),
}
