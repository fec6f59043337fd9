"""Mutation run over dsenv's own tests: which single changes of the code does no test notice?

    python benchmarks/mutants.py draw --seed 0 --count 100 --out draw.json
    OMP_NUM_THREADS=1 python benchmarks/mutants.py run draw.json --tree . --out before.jsonl --test-limit 15
    python benchmarks/mutants.py report before.jsonl
    python benchmarks/mutants.py compare before.jsonl after.jsonl

`draw` picks mutations, each one change of one node of the syntax tree, over the packages of `PACKAGES`: by
their lines, at least 10 a package; within a package a kind of change counts by the square root of its places,
else constants and displays were half of all. Texts, annotations, docstrings, `raise`, `assert` and calls that
warn or print are left alone. Of a dict the values of two neighbours are swapped, because the order of its
entries rarely matters.

`run` copies the tree, runs each package's tests once as they are, and notes which test calls which function;
it goes on only if all pass (`--deselect` names known failures). Then it makes one mutation at a time and runs
the tests that call the mutated function, the quickest first, until one fails. A mutation at module or class
level is tried on all tests of the package, those that call a function of the file first. Each mutation is one
line of the results, written at once: a stopped run goes on where it was. A mutation is found by its statement
and the name of its function, so a draw holds for a tree in which the files were moved.

    killed     a test failed
    broken     killed, by an import that fails
    survived   all tests that call the function passed, or none does (tests_run 0)
    timeout    they took longer than three times their time as it was, plus 30 s
    error      the tree does not hold the statement (any more)

Tests that took longer than --test-limit seconds in the run without mutations are left out for all mutations.
--select takes numbers of the draw ("3,7,20-29"), --tests other test folders or files than the package's own,
--package CODE=TESTS replaces the table of packages. Processes are forked: it runs on Linux and macOS.
"""

import argparse
import compileall
import hashlib
import importlib
import json
import math
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from mutation import Site, apply, find, sites
from watched import Timed, run_tests

PACKAGES = {
    "dsenv/control": ["tests/control"],
    "dsenv/select": ["tests/select"],
    "dsenv/volume": ["tests/volume"],
    "dsenv/plan": ["tests/plan"],
    "dsenv/env": ["tests/env"],
}
LEAST = 10  # mutations of a package
PRELOAD = (
    "numpy",
    "torch",
    "sklearn.datasets",
    "scipy.stats",
    "gymnasium",
    "hypothesis",
    "matplotlib.pyplot",
)
STATES = ("killed", "broken", "survived", "timeout", "error")

Table = dict[str, list[str]]


def copy_tree(tree: Path, root: Path) -> None:
    """A copy of the tree without its history, compiled once."""
    leave = shutil.ignore_patterns(".git", "__pycache__", ".*_cache", ".venv", ".hypothesis")
    shutil.copytree(tree, root, ignore=leave)
    compileall.compile_dir(root, quiet=2)
    sys.dont_write_bytecode = True  # a mutated file is newer than its compiled one, and leaves none behind


def fingerprint(root: Path, paths: Iterable[str], extra: object) -> str:
    """A digest of all Python files of the tree and of what the run without mutations was asked for."""
    digest = hashlib.sha256(repr((sorted(paths), extra)).encode())
    for path in sorted(root.rglob("*.py")):
        digest.update(str(path.relative_to(root)).encode() + path.read_bytes())
    return digest.hexdigest()


def clean_run(root: Path, tests: list[str], deselect: list[str], out: Path) -> dict[str, Timed]:
    """Time and calls of every test of the tree as it is, kept beside the results for a run that goes on."""
    digest = fingerprint(root, tests, deselect)
    kept = out.with_suffix(f".{digest[:12]}.clean.json")
    if not kept.exists():
        print(f"without mutations: {' '.join(tests)}", flush=True)
        arguments = [*tests, *(f"--deselect={name}" for name in deselect)]
        seen = run_tests(root, arguments, limit=7200, trace=True) or {"code": 1, "failed": "time"}
        if seen["code"] != 0:
            log = (root.parent / "seen.log").read_text()[-2000:]
            raise SystemExit(f"the tests fail without a mutation ({seen['failed']}); see --deselect\n{log}")
        kept.write_text(json.dumps(seen["tests"]))
    return {name: Timed(*timed) for name, timed in json.loads(kept.read_text()).items()}


