"""Every selector with and without PODS, and every augmentation controller, on Fashion-MNIST.

    OMP_NUM_THREADS=1 python benchmarks/methods.py --out runs/methods.jsonl

10,000 training images, a small CNN, 8 epochs of batch 128, SGD with a one-cycle learning rate (peak 0.1), the
same for all methods; ratios 30, 50 and 70 %, clean labels and 40 % symmetric noise, 5 seeds. Accuracy is that
of the last epoch on the 10,000 test images, which are used for nothing else. 5,000 trusted images are held
out; Glister and RHO-LOSS alone see them. Every finished run is appended to the file, so that a stopped
command goes on where it was; the table is printed at the end (`--table` prints it alone).

Budgets are in sample presentations over the whole training. A pass without training costs a third of a
presentation a sample: static selectors draw their first epoch uniformly, look once after it and pay for that
pass; AdaAugment's two views and RHO-LOSS's held-out model come on top and are shown. PODS runs without its
full first epoch, which a training of 8 epochs cannot pay for. Weights act as the methods define them, so that
InfoBatch takes larger steps than the others at the same learning rate.
"""

import argparse
import itertools
import json
import statistics
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from functools import lru_cache, partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from scipy import stats
from torch import Tensor, nn
from tqdm import tqdm

from dsenv import kernels
from dsenv.plan import DataPlan, FeatureForward
from dsenv.tasks.corruption import symmetric_noise
from dsenv.tasks.dataset import Dataset
from dsenv.tasks.fashion_mnist import fashion_mnist
from dsenv.tasks.task import Recipe, seeded_model
from dsenv.volume.budget import FORWARD_COST

RECIPE = Recipe(lr=0.1, schedule="one_cycle", weight_decay=5e-4, batch_size=128)
HELD_OUT = 5000
WIDTH = 16

SELECTORS: dict[str, Any] = {
    "random": "random",
    "fixed_random": "fixed_random",
    "infobatch": "infobatch",
    "ucb": "ucb",
    "epsilon_greedy": "epsilon_greedy",
    "hardest": {"name": "ranked", "keep": "hardest"},
    "easiest": {"name": "ranked", "keep": "easiest"},
    "small_loss_ema": {"name": "small_loss", "by": "loss_ema"},
    "order_dp": "order_dp",
    "el2n": "el2n",
    "forgetting": "forgetting",
    "data_agent": "data_agent",
    "rho_loss": {"name": "rho_loss"},
    "grand": "grand",
    "ccs": "ccs",
    "moderate": "moderate",
    "herding": {"name": "herding", "budget": 0.3},
    "k_center": "k_center",
    "glister": {"name": "glister", "budget": 0.3, "group": 50},
    "divbs": "divbs",
}
OWN_COUNT = "infobatch_own"  # InfoBatch as published: its own count, all data in the last eighth
AUGMENTS: dict[str, Any] = {
    "none": "none",
    "fixed_0.5": "fixed",
    "trivial": "trivial",
    "rand_augment": "rand_augment",
    "ent_augment": {"name": "ent_augment", "warm_up": 2},
    "sada": {"name": "sada", "window": 2, "warm_up": 3},
    "ada_augment": {"name": "ada_augment", "features": 2 * WIDTH},
}


@dataclass(frozen=True)
class Run:
    """One training."""

    method: str
    """Of `SELECTORS` or `AUGMENTS`, or `OWN_COUNT`."""
    volume: str
    """constant, pods, own, or all: every sample in every epoch."""
    ratio: float
    noise: float
    seed: int
    epochs: int
    images: int


@lru_cache
def data(images: int, noise: float, seed: int) -> tuple[Dataset, Tensor]:
    """Fashion-MNIST and the given training labels (N,)."""
    dataset = _fashion_mnist(images)
    generator = torch.Generator().manual_seed(seed)
    return dataset, symmetric_noise(dataset.train.labels, noise, dataset.classes, generator)


@lru_cache
def _fashion_mnist(images: int) -> Dataset:
    return fashion_mnist(train=images, validation=HELD_OUT)


