"""Nothing that runs from step to step waits for a GPU; `tests.waits` says how a CPU can tell.

Where there is a GPU, the same is tried on it.

In the environments all of `Trainer.train` is watched, in plans the making of every batch and every step.
What runs between intervals or epochs (decisions, selections, evaluations, the transfer of results) may
wait. `ALLOWED` names what may wait within them.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from dsenv.augment import CONTROLLERS, FixedStrength
from dsenv.control.registry import CONTROLS
from dsenv.control.trimming import trimmed
from dsenv.env.config import EnvConfig
from dsenv.env.session import Session
from dsenv.plan import DataPlan, FeatureForward
from dsenv.plan.epoch_record import EpochRecord
from dsenv.select.data_agent_ppo import Learner
from dsenv.select.random import UniformRandom
from dsenv.select.registry import SELECTORS
from dsenv.tasks import Recipe, Task, from_tensors
from dsenv.training.trainer import Trainer
from dsenv.volume.registry import SCHEDULES
from tests.policy.policies import new_policy
from tests.waits import WaitError, stand_in, true_gpu, watching, within

ALLOWED: dict[str, tuple[type, str]] = {
    # All rates of an interval in one copy, before its first step.
    "learning rates": (Trainer, "_learning_rates"),
    # The networks of a Data Agent, once a training: the first batch shows how long feature vectors are.
    "networks": (Learner, "__init__"),
    # Of a DataLoader's batches every position is checked against the epoch's samples, copied once an epoch.
    "host weights": (EpochRecord, "_on_host"),
}
BATCH, SIZE, CLASSES, HIDDEN = 6, 24, 3, 6
IMAGES = torch.randint(256, (SIZE + 12, 1, 4, 4), generator=torch.Generator().manual_seed(0)).byte()
LABELS = torch.arange(len(IMAGES)) % CLASSES
SETTINGS: dict[str, dict[str, Any]] = {  # beside the defaults: what is needed, or would begin too late
    "rho_loss": {"irreducible": torch.linspace(0, 1, SIZE)},
    "data_agent": {"config": {"rollout": 2}},
    "ent_augment": {"warm_up": 1},
    "sada": {"warm_up": 1, "window": 2},
    "ada_augment": {"features": HIDDEN},
    "pods": {"warmup": 0},
    "mask": {"candidates": 16},
}
VARIANTS: dict[str, dict[str, Any]] = {
    "data_agent released": {"name": "data_agent", "config": {"rollout": 2, "variant": "released"}},
    "sada loss": {"name": "sada", "estimator": "loss", "warm_up": 1, "window": 2},
    "sada tdds": {"name": "sada", "estimator": "tdds", "warm_up": 1, "window": 2},
}


def part(name: str) -> dict[str, Any]:
    return VARIANTS.get(name) or {"name": name, **SETTINGS.get(name, {})}


def all_of(names: Iterable[str], *without: str) -> list[str]:
    """The names of a registry, and their variants."""
    chosen = [name for name in names if name not in without]
    return [*chosen, *(name for name in VARIANTS if name.split()[0] in chosen)]


def new_model() -> nn.Sequential:
    return nn.Sequential(nn.Flatten(), nn.Linear(16, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, CLASSES))


@pytest.fixture
def device() -> Iterator[torch.device]:
    with stand_in() as device:
        yield device


@pytest.fixture(params=["stand_in", pytest.param("gpu", marks=pytest.mark.gpu)])
def either(request) -> Iterator[torch.device]:
    """The stand-in, and a GPU where there is one."""
    with stand_in() if request.param == "stand_in" else true_gpu() as device:
        yield device


@contextmanager
def watched_training(forbidden: str = "") -> Iterator[None]:
    """Watch `Trainer.train`; signals take in every batch by itself, so that this is watched too."""
    with ExitStack() as stack:
        for module in ("dsenv.training.trainer", "dsenv.plan.epoch_buffer"):
            stack.enter_context(patch(f"{module}.FLUSH_ELEMENTS", 1))
        stack.enter_context(patch.object(Trainer, "train", within(Trainer.train, "training")))
        for owner, name in (place for key, place in ALLOWED.items() if key != forbidden):
            stack.enter_context(patch.object(owner, name, within(getattr(owner, name), None)))
        yield


def train(device: torch.device, subset: float = 0.45, optimizer: str = "sgd", **settings: Any) -> Session:
    """Two episodes of two intervals, side by side, one on fewer samples; `settings` are the environment's."""
    forbidden, loss = settings.pop("forbidden", ""), settings.pop("loss", None)
    dataset = from_tensors(IMAGES, LABELS, train=SIZE, validation=6, test=6)
    task = Task(dataset, new_model, Recipe(optimizer=optimizer, lr=0.01, batch_size=BATCH), loss)
    session = Session(EnvConfig(task=task, intervals=2, **settings), 2, device)
    session.reset([0, 1], [np.random.default_rng(k) for k in range(2)], [{"subset": subset}, {}])
    rng = np.random.default_rng(0)
    with watched_training(forbidden):
        for _ in range(2):
            session.step(rng.uniform(-1, 1, (2, session.control.size)).astype(np.float32))
    assert session.finished.all() and session.trainer.signals.loss.device == device
    return session


