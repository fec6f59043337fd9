"""The house is kept: no import circles, no upward imports, short files and functions, paragraphs."""

import ast
from functools import cache
from pathlib import Path

import pytest

import dsenv

pytestmark = pytest.mark.fast

FOLDER = Path(dsenv.__file__).parent
FILES = sorted(FOLDER.rglob("*.py"))
FLOORS = (
    (
        "catalogue",
        "describe",
        "errors",
        "files",
        "kinds",
        "plain",
        "rng",
        "scan",
        "states",
        "toml_files",
        "version",
    ),
    ("kernels", "outputs", "signals", "task_kinds", "tracking", "vision"),
    ("select", "volume", "augment", "tasks", "text"),
    ("control",),
    ("policy", "training"),
    ("plan", "env"),
    ("agents",),
    ("evaluation", "checks", "rehearsal", "integrations"),
    ("workbench",),
)
"""Packages and modules of dsenv from the ground up: a floor imports from those below and from its own."""


def name_of(path):
    """Module name of a file, without `dsenv.`; "" for the package itself."""
    return ".".join(path.relative_to(FOLDER).with_suffix("").parts).removesuffix("__init__").rstrip(".")


@cache
def tree_of(path):
    return ast.parse(path.read_text(encoding="utf-8"))


def imports_of(path):
    """Modules of dsenv that a file imports, inside functions and for the type checker too."""
    modules, found = {name_of(other) for other in FILES}, set()
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            named = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            named = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        else:
            continue
        inside = [name.removeprefix("dsenv").lstrip(".") for name in named if name.split(".")[0] == "dsenv"]
        # `from dsenv.env import config` names the package on the way to its module
        deepest = max((name for name in inside if name in modules), key=len, default=None)
        if deepest is not None:
            found.add(deepest)
    return found - {name_of(path)}


def circle(graph):
    """A list of modules that import each other in a circle; empty where there is none."""
    done, path = set(), []

    def visit(module):
        if module in path:
            return [*path[path.index(module) :], module]
        if module in done:
            return []
        path.append(module)
        found = next((f for f in map(visit, sorted(graph.get(module, ()))) if f), [])
        path.pop()
        done.add(module)
        return found

    return next((found for found in map(visit, sorted(graph)) if found), [])


def test_no_import_circles_imports_inside_functions_included():
    graph = {name_of(path): imports_of(path) for path in FILES}
    assert len(graph) > 100 and "signals" in graph["select.base"]
    assert circle(graph) == []
    assert circle({**graph, "errors": {"plan.data_plan"}})[0] in ("errors", "agents.base", "catalogue")


def test_no_floor_imports_from_one_above():
    floor = {name: number for number, names in enumerate(FLOORS) for name in names}
    upward = [
        f"{name_of(path)} -> {other}"
        for path in FILES
        for other in imports_of(path)
        if name_of(path) and other and floor[other.split(".")[0]] > floor[name_of(path).split(".")[0]]
    ]
    assert upward == []


LONGER = {"plan.data_plan": 650}  # all that a user of plans calls, in one class


def test_no_file_passes_400_lines():
    lines = {name_of(path): len(path.read_text("utf-8").splitlines()) for path in FILES}
    assert {name: count for name, count in lines.items() if count > LONGER.get(name, 400)} == {}


def functions():
    for path in FILES:
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield path, node


def test_at_most_one_function_in_a_hundred_passes_40_lines():
    lengths = {f"{name_of(p)}:{n.name}": n.end_lineno - n.lineno + 1 for p, n in functions()}
    long = {name: length for name, length in lengths.items() if length > 40}
    assert len(long) <= len(lengths) / 100, long


def test_long_bodies_have_paragraphs():
    bare = []
    counted = 0
    for path, node in functions():
        has_doc = ast.get_docstring(node) is not None
        body = node.body[1:] if has_doc else node.body
        if not body or node.end_lineno - body[0].lineno + 1 < 15:
            continue
        counted += 1
        lines = path.read_text("utf-8").splitlines()[body[0].lineno - 1 : node.end_lineno]
        if not any(not line.strip() or line.lstrip().startswith("#") for line in lines):
            bare.append(f"{name_of(path)}:{node.name}")
    assert len(bare) <= counted / 4, bare
