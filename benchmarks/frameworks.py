"""Every combination of a training run in each framework: does it train what was planned, and resume?

    OMP_NUM_THREADS=1 python benchmarks/frameworks.py [torch accelerate torchdata huggingface lightning]
        [--out PATH] [--quick] [--volumes constant] [--timeout 1800]

Volumes (constant, falling by PODS, rising) x ranks (1, 2) x accumulated batches (1, 2, 4) x workers (0, 2) x
stops (none, and six places to stop and resume) for each function of `tests/integrations/<name>_cases.py`; see
`tests/integrations/cases.py` for what each must show. One JSON line a case, with versions; a case that passed
with the same versions is not run again, so the command may be stopped and given again. Frameworks that are
not installed are passed over and named.
"""

import argparse
import importlib
import itertools
import json
import platform
import shutil
import sys
import tempfile
import time
import traceback
from contextlib import redirect_stderr, redirect_stdout
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.integrations import cases  # noqa: E402
from tests.integrations.cases import STOPS, VOLUMES, Case  # noqa: E402

FRAMEWORKS = {
    "torch": ["torch"],
    "accelerate": ["torch", "accelerate"],
    "torchdata": ["torch", "torchdata"],
    "huggingface": ["torch", "transformers", "trl", "accelerate"],
    "lightning": ["torch", "lightning"],
}
"""Names of the modules of cases, and the packages whose versions count."""
MODULES = {"huggingface": "huggingface_cross"}
"""Modules of cases that are not called `<name>_cases`."""
OUT = ROOT / "benchmarks" / "results" / "frameworks.jsonl"


def main(arguments=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "frameworks", nargs="*", metavar="NAME", help=f"of {', '.join(FRAMEWORKS)}; default all"
    )
    parser.add_argument("--out", type=Path, default=OUT, help="JSON lines are appended here")
    parser.add_argument("--volumes", nargs="+", choices=list(VOLUMES), default=list(VOLUMES))
    parser.add_argument("--only", nargs="+", metavar="FUNCTION", help="functions of the modules, by name")
    parser.add_argument(
        "--timeout",
        type=int,
        default=1800,
        help="seconds for the 126 cases of one function and number of ranks",
    )
    parser.add_argument("--quick", action="store_true", help="one rank, two stops: a smoke run")
    told = parser.parse_args(arguments)
    if unknown := set(told.frameworks) - set(FRAMEWORKS):
        parser.error(f"no such framework: {', '.join(sorted(unknown))}; there are {', '.join(FRAMEWORKS)}")

    told.out.parent.mkdir(parents=True, exist_ok=True)
    failed = 0
    for framework in told.frameworks or FRAMEWORKS:
        functions = functions_of(framework)
        for name, ranks in itertools.product(functions, (1,) if told.quick else (1, 2)):
            if not told.only or name in told.only:
                wanted = all_cases(told.volumes, ranks, quick=told.quick)
                failed += run_group(framework, name, wanted, told)
    print(f"{failed} cases failed" if failed else "all cases passed")
    return min(failed, 1)


def module_of(framework):
    """The module with a framework's cases."""
    name = MODULES.get(framework, f"{framework}_cases")
    return importlib.import_module(f"tests.integrations.{name}")


def functions_of(framework):
    """The functions of a framework's module; none where it is not installed or not there."""
    try:
        return module_of(framework).CASES
    except ImportError as error:
        print(f"{framework}: passed over, {error}")
        return {}


def all_cases(volumes, ranks, *, quick=False):
    """Every case of some volumes on so many ranks; those that do not stop come first, for comparison."""
    parts = ((1,), (0,), ("none", "in 2")) if quick else ((1, 2, 4), (0, 2), STOPS)
    found = [Case(volume, ranks, *others) for volume, *others in itertools.product(volumes, *parts)]
    return sorted(found, key=lambda case: case.stop != "none")


def run_group(framework, name, wanted, told):
    """Run the cases of one function in one launch, and append a line for each; returns how many failed."""
    versions = {package: version_of(package) for package in FRAMEWORKS[framework]}
    passed = passed_before(told.out, framework, name, versions)
    missing = [case for case in wanted if case not in passed]
    if not missing:
        return 0
    needed = [case for case in wanted if case in missing or case.stop == "none"]

    # Ranks write what they saw case by case, so that a case that hangs loses none of those before it
    folder, began = Path(tempfile.mkdtemp(prefix="frameworks-")), time.monotonic()
    call = (framework, name, needed)
    cases.launch_until_death(run_cases, folder, needed[0].ranks, told.timeout, call)
    found = {}
    for number, case in enumerate(needed):
        paths = [folder / "call0" / f"{number}-{rank}.pt" for rank in range(case.ranks)]
        if all(path.exists() for path in paths):
            found[case] = [torch.load(path, weights_only=False) for path in paths]
    shutil.rmtree(folder)

    lines = [line_of(framework, name, case, found, versions) for case in missing]
    with told.out.open("a") as out:
        out.writelines(json.dumps(line) + "\n" for line in lines)
    failed = [line for line in lines if not line["passed"]]
    words = f"{framework}, {name}, {wanted[0].volume}, {wanted[0].ranks} ranks"
    print(
        f"{words}: {len(lines) - len(failed)} of {len(lines)} passed, {time.monotonic() - began:.0f} s",
        flush=True,
    )
    for line in failed:
        print(f"  {Case(**line['case'])}: {line['error'].strip().splitlines()[-1]}", flush=True)
    return len(failed)


def run_cases(folder, call):
    """Run cases on this rank; what each gave, or its error, is written at once."""
    framework, name, wanted = call
    function = functions_of(framework)[name]
    for number, case in enumerate(wanted):
        place, began = folder / str(number), time.monotonic()
        place.mkdir(exist_ok=True)
        try:
            with (folder / "said.log").open("a") as log, redirect_stdout(log), redirect_stderr(log):
                found = function(place, case)
        except Exception:  # noqa: BLE001  # whatever it is, it is in the line of the case
            found = traceback.format_exc()
        rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
        torch.save((found, time.monotonic() - began), folder / f"{number}-{rank}.pt")


def line_of(framework, name, case, found, versions):
    """What one case showed."""
    error, seconds = "no result within the time-out, or a rank died", None
    if case in found:
        seconds = round(max(each[1] for each in found[case]), 2)
        error = error_of(
            framework, case, {known: [each[0] for each in seen] for known, seen in found.items()}
        )
    return {
        "framework": framework,
        "function": name,
        "case": case._asdict(),
        "passed": error is None,
        "error": error,
        "seconds": seconds,
        "versions": versions,
        "python": platform.python_version(),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
    }


def error_of(framework, case, found):
    """What is wrong with a case; None for nothing."""
    results = found[case]
    if errors := [each for each in results if isinstance(each, str)]:
        return errors[0]
    module = module_of(framework)
    try:
        if hasattr(module, "check"):
            module.check(results, case)
        else:
            cases.check_result(results, cases.reference(case))
        if case.stop != "none":
            cases.check_resumed(results, found[case._replace(stop="none")])
    except (AssertionError, KeyError, TypeError, AttributeError):
        return traceback.format_exc()
    return None


def passed_before(out, framework, name, versions):
    """Cases of a function that have passed with these versions."""
    lines = [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []
    own = (line for line in lines if (line["framework"], line["function"]) == (framework, name))
    return {Case(**line["case"]) for line in own if line["passed"] and line["versions"] == versions}


def version_of(package):
    try:
        return version(package)
    except PackageNotFoundError:
        return None


if __name__ == "__main__":
    sys.exit(main())
