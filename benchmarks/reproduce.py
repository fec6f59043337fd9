"""The claims of PODS, Data Agent and SADA, tried in trainings long enough that data are redundant.

    OMP_NUM_THREADS=1 python benchmarks/reproduce.py --preset cpu --jobs 2 --out runs/reproduce_cpu.jsonl
    python benchmarks/reproduce.py --summary
    python benchmarks/reproduce.py --plan

First the redundancy curve: test accuracy of all data over the number of epochs. The length at which twice
the epochs gain less than 0.2 points of validation accuracy is that of all other rows, but for those on few
images, which have 100 epochs. `reproduce_rows.py` has the rows, one line each, and the presets: `smoke`
(seconds, generated images), `cpu-short` (under an hour), `cpu` (one night on 2 cores), `gpu` (a ResNet-18
in bf16 and channels_last). Fashion-MNIST is read from the package dataset-fashion-mnist of Debian, or from
dsenv's data folder.

One JSON line a finished run, with its settings, figures, command, commit, versions and hardware; a run that
is in the file is not run again, so a stopped command goes on where it was. One recipe for all rows: SGD with
Nesterov momentum, one-cycle rate of peak 0.1, weight decay 5e-4, batch 128 (32 where an epoch has at most
1,000 images). Seeds decide initial parameters, order, noise and which images; rows of one seed share them,
so that differences are paired. The test split is read once a run, at its end; lengths and strengths are
decided on 5,000 images held out. "trained" is in samples seen over those of all data for all epochs.
"""

import argparse
import json
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from common import facts
from reproduce_rows import PRESETS, Preset, Run, curve_runs, key, runs_of, samples
from reproduce_runs import execute, missing, probe
from reproduce_tables import Results, read
from tqdm import tqdm


def commit() -> str:
    """The commit of the working tree, with a + where files differ from it."""
    folder = Path(__file__).resolve().parent

    def git(*words: str) -> str:
        found = subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, check=False)
        return found.stdout.strip() if found.returncode == 0 else ""

    return (git("rev-parse", "--short=12", "HEAD") or "unknown") + "+" * bool(
        git("status", "--porcelain", "-uno")
    )


def perform(runs: list[Run], device: str, jobs: int) -> Iterator[tuple[Run, dict[str, Any]]]:
    """Runs with their results, as they come."""
    if jobs == 1:
        yield from ((run, execute(run, device)) for run in runs)
        return
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        waiting = {pool.submit(execute, run, device): run for run in runs}
        for future in as_completed(waiting):
            yield waiting[future], future.result()


class Work:
    """The runs of a preset and the file that they go to.

    Args:
        preset: which.
        args: the command line.
    """

    def __init__(self, preset: Preset, args: argparse.Namespace) -> None:
        self.preset, self.args = preset, args
        self.device = preset.device if args.device is None else args.device
        about = facts(torch.device(self.device), ("scipy",))
        self.about = {"command": shlex.join(["python", *sys.argv]), "commit": commit(), **about}
        self.start = time.perf_counter()

    def wanted(self, runs: list[Run]) -> list[Run]:
        """Those of the runs that are asked for and not in the file."""
        args, done = self.args, {key(line) for line in read(self.args.out)}
        runs = [run for run in runs if not args.sections or run.row.section in args.sections]
        runs = [run for run in runs if not args.only or run.row.name.startswith(tuple(args.only))]
        runs = [run for run in runs if args.seeds is None or run.seed < args.seeds]
        unique = {key(asdict(run)): run for run in reversed(runs)}  # some rows stand in two sections
        return [run for name, run in reversed(unique.items()) if name not in done and not self.left_out(run)]

    def go(self, runs: list[Run]) -> bool:
        """Run what is missing of these; False where the time is up."""
        runs = self.wanted(runs)
        with (
            self.args.out.open("a") as file,
            tqdm(total=sum(map(samples, runs)), unit=" samples", unit_scale=True) as bar,
        ):
            for run, found in perform(runs, self.device, self.args.jobs):
                file.write(json.dumps({**found, **self.about}) + "\n")
                file.flush()
                bar.set_description(f"{run.row.section}: {run.row.name}, seed {run.seed}")
                bar.update(samples(run))
                if self.args.stop_after and time.perf_counter() - self.start > self.args.stop_after:
                    return False
        return True

    def left_out(self, run: Run) -> bool:
        """Whether the data of a run are not here; said once for each row."""
        reason = missing(run)
        if reason and run.seed == 0:
            print(
                f"left out: {run.row.section}, {run.row.name} ({run.row.labels}): {reason}", file=sys.stderr
            )
        return bool(reason)


