"""What the reproduction trains: one line a row, and the presets that say which rows, on what and how long."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

EPOCHS = "$epochs"  # stands for the number of epochs in the settings of a part
TAIL = {"name": "reproduce_parts:FullTail", "tail": 0.125}
AGENT = {"name": "data_agent", "config": {"planned": EPOCHS}}
RELEASED = {"name": "data_agent", "config": {"variant": "released", "planned": EPOCHS}}
GREEDY = {"name": "reproduce_parts:GreedyReward", "planned": EPOCHS}
NEVER_SEEN = {"name": "infobatch", "scores": "random"}
FEW = 100  # epochs of the rows on few images


@dataclass(frozen=True)
class Row:
    """One way to train, on one kind of data; the seeds of it are its runs."""

    section: str
    """curve, pods, references, periods, why, data_agent, sada or policies."""
    name: str
    selector: Any = "random"
    """As `DataPlan` takes it; `EPOCHS` in it becomes the number of epochs."""
    ratio: float | None = 0.5
    volume: Any = None
    augment: Any = None
    policy: str | None = None
    data: str = "main"
    """main, few_250, few_500, few_1000, long_tail, upper_body or words."""
    labels: str = "clean"
    """clean, noise_0.2, noise_0.4 or human."""
    share: float = 1.0
    """Of the epochs: "all data, fewer epochs" at half of the budget is 0.5 with ratio 1."""
    epochs: int | None = None
    """None for the length that the curve shows."""
    lr: float = 0.1
    uniform_epochs: int = 0
    seeds: int = 3
    regulariser: bool = False
    """Whether R(p, theta) is measured after each epoch."""
    against: str = ""
    """Name of the row of the same data, labels and section that it is compared with, seed by seed."""


def pods(swing: float | None = None, target: float = 0.5, **settings: Any) -> dict[str, Any]:
    """The table of PODS without a full first epoch; equal phases of one epoch, or as `high_length` says."""
    levels = {} if swing is None else {"low": target - swing, "high": target + swing}
    return {"name": "pods", "warmup": 0, **levels, **settings}


def percent(ratio: float) -> str:
    return f"{round(100 * ratio)} %"


def curve_rows(lengths: tuple[int, ...]) -> Iterator[Row]:
    for epochs in lengths:
        yield Row("curve", f"all data, {epochs} epochs", ratio=1.0, epochs=epochs)


def pods_rows() -> Iterator[Row]:
    """Each selector at a fixed ratio and under PODS."""
    choices: dict[str, tuple[Any, tuple[float, ...], int, dict[str, Any]]] = {
        "random": ("random", (0.5, 0.3, 0.7), 5, {"regulariser": True}),
        "infobatch": ("infobatch", (0.5, 0.3, 0.7), 5, {}),
        "ucb": ("ucb", (0.5,), 3, {"uniform_epochs": 1}),
        "moderate": ("moderate", (0.5,), 3, {"uniform_epochs": 1}),
        "data agent": (AGENT, (0.5,), 3, {}),
    }
    yield Row("pods", "all data", ratio=1.0, seeds=5)
    for name, (selector, ratios, seeds, more) in choices.items():
        for ratio in ratios:
            title = f"{name}, {percent(ratio)}"
            yield Row("pods", title, selector, ratio, seeds=seeds, **more)
            yield Row("pods", f"pods, {title}", selector, ratio, pods(), seeds=seeds, against=title, **more)


REFERENCES = (
    Row("references", "all data, fewer epochs, 50 %", ratio=1.0, share=0.5, seeds=5),
    Row("references", "all data, fewer epochs, 30 %", ratio=1.0, share=0.3, seeds=5),
    Row("references", "all data, fewer epochs, 70 %", ratio=1.0, share=0.7, seeds=5),
    Row("references", "random, rescaled, full tail", "reproduce_parts:Rescaled", volume=TAIL, seeds=5),
    Row("references", "random, full tail", volume=TAIL, seeds=5),
    Row("references", "infobatch, full tail", "infobatch", volume=TAIL),
    Row("references", "infobatch, random scores", NEVER_SEEN, seeds=5),
    Row("references", "infobatch as published", "infobatch", ratio=None, seeds=5),
    Row("references", "rising, 25 to 75 %", volume="linear", seeds=5),
    Row("references", "falling, 75 to 25 %", volume={"name": "linear", "swing": -0.25}),
    Row("references", "one step up, 25 then 75 %", volume={"name": "step", "swing": 0.25}),
)
PERIODS = tuple(
    Row("periods", f"pods, random, period {period}", volume=pods(high_length=period / 2), seeds=5)
    for period in (2, 4, 10, 20)
)
WHY = (
    *(Row("why", f"pods, random, swing {swing}", volume=pods(swing)) for swing in (0.1, 0.25, 0.4)),
    Row("why", "one subset", "fixed_random"),
    Row("why", "pods, one subset", "fixed_random", volume=pods(), against="one subset"),
    *(
        Row("why", f"{name}, rate {lr}", ratio=ratio, volume=volume, lr=lr, share=share)
        for lr in (0.05, 0.2)
        for name, ratio, volume, share in (
            ("all data", 1.0, None, 1.0),
            ("all data, fewer epochs", 1.0, None, 0.5),
            ("random", 0.5, None, 1.0),
            ("pods, random", 0.5, pods(), 1.0),
        )
    ),
)


def agent_rows() -> Iterator[Row]:
    """Data Agent as corrected and as published, and the top of its own reward, under label noise."""
    arms = {
        "data agent, corrected": AGENT,
        "data agent, as published": RELEASED,
        "greedy top of its reward": GREEDY,
        "greedy top, aged": {**GREEDY, "aged": True},
        "random": "random",
    }
    where = [("main", labels) for labels in ("clean", "noise_0.2", "noise_0.4")]
    for (data, labels), (name, selector) in product([*where, ("words", "human")], arms.items()):
        against = "" if name == "random" else "random"
        yield Row("data_agent", name, selector, data=data, labels=labels, against=against)


STRENGTHS: dict[str, Any] = {
    "none": None,
    "trivial": "trivial",
    "rand_augment": "rand_augment",
    "ent_augment": "ent_augment",
    **{f"fixed {s}": {"name": "fixed", "strength": s} for s in (0.25, 0.5, 0.75, 1.0)},
    "sada": "sada",
    "sada, reversed": {"name": "sada", "reverse": True},
    "sada, exact projection": {"name": "sada", "estimator": "projection"},
}


def sada_rows() -> Iterator[Row]:
    where = (("few_250", 5), ("few_500", 5), ("few_1000", 5), ("long_tail", 3), ("upper_body", 5))
    for (data, seeds), (name, augment) in product(where, STRENGTHS.items()):
        against = "none" if name.startswith("sada") else ""
        yield Row(
            "sada", name, ratio=1.0, augment=augment, data=data, epochs=FEW, seeds=seeds, against=against
        )


POLICIES = tuple(
    Row("policies", name, selector, labels=labels, policy=policy, against="random" if policy else "")
    for labels in ("clean", "noise_0.2", "noise_0.4")
    for name, selector, policy in (
        ("policy curriculum", "random", "curriculum"),
        ("random", "random", None),
        ("small loss", "small_loss", None),
        ("trim", "trim", None),
    )
)


@dataclass(frozen=True)
class Preset:
    """Which rows, on what data and model, with how many seeds."""

    name: str
    images: int
    """Training images of the main data; of Fashion-MNIST's 60,000, 5,000 are held out for decisions."""
    tail_of: int
    """Images of which the long tail is made."""
    curve: tuple[int, ...]
    """Epochs of the redundancy curve, each twice the one before, until twice the epochs gain little."""
    length: int
    """Epochs that are taken where the curve is not there yet, for the plan of a preset alone."""
    model: str = "light"
    precision: str = "float32"
    device: str = "cpu"
    seeds: int = 99
    """Most seeds of a row."""
    curve_seeds: int = 3
    few: int = FEW
    sections: tuple[str, ...] = (
        "curve",
        "pods",
        "references",
        "periods",
        "why",
        "data_agent",
        "sada",
        "policies",
    )
    data: tuple[str, ...] = ()
    """Kinds of data; all where it is empty."""
    only: tuple[str, ...] = ()
    """Names of rows; all where it is empty. The curve is always there."""
    generated: bool = False
    """Generated images in the place of Fashion-MNIST, of the same classes."""
    cut: str = ""
    """What is smaller than in the full form, in words."""

    def rows(self) -> list[Row]:
        """All rows, those that others wait for first."""
        made = [
            *curve_rows(self.curve),
            *pods_rows(),
            *REFERENCES,
            *PERIODS,
            *WHY,
            *agent_rows(),
            *sada_rows(),
            *POLICIES,
        ]
        found = [
            row for row in made if row.section in self.sections and (not self.data or row.data in self.data)
        ]
        return [row for row in found if row.section == "curve" or not self.only or row.name in self.only]


