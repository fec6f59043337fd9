"""What a change costs the default run: two trees train and evaluate at the same time, a process each.

    git worktree add ../before COMMIT
    python benchmarks/run_cost.py --before ../before --rounds 2 --json run_cost.json
    python benchmarks/run_cost.py --before ../before -- --steps 40000 --seeds 32   # a shorter run

Both processes run side by side with one torch thread, so that both see the same load. It prints the ratio of
wall-clock seconds and of processor seconds, after over before, and the size of the event files.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from common import facts

CODE = """
import resource, sys, time
sys.path.insert(0, sys.argv[1])
began = time.perf_counter()
from dsenv.workbench import main
status = main(sys.argv[2:])
used = resource.getrusage(resource.RUSAGE_SELF)
print("SPENT", time.perf_counter() - began, used.ru_utime + used.ru_stime)
sys.exit(status)
"""


def start(tree: Path, out: Path, arguments: list[str]) -> "subprocess.Popen[str]":
    """The main job of a tree, in a process of its own."""
    command = [sys.executable, "-c", CODE, str(tree), "--out", str(out), *arguments]
    quiet = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
    return subprocess.Popen(command, cwd=tree, env={**os.environ, "OMP_NUM_THREADS": "1"}, **quiet)


def spent(process: "subprocess.Popen[str]", out: Path) -> dict[str, float]:
    """Wall-clock seconds, processor seconds and megabytes of events of a run, once it is over."""
    output, _ = process.communicate()
    if process.returncode:
        raise SystemExit(f"{process.args[3]} ended with status {process.returncode}:\n{output}")
    (line,) = (line for line in output.splitlines() if line.startswith("SPENT"))
    wall, cpu = (float(word) for word in line.split()[1:])
    events = sum(path.stat().st_size for path in out.rglob("events.out.tfevents.*"))
    return {"wall_seconds": wall, "cpu_seconds": cpu, "event_megabytes": events / 1e6}


def main() -> None:
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    parser.add_argument("--before", type=Path, required=True, help="a checkout to compare with")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--json", type=Path)
    parser.add_argument("arguments", nargs="*", help="of train_agent.py, after --")
    args = parser.parse_args()

    trees = {"before": args.before.resolve(), "after": Path(__file__).resolve().parents[1]}
    rounds = []
    for number in range(args.rounds):
        with tempfile.TemporaryDirectory() as folder:
            outs = {name: Path(folder) / name for name in trees}
            running = {name: start(tree, outs[name], args.arguments) for name, tree in trees.items()}
            row = {name: spent(process, outs[name]) for name, process in running.items()}
        ratios = {what: row["after"][what] / row["before"][what] for what in ("wall_seconds", "cpu_seconds")}
        rounds.append({**row, "ratios": ratios})
        print(f"round {number}: {rounds[-1]}", flush=True)

    commits = {
        name: subprocess.check_output(["git", "rev-parse", "--short", "HEAD"], cwd=tree, text=True).strip()
        for name, tree in trees.items()
    }
    if args.json:
        content = {"machine": facts(torch.device("cpu")), "commits": commits, "rounds": rounds}
        args.json.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
