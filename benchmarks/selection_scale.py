"""Seconds and bytes of every selector against the number of samples, beside its naive rival.

    OMP_NUM_THREADS=1 python benchmarks/selection_scale.py [--most 1e8] [--device cuda] [--json PATH]

Chooses `--ratio` of N samples, N from 10^4 to `--most`. On a CPU "s" is the processor time of this process,
which has one thread (wall-clock is in the JSON); on a GPU it is wall-clock. The quickest round counts. "B/N"
are bytes a sample beyond the signals and the selector's state, at their peak and with the selection itself
(12 bytes a chosen sample): growth of the peak resident set (Linux), or torch's peak allocation on a GPU.
"exponent" is the slope of log time against log N from 10^6 on. The naive rival sorts or permutes all N; it
runs up to `--rival`. The selectors that compare features (k-center, herding, Glister, DivBS) are left out:
their passes over the features decide what they cost.
"""

import argparse
import ctypes
import datetime
import gc
import json
import math
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from dsenv.control.state import loss_bins
from dsenv.rng import Streams
from dsenv.select import gumbel_top_k
from dsenv.select.ccs import CCS
from dsenv.select.data_agent import DataAgent
from dsenv.select.epsilon_greedy import EpsilonGreedy
from dsenv.select.forgetting import Forgetting
from dsenv.select.grand import GraNd
from dsenv.select.infobatch import InfoBatch
from dsenv.select.moderate import middle_first
from dsenv.select.order_dp import OrderDP
from dsenv.select.random import FixedRandom, UniformRandom
from dsenv.select.ranked import EL2N, Ranked
from dsenv.select.rho_loss import RhoLoss
from dsenv.select.small_loss import SmallLoss
from dsenv.select.ucb import UCB
from dsenv.signals import SampleSignals

INITIAL = SampleSignals(1, 10)._initial


class Work:
    """N samples' data as a case needs it, and its random stream."""

    def __init__(self, size, ratio, device):
        self.size, self.count, self.device = size, round(ratio * size), device
        self.generator = torch.Generator(device).manual_seed(0)

    def values(self):
        return torch.rand(self.size, generator=self.generator, device=self.device).log_().neg_()

    def whole(self, most, dtype=torch.int32):
        drawn = torch.empty(self.size, dtype=dtype, device=self.device)
        return drawn.random_(most, generator=self.generator)

    def signals(self, *names):
        """Signals of which only the named ones take memory; with `times_trained` all samples are seen."""
        signals = object.__new__(SampleSignals)
        signals.size, signals.classes, signals.replicas = self.size, 10, None
        signals.device, signals._initial = torch.device(self.device), INITIAL
        store = {name: self.values() for name in names if name not in ("times_trained", "forgetting_events")}
        if "correct" in names:
            store["correct"] = self.whole(2).float()
        if "forgetting_events" in names:
            store["forgetting_events"] = self.whole(4)
        trained = torch.ones if "times_trained" in names else torch.zeros
        store["times_trained"] = trained(self.size, dtype=torch.int32, device=self.device)
        signals._store = store
        return signals

    def selecting(self, selector, *names, state=None):
        signals = self.signals(*names)
        if state is not None:
            selector.load_state_dict(state)
        return lambda: selector.select(signals, self.count, self.generator)

    def history(self, kind, *fields):
        state = {name: self.values() for name in fields}
        visits = torch.ones(self.size, dtype=torch.int32, device=self.device)
        return self.selecting(kind, "times_trained", state={**kind.state_dict(), "visits": visits, **state})

    def static(self, kind):
        """Its one ranking, drawn anew each time."""
        signals, score = self.signals(), self.values()
        kind.load_state_dict({**kind.state_dict(), "passes": 1, "score": score})

        def rank():
            kind._order = None
            return kind.select(signals, self.count, self.generator)

        return rank

    def fixed(self):
        signals = self.signals()
        return lambda: FixedRandom().select(signals, self.count, self.generator)

    def agent(self):
        state = {**DataAgent().state_dict(), "selections": 9}
        state |= {"score": self.values(), "trained_at": self.whole(9)}
        return self.selecting(DataAgent(), state=state)

    def gumbel(self):
        weights, streams = self.values()[None], Streams(1, torch.device(self.device))
        return lambda: gumbel_top_k(weights, [self.count], streams)

    def bins(self):
        score = self.values()[None]
        pool = torch.ones(score.shape, dtype=torch.bool, device=self.device)
        return lambda: loss_bins(score, pool, 8)

    def middle(self):
        distance = self.values()
        return lambda: middle_first(distance)

    def permuting(self):
        return lambda: torch.randperm(self.size, generator=self.generator, device=self.device)[: self.count]

    def sorting(self):
        score = self.values()

        def naive():
            shuffled = torch.randperm(self.size, generator=self.generator, device=self.device)
            return shuffled[score[shuffled].argsort(descending=True, stable=True)][: self.count]

        return naive


