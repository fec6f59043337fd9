"""Feeds made-up inputs to what takes input, and counts: accepted, refused, wrong.

    python benchmarks/fuzz.py [--cases 5000] [--seconds 600] [--seed 0] [--only NAME ...] [--quick]
    python benchmarks/fuzz.py --cases 100000 --seconds 1800 --json benchmarks/results/fuzz.json

A case is a call and an oracle. It is *accepted* if the call returns and the oracle has nothing to say about
what it returned; *refused* if one of dsenv's own errors is raised (by a `raise` in dsenv, with a message),
and the input was indeed one to refuse; and *wrong* otherwise: an oracle's complaint, a good input that is
refused, a bad one that is taken, an error from deeper down, or more than `LIMIT` seconds. Cases of all entry
points are drawn in turn, those that take long (`SLOW`) less often, each from (seed, entry point, number), so
that one can be drawn again by `--only NAME --case NUMBER`. `--json PATH` writes the counts.

The exit status is 1 where something was wrong, or fewer than 30 % of an entry point's cases were accepted or
refused.
"""

import argparse
import json
import linecache
import os
import signal
import sys
import tempfile
import time
import traceback
import warnings
import zlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from fuzz_agents import AGENTS
from fuzz_batches import BATCHES
from fuzz_cases import Case
from fuzz_collates import COLLATES
from fuzz_envs import ENVS
from fuzz_lives import LIVES
from fuzz_parts import PARTS
from fuzz_plans import PLANS
from fuzz_readers import READERS
from fuzz_settings import SETTINGS
from fuzz_states import STATES
from fuzz_steps import STEPS

import dsenv

ENTRY_POINTS: Mapping[str, Callable[[np.random.Generator, Path], Case]] = {
    **READERS,
    **SETTINGS,
    **PARTS,
    **AGENTS,
    **PLANS,
    **BATCHES,
    **LIVES,
    **COLLATES,
    **ENVS,
    **STEPS,
    **STATES,
}
"""Name -> draws a case from a generator; the folder is empty, for files."""

SLOW = frozenset((*LIVES, *ENVS, *STEPS, *STATES))  # tens of milliseconds a case, since they train
TURNS = 6  # of the others, for one of these
LIMIT = 20  # seconds a case
QUICK = 2  # cases of each entry point in a quick run
FEWEST = 0.3  # share of the cases of an entry point that have to be accepted, and refused
TELL = 10  # seconds between two lines on how far it is
SHOWN = 8  # wrong cases that are kept for each entry point
PACKAGE = str(Path(dsenv.__file__).parent) + os.sep
ERRORS = (ValueError, FileNotFoundError, TypeError, RuntimeError)


class Hang(BaseException):
    """A case that took too long; no `except Exception` takes it for an error of its own."""


@dataclass
class Counts:
    """What became of the cases of one entry point."""

    accepted: int = 0
    refused: int = 0
    wrong: int = 0
    examples: list[str] = field(default_factory=list)
    """The first wrong ones: number, input, complaint."""

    @property
    def total(self) -> int:
        return self.accepted + self.refused + self.wrong

    def is_right(self) -> bool:
        """Whether nothing was wrong, and neither good nor bad inputs were few."""
        return self.wrong == 0 and min(self.accepted, self.refused) >= FEWEST * self.total


def judge(case: Case) -> tuple[str, str]:
    """Run a case: ("accepted", ""), ("refused", message) or ("wrong", complaint)."""
    signal.setitimer(signal.ITIMER_REAL, LIMIT)
    try:
        result = case.call()
        complaint = case.oracle(result)
    except Hang:
        return "wrong", f"took more than {LIMIT} s"
    except Exception as error:  # noqa: BLE001  # that is what is looked for
        return _judge_error(case, error)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)

    if case.good is False:
        return "wrong", "accepted, and should have been refused"
    return ("wrong", complaint) if complaint else ("accepted", "")