def order_tests(site: Site, file: str, clean: dict[str, Timed]) -> list[str]:
    """The tests that can notice a mutation, the quickest first."""
    by_time = sorted(clean, key=lambda name: clean[name].seconds)
    if site.scope == "function":
        return [name for name in by_time if f"{file}:{site.function}" in clean[name].calls]
    of_file = [name for name in by_time if any(c.startswith(f"{file}:") for c in clean[name].calls)]
    if site.scope == "cached":
        return of_file
    return of_file + [name for name in by_time if name not in set(of_file)]


def try_mutant(
    root: Path, site: Site, path: Path, clean: dict[str, Timed], timeout: float | None
) -> dict[str, object]:
    """Outcome of the tests under one mutation; the file is as it was afterwards."""
    order = order_tests(site, str(path.relative_to(root)), clean)
    if not order:
        return {"state": "survived", "tests_run": 0}
    source, times = path.read_text(), path.stat()
    limit = timeout or 3 * sum(clean[name].seconds for name in order) + 30
    files = list(dict.fromkeys(name.partition("::")[0] for name in order))
    path.write_text(apply(source, site))
    try:
        seen = run_tests(root, files, order, limit=limit)
    finally:
        path.write_text(source)
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))

    if seen is None:
        return {"state": "timeout", "limit": round(limit), "tests_run": len(order)}
    if seen["broken"]:
        return {"state": "broken", "test": seen["failed"], "tests_run": 0}
    state = "survived" if seen["code"] == 0 else "killed"
    return {"state": state, "test": seen["failed"], "tests_run": len(seen["tests"]), "tests": len(order)}


def outcome(root: Path, entry: dict[str, Any], options: argparse.Namespace) -> dict[str, object]:
    """Find, apply and try one entry of a draw."""
    site = Site(**entry["site"] | {"place": tuple(entry["site"]["place"])})
    table = options.table
    path = find(root, [folder for folder in table if (root / folder).is_dir()], site)
    found: dict[str, object] = {key: entry[key] for key in ("id", "package")}
    found |= {"kind": site.kind, "function": site.function, "before": site.statement, "after": site.after}
    if path is None:
        return found | {"file": site.file, "line": site.line, "state": "error", "test": "statement not found"}
    file = str(path.relative_to(root))
    package = max((folder for folder in table if file.startswith(f"{folder}/")), key=len)
    clean = clean_run(root, options.tests or table[package], options.deselect, options.out)
    quick = {name: timed for name, timed in clean.items() if timed.seconds <= options.test_limit}

    start = time.perf_counter()
    try:
        result = try_mutant(root, site, path, quick, options.timeout)
    except ValueError as error:
        result = {"state": "error", "test": str(error)}
    line = next(other.line for other in sites(path.read_text(), file) if other.key() == site.key())
    return found | {"file": file, "line": line} | result | {"seconds": round(time.perf_counter() - start, 1)}


def draw(tree: Path, table: Table, count: int, seed: int) -> list[dict[str, Any]]:
    """Mutations by package, as the module's text says."""
    rng = random.Random(seed)
    folders = [folder for folder in table if (tree / folder).is_dir()]
    files = {folder: sorted((tree / folder).rglob("*.py")) for folder in folders}
    lines = {folder: sum(len(p.read_text().splitlines()) for p in files[folder]) for folder in folders}
    drawn = []
    for folder, number in shares(lines, count).items():
        kinds: dict[str, list[Site]] = {}
        for path in files[folder]:
            for site in sites(path.read_text(), str(path.relative_to(tree))):
                kinds.setdefault(site.kind.split()[0], []).append(site)
        weights = {kind: math.sqrt(len(places)) for kind, places in kinds.items()}
        for _ in range(min(number, sum(map(len, kinds.values())))):
            left = sorted(kind for kind in kinds if kinds[kind])
            kind = rng.choices(left, [weights[kind] for kind in left])[0]
            site = kinds[kind].pop(rng.randrange(len(kinds[kind])))
            drawn.append({"id": len(drawn), "package": folder, "site": site._asdict()})
    return drawn


