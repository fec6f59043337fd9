"""Speed of the stacked environment against K single ones in a loop and in processes.

    OMP_NUM_THREADS=1 python benchmarks/env_speed.py [--replicas 1 8 64 256] [--json PATH]

One round is a whole episode of K environments: a reset and 12 steps, an epoch of training each, with random
actions. In every round each rival takes its turn. "loop" steps K environments of `dsenv.load` one after
another in this process; "SubprocVecEnv" is Stable-Baselines3's, one process an environment, one torch thread
each. Beyond --loop-cap environments and --workers processes the rivals run that many: the rate of a loop does
not depend on K, and that of processes grows only up to the number of cores, so theirs is scaled by it
(marked ~). The stacked environment runs in one process. Convolutional replicas run one after another on a CPU
(--threads lets some run at the same time), so that their rate does not depend on K either: rows beyond
--cnn-cap are left out there.

Columns: environment steps per second, episodes per hour and presented samples per second of the stacked form;
then the rates of the rivals, and how many times faster the stacked form is (median, quartiles of the rounds);
last Gymnasium's own benchmark_vector_step of the stacked form (nan where this Gymnasium has none) and
benchmark_step of a single environment.

Where `dacbench` can be imported, a step of its SGD environment (its run_epoch and test) is a further rival:
the same model, number of samples and batch, in its DataLoaders over tensors in memory. It neither selects
nor observes samples.
"""

import argparse
import importlib.util
import itertools
import os
from collections.abc import Callable
from typing import Any

import common
import numpy as np
import torch
from common import Spread
from gymnasium.utils import performance
from gymnasium.vector import AutoresetMode
from stable_baselines3.common.vec_env import SubprocVecEnv
from torch.utils.data import DataLoader, TensorDataset

import dsenv
from dsenv.catalogue import load_vector
from dsenv.tasks.task import seeded_model

ENV = "Digits-Curriculum-v0"
vector_step = getattr(performance, "benchmark_vector_step", lambda *_, **__: float("nan"))  # not in 1.2
MODELS: dict[str, dict[str, Any]] = {
    "MLP 64-64-10": {},
    "CNN, 16 channels": {"task": {"model": {"name": "small_cnn", "width": 16, "norm": "none"}}},
}


class Worker:
    """Builds one environment in a process of its own."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.settings = settings

    def __call__(self) -> Any:
        torch.set_num_threads(1)
        return dsenv.load("envs", ENV, **self.settings)


def stacked_episode(envs: Any) -> Callable[[], None]:
    """An episode of a stacked environment."""

    def run() -> None:
        envs.reset()
        for _ in range(envs.config.intervals):
            envs.step(envs.action_space.sample())

    return run


def loop_episode(envs: list[Any]) -> Callable[[], None]:
    """An episode of single environments, step by step."""

    def run() -> None:
        for env in envs:
            env.reset()
        for _ in range(envs[0].config.intervals):
            for env in envs:
                env.step(env.action_space.sample())

    return run


def processes_episode(envs: SubprocVecEnv, intervals: int) -> Callable[[], None]:
    """An episode of environments in processes; SB3 resets them at its end by itself."""

    def run() -> None:
        for _ in range(intervals):
            envs.step(np.stack([envs.action_space.sample() for _ in range(envs.num_envs)]))

    return run


def dacbench_epochs(session: Any, device: torch.device) -> Callable[[], None] | None:
    """As many epochs as an episode has steps, by DACBench's functions; None where it is not installed."""
    try:
        from dacbench.envs.sgd import run_epoch, test
    except ImportError:
        return None
    task, loaders = session.task, []
    presented = int(session.state.budget.total[0]) // session.config.intervals
    for name, count in (("train", presented), ("validation", None)):
        split = session.trainer.split(name)
        rows = torch.arange(split.size if count is None else count, device=device)
        data = TensorDataset(split.gather(rows).cpu(), split.labels[rows].cpu())
        loaders.append(DataLoader(data, task.recipe.batch_size, shuffle=True))
    model, loss = seeded_model(task.model, 0).to(device), torch.nn.CrossEntropyLoss(reduction="none")
    optimizer = torch.optim.AdamW(model.parameters())

    def run() -> None:
        for _ in range(session.config.intervals):
            run_epoch(model, loss, loaders[0], optimizer, device)
            test(model, loss, loaders[1], task.recipe.batch_size, device=device)

    return run