@pytest.mark.parametrize("name", CONTROLS)
def test_no_control_waits_within_a_training(either, name):
    train(either, control=part(name))


def test_trimming_does_not_wait(device):
    """It runs between intervals, where something may wait; this need not."""
    session = train(device, control="curriculum")
    state = session.state
    state.signals.margin.fill_(-0.9)
    state.signals.times_trained.fill_(3)
    with watching("trimming"):
        place = trimmed(state, torch.ones(2, device=device))
    assert place.device == device and (place >= 0).any(1).tolist() == [True, True]


@pytest.mark.parametrize("name", all_of(SELECTORS))
def test_no_selector_waits_within_a_training(either, name):
    subset = 1.0 if name == "rho_loss" else 0.45  # its losses are those of all samples
    train(either, subset, control="rule", selector=part(name))


# "given" is what the controls "strength" and "joint" use; "ada_augment" is for plans alone.
@pytest.mark.parametrize("name", all_of(CONTROLLERS, "given", "ada_augment"))
def test_no_controller_waits_within_a_training(either, name):
    train(either, control="rule", augment=part(name))


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("form", ["loop", "stacked", "vmap"])
def test_no_form_of_replicas_waits_within_a_training(either, form, optimizer):
    train(either, control="rule", optimizer=optimizer, trainer={"form": form})


class Loop:
    """A training loop as a user writes it, on the stand-in."""

    def __init__(self, device: torch.device, source: str = "tensors", **settings: Any) -> None:
        images, labels = IMAGES[:SIZE], LABELS[:SIZE]
        data: dict[str, Any] = {
            "tensors": (images.to(device), labels.to(device)),
            "arrays": (images.numpy(), labels.numpy()),
            "data set": list(zip(images, labels, strict=True)),
        }
        self.held_out = (IMAGES[SIZE:].to(device), LABELS[SIZE:].to(device))
        self.model = new_model().to(device)
        self.forward = FeatureForward(self.model, self.model[-1])
        self.optimizer = torch.optim.SGD(self.model.parameters(), 0.1, momentum=0.9)
        known = {"epochs": 2, "batch_size": BATCH, "classes": CLASSES, "device": device, "ratio": 0.5}
        self.plan = DataPlan(data[source], **{**known, "transform": lambda x: x.float() / 255, **settings})
        self.scheduler = self.plan.lr_scheduler(self.optimizer, lambda progress: 1 - progress)
        self.makes = self._loaded if source == "data set" else self.plan.batches

    def _loaded(self) -> Iterator[Any]:
        """Batches of a DataLoader with pinned memory."""
        loader = DataLoader(self.plan.dataset, BATCH, sampler=self.plan.sampler)
        loaded = [(index.pin_memory(), [value.pin_memory() for value in sample]) for index, sample in loader]
        return (self.plan.batch(index, sample) for index, sample in loaded)

    def run(self) -> None:
        for epoch in self.plan.epochs_left():
            if self.plan.selector.needs_pass and epoch >= self.plan.epoch_sampler.uniform_epochs:
                self.plan.score(self.forward, self.held_out)
            batches = iter(self.makes())
            while self.plan.epoch_sampler.done < self.plan.epoch_sampler.end:
                with watching("making a batch"):
                    batch = next(batches)
                with watching("a step"):
                    self.step(batch)
            self.plan.report_validation(0.5)

    def step(self, batch: Any) -> None:
        logits, features = self.forward(batch.inputs)
        losses = F.cross_entropy(logits, batch.labels, reduction="none")
        loss = self.plan.loss(batch, losses, logits=logits, features=features, forward=self.forward)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.scheduler.step()


