"""Every speed benchmark runs, prints one table and writes its figures.

They run in this process, as scripts do, so that torch and SB3 are imported once.
"""

import importlib
import json
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from dsenv.tasks.models import small_cnn

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"
SCRIPTS = ("env_speed", "gpu_shares", "overhead", "pipeline", "suspects", "time_to_accuracy")


@pytest.fixture(autouse=True)
def on_the_path(monkeypatch):
    """The folder of the scripts comes first in the path, as when one of them is started."""
    monkeypatch.syspath_prepend(str(FOLDER))
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(FOLDER)):
            del sys.modules[name]


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_quick_run_prints_one_table_and_writes_its_figures(script, tmp_path, monkeypatch, capsys):
    figures = tmp_path / "figures.json"
    command = [f"{script}.py", "--quick", "--device", "cpu", "--json", str(figures)]
    if script == "env_speed":  # its processes import nothing anew; the CNN goes the way of the MLP
        command += ["--start-method", "fork", "--models", "MLP 64-64-10"]
    monkeypatch.setattr(sys, "argv", command)
    module = importlib.import_module(script)
    if script in ("overhead", "gpu_shares"):  # two steps of the large network would take longest of all
        monkeypatch.setattr(module, "resnet18", small_cnn)
    module.main()
    lines = capsys.readouterr().out.splitlines()
    table = [line for line in lines if line.startswith("|")]
    assert sum(set(line) <= set("|-") for line in table) == 1
    assert len({line.count("|") for line in table}) == 1, lines
    assert "QUICK" in lines[-1]
    written = json.loads(figures.read_text())
    assert len(written["rows"]) == len(table) - 2
    assert {"date", "cpu", "cores", "device", "torch"} <= set(written["facts"])


@pytest.mark.fast
def test_the_command_for_a_gpu_asks_for_what_there_is(monkeypatch, capsys):
    text = (FOLDER / "gpu.sh").read_text().replace("\\\n", " ")
    calls = re.findall(r"benchmarks/(\w+)\.py (.*)", text)
    assert len(calls) == 6
    for script, arguments in calls:
        monkeypatch.setattr(sys, "argv", [script, "--help"])
        with pytest.raises(SystemExit):
            runpy.run_path(str(FOLDER / f"{script}.py"), run_name="__main__")
        known = capsys.readouterr().out
        assert all(f"{option} " in known for option in re.findall(r"--[a-z-]+", arguments)), script


@pytest.mark.fast
@pytest.mark.parametrize("script", SCRIPTS)
def test_help_says_what_is_measured(script, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [f"{script}.py", "--help"])
    with pytest.raises(SystemExit) as stopped:
        runpy.run_path(str(FOLDER / f"{script}.py"), run_name="__main__")
    assert stopped.value.code == 0 and len(capsys.readouterr().out.splitlines()) > 20


def test_a_quick_fuzz_run_finds_nothing_wrong(tmp_path, capsys):
    module = importlib.import_module("fuzz")
    figures = tmp_path / "fuzz.json"
    assert module.main(["--quick", "--json", str(figures)]) == 0, capsys.readouterr().out
    found = json.loads(figures.read_text())["entry_points"]
    assert found.keys() == module.ENTRY_POINTS.keys()
    assert all(count["wrong"] == 0 and count["accepted"] + count["refused"] for count in found.values())


def test_a_case_can_be_drawn_again(capsys):
    module = importlib.import_module("fuzz")
    for _ in range(2):
        module.main(["--only", "plan lives", "--case", "3", "--seed", "1"])
    first, second = capsys.readouterr().out.split("\n", 1)
    assert first == second.strip()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="children are forked")
def test_killed_plans_end_as_those_that_nobody_killed(tmp_path):
    figures = tmp_path / "kills.json"
    script = [sys.executable, str(FOLDER / "plan_kills.py"), "--kills", "1", "--json", str(figures)]
    subprocess.run(script, check=True, timeout=120, env={**os.environ, "PYTHONPATH": str(FOLDER.parent)})
    found = json.loads(figures.read_text())
    assert found["kills"] >= 1 and found["equal"] == found["runs"] > 0