def print_plan(preset: Preset, args: argparse.Namespace) -> None:
    """Rows, runs and expected seconds of each section, by a probe of each kind of row."""
    device = preset.device if args.device is None else args.device
    if device == "cuda" and not torch.cuda.is_available():
        print(f"\n{preset.name}: needs a GPU; here is none, so there is no time to tell")
        device = ""
    length = Results(read(args.out), preset).known_length
    curve = [run for epochs in preset.curve for run in curve_runs(preset, epochs)]
    runs = [*curve, *runs_of(preset, length or preset.length)]
    told = f"{length} epochs, by the curve" if length else f"{preset.length} epochs, not measured yet"
    print(f"\n**{preset.name}**: {told}. {'Cut: ' + preset.cut if preset.cut else 'Nothing is cut.'}\n")
    print("| section | rows | runs | samples seen | expected seconds of one core |\n|---|---|---|---|---|")

    speeds: dict[str, tuple[float, float]] = {}
    for section in dict.fromkeys(run.row.section for run in runs):
        own = [run for run in runs if run.row.section == section]
        rows = len({(run.row.name, run.row.data, run.row.labels) for run in own})
        cost = sum(expected(run, device, speeds) for run in own) if device else float("nan")
        print(
            f"| {section} | {rows} | {len(own)} | {sum(map(samples, own)):,.0f} | {cost:,.0f} |", flush=True
        )


def expected(run: Run, device: str, speeds: dict[str, tuple[float, float]]) -> float:
    """Seconds of a run, by the probe of the first one of its kind."""
    if missing(run):
        return 0.0
    row = run.row
    kind = json.dumps([row.data, row.selector, row.augment, row.policy, row.regulariser, run.model])
    if kind not in speeds:
        speeds[kind] = probe(replace(run, epochs=max(2, run.epochs)), device)
    each, aside = speeds[kind]
    return samples(run) * each + aside * run.epochs


def parse(arguments: list[str] | None) -> argparse.Namespace:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--preset", choices=list(PRESETS), help="which rows; needed but for --plan")
    made.add_argument(
        "--out", type=Path, help="JSON-lines file; default benchmarks/results/reproduce_PRESET.jsonl"
    )
    made.add_argument("--sections", nargs="+", help="only these sections")
    made.add_argument("--only", nargs="+", help="only rows whose names begin so")
    made.add_argument("--seeds", type=int, help="at most so many seeds")
    made.add_argument("--jobs", type=int, default=1, help="processes, one thread each")
    made.add_argument("--device", help="cpu or cuda, in the place of the preset's")
    made.add_argument("--generated", action="store_true", help="generated images: for speed, not accuracy")
    made.add_argument("--length", type=int, help="epochs, in the place of what the curve shows")
    made.add_argument("--stop-after", type=float, metavar="SECONDS", help="begin no run after that time")
    made.add_argument("--plan", action="store_true", help="print rows, runs and expected seconds")
    made.add_argument("--summary", action="store_true", help="make docs/benchmarks/reproduction.md anew")
    args = made.parse_args(arguments)
    if args.preset is None and not (args.plan or args.summary):
        made.error("--preset is needed: one of " + ", ".join(PRESETS))
    return args


def main(arguments: list[str] | None = None) -> None:
    """Run what is not finished yet, plan, or write the page."""
    args = parse(arguments)
    default = Path(__file__).resolve().parent / "results"
    if args.plan:
        for name in [args.preset] if args.preset else PRESETS:
            out = args.out or default / f"reproduce_{name}.jsonl"
            print_plan(PRESETS[name], argparse.Namespace(**{**vars(args), "out": out}))
        return

    if args.summary:
        import tables
        from tables_reproduction import draw_kept

        page = tables.ROOT / "docs" / "benchmarks" / "reproduction.md"
        page.write_text(tables.filled(page.read_text(), page))
        draw_kept(tables.ROOT / "docs" / "images" / "reproduction.svg")
        return
    preset = PRESETS[args.preset]
    preset = replace(preset, generated=preset.generated or args.generated)
    args.out = args.out or default / f"reproduce_{preset.name}.jsonl"
    args.out.parent.mkdir(parents=True, exist_ok=True)
    work = Work(preset, args)
    for epochs in preset.curve:
        known = args.length or Results(read(args.out), preset).known_length
        if known is None and not work.go(curve_runs(preset, epochs)):
            return
    work.go(runs_of(preset, args.length or Results(read(args.out), preset).known_length or preset.length))


if __name__ == "__main__":
    main()