PRESETS = {
    preset.name: preset
    for preset in (
        Preset(
            "smoke",
            images=64,
            tail_of=160,
            data=("main", "few_250", "long_tail", "words"),
            curve=(1, 2),
            length=2,
            seeds=1,
            curve_seeds=1,
            few=2,
            generated=True,
            cut="generated images, two epochs, one seed: shows that every row runs; its figures mean nothing",
        ),
        Preset(
            "cpu-short",
            images=10_000,
            tail_of=11_000,
            curve=(4, 8, 16, 32, 64, 128),
            length=32,
            seeds=3,
            sections=("curve", "pods", "references"),
            only=(
                "all data",
                "random, 50 %",
                "pods, random, 50 %",
                "infobatch, 50 %",
                "pods, infobatch, 50 %",
                "all data, fewer epochs, 50 %",
                "random, rescaled, full tail",
                "infobatch, random scores",
                "rising, 25 to 75 %",
            ),
            cut="10,000 images, 50 %, random and InfoBatch, 3 seeds; no other sections",
        ),
        Preset(
            "cpu",
            images=55_000,
            tail_of=11_000,
            curve=(4, 8, 16, 32, 64, 128),
            length=32,
            cut="the light CNN in float32 in the place of a ResNet, and a long tail made of 11,000 images",
        ),
        Preset(
            "gpu",
            images=55_000,
            tail_of=55_000,
            curve=(4, 8, 16, 32, 64, 128),
            length=32,
            model="resnet18",
            precision="bf16",
            device="cuda",
        ),
    )
}


