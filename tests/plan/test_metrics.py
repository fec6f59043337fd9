"""What a plan tells a logger is what happened, whatever loop it is in, and telling it changes nothing."""

import copy
import math
import pickle
import random
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar.layout_pb2 import Layout
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader
from torch.utils.tensorboard import SummaryWriter

from dsenv import DataPlan
from dsenv.plan import IndexedCollate
from dsenv.plan.log import as_image
from dsenv.tracking import names
from tests.policy.policies import new_policy
from tests.waits import stand_in

pytestmark = pytest.mark.fast

SIZE, BATCH, CLASSES, EPOCHS = 60, 10, 4, 4
MAKER = torch.Generator().manual_seed(0)
LABELS = torch.arange(SIZE) % CLASSES
IMAGES = (LABELS[:, None, None, None] * 50 + torch.randint(50, (SIZE, 1, 6, 6), generator=MAKER)).byte()
SETTINGS = {"selector": "infobatch", "volume": "linear", "ratio": 0.6}
STEPS = list(range(EPOCHS))


def scale(images: Tensor) -> Tensor:
    return images.float() / 255


class Run:
    """A plan, a model and an optimizer; keeps what every step saw."""

    def __init__(self, data: Any = (IMAGES, LABELS), logits: bool = True, **settings: Any) -> None:
        known: dict[str, Any] = {
            "epochs": EPOCHS,
            "batch_size": BATCH,
            "classes": CLASSES,
            "transform": scale,
        }
        self.plan = DataPlan(data, **{**known, **SETTINGS, **settings})
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.model = nn.Sequential(nn.Flatten(), nn.Linear(36, CLASSES))
        self.optimizer = torch.optim.SGD(self.model.parameters(), 0.5)
        self.with_logits = logits
        self.seen: list[tuple[Tensor, Tensor, Tensor]] = []  # positions, losses and hits of each step
        self.spoiled: tuple[int, ...] = ()  # positions whose loss is made infinite

    def step(self, batch: Any) -> None:
        logits = self.model(batch.inputs)
        losses = F.cross_entropy(logits, batch.labels, reduction="none")
        bad = torch.isin(batch.index, batch.index.new_tensor(self.spoiled))
        losses = torch.where(bad, torch.inf, losses)
        self.plan.loss(batch, losses, logits=logits if self.with_logits else None)
        loss = losses[~bad].mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.seen.append((batch.index[~bad], losses[~bad].detach(), (logits.argmax(1) == batch.labels)[~bad]))

    def epoch(self, first: int = 0, steps: int | None = None) -> None:
        """The steps of what is left of an epoch, up to the number `steps` of them."""
        for number, batch in enumerate(self.plan.batches(), first):
            if steps is not None and number >= steps:
                return
            self.step(batch)

    def run(self) -> list[dict[str, float]]:
        found = []
        for _ in self.plan.epochs_left():
            self.epoch()
            found.append(self.plan.metrics())
            self.plan.report_validation(0.5)  # for policies that want it
        return found

    def state_dict(self) -> dict[str, Any]:
        parts = {"plan": self.plan, "model": self.model, "optimizer": self.optimizer}
        return copy.deepcopy({name: part.state_dict() for name, part in parts.items()})

    def load_state_dict(self, state: dict[str, Any]) -> "Run":
        for name, part in (("plan", self.plan), ("model", self.model), ("optimizer", self.optimizer)):
            part.load_state_dict(copy.deepcopy(state[name]))
        return self


def timeless(found: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in found.items() if "seconds" not in name}


def events(folder: Path) -> EventAccumulator:
    found = EventAccumulator(str(folder), {"scalars": 0, "images": 0, "histograms": 0, "tensors": 0})
    return found.Reload()


def curves(folder: Path) -> dict[str, list[tuple[int, float]]]:
    log = events(folder)
    return {tag: [(e.step, e.value) for e in log.Scalars(tag)] for tag in log.Tags()["scalars"]}


# Values