def measure(name: str, count: int, args: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """One row: a model at K replicas."""
    settings = {**MODELS[name], **args.overrides, "device": str(device)}
    trainer = {"threads": args.threads} if "CNN" in name and args.threads > 1 else {}
    envs = load_vector(ENV, count, autoreset_mode=AutoresetMode.DISABLED, **settings, trainer=trainer)
    singles = [dsenv.load("envs", ENV, **settings) for _ in range(min(count, args.loop_cap))]
    workers = min(count, args.workers)
    processes = None
    if workers:
        processes = SubprocVecEnv([Worker(settings)] * workers, start_method=args.start_method)
    try:
        envs.reset(seed=0)
        for number, env in enumerate(singles):
            env.reset(seed=number)
        steps = envs.config.intervals
        calls = {"stacked": stacked_episode(envs), "loop": loop_episode(singles)}
        if processes is not None:
            processes.seed(0)
            processes.reset()
            calls["processes"] = processes_episode(processes, steps)
        if (epochs := dacbench_epochs(singles[0].episodes.sessions()[0], device)) is not None:
            calls["dacbench"] = epochs
        times = common.interleaved(calls, args.repeats if count <= 64 else min(args.repeats, 3), device)
    finally:
        if processes is not None:
            processes.close()
    # Steps of one call of each; beyond the cap processes are given the rate that they would have with K.
    cores = os.cpu_count() or 1
    grown = workers * min(count, cores) / max(min(workers, cores), 1)
    done = {"stacked": count, "loop": len(singles), "processes": grown, "dacbench": 1}
    figures = {
        "model": name,
        "form": envs.episodes.sessions()[0].trainer.replicas.form,
        "replicas": count,
        "workers": workers,
        "loop_envs": len(singles),
        "samples_a_step": float(envs.episodes.sessions()[0].state.budget.total.sum()) / (count * steps),
        "intervals": steps,
        "benchmark_vector_step": vector_step(envs, args.window, seed=0),
        "benchmark_step": performance.benchmark_step(singles[0], args.window, seed=0),
        "seconds": times,
    }
    return finished(figures, times, {key: done[key] * steps for key in times})


def finished(figures: dict[str, Any], times: common.Times, done: dict[str, float]) -> dict[str, Any]:
    """The row with its rates and ratios, from the seconds of every call and the steps done in it."""
    rate = {key: Spread.of([done[key] / t for t in times[key]]) for key in times}
    over = {
        key: common.speedup(times, "stacked", key, done["stacked"] / done[key])
        for key in times
        if key != "stacked"
    }
    steps = rate["stacked"].median
    capped = {
        "loop": figures["loop_envs"] < figures["replicas"],
        "processes": figures["workers"] < figures["replicas"],
    }
    cells = [
        figures["model"],
        str(figures["replicas"]),
        f"{steps:,.0f}",
        f"{steps / figures['intervals'] * 3600:,.0f}",
        f"{steps * figures['samples_a_step'] / 1e3:,.0f} k",
        *(f"{'~' * capped[key]}{rate[key].median:,.0f}" for key in capped if key in rate),
        *(value.text(".1f", "x") for value in over.values()),
        f"{figures['benchmark_vector_step']:,.0f} / {figures['benchmark_step']:,.0f}",
    ]
    spreads = {
        "steps_per_second": {key: value._asdict() for key, value in rate.items()},
        "speedup": {key: value._asdict() for key, value in over.items()},
    }
    return {**figures, **spreads, "cells": cells}


def main() -> None:
    """Print the table."""
    parser = common.parser(__doc__, repeats=5)
    parser.add_argument("--replicas", type=int, nargs="+", default=[1, 8, 32, 64, 256], metavar="K")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--workers", type=int, default=8, help="most processes, 0 for none (default 8)")
    parser.add_argument("--loop-cap", type=int, default=32, help="most environments of the loop (default 32)")
    parser.add_argument("--cnn-cap", type=int, default=32, help="largest K of the CNN on a CPU (default 32)")
    parser.add_argument("--start-method", default="forkserver", choices=["fork", "forkserver", "spawn"])
    parser.add_argument("--threads", type=int, default=1, help="convolutional replicas side by side")
    parser.add_argument("--window", type=float, default=3, help="seconds of Gymnasium's figures (default 3)")
    args = parser.parse_args()
    args.overrides = {}
    if args.quick:
        args.replicas, args.repeats, args.window = [2], 1, 0.1
        args.workers = min(args.workers, 1)
        args.overrides = {"intervals": 2}
    device = common.choose_device(args.device)
    rivals = ["loop", "SubprocVecEnv"][: 2 if args.workers else 1]
    heads = ["model", "K", "steps/s", "episodes/h", "samples/s", *rivals]
    heads += [*(f"over {rival}" for rival in rivals), "Gymnasium vector / single"]
    if importlib.util.find_spec("dacbench"):
        heads.insert(-1, "over DACBench")
    else:
        print("DACBench is not installed: skipped\n")
    rows = []
    for name, count in itertools.product(args.models, args.replicas):
        if "CNN" not in name or device.type != "cpu" or count <= args.cnn_cap:
            rows.append(measure(name, count, args, device))
    known = common.facts(device, ("gymnasium", "stable_baselines3", "dacbench"))
    common.report(args, known, heads, rows)


if __name__ == "__main__":
    main()