@dataclass(frozen=True)
class Run:
    """One training run: all that its figures follow from."""

    preset: str
    row: Row
    seed: int
    epochs: int
    """Of the run itself, with the row's share taken."""
    images: int
    tail_of: int
    model: str
    precision: str
    generated: bool = False


def curve_runs(preset: Preset, epochs: int) -> list[Run]:
    """The runs of one point of the curve."""
    rows = [row for row in preset.rows() if row.section == "curve" and row.epochs == epochs]
    return [_run(preset, row, seed, epochs) for seed in range(preset.curve_seeds) for row in rows]


def runs_of(preset: Preset, length: int) -> list[Run]:
    """All other runs of a preset, seed by seed in each section, so that a stopped night has every row."""
    rows = [row for row in preset.rows() if row.section != "curve"]
    found = []
    for section in dict.fromkeys(row.section for row in rows):
        own = [row for row in rows if row.section == section]
        for seed in range(min(preset.seeds, max(row.seeds for row in own))):
            found += [_run(preset, row, seed, length) for row in own if seed < row.seeds]
    return found


def _run(preset: Preset, row: Row, seed: int, length: int) -> Run:
    whole = preset.few if row.section == "sada" else row.epochs or length
    epochs = max(1, round(row.share * whole))
    shared = (preset.images, preset.tail_of, preset.model, preset.precision, preset.generated)
    return Run(preset.name, row, seed, epochs, *shared)


SIZES = {"upper_body": 1000, "words": 4511}
TAIL_SHARE = 0.24  # of a long tail of 1:50 in ten classes, from as many images


def samples(run: Run) -> float:
    """About how many samples a run sees."""
    size = {"main": run.images, "long_tail": TAIL_SHARE * run.tail_of, **SIZES}.get(run.row.data)
    size = int(run.row.data.removeprefix("few_")) if size is None else size
    size = min(size, run.images) if run.generated else size
    return size * run.epochs * (0.7 if run.row.ratio is None else run.row.ratio)


UNTOLD = ("section", "name", "seeds", "against")  # of a row; its figures do not follow from them


def key(settings: dict[str, Any]) -> str:
    """What tells one run from another, from a `Run` as a dictionary or from a line of JSON."""
    own = {name: settings[name] for name in Run.__dataclass_fields__ if name != "preset"}
    told = {name: value for name, value in own["row"].items() if name not in UNTOLD}
    return json.dumps({**own, "row": told}, sort_keys=True)
