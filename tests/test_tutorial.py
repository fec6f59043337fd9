"""The tutorial runs word for word, from top to bottom, its shell commands too."""

import glob
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from dsenv.workbench import main

ROOT = Path(__file__).resolve().parents[1]
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", (ROOT / "docs" / "tutorial.md").read_text(), flags=re.DOTALL)


def command(line):
    """Run a line of a shell: dsenv's script in this process, others by bash."""
    if line.startswith("python train_agent.py"):
        words = [sorted(glob.glob(word)) or [word] for word in shlex.split(line)[2:]]
        assert main([word for found in words for word in found]) == 0
        return ""
    return subprocess.run(["bash", "-euc", line], capture_output=True, text=True, check=True).stdout


@pytest.mark.slow
def test_every_block_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)  # stands for the checkout: runs go here
    names, listed = {"__name__": "tutorial"}, ""
    for number, (language, block) in enumerate(BLOCKS):
        if language == "python":
            exec(compile(block, f"docs/tutorial.md, block {number}", "exec"), names)
        elif not block.startswith(("pip install", "tensorboard")):  # is installed; a server
            listed += command(block.strip())

    assert "policy.safetensors" in listed and "evaluation.json" in listed
    assert "**ppo**" in capsys.readouterr().out
    assert names["easy"] > names["hard"] + 0.05
    assert list(tmp_path.glob("runs/tutorial/*/report.html"))
    assert list(tmp_path.rglob("events.out.tfevents.*"))
    assert names["mine"].cost.trained == names["half"].cost.trained == names["everything"].cost.trained // 2
    assert names["share"] > 0.75


@pytest.mark.fast
def test_blocks_are_of_kinds_that_run():
    assert {language for language, _ in BLOCKS} == {"python", "bash"}
    assert sum(language == "bash" for language, _ in BLOCKS) == 5