CASES: dict[str, Callable[[Work], Callable[[], object]]] = {
    "random": lambda w: w.selecting(UniformRandom()),
    "fixed_random, first call": Work.fixed,
    "infobatch": lambda w: w.selecting(InfoBatch(), "loss", "times_trained"),
    "ucb": lambda w: w.history(UCB(), "mean", "variance"),
    "epsilon_greedy": lambda w: w.history(EpsilonGreedy(), "mean"),
    "ranked, hardest": lambda w: w.selecting(Ranked(), "loss", "times_trained"),
    "ranked, easiest by label margin": lambda w: w.selecting(
        Ranked("label_margin", "easiest"), "margin", "times_trained"
    ),
    "ranked, nothing seen": lambda w: w.selecting(Ranked(), "loss"),
    "el2n": lambda w: w.history(EL2N(), "el2n"),
    "small_loss": lambda w: w.selecting(SmallLoss(), "loss", "times_trained"),
    "order_dp": lambda w: w.selecting(OrderDP(), "loss", "times_trained"),
    "rho_loss": lambda w: w.selecting(RhoLoss(w.values()), "loss", "times_trained"),
    "forgetting": lambda w: w.selecting(Forgetting(), "forgetting_events", "correct"),
    "data_agent": Work.agent,
    "gumbel_top_k": Work.gumbel,
    "loss_bins, 8": Work.bins,
    "grand: order by score, once": lambda w: w.static(GraNd()),
    "ccs: order by score, once": lambda w: w.static(CCS()),
    "moderate: score by distance, once": Work.middle,
}
RIVALS = {"all sorted": Work.sorting, "all permuted": Work.permuting}
LESS = {"ccs: order by score, once": 1e7, "moderate: score by distance, once": 1e7}  # largest N


