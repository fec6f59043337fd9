"""A training loop as a user writes it, on scikit-learn's digits."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset

from dsenv.plan import DataPlan, FeatureForward
from dsenv.select.registry import SELECTORS
from dsenv.tasks.digits import digits

DATA = digits()
TRAIN = (DATA.train.images, DATA.train.labels)
HELD_OUT = (DATA.validation.images, DATA.validation.labels)
HIDDEN = 32

CHOICES: dict[str, Any] = {
    **{name: name for name in SELECTORS},
    "rho_loss": {"name": "rho_loss", "irreducible": torch.linspace(0, 1, len(TRAIN[1]))},
}


def scale(images: Tensor) -> Tensor:
    return images.float() / 255


def new_model(seed: int = 0) -> FeatureForward:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 10))
    return FeatureForward(model, model[-1])


def new_plan(**settings: Any) -> DataPlan:
    return DataPlan(TRAIN, **{"epochs": 2, "batch_size": 64, "transform": scale, **settings})


class Digits(Dataset[tuple[Tensor, int]]):
    """The same samples as a map-style data set."""

    classes = [str(digit) for digit in range(10)]  # noqa: RUF012

    def __len__(self) -> int:
        return len(TRAIN[1])

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return TRAIN[0][index], int(TRAIN[1][index])


class Loop:
    """Model, optimizer and schedule around a plan; reports the validation accuracy after each epoch."""

    reports = True

    def __init__(self, plan: DataPlan, loader: Any = None, seed: int = 0, lr: float = 0.2) -> None:
        self.plan, self.loader = plan, loader
        self.forward = new_model(seed)
        self.optimizer = torch.optim.SGD(self.forward.model.parameters(), lr, momentum=0.9)
        self.scheduler = plan.lr_scheduler(self.optimizer, lambda progress: 1 - progress)
        self.batches: list[Any] = []

    def steps(self) -> Iterator[int]:
        """Train; yields after each step."""
        if self.plan.epoch_sampler.is_done and self.reports:  # stopped between the last batch and the report
            self.plan.report_validation(self.accuracy(HELD_OUT))
        for epoch in self.plan.epochs_left():
            if self.plan.selector.needs_pass and self.plan.epoch_sampler.scoring_passes == 0:
                self.plan.score(self.forward, HELD_OUT)
            for batch in self.loader or self.plan.batches():
                self.step(batch)
                yield epoch
            if self.reports:
                self.plan.report_validation(self.accuracy(HELD_OUT))

    def step(self, batch: Any) -> None:
        logits, features = self.forward(batch.inputs)
        losses = F.cross_entropy(logits, batch.labels, reduction="none")
        loss = self.plan.loss(batch, losses, logits=logits, features=features, forward=self.forward)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.scheduler.step()
        self.batches.append(batch)

    def run(self) -> "Loop":
        for _ in self.steps():
            pass
        return self

    def accuracy(self, split: Any = (DATA.test.images, DATA.test.labels)) -> float:
        with torch.no_grad():
            images, labels = (part.to(self.plan.signals.device) for part in split)
            logits = self.forward.model(scale(images))
        return float((logits.argmax(1) == labels).float().mean())

    def state_dict(self) -> dict[str, Any]:
        parts = {"model": self.forward.model, "optimizer": self.optimizer, "scheduler": self.scheduler}
        return {"plan": self.plan.state_dict(), **{name: part.state_dict() for name, part in parts.items()}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.plan.load_state_dict(state["plan"])
        for name, part in (
            ("model", self.forward.model),
            ("optimizer", self.optimizer),
            ("scheduler", self.scheduler),
        ):
            part.load_state_dict(state[name])


def same_batches(one: list[Any], other: list[Any]) -> bool:
    """Whether the batches hold the same, and bear the same numbers; the plans that made them may differ."""
    return (
        len(one) == len(other)
        and all(
            torch.equal(left, right)
            for a, b in zip(one, other, strict=True)
            for left, right in zip((*a[:4], *a.views), (*b[:4], *b.views), strict=True)
        )
        and [batch[5:7] for batch in one] == [batch[5:7] for batch in other]
    )


def same_weights(one: Loop, other: Loop) -> bool:
    pairs = zip(one.forward.model.parameters(), other.forward.model.parameters(), strict=True)
    return all(torch.equal(left, right) for left, right in pairs)