def shares(lines: dict[str, int], count: int) -> dict[str, int]:
    """Mutations of each package: `LEAST`, where count allows it, and the rest by its lines."""
    least = min(LEAST, count // len(lines))
    parts = {folder: max(least, round(count * lines[folder] / sum(lines.values()))) for folder in lines}
    while sum(parts.values()) != count:
        step = 1 if sum(parts.values()) < count else -1
        free = [folder for folder in parts if parts[folder] + step >= least]
        folder = max(free, key=lambda name: step * (lines[name] / sum(lines.values()) - parts[name] / count))
        parts[folder] += step
    return parts


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Results, one JSON object a line."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def numbers(text: str) -> set[int]:
    """`3,7,20-29` as numbers."""
    parts = [part.partition("-") for part in text.split(",")]
    return {number for low, _, high in parts for number in range(int(low), int(high or low) + 1)}


def run(options: argparse.Namespace) -> None:
    """Try the mutations of a draw that the results do not hold yet."""
    for name in PRELOAD if options.table is PACKAGES else ():  # once, not in each of a hundred processes
        with suppress(ImportError):
            importlib.import_module(name)
    done = {result["id"] for result in read_lines(options.out)}
    chosen = numbers(options.select) if options.select else None
    entries = [e for e in json.loads(options.draw.read_text()) if chosen is None or e["id"] in chosen]
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder).resolve() / "tree"
        copy_tree(options.tree, root)
        for entry in entries:
            if entry["id"] in done:
                continue
            result = outcome(root, entry, options)
            with options.out.open("a") as file:
                file.write(json.dumps(result) + "\n")
            print(f"{result['id']:3} {result['state']:8} {result['file']}:{result['line']}", flush=True)
    report(read_lines(options.out))


def report(results: list[dict[str, Any]]) -> None:
    """Print the table by package, and every mutation that no test noticed."""
    table(results)
    for state in ("survived", "timeout", "error"):
        for result in results:
            if result["state"] == state:
                print(f"\n{state} {describe(result)}")


def table(results: list[dict[str, Any]]) -> None:
    """Print the outcomes by package."""
    by_package: dict[str, Counter[str]] = {}
    for result in results:
        by_package.setdefault(result["package"], Counter())[result["state"]] += 1
    print(f"| package | {' | '.join(STATES)} | killed of tried |")
    print("|---" * (len(STATES) + 2) + "|")
    for package, states in [*by_package.items(), ("all", sum(by_package.values(), Counter()))]:
        noticed = states["killed"] + states["broken"] + states["timeout"]
        tried = noticed + states["survived"]
        cells = " | ".join(str(states[state]) for state in STATES)
        print(f"| {package} | {cells} | {noticed} of {tried} |")


def describe(result: dict[str, Any]) -> str:
    """A mutation as a difference of its statement."""
    where = f"{result['id']}: {result['file']}:{result['line']} {result['function']} ({result['kind']})"
    note = "" if result.get("tests_run") else f" [{result.get('test') or 'no test calls it'}]"
    lines = [f"  - {line}" for line in result["before"].splitlines()]
    lines += [f"  + {line}" for line in result["after"].splitlines()]
    return "\n".join([where + note, *lines])


def compare(before: list[dict[str, Any]], after: list[dict[str, Any]]) -> None:
    """Print both tables, and every mutation whose outcome changed."""
    for results in (before, after):
        table(results)
        print()
    old = {result["id"]: result for result in before}
    for result in after:
        was = old.get(result["id"], {}).get("state", "not tried")
        if was != result["state"]:
            print(f"{was} -> {result['state']} {describe(result)}")


def packages(texts: list[str] | None) -> Table:
    """The table of packages, or the one of `--package CODE=TESTS`."""
    return {text.partition("=")[0]: text.partition("=")[2].split(",") for text in texts or []} or PACKAGES


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = made.add_subparsers(dest="command", required=True)
    drawing, running = commands.add_parser("draw"), commands.add_parser("run")
    drawing.add_argument("--seed", type=int, default=0)
    drawing.add_argument("--count", type=int, default=100)
    running.add_argument("draw", type=Path)
    running.add_argument("--select", metavar="NUMBERS")
    running.add_argument("--tests", nargs="+", metavar="PATH")
    running.add_argument("--deselect", action="append", default=[], metavar="TEST")
    running.add_argument("--timeout", type=float, metavar="SECONDS")
    running.add_argument("--test-limit", type=float, default=math.inf, metavar="SECONDS")
    for command in (drawing, running):
        command.add_argument("--tree", type=Path, default=Path())
        command.add_argument("--out", type=Path, required=True)
        command.add_argument("--package", action="append", metavar="CODE=TESTS")
    commands.add_parser("report").add_argument("results", type=Path)
    comparing = commands.add_parser("compare")
    comparing.add_argument("before", type=Path)
    comparing.add_argument("after", type=Path)
    return made


def main() -> None:
    options = parser().parse_args()
    if options.command == "report":
        report(read_lines(options.results))
    elif options.command == "compare":
        compare(read_lines(options.before), read_lines(options.after))
    else:
        options.table, options.out = packages(options.package), options.out.resolve()
        if options.command == "run":
            run(options)
        else:
            drawn = draw(options.tree, options.table, options.count, options.seed)
            options.out.write_text(json.dumps(drawn, indent=1) + "\n")


if __name__ == "__main__":
    main()