def slow_bins(losses: list[float], chosen: list[int]) -> list[float]:
    """Share of the chosen from each fifth of all samples by loss."""
    order = sorted(range(SIZE), key=lambda position: losses[position])
    fifth = {position: 5 * place // SIZE for place, position in enumerate(order)}
    return [sum(fifth[position] == b for position in chosen) / len(chosen) for b in range(5)]


@pytest.mark.parametrize("flush", [1 << 24, 1], ids=["whole epochs", "step by step"])
def test_values_are_those_of_slow_definitions(flush: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dsenv.plan.epoch_buffer.FLUSH_ELEMENTS", flush)
    run = Run(augment={"name": "fixed", "strength": 0.25, "ramp_epochs": 2}, uniform_epochs=1)
    losses, known, samples = [math.log(CLASSES)] * SIZE, set[int](), 0
    for epoch in run.plan.epochs_left():
        run.seen = []
        run.epoch()
        found = run.plan.metrics()
        index, loss, hits = (torch.cat(parts) for parts in zip(*run.seen, strict=True))
        chosen = index.tolist()
        samples += len(chosen)

        assert found[names.SHARE] == len(chosen) / SIZE
        assert found[names.SAMPLES] == samples and found[names.FORWARDS] == 0
        assert found[names.TRAIN_LOSS] == pytest.approx(float(loss.mean()), rel=1e-5)
        assert found[names.TRAIN_ACCURACY] == pytest.approx(float(hits.float().mean()))
        assert found[names.STRENGTH] == pytest.approx(0.25 * min(1, epoch / 2))
        assert found[names.NOT_FINITE] == 0
        assert found[names.NEW] == pytest.approx(len(set(chosen) - known) / len(chosen))
        assert found[names.PLAN_SECONDS] == pytest.approx(sum(run.plan.cost.seconds.values()))
        assert 0 < found[names.EPOCH_SECONDS] < 60
        assert all(type(value) is float and math.isfinite(value) for value in found.values())

        bins = [found.get(names.loss_bin(b)) for b in range(5)]
        if epoch == 0:
            assert bins == [None] * 5
        elif len(set(losses)) == SIZE:  # equal losses may go in any order
            assert bins == pytest.approx(slow_bins(losses, chosen))
        known |= set(chosen)
        for position, value in zip(chosen, loss.tolist(), strict=True):
            losses[position] = value
    assert len(set(losses)) == SIZE


def test_bins_are_there_from_the_second_epoch_on() -> None:
    found = Run(ratio=None, volume=None, selector="small_loss", epochs=3).run()
    assert [names.loss_bin(0) in each for each in found] == [False, True, True]
    assert found[1][names.loss_bin(4)] == pytest.approx(0.2)  # all data
    half = Run(ratio=0.5, volume=None, selector="small_loss", epochs=4).run()
    for each in half[2:]:  # the smallest losses are chosen
        assert each[names.loss_bin(0)] == pytest.approx(0.4) and each[names.loss_bin(4)] == 0
        assert sum(each[names.loss_bin(b)] for b in range(5)) == pytest.approx(1)


def test_what_is_not_known_is_left_out() -> None:
    plan = Run().plan
    assert timeless(plan.metrics()) == {names.SAMPLES: 0, names.FORWARDS: 0}
    found = Run(logits=False, selector="small_loss", volume=None).run()
    assert names.TRAIN_LOSS in found[-1] and names.TRAIN_ACCURACY not in found[-1]
    assert names.STRENGTH not in found[-1]

    # No classes, so nobody knows the loss of a sample that was never trained on
    targets = torch.rand(SIZE, generator=MAKER)
    plan = DataPlan((IMAGES, targets), epochs=4, batch_size=BATCH, ratio=0.5, selector="small_loss")
    for _ in plan.epochs_left():
        for batch in plan.batches():
            plan.loss(batch, 100 + batch.labels)
        seen_all = bool(plan.signals.seen.all())
        assert (names.loss_bin(0) in plan.metrics()) == seen_all


@pytest.mark.parametrize("flush", [1 << 24, 1])
def test_values_that_are_not_finite_are_counted_and_left_out(
    flush: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dsenv.plan.epoch_buffer.FLUSH_ELEMENTS", flush)
    run, later = Run(ratio=None, volume=None, selector="random"), []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for epoch in run.plan.epochs_left():
            run.spoiled, run.seen = ((3, 7), (3,), (), (5,))[epoch], []
            run.epoch()
            found = run.plan.metrics()
            loss = torch.cat([losses for _, losses, _ in run.seen])
            assert found[names.NOT_FINITE] == len(run.spoiled)
            assert found[names.TRAIN_LOSS] == pytest.approx(float(loss.mean()), rel=1e-5)
            later.append(found)
    assert timeless(run.plan.metrics()) == pytest.approx(timeless(later[-1]))


@pytest.mark.parametrize("name", ["trivial", "rand_augment", "ent_augment", "sada"])
def test_the_strength_is_what_the_controller_gave(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    run, given = Run(augment=name), []
    kind = type(run.plan.controller)
    strengths: Callable[..., Tensor] = kind.strengths

    def noting(*arguments: Any) -> Tensor:
        given.append(strengths(*arguments))
        return given[-1]

    monkeypatch.setattr(kind, "strengths", noting)
    for _ in run.plan.epochs_left():
        given.clear()
        run.epoch()
        assert run.plan.metrics()[names.STRENGTH] == pytest.approx(float(torch.cat(given).mean()))


def test_of_which_epoch_the_metrics_are() -> None:
    """The current one once something was trained on, until then the one before."""
    run, found = Run(), []
    for epoch in STEPS:
        run.plan.start_epoch(epoch)
        assert not found or timeless(run.plan.metrics()) == pytest.approx(timeless(found[-1]))
        assert run.plan.steps_in_epoch() and len(run.plan.sampler)  # chooses the samples
        assert not found or timeless(run.plan.metrics()) == pytest.approx(timeless(found[-1]))
        run.epoch()
        found.append(run.plan.metrics())
    assert timeless(run.plan.metrics()) == pytest.approx(timeless(found[-1]))
    run.plan.start_epoch(EPOCHS)
    assert timeless(run.plan.metrics()) == pytest.approx(timeless(found[-1]))
    assert [each[names.SHARE] for each in found] == [
        count / SIZE for count in run.plan.epoch_schedule.counts or ()
    ]


def test_the_entries_of_the_policy_are_named_and_as_it_saw_them(monkeypatch: pytest.MonkeyPatch) -> None:
    run, shown = Run(policy=new_policy("joint"), selector=None, volume=None, ratio=0.6), []
    policy = run.plan.selector.policy  # type: ignore[attr-defined]
    act = policy.actions
    monkeypatch.setattr(policy, "actions", lambda rows: shown.append(rows) or act(rows))
    found = run.run()
    assert len(shown) == EPOCHS
    for each, rows in zip(found, shown, strict=True):
        features = [value for name, value in each.items() if name.startswith("policy/")]
        assert features == pytest.approx(rows[0].tolist())
    assert found[2][names.feature("share of the intervals done")] == 0.5
    assert found[2][names.feature("ratio of the last interval")] == pytest.approx(found[1][names.SHARE])


def test_of_a_policy_over_candidates_no_candidate_is_shown() -> None:
    policy = new_policy({"name": "mask", "candidates": 16})
    found = Run(policy=policy, selector=None, volume=None, ratio=0.5).run()[-1]
    assert names.feature("share of the intervals done") in found
    assert not any("candidate" in name for name in found)


def test_several_policies_are_told_apart() -> None:
    learned = {
        "selector": {"name": "learned", "policy": new_policy("curriculum")},
        "augment": {"name": "learned", "policy": new_policy("strength", seed=1)},
    }
    found = Run(**learned, volume=None, ratio=0.5).run()[-1]
    assert "policy/target ratio" in found and "policy 2/target ratio" in found


@pytest.mark.parametrize("control", ["joint", "curriculum", {"name": "mask", "candidates": 16}])
def test_names_hold_nothing_that_a_logger_refuses(control: Any) -> None:
    settings: dict[str, Any] = {"policy": new_policy(control), "selector": None, "volume": None}
    found = Run(**settings, ratio=0.5).run()[-1]
    assert len(found) > 40
    for name in found:
        assert re.fullmatch(r"[A-Za-z0-9_\-. :/]+", name), name


def test_on_a_device_the_values_are_the_same() -> None:
    def found(device: str | torch.device) -> list[dict[str, float]]:
        run = Run((IMAGES.to(device), LABELS.to(device)), augment={"name": "fixed", "strength": 0.0})
        run.model.to(device)
        writer = Writer()
        run.plan.log_to(writer, pictures=1)
        each = run.run()
        assert len(each) == EPOCHS and names.IMAGES in writer.images
        twin = Run((IMAGES.to(device), LABELS.to(device)), augment={"name": "fixed", "strength": 0.0})
        twin.plan.load_state_dict(run.plan.state_dict())
        return each

    with stand_in() as device:
        there = found(device)
    here = found("cpu")
    assert [each.keys() for each in there] == [each.keys() for each in here]
    assert [each[names.SHARE] for each in there] == [each[names.SHARE] for each in here]


# States


def test_the_middle_of_an_epoch_goes_on_with_the_same_values(monkeypatch: pytest.MonkeyPatch) -> None:
    for flush in (1 << 24, 1):
        monkeypatch.setattr("dsenv.plan.epoch_buffer.FLUSH_ELEMENTS", flush)
        whole = Run(augment="trivial").run()
        run, found = Run(augment="trivial"), []
        for _ in run.plan.epochs_left():
            run.epoch(0, 2)
            state = run.state_dict()
            other = Run(augment="trivial").load_state_dict(state)
            here, there = run.plan.metrics(), other.plan.metrics()
            assert names.EPOCH_SECONDS not in there  # nobody knows how long it stood still
            assert there == {name: value for name, value in here.items() if name != names.EPOCH_SECONDS}
            run.epoch(2)
            found.append(run.plan.metrics())
        assert [timeless(each) for each in found] == [timeless(each) for each in whole]


def test_an_older_state_loads_and_what_it_does_not_know_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def older(run: Run) -> Run:
        state = run.state_dict()
        del state["plan"]["metrics"]
        state["plan"]["version"] = 2
        return Run(augment="trivial").load_state_dict(state)

    def second_epoch(steps: int) -> Run:
        run = Run(augment="trivial")
        for epoch in run.plan.epochs_left():
            run.epoch(0, steps if epoch else None)
            if epoch:
                return run
        raise AssertionError

    run = second_epoch(2)
    left_out = {names.STRENGTH, names.EPOCH_SECONDS}
    assert older(run).plan.metrics() == {k: v for k, v in run.plan.metrics().items() if k not in left_out}

    # The signals hold a part of the epoch, and what they held before is lost
    monkeypatch.setattr("dsenv.plan.epoch_buffer.FLUSH_ELEMENTS", 1)
    found = older(second_epoch(2)).plan.metrics()
    assert set(timeless(found)) == {names.SHARE, names.NEW, names.SAMPLES, names.FORWARDS}

    # Between two epochs nothing is known of the one before
    run = Run()
    run.epoch()
    run.plan.start_epoch(1)
    assert set(timeless(older_between(run).plan.metrics())) == {names.SAMPLES, names.FORWARDS}


def older_between(run: Run) -> Run:
    return Run().load_state_dict(run.state_dict())


def test_a_policy_is_seen_again_after_a_resume() -> None:
    settings: dict[str, Any] = {"policy": new_policy("joint"), "selector": None, "volume": None, "ratio": 0.6}
    run = Run(**settings)
    run.epoch()
    run.plan.report_validation(0.5)
    run.plan.start_epoch(1)
    run.epoch(0, 2)
    state = run.state_dict()
    assert Run(**settings).load_state_dict(state).plan.metrics().keys() >= {names.feature("target ratio")}
    (inside,) = state["plan"]["epoch_sampler"]["policies"].values()
    inside["acted_on"] = inside["acted_on"][1:]
    with pytest.raises(ValueError, match="acted_on"):
        Run(**settings).load_state_dict(state)
    del inside["acted_on"]  # as older states
    assert not any("policy/" in name for name in Run(**settings).load_state_dict(state).plan.metrics())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("losses", torch.zeros(SIZE - 1)),
        ("nonfinite", torch.zeros(SIZE)),
        ("strengths", [1.0]),
        ("series", {"changing": {}, "bins": []}),
        ("series", 3),
    ],
)
def test_a_damaged_part_of_a_state_is_refused(name: str, value: Any) -> None:
    run = Run(augment="trivial")
    run.epoch(0, 2)
    state = run.plan.state_dict()
    state["metrics"][name] = value
    with pytest.raises(ValueError, match="state"):
        Run(augment="trivial").plan.load_state_dict(state)


# The log


def test_the_log_holds_what_the_metrics_said(tmp_path: Path) -> None:
    run = Run(augment="trivial")
    with SummaryWriter(tmp_path) as writer:
        run.plan.log_to(writer, pictures=2)
        found = run.run()

    log, scalars = events(tmp_path), curves(tmp_path)
    assert scalars[names.TRAIN_LOSS] == [
        (step, pytest.approx(each[names.TRAIN_LOSS], rel=1e-6)) for step, each in enumerate(found)
    ]
    bins = [(step, pytest.approx(found[step][names.loss_bin(4)], rel=1e-6)) for step in STEPS[1:]]
    assert scalars[names.loss_bin(4)] == bins
    assert [step for step, _ in scalars[names.SHARE]] == STEPS
    assert names.FORWARDS not in scalars and names.NOT_FINITE not in scalars  # they never change

    # Histograms of all samples that were seen, pictures at their rhythm, and the layout
    for name in ("losses", "confidences"):
        histograms = log.Histograms(names.pool(name))
        assert [each.step for each in histograms] == STEPS
        assert histograms[-1].histogram_value.num == int(run.plan.signals.seen.sum())
    assert histograms[-1].histogram_value.max == pytest.approx(float(run.plan.signals.confidence.max()))
    assert [each.step for each in log.Images(names.BY_BIN)] == [1, 3]
    assert [each.step for each in log.Images(names.IMAGES)] == [1, 3]
    (event,) = log.Tensors("custom_scalars__config__")
    layout = Layout.FromString(event.tensor_proto.string_val[0])
    tags = [tag for category in layout.category for chart in category.chart for tag in chart.multiline.tag]
    assert len(tags) == 9
    for tag in tags:
        assert [name for name in scalars if re.match(tag, name)], tag


class Drawing:
    """A data set that draws from the global streams, and from one of its own; counts."""

    def __init__(self) -> None:
        self.own, self.read = torch.Generator().manual_seed(1), 0

    def __len__(self) -> int:
        return SIZE

    def __getitem__(self, position: int) -> tuple[Tensor, int]:
        self.read += 1
        noise = torch.rand(1) + torch.rand(1, generator=self.own) + random.random()
        return (IMAGES[position] * (1 + noise / 3)).byte(), int(LABELS[position])


def test_no_number_of_the_training_run_depends_on_the_log(tmp_path: Path) -> None:
    def run(folder: Path | None) -> Run:
        torch.manual_seed(0)
        random.seed(0)
        made = Run(Drawing(), augment="ent_augment", policy=None)
        if folder is not None:
            made.plan.log_to(SummaryWriter(folder), pictures=1)
        for _ in made.plan.epochs_left():
            made.epoch()
            if folder is not None:
                made.plan.metrics()
        return made

    plain, logged = run(None), run(tmp_path)
    for one, other in zip(plain.model.parameters(), logged.model.parameters(), strict=True):
        assert torch.equal(one, other)
    assert plain.plan.dataset.dataset.read == logged.plan.dataset.dataset.read
    states = [made.plan.state_dict() for made in (plain, logged)]
    for state in states:
        del state["feedback"]["cost"]["seconds"]
        state["metrics"]["series"] = None
    assert str(states[0]) == str(states[1])
    for name, signal in states[0]["feedback"]["signals"].items():
        assert torch.equal(signal, states[1]["feedback"]["signals"][name])
    assert len(events(tmp_path).Images(names.IMAGES)) == EPOCHS


def by_epochs_left(run: Run) -> None:
    for _ in run.plan.epochs_left():
        run.epoch()


def by_start_epoch(run: Run) -> None:
    for epoch in STEPS:
        run.plan.start_epoch(epoch)
        run.epoch()


def by_set_epoch(run: Run) -> None:
    plan = run.plan
    loader = DataLoader(plan.dataset, BATCH, sampler=plan.sampler, collate_fn=IndexedCollate())
    for epoch in STEPS:
        plan.sampler.set_epoch(epoch)
        for raw in loader:
            run.step(plan.batch(*raw))


def by_start_epoch_to_the_end(run: Run) -> None:
    by_start_epoch(run)
    run.plan.start_epoch(EPOCHS)


LOOPS = [by_epochs_left, by_start_epoch, by_set_epoch, by_start_epoch_to_the_end]


@pytest.mark.parametrize("loop", LOOPS)
def test_every_loop_writes_each_epoch_once(loop: Callable[[Run], None], tmp_path: Path) -> None:
    run = Run()
    with SummaryWriter(tmp_path) as writer:
        run.plan.log_to(writer, pictures=3)
        loop(run)
    scalars = curves(tmp_path)
    assert [step for step, _ in scalars[names.TRAIN_LOSS]] == STEPS
    log = events(tmp_path)
    assert [each.step for each in log.Histograms(names.pool("losses"))] == STEPS
    assert [each.step for each in log.Images(names.BY_BIN)] == [2, 3]


def test_an_epoch_that_is_left_early(tmp_path: Path) -> None:
    run = Run()
    with SummaryWriter(tmp_path) as writer:
        run.plan.log_to(writer)
        for epoch in run.plan.epochs_left():  # the loop over batches is left: the epoch ends
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                run.epoch(0, 2 if epoch == 0 else None)
            if epoch == 0:
                continue
            break  # after all of its batches: written
        for _ in run.plan.epochs_left():  # goes on with the next
            run.epoch(0, 1)
            break  # in the middle of an epoch: not written
    found = curves(tmp_path)
    assert [step for step, _ in found[names.TRAIN_LOSS]] == [0, 1]
    assert found[names.SAMPLES][0][1] == 2 * BATCH


STOPS = {"in an epoch": 2, "after its last batch": None, "before its first batch": 0}


@pytest.mark.parametrize("where", STOPS)
def test_a_resumed_run_continues_every_curve(where: str, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"volume": "linear", "augment": {"name": "fixed", "ramp_epochs": 2}}
    settings |= {"epochs": 6, "selector": "small_loss"}
    whole = Run(**settings)
    with SummaryWriter(tmp_path / "whole") as writer:
        whole.plan.log_to(writer, pictures=3)
        whole.run()

    first = Run(**settings)
    with SummaryWriter(tmp_path / "parts") as writer:
        first.plan.log_to(writer, pictures=3)
        for epoch in first.plan.epochs_left():
            if epoch == 3:
                first.epoch(0, STOPS[where])
                state = first.state_dict()
                first.epoch() if where != "after its last batch" else None
            else:
                first.epoch()
            if epoch == 4:  # past the saved state, and then it is killed
                break

    later = Run(**settings).load_state_dict(state)
    with SummaryWriter(tmp_path / "parts", purge_step=later.plan.epoch) as writer:
        later.plan.log_to(writer, pictures=3)
        later.run()

    one, other = curves(tmp_path / "whole"), curves(tmp_path / "parts")
    assert one.keys() == other.keys()
    for name in one:
        if "seconds" not in name:
            assert other[name] == one[name], name
    logs = [events(tmp_path / name) for name in ("whole", "parts")]
    for log in logs:
        assert [each.step for each in log.Images(names.BY_BIN)] == [2, 5]
    pictures = [log.Images(names.BY_BIN)[-1].encoded_image_string for log in logs]
    assert pictures[0] == pictures[1]  # with the epochs before the resume


class Writer:
    """Has what is asked of a writer, and keeps what it is given."""

    def __init__(self) -> None:
        self.scalars: list[Any] = []
        self.images: list[str] = []

    def add_scalar(self, name: str, value: float, step: int) -> None:
        self.scalars.append((name, value, step))

    def add_image(self, name: str, image: Any, step: int, dataformats: str) -> None:
        assert image.dtype == np.uint8 and image.shape[2] == 3 and dataformats == "HWC"
        self.images.append(name)

    def add_histogram(self, name: str, values: Any, step: int) -> None:
        assert len(values)

    def add_custom_scalars(self, layout: Any) -> None:
        assert layout


class NoImages:
    add_scalar = add_histogram = add_custom_scalars = print


@pytest.mark.parametrize(
    ("writer", "words"),
    [
        (NoImages(), "NoImages: it has no add_image; give torch.utils.tensorboard.SummaryWriter"),
        ("runs/mine", "str: it has no add_scalar, add_histogram, add_image, add_custom_scalars"),
        (None, "NoneType"),
        (Writer, "the class Writer: make an object of it"),
    ],
)
def test_a_writer_that_lacks_something_is_refused(writer: Any, words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        Run().plan.log_to(writer)


def test_the_rhythm_of_pictures_is_a_number() -> None:
    with pytest.raises(ValueError, match="pictures must be"):
        Run().plan.log_to(Writer(), pictures=-1)
    run, writer = Run(), Writer()
    run.plan.log_to(writer, pictures=0)
    run.run()
    assert writer.images == [] and writer.scalars


def test_a_copy_has_no_log() -> None:
    run, writer = Run(), Writer()
    writer.lock = SummaryWriter  # type: ignore[attr-defined]
    run.plan.log_to(writer)
    run.epoch()
    for twin in (copy.deepcopy(run.plan), pickle.loads(pickle.dumps(run.plan))):
        twin.start_epoch(1)
        assert twin.metrics().keys() >= {names.TRAIN_LOSS}
    assert writer.scalars == []
    run.plan.start_epoch(1)
    run.epoch()
    run.plan.start_epoch(2)
    assert writer.scalars


def test_another_writer_takes_over() -> None:
    run, first, second = Run(), Writer(), Writer()
    run.plan.log_to(first)
    for epoch in run.plan.epochs_left():
        run.epoch()
        if epoch == 1:
            run.plan.log_to(second)
    assert {step for *_, step in first.scalars} == {0} or not first.scalars
    assert {step for *_, step in second.scalars} >= {1, 2, 3}


# Images


def logged(data: Any, **settings: Any) -> list[str]:
    writer, run = Writer(), Run(data, **settings)
    run.plan.log_to(writer, pictures=1)
    run.run()
    return writer.images


class Items(list[Any]):
    """Samples by position."""


def test_a_log_without_logits_has_no_confidences() -> None:
    written, writer = [], Writer()
    writer.add_histogram = lambda *given: written.append(given[0])  # type: ignore[method-assign]
    run = Run(logits=False, selector="small_loss", volume=None)
    run.plan.log_to(writer, pictures=1)
    run.run()
    assert written == [names.pool("losses")] * EPOCHS


def test_a_state_without_a_log_starts_the_log_anew() -> None:
    run, state = Run(), Run().plan.state_dict()
    run.plan.log_to(Writer())
    run.run()
    run.plan.load_state_dict(state)
    assert run.plan.state_dict()["metrics"]["series"] == {"changing": {"held": {}, "changed": []}, "bins": []}


def test_samples_that_are_no_images_have_no_sheet() -> None:
    table = torch.rand(SIZE, 36, generator=MAKER)
    assert set(logged((table, LABELS), transform=None)) == {names.BY_BIN}
    rows = Items(zip(table, LABELS.tolist(), strict=True))
    assert names.IMAGES not in logged(rows, transform=None)


@pytest.mark.parametrize("kind", ["tensors", "arrays", "data set", "dicts"])
def test_images_are_found_in_every_kind_of_data(kind: str, tmp_path: Path) -> None:
    np.save(tmp_path / "images.npy", IMAGES.numpy())
    data: Any = {
        "tensors": (IMAGES, LABELS),
        "arrays": (np.load(tmp_path / "images.npy", mmap_mode="r"), LABELS.numpy()),
        "data set": Items(zip(IMAGES, LABELS.tolist(), strict=True)),
        "dicts": Items({"label": c, "image": x} for x, c in zip(IMAGES, LABELS.tolist(), strict=True)),
    }[kind]
    writer, run = Writer(), Run(data if kind != "dicts" else (IMAGES, LABELS))
    if kind == "dicts":
        run.plan = DataPlan(data, epochs=2, batch_size=BATCH, ratio=0.5, classes=CLASSES)
    run.plan.log_to(writer, pictures=1)
    for _ in run.plan.epochs_left():
        batches = run.plan.batches()
        for batch in batches:
            inputs, labels = (batch.inputs, batch.labels)
            if kind == "dicts":
                inputs, labels = scale(inputs["image"]), inputs["label"]
            run.step(batch._replace(inputs=inputs, labels=labels))
    assert writer.images.count(names.IMAGES) == run.plan.epochs


def test_forms_of_images() -> None:
    grey, colour = np.zeros((5, 6), np.uint8), np.zeros((5, 6, 3), np.float32)
    assert as_image(grey).shape == (1, 5, 6)  # type: ignore[union-attr]
    assert as_image(colour).shape == (3, 5, 6)  # type: ignore[union-attr]
    assert as_image(torch.zeros(3, 5, 6, dtype=torch.bfloat16)).shape == (3, 5, 6)  # type: ignore[union-attr]
    assert as_image({"text": "a", "pixels": torch.zeros(1, 5, 6)}).shape == (1, 5, 6)  # type: ignore[union-attr]
    for other in (
        np.zeros((5, 6)),
        torch.zeros(5),
        "text",
        None,
        3,
        torch.zeros(12, 5, 6),
        torch.zeros(0, 5, 6),
    ):
        assert as_image(other) is None


def test_a_data_set_that_cannot_be_read_here_is_said_once_and_ends_nothing() -> None:
    class Failing(Items):
        fails = False

        def __getitem__(self, position: Any) -> Any:
            if self.fails:
                raise OSError("the file is in another process")
            return super().__getitem__(position)

    data = Failing(zip(IMAGES, LABELS.tolist(), strict=True))
    writer, run = Writer(), Run(data)
    run.plan.log_to(writer, pictures=1)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for _ in run.plan.epochs_left():
            data.fails = False
            run.epoch()
            data.fails = True
    words = [str(each.message) for each in said if "sheets" in str(each.message)]
    assert len(words) == 1 and "the file is in another process" in words[0]
    assert names.IMAGES not in writer.images and names.BY_BIN in writer.images
    assert run.plan.epoch == EPOCHS


def test_the_page_has_every_name() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "plan.md").read_text("utf-8")
    for name in Run(augment="trivial").run()[-1]:
        if name not in [names.loss_bin(b) for b in range(1, 5)]:  # "`chosen/from loss bin 0` to `4`"
            assert f"`{name}`" in page, name


def test_a_writer_whose_curves_would_run_back_is_warned_of(tmp_path: Path) -> None:
    with SummaryWriter(tmp_path) as writer:
        for number in range(2):
            run = Run(epochs=2)
            run.plan.log_to(writer, pictures=0)
            if number == 0:
                with warnings.catch_warnings():
                    warnings.simplefilter("error")
                    run.run()
            else:
                with pytest.warns(UserWarning, match="has epoch 1 of a plan and gets epoch 0 now"):
                    run.run()


def test_samples_that_are_never_finite_are_said_though_their_number_never_changes(tmp_path: Path) -> None:
    run = Run(selector="random", volume="constant", ratio=1.0)
    run.spoiled = (3, 7)
    with SummaryWriter(tmp_path) as writer, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run.plan.log_to(writer, pictures=0)
        run.run()
    assert curves(tmp_path)[names.NOT_FINITE] == [(epoch, 2.0) for epoch in STEPS]