def follow(device: torch.device, forbidden: str = "", **settings: Any) -> None:
    """Train by a plan with these settings."""
    with watched_training(forbidden):
        loop = Loop(device, **settings)
        loop.run()
    assert loop.plan.epoch == 2 and loop.plan.signals.loss.device == device


@pytest.mark.parametrize("name", all_of(SELECTORS))
def test_no_selector_of_a_plan_waits(either, name):
    follow(either, selector=part(name), uniform_epochs=1)  # some have to observe before they select


@pytest.mark.parametrize("name", all_of(CONTROLLERS))
def test_no_controller_of_a_plan_waits(either, name):
    follow(either, augment=part(name))


@pytest.mark.parametrize("source", ["tensors", "data set"])
def test_no_guard_of_a_plan_waits(device, source):
    with watched_training():
        loop = Loop(device, source, selector="small_loss", guard=True, epochs=4)
        loop.plan.guard._keep(torch.arange(3, device=device))  # these data are too few for a reserve
        loop.run()
    assert 0 <= loop.plan.guard.agreement() <= 1


@pytest.mark.parametrize("name", SCHEDULES)
def test_no_volume_of_a_plan_waits(either, name):
    follow(either, volume=part(name))


@pytest.mark.parametrize("name", sorted(set(CONTROLS) - {"rule"}))  # a rule decides nothing
def test_no_policy_of_a_plan_waits(either, name):
    follow(either, policy=new_policy(part(name)))


@pytest.mark.parametrize("source", ["tensors", "arrays", "data set"])
def test_no_source_of_a_plan_waits(either, source):
    follow(either, source=source, augment="trivial")


@pytest.mark.parametrize(
    ("name", "run", "settings"),
    [
        ("learning rates", train, {"control": "rule"}),
        ("networks", train, {"control": "rule", "selector": part("data_agent")}),
        ("host weights", follow, {"source": "data set"}),
    ],
    ids=ALLOWED,
)
def test_what_is_allowed_to_wait_does(device, name, run, settings):
    with pytest.raises(WaitError, match="would wait for a GPU"):
        run(device, forbidden=name, **settings)


def waiting(x: Tensor, mask: Tensor) -> dict[str, Callable[[], Any]]:
    """What waits, on x (3,) and a mask (3,) that holds twice."""
    return {
        "item": lambda: x.sum().item(),
        "bool": lambda: bool(mask.any()),
        "int": lambda: int(x[0]),
        "range": lambda: range(x.long()[0]),
        "format": lambda: f"{x.mean():.2f}",
        "tolist": lambda: x.tolist(),
        "nonzero": lambda: mask.nonzero(),
        "where": lambda: torch.where(mask),
        "mask": lambda: x[mask],
        "mask written to": lambda: x.__setitem__(mask, x[0].clone()),
        "number at positions": lambda: x.__setitem__(x.long(), 1.0),
        "masked_select": lambda: x.masked_select(mask),
        "unique": lambda: x.unique(),
        "bincount": lambda: x.long().bincount(),
        "repeat_interleave": lambda: x.repeat_interleave(mask.long()),
        "equal": lambda: torch.equal(x, x + 0),
        "allclose": lambda: torch.allclose(x, x),
        "cpu": lambda: x.cpu(),
        "copy_ to the host": lambda: torch.empty(3).copy_(x),
        "tensor": lambda: torch.tensor([1.0], device=x.device),
        "new_tensor": lambda: x.new_tensor([1.0]),
        "from_numpy": lambda: torch.from_numpy(np.ones(3)).to(x.device),
        "not pinned": lambda: torch.ones(3).to(x.device, non_blocking=True),
        "pinned, blocking": lambda: torch.ones(3).pin_memory().to(x.device),
        "one element": lambda: x.__setitem__(0, 1.0),
        "list of positions": lambda: x[[0, 2]],
        "scalar of the host": lambda: torch.where(mask, torch.tensor(1.0), x),
    }


