"""What the speed benchmarks share: facts of the machine, timing side by side, one table, one JSON file."""

import argparse
import json
import os
import platform
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import torch

Times = Mapping[str, Sequence[float]]


def parser(doc: str | None, repeats: int) -> argparse.ArgumentParser:
    """A command line with the settings that every benchmark has."""
    made = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--device", default="auto", help="auto, cpu or cuda; auto takes a GPU where one is")
    made.add_argument("--repeats", type=int, default=repeats, help=f"rounds of timing (default {repeats})")
    made.add_argument("--json", type=Path, metavar="PATH", help="write facts and figures to this file")
    made.add_argument("--quick", action="store_true", help="a smoke run of seconds; its figures mean nothing")
    return made


def choose_device(name: str) -> torch.device:
    """The device of `--device`; one torch thread on the host."""
    torch.set_num_threads(1)
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def interleaved(
    calls: Mapping[str, Callable[[], object]], repeats: int, device: torch.device, *, cpu_time: bool = False
) -> Times:
    """Seconds of each call, timed in turn after one call each to warm up; the order turns each round.

    Args:
        calls: what to time, by name.
        repeats: rounds.
        device: waited for before and after a call.
        cpu_time: on a CPU, count this process's time on it in place of wall-clock time. For calls that use
            one thread of one process it is the wall-clock time of a machine without other jobs.
    """
    clock = time.process_time if cpu_time and device.type == "cpu" else time.perf_counter
    names = list(calls)
    for name in names:
        calls[name]()
    times: dict[str, list[float]] = {name: [] for name in names}
    for number in range(repeats):
        shift = number % len(names)
        for name in names[shift:] + names[:shift]:
            times[name].append(seconds(calls[name], device, clock))
    return times


def seconds(call: Callable[[], object], device: torch.device, clock: Callable[[], float]) -> float:
    """Time of one call, with the device's work finished."""
    synchronize(device)
    start = clock()
    call()
    synchronize(device)
    return clock() - start


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class Spread(NamedTuple):
    """A median over the rounds, with the quartiles."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        if len(values) < 2:
            return cls(values[0], values[0], values[0])
        low, median, high = statistics.quantiles(values, n=4, method="inclusive")
        return cls(median, low, high)

    def text(self, form: str = ".2f", unit: str = "") -> str:
        return f"{self.median:{form}}{unit} ({self.low:{form}} to {self.high:{form}})"


def speedup(times: Times, own: str, rival: str, scale: float = 1.0) -> Spread:
    """How many times faster `own` is than `rival`, round by round; `scale` is own work over rival's."""
    return Spread.of([scale * b / a for a, b in zip(times[own], times[rival], strict=True)])


def facts(device: torch.device, packages: Sequence[str] = ()) -> dict[str, Any]:
    """Hardware, versions, device and date."""
    known: dict[str, Any] = {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": os.getloadavg()[0],
        "device": str(device),
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        "python": platform.python_version(),
    }
    for package in ("torch", "numpy", *packages):
        try:
            known[package] = version(package)
        except PackageNotFoundError:
            known[package] = None
    return known


def cpu_name() -> str:
    """The processor's model name, as `lscpu` gives it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")


def report(
    args: argparse.Namespace, known: dict[str, Any], heads: Sequence[str], rows: Sequence[dict[str, Any]]
) -> None:
    """Print one markdown table and a line of facts; write all figures to `--json`.

    Args:
        args: the command line, of `parser`.
        known: see `facts`.
        heads: titles of the columns.
        rows: figures by name; "cells" holds the texts of the row's columns.
    """
    print("| " + " | ".join(heads) + " |\n" + "|---" * len(heads) + "|")
    for row in rows:
        print("| " + " | ".join(row["cells"]) + " |")
    where = f"{known['gpu']}" if known["gpu"] else f"{known['cpu']}, {known['cores']} cores, no GPU used"
    skip = ("date", "cpu", "cores", "threads", "load", "device", "gpu")
    versions = ", ".join(f"{name} {value}" for name, value in known.items() if value and name not in skip)
    count = f"{known['threads']} thread{'s' if known['threads'] > 1 else ''}"
    count += f", load average {known['load']:.1f}"
    print(f"\n{known['date']}, {where}, {count}; {versions}.{' QUICK: a smoke run.' * args.quick}")
    if args.json:
        figures = [{name: value for name, value in row.items() if name != "cells"} for row in rows]
        command = shlex.join(["python", *sys.argv])
        args.json.write_text(json.dumps({"command": command, "facts": known, "rows": figures}, indent=1))
