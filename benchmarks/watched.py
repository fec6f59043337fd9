"""Tests in a forked process, watched: how long each takes, what it calls, which is the first to fail."""

import json
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import pytest


class Timed(NamedTuple):
    """A test of the run without mutations."""

    seconds: float
    calls: list[str]
    """`file:qualified name` of the functions it called."""


class Watch:
    """Pytest plugin: the named tests alone and in that order, what each calls, and the first failure."""

    def __init__(self, root: Path, order: Sequence[str] | None, *, trace: bool) -> None:
        self.root, self.order, self.trace = f"{root}{os.sep}", order, trace
        self.tests: dict[str, Timed] = {}
        self.failed = ""
        self.broken = False

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        if self.order is not None:
            place = {name: number for number, name in enumerate(self.order)}
            items[:] = sorted((i for i in items if i.nodeid in place), key=lambda i: place[i.nodeid])

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_protocol(self, item: Any) -> Any:
        calls: set[str] = set()

        def called(frame: Any, _event: str, _argument: object) -> None:
            if frame.f_code.co_filename.startswith(self.root):
                calls.add(f"{frame.f_code.co_filename[len(self.root) :]}:{frame.f_code.co_qualname}")

        start = time.perf_counter()
        if self.trace:
            sys.settrace(called)
        yield
        if self.trace:
            sys.settrace(None)
        self.tests[item.nodeid] = Timed(time.perf_counter() - start, sorted(calls))

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.failed and not self.failed:
            self.failed = report.nodeid

    def pytest_collectreport(self, report: Any) -> None:
        if report.failed:
            self.failed, self.broken = self.failed or report.nodeid, True


def forked(root: Path, arguments: list[str], order: Sequence[str] | None, out: Path, *, trace: bool) -> None:
    """In a process of its own: run pytest in the tree and write what was seen."""
    os.setsid()
    os.chdir(root)
    sys.path.insert(0, str(root))
    log = os.open(out.with_suffix(".log"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    watch = Watch(root, order, trace=trace)
    code = pytest.main(
        ["-x", "-q", "-p", "no:cacheprovider", "--disable-warnings", *arguments], plugins=[watch]
    )
    seen = {"code": int(code), "failed": watch.failed, "broken": watch.broken, "tests": watch.tests}
    out.write_text(json.dumps(seen))
    sys.stdout.flush()
    os._exit(0)


def run_tests(
    root: Path, arguments: list[str], order: Sequence[str] | None = None, *, limit: float, trace: bool = False
) -> dict[str, Any] | None:
    """What a run of the tests saw; None where it took longer than `limit` seconds."""
    out = root.parent / "seen.json"
    out.unlink(missing_ok=True)
    process = multiprocessing.get_context("fork").Process(
        target=forked, args=(root, arguments, order, out), kwargs={"trace": trace}
    )
    process.start()
    process.join(limit)
    late = process.is_alive()
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid or 0, signal.SIGKILL)
    process.join()
    if late:
        return None
    crashed = {"code": process.exitcode, "failed": "the interpreter", "broken": False, "tests": {}}
    return json.loads(out.read_text()) if out.exists() else crashed