def _judge_error(case: Case, error: Exception) -> tuple[str, str]:
    frame = traceback.extract_tb(error.__traceback__)[-1]
    words = f"{type(error).__name__}: {error}"[:300]
    line = linecache.getline(frame.filename, frame.lineno or 0).strip()
    is_own = isinstance(error, ERRORS) and frame.filename.startswith(PACKAGE) and line.startswith("raise")
    if not is_own or not str(error):
        return "wrong", f"{words} from {frame.filename}:{frame.lineno}"
    if case.good is True:
        return "wrong", f"refused, and should have been accepted: {words}"
    missing = [name for name in case.named if name not in str(error)]
    return ("wrong", f"does not name {missing[0]!r}: {words}") if missing else ("refused", words)


def draw(name: str, seed: int, number: int, folder: Path) -> Case:
    """The case of that number."""
    return ENTRY_POINTS[name](np.random.default_rng([seed, zlib.crc32(name.encode()), number]), folder)


def run(names: list[str], cases: int, seconds: float, seed: int) -> dict[str, Counts]:
    """Go through the entry points in turn until there were that many cases, or that many seconds."""
    counts = {name: Counts() for name in names}
    turns = [name for turn in range(TURNS) for name in names if turn == 0 or name not in SLOW]
    begun = time.monotonic()
    told = begun
    for number in range(cases):
        name = turns[number % len(turns)]
        now = time.monotonic()
        if now > begun + seconds:
            break
        if now > told + TELL:
            told = now
            wrong = sum(count.wrong for count in counts.values())
            print(f"{number} of {cases} cases, {now - begun:.0f} s, {wrong} wrong", file=sys.stderr)
        with tempfile.TemporaryDirectory() as folder:
            case = draw(name, seed, number, Path(folder))
            verdict, words = judge(case)

        count = counts[name]
        setattr(count, verdict, getattr(count, verdict) + 1)
        if verdict == "wrong" and len(count.examples) < SHOWN:
            count.examples.append(f"--case {number}: {case.words[:200]}: {words}")
            print(f"wrong: {name} {count.examples[-1]}", file=sys.stderr)
    return counts


def main(arguments: list[str] | None = None) -> int:
    """Run from the command line; the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a few cases of each entry point")
    parser.add_argument("--cases", type=int, default=5000)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", choices=sorted(ENTRY_POINTS), metavar="NAME")
    parser.add_argument("--case", type=int, help="run this case of the first of --only alone, with its trace")
    parser.add_argument("--json", type=Path, metavar="PATH")
    given = parser.parse_args(arguments)
    names = given.only or list(ENTRY_POINTS)
    cases = QUICK * len(names) if given.quick else given.cases

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    signal.signal(signal.SIGALRM, _hang)
    if given.case is not None:
        with tempfile.TemporaryDirectory() as folder:
            case = draw(names[0], given.seed, given.case, Path(folder))
            print(case.words, judge(case))
        return 0

    start = time.monotonic()
    counts = run(names, cases, given.seconds, given.seed)
    facts = {
        "seed": given.seed,
        "seconds": round(time.monotonic() - start, 1),
        "torch": torch.__version__,
        "cases": sum(count.total for count in counts.values()),
    }
    if given.json:
        found = {name: asdict(count) for name, count in counts.items()}
        given.json.write_text(json.dumps({**facts, "entry_points": found}, indent=1) + "\n")

    print(f"{facts}\n{'entry point':<22}{'accepted':>9}{'refused':>9}{'wrong':>7}")
    for name, count in counts.items():
        print(f"{name:<22}{count.accepted:>9}{count.refused:>9}{count.wrong:>7}")
        for example in count.examples:
            print(f"    {example}")
    is_right = all(count.wrong == 0 if given.quick else count.is_right() for count in counts.values())
    return 0 if is_right else 1


def _hang(number: int, frame: FrameType | None) -> Any:
    del number, frame
    raise Hang


if __name__ == "__main__":
    sys.exit(main())