def resident(field):
    """Bytes of a field of this process's status: VmRSS, or VmHWM for its peak."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(field)).split()[1])


def measured(call, device, rounds):
    """Processor and wall seconds of the quickest round, and peak bytes beyond those held before."""
    spent, passed, extra = [], [], []
    for _ in range(rounds):
        gc.collect()
        if device == "cpu":
            ctypes.CDLL("libc.so.6").malloc_trim(0)  # else memory freed before hides what is taken now
            Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
            before = resident("VmRSS")
        else:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
        wall, processor = time.perf_counter(), time.process_time()
        result = call()
        if device == "cuda":
            torch.cuda.synchronize()
        spent.append(time.process_time() - processor)
        passed.append(time.perf_counter() - wall)
        peak = resident("VmHWM") if device == "cpu" else torch.cuda.max_memory_allocated()
        extra.append(peak - before)
        del result
    seconds = spent if device == "cpu" else passed
    return {
        "seconds": min(seconds),
        "wall": min(passed),
        "bytes": statistics.median(extra),
    }


def exponent(sizes, seconds):
    """Slope of log seconds against log N from 10^6 on."""
    points = [(math.log(n), math.log(s)) for n, s in zip(sizes, seconds, strict=True) if n >= 1_000_000]
    return statistics.linear_regression(*zip(*points, strict=True)).slope if len(points) > 1 else math.nan


def measure(args):
    sizes = [10**k for k in range(4, round(math.log10(args.most)) + 1)]
    found = {}
    for name, make in {**CASES, **RIVALS}.items():
        if args.only and args.only not in name:
            continue
        most = args.rival if name in RIVALS else LESS.get(name, args.most)
        found[name] = {}
        for size in (n for n in sizes if n <= most):
            call = make(Work(size, args.ratio, args.device))
            call()  # warm up
            found[name][size] = measured(call, args.device, args.rounds)
            del call
    return sizes, found


def show(sizes, found):
    head = [f"10^{round(math.log10(size))}, s" for size in sizes]
    print("| " + " | ".join(["selector", *head, "exponent", "B/N"]) + " |")
    print("|---" * (len(sizes) + 3) + "|")
    for name, by_size in found.items():
        cells = [f"{by_size[n]['seconds']:.2g}" if n in by_size else "" for n in sizes]
        slope = exponent(list(by_size), [point["seconds"] for point in by_size.values()])
        last = max(by_size)
        print(
            "| " + " | ".join([name, *cells, f"{slope:.2f}", f"{by_size[last]['bytes'] / last:.0f}"]) + " |"
        )


def updates(size=10**7, seconds=2.0):
    """Time of one epoch of `SampleSignals.update` on all samples, from the first batches of it."""
    print(f"\n| samples an update | us a sample | an epoch of {size:,} samples, s |\n|---|---|---|")
    generator, signals = torch.Generator().manual_seed(0), SampleSignals(size, 10)
    for batch in (128, 1024, 16_384, 262_144):
        logits, labels = torch.randn(batch, 10, generator=generator), torch.zeros(batch, dtype=torch.int64)
        loss = torch.rand(batch, generator=generator)
        taken, spent = 0, 0.0
        while spent < seconds:
            index = torch.randint(size // batch, (), generator=generator) + torch.arange(batch) * (
                size // batch
            )
            start = time.process_time()
            signals.update(index, loss, logits, labels, 0)
            spent += time.process_time() - start
            taken += batch
        print(f"| {batch:,} | {1e6 * spent / taken:.2f} | {spent / taken * size:.1f} |", flush=True)


def processor():
    lines = [x for x in Path("/proc/cpuinfo").read_text().splitlines() if x.startswith("model name")]
    return lines[0].split(":")[1].strip() if lines else platform.processor()


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--most", type=float, default=1e7, help="largest N")
    parser.add_argument("--rival", type=float, default=1e7, help="largest N of the naive rivals")
    parser.add_argument("--ratio", type=float, default=0.5)
    parser.add_argument("--rounds", type=int, default=3, help="of which the quickest counts")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--only", default="", help="part of a name")
    parser.add_argument("--json", type=Path, help="where to write all figures")
    args = parser.parse_args()
    torch.set_num_threads(1)
    about = {
        "hardware": torch.cuda.get_device_name() if args.device == "cuda" else f"{processor()}, one thread",
        "device": args.device,
        "versions": f"Python {platform.python_version()}, torch {torch.__version__}, NumPy {np.__version__}",
        "date": datetime.datetime.now(tz=datetime.UTC).date().isoformat(),
        "ratio": args.ratio,
    }
    print("; ".join(f"{key}: {value}" for key, value in about.items()) + "\n")
    sizes, found = measure(args)
    show(sizes, found)
    if args.json:
        args.json.write_text(json.dumps({**about, "figures": found}, indent=1) + "\n")
    if args.device == "cpu" and not args.only:
        updates()


if __name__ == "__main__":
    main()