def normalise(images: Tensor, mean: float, std: float) -> Tensor:
    """Bytes (B, 1, 28, 28) as the model sees them."""
    scaled = torch.addcmul(torch.tensor(-mean / std), images, torch.tensor(1 / (255 * std)))
    return scaled.contiguous(memory_format=torch.channels_last)


def light_cnn() -> nn.Sequential:
    """Three convolutions of 16, 32 and 32 channels at 14, 7 and 3 pixels, with batch normalisation.

    The table needs about 1,300 trainings: small_cnn with group normalisation takes 13 times as long on a CPU.
    """
    layers: list[nn.Module] = []
    for number, (fan_in, fan_out) in enumerate(itertools.pairwise((1, WIDTH, 2 * WIDTH, 2 * WIDTH))):
        convolution = nn.Conv2d(fan_in, fan_out, 3, stride=1 if number else 2, padding=1, bias=False)
        layers += [convolution, nn.BatchNorm2d(fan_out), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2 * WIDTH, 10))


def new_model(seed: int) -> FeatureForward:
    """A model whose initial parameters follow from the seed."""
    model = seeded_model(light_cnn, seed).to(memory_format=torch.channels_last)
    assert isinstance(model, nn.Sequential)
    return FeatureForward(model, model[-1])


def train(plan: DataPlan, forward: FeatureForward, validation: tuple[Tensor, Tensor] | None = None) -> None:
    """The loop that all runs share; static selectors look after one epoch, at `validation` too if given."""
    optimizer = torch.optim.SGD(
        forward.model.parameters(),
        RECIPE.lr,
        momentum=RECIPE.momentum,
        nesterov=RECIPE.nesterov,
        weight_decay=RECIPE.weight_decay,
    )
    scheduler = plan.lr_scheduler(optimizer, lambda progress: RECIPE.learning_rate(progress) / RECIPE.lr)
    autocast = partial(torch.autocast, "cpu", dtype=torch.bfloat16)
    for epoch in plan.epochs_left():
        if epoch == 1 and plan.selector.needs_pass:
            with autocast():
                plan.score(forward, validation)
        for batch in plan.batches():
            with autocast():
                logits, features = forward(batch.inputs)
                losses = kernels.cross_entropy(logits.float(), batch.labels)
                loss = plan.loss(batch, losses, logits=logits, features=features, forward=forward)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scheduler.step()


@torch.no_grad()
def predict(forward: FeatureForward, images: Tensor, mean: float, std: float) -> Tensor:
    """Logits (N, 10) of byte images, in evaluation mode for good."""
    forward.model.eval()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        parts = [forward.model(normalise(part, mean, std)).float() for part in images.split(1024)]
    return torch.cat(parts)


@lru_cache(maxsize=64)
def held_out_logits(images: int, epochs: int, seed: int) -> tuple[Tensor, float, float]:
    """RHO-LOSS's second model, trained on the held-out images: its training logits, cost and seconds."""
    start = time.perf_counter()
    dataset, _ = data(images, 0.0, seed)
    mean, std = dataset.mean[0], dataset.std[0]
    forward = new_model(seed + 1000)
    plan = DataPlan(
        (dataset.validation.images, dataset.validation.labels),
        epochs=epochs,
        batch_size=RECIPE.batch_size,
        transform=partial(normalise, mean=mean, std=std),
        seed=seed,
    )
    train(plan, forward)
    logits = predict(forward, dataset.train.images, mean, std)
    presentations = plan.cost.compute + FORWARD_COST * len(logits)
    return logits, presentations, time.perf_counter() - start


