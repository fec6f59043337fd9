"""Figures of the Data Agent: separation, starvation, label noise and cost.

    OMP_NUM_THREADS=1 python benchmarks/data_agent.py separation|starvation|noise|cost

Each prints one table; all run on one CPU thread and need no download.
"""

import argparse
import statistics
import time
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from dsenv.outputs import ModelOutputs
from dsenv.select.base import top
from dsenv.select.data_agent import DataAgent
from dsenv.signals import SampleSignals
from dsenv.tasks.corruption import symmetric_noise
from dsenv.tasks.digits import digits

VARIANTS = ("bandit", "released")


def roc_area(score: Tensor, positive: Tensor) -> float:
    """Chance that a positive scores above a negative."""
    rank = torch.empty(len(score), dtype=torch.double)
    rank[score.argsort()] = torch.arange(len(score), dtype=torch.double)
    n, m = int(positive.sum()), int((~positive).sum())
    return (float(rank[positive].sum()) - n * (n - 1) / 2) / (n * m) if n and m else float("nan")


def separation(seeds: int = 5) -> None:
    """Half of 2,000 inputs lie on one side of a plane and are harder; 2,000 steps of 64."""
    for variant in VARIANTS:
        areas = []
        for seed in range(seeds):
            g = torch.Generator().manual_seed(seed)
            hard = torch.arange(2000) % 2 == 0
            features = torch.randn(2000, 32, generator=g)
            features[:, 0] += torch.where(hard, 1.5, -1.5)
            agent = DataAgent({"variant": variant}, seed=seed, size=2000)
            for _ in range(2000):
                index = torch.randint(2000, (64,), generator=g)
                scale = torch.where(hard[index], 1.0, 3.0)
                loss = torch.where(hard[index], 1.5, 0.5) + 0.5 * torch.randn(64, generator=g).abs()
                logits = scale[:, None] * torch.randn(64, 10, generator=g)
                agent.observe(ModelOutputs(index, torch.zeros_like(index), loss, logits, features[index]))
            areas.append(roc_area(agent.score, hard))
        print(f"{variant:9} AUC {statistics.mean(areas):.3f} (min {min(areas):.3f}, {seeds} seeds)")


def starved(variant: str, ratio: float, size: int = 5000, epochs: int = 100) -> float:
    """Share of the samples not trained on in the last quarter of a run on synthetic features."""
    agent, signals = DataAgent({"variant": variant}), SampleSignals(size, 10)
    g = torch.Generator().manual_seed(0)
    features = torch.randn(size, 16, generator=g)
    base = features[:, 0].sigmoid()
    seen = torch.zeros(size, dtype=torch.bool)
    for epoch in range(epochs):
        chosen = agent.select(signals, size if epoch == 0 else round(ratio * size), g).index
        if epoch >= epochs * 3 // 4:
            seen[chosen] = True
        for index in chosen[torch.randperm(len(chosen), generator=g)].split(128):
            loss = base[index] + 0.3 * torch.rand(len(index), generator=g)
            logits = torch.randn(len(index), 10, generator=g) / base[index, None]
            agent.observe(ModelOutputs(index, torch.zeros_like(index), loss, logits, features[index]))
    return 1 - float(seen.float().mean())


def starvation() -> None:
    """Both variants at several ratios."""
    for ratio in (0.1, 0.3, 0.5, 0.7):
        shares = "  ".join(f"{variant} {starved(variant, ratio):.3f}" for variant in VARIANTS)
        print(f"ratio {ratio}: unseen in the last quarter: {shares}", flush=True)


def train_digits(kind: str, noise: float, seed: int, epochs: int = 40) -> tuple[float, float, float]:
    """Train an MLP on half of 1,000 digits an epoch.

    Returns:
        Test accuracy, share of wrong labels among those trained on, AUC of the final scores for them.
    """
    data, g = digits(), torch.Generator().manual_seed(seed)
    scaled = [(split.images.float().flatten(1) / 255 - 0.3053) / 0.3760 for split in (data.train, data.test)]
    size = len(scaled[0])
    labels = symmetric_noise(data.train.labels, noise, 10, g)
    wrong = labels != data.train.labels
    torch.manual_seed(seed)
    body = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU())
    head = nn.Linear(64, 10)
    optimizer = torch.optim.SGD([*body.parameters(), *head.parameters()], lr=0.1, momentum=0.9)
    signals, agent, shares = SampleSignals(size, 10), DataAgent(seed=seed), []
    for epoch in range(epochs):
        if kind == "agent":
            chosen = agent.select(signals, size // 2, g).index
        elif kind == "greedy" and epoch > 0:
            chosen = top(signals.loss + 10 * ~signals.seen, size // 2).index
        else:
            chosen = torch.randperm(size, generator=g)[: size if kind == "all" else size // 2]
        shares.append(float(wrong[chosen].float().mean()))
        for index in chosen[torch.randperm(len(chosen), generator=g)].split(50):
            features = body(scaled[0][index])
            logits = head(features)
            loss = functional.cross_entropy(logits, labels[index], reduction="none")
            if kind == "agent":
                agent.observe(ModelOutputs(index, labels[index], loss, logits, features))
            optimizer.zero_grad()
            loss.mean().backward()
            optimizer.step()
            signals.update(index, loss.detach(), logits.detach(), labels[index], epoch)
    with torch.no_grad():
        correct = head(body(scaled[1])).argmax(1) == data.test.labels
        score = agent.learner.scores(body(scaled[0])) if agent.learner is not None else signals.loss
    return float(correct.float().mean()), statistics.mean(shares[1:]), roc_area(score, wrong)


def noise(seeds: int = 10) -> None:
    """Digits with symmetric label noise: all data, random, greedy by last loss, and the agent."""
    for rate in (0.0, 0.2, 0.4):
        for kind in ("all", "random", "greedy", "agent"):
            runs = [train_digits(kind, rate, seed) for seed in range(seeds)]
            accuracy, share, area = (statistics.mean(column) for column in zip(*runs, strict=True))
            error = statistics.stdev(run[0] for run in runs) / seeds**0.5
            print(
                f"noise {rate:.0%} {kind:7} accuracy {accuracy:.3f} +- {error:.3f}  "
                f"wrong labels in selection {share:.3f}  AUC for wrong labels {area:.2f}",
                flush=True,
            )


def cost(batch: int = 128, steps: int = 500) -> None:
    """Processor time of `observe`, updates included; other jobs move wall-clock more."""
    torch.set_num_threads(1)
    g = torch.Generator().manual_seed(0)
    settings: list[dict[str, Any]] = [{}, {"hidden": 32}, {"hidden": 128}, {"variant": "released"}]
    for width in (64, 512):
        features, logits = torch.randn(5000, width, generator=g), torch.randn(5000, 10, generator=g)
        loss = torch.rand(5000, generator=g)
        for config in settings:
            agent = DataAgent(config, size=5000)
            spent = 0.0
            for step in range(steps + 20):
                index = torch.randint(5000, (batch,), generator=g)
                forward = ModelOutputs(index, index, loss[index], logits[index], features[index])
                start = time.process_time()
                agent.observe(forward)
                spent += (time.process_time() - start) * (step >= 20)
            name = f"{width} features, batch {batch}, {config or 'defaults'}"
            print(f"{name}: {1e3 * spent / steps:.2f} ms a step")


if __name__ == "__main__":
    parts = {"separation": separation, "starvation": starvation, "noise": noise, "cost": cost}
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", choices=list(parts))
    parts[parser.parse_args().part]()