def free(x: Tensor, mask: Tensor) -> dict[str, Callable[[], Any]]:
    """What does not wait, on the same."""
    return {
        "pinned": lambda: torch.ones(3).pin_memory().to(x.device, non_blocking=True),
        "made pinned": lambda: torch.tensor([1, 2], pin_memory=True).to(x.device, non_blocking=True),
        "number of the host": lambda: torch.ones(3).sum().item(),
        "where": lambda: torch.where(mask, 1.0, x),
        "filled mask": lambda: x.__setitem__(mask, 0.0),
        "filled positions": lambda: x.index_fill_(0, x.long(), 1.0),
        "filled slice": lambda: x.__setitem__(slice(2), 1.0),
        "known size": lambda: x.repeat_interleave(mask.long(), output_size=2),
        "nonzero_static": lambda: torch.nonzero_static(mask, size=2),
        "same device": lambda: x.to(x.device),
    }


NOTHING = torch.zeros(0)


@pytest.mark.parametrize("name", waiting(NOTHING, NOTHING))
def test_a_wait_is_found(device, name):
    x = torch.arange(3.0, device=device)
    act = waiting(x, x > 0)[name]
    act()  # nobody watches
    with pytest.raises(WaitError, match="this would wait"), watching("this"):
        act()


@pytest.mark.parametrize("name", free(NOTHING, NOTHING))
def test_what_does_not_wait_is_let_through(either, name):
    x = torch.arange(3.0, device=either)
    act = free(x, x > 0)[name]
    with watching("this"):
        act()


TORCH_MISSES = ("not pinned", "pinned, blocking", "copy_ to the host")
"""What waits, and torch lets through all the same."""


@pytest.mark.gpu
@pytest.mark.parametrize("name", sorted(waiting(NOTHING, NOTHING).keys() - set(TORCH_MISSES)))
def test_a_gpu_waits_where_the_stand_in_does(name):
    with true_gpu() as device:
        x = torch.arange(3.0, device=device)
        act = waiting(x, x > 0)[name]
        act()
        with pytest.raises(RuntimeError, match="synchronizing CUDA operation"), watching("this"):
            act()


def test_the_stand_in_keeps_devices_apart(device):
    x = torch.arange(3.0, device=device)
    with pytest.raises(RuntimeError, match="same device"):
        x + torch.ones(3)
    with pytest.raises(TypeError, match="can't convert cuda:0"):
        x.numpy()
    assert x.device == device and (x + 1).sum().item() == 6 and x.cpu().device.type == "cpu"


class Reading(UniformRandom):
    """A selector that reads a number of every batch."""

    def observe(self, batch):
        self.worst = batch.loss.max().item()


class Masking(FixedStrength):
    """A controller that works on a masked part of every batch."""

    def strengths(self, signals, index, generator):
        strength = super().strengths(signals, index, generator)
        strength[signals.loss[index] > 1] *= 0.5
        return strength


def copying_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """A loss that takes its numbers to the host and back."""
    return F.cross_entropy(logits.cpu(), labels.cpu(), reduction="none").to(logits.device)


def test_a_selector_that_reads_a_number_is_found(device):
    with pytest.raises(WaitError, match=r"training would wait for a GPU: aten\._local_scalar_dense"):
        train(device, control="rule", selector=f"{__name__}:Reading")
    with pytest.raises(WaitError, match=r"a step would wait for a GPU: aten\._local_scalar_dense"):
        follow(device, selector=Reading())


def test_a_controller_that_masks_is_found(device):
    with pytest.raises(WaitError, match=r"making a batch would wait for a GPU: aten\.index"):
        follow(device, augment=Masking())
    with (
        patch.dict(CONTROLLERS, masking=Masking),
        pytest.raises(WaitError, match=r"training would .* aten\.index"),
    ):
        train(device, control="rule", augment="masking")


def test_a_loss_that_copies_is_found(device):
    with pytest.raises(WaitError, match=r"training would wait for a GPU: .* a copy to the host"):
        train(device, control="rule", loss=copying_loss)


def test_the_stand_in_trains_as_the_cpu_does():
    settings = {"control": "rule", "augment": "trivial"}  # bins would break ties in another order
    plain = train(torch.device("cpu"), **settings)
    with stand_in() as device:
        other = train(device, **settings)
        loss, labels = other.trainer.signals.loss.cpu(), other.trainer.labels.cpu()
    assert torch.equal(plain.trainer.labels, labels) and len(loss.unique()) > SIZE
    torch.testing.assert_close(plain.trainer.signals.loss, loss, rtol=1e-4, atol=1e-4)