def make_plan(run: Run, dataset: Dataset, labels: Tensor) -> tuple[DataPlan, float, float]:
    """The plan of a run, and what was spent before it: presentations and seconds."""
    spent = seconds = 0.0
    choice = SELECTORS["infobatch"] if run.method == OWN_COUNT else SELECTORS.get(run.method, "random")
    if run.method == "rho_loss":
        logits, spent, seconds = held_out_logits(run.images, run.epochs, run.seed)
        choice = {**choice, "irreducible": kernels.cross_entropy(logits, labels)}
    if run.method == "data_agent":
        choice = {"name": "data_agent", "config": {"planned": run.epochs}}
    plan = DataPlan(
        (dataset.train.images, labels),
        epochs=run.epochs,
        batch_size=RECIPE.batch_size,
        selector=choice,
        ratio=None if run.volume in ("own", "all") else run.ratio,
        volume={"name": "pods", "warmup": 0} if run.volume == "pods" else None,
        augment=AUGMENTS.get(run.method),
        transform=partial(normalise, mean=dataset.mean[0], std=dataset.std[0]),
        uniform_epochs=0 if run.method == "data_agent" else 1,  # Data Agent has a warm-up of its own
        seed=run.seed,
    )
    return plan, spent, seconds


def execute(run: Run) -> dict[str, Any]:
    """Train once and measure."""
    torch.set_num_threads(1)
    dataset, labels = data(run.images, run.noise, run.seed)
    plan, spent, before = make_plan(run, dataset, labels)
    forward = new_model(run.seed)
    start = time.perf_counter()
    held_out = (dataset.validation.images, dataset.validation.labels)
    train(plan, forward, held_out if run.method == "glister" else None)
    seconds = time.perf_counter() - start + before
    logits = predict(forward, dataset.test.images, dataset.mean[0], dataset.std[0])
    accuracy = float((logits.argmax(1) == dataset.test.labels).float().mean())
    everything = run.epochs * run.images
    return {
        **asdict(run),
        "accuracy": accuracy,
        "trained": plan.cost.trained / everything,
        "compute": (plan.cost.compute + spent) / everything,
        "seconds": seconds,
        "overhead": (sum(plan.cost.seconds.values()) + before) / seconds,
    }


def wanted(args: argparse.Namespace) -> list[Run]:
    """All runs asked for, seed by seed, so that a stopped benchmark has every method."""
    runs = []
    for seed, noise in itertools.product(range(args.seeds), args.noise):
        new = partial(Run, noise=noise, seed=seed, epochs=args.epochs, images=args.images)
        runs += [new(method, "all", 1.0) for method in AUGMENTS]
        runs.append(new(OWN_COUNT, "own", 1.0))
        for ratio, method, volume in itertools.product(args.ratios, SELECTORS, ("constant", "pods")):
            runs.append(new(method, volume, ratio))
    return [run for run in runs if not args.methods or run.method in args.methods]


def read(path: Path) -> list[dict[str, Any]]:
    """The finished runs of a file."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def key(run: dict[str, Any]) -> tuple[Any, ...]:
    """What tells one run from another."""
    return tuple(run[name] for name in Run.__dataclass_fields__)


def perform(runs: list[Run], jobs: int) -> Iterator[dict[str, Any]]:
    """Results as they come."""
    if jobs == 1:
        yield from map(execute, runs)
        return
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        for future in as_completed([pool.submit(execute, run) for run in runs]):
            yield future.result()


def interval(values: list[float]) -> float:
    """Half of the 95 % interval of the mean, by Student's t."""
    if len(values) < 2:
        return float("nan")
    quantile = float(stats.t.ppf(0.975, len(values) - 1))
    return quantile * statistics.stdev(values) / len(values) ** 0.5


