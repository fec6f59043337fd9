"""Every speed benchmark runs, prints one table and writes its figures."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"
SCRIPTS = ("env_speed", "overhead", "pipeline", "time_to_accuracy")


def run(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(FOLDER.parent)}
    command = [sys.executable, str(FOLDER / f"{script}.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_quick_run_prints_one_table_and_writes_its_figures(script, tmp_path):
    done = run(script, "--quick", "--device", "cpu", "--json", str(tmp_path / "figures.json"))
    assert done.returncode == 0, done.stderr
    table = [line for line in done.stdout.splitlines() if line.startswith("|")]
    assert sum(set(line) <= set("|-") for line in table) == 1
    assert len({line.count("|") for line in table}) == 1, done.stdout
    assert "QUICK" in done.stdout.splitlines()[-1]
    written = json.loads((tmp_path / "figures.json").read_text())
    assert len(written["rows"]) == len(table) - 2
    assert {"date", "cpu", "cores", "device", "torch"} <= set(written["facts"])


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_says_what_is_measured(script):
    done = run(script, "--help")
    assert done.returncode == 0 and len(done.stdout.splitlines()) > 20
