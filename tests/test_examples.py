"""The scripts of docs/examples run, with budgets of seconds."""

import runpy
import socket
import sys
from pathlib import Path

import pytest
import torch

import dsenv

FOLDER = Path(__file__).resolve().parents[1] / "docs" / "examples"


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Run a script in a new folder; what it prints."""
    monkeypatch.chdir(tmp_path)

    def call(name, *arguments):
        monkeypatch.setattr(sys, "argv", [name, *arguments])
        with torch.random.fork_rng():
            runpy.run_path(str(FOLDER / name), run_name="__main__")
        return capsys.readouterr().out

    return call


def test_a_loop_with_a_rule_finds_wrong_labels(run, tmp_path):
    said = run("own_loop.py", "--epochs", "6")
    assert "3,900 samples trained on: {'selector': 'trim'}" in said
    assert float(said.splitlines()[-1].split("%")[0]) > 80
    assert list(tmp_path.glob("runs/own_loop/events.out.tfevents.*"))


def test_an_agent_is_trained_exported_and_evaluated(run, tmp_path):
    said = run("train_agent_and_export.py", "--steps", "96", "--replicas", "4")
    assert "mine.safetensors: Policy(curriculum, box, mlp" in said
    assert dsenv.Policy.load("mine.safetensors").card.trained["environment"] == "Tiny-Curriculum-v0"

    said = run("evaluate_policy.py", "--policy", "mine.safetensors", "--seeds", "1")
    assert "| **policy** | 50% |" in said and "| trim | 50% |" in said
    assert list(tmp_path.glob("runs/evaluate_policy/**/events.out.tfevents.*"))


@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch without torch.distributed")
def test_several_processes(run, monkeypatch):
    """One rank of one; `tests/plan/test_world.py` runs the same loop on two."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    told = {"RANK": 0, "WORLD_SIZE": 1, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    for name, value in told.items():
        monkeypatch.setenv(name, str(value))
    assert "on 1 ranks, 5,200 samples trained on in all" in run("ddp.py")


@pytest.mark.fast
def test_every_example_is_linked():
    text = (FOLDER.parent / "tutorial.md").read_text()
    names = sorted(path.name for path in FOLDER.glob("*.py"))
    assert len(names) == 4 and all(f"](examples/{name})" in text for name in names)