class Table:
    """Groups of runs over seeds, and how they are written."""

    def __init__(self, rows: Iterable[dict[str, Any]]) -> None:
        self.groups: dict[tuple[Any, ...], dict[int, dict[str, Any]]] = {}
        for row in rows:
            group = (row["method"], row["volume"], row["ratio"], row["noise"])
            self.groups.setdefault(group, {})[row["seed"]] = row

    def mean(self, group: tuple[Any, ...], name: str) -> float:
        return statistics.mean(row[name] for row in self.groups[group].values())

    def accuracy(self, group: tuple[Any, ...], reference: tuple[Any, ...]) -> str:
        """Mean and interval in percent; + or - where the difference from the reference is certain."""
        rows, others = self.groups.get(group, {}), self.groups.get(reference, {})
        if not rows:
            return "-"
        values = [100 * row["accuracy"] for row in rows.values()]
        shared = [
            100 * (rows[seed]["accuracy"] - others[seed]["accuracy"]) for seed in rows if seed in others
        ]
        sign = ""
        if group != reference and len(shared) > 1 and abs(statistics.mean(shared)) > interval(shared):
            sign = " +" if statistics.mean(shared) > 0 else " -"
        spread = f" ± {interval(values):.2f}" if len(values) > 1 else ""
        return f"{statistics.mean(values):.2f}{spread}{sign}"

    def costs(self, group: tuple[Any, ...]) -> str:
        if group not in self.groups:
            return "- | - | - | -"
        trained, compute, seconds, overhead = (
            self.mean(group, name) for name in ("trained", "compute", "seconds", "overhead")
        )
        return f"{trained:.1%} | {compute:.1%} | {seconds:.2f} | {overhead:.1%}"

    def selectors(self, noise: float, ratios: list[float]) -> Iterator[str]:
        volumes = ("constant", "pods")
        heads = [f"{ratio:.0%} {volume}" for ratio in ratios for volume in volumes]
        middle = ratios[len(ratios) // 2]
        yield f"| selector | {' | '.join(heads)} | samples at {middle:.0%} | compute | seconds | overhead |"
        yield "|---" * (len(heads) + 5) + "|"
        for method in SELECTORS:
            cells = [
                self.accuracy((method, volume, ratio, noise), ("random", "constant", ratio, noise))
                for ratio in ratios
                for volume in volumes
            ]
            yield f"| {method} | {' | '.join(cells)} | {self.costs((method, 'constant', middle, noise))} |"

    def others(self, noise: float) -> Iterator[str]:
        reference = ("none", "all", 1.0, noise)
        yield "| all data with | accuracy | samples | compute | seconds | overhead |"
        yield "|---" * 6 + "|"
        for method, volume in [*((name, "all") for name in AUGMENTS), (OWN_COUNT, "own")]:
            group = (method, volume, 1.0, noise)
            yield f"| {method} | {self.accuracy(group, reference)} | {self.costs(group)} |"


def print_tables(rows: list[dict[str, Any]], args: argparse.Namespace) -> None:
    """Markdown tables of the runs with these settings."""
    table = Table(row for row in rows if (row["epochs"], row["images"]) == (args.epochs, args.images))
    for noise in args.noise:
        print(f"\n{noise:.0%} label noise, {args.epochs} epochs of {args.images} images\n")
        print("\n".join(table.selectors(noise, args.ratios)), end="\n\n")
        print("\n".join(table.others(noise)))
    print(
        "\nMean ± 95 % interval over seeds; + and -: the paired difference from the reference row (random at"
    )
    print("the same ratio, none) is larger than its 95 % interval. compute: with passes that do not train.")


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/methods.jsonl"), help="JSON-lines file")
    parser.add_argument("--jobs", type=int, default=1, help="processes, one thread each")
    parser.add_argument("--methods", nargs="+", choices=[*SELECTORS, *AUGMENTS, OWN_COUNT], help="only these")
    parser.add_argument("--seeds", type=int, default=5, help="number of seeds")
    parser.add_argument("--ratios", type=float, nargs="+", default=[0.3, 0.5, 0.7])
    parser.add_argument("--noise", type=float, nargs="+", default=[0.0, 0.4], help="shares of wrong labels")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--quick", action="store_true", help="one seed, one ratio, 2,000 images, 4 epochs")
    parser.add_argument("--table", action="store_true", help="print the table of the finished runs alone")
    args = parser.parse_args()
    if args.quick:
        args.seeds, args.ratios, args.images, args.epochs = 1, [0.5], 2000, 4
    return args


def main() -> None:
    """Run what is not finished yet, then print the tables."""
    args = parse()
    if not args.table:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        finished = {key(row) for row in read(args.out)}
        runs = [run for run in wanted(args) if key(asdict(run)) not in finished]
        with args.out.open("a") as file:
            for result in tqdm(perform(runs, args.jobs), total=len(runs), unit="run"):
                file.write(json.dumps(result) + "\n")
                file.flush()
    print_tables(read(args.out), args)


if __name__ == "__main__":
    main()
