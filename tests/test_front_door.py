"""Every name of the front door is there, says what is nearest, and has an example that runs."""

import ast
import inspect
import re
import subprocess
import sys
import textwrap
from importlib.util import find_spec

import pytest

import dsenv

NAMES = [
    *["DataPlan", "Policy", "pretrained", "export", "load", "names", "TrainingEnv", "EnvConfig", "Task"],
    *["Recipe", "Selector", "Selection", "SampleSignals", "VolumeSchedule", "AugmentationController"],
    *["Reward", "StackedVecEnv", "EnvScalars", "check_selector", "check_schedule", "check_controller"],
    *["check_reward", "rehearse", "Guard"],
]


def example(thing):
    """The indented block after "Use::" in a docstring; None where there is none."""
    found = re.search(r"^Use::\n\n((?: {4}.*\n|\n)+)", f"{inspect.getdoc(thing)}\n", flags=re.MULTILINE)
    return textwrap.dedent(found[1]) if found else None


def run(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def test_dir_gives_the_names_for_use():
    assert dir(dsenv) == sorted(NAMES) == sorted(dsenv.__all__)
    for name in NAMES:
        assert callable(getattr(dsenv, name)), name


@pytest.mark.parametrize("name", sorted(NAMES))
def test_the_example_of_the_docstring_runs(name, tmp_path, monkeypatch, capsys):
    block = example(getattr(dsenv, name))
    assert block, f"the docstring of dsenv.{name} has no block after 'Use::'"
    assert name in block
    monkeypatch.chdir(tmp_path)
    exec(compile(block, f"example of dsenv.{name}", "exec"), {"__name__": "example"})


@pytest.mark.parametrize(
    ("wrong", "hint"),
    [
        ("DataPaln", ". Did you mean 'DataPlan'?"),
        ("check_selectors", ". Did you mean 'check_selector'?"),
        ("pretraind", ". Did you mean 'pretrained'?"),
        ("xyzzy", ""),
    ],
)
def test_a_wrong_name_names_the_nearest(wrong, hint):
    with pytest.raises(AttributeError) as caught:
        getattr(dsenv, wrong)
    assert str(caught.value) == f"module 'dsenv' has no attribute {wrong!r}{hint}"


def test_the_names_are_the_objects_of_their_modules():
    from dsenv import DataPlan
    from dsenv.agents.export import export
    from dsenv.plan.data_plan import DataPlan as Own

    assert DataPlan is Own and dsenv.export is export


def test_type_checkers_see_what_is_imported_lazily():
    tree = ast.parse(inspect.getsource(dsenv))
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    seen = {(alias.name, node.module) for node in block.body for alias in node.names}
    lazy = {(name, where.partition(":")[0]) for name, where in dsenv._LAZY.items()}
    assert seen == lazy and {name for name, _ in lazy} == set(NAMES) - {"load", "names"}


def test_no_name_is_taken_by_a_module():
    """Importing a module `dsenv.NAME` would put it in the place of the name."""
    assert not [name for name in NAMES if find_spec(f"dsenv.{name}")]


def test_pretrained_is_no_module_and_stays_callable():
    code = """
import dsenv
try:
    import dsenv.pretrained
except ModuleNotFoundError:
    print(dsenv.pretrained("curriculum"), dsenv.pretrained.names())
"""
    done = run(code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Policy(curriculum") and "'curriculum'" in done.stdout


def test_dir_and_a_wrong_name_load_nothing_heavy():
    code = "import sys, dsenv; dir(dsenv); hasattr(dsenv, 'DataPaln'); assert 'torch' not in sys.modules"
    done = run(code)
    assert done.returncode == 0, done.stderr
