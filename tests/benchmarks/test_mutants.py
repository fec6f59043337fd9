"""The mutation run: one mutation a test notices, one that none does, and a draw that outlives a move."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "mutants.py"
CODE = '''
"""Made up."""

LIMIT = 3


def low(value: int, least: int = 1) -> bool:
    """Whether a value is below the limit and above `least`."""
    return value < LIMIT and value > least


def never(value: int) -> int:
    """Called by no test."""
    return value + 1
'''
TESTS = """
from toy.numbers import low

def test_low():
    assert low(2)
    assert not low(3)
"""


@pytest.fixture
def tree(tmp_path):
    made = tmp_path / "tree"
    (made / "toy").mkdir(parents=True)
    (made / "tests").mkdir()
    (made / "toy" / "__init__.py").touch()
    (made / "toy" / "numbers.py").write_text(CODE)
    (made / "tests" / "test_toy.py").write_text(TESTS)
    return made


def call(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ)


def drawn(tree: Path) -> list[dict]:
    out = tree.parent / "draw.json"
    done = call("draw", "--count", 99, "--tree", tree, "--package", "toy=tests", "--out", out)
    assert done.returncode == 0, done.stderr
    return json.loads(out.read_text())


def results(tree: Path, *arguments: object) -> dict[str, dict]:
    """Results by the statement after the mutation."""
    out = tree.parent / "results.jsonl"
    call("run", tree.parent / "draw.json", "--tree", tree, "--out", out, *arguments)
    return {line["after"]: line for line in map(json.loads, out.read_text().splitlines())}


def test_what_tests_notice_is_killed_and_what_they_do_not_survives(tree):
    assert len(drawn(tree)) == len({str(entry["site"]) for entry in drawn(tree)}) == 8
    found = results(tree, "--package", "toy=tests")
    states = {after: result["state"] for after, result in found.items()}
    assert states == {
        "LIMIT = 4": "killed",
        "def low(value: int, least: int=2) -> bool:\n    ...": "killed",
        "return value < LIMIT or value > least": "killed",
        "return value <= LIMIT and value > least": "killed",
        "return value < LIMIT and value >= least": "survived",
        "return None": "killed",
        "return value - 1": "survived",
        "return value + 2": "survived",
    }
    assert found["return value <= LIMIT and value > least"]["test"] == "tests/test_toy.py::test_low"
    assert found["return value - 1"]["tests_run"] == 0
    assert (tree / "toy" / "numbers.py").read_text() == CODE


def test_a_draw_holds_after_a_move(tree):
    drawn(tree)
    (tree / "moved").mkdir()
    for path in (tree / "toy").iterdir():
        path.rename(tree / "moved" / path.name)
    (tree / "moved" / "numbers.py").write_text("import os\n\n" + CODE.replace("value + 1", "value + 5"))
    (tree / "tests" / "test_toy.py").write_text(TESTS.replace("toy.", "moved."))
    found = results(tree, "--package", "moved=tests")
    assert found["LIMIT = 4"]["state"] == "killed" and found["LIMIT = 4"]["file"] == "moved/numbers.py"
    assert found["return value - 1"]["state"] == "error"


def test_tests_that_fail_without_a_mutation_stop_the_run(tree):
    drawn(tree)
    (tree / "tests" / "test_toy.py").write_text(TESTS + "\ndef test_wrong():\n    assert False\n")
    assert results_of_failed_run(tree) == ""
    assert len(results(tree, "--package", "toy=tests", "--deselect", "tests/test_toy.py::test_wrong")) == 8


def results_of_failed_run(tree: Path) -> str:
    out = tree.parent / "refused.jsonl"
    done = call("run", tree.parent / "draw.json", "--tree", tree, "--out", out, "--package", "toy=tests")
    assert done.returncode == 1 and "test_wrong" in done.stderr
    return out.read_text() if out.exists() else ""


def test_every_mutation_of_a_statement_applies(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    from mutation import apply, sites

    source = "def f(a):\n    x = [a[1, 0], -a.min(), not a, ~a]  # é\n    a.y = {1: 'é', 2: a}\n    del x\n"
    made = [apply(source, site) for site in sites(source, "f.py")]
    expected = {
        "x = [a[2, 0], -a.min(), not a, ~a]",
        "x = [a[1, 1], -a.min(), not a, ~a]",
        "x = [a[0, 1], -a.min(), not a, ~a]",
        "x = [a[1, 0], -a.max(), not a, ~a]",
        "x = [a[1, 0], -a.min(), a, ~a]",
        "x = [a[1, 0], -a.min(), not a, a]",
        "x = [-a.min(), a[1, 0], not a, ~a]",
        "x = [a[1, 0], not a, -a.min(), ~a]",
        "x = [a[1, 0], -a.min(), ~a, not a]",
        "a.y = {2: 'é', 2: a}",
        "a.y = {1: 'é', 3: a}",
        "a.y = {1: a, 2: 'é'}",
        "pass",
    }
    original = ast.parse(source).body[0].body
    changed = [
        ast.unparse(now)
        for text in made
        for was, now in zip(original, ast.parse(text).body[0].body, strict=True)
        if ast.dump(was) != ast.dump(now)
    ]
    assert sorted(changed) == sorted(expected)


def test_compare_names_what_changed(tmp_path):
    result = {"id": 4, "package": "toy", "kind": "compare", "function": "low", "file": "toy/a.py", "line": 9}
    result |= {"before": "return a < 1", "after": "return a <= 1", "tests_run": 3}
    for name, state in (("before", "survived"), ("after", "killed")):
        (tmp_path / name).write_text(json.dumps(result | {"state": state}) + "\n")
    printed = call("compare", tmp_path / "before", tmp_path / "after").stdout
    assert (
        "| toy | 0 | 0 | 1 | 0 | 0 | 0 of 1 |" in printed
        and "| toy | 1 | 0 | 0 | 0 | 0 | 1 of 1 |" in printed
    )
    assert "survived -> killed 4: toy/a.py:9 low (compare)\n  - return a < 1\n  + return a <= 1" in printed
