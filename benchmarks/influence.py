"""How well cheap estimators rank samples like SADA's exact influence.

Trains a 64-64-10 MLP on 1,000 of scikit-learn's digits (SGD 0.1, momentum 0.9, batch 50) and compares,
sample by sample, what each estimator says with the exact projection of the sample's gradient on an update: on
the one optimizer step that the sample was part of, and on the whole epoch. Prints Spearman's rank
correlation, mean over epochs 2 to the last and 95 % t-interval over seeds, and that of the strengths that
SADA makes of them.

    OMP_NUM_THREADS=1 python benchmarks/influence.py
"""

import argparse

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dsenv.augment import SADA, gradient_projection, parameter_snapshot, parameter_update
from dsenv.augment.influence import kl_change, tdds_change

SAMPLES, CLASSES, WIDTH, BATCH = 1000, 10, 64, 50
T_QUANTILE = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 10: 2.262}  # 97.5 %, by number of seeds
EPOCH, STEP = "exact projection, epoch", "exact projection, own step"
KL, TDDS, LOSS_CHANGE = (
    "KL, visit to visit",
    "TDDS, visit to visit",
    "size of loss difference, visit to visit",
)
EPOCH_CHANGE, STEP_CHANGE = "size of loss difference, same epoch *", "size of loss difference, same step *"
LOSS = "current loss"
ROWS = (STEP_CHANGE, EPOCH_CHANGE, LOSS_CHANGE, KL, TDDS, LOSS)


def load(noise: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Images (N, 64) and labels (N,), a share `noise` of them wrong."""
    from sklearn.datasets import load_digits

    source = load_digits()
    chosen = torch.randperm(len(source.target), generator=generator)[:SAMPLES]
    images = torch.from_numpy(source.data).float()[chosen] / 16
    labels = torch.from_numpy(source.target).long()[chosen]
    wrong = torch.rand(SAMPLES, generator=generator) < noise
    shift = torch.randint(1, CLASSES, (SAMPLES,), generator=generator)
    return (images - images.mean()) / images.std(), torch.where(wrong, (labels + shift) % CLASSES, labels)


def build(generator: torch.Generator) -> nn.Module:
    """The MLP, drawn from the generator."""
    model = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, CLASSES))
    for layer in (model[0], model[2]):
        nn.init.kaiming_uniform_(layer.weight, generator=generator)
        nn.init.zeros_(layer.bias)
    return model


def losses(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy (B,), in nats."""
    return F.cross_entropy(logits, labels, reduction="none")


def train_epoch(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    images: Tensor,
    labels: Tensor,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor, Tensor]:
    """One epoch; training logits (N, C), own-step projections (N,) and own-step loss changes (N,)."""
    logits, projection, change = torch.zeros(SAMPLES, CLASSES), torch.zeros(SAMPLES), torch.zeros(SAMPLES)
    for index in torch.randperm(SAMPLES, generator=generator).split(BATCH):
        before = parameter_snapshot(model)
        output = model(images[index])
        optimizer.zero_grad()
        losses(output, labels[index]).mean().backward()
        optimizer.step()
        logits[index] = output.detach()
        update = parameter_update(before, model)
        projection[index] = gradient_projection(model, update, images[index], labels[index])
        with torch.no_grad():
            after = losses(model(images[index]), labels[index])
        change[index] = losses(output.detach(), labels[index]) - after
    return logits, projection, change


def measure(seed: int, epochs: int, noise: float) -> list[dict[str, Tensor]]:
    """Every estimate (N,) of every epoch from the second on, for one training."""
    generator = torch.Generator().manual_seed(seed)
    images, labels = load(noise, generator)
    model = build(generator)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, 0.9)
    history: list[dict[str, Tensor]] = []
    last_logits = last_ends = torch.empty(0)
    for epoch in range(epochs):
        before = parameter_snapshot(model)
        logits, step_projection, step_change = train_epoch(model, optimizer, images, labels, generator)
        projection = gradient_projection(model, parameter_update(before, model), images, labels)
        with torch.no_grad():
            ends = losses(model(images), labels)
        if epoch:
            now, then = logits.log_softmax(1), last_logits.log_softmax(1)
            history.append(
                {
                    EPOCH: projection.abs(),
                    STEP: step_projection.abs(),
                    STEP_CHANGE: step_change.abs(),
                    EPOCH_CHANGE: (last_ends - ends).abs(),
                    LOSS_CHANGE: (losses(last_logits, labels) - losses(logits, labels)).abs(),
                    KL: kl_change(now, then),
                    TDDS: tdds_change(now, then),
                    LOSS: losses(logits, labels),
                }
            )
        last_logits, last_ends = logits, ends
    return history


def strengths(history: list[dict[str, Tensor]], name: str) -> Tensor:
    """What SADA makes of one estimator's history: strengths (N,) after the last epoch."""
    controller = SADA(SAMPLES, CLASSES, estimator="projection", warm_up=0)
    for estimates in history:
        controller.record(torch.arange(SAMPLES), estimates[name])
        controller.end_epoch()
    return controller.state_dict()["strength"]


def rank_correlation(a: Tensor, b: Tensor) -> float:
    """Spearman's rank correlation of two (N,) tensors; equal values are ranked by position."""
    ranks = torch.stack([a.argsort().argsort(), b.argsort().argsort()]).double()
    return float(torch.corrcoef(ranks)[0, 1])


def interval(values: list[float]) -> str:
    """Mean and half-width of the 95 % interval over seeds."""
    sample = torch.tensor(values)
    half = (
        T_QUANTILE.get(len(values), 1.96) * sample.std() / len(values) ** 0.5
        if len(values) > 1
        else torch.nan
    )
    return f"{float(sample.mean()):+.2f} ± {float(half):.2f}"


def table(runs: list[list[dict[str, Tensor]]]) -> list[tuple[str, ...]]:
    """One row an estimator: see `main` for the columns."""
    rows = []
    for name in (EPOCH, STEP, *ROWS):
        cells = [
            interval([sum(rank_correlation(e[name], e[target]) for e in run) / len(run) for run in runs])
            for target in (STEP, EPOCH)
        ]
        cells += [
            interval([rank_correlation(run[at][name], run[at][EPOCH]) for run in runs]) for at in (0, -1)
        ]
        cells.append(
            interval([rank_correlation(strengths(run, name), strengths(run, EPOCH)) for run in runs])
        )
        rows.append((name, *cells))
    return rows


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--noise", type=float, nargs="*", default=[0.0, 0.2], help="shares of wrong labels")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    heads = ("estimator", "own step", "epoch", "epoch 2 only", "last epoch only", "SADA's strengths")
    for noise in arguments.noise:
        runs = [measure(seed, arguments.epochs, noise) for seed in range(arguments.seeds)]
        print(f"\nlabel noise {noise:.0%}, {arguments.epochs} epochs, {arguments.seeds} seeds\n")
        for row in (heads, ("---",) * len(heads), *table(runs)):
            print("| " + " | ".join(row) + " |")
    print(
        "\n* costs one forward more. Columns: rank correlation with the exact projection on the own step and"
        "\non the epoch; the latter in single epochs; and of SADA's strengths with those of the latter."
    )


if __name__ == "__main__":
    main()
